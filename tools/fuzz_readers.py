"""Every reader of files that may come from a stranger, as `tools/fuzz.py` feeds it: sound inputs, damage, what reads.

A reader takes bytes and may raise nothing but `RaycondenseError`. What it reads it also uses as the program would: it
decodes the images, prints the table, writes the page.
"""

from __future__ import annotations

import json
import random
import shutil
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_mutations import (
    damage,
    damage_json,
    damage_lines,
    damage_safetensors,
    damage_yaml,
    damage_zip,
    numbers_at,
)

from raycondense.config import CodebookConfig, Config, DataConfig, EvaluationConfig, GeneratorConfig
from raycondense.data.beton_format import HEADER_TYPE, METADATA_START, MIN_PAGE_SIZE, SAMPLE_TYPE

Damage = Callable[[random.Random, bytes, Sequence[bytes], Sequence[bytes]], bytes]
CLASSES = ("cat", "dog", "owl")
COUNTS = (4, 3, 2)
CONFIG = Config(
    name="tiny",
    data=DataConfig(resolution=8, num_classes=3),
    generator=GeneratorConfig(width=8, max_width=8, class_dim=4),
    codebook=CodebookConfig(ipc=(1, 2), dim=4),
    evaluation=EvaluationConfig(width=8, students=2, max_steps=4, reference_steps=4),
)


@dataclass(frozen=True, kw_only=True)
class Reader:
    """One reader."""

    seeds: Callable[[Path], list[bytes]]
    """Sound inputs, from the folder that `make_files` filled."""
    read: Callable[[bytes, Path], object]
    """Gets an input, and a folder of its own that is filled alike."""
    damage: Damage = damage
    words: tuple[bytes, ...] = ()
    """Pieces that mean something to the reader."""
    share: float = 1.0
    """Of the inputs; less where one takes long."""


# --- sound files -----------------------------------------------------------------------------------------------------


def make_files(folder: Path) -> None:
    """Small sound files of every kind that we read, always the same bytes with the same libraries."""
    import torch

    from raycondense.artifact.save import save_artifact
    from raycondense.data.sidecar import Sidecar
    from raycondense.evaluation.result import Evaluation
    from raycondense.evaluation.store import Store
    from raycondense.models import Codebook, Generator
    from raycondense.state import TrainState
    from raycondense.testing.results import made_row
    from raycondense.testing.sweeps import made_sweep

    torch.set_num_threads(1)
    for encoding in ("raw", "jpeg"):
        _make_beton(folder / f"{encoding}.beton", encoding)
    generator = Generator(CONFIG.generator, num_classes=3, latent_dim=4, resolution=8, seed=0)
    sidecar = Sidecar.load(folder / "raw.beton")
    (folder / "run").mkdir()
    for place, state in (("initial", "initial"), ("artifact", "condensed")):
        save_artifact(
            folder / "run" / place, generator=generator, codebook=Codebook(CONFIG.codebook, 3, seed=0), config=CONFIG,
            sidecar=sidecar, state=state, scores=_scores() if state == "condensed" else None,
        )  # fmt: skip
    Evaluation.from_dict(_scores())
    from raycondense.configfile import config_to_dict

    run = {
        "config": config_to_dict(CONFIG),
        "data": {"path": str(folder / "raw.beton"), "sha256": sidecar.sha256},
    }
    (folder / "run" / "run.json").write_text(json.dumps(run))
    record = {"stage": "condense", "images": 100, "total": 300, "step": 1, "loss/match": 0.5, "images_per_second": 9.0}
    lines = [json.dumps({**record, "images": 100 * (i + 1), "loss/match": 0.5 / (i + 1)}) for i in range(4)]
    (folder / "run" / "log.jsonl").write_text("\n".join(lines) + "\n")
    state = TrainState(CONFIG, num_classes=3, device=torch.device("cpu"))
    (folder / "checkpoint").mkdir()
    state.save(folder / "checkpoint")
    sweep = made_sweep(folder / "sweep", trials=16)
    complete = [trial for trial in sweep.trials() if trial.artifact is not None]
    from raycondense.tuning.records import Winner

    sweep.write_winners([Winner(t.number, i + 1, t.artifact) for i, t in enumerate(complete[:2]) if t.artifact])
    shutil.copytree(folder / "run" / "artifact", sweep.trial(complete[0].number) / "artifact")
    Store(folder / "store").tables["results"].append(made_row(i, student=i) for i in range(3))
    _make_parquet(folder / "shard.parquet")
    np.savez(folder / "pixels.npz", x=_pixels(8), y=np.repeat(np.arange(3), COUNTS), classes=np.array(CLASSES))


