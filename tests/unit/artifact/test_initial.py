"""What a run started from is found beside its artefact, and codes are exchanged."""

import json
import shutil

import pytest
import torch

from raycondense.artifact.initial import find_initial, random_codes
from raycondense.artifact.load import load
from raycondense.configfile import config_from_dict, override
from raycondense.errors import ArtifactError
from raycondense.models import Codebook, Generator


@pytest.fixture
def run(make_artifact, tmp_path):
    """Folder of a run with both artefacts."""
    make_artifact(tmp_path / "run" / "artifact")
    make_artifact(tmp_path / "run" / "initial", state="initial")
    return tmp_path / "run"


def test_it_is_found_beside_the_artefact(run, monkeypatch):
    assert find_initial(load(run / "artifact")) == run / "initial"
    monkeypatch.chdir(run / "artifact")
    assert find_initial(load(".")) == run / "initial"
    elsewhere = load(".")
    elsewhere.path = None
    assert find_initial(elsewhere) is None
    assert find_initial(load(run / "initial")) is None, "nothing started from what a run started from"
    shutil.rmtree(run / "initial")
    assert find_initial(load(run / "artifact")) is None


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("state", "condensed"),
        ("config.seed", 4),
        ("config.condense.images", 7),
        ("config.initialise.method", "none"),
        ("data.sha256", "cd" * 32),
    ],
)
def test_another_runs_is_not_taken(run, place, value):
    file = run / "initial" / "recipe.json"
    recipe = json.loads(file.read_text())
    *sections, name = place.split(".")
    section = recipe
    for part in sections:
        section = section[part]
    assert section[name] != value
    section[name] = value
    file.write_text(json.dumps(recipe))
    load(run / "initial")
    assert find_initial(load(run / "artifact")) is None


@pytest.mark.parametrize("damage", [lambda recipe: "{", lambda recipe: json.dumps(recipe | {"data": "strange"})])
def test_a_damaged_one_is_named(run, damage):
    artifact = load(run / "artifact")
    file = run / "initial" / "recipe.json"
    file.write_text(damage(json.loads(file.read_text())))
    with pytest.raises(ArtifactError, match=r"initial/recipe\.json: damaged"):
        find_initial(artifact)


def test_other_codes_are_decoded_by_the_same_generator(artifact):
    codes = torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(0))
    other = artifact.with_codes(codes)
    labels = torch.arange(3).repeat_interleave(5)
    expected = artifact.sample(labels, codes=codes[:, 1:].flatten(0, 1))
    torch.testing.assert_close(other.bank(5, normalize=False).images.float() / 255, expected, atol=0.5 / 255, rtol=0)
    assert torch.equal(artifact.with_codes(artifact.codebook.codes).bank(5).images, artifact.bank(5).images)
    assert (other.path, other.scores, other.config, other.recipe) == (None, {}, artifact.config, artifact.recipe)


def test_other_codes_leave_the_artefact_alone(artifact):
    before, codes = artifact.bank().images, torch.zeros(3, 6, 6)
    other = artifact.with_codes(codes)
    codes.add_(1)
    with torch.no_grad():
        other.generator.to_rgb.weight.zero_()
    assert not other.codebook.codes.any()
    assert not other.codebook.codes.requires_grad
    assert torch.equal(artifact.bank().images, before)


def test_codes_that_do_not_fit_are_refused(artifact):
    with pytest.raises(ArtifactError, match=r"with_codes: found shape \[3, 5, 6\], valid: .* \[3, 6, 6\]"):
        artifact.with_codes(torch.zeros(3, 5, 6))
    with pytest.raises(ArtifactError, match="with_codes: found numbers that are not finite"):
        artifact.with_codes(torch.full((3, 6, 6), torch.nan))


def test_random_codes_are_drawn_by_seed(make_artifact):
    changes = {"codebook": {"ipc": [1, 40], "dim": 64, "init_std": 0.3}}
    config = override(config_from_dict(make_artifact().recipe["config"]), changes)
    generator = Generator(config.generator, num_classes=3, latent_dim=64, resolution=8)
    codebook = Codebook(config.codebook, 3, seed=2)
    artifact = make_artifact(config=config, generator=generator, codebook=codebook)
    codes = [random_codes(artifact, seed).codebook.codes for seed in (0, 0, 1)]
    assert torch.equal(codes[0], codes[1])
    assert not torch.equal(codes[0], codes[2])
    # 7872 numbers: the standard error is 0.003 of the mean and 0.0024 of the deviation.
    assert codes[0].mean().abs() < 0.015
    assert codes[0].std() == pytest.approx(0.3, abs=0.012)
    both = torch.stack([code.flatten() for code in codes[1:]])
    assert torch.corrcoef(both)[0, 1].abs() < 0.06
    # A run's own first codes are of its seed, whatever it is: nobody may get them by drawing with the same number.
    own = Codebook(config.codebook, 3, seed=1).codes
    assert not torch.equal(codes[2], own)
    assert torch.equal(artifact.codebook.codes, codebook.codes), "the artefact keeps its own"
