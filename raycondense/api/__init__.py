"""What a notebook or a script calls, and what the command line stands on."""

from raycondense.api.evaluating import evaluate, evaluate_many, recorded_protocol, write_report
from raycondense.api.fitting import FitResult, claim_folder, fit, resolve_config, resolve_for_data

__all__ = [
    "FitResult",
    "claim_folder",
    "evaluate",
    "evaluate_many",
    "fit",
    "recorded_protocol",
    "resolve_config",
    "resolve_for_data",
    "write_report",
]
