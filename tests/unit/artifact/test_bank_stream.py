"""Banks are the same bytes however they are asked for; streams are fresh, shared by workers and reproducible."""

import itertools

import pytest
import torch
from torch.utils.data import DataLoader

from raycondense.artifact import decode
from raycondense.artifact.decode import chunk_size, decode_grid, to_uint8
from raycondense.artifact.load import load
from raycondense.artifact.stream import fresh_codes
from raycondense.errors import ArtifactError, ConfigError
from raycondense.seeds import seeded_generator


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of 4 at 8 px, so that the little banks here have several."""
    monkeypatch.setattr(decode, "_CHUNK_PIXELS", 4 * 8 * 8)
    assert chunk_size(8) == 4


def test_bank_is_a_dataset_of_standardised_images(artifact):
    bank = artifact.bank(5)
    assert (len(bank), bank.num_classes, bank.ipc, bank.classes) == (15, 3, 5, ("cat", "dog", "owl"))
    assert bank.images.dtype == torch.uint8
    assert bank.images.shape == (15, 3, 8, 8)
    assert bank.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    image, label = bank[7]
    assert label == 1
    assert image.dtype == torch.float32
    mean, std = torch.tensor(bank.mean).view(3, 1, 1), torch.tensor(bank.std).view(3, 1, 1)
    torch.testing.assert_close(image, (bank.images[7] / 255 - mean) / std)
    images, labels = next(iter(DataLoader(bank, batch_size=6)))
    assert images.shape == (6, 3, 8, 8)
    assert labels.tolist() == [0, 0, 0, 0, 0, 1]


def test_bank_images_are_those_of_its_codes(artifact):
    bank, codes = artifact.bank(5), artifact.codebook.codes[:, 1:]
    floats = artifact.generator(codes.flatten(0, 1), torch.arange(3).repeat_interleave(5))
    assert (bank.images - 255 * floats).abs().max() <= 0.51
    assert len(torch.unique(bank.images.flatten(1), dim=0)) == 15
    one = artifact.bank(1)
    assert (one.images - 255 * artifact.sample([0, 1, 2], positions=[0, 0, 0])).abs().max() <= 0.51
    assert torch.equal(artifact.bank().images, bank.images)


def test_bank_is_the_same_bytes_for_any_subset_and_order(artifact):
    whole = artifact.bank(5).images.unflatten(0, (3, 5))
    assert torch.equal(load(artifact.path).bank(5).images.unflatten(0, (3, 5)), whole)
    for order in itertools.permutations(range(3)):
        part = artifact.bank(5, classes=order)
        assert torch.equal(part.images.unflatten(0, (3, 5)), whole[list(order)])
        assert part.labels.tolist() == [label for label in order for _ in range(5)]
    named = artifact.bank(5, classes=["owl"])
    assert torch.equal(named.images, whole[2])
    assert named.labels.tolist() == [2] * 5
    assert named.num_classes == 3


def test_images_are_always_computed_in_the_same_batches(artifact):
    # What batches the generator sees decides rounding in the last bit on some devices: record them.
    codes = artifact.codebook.codes[:, 1:]
    seen = {}

    class Spy:
        factor = 1

        def native(self, part, labels):
            seen[tuple(part[:, 0].tolist())] = len(part)
            return torch.zeros(len(part), 3, 8, 8)

    spy = Spy()
    decode_grid(spy, codes, torch.arange(15), resolution=8)
    whole = dict(seen)
    assert list(whole.values()) == [4, 4, 4, 3]
    seen.clear()
    decode_grid(spy, codes, torch.tensor([14, 3, 0]), resolution=8)
    first, *_, last = whole
    assert set(seen) == {first, last}


def test_neither_autocast_nor_the_global_generators_change_a_bank(artifact):
    expected = artifact.bank(5).images
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16):
        found = artifact.bank(5).images
        streamed = next(iter(artifact.stream(normalize=False)))[0]
    assert torch.equal(found, expected)
    assert torch.equal(streamed, next(iter(artifact.stream(normalize=False)))[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_transform_comes_before_standardisation(artifact):
    plain = artifact.bank(5, normalize=False)
    assert plain[3][0].dtype == torch.uint8
    assert torch.equal(plain[3][0], plain.images[3])
    flipped = artifact.bank(5, transform=lambda image: image.flip(-1))
    torch.testing.assert_close(flipped[3][0], artifact.bank(5)[3][0].flip(-1))
    as_float = artifact.bank(5, transform=lambda image: image.float() / 255)
    torch.testing.assert_close(as_float[3][0], artifact.bank(5)[3][0])
    assert artifact.bank(5, transform=lambda image: "text", normalize=False)[0][0] == "text"
    with pytest.raises(ArtifactError, match="transform: returned str, valid: an image tensor"):
        artifact.bank(5, transform=lambda image: "text")[0]


def test_unknown_bank_and_class_are_named(artifact):
    with pytest.raises(ConfigError, match="ipc: found 2, valid: 1, 5"):
        artifact.bank(2)
    with pytest.raises(ArtifactError, match=r"unknown class 'cst' \(did you mean 'cat'\?\); valid: cat, dog, owl"):
        artifact.bank(5, classes=["cst"])
    with pytest.raises(ArtifactError, match="class: found 3, valid: 0 to 2, or a name"):
        artifact.bank(5, classes=[3])


def test_uint8_rounds_to_the_nearest_level():
    assert to_uint8(torch.tensor([0.0, 1.0, 0.4999 / 255, 0.5001 / 255, 254.6 / 255])).tolist() == [0, 255, 0, 1, 255]


def test_sample_takes_labels_codes_positions_or_a_seed(artifact):
    table = artifact.codebook.codes
    images = artifact.sample(["owl", "cat", "owl"], positions=[2, 0, 5])
    assert images.shape == (3, 3, 8, 8)
    assert images.dtype == torch.float32
    assert 0 <= images.min() <= images.max() <= 1
    expected = artifact.sample(torch.tensor([2, 0, 2]), codes=torch.stack([table[2, 2], table[0, 0], table[2, 5]]))
    assert torch.equal(images, expected)
    many = [0, 1, 2] * 5
    assert torch.equal(artifact.sample(many, seed=4), artifact.sample(many, seed=4))
    assert not torch.equal(artifact.sample(many, seed=4), artifact.sample(many, seed=5))
    assert artifact.sample([]).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": [0], "codes": torch.zeros(1, 6), "positions": [0]}, "codes and positions"),
        ({"labels": [0], "codes": torch.zeros(2, 6)}, r"codes: found shape \[2, 6\], valid: \[1, 6\]"),
        ({"labels": [0], "positions": [6]}, "positions: valid: 1 numbers from 0 to 5"),
        ({"labels": [0], "positions": [0, 1]}, "positions: valid: 1 numbers"),
        ({"labels": [-1]}, "class: found -1"),
    ],
)
def test_sample_names_what_does_not_fit(artifact, arguments, message):
    with pytest.raises(ArtifactError, match=message):
        artifact.sample(**arguments)


def key(item):
    image, label = item
    return int(label), image.numpy().tobytes()


def test_stream_is_fresh_seeded_and_goes_through_all_classes(artifact):
    first = list(itertools.islice(artifact.stream(1, normalize=False), 60))
    again = list(itertools.islice(artifact.stream(1, normalize=False), 60))
    other = list(itertools.islice(artifact.stream(2, normalize=False), 60))
    assert [key(i) for i in first] == [key(i) for i in again]
    assert not {key(i) for i in first} & {key(i) for i in other}
    assert len({key(i) for i in first}) == 60
    assert {label for _, label in first} == {0, 1, 2}
    bank = {image.numpy().tobytes() for image in artifact.bank(5).images}
    assert not {image.numpy().tobytes() for image, _ in first} & bank


def test_stream_item_is_as_a_bank_item(artifact):
    image, label = next(iter(artifact.stream()))
    raw, _ = next(iter(artifact.stream(normalize=False)))
    assert isinstance(label, int)
    mean, std = torch.tensor(artifact.config.mean).view(3, 1, 1), torch.tensor(artifact.config.std).view(3, 1, 1)
    torch.testing.assert_close(image, (raw / 255 - mean) / std)


@pytest.mark.parametrize("length", [1, 4, 14])
def test_workers_share_the_stream_of_one_process(artifact, length):
    stream = artifact.stream(3, length=length, normalize=False)
    alone = sorted(key(item) for item in stream)
    assert len(alone) == len(set(alone)) == len(stream) == length
    loader = DataLoader(stream, batch_size=None, num_workers=2)
    assert sorted(key(item) for item in loader) == alone


def test_set_epoch_gives_other_samples_also_to_persistent_workers(artifact):
    stream = artifact.stream(3, length=6, normalize=False)
    loader = DataLoader(stream, batch_size=None, num_workers=1, persistent_workers=True)
    epochs = []
    for epoch in (0, 1, 0):
        stream.set_epoch(epoch)
        epochs.append([key(item) for item in loader])
    assert epochs[0] == epochs[2]
    assert not set(epochs[0]) & set(epochs[1])


def test_stream_without_end_has_no_length(artifact):
    with pytest.raises(TypeError, match="no end and no length"):
        len(artifact.stream())
    assert len(list(itertools.islice(artifact.stream(), 50))) == 50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed: found -1, valid: 0 or more"),
        ({"length": 0}, "length: found 0"),
        ({"interpolate": 1.5}, "interpolate: found 1.5, valid: 0 to 1"),
        ({"noise": float("nan")}, "noise: found nan"),
    ],
)
def test_stream_settings_are_checked(artifact, arguments, message):
    with pytest.raises(ArtifactError, match=message):
        artifact.stream(**arguments)
    with pytest.raises(ArtifactError, match="epoch: found -1"):
        artifact.stream().set_epoch(-1)


def test_stream_without_noise_gives_the_codes_themselves(artifact):
    bank = {image.numpy().tobytes() for image in artifact.bank(5).images}
    stream = artifact.stream(ipc=5, interpolate=0, noise=0, normalize=False)
    assert {image.numpy().tobytes() for image, _ in itertools.islice(stream, 200)} == bank


def test_fresh_codes_stay_between_codes_of_their_class():
    codes = torch.zeros(2, 3, 1)
    codes[1, :, 0] = torch.tensor([10.0, 11.0, 12.0])
    labels = torch.randint(2, (4000,), generator=seeded_generator(0))
    found = fresh_codes(codes, labels, seeded_generator(1), interpolate=1.0, noise=0.0)[:, 0]
    assert (found[labels == 0] == 0).all()
    ours = found[labels == 1]
    assert 10 <= ours.min() < 10.1
    assert 11.9 < ours.max() <= 12
    noisy = fresh_codes(codes, labels, seeded_generator(1), interpolate=0.0, noise=2.0)[:, 0]
    nearest = (noisy[labels == 1, None] - codes[1, :, 0]).abs().min(dim=1).values
    assert nearest.max() > 0.5
    assert (noisy[labels == 0] == 0).all(), "noise is in standard deviations of the class"


def test_one_code_a_class_takes_its_noise_from_all_classes():
    codes = torch.tensor([[[0.0]], [[4.0]]])
    found = fresh_codes(codes, torch.zeros(5000, dtype=torch.int64), seeded_generator(1), noise=0.5)[:, 0]
    assert found.std() == pytest.approx(0.5 * 2.0, rel=0.05)
    alone = fresh_codes(codes[:1], torch.zeros(9, dtype=torch.int64), seeded_generator(1))
    assert torch.isfinite(alone).all()
