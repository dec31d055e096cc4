"""How large a condensed dataset is as classes and pixels grow: one generator with codes, against pixels.

Nothing is trained: sizes follow from a configuration. All cells have the same generator (width at full resolution,
blocks, class embedding) and codes for banks of 1, 10 and 50 images per class::

    python benchmarks/sizes.py --report docs/results/sizes.md
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

from provenance import provenance

from raycondense.artifact.rounding import rounded_bytes
from raycondense.artifact.sizes import format_bytes, sizes_of
from raycondense.config import Config
from raycondense.configfile import override
from raycondense.storage import write_text

CLASSES = (10, 100, 200, 1000)
RESOLUTIONS = (32, 64, 128)
BANKS = (1, 10, 50)


def table(base: Config) -> list[str]:
    """A row for each number of classes and resolution."""
    heads = ["classes", "px", "generator", "codes of IPC 10", "IPC 10, float16"]
    heads += [f"pixels, IPC {ipc}" for ipc in BANKS] + [f"pixels / ours, IPC {ipc}" for ipc in BANKS]
    lines = [f"| {' | '.join(heads)} |", "|" + "---:|" * len(heads)]
    for classes, resolution in product(CLASSES, RESOLUTIONS):
        config = override(base, {"data.num_classes": classes, "data.resolution": resolution})
        found = sizes_of(config, ipc=10)
        pixels = [ipc * classes * 3 * resolution**2 for ipc in BANKS]
        ours = [rounded_bytes(config, "float16", ipc) for ipc in BANKS]
        cells = [
            f"{classes}", f"{resolution}", f"{found.generator_parameters / 1e6:.2f} M",
            f"{found.codebook_parameters / 1e6:.3f} M", format_bytes(ours[1]), *map(format_bytes, pixels),
            *(f"{theirs / own:.3g}" for theirs, own in zip(pixels, ours, strict=True)),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--max-width", type=int, default=256)
    parser.add_argument("--class-dim", type=int, default=64)
    parser.add_argument("--dim", type=int, default=64, help="numbers of a code")
    parser.add_argument("--factor", type=int, default=1, help="codebook.factor")
    parser.add_argument("--report", type=Path, help="write the table to this Markdown file as well")
    options = parser.parse_args()
    base = override(Config(), {
        "generator": {"width": options.width, "max_width": options.max_width, "class_dim": options.class_dim},
        "codebook": {"ipc": list(BANKS), "dim": options.dim, "factor": options.factor},
    })  # fmt: skip
    text = "\n".join([
        f"Generator of width {options.width} (at most {options.max_width} channels), class embedding of "
        f"{options.class_dim} numbers, codes of {options.dim}. *pixels*: uint8 images. *pixels / ours*: how many times "
        "more bytes the images take than the generator in float16 with the codes of the same bank; below 1 the images "
        "are smaller.", "", *table(base), *provenance(),
    ])  # fmt: skip
    print(text)
    if options.report is not None:
        write_text(options.report, f"# Size by classes and resolution\n\n{text}")


if __name__ == "__main__":
    main()
