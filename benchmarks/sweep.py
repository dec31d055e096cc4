"""What a sweep costs a trial beside its own training, and what the ways to lower it bring.

One machine, trials one after another, no winners; medians over all trials but the first, which is told apart::

    python benchmarks/sweep.py                                   # reused, fresh and apart, on a small digits
    python benchmarks/sweep.py --ways reused workers --trials 5 --images 128000 --out docs/results/sweep-overhead.md

Ways: ``reused`` is what trials of one worker do: the process of a trial is the next one's, with all that it imported.
``fresh`` starts a process for each trial. ``apart`` is ``reused`` where the search is about what comes before
condensation, so that no trial can begin where another came to (see ``Judge.start``). ``workers`` is a trial of two
workers, whose processes Ray Train starts anew each time.

Columns: ``trial`` from the end of one trial to the end of the next; ``judged`` of it the fast protocol's students, at
all rungs; ``trained`` the rest of what the trial itself does: the loop, its checkpoints, what it publishes; and
``machinery``, what is left: Ray, Tune, Optuna, starting processes. What a process imports while it trains for the first
time counts as ``trained``: compare the ways.

On two busy cores of an AMD EPYC (digits, 25,600 images a trial, ratios rather than seconds): a reused process takes
0.5 s of machinery and 2.0 s of training, a fresh one 4.4 s and 11.0 s, of which 9 s are imports and first calls; so of
a trial of a minute reuse saves a fifth, and leaves one percent. Beginning where another trial came to saves as much
again: with fresh processes the first trial trained for 22 s and the others, which found the start, for 11 s. A trial of
two workers costs 27 s of machinery (once, on a machine with other work beside it): many short trials want one worker
each. What is left is judging, three rungs of two students: 8.4 s since the lower ones take fewer steps (14 to 18 s
before), so that machinery and judging together are 15 % of a trial of a minute.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from provenance import provenance

WAYS = ("reused", "fresh", "apart", "workers")
HEADS = ("way", "trials", "trial", "trained", "judged", "machinery", "% of a minute", "first trial")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["reused", "fresh", "apart"])
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--images", type=int, default=25_600, help="real images of a trial")
    parser.add_argument("--data", type=Path, help="train.beton of digits, its -val beside it; else made")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        data = arguments.data or _digits(Path(folder))
        rows = [_measure(way, data, Path(folder) / way, arguments.trials, arguments.images) for way in arguments.ways]
    lines = [f"| {' | '.join(HEADS)} |", f"|{' --- |' * len(HEADS)}", *(f"| {' | '.join(row)} |" for row in rows)]
    text = "\n".join(lines)
    print(text)
    if arguments.out:
        from raycondense.storage import write_text

        write_text(arguments.out, "\n".join(["# Overhead of a sweep", "", "Seconds.", "", text, *provenance()]))


def _digits(folder: Path) -> Path:
    from raycondense.data.prepare import prepare

    prepare("digits", folder / "train.beton", resolution=8, split="train", val_fraction=0.1, workers=1)
    return folder / "train.beton"


def _measure(way: str, data: Path, out: Path, trials: int, images: int) -> tuple[str, ...]:
    """One sweep, on a Ray of its own."""
    import ray
    from ray import tune

    from raycondense.api.sweeping import plan_sweep
    from raycondense.cluster.sweep import run_sweep
    from raycondense.storage import read_lines
    from raycondense.tuning.records import SweepFolder
    from raycondense.tuning.space import Space

    parameters: dict[str, Any] = {"losses.intra": {"log": [0.05, 0.2]}}
    if way == "apart":
        parameters["initialise.lr"] = {"log": [1e-3, 4e-3]}
    workers = 2 if way == "workers" else 1
    plan = plan_sweep(
        Space.from_dict({"parameters": parameters}), "digits", data=data, out=out, trials=trials, winners=0, rungs=3,
        workers_per_trial=workers, concurrent=1, search="tpe", overrides={"condense.images": images},
    )  # fmt: skip
    # One rung's scheduler never stops a trial: all of them have to be whole to be compared.
    plan = dataclasses.replace(plan, folder=out.absolute())
    plan.folder.mkdir(parents=True)
    folder = SweepFolder(plan.folder)
    folder.claim(plan.to_dict())
    sockets = tempfile.mkdtemp(prefix="rb", dir="/tmp")
    ray.init(
        address="local", num_cpus=2, num_gpus=0, include_dashboard=workers > 1, log_to_driver=False,
        configure_logging=False, object_store_memory=150 * 1024**2, _temp_dir=sockets,
    )  # fmt: skip
    configured = tune.TuneConfig

    def config(**settings: Any) -> tune.TuneConfig:
        settings["scheduler"] = None
        if way == "fresh":
            settings["reuse_actors"] = False
        return configured(**settings)

    try:
        with patch("raycondense.cluster.sweep.tune.TuneConfig", config):
            run_sweep(plan, progress=False)
    finally:
        ray.shutdown()
        shutil.rmtree(sockets, ignore_errors=True)
    events = [json.loads(line) for line in read_lines(folder.events)]
    first = next(event["time"] for event in events if event["event"] == "start")
    ends = [event for event in events if event["event"] == "end"]
    if any(event["state"] != "complete" for event in ends):
        raise SystemExit(f"{way}: {ends}")
    spans = [now["time"] - before for now, before in zip(ends, [first, *(end["time"] for end in ends)], strict=False)]
    judged = [event["judge_seconds"] for event in ends]
    worked = [event["work_seconds"] for event in ends]
    rest = [span - work for span, work in zip(spans, worked, strict=True)]
    trained = [work - judge for work, judge in zip(worked, judged, strict=True)]

    def middle(of: list[float], text: Callable[[float], str] = "{:.2f}".format) -> str:
        return text(statistics.median(of[1:]))

    share = 100 * statistics.median(rest[1:]) / 60
    return (
        way, str(trials), middle(spans), middle(trained), middle(judged), middle(rest), f"{share:.1f}",
        f"{spans[0]:.1f}",
    )  # fmt: skip


if __name__ == "__main__":
    main()
