"""Exports are read back by what they are for; PNGs by Pillow."""

import io

import numpy as np
import pytest
import torch

from raycondense.artifact.export import export, folder_names
from raycondense.artifact.preview import BACKGROUND, GAP, contact_sheet, encode_png
from raycondense.data.beton import BetonReader
from raycondense.errors import ArtifactError, ConfigError


def read_png(data):
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "RGB"
        image.verify()
    with Image.open(io.BytesIO(data)) as image:
        return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (8, 8), (33, 5)])
def test_png_is_lossless(shape):
    image = torch.randint(0, 256, (3, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(read_png(encode_png(image)), image)


def test_png_takes_only_rgb_bytes():
    with pytest.raises(ValueError, match=r"found torch.float32 \[3, 8, 8\], valid: uint8"):
        encode_png(torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match=r"found torch.uint8 \[1, 8, 8\]"):
        encode_png(torch.zeros(1, 8, 8, dtype=torch.uint8))


def test_contact_sheet_puts_images_in_their_place():
    images = torch.arange(6, dtype=torch.uint8).view(2, 3, 1, 1, 1).expand(2, 3, 3, 8, 8) * 10
    sheet = contact_sheet(images, cell=16)
    assert sheet.shape == (3, 2 * 18 + GAP, 3 * 18 + GAP)
    for row in range(2):
        for column in range(3):
            part = sheet[:, GAP + row * 18 :, GAP + column * 18 :][:, :16, :16]
            assert (part == (row * 3 + column) * 10).all()
    assert (sheet[:, :GAP] == BACKGROUND).all()
    assert (sheet[:, -GAP:] == BACKGROUND).all()
    assert (sheet[:, :, -GAP:] == BACKGROUND).all()


def test_preview_shows_a_row_for_each_class(artifact):
    sheet = read_png((artifact.path / "preview.png").read_bytes())
    assert sheet.shape == (3, 3 * 66 + GAP, 5 * 66 + GAP)
    shown = sheet[:, GAP : GAP + 64 : 8, GAP : GAP + 64 : 8]
    assert torch.equal(shown, artifact.bank(5).images[0])


def test_npz_is_read_by_numpy_alone(artifact, tmp_path):
    assert export(artifact, tmp_path / "bank.npz", 5) == tmp_path / "bank.npz"
    with np.load(tmp_path / "bank.npz", allow_pickle=False) as data:
        assert data["x"].dtype == np.uint8
        assert np.array_equal(data["x"], artifact.bank(5).images.permute(0, 2, 3, 1).numpy())
        assert data["y"].tolist() == artifact.bank(5).labels.tolist()
        assert data["classes"].tolist() == ["cat", "dog", "owl"]
        assert data["mean"].tolist() == [0.5, 0.4, 0.3]
    export(artifact, tmp_path / "again.npz", 5)
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "bank.npz").read_bytes()


def test_beton_is_read_by_our_reader(artifact, tmp_path):
    export(artifact, tmp_path / "bank.beton", 5)
    reader = BetonReader(tmp_path / "bank.beton")
    bank = artifact.bank(5)
    assert np.array_equal(reader.images(np.arange(15)), bank.images.numpy())
    assert reader.labels.tolist() == bank.labels.tolist()
    sidecar = reader.sidecar
    sidecar.verify(tmp_path / "bank.beton", full=True)
    assert (sidecar.classes, sidecar.counts, sidecar.resolution) == (("cat", "dog", "owl"), (5, 5, 5), 8)
    assert sidecar.mean == pytest.approx((bank.images / 255).mean(dim=(0, 2, 3)).tolist(), abs=1e-5)


def test_folder_is_an_image_folder(artifact, tmp_path):
    datasets = pytest.importorskip("torchvision.datasets")
    export(artifact, tmp_path / "bank", 5)
    folder = datasets.ImageFolder(tmp_path / "bank")
    assert folder.classes == ["cat", "dog", "owl"]
    assert len(folder) == 15
    for position, (image, label) in enumerate(folder):
        assert label == artifact.bank(5).labels[position]
        assert torch.equal(
            torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1), artifact.bank(5).images[position]
        )


def test_largest_bank_is_the_default_and_others_can_be_chosen(artifact, tmp_path):
    export(artifact, tmp_path / "a.npz")
    export(artifact, tmp_path / "b.npz", 1)
    assert len(np.load(tmp_path / "a.npz")["y"]) == 15
    assert len(np.load(tmp_path / "b.npz")["y"]) == 3
    with pytest.raises(ConfigError, match="ipc: found 2, valid: 1, 5"):
        export(artifact, tmp_path / "c.npz", 2)
    assert not (tmp_path / "c.npz").exists()


@pytest.mark.parametrize("name", ["bank", "bank.npz", "bank.beton"])
def test_nothing_that_stands_there_is_touched(artifact, tmp_path, name):
    target = tmp_path / name
    if name == "bank":
        target.mkdir()
        (target / "mine.txt").write_text("mine")
    else:
        target.write_text("mine")
    before = target.stat().st_mtime_ns
    with pytest.raises(ArtifactError, match=f"{name}: exists already; valid: a new name"):
        export(artifact, target)
    assert target.stat().st_mtime_ns == before
    (tmp_path / "empty").mkdir()
    assert export(artifact, tmp_path / "empty").is_dir()


@pytest.mark.parametrize("name", ["bank.zip", "bank.pt", "bank.PARQUET", "bank.npy"])
def test_other_endings_are_refused(artifact, tmp_path, name):
    with pytest.raises(ArtifactError, match=r"valid: \.npz, \.beton, or a folder"):
        export(artifact, tmp_path / name)


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        (("0", "1", "2"), ["0", "1", "2"]),
        (("cat", "dog (big)"), ["cat", "dog (big)"]),
        (("dog", "cat"), ["0_dog", "1_cat"]),
        (("Cat", "cat"), ["0_Cat", "1_cat"]),
        (("../etc", "a/b"), ["0____etc", "1_a_b"]),
        (("a.", "b "), ["0_a_", "1_b_"]),
        (("", ".hidden"), ["0_", "1__hidden"]),
        (tuple(map(str, range(11))), [f"{i:02d}_{i}" for i in range(11)]),
    ],
)
def test_folder_names_sort_as_labels_and_are_safe(classes, names):
    assert folder_names(classes) == names
    assert sorted(names) == names


def test_class_named_as_a_path_stays_inside(make_artifact, tmp_path):
    import dataclasses

    artifact = make_artifact()
    artifact.config = dataclasses.replace(artifact.config, classes=("../../x", "/tmp/y", "\x00"))
    export(artifact, tmp_path / "out" / "bank", 1)
    files = sorted(str(p.relative_to(tmp_path)) for p in (tmp_path / "out").rglob("*.png"))
    assert len(files) == 3
    assert all(name.startswith("out/bank/") for name in files)