def _pixels(side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (sum(COUNTS), side, side, 3)).astype(np.uint8)


def _make_beton(path: Path, encoding: str) -> None:
    from raycondense.data.dataset_writer import DatasetWriter, Origin
    from raycondense.data.encoding import Encoding

    origin, labels = Origin(source="made up", split="train", seed=0), np.repeat(np.arange(3), COUNTS)
    with DatasetWriter(path, sum(COUNTS), classes=CLASSES, encoding=Encoding(16, encoding, 90), origin=origin) as out:
        for image, label in zip(_pixels(16), labels.tolist(), strict=True):
            out.add(image, label)


def _make_parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = {"info": {"features": {"label": {"names": list(CLASSES)}}}}
    images = [{"bytes": _image(i, "PNG"), "path": None} for i in range(sum(COUNTS))]
    labels = np.repeat(np.arange(3), COUNTS)
    table = pa.table({"image": images, "label": labels}).replace_schema_metadata({"huggingface": json.dumps(names)})
    pq.write_table(table, path)


def _image(number: int, kind: str, mode: str = "RGB", side: int = 16) -> bytes:
    import io

    from PIL import Image

    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 4)).astype(np.uint8)
    image = Image.fromarray(pixels, "RGBA")
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 200)
    else:
        image = image.convert("RGB").convert(mode) if mode in ("P", "1", "CMYK") else image.convert(mode)
    out = io.BytesIO()
    extra: dict[str, Any] = {"save_all": True, "append_images": [image.copy()]} if kind == "GIF" else {}
    if kind == "JPEG" and mode == "RGB":
        exif = Image.Exif()
        exif[0x0112] = 6
        extra["exif"] = exif
    image.save(out, kind, **extra)
    return out.getvalue()


def _scores() -> dict[str, Any]:
    """An evaluation as it lies in ``scores.json``."""
    from raycondense.evaluation.result import Evaluation, Row
    from raycondense.testing.results import made_row

    rows = tuple(
        Row(method=method, architecture="convnet", ipc=ipc, accuracy=0.5 + 0.01 * ipc, std=0.1, students=2, images=3,
            bytes=3000, steps=4, seconds=0.5, hlr=0.1, ior=0.2)
        for method in ("raycondense", "random") for ipc in (1, 2)
    )  # fmt: skip
    results = tuple(
        {k: v for k, v in made_row(i, method=row.method, architecture="convnet", ipc=row.ipc, accounting="bank",
                                   labels="hard").items() if k != "finished_at"}
        for i, row in enumerate(rows)
    )  # fmt: skip
    diagnosed = {**made_row(9, "diagnostics", method="raycondense", ipc=1, accounting="bank"), "finished_at": 1.0}
    test = {"source": "made up", "split": "test", "sha256": "ef" * 32, "images": 9, "resolution": 8, "reads": 4}
    train = {"source": "made up", "split": "train", "sha256": "ab" * 32, "images": 9, "condensed_from": True}
    return json.loads(
        Evaluation(
            rows=rows, config=CONFIG.evaluation, artifact="artifact", test=test, train=train, results=results,
            diagnostics=(diagnosed,), failures=({"label": "a student", "error": "out of memory"},),
            missing=("the whole set",),
        ).to_json()
    )  # fmt: skip


def _files(*names: str) -> Callable[[Path], list[bytes]]:
    return lambda folder: [(folder / name).read_bytes() for name in names]


# --- readers ---------------------------------------------------------------------------------------------------------


def _config(ending: str) -> Callable[[bytes, Path], object]:
    def read(data: bytes, folder: Path) -> object:
        from raycondense.configfile import config_to_yaml, load_config

        (folder / f"in{ending}").write_bytes(data)
        return config_to_yaml(load_config(folder / f"in{ending}"))

    return read


def _config_seeds(ending: str) -> Callable[[Path], list[bytes]]:
    def seeds(folder: Path) -> list[bytes]:
        from raycondense.configfile import save_config

        save_config(CONFIG, folder / f"seed{ending}")
        short = b'{"preset": "digits", "losses.intra": 0.1, "codebook": {"ipc": [1, 10]}}'
        anchors = (
            b"# a comment\nlosses: &l {intra: 1e-1, ce: .5}\ncodebook:\n  ipc: [1, 1_0]\nseed: 0x10\nname: !!str 5\n"
        )
        merged = b"evaluation: {<<: {students: 2}, lr: 1}\nname: 2001-12-14t21:59:43.10-05:00\nseed: 190:20:30\n"
        return [(folder / f"seed{ending}").read_bytes(), short, *([anchors, merged] if ending == ".yaml" else [])]

    return seeds


