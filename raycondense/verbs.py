"""What each verb of the command line does; one function a verb, flags from a dataclass."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from raycondense.cli import parse
from raycondense.config import Config, EvaluationConfig
from raycondense.data.cpus import usable_cpus
from raycondense.errors import ConfigError
from raycondense.presets import PRESETS, get_preset


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Write SOURCE as a .beton (FFCV's format) with a sidecar beside it, classes together, shuffled inside a class. The
    same command goes on where an interrupted one stopped."""

    source: tyro.conf.Positional[str]
    """An ImageFolder directory, a folder or glob of Parquet shards, digits, a torchvision dataset's name, an .npz."""
    out: tyro.conf.Positional[Path]
    """The .beton to write."""
    resolution: int | None = None
    """Side of the stored square images in pixels, a power of two; by default the source's own where it has one."""
    encoding: Literal["raw", "jpeg"] = "raw"
    """How images are stored: raw is exact and fastest to read, jpeg is smaller."""
    quality: int = 90
    """JPEG quality, 1 to 100."""
    workers: int = dataclasses.field(default_factory=usable_cpus)
    """Processes that decode and encode."""
    split: str = "train"
    """Which part of the source: train, val, test."""
    val_fraction: float = 0.0
    """Share of each class to cut off as validation split, written beside OUT as <stem>-val.beton."""
    seed: int = 0
    """Seed of the order inside classes and of the validation cut."""
    skip_bad: bool = False
    """Go on past images that cannot be decoded; they are listed in OUT.skipped.txt."""
    data_root: Path = Path("data")
    """Where torchvision datasets are downloaded to on first use."""
    overwrite: bool = False
    """Replace OUT where it exists."""


