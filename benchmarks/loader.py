"""How fast real images come: class-grouped FFCV, plain FFCV, the resident loader and torchvision's DataLoader.

One run, the same images, as many decoding threads or processes for each, several repetitions taken in turn, medians::

    python benchmarks/loader.py                          # made-up images that compress like photographs
    python benchmarks/loader.py --source folder/train    # an ImageFolder of your own
    python benchmarks/loader.py --out docs/results/loader.md

Setting-up, compiling and starting processes are not counted, nor what a loader prepared while others were measured.
Every loader hands over uint8 images. FFCV's batches have the size of a class-grouped step, the DataLoader's have 128
images; it decodes and resizes with Pillow. All files are in the page cache.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from guard import Row, keep
from provenance import provenance

from raycondense.data.class_plan import ClassPlan
from raycondense.data.cpus import usable_cpus
from raycondense.data.decode import decode_image, encode_jpeg
from raycondense.data.open import Loader, class_batches_type
from raycondense.data.sidecar import Sidecar
from raycondense.errors import RaycondenseError
from raycondense.testing.betons import photo_like, write_samples

Batches = Generator[int, None, None]
UNIQUE_SYNTHETIC = 1000
PLAIN_EPOCH = 100_000  # images; a short set's ends of epochs would slow plain FFCV down
DATALOADER_BATCH = 128
QUALITY = 90
OURS, PLAIN, DATALOADER = "class-grouped FFCV", "plain FFCV, sequential", "ImageFolder + DataLoader"


@dataclass(frozen=True)
class Setting:
    """One part of the table: images stored with ``stored`` px, handed over with ``resolution`` px."""

    stored: int
    resolution: int

    def __str__(self) -> str:
        return f"{self.stored} px" if self.stored == self.resolution else f"{self.stored} → {self.resolution} px"


SETTINGS = (Setting(64, 64), Setting(224, 64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20000, help="images in the set; fewer are repeated")
    parser.add_argument("--classes", type=int, default=10, help="classes of made-up images")
    parser.add_argument("--repeats", type=int, default=11, help="repetitions of each loader")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a repetition")
    parser.add_argument("--workers", type=int, default=usable_cpus(), help="decoding threads or processes of each")
    parser.add_argument("--real-per-class", type=int, default=128, help="images a class in a step")
    parser.add_argument("--classes-per-step", type=int, default=10, help="classes in a step")
    parser.add_argument("--read-block", type=int, default=16, help="neighbours that are read together")
    parser.add_argument("--source", default="synthetic", help="'synthetic', or a folder with one folder a class")
    parser.add_argument("--out", type=Path, help="write the table to this Markdown file as well")
    options = parser.parse_args()
    torch.set_num_threads(options.workers)
    with tempfile.TemporaryDirectory(prefix="raycondense-loader-") as folder:
        tables = [measure(setting, options, Path(folder)) for setting in SETTINGS]
    text = report(tables, options)
    print(text)
    keep(options.out, "Reading images", text, ratios(tables))


@dataclass(frozen=True)
class Speed:
    """One repetition: images per second, and per second of CPU time of this process and its children."""

    wall: float
    cpu: float


def measure(setting: Setting, options: argparse.Namespace, folder: Path) -> tuple[Setting, dict[str, list[Speed]]]:
    """The speed of each loader, repetition by repetition."""
    images, beton = make_set(setting, options, folder)
    speeds: dict[str, list[Speed]] = {name: [] for name in LOADERS}
    with ExitStack() as stack:
        running = {}
        for name, make in LOADERS.items():
            running[name] = make(setting, options, images, beton, stack)
            next(running[name])
            print(f"{setting}: {name} is ready", file=sys.stderr)
        for repetition in range(options.repeats):
            # In turn, and every other time backwards: what else the machine does hits all of them alike.
            names = list(running) if repetition % 2 == 0 else list(reversed(running))
            for name in names:
                wait_until_idle()
                speeds[name].append(speed(running[name], options.seconds))
    return setting, speeds


def wait_until_idle() -> None:
    """Wait until the loader that was measured before has filled its queue again."""
    for _ in range(100):
        before = cpu_seconds()
        time.sleep(0.1)
        if cpu_seconds() - before < 0.02:
            return


def cpu_seconds() -> float:
    """CPU time so far of this process and of its child processes that are alive."""
    ticks = 0
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def speed(batches: Batches, seconds: float) -> Speed:
    """Speed of an endless loader that has been idle: what it prepared meanwhile is taken first, uncounted."""
    settled = time.perf_counter() + 0.5
    while time.perf_counter() < settled:
        next(batches)
    count, start, cpu = 0, time.perf_counter(), cpu_seconds()
    while time.perf_counter() < start + seconds:
        count += next(batches)
    return Speed(count / (time.perf_counter() - start), count / (cpu_seconds() - cpu))


# ------------------------------------------------------------------------------------------------ data


def make_set(setting: Setting, options: argparse.Namespace, folder: Path) -> tuple[Path, Path]:
    """The same JPEG images as an ImageFolder and as a beton."""
    images, beton = folder / f"images-{setting.stored}", folder / f"{setting.stored}.beton"
    files = list(source_files(setting, options))
    copies = -(-options.images // len(files))
    for number, (label, data) in enumerate(files):
        where = images / label
        where.mkdir(parents=True, exist_ok=True)
        for copy in range(copies):
            (where / f"{number:06d}-{copy}.jpg").write_bytes(data)
    labels = sorted({label for label, _ in files})
    samples = [(labels.index(label), data) for label, data in files for _ in range(copies)]
    write_samples(beton, samples, len(samples), resolution=setting.stored, encoding="jpeg", quality=QUALITY)
    return images, beton


def source_files(setting: Setting, options: argparse.Namespace) -> Iterator[tuple[str, bytes]]:
    """Class name and JPEG file of each different image, with ``setting.stored`` px."""
    if options.source == "synthetic":
        for label in range(options.classes):
            for image in photo_like(UNIQUE_SYNTHETIC // options.classes, setting.stored, seed=label):
                yield f"class-{label:03d}", encode_jpeg(image, QUALITY)
        return
    files = sorted(path for path in Path(options.source).glob("*/*") if path.is_file())
    if not files:
        sys.exit(f"--source: found no images in {options.source}, valid: a folder with one folder a class")
    for file in files:
        yield file.parent.name, encode_jpeg(decode_image(file.read_bytes(), setting.stored), QUALITY)


# ------------------------------------------------------------------------------------------------ loaders


def batch_size(options: argparse.Namespace, beton: Path) -> int:
    return options.real_per_class * min(options.classes_per_step, Sidecar.load(beton).num_classes)


def ours(loader: Loader) -> Callable[..., Batches]:
    def make(setting: Setting, options: argparse.Namespace, images: Path, beton: Path, stack: ExitStack) -> Batches:
        sidecar = Sidecar.load(beton)
        plan = ClassPlan(
            sidecar,
            seed=0,
            classes_per_step=min(options.classes_per_step, sidecar.num_classes),
            real_per_class=options.real_per_class,
            read_block=options.read_block,
        )
        batches = class_batches_type(loader)(beton, plan, resolution=setting.resolution, workers=options.workers)
        stack.enter_context(batches)
        return (batch.images.shape[0] * batch.images.shape[1] for batch in batches.steps())

    return make


def plain_ffcv(order: str) -> Callable[..., Batches]:
    """FFCV as its documentation shows it: its own decoder, transforms and order."""

    def make(setting: Setting, options: argparse.Namespace, images: Path, beton: Path, stack: ExitStack) -> Batches:
        from ffcv import loader as ffcv
        from ffcv.fields.rgb_image import CenterCropRGBImageDecoder, SimpleRGBImageDecoder
        from ffcv.transforms import ToTensor, ToTorchImage

        same = setting.stored == setting.resolution
        decoder = SimpleRGBImageDecoder() if same else CenterCropRGBImageDecoder((setting.resolution,) * 2, ratio=1)
        every = np.arange(Sidecar.load(beton).num_images)
        if order != "QUASI_RANDOM":  # it wants each image once
            every = np.tile(every, -(-PLAIN_EPOCH // len(every)))
        loader = ffcv.Loader(
            str(beton),
            batch_size=batch_size(options, beton),
            num_workers=options.workers,
            order=ffcv.OrderOption[order],
            seed=0,
            indices=every,
            pipelines={"image": [decoder, ToTensor(), ToTorchImage()], "label": None},
        )

        def endless() -> Batches:
            while True:
                epoch = iter(loader)
                try:
                    for (batch,) in epoch:
                        yield len(batch)
                finally:
                    epoch.close()

        batches = endless()
        stack.callback(batches.close)
        return batches

    return make


def dataloader(setting: Setting, options: argparse.Namespace, images: Path, beton: Path, stack: ExitStack) -> Batches:
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    resize = [] if setting.stored == setting.resolution else [transforms.Resize(setting.resolution)]
    loader: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(
        ImageFolder(str(images), transforms.Compose([*resize, transforms.PILToTensor()])),
        batch_size=DATALOADER_BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=options.workers,
        persistent_workers=True,
        multiprocessing_context="spawn",  # a fork would take FFCV's threads along
    )

    def endless() -> Batches:
        while True:
            for batch, _ in loader:
                yield len(batch)

    return endless()


LOADERS: dict[str, Callable[..., Batches]] = {
    OURS: ours("ffcv"),
    PLAIN: plain_ffcv("SEQUENTIAL"),
    "plain FFCV, quasi-random": plain_ffcv("QUASI_RANDOM"),
    "plain FFCV, random": plain_ffcv("RANDOM"),
    "resident": ours("resident"),
    DATALOADER: dataloader,
}


# ------------------------------------------------------------------------------------------------ report


def report(tables: list[tuple[Setting, dict[str, list[Speed]]]], options: argparse.Namespace) -> str:
    lines = [
        f"Images per second, and per second of CPU time: medians of {options.repeats} repetitions of "
        f"{options.seconds:g} s taken in turn, range from the slowest to the fastest. {options.workers} decoding "
        f"threads or processes each; steps of {options.classes_per_step} classes × {options.real_per_class} images. "
        f"“× FFCV” is the ratio to {PLAIN}, “× DataLoader” to {DATALOADER}.",
        "",
        "| images | loader | images/s | range | × FFCV | × DataLoader | per CPU second | × FFCV | × DataLoader |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for setting, speeds in tables:
        wall = {name: statistics.median(speed.wall for speed in values) for name, values in speeds.items()}
        cpu = {name: statistics.median(speed.cpu for speed in values) for name, values in speeds.items()}
        for name, values in speeds.items():
            lowest, highest = (extreme(speed.wall for speed in values) for extreme in (min, max))
            cells = [str(setting), name, f"{wall[name]:.0f}", f"{lowest:.0f}–{highest:.0f}"]
            cells += [f"{wall[name] / wall[other]:.2f}" for other in (PLAIN, DATALOADER)]
            cells += [f"{cpu[name]:.0f}", *(f"{cpu[name] / cpu[other]:.2f}" for other in (PLAIN, DATALOADER))]
            lines.append(f"| {' | '.join(cells)} |")
    lines += provenance(f"JPEG of quality {QUALITY}.")
    return "\n".join(lines)


def ratios(tables: list[tuple[Setting, dict[str, list[Speed]]]]) -> list[Row]:
    """What the guard holds on to: ours against FFCV in its own order, per CPU second."""
    return [
        Row(
            f"{setting}: {OURS} / {PLAIN}",
            statistics.median(speed.cpu for speed in speeds[OURS]) / statistics.median(s.cpu for s in speeds[PLAIN]),
            "higher",
        )
        for setting, speeds in tables
    ]


if __name__ == "__main__":
    try:
        main()
    except RaycondenseError as error:
        sys.exit(str(error))
