"""Does a search find better settings than the preset has, and than random search finds with as many trials?

Sweeps of one space with several seeds and searches, each with its own preset trial (the seed is also the trials'), so
that all comparisons are paired. What a sweep chose by validation images is then scored once on test images by the
preset's own protocol, beside the preset's values under the same seed and random real images. Stopped at any time, the
same command goes on::

    raycondense prepare digits digits/train.beton --val-fraction 0.3
    raycondense prepare digits digits/test.beton --split test
    python benchmarks/sweep_study.py --preset digits --data digits/train.beton --test-data digits/test.beton \\
        --out runs/study --rungs 1 --set "codebook.ipc=[2]" --report docs/results/sweep-digits.md

The table: medians over the repetitions, in percent. ``chosen`` is the best validation accuracy, ``preset`` that of the
first trial; ``test`` the test accuracy of what was chosen, ``gain`` the median of its differences to the preset's;
``better`` in how many repetitions it was above the preset's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

from provenance import provenance
from settings import changes

BINS = ((0.001, 0.01), (0.01, 0.1), (0.1, 1.0), (1.0, 10.0), (10.0, 100.0))
HEADS = ("search", "sweeps", "trials", "complete", "preset", "chosen", "preset test", "test", "gain", "better")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", type=Path, default=Path("tune_spaces/loss_weights.yaml"))
    parser.add_argument("--preset", default="digits")
    parser.add_argument("--data", type=Path, required=True, help="train beton, its -val beside it")
    parser.add_argument("--test-data", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--searches", nargs="+", default=["tpe", "random"])
    parser.add_argument("--rungs", type=int, default=3)
    parser.add_argument("--students", type=int, default=2, help="that judge a trial")
    parser.add_argument("--set", nargs="*", default=[], metavar="PATH=VALUE", help="settings, values as YAML")
    parser.add_argument("--cpus", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, required=True, help="folder of the sweeps")
    parser.add_argument("--report", type=Path, help="Markdown file to write, its figure beside it")
    arguments = parser.parse_args()
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    overrides = changes(arguments.set)
    sockets = tempfile.mkdtemp(prefix="rb", dir="/tmp")
    import ray

    ray.init(
        address="local", num_cpus=arguments.cpus, num_gpus=0, include_dashboard=False, log_to_driver=False,
        configure_logging=False, object_store_memory=150 * 1024**2, _temp_dir=sockets,
    )  # fmt: skip
    try:
        for seed in range(arguments.repetitions):
            for search in arguments.searches:
                _sweep(arguments, search, seed, overrides)
                print(_table(arguments), flush=True)
    finally:
        ray.shutdown()
        shutil.rmtree(sockets, ignore_errors=True)
    if arguments.report:
        _write(arguments)


def _write(arguments: argparse.Namespace) -> None:
    """The Markdown file, and the figure beside it."""
    from raycondense.storage import write_text

    picture = arguments.report.with_suffix(".svg")
    _figure(arguments, picture)
    parts = [
        f"# A study of sweeps: {arguments.preset}, {arguments.space.stem}",
        _table(arguments), _weights(arguments), _importances(arguments),
        f"![Best validation accuracy by number of trials, and accuracy by weight]({picture.name})",
    ]  # fmt: skip
    write_text(arguments.report, "\n\n".join(parts) + "\n" + "\n".join(provenance("One thread a trial.")))


def _results(arguments: argparse.Namespace, search: str) -> list[Any]:
    from raycondense.tuning.result import SweepResult

    folders = [_folder(arguments, search, seed) for seed in range(arguments.repetitions)]
    return [SweepResult(folder) for folder in folders if (folder / "sweep.json").is_file()]


def _against_preset(arguments: argparse.Namespace, searches: list[str]) -> list[tuple[dict[str, Any], float]]:
    """Values of all trials and their accuracy at the lowest rung, which all reach, less that of the first trial."""
    return [
        (dict(trial.values), trial.rungs[0][1] - result.trials[0].rungs[0][1])
        for search in searches for result in _results(arguments, search) for trial in result.trials[1:]
        if trial.rungs
    ]  # fmt: skip


def _weights(arguments: argparse.Namespace) -> str:
    """Difference to the preset by the size of each number: of the random searches, where there are any."""
    searches = ["random"] if "random" in arguments.searches else arguments.searches
    points = _against_preset(arguments, searches)
    if not points:
        return ""
    names = [name for name in points[0][0] if isinstance(points[0][0][name], float)]
    lines = [
        f"Trials of the search {searches[0]} by the value of each parameter: median difference of validation accuracy "
        "at the lowest rung to the preset's own trial of the same sweep, in points (quartiles), number of trials.", "",
        f"| parameter | off | {' | '.join(f'{low:g} to {high:g}' for low, high in BINS)} |",
        f"|{' --- |' * (2 + len(BINS))}",
    ]  # fmt: skip
    for name in names:
        cells = []
        for inside in (lambda v: v == 0, *((lambda v, a=a, b=b: a <= v < b) for a, b in BINS)):
            found = [100 * gain for values, gain in points if name in values and inside(values[name])]
            if len(found) < 3:
                cells.append("–")
                continue
            low, middle, high = statistics.quantiles(found, n=4, method="inclusive")
            cells.append(f"{middle:+.2f} ({low:+.2f} … {high:+.2f}), {len(found)}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _importances(arguments: argparse.Namespace) -> str:
    from raycondense.report.importance import fit_forest
    from raycondense.tuning.space import Space

    results = [result for search in arguments.searches for result in _results(arguments, search)]
    if not results:
        return ""
    points = _against_preset(arguments, arguments.searches)
    space = Space.from_dict(results[0].records.describe()["space"])
    forest = fit_forest(space.parameters, [values for values, _ in points], [gain for _, gain in points])
    if forest is None:
        return "Importances: too few trials."
    shares = sorted(forest.importances().items(), key=lambda pair: -pair[1])
    told = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares)
    return (
        f"Importances (fANOVA on a forest of {forest.trials} trials of all sweeps at the lowest rung, which foretells "
        f"{forest.fit:.2f} of the variance of trials it has not seen): {told}; the rest comes from several together."
    )


def _figure(arguments: argparse.Namespace, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    points = _against_preset(arguments, arguments.searches)
    names = [name for name in points[0][0] if isinstance(points[0][0][name], float)]
    figure, (first, *others) = pyplot.subplots(1, 1 + len(names), figsize=(3.4 * (1 + len(names)), 3), sharey=False)
    for search in arguments.searches:
        curves = []
        for result in _results(arguments, search):
            base, best, curve = result.trials[0].accuracy or 0.0, -1.0, []
            for trial in result.trials:
                if trial.state == "complete":
                    best = max(best, 100 * ((trial.accuracy or 0.0) - base))
                curve.append(best)
            curves.append(curve)
        length = min(map(len, curves))
        middle = [statistics.median(curve[i] for curve in curves) for i in range(length)]
        (line,) = first.step(range(1, length + 1), middle, where="post", label=search)
        low, high = ([pick(curve[i] for curve in curves) for i in range(length)] for pick in (min, max))
        first.fill_between(range(1, length + 1), low, high, step="post", alpha=0.15, color=line.get_color())
    first.axhline(0, color="grey", linewidth=0.8)
    first.set_xlabel("trials")
    first.set_ylabel("best so far less the preset (points, validation)", fontsize=8)
    first.legend(fontsize=8, frameon=False)
    for axes, name in zip(others, names, strict=True):
        on = [(values[name], 100 * gain) for values, gain in points if values.get(name)]
        off = [100 * gain for values, gain in points if values.get(name) == 0]
        axes.plot([x for x, _ in on], [y for _, y in on], ".", markersize=4, alpha=0.6)
        axes.set_xscale("log")
        if off and on:
            axes.plot([min(x for x, _ in on) / 3] * len(off), off, "x", markersize=4, alpha=0.6, label="off")
            axes.legend(fontsize=8, frameon=False)
        axes.axhline(0, color="grey", linewidth=0.8)
        axes.set_xlabel(name)
    for axes in (first, *others):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def _folder(arguments: argparse.Namespace, search: str, seed: int) -> Path:
    return Path(arguments.out) / f"{search}-{seed}"


def _sweep(arguments: argparse.Namespace, search: Any, seed: int, overrides: dict[str, Any]) -> None:
    """One sweep, and the test accuracy of its best trial, its first trial and random images."""
    import raycondense
    from raycondense.api.evaluating import evaluate_many

    folder = _folder(arguments, search, seed)
    result = raycondense.sweep(
        arguments.space, arguments.preset, data=arguments.data, trials=arguments.trials, out=folder, search=search,
        rungs=arguments.rungs, winners=0, students=arguments.students, progress=False, seed=seed, **overrides,
    )  # fmt: skip
    first, best = result.trials[0], result.best
    chosen = [first] if best.number == first.number else [first, best]
    evaluate_many(
        [trial.artifact for trial in chosen if trial.artifact], arguments.test_data, store=folder / "store",
        train_data=arguments.data, workers=arguments.cpus, progress=False,
    )  # fmt: skip


def _middle(found: list[dict[str, float]], name: str) -> str:
    return f"{100 * statistics.median(row[name] for row in found):.1f}"


def _tested(trial: Any) -> float | None:
    """Accuracy on test images of a trial's artefact; None where it was not evaluated."""
    from raycondense.artifact.load import load
    from raycondense.evaluation.scores import saved_scores

    scores = saved_scores(load(trial.artifact))
    rows = [] if scores is None else [row for row in scores.rows if row.method == "raycondense"]
    return rows[-1].accuracy if rows else None


def _table(arguments: argparse.Namespace) -> str:
    lines = [f"| {' | '.join(HEADS)} |", f"|{' --- |' * len(HEADS)}"]
    for search in arguments.searches:
        found: list[dict[str, float]] = []
        for result in _results(arguments, search):
            first, best = result.trials[0], result.best
            before, after = _tested(first), _tested(best)
            if before is None or after is None or len(result.trials) < arguments.trials:
                continue
            found.append({
                "preset": first.accuracy or 0.0, "chosen": best.accuracy or 0.0, "before": before, "after": after,
                "complete": sum(trial.state == "complete" for trial in result.trials),
            })  # fmt: skip
        if not found:
            continue

        gains = [row["after"] - row["before"] for row in found]
        lines.append(
            f"| {search} | {len(found)} | {arguments.trials} | {statistics.median(r['complete'] for r in found):g} | "
            f"{' | '.join(_middle(found, name) for name in ('preset', 'chosen', 'before', 'after'))} | "
            f"{100 * statistics.median(gains):+.1f} ({100 * min(gains):+.1f} … {100 * max(gains):+.1f}) | "
            f"{sum(gain > 0 for gain in gains)} of {len(gains)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