def prepare(words: list[str]) -> int:
    """``raycondense prepare SOURCE OUT.beton``"""
    flags = parse(Prepare, "prepare", words)
    from raycondense.data.prepare import prepare as run
    from raycondense.display import Display

    options = {name: value for name, value in vars(flags).items() if name not in ("source", "out")}
    with Display() as display:
        result = run(flags.source, flags.out, progress=partial(display.count, "prepare", unit="images"), **options)
    for path, sidecar in ((result.path, result.sidecar), (result.val_path, result.val_sidecar)):
        if path is not None and sidecar is not None:
            stored = f"{sidecar.resolution} px {sidecar.encoding}"
            print(f"{path}: {sidecar.num_images:,} images of {sidecar.num_classes} classes, {stored}")
    if result.skipped:
        print(f"{result.skipped_path}: {result.skipped} images that could not be decoded")
    return 0


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Condense a .beton into a generator. The same command goes on where an interrupted one stopped."""

    preset: str | None = None
    """Preset to start from (`raycondense presets` lists them)."""
    config_file: Path | None = None
    """Configuration to start from instead, YAML or JSON."""
    data: str | None = None
    """Beton of the training images: a path, the same on every node, or a URI (s3://, gs://, file://), from which each
    node stages it once in --data.cache; a dry run can do without."""
    out: Path | None = None
    """Run folder; by default runs/<preset>."""
    storage: str | None = None
    """URI or path of a folder for this run that all nodes reach, for its checkpoints and for all that it leaves: with
    it the same command goes on on another machine. By default checkpoints are in --out."""
    device: str | None = None
    """Where to compute without Ray (--cluster.workers 0); by default CUDA where there is one."""
    dry_run: bool = False
    """Print the resolved configuration, parameter counts, bytes and their IPC equivalent, and stop."""
    config: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Config)


def fit(words: list[str]) -> int:
    """``raycondense fit --preset digits --data train.beton``"""
    flags = parse(Fit, "fit", words, default=Fit(config=start_config(words)))
    from raycondense import api

    if flags.dry_run:
        config = api.resolve_for_data(flags.config, flags.data) if flags.data else flags.config
        print("\n".join(_describe_config(config)))
        return 0
    if flags.data is None:
        raise ConfigError("--data: missing; valid: a .beton, made with: raycondense prepare SOURCE OUT.beton")
    result = api.fit(flags.config, data=flags.data, out=flags.out, storage=flags.storage, device=flags.device)
    print(f"artefact: {result.artifact_path}")
    return 0


def start_config(words: list[str]) -> Config:
    """The configuration that the other flags change: a preset or a file, whichever is named."""
    from raycondense.configfile import load_config

    named = {flag: value for flag in ("--preset", "--config-file") if (value := _value_of(words, flag)) is not None}
    if len(named) == 2:
        raise ConfigError("--preset and --config-file: found both, valid: one (a file can name a preset itself)")
    if "--preset" in named:
        return get_preset(named["--preset"])
    if "--config-file" in named:
        return load_config(named["--config-file"])
    if "-h" in words or "--help" in words:
        return Config()
    raise ConfigError(f"--preset: missing; valid: {', '.join(PRESETS)} (or --config-file FILE)")


def _describe_config(config: Config) -> list[str]:
    from raycondense.artifact.sizes import format_bytes, sizes_of
    from raycondense.configfile import config_to_yaml

    if not config.data.num_classes:
        raise ConfigError("data.num_classes: found 0, valid: name --data, or the number of classes, for a dry run")
    found = sizes_of(config)
    lines = [config_to_yaml(config).rstrip(), ""]
    lines.append(f"generator: {found.generator_parameters:,} parameters")
    lines.append(f"codebook:  {found.codebook_parameters:,} parameters")
    lines.append(
        f"together:  {format_bytes(found.bytes)}, as many numbers as {found.ipc_equivalent:.3g} images per class, "
        f"as many bytes as {found.ipc_equivalent_uint8:.3g} uint8 images per class"
    )
    return lines


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Train students on an artefact's banks and on the baselines, score them on the test split, print the table."""

    artifacts: tyro.conf.Positional[tuple[str, ...]]
    """Folders of artefacts of one dataset, or hf-hub:user/name; what they share is done once."""
    data: str
    """Beton of the split to score on; of a URI (s3://, gs://, file://) this machine makes a copy once."""
    train_data: str | None = None
    """Beton of the training split, for the baselines, likewise; by default the one that the artefact was made from."""
    ipc: tuple[int, ...] = ()
    """Banks to evaluate, in images per class; by default all."""
    workers: int = 0
    """Ray actors that train students side by side, here or in the cluster that RAY_ADDRESS names; 1 trains in this
    process without Ray, 0 takes as many as this machine has GPUs, or CPUs."""
    gpus_per_worker: float | None = None
    """Share of a GPU that an actor takes; by default this machine's GPUs divided among the actors."""
    device: str | None = None
    """Where to train; by default CUDA where there is one."""
    store: Path = Path("leaderboard")
    """Folder of results: what is in it is not done again, and `raycondense leaderboard` reads it."""
    json: Path | None = None
    """Also write everything measured to this file."""
    config: Annotated[EvaluationConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=EvaluationConfig)


def evaluate(words: list[str]) -> int:
    """``raycondense evaluate ARTEFACT … --data test.beton``"""
    from raycondense import api
    from raycondense.storage import write_text

    default = Evaluate(artifacts=tyro.MISSING, data=tyro.MISSING, config=_start_protocol(words))
    flags = parse(Evaluate, "evaluate", words, default=default)
    if not flags.artifacts:
        raise ConfigError("ARTIFACTS: missing; valid: one or more folders of artefacts, or hf-hub:user/name")
    results = api.evaluate_many(
        flags.artifacts, flags.data, train_data=flags.train_data, ipc=flags.ipc or None,
        workers=flags.workers or _usable_workers(flags.device), gpus_per_worker=flags.gpus_per_worker,
        device=flags.device, config=flags.config, store=flags.store,
    )  # fmt: skip
    for result in results:
        print(*([f"{result.artifact}\n"] if len(results) > 1 else []), result.table(), sep="\n")
    if flags.json:
        found = [result.to_dict() for result in results]
        write_text(flags.json, json.dumps(found if len(found) > 1 else found[0], indent=2, ensure_ascii=False))
    return 1 if any(result.failures for result in results) else 0


def _start_protocol(words: list[str]) -> EvaluationConfig:
    """The protocol that the other flags change: the artefact's own, or the one that --protocol names on top of it."""
    from raycondense import api
    from raycondense.evaluation.protocols import protocol

    plain = [word for word in words if not word.startswith("-")]
    # Values of flags are plain words too: the artefact is the one that looks like one.
    artifact = next((word for word in plain if _looks_like_artifact(word)), plain[0] if plain else None)
    recorded = api.recorded_protocol(artifact) if artifact else EvaluationConfig()
    name = _value_of(words, "--protocol")
    return protocol(name, recorded) if name else recorded


def _looks_like_artifact(word: str) -> bool:
    return word.startswith(("hf-hub:", "local-dir:")) or (Path(word) / "recipe.json").is_file()


def _usable_workers(device: str | None) -> int:
    import torch

    on_gpu = torch.cuda.is_available() if device is None else device.startswith("cuda")
    return max(1, torch.cuda.device_count()) if on_gpu else usable_cpus()


def _value_of(words: list[str], flag: str) -> str | None:
    """The value of ``flag`` on a command line that is not parsed yet."""
    found = None
    for position, word in enumerate(words):
        if word == flag and position + 1 < len(words):
            found = words[position + 1]
        elif word.startswith(f"{flag}="):
            found = word.removeprefix(f"{flag}=")
    return found


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write a run's report.html: accuracies, pictures, neighbours, losses and settings, in one file; or the sweep.html
    of a sweep."""

    run: tyro.conf.Positional[Path]
    """Folder of a run, finished or not, or an artefact's own, or of a sweep."""
    store: Path = Path("leaderboard")
    """Folder of results of its evaluation; the reference network in it gives the features that are shown."""
    train_data: Path | None = None
    """Beton of the training images; by default the one that the run was made from."""
    out: Path | None = None
    """Where to write; by default report.html, or a sweep's sweep.html, in RUN."""


def report(words: list[str]) -> int:
    """``raycondense report RUN``"""
    flags = parse(Report, "report", words)
    from raycondense import api

    print(api.write_report(flags.run, store=flags.store, train_data=flags.train_data, out=flags.out))
    return 0


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write the images of one bank: OUT ending in .npz or .beton is that file, any other OUT an ImageFolder."""

    artifact: tyro.conf.Positional[str]
    """The artefact's folder, or hf-hub:user/name."""
    out: tyro.conf.Positional[Path]
    """File or folder to write."""
    ipc: int | None = None
    """Bank to write, in images per class; by default the largest."""


def export(words: list[str]) -> int:
    """``raycondense export ARTEFACT OUT``"""
    flags = parse(Export, "export", words)
    from raycondense.artifact.export import export as run
    from raycondense.artifact.load import load

    artifact = load(flags.artifact)
    ipc = flags.ipc if flags.ipc is not None else max(artifact.ipcs)
    run(artifact, flags.out, ipc)
    images = artifact.config.codebook.images_per_class(ipc)
    print(f"{flags.out}: {artifact.num_classes * images} images, {images} a class")
    return 0


@dataclass(frozen=True, kw_only=True)
class Presets:
    """List the presets, or print one as YAML (a file to edit and to give to `raycondense fit --config-file`)."""

    name: tyro.conf.Positional[str] = ""
    """Preset to print."""


def presets(words: list[str]) -> int:
    """``raycondense presets [NAME]``"""
    flags = parse(Presets, "presets", words)
    from raycondense.configfile import config_to_yaml

    if flags.name:
        print(config_to_yaml(get_preset(flags.name)).rstrip())
        return 0
    for name, preset in PRESETS.items():
        print(f"{name:<14} {(preset.__doc__ or '').strip().splitlines()[0]}")
    return 0


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Say which of Python, torch, CUDA, FFCV and Ray work here, and how to mend what does not."""


def doctor(words: list[str]) -> int:
    """``raycondense doctor``"""
    parse(Doctor, "doctor", words)
    from raycondense.doctor import doctor as run

    return run()


@dataclass(frozen=True, kw_only=True)
class Info:
    """Say what an artefact, a beton or a run folder holds; without PATH, what there is to choose from."""

    path: tyro.conf.Positional[str] = ""
    """An artefact's folder, a .beton, a run folder."""


def info(words: list[str]) -> int:
    """``raycondense info [PATH]``"""
    flags = parse(Info, "info", words)
    from raycondense.info import describe

    print(json.dumps(describe(flags.path), indent=2, ensure_ascii=False))
    return 0


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Condense scikit-learn's digits end to end: prepare, Ray Train with two workers, artefact, students, report."""

    out: Path = Path("demo")
    """Folder of everything that the demo makes."""


def demo(words: list[str]) -> int:
    """``raycondense demo``"""
    flags = parse(Demo, "demo", words)
    from raycondense.demo import run

    run(flags.out)
    return 0
