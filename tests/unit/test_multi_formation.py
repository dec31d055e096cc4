"""``codebook.factor`` from end to end: several small images in the place of each."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raycondense import condense
from raycondense.artifact.decode import to_uint8
from raycondense.artifact.export import export
from raycondense.artifact.format import ArtifactConfig
from raycondense.artifact.load import Artifact, load
from raycondense.config import Config, EvaluationConfig
from raycondense.configfile import override
from raycondense.errors import ArtifactError, ConfigError, DataError
from raycondense.evaluation.baselines import baseline_set
from raycondense.evaluation.pixel_dm import pixel_dm
from raycondense.evaluation.run import evaluate
from raycondense.evaluation.stream import ImageStream
from raycondense.host import LocalHost
from raycondense.presets import get_preset
from raycondense.publish import publish
from raycondense.testing.betons import write_beton

COUNTS = (20, 16, 24)
FACTOR = 2
SMALL_ROWS = ("random-small", "kmeans-small", "pixel-dm-small")
JUDGE = EvaluationConfig(
    width=8, students=1, epochs=5, max_steps=2, pixel_dm_steps=2, pixel_dm_real=4, diagnostics=False,
    baselines=("random", *SMALL_ROWS), accountings=("bank", "stream"),
)  # fmt: skip


def config(**changes: object) -> Config:
    base = override(get_preset("digits"), {
        "data": {"loader": "resident", "resolution": 16, "num_classes": 3},
        "generator": {"width": 8, "max_width": 8, "class_dim": 4},
        "codebook": {"ipc": [1, 3], "dim": 8, "factor": FACTOR},
        "extractors": {"width": 8, "weights": "random"},
        "initialise": {"steps": 4, "batch": 16},
        "condense": {"images": 8 * 3 * 2, "real_per_class": 8, "classes_per_step": 3, "codes_per_step": 5},
    })  # fmt: skip
    return override(base, changes)


def made(config: Config, train: Path, folder: Path) -> Artifact:
    state = condense.run(config, train, LocalHost(folder, device="cpu"))
    publish(state, train, folder / "artifact")
    return load(folder / "artifact")


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("formation")
    write_beton(folder / "train.beton", COUNTS, resolution=16)
    return folder / "train.beton"


@pytest.fixture(scope="module")
def artifact(train: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return made(config(), train, tmp_path_factory.mktemp("run"))


def shrunk(images: Tensor) -> Tensor:
    """What small images look like, enlarged: uint8 [N, 3, R, R] to the same."""
    kept = to_uint8(F.avg_pool2d(images.float() / 255, FACTOR)).float() / 255
    return to_uint8(F.interpolate(kept, scale_factor=FACTOR, mode="bilinear"))


def test_a_bank_holds_factor_squared_images_for_each_and_they_are_enlarged_from_8_bits(artifact: Artifact) -> None:
    bank = artifact.bank(3, normalize=False)
    assert (bank.ipc, bank.images_per_class, len(bank)) == (3, 12, 36)
    assert bank.images.shape == (36, 3, 16, 16)
    assert bank.labels.bincount().tolist() == [12, 12, 12]
    codes = artifact.codebook.codes[:, 4:].flatten(0, 1)
    with torch.no_grad():
        native = artifact.generator.native(codes, bank.labels)
    assert native.shape == (36, 3, 8, 8)
    kept = to_uint8(native).float() / 255
    expected = to_uint8(F.interpolate(kept, scale_factor=2.0, mode="bilinear"))
    # Batches of another size may round the last bit of a pixel otherwise.
    assert (bank.images.int() - expected.int()).abs().max() <= 1
    one = artifact.bank(1, classes=[2, 0], normalize=False)
    assert torch.equal(one.images, artifact.bank(1, normalize=False).images[[*range(8, 12), *range(4)]])


def test_what_is_counted_is_the_place_of_whole_images(artifact: Artifact) -> None:
    codebook = artifact.config.codebook
    assert [codebook.bank_slice(1), codebook.bank_slice(3)] == [slice(0, 4), slice(4, 16)]
    assert artifact.sizes().codebook_parameters == 3 * 16 * 8
    assert artifact.sizes(1).codebook_parameters == 3 * 4 * 8
    assert artifact.sizes().image_values == 3 * 3 * 16**2


def test_rows_take_the_same_place_and_say_how_many_images_they_are(artifact: Artifact, train: Path) -> None:
    rows = {(row.method, row.accounting): row for row in evaluate(artifact, train, config=JUDGE, ipc=[3]).rows}
    images = {key: row.images for key, row in rows.items()}
    assert images[("random", "bank")] == 9
    assert {images[(name, "bank")] for name in ("raycondense", *SMALL_ROWS)} == {36}
    place = 9 * 3 * 16**2
    assert {rows[(name, "bank")].bytes for name in ("random", *SMALL_ROWS)} == {place}


def test_small_real_images_are_the_real_ones_shrunk(artifact: Artifact, train: Path) -> None:
    from raycondense.evaluation.sets import _real

    found = _real("kmeans-small", str(train), ipc=2, seed=0, resolution=16, factor=FACTOR)
    chosen = baseline_set("kmeans", train, ipc=8, seed=0, resolution=16)
    assert torch.equal(found.labels, chosen.labels)
    assert torch.equal(found.images, shrunk(chosen.images))


def test_pixel_dm_learns_the_small_pixels(train: Path) -> None:
    settings = {"lr": 1.0, "real_per_class": 8, "width": 8, "augment": (), "seed": 0, "resolution": 16}
    found = pixel_dm(train, ipc=2, steps=3, factor=FACTOR, **settings)  # type: ignore[arg-type]
    before = pixel_dm(train, ipc=2, steps=1, factor=FACTOR, **(settings | {"lr": 1e-9}))  # type: ignore[arg-type]
    assert found.images.shape == (24, 3, 16, 16)
    assert not torch.equal(found.images, before.images)
    # Enlarged images have no detail that small ones cannot have.
    assert (found.images.int() - shrunk(found.images).int()).abs().float().mean() < 12


def test_a_class_with_too_few_images_for_the_small_rows_is_named(train: Path, tmp_path: Path) -> None:
    artifact = made(config(**{"codebook.ipc": [5]}), train, tmp_path)
    evaluate(artifact, train, config=dataclasses.replace(JUDGE, baselines=("kmeans",)))
    with pytest.raises(DataError, match=r"found 16 images; the baseline 'kmeans-small' with ipc 20 needs 20"):
        evaluate(artifact, train, config=dataclasses.replace(JUDGE, baselines=("kmeans-small",)))


def test_without_a_factor_the_small_rows_are_missing_and_said_to_be(train: Path, tmp_path: Path) -> None:
    artifact = made(config(**{"codebook.factor": 1}), train, tmp_path)
    found = evaluate(artifact, train, config=JUDGE, ipc=[1])
    assert {row.method for row in found.rows} == {"raycondense", "random"}


def test_a_stream_has_the_steps_of_its_bank(artifact: Artifact) -> None:
    stream = ImageStream(artifact, 3, seed=0)
    assert stream.images_per_epoch == 36
    images, labels = stream.batch(0, 7)
    assert images.shape == (7, 3, 16, 16)
    assert len(labels) == 7


def test_exported_folders_hold_all_images_of_a_class(artifact: Artifact, tmp_path: Path) -> None:
    export(artifact, tmp_path / "out", 3)
    assert [len(list(folder.iterdir())) for folder in sorted((tmp_path / "out").iterdir())] == [12, 12, 12]


@pytest.mark.parametrize(("changes", "message"), [
    ({"codebook.factor": 3}, r"codebook\.factor: found 3, valid: 1, 2, 4"),
    ({"codebook.factor": 4}, r"data\.resolution: found 16, valid: 32 or more with codebook\.factor 4"),
])  # fmt: skip
def test_factors_that_cannot_be(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**changes)


def test_a_strangers_artefact_with_too_large_a_factor_is_refused(artifact: Artifact) -> None:
    values = artifact.config.to_dict()
    values["codebook"]["factor"] = 4
    with pytest.raises(ArtifactError, match=r"codebook\.factor: found 4, valid: at most 2"):
        ArtifactConfig.from_dict(values)
    del values["codebook"]["factor"]
    assert ArtifactConfig.from_dict(values).codebook.factor == 1, "artefacts of older versions have none"
