"""What a study keeps of CMA-ES is read without running anything that somebody else put there."""

import os
import pickle
import warnings
from contextlib import nullcontext

import optuna
import pytest

from raycondense.cluster.cma import CarefulCmaEsSampler
from raycondense.errors import RunError


def ask(study: optuna.Study, trials: int, sampler: type = CarefulCmaEsSampler) -> list[float]:
    """Values of ``trials`` more trials, each asked of a sampler of its own, as `raycondense.cluster.search` does."""
    found = []
    for _ in range(trials):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.sampler = sampler(seed=len(study.trials), warn_independent_sampling=False)
        trial = study.ask()
        x, y = trial.suggest_float("x", -1, 1), trial.suggest_float("y", -1, 1)
        study.tell(trial, x * x + y * y)
        found += [x, y]
    return found


class Payload:
    """Unpickled with `pickle.loads` it makes a folder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_it_searches_as_optuna_does():
    assert ask(optuna.create_study(), 30) == ask(optuna.create_study(), 30, optuna.samplers.CmaEsSampler)


# The second shows that the first is not in vain.
@pytest.mark.parametrize(("sampler", "runs"), [(CarefulCmaEsSampler, False), (optuna.samplers.CmaEsSampler, True)])
def test_a_study_of_a_stranger_runs_no_code(tmp_path, sampler, runs):
    study = optuna.create_study()
    ask(study, 12)
    keys = {key for trial in study.trials for key in trial.system_attrs if "optimizer" in key}
    assert keys, "Optuna keeps its state under another name: look at CarefulCmaEsSampler again"
    evil = pickle.dumps(Payload(str(tmp_path / "ran"))).hex()
    space = dict.fromkeys(("x", "y"), optuna.distributions.FloatDistribution(-1, 1))
    planted = {key: evil if key.endswith(":0") else "" for key in keys}
    study.add_trial(
        optuna.trial.create_trial(params={"x": 0.1, "y": 0.1}, distributions=space, value=0.0, system_attrs=planted)
    )
    with nullcontext() if runs else pytest.raises(RunError, match="is no part of CMA-ES"):
        ask(study, 1, sampler)
    assert (tmp_path / "ran").exists() == runs
