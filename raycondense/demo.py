"""`raycondense demo`: the whole way on real images that come with scikit-learn, in a few minutes on two cores."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from raycondense import api
from raycondense.data.cpus import usable_cpus
from raycondense.data.prepare import prepare
from raycondense.display import Display
from raycondense.presets import get_preset

SPLITS = {"train": 0.1, "test": 0.0}  # with the share that is cut off for validation


def run(out: Path) -> Path:
    """Prepare digits, condense them with Ray Train, evaluate, write the report; what is done already is kept.

    Returns:
        The report's path.
    """
    betons = {split: out / "data" / f"{split}.beton" for split in SPLITS}
    for split, val_fraction in SPLITS.items():
        beton = betons[split]
        if not beton.exists():
            with Display() as display:
                count = partial(display.count, f"prepare {split}")
                prepare("digits", beton, resolution=8, split=split, val_fraction=val_fraction, progress=count)
    config = get_preset("digits")
    print(f"1. {betons['train']}: real images, prepared")
    result = api.fit(config, data=betons["train"], out=out / "run")
    artifact = result.artifact
    print(f"2. {result.artifact_path}: {artifact.num_parameters:,} parameters, by {config.cluster.workers} workers")
    evaluation = api.evaluate(
        result.artifact_path, betons["test"], train_data=betons["train"], workers=usable_cpus(),
        store=out / "leaderboard",
    )  # fmt: skip
    print(f"3. {evaluation.config.students} students a row, scored on the test split:\n")
    print(evaluation.table())
    report = api.write_report(
        result.folder, store=out / "leaderboard", train_data=betons["train"], out=out / "report.html"
    )  # fmt: skip
    print(f"\n4. {report}: pictures, loss curves and the table")
    print(f"   {result.artifact_path / 'preview.png'}: the contact sheet")
    return report
