"""The only room that knows Ray: the host of a Ray Train worker, and the trainer around the loop."""

import os

# Ray reads these when it is imported or started: set before any module in here imports it. What the user set stays.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