def _space(data: bytes, folder: Path) -> object:
    from raycondense.tuning.space import Space

    (folder / "in.yaml").write_bytes(data)
    space = Space.load(folder / "in.yaml").for_config(CONFIG)
    space.sample(random.Random(0))
    space.start(CONFIG)
    return Space.from_dict(space.to_dict()).lines()


def _space_seeds(folder: Path) -> list[bytes]:
    root = Path(__file__).resolve().parents[1] / "tune_spaces"
    short = (
        b"parameters:\n  losses.intra: {log: [0.001, 10], off: 0.2}\n  extractors.weights: {choice: [random, blend]}\n"
    )
    short += b"  losses.ce: {uniform: [0, 1], when: {extractors.weights: [blend]}}\n  codebook.dim: {int: [16, 128]}\n"
    return [short, *(path.read_bytes() for path in sorted(root.glob("*.yaml")))]


def _sidecar(data: bytes, folder: Path) -> object:
    from raycondense.data.sidecar import Sidecar
    from raycondense.info import describe

    Sidecar.path(folder / "raw.beton").write_bytes(data)
    Sidecar.load(folder / "raw.beton").class_range(0)
    _read_beton(folder / "raw.beton")
    return describe(str(folder / "raw.beton"))


def _packed(path: Path) -> bytes:
    """A beton of one page without the zeros that fill its pages: two lengths, head, images, allocation table."""
    data = path.read_bytes()
    start, count = MIN_PAGE_SIZE, sum(COUNTS)
    head = data[: METADATA_START + count * SAMPLE_TYPE.itemsize]
    table_at = int(np.frombuffer(data, HEADER_TYPE, 1)[0]["alloc_table"])
    images = data[start:table_at].rstrip(b"\0") + b"\0\0"
    return struct.pack("<II", len(head), len(images)) + head + images + data[table_at:]


def unpack(packed: bytes, path: Path) -> int:
    """Write what `_packed` packed, whatever became of it, as a file with holes; its size."""
    head, images = struct.unpack("<II", packed[:8].ljust(8, b"\0"))
    rest = packed[8:]
    head, images = min(head, len(rest)), min(images, max(0, len(rest) - head))
    with path.open("wb") as file:
        file.write(rest[:head])
        file.seek(max(MIN_PAGE_SIZE, head))
        file.write(rest[head : head + images])
        file.seek(max(2 * MIN_PAGE_SIZE, file.tell()))
        file.write(rest[head + images :])
        file.truncate(max(2 * MIN_PAGE_SIZE, file.tell()))
        return file.tell()


def _beton(encoding: str, ffcv: bool = False) -> Callable[[bytes, Path], object]:
    def read(data: bytes, folder: Path) -> object:
        from raycondense.data.sidecar import Sidecar

        beton = folder / f"{encoding}.beton"
        size = unpack(data, beton)
        # The sidecar comes from the same stranger, so it fits.
        kept = folder / f"{encoding}.sidecar"
        if not kept.exists():
            shutil.copy(Sidecar.path(beton), kept)
        told = json.loads(kept.read_text()) | {"size": size}
        Sidecar.path(beton).write_text(json.dumps(told))
        return _read_with_ffcv(beton) if ffcv else _read_beton(beton)

    return read


def _read_beton(beton: Path) -> object:
    from raycondense.data.beton import BetonReader

    reader = BetonReader(beton, threads=1)
    return [reader.images(np.arange(len(reader)), side).sum() for side in (reader.sidecar.resolution, 8)]


def _read_with_ffcv(beton: Path) -> object:
    from raycondense.data.ffcv_loader import FfcvImages

    found = []
    for os_cache in (True, False):
        images = FfcvImages(str(beton), resolution=16, workers=1, os_cache=os_cache, jit=False)
        batches = images.batches(lambda epoch: np.arange(sum(COUNTS)), start=0, batch=4)
        found += [int(batch.sum()) for batch in batches]
    return found


