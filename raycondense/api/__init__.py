"""What a notebook or a script calls, and what the command line stands on."""

from raycondense.api.claim import claim_folder
from raycondense.api.evaluating import evaluate, evaluate_many, recorded_protocol, write_report
from raycondense.api.fitting import FitResult, fit, resolve_config, resolve_for_data
from raycondense.api.planning import plan
from raycondense.api.sweeping import plan_sweep, sweep

__all__ = [
    "FitResult",
    "claim_folder",
    "evaluate",
    "evaluate_many",
    "fit",
    "plan",
    "plan_sweep",
    "recorded_protocol",
    "resolve_config",
    "resolve_for_data",
    "sweep",
    "write_report",
]
