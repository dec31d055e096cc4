"""``README.md`` of an artefact: a card with YAML front matter. Its accuracies come from ``scores.json`` alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raycondense.artifact.load import Artifact
from raycondense.artifact.sizes import format_bytes

PAPER = "2309.07698"
MOST_CLASS_NAMES = 20


def make_card(artifact: Artifact) -> str:
    """The card of ``artifact`` as Markdown; its recipe and scores are told."""
    return "\n".join(
        [
            _front_matter(),
            f"# {_plain(_preset(artifact))}, {'before condensation' if _is_initial(artifact) else 'condensed'}",
            "",
            f"{_kind(artifact)}: a generator of {artifact.num_classes} classes at {artifact.resolution} px and "
            f"learned codes, {format_bytes(artifact.bytes)} together, made with raycondense.",
            "",
            f"This is a **reconstruction** of the method of *{_TITLE}* "
            f"([arXiv {PAPER}](https://arxiv.org/abs/{PAPER})) from its public abstract and secondary sources. "
            "It is not the authors' code, and no number here is theirs.",
            "",
            "![one row of images for each class](preview.png)",
            "",
            *_usage(artifact),
            *_scores(artifact.scores),
            *_size_table(artifact),
            *_origin(artifact),
        ]
    )


_TITLE = "Dataset Condensation via Generative Model"


def _is_initial(artifact: Artifact) -> bool:
    return artifact.recipe.get("state") == "initial"


def _kind(artifact: Artifact) -> str:
    """What the artefact is, in the card's first words."""
    if _is_initial(artifact):
        return "What a condensation started from, kept to measure by what it gained"
    return "A condensed dataset"


def _preset(artifact: Artifact) -> str:
    """Name of the preset that the run started from."""
    return str((artifact.recipe.get("config") or {}).get("name", "a dataset"))


def _front_matter() -> str:
    # Plain constants, so that no name of a user's dataset can break the YAML.
    return "\n".join(
        [
            "---",
            "library_name: raycondense",
            "pipeline_tag: unconditional-image-generation",
            "tags:",
            "- dataset-condensation",
            "- dataset-distillation",
            f"- arxiv:{PAPER}",
            "---",
            "",
        ]
    )


def _usage(artifact: Artifact) -> list[str]:
    ipc = artifact.ipcs[-1]
    images = artifact.config.codebook.images_per_class(ipc)
    return [
        "## Use",
        "",
        "Needs `torch`, `torchvision` (for this student) and `pip install raycondense`.",
        "",
        "```python",
        "import raycondense, torch, torchvision",
        f'bank = raycondense.load("path/to/this/folder").bank({ipc})  # {images} images a class, standardised tensors',
        "student = torchvision.models.resnet18(num_classes=bank.num_classes)",
        "optimizer = torch.optim.AdamW(student.parameters())",
        "for epoch in range(100):",
        "    for images, labels in torch.utils.data.DataLoader(bank, batch_size=64, shuffle=True):",
        "        optimizer.zero_grad()",
        "        torch.nn.functional.cross_entropy(student(images), labels).backward()",
        "        optimizer.step()",
        "```",
        "",
        "Test images have to be standardised in the same way, with `bank.mean` and `bank.std` of images / 255.",
        "",
    ]


def _scores(scores: Mapping[str, Any]) -> list[str]:
    rows = scores.get("rows")
    if not isinstance(rows, list) or not rows:
        return ["## Accuracy", "", "Not evaluated yet: `raycondense evaluate` fills `scores.json` and this table.", ""]
    test = scores.get("test") or {}
    lines = [
        "## Accuracy",
        "",
        f"Top-1 accuracy of students trained on the images and scored on the {_plain(test.get('split', '?'))} split of "
        f"{_plain(test.get('source', '?'))}, mean ± standard deviation over students. From `scores.json`.",
        "",
        "| images from | student | images per class | accuracy % | students | accounting |",
        "|---|---|---:|---:|---:|---|",
    ]
    for row in rows:
        spread = "" if row.get("std") is None else f" ± {100 * row['std']:.1f}"
        counted = row.get("accounting", "?")
        counted += ", soft labels" if row.get("labels") == "soft" else ""
        counted += "" if row.get("augmented", True) else ", no augmentation"
        cells = (
            row.get("method", "?"), row.get("architecture", "?"), row.get("ipc") or "all",
            f"{100 * row['accuracy']:.1f}{spread}", row.get("students", "?"), counted,
        )  # fmt: skip
        lines.append("| " + " | ".join(_plain(cell) for cell in cells) + " |")
    return [*lines, ""]


def _size_table(artifact: Artifact) -> list[str]:
    lines = [
        "## Size",
        "",
        "One image per class (IPC) is classes x 3 x side² values. *IPC in floats* counts one float a value, as the "
        "literature does; *IPC in bytes* counts one byte a value, as uint8 images on a disk.",
        "",
        "| codes of | parameters | bytes | IPC in floats | IPC in bytes |",
        "|---|---:|---:|---:|---:|",
    ]
    for ipc in (*artifact.ipcs, None):
        size = artifact.sizes(ipc)
        label = "all banks" if ipc is None else f"the bank of {ipc} images per class"
        lines.append(
            f"| {label} | {size.parameters:,} | {format_bytes(size.bytes)} | {size.ipc_equivalent:.3g} "
            f"| {size.ipc_equivalent_uint8:.3g} |"
        )
    return [*lines, ""]


def _origin(artifact: Artifact) -> list[str]:
    recipe = artifact.recipe
    data, found = recipe.get("data") or {}, recipe.get("versions") or {}
    names = ", ".join(map(_plain, artifact.classes[:MOST_CLASS_NAMES]))
    more = f" and {artifact.num_classes - MOST_CLASS_NAMES} more" if artifact.num_classes > MOST_CLASS_NAMES else ""
    counts = data.get("counts")
    images = f"{sum(counts):,} images" if isinstance(counts, list) else "an unknown number of images"
    versions = ", ".join(f"{_plain(k)} {_plain(v)}" for k, v in found.items() if v is not None)
    return [
        "## How it was made",
        "",
        f"- Data: {images} of the {_plain(data.get('split', '?'))} split of {_plain(data.get('source', '?'))}, beton "
        f"SHA-256 `{_plain(data.get('sha256', '?'))}`.",
        f"- Classes: {names}{more}.",
        f"- Configuration, seeds and versions: `recipe.json` (preset {_plain(_preset(artifact))}; "
        f"{versions or 'versions unknown'}; revision {_plain(recipe.get('git_revision') or 'unknown')}).",
        "",
        "## Limits",
        "",
        "Images are optimised for training classifiers, not for looking at. They inherit the biases of the data, may "
        "resemble single images of it closely, and are bound by its licence: see the source's terms before publishing.",
        "",
    ]


def _plain(value: object) -> str:
    """Text that stays text in a Markdown table or line, whatever a dataset's author called things."""
    text = " ".join(str(value).split())
    for sign in "\\`*_[]<>|#":
        text = text.replace(sign, "\\" + sign)
    return text