def _beton_damage() -> Damage:
    head, count = 8, sum(COUNTS)
    places = [(head + HEADER_TYPE.fields[name][1], HEADER_TYPE.fields[name][0].itemsize) for name in HEADER_TYPE.names]
    places += [(0, 4), (4, 4)]
    for i in range(count):
        sample = head + METADATA_START + i * SAMPLE_TYPE.itemsize
        places += [(sample, 1), (sample + 1, 2), (sample + 3, 2), (sample + 5, 8), (sample + 16, 8)]
    numbers = numbers_at(places)

    def damage_beton(dice: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
        if dice.random() < 0.25:  # the table stands at the end
            back = dice.randrange(3 * count) + 1
            return numbers_at([(len(data) - 8 * back, 8)])(dice, data, others, words)
        return numbers(dice, data, others, words)

    return damage_beton


def _picture(data: bytes, folder: Path) -> object:
    from raycondense.data.decode import decode_image, decode_stored_jpeg, image_size
    from raycondense.errors import DataError

    for read in (image_size, lambda d: decode_stored_jpeg(d, 16)):
        try:
            read(data)
        except DataError:
            continue
    return decode_image(data, 8)


PICTURES = (
    ("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "1"),
    ("PNG", "I;16"), ("PNG", "LA"), ("GIF", "P"), ("WEBP", "RGB"), ("WEBP", "RGBA"), ("BMP", "RGB"), ("TIFF", "RGB"),
    ("TIFF", "I;16"), ("PPM", "RGB"), ("JPEG2000", "RGB"), ("AVIF", "RGB"), ("EPS", "RGB"), ("ICO", "RGBA"),
)  # fmt: skip


def _picture_seeds(folder: Path) -> list[bytes]:
    from PIL import Image

    Image.init()
    return [_image(i, kind, mode) for i, (kind, mode) in enumerate(PICTURES) if kind in Image.SAVE]


def _shard(data: bytes, folder: Path) -> object:
    (folder / "shard.parquet").write_bytes(data)
    return _read_source(folder / "shard.parquet")


def _npz(data: bytes, folder: Path) -> object:
    (folder / "pixels.npz").write_bytes(data)
    return _read_source(folder / "pixels.npz")


def _read_source(path: Path) -> object:
    from raycondense.data.decode import decode_image
    from raycondense.data.sources import open_source
    from raycondense.errors import DataError

    source, good = open_source(path), 0
    for payload in source.read(np.arange(len(source))):
        try:
            decode_image(payload.read_bytes() if isinstance(payload, Path) else payload, 8)
            good += 1
        except DataError:
            continue
    return good, source.key(0)


def _store(data: bytes, folder: Path) -> object:
    from raycondense.evaluation.leaderboard import leaderboard
    from raycondense.evaluation.store import Store

    table = folder / "store" / "results"
    for part in table.iterdir():
        part.unlink()
    (table / "part-00.parquet").write_bytes(data)
    store = Store(folder / "store")
    store.tables["results"].keys()
    return [leaderboard(store, format=kind) for kind in ("table", "json")]


def _artifact(name: str) -> Callable[[bytes, Path], object]:
    def read(data: bytes, folder: Path) -> object:
        from raycondense.api.evaluating import recorded_protocol
        from raycondense.artifact.card import make_card
        from raycondense.artifact.initial import find_initial
        from raycondense.artifact.load import load
        from raycondense.evaluation.baselines import find_train_data
        from raycondense.evaluation.scores import saved_scores, scores_to_add_to
        from raycondense.info import describe

        place = folder / "run" / "artifact"
        (place / name).write_bytes(data)
        artifact = load(place)
        artifact.bank(1)
        describe(str(place))
        find_initial(artifact)
        find_train_data(artifact)
        scores_to_add_to(artifact)
        scores = saved_scores(artifact)
        if scores is not None:
            scores.table()
        make_card(artifact)  # of scores that were read well, as `save_scores` writes it
        return recorded_protocol(place)

    return read


def _run_page(name: str) -> Callable[[bytes, Path], object]:
    def read(data: bytes, folder: Path) -> object:
        from raycondense.api.evaluating import write_report

        (folder / "run" / name).write_bytes(data)
        return write_report(folder / "run")

    return read


def _run(name: str) -> Callable[[bytes, Path], object]:
    def read(data: bytes, folder: Path) -> object:
        from raycondense.api.fitting import FitResult, claim_folder
        from raycondense.artifact.load import load
        from raycondense.evaluation.baselines import find_train_data
        from raycondense.info import describe
        from raycondense.report.log import read_log

        run = folder / "run"
        (run / name).write_bytes(data)
        describe(str(run))
        read_log(run / "log.jsonl").curves()
        find_train_data(load(run / "artifact"))
        FitResult(run, run / "artifact", CONFIG, 0.0).log  # noqa: B018  # a property that reads
        return claim_folder(run, CONFIG, folder / "raw.beton")

    return read


def _checkpoint(name: str) -> Callable[[bytes, Path], object]:
    def read(data: bytes, folder: Path) -> object:
        import torch

        from raycondense.checkpoint import find_damage
        from raycondense.state import TrainState

        state = TrainState(CONFIG, num_classes=3, device=torch.device("cpu"))
        (folder / "checkpoint" / name).write_bytes(data)
        find_damage(folder / "checkpoint")
        state.load(folder / "checkpoint")
        return state.name

    return read


def _sweep(name: str, page: bool = False) -> Callable[[bytes, Path], object]:
    def read(data: bytes, folder: Path) -> object:
        from raycondense.errors import RunError
        from raycondense.report.sweep import write_sweep_report
        from raycondense.tuning.result import SweepResult

        (folder / "sweep" / name).write_bytes(data)
        result = SweepResult(folder / "sweep")
        records = result.records
        inside = [w.artifact.resolve().is_relative_to(folder.resolve()) for w in records.winners()]
        inside += [t.artifact.resolve().is_relative_to(folder.resolve()) for t in records.trials() if t.artifact]
        assert all(inside), "a path of a sweep leads out of its folder"
        if page:
            return write_sweep_report(folder / "sweep")
        result.table()
        try:
            result.promote(folder / "promoted.yaml")
        except RunError as error:
            if "no trial is complete" not in str(error):
                raise
        return result.front

    return read


def _reference(data: bytes, folder: Path) -> object:
    """As `raycondense.evaluation.reference` reads its networks."""
    from raycondense.evaluation.reference import read_network
    from raycondense.models import build_student

    path = folder / "network.safetensors"
    path.write_bytes(data)
    return read_network(path, build_student("convnet", num_classes=3, resolution=8, width=8, seed=0))


def _reference_seeds(folder: Path) -> list[bytes]:
    from safetensors.torch import save

    from raycondense.models import build_student

    return [save(build_student("convnet", num_classes=3, resolution=8, width=8, seed=0).state_dict())]


def _where(data: bytes, folder: Path) -> object:
    from raycondense.errors import ConfigError
    from raycondense.evaluation.leaderboard import ENTRIES
    from raycondense.evaluation.query import parse_condition
    from raycondense.testing.results import made_row

    row = made_row(0) | {"std": 0.1, "students": 2, "diverged": 0, "hlr": 0.1, "ior": None, "lrs": None, "ars": None}
    try:
        return parse_condition(data.decode("utf-8", "replace"), ENTRIES).holds(row)
    except ConfigError:
        return None


def _where_seeds(folder: Path) -> list[bytes]:
    return [b"ipc=10", b"method=random,kmeans", b"accuracy>=50%", b"dataset=*digits*", b"loss=none", b"augmented!=no",
            b"finished_at>2026-01-31T12:00", b"test_sha256=ab"]  # fmt: skip


YAML = (b"&a ", b"*a", b"<<: ", b"!!python/object/apply:os.system ['true']", b"!!binary ", b"!!timestamp ", b"!!set ",
        b"!!omap ", b"!!int ", b"!!float ", b"? ", b": ", b"- ", b"{", b"[", b"|", b">", b"\t", b"---\n", b"...\n",
        b"0001-01-01T00:00:00+23:00", b"1:59:59", b"1e999", b".inf", b".nan", b"0x" + b"f" * 400, b"9" * 400,
        b"%YAML 1.1\n", b"'", b'"', b"\xff\xfe", b"~", b"off: 0.1", b"when: ", b"times: [0.5, 1]", b"preset: digits",
        b"a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n")  # fmt: skip
NPY = (b"\x93NUMPY\x01\x00", b"\x93NUMPY\x03\x00", b"'descr': '|O'", b"'descr': '<U99999999'", b"(99999999999,)",
       b"(((((", b"------", b"'fortran_order': True", b"(0,)", b"(-1,)", b"'shape': [", b"'<i8'", b"'<f8'")  # fmt: skip
PICKLE = (
    b"cposix\nsystem\n",
    b"(S'true'\ntR.",
    b"\x80\x02",
    b"c__builtin__\neval\n",
    b"\x93",
    b"R",
    b"b",
    b"\x8c\x02os",
)
SETTINGS = tuple(
    name.encode() for name in ("classes", "counts", "resolution", "sha256", "data", "config", "rows", "accuracy", "..")
)


def _json(name: str, read: Callable[[str], Callable[[bytes, Path], object]], folder: str, share: float) -> Reader:
    """A reader of a JSON file, or of one of JSON lines."""
    way = damage_lines if name.endswith(".jsonl") else damage_json
    return Reader(seeds=_files(f"{folder}/{name}"), read=read(name), damage=way, words=SETTINGS, share=share)


BETONS = _beton_damage()
TENSORS = (b"F32", b"F16", b"data_offsets", b"shape", b"dtype", b"__metadata__")
# Shares are such that the cheap readers, which are also those of foreign libraries, get the most.
READERS: dict[str, Reader] = {
    "picture": Reader(seeds=_picture_seeds, read=_picture, words=(b"IHDR", b"IDAT", b"tRNS", b"Exif\0\0"), share=5),
    "npz": Reader(seeds=_files("pixels.npz"), read=_npz, damage=damage_zip, words=NPY, share=3),
    "parquet": Reader(seeds=_files("shard.parquet"), read=_shard, words=(b"PAR1", b"huggingface"), share=3),
    "store": Reader(seeds=lambda f: [p.read_bytes() for p in (f / "store/results").iterdir()], read=_store, share=3),
    "sidecar": _json("raw.beton.json", lambda name: _sidecar, ".", 2),
    "beton.raw": Reader(seeds=lambda f: [_packed(f / "raw.beton")], read=_beton("raw"), damage=BETONS, share=2),
    "beton.jpeg": Reader(seeds=lambda f: [_packed(f / "jpeg.beton")], read=_beton("jpeg"), damage=BETONS, share=2),
    "config.json": Reader(
        seeds=_config_seeds(".json"), read=_config(".json"), damage=damage_json, words=SETTINGS, share=2
    ),
    "config.yaml": Reader(
        seeds=_config_seeds(".yaml"), read=_config(".yaml"), damage=damage_yaml, words=YAML, share=0.1
    ),
    "space.yaml": Reader(seeds=_space_seeds, read=_space, damage=damage_yaml, words=YAML, share=0.04),
    "artifact.config": _json("config.json", _artifact, "run/artifact", 2),
    "artifact.recipe": _json("recipe.json", _artifact, "run/artifact", 0.7),
    "artifact.scores": _json("scores.json", _artifact, "run/artifact", 0.6),
    "artifact.weights": Reader(
        seeds=_files("run/artifact/generator.safetensors"), read=_artifact("generator.safetensors"),
        damage=damage_safetensors, words=TENSORS, share=0.8,
    ),
    "reference": Reader(seeds=_reference_seeds, read=_reference, damage=damage_safetensors, words=TENSORS),
    "checkpoint.state": Reader(
        seeds=_files("checkpoint/state.pt"), read=_checkpoint("state.pt"), damage=damage_zip, words=PICKLE, share=0.5
    ),
    "checkpoint.clock": _json("clock.json", _checkpoint, "checkpoint", 0.3),
    "run.json": _json("run.json", _run, "run", 0.7),
    "log.jsonl": _json("log.jsonl", _run, "run", 0.7),
    "sweep.json": _json("sweep.json", _sweep, "sweep", 0.4),
    "trials.jsonl": _json("trials.jsonl", _sweep, "sweep", 0.4),
    "winners.json": _json("winners.json", _sweep, "sweep", 1),
    "where": Reader(seeds=_where_seeds, read=_where, words=(b">=", b"!=", b"none", b"*", b"[", b"%", b"9" * 5000)),
    "ffcv": Reader(
        seeds=lambda f: [_packed(f / "jpeg.beton")], read=_beton("jpeg", ffcv=True), damage=BETONS, share=0.01
    ),
    "page.scores": _json("artifact/scores.json", _run_page, "run", 0.004),
    "page.recipe": _json("artifact/recipe.json", _run_page, "run", 0.004),
    "page.log": _json("log.jsonl", _run_page, "run", 0.004),
    "page.sweep": _json("sweep.json", lambda name: _sweep(name, page=True), "sweep", 0.004),
    "page.trials": _json("trials.jsonl", lambda name: _sweep(name, page=True), "sweep", 0.004),
}  # fmt: skip
