"""Peak memory of a condensation step, all images at once and in two passes of a few at a time.

With ``condense.two_pass`` features are computed without a graph first, and the loss's gradient at them goes back
through extractor and generator a few images at a time (GLaD, arXiv 2305.01649, does so for the generator): the same
gradient, and a peak that does not grow with the images of a step. Every cell is a process of its own, without data::

    python benchmarks/memory.py --preset imagenet1k_64 --classes 8 32 --two-pass 0 128 32

On a CPU the peak is the whole process's, with torch; on a GPU it is the allocator's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from provenance import provenance
from settings import changes

from raycondense.artifact.sizes import format_bytes
from raycondense.config import Config
from raycondense.configfile import override
from raycondense.planning.dry_steps import measure
from raycondense.presets import get_preset
from raycondense.storage import write_text

# Untrained networks are as large as trained ones, and then a run has no other stage.
CONDENSATION_ALONE = {"extractors.weights": "random", "losses.ce": 0.0, "initialise.method": "none"}


def codes_of_class(config: Config) -> int:
    """Images that a class generates in a step, all banks together."""
    banks = [config.codebook.images_per_class(ipc) for ipc in config.codebook.ipc]
    return sum(min(config.condense.codes_per_step or bank, bank) for bank in banks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="imagenet1k_64")
    parser.add_argument("--classes", type=int, nargs="+", default=[8, 32], help="classes in a step")
    parser.add_argument(
        "--two-pass", type=int, nargs="+", default=[0, 128, 32], help="images at a time; 0 is all at once"
    )
    parser.add_argument("--set", nargs="*", default=[], metavar="PATH=VALUE", help="settings, values as YAML")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--report", type=Path, help="write the table to this Markdown file as well")
    options = parser.parse_args()
    base = override(get_preset(options.preset), {**changes(options.set), **CONDENSATION_ALONE})
    lines = ["| classes in a step | real images | generated | two_pass | peak | × all at once | seconds |",
             "|---:|---:|---:|---:|---:|---:|---:|"]  # fmt: skip
    for classes in options.classes:
        first = None
        for chunk in options.two_pass:
            config = override(base, {"condense.classes_per_step": classes, "condense.two_pass": chunk})
            found = measure(config, options.device)
            cells = ["more than there is", "", ""]
            if found is not None:
                first = first or found.peak_bytes
                ratio = found.peak_bytes / first
                cells = [format_bytes(found.peak_bytes), f"{ratio:.2f}", f"{found.seconds['condense']:.2f}"]
            counts = [classes, classes * base.condense.real_per_class, classes * codes_of_class(base)]
            lines.append(f"| {' | '.join([*map(str, counts), str(chunk or 'all at once'), *cells])} |")
            print(lines[-1], flush=True)
    text = "\n".join([
        f"Preset {options.preset}{' with ' + ', '.join(options.set) if options.set else ''}: {base.data.num_classes} "
        f"classes at {base.data.resolution} px.", "", *lines, *provenance(device=options.device),
    ])  # fmt: skip
    print(text)
    if options.report is not None:
        write_text(options.report, f"# Memory of a step\n\n{text}")


if __name__ == "__main__":
    main()
