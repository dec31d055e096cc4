"""`evaluate` and `write_report`: what an artefact is worth, as numbers and as a page."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raycondense.config import EvaluationConfig
from raycondense.configfile import config_from_dict
from raycondense.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from raycondense.artifact.load import Artifact
    from raycondense.evaluation.result import Evaluation


def evaluate(
    artifact: str | Path | Artifact,
    data: str | Path,
    *,
    config: EvaluationConfig | None = None,
    ipc: Sequence[int] | None = None,
    train_data: str | Path | None = None,
    device: str | None = None,
    workers: int = 1,
    gpus_per_worker: float | None = None,
    store: str | Path | None = None,
    progress: bool = True,
    save: bool = True,
) -> Evaluation:
    """Train students on an artefact's banks and on the baselines and score them on the test split.

    Args:
        artifact: its folder, ``hf-hub:user/name``, or the loaded artefact.
        data: beton of the test split: a path, or a URI (``s3://…``), which is staged on this machine.
        config: the protocol; None takes the artefact's own.
        ipc: banks, in images per class; None takes all.
        train_data: beton of the training images, for the baselines, likewise; None looks for the one that the artefact
            was made from beside ``data`` and among those that are staged here.
        device: where students train; None takes CUDA where there is one.
        workers: 1 trains students one after another in this process; more are as many Ray actors, here or in the
            cluster that RAY_ADDRESS names. On a cluster all paths have to be the same on every node.
        gpus_per_worker: share of a GPU that an actor takes; None divides this machine's GPUs among the workers where
            ``device`` is CUDA.
        store: folder of results: what is in it is not done again, what is found is added, and
            ``raycondense leaderboard`` reads it. None keeps nothing there.
        progress: draw progress on standard error.
        save: also keep the result in the artefact's ``scores.json``.

    Returns:
        The rows; where some students failed twice, the others, and `Evaluation.failures`.

    Raises:
        ConfigError, DataError, ArtifactError, RunError: see `raycondense.evaluation.run.evaluate`.
        KeyboardInterrupt: Ctrl-C; what was done is in the store and the same call goes on.
    """
    return evaluate_many(
        [artifact], data, config=config, ipc=ipc, train_data=train_data, device=device, workers=workers,
        gpus_per_worker=gpus_per_worker, store=store, progress=progress, save=save,
    )[0]  # fmt: skip


def evaluate_many(
    artifacts: Sequence[str | Path | Artifact],
    data: str | Path,
    *,
    config: EvaluationConfig | None = None,
    ipc: Sequence[int] | None = None,
    train_data: str | Path | None = None,
    device: str | None = None,
    workers: int = 1,
    gpus_per_worker: float | None = None,
    store: str | Path | None = None,
    progress: bool = True,
    save: bool = True,
) -> list[Evaluation]:
    """`evaluate` of several artefacts of one dataset by one pool: what they share, such as baselines, is done once.

    Arguments, results and errors are those of `evaluate`.
    """
    import torch

    from raycondense.artifact.load import Artifact, load
    from raycondense.data.staging import BetonLocation
    from raycondense.display import Display
    from raycondense.evaluation import run
    from raycondense.evaluation.carry_out import Runner
    from raycondense.evaluation.queue import Outcome, run_here
    from raycondense.evaluation.scores import save_scores, scores_to_add_to
    from raycondense.evaluation.store import Store
    from raycondense.remote import is_uri

    loaded = [artifact if isinstance(artifact, Artifact) else load(artifact) for artifact in artifacts]
    for artifact in loaded if save else []:
        scores_to_add_to(artifact)  # a damaged file is to be known before hours of training, not after them
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    runner: Runner = run_here
    if workers > 1:
        from raycondense.cluster.evaluation import run_on_actors

        if gpus_per_worker is None:
            gpus_per_worker = min(1.0, torch.cuda.device_count() / workers) if device.startswith("cuda") else 0.0
        runner = functools.partial(run_on_actors, workers=workers, gpus_per_worker=gpus_per_worker)
    elif workers < 1:
        raise ConfigError(f"workers: found {workers}, valid: 1 or more")
    with Display(progress) as display:

        def draw(done: int, total: int, outcome: Outcome) -> None:
            accuracies = [row["accuracy"] for row in outcome.rows if "accuracy" in row]
            found = f" {100 * accuracies[-1]:.1f} %" if accuracies else " failed" if outcome.error else ""
            display.count("evaluate", done, total, f"{outcome.label}{found}")

        def on_this_machine(beton: str | Path) -> Path:
            if not is_uri(beton):
                return Path(beton)
            return BetonLocation.find(beton).stage("", functools.partial(display.count, "stage"))

        test, train = on_this_machine(data), None if train_data is None else on_this_machine(train_data)
        results = run.evaluate_many(
            loaded, test, config=config, ipc=ipc, train_data=train, device=device,
            store=None if store is None else Store(Path(store).absolute()), runner=runner, progress=draw,
        )  # fmt: skip
    for artifact, result in zip(loaded, results, strict=True):
        if save and artifact.path is not None:
            save_scores(artifact.path, result)
    return results


def write_report(
    run_folder: str | Path,
    *,
    store: str | Path | None = None,
    train_data: str | Path | None = None,
    out: str | Path | None = None,
) -> Path:
    """Write ``report.html`` of a run, one file that opens without a network, and return where it is.

    Args:
        run_folder: folder of a run, finished or not, or an artefact's own; or of a sweep, whose page is ``sweep.html``.
        store: folder of results of its evaluation: the reference network in it gives the features in which neighbours
            and the plane are shown. None, or where it holds none, takes an untrained network's.
        train_data: beton of the training images; None looks where the run says.
        out: where to write; by default the page in ``run_folder``.

    Raises:
        ConfigError: a sweep's description is damaged.
        RunError, ArtifactError, DataError: see `raycondense.report.html.write_report`.
    """
    from raycondense.artifact.load import load
    from raycondense.data.sidecar import Sidecar
    from raycondense.evaluation.baselines import find_train_data
    from raycondense.evaluation.reference import reference_of
    from raycondense.evaluation.scores import saved_scores
    from raycondense.evaluation.store import Store
    from raycondense.report.html import write_report as write

    folder, embed = Path(run_folder), None
    if (folder / "sweep.json").is_file():
        from raycondense.report.sweep import write_sweep_report

        return write_sweep_report(folder, out)
    place = next((p for p in (folder, folder / "artifact") if (p / "recipe.json").is_file()), None)
    if place is not None and store is not None:
        artifact = load(place)
        evaluation, train = saved_scores(artifact), train_data or find_train_data(artifact)
        if evaluation is not None and train is not None:
            known = Store(Path(store).absolute())
            reference = reference_of(artifact, evaluation.config, train, Sidecar.load(train), "cpu")
            embed = reference.embed(known) if reference.is_trained(known) else None
    return write(folder, train_data=train_data, out=out, embed=embed)


def recorded_protocol(artifact: str | Path) -> EvaluationConfig:
    """The evaluation protocol in an artefact's recipe.

    Raises:
        ArtifactError: the artefact is missing or damaged.
    """
    from raycondense.artifact.load import load

    config = load(artifact).recipe.get("config")
    if config is None:
        raise ArtifactError(f"{artifact}: its recipe holds no configuration, and so no protocol; name one")
    return config_from_dict(config, source=f"{artifact}/recipe.json").evaluation
