"""An artefact survives the disk, and a damaged, foreign or newer one is refused with the file's name."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from raycondense.artifact.format import FILES, ArtifactConfig
from raycondense.artifact.load import load
from raycondense.artifact.save import save_artifact, save_scores
from raycondense.config import CodebookConfig, Config, DataConfig, GeneratorConfig
from raycondense.configfile import config_from_dict, override
from raycondense.data.sidecar import Sidecar
from raycondense.errors import ArtifactError, ConfigError, RaycondenseError
from raycondense.models import Codebook, Generator

CONFIG = Config(
    name="tiny",
    seed=3,
    data=DataConfig(resolution=8),
    generator=GeneratorConfig(width=8, max_width=16, class_dim=4),
    codebook=CodebookConfig(ipc=(1, 5), dim=6),
)


def test_folder_holds_all_files_and_reads_back_the_same(artifact):
    assert sorted(p.name for p in artifact.path.iterdir()) == sorted(FILES)
    again = load(artifact.path)
    for mine, read in zip(artifact.generator.parameters(), again.generator.parameters(), strict=True):
        assert torch.equal(mine, read)
        assert read.device.type == "cpu"
        assert not read.requires_grad
    assert torch.equal(artifact.codebook.codes, again.codebook.codes)
    assert again.config == artifact.config
    assert (again.classes, again.num_classes, again.resolution, again.ipcs) == (("cat", "dog", "owl"), 3, 8, (1, 5))
    assert (again.config.mean, again.config.std) == ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    assert not again.generator.training


def test_weights_are_those_that_were_given(tmp_path, make_artifact):
    generator = Generator(CONFIG.generator, num_classes=3, latent_dim=6, resolution=8, seed=11)
    codebook = Codebook(CONFIG.codebook, 3, seed=12)
    artifact = make_artifact(generator=generator, codebook=codebook)
    codes, labels = codebook.codes.detach().flatten(0, 1), torch.arange(3).repeat_interleave(6)
    with torch.no_grad():
        expected = generator(codes, labels)
    torch.testing.assert_close(artifact.sample(labels, codes=codes), expected)
    assert generator.training, "saving does not touch the run's own networks"
    assert all(p.requires_grad for p in generator.parameters())
    names = load_file(artifact.path / "generator.safetensors").keys()
    assert names == {f"generator.{n}" for n in generator.state_dict()} | {"codebook.codes"}


def test_same_run_writes_the_same_bytes(tmp_path, make_artifact):
    one, two = make_artifact(tmp_path / "one" / "a"), make_artifact(tmp_path / "two" / "a")
    for name in FILES:
        assert (one.path / name).read_bytes() == (two.path / name).read_bytes(), name


def test_recipe_tells_how_to_make_it_again(make_artifact):
    recipe = make_artifact(train="/some/where/train.beton").recipe
    expected = override(CONFIG, {"data.num_classes": 3})
    assert config_from_dict(recipe["config"]) == expected
    assert recipe["data"]["sha256"] == "ab" * 32
    assert (recipe["data"]["source"], recipe["data"]["counts"]) == ("a test", [4, 5, 6])
    assert recipe["data"]["file"] == "train.beton", "the folder on somebody's machine does not belong in a recipe"
    assert recipe["seeds"] == {"condense": 3, "prepare": 5}
    assert recipe["versions"]["torch"] == torch.__version__
    assert {"python", "raycondense", "ray", "ffcv"} <= recipe["versions"].keys()
    assert recipe["git_revision"] is None or len(recipe["git_revision"].removesuffix("-dirty")) == 40


def test_float16_halves_the_file_and_is_declared(tmp_path, make_artifact):
    whole = make_artifact(tmp_path / "whole")
    half = make_artifact(tmp_path / "half", dtype="float16")
    assert json.loads((half.path / "config.json").read_text())["dtype"] == "float16"
    assert half.bytes < 0.7 * whole.bytes
    assert half.codebook.codes.dtype == torch.float32
    assert torch.equal(half.codebook.codes, whole.codebook.codes.half().float())
    difference = (half.bank().images.int() - whole.bank().images.int()).abs()
    assert 0 < difference.max() <= 8


def test_scores_and_card_are_rewritten_together(artifact):
    before = {name: (artifact.path / name).read_bytes() for name in FILES}
    rows = [
        {"method": "raycondense", "architecture": "convnet", "ipc": 5, "accuracy": 0.4567, "std": 0.01, "students": 5}
    ]
    save_scores(artifact.path, {"rows": rows, "test": {"split": "test", "source": "a test"}})
    assert load(artifact.path).scores["rows"] == rows
    changed = {name for name in FILES if (artifact.path / name).read_bytes() != before[name]}
    assert changed == {"scores.json", "README.md"}
    with pytest.raises(ArtifactError, match=r"scores\.json: .*valid: finite"):
        save_scores(artifact.path, {"rows": float("nan")})


def test_weights_that_are_not_finite_are_not_published(tmp_path, make_artifact):
    codebook = Codebook(CONFIG.codebook, 3)
    with torch.no_grad():
        codebook.codes[0, 0, 0] = float("nan")
    with pytest.raises(
        ArtifactError, match=r"artifact/generator\.safetensors: codebook\.codes: found numbers that are not finite"
    ):
        make_artifact(codebook=codebook)
    with torch.no_grad():
        codebook.codes[0, 0, 0] = 1e6
    with pytest.raises(ArtifactError, match=r"not finite as torch\.float16"):
        make_artifact(codebook=codebook, dtype="float16")
    with pytest.raises(ArtifactError, match="unknown dtype 'int8'"):
        make_artifact(dtype="int8")
    assert list(tmp_path.iterdir()) == [], "nothing half-written stays"


def test_only_an_artefact_is_replaced(tmp_path, make_artifact):
    target = tmp_path / "photos"
    target.mkdir()
    make_artifact(target)  # an empty folder is nobody's
    make_artifact(target)
    shutil.rmtree(target)
    target.mkdir()
    (target / "cat.jpg").write_text("mine")
    with pytest.raises(ArtifactError, match=r"photos: exists and is no artefact"):
        make_artifact(target)
    assert (target / "cat.jpg").read_text() == "mine"


@pytest.mark.parametrize("name", ["generator.safetensors", "config.json", "recipe.json", "scores.json"])
def test_missing_file_is_named(artifact, name):
    (artifact.path / name).unlink()
    with pytest.raises(ArtifactError, match=rf"{name}: no such file"):
        load(artifact.path)


@pytest.mark.parametrize("name", ["generator.safetensors", "config.json", "recipe.json", "scores.json"])
@pytest.mark.parametrize("content", [b"", b"\xff\x00nonsense", b"[1, 2]", b"[" * 100_000, b"half"])
def test_damaged_file_is_named(artifact, name, content):
    file = artifact.path / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if content == b"half" else content)
    with pytest.raises(ArtifactError, match=rf"{name}: damaged"):
        load(artifact.path)


def edit(artifact, **changes):
    """Change fields of config.json; a dotted name is a field of a section, None removes it."""
    file = artifact.path / "config.json"
    values = json.loads(file.read_text())
    for name, value in changes.items():
        section, _, field = name.rpartition("__")
        place = values[section] if section else values
        place[field] = value
        if value is None:
            del place[field]
    file.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, r"config\.json: found format_version 2, valid: up to 1; a newer raycondense"),
        ({"format_version": "1"}, r"config\.json: damaged: found format_version '1'"),
        ({"format_version": True}, r"config\.json: damaged: found format_version True"),
        ({"mean": None}, r"config\.json: damaged: missing fields \['mean'\]"),
        ({"more": 1}, r"config\.json: damaged: .*unknown fields \['more'\]"),
        ({"generator__heads": 8}, r"config\.json: damaged: unknown field 'generator\.heads'"),
        ({"generator": 8}, r"config\.json: damaged: generator: found 8"),
        ({"generator__width": "8"}, r"config\.json: damaged: generator\.width: found '8'"),
        ({"generator__width": 7}, r"config\.json: damaged: generator\.width: found 7, valid: a multiple of 4"),
        (
            {"generator__blocks": 10**9},
            r"config\.json: damaged: generator\.blocks: found 1000000000, valid: at most 64",
        ),
        ({"generator__max_width": 10**9}, r"config\.json: damaged: generator\.max_width: .*at most"),
        ({"generator__class_dim": 10**9}, r"config\.json: damaged: generator\.class_dim: .*at most"),
        ({"codebook__ipc": [1, 10**9]}, r"config\.json: damaged: codebook\.ipc: .*at most"),
        ({"codebook__dim": 10**12}, r"config\.json: damaged: codebook\.dim: .*at most"),
        ({"codebook__dim": 1e300}, r"config\.json: damaged: codebook\.dim"),
        ({"resolution": 48}, r"config\.json: damaged: resolution: found 48, valid: 8, 16"),
        ({"resolution": 8.0}, r"config\.json: damaged: resolution: found '8.0', valid: int"),
        ({"num_classes": 4}, r"config\.json: damaged: num_classes: found 4, valid: 3"),
        ({"classes": ["a", "a", "b"]}, r"config\.json: damaged: classes: found a name twice"),
        ({"classes": []}, r"config\.json: damaged: classes: found none"),
        ({"classes": [1, 2, 3]}, r"config\.json: damaged: classes: valid: a list of str"),
        ({"mean": [0.1, 0.2]}, r"config\.json: damaged: mean"),
        ({"std": [0.1, 0.2, 0]}, r"config\.json: damaged: std"),
        ({"std": [0.1, 0.2, 1e999]}, r"config\.json: damaged: std"),
        ({"dtype": "int4"}, r"config\.json: damaged: dtype: found 'int4'"),
        ({"dtype": "float16"}, r"generator\.safetensors: not the weights .*found F32 .*valid: F16"),
        (
            {"generator__width": 16},
            r"generator\.safetensors: not the weights that config\.json describes: .*\(and \d+ more\)",
        ),
        ({"generator__blocks": 2}, r"generator\.safetensors: not the weights .* is missing"),
        ({"codebook__ipc": [1, 6]}, r"codebook\.codes: found F32 \[3, 6, 6\], valid: F32 \[3, 7, 6\]"),
        ({"classes": ["a", "b"], "num_classes": 2}, r"not the weights .*generator\.embedding\.weight"),
    ],
)
def test_configuration_that_cannot_be_is_refused(artifact, changes, message):
    edit(artifact, **changes)
    with pytest.raises(ArtifactError, match=message) as caught:
        load(artifact.path)
    assert "\n" not in str(caught.value)


def test_hostile_numbers_take_no_memory(artifact):
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    edit(artifact, generator__width=4096, generator__max_width=65536, codebook__dim=65536, resolution=256)
    with pytest.raises(ArtifactError, match=r"not the weights that config\.json describes"):
        load(artifact.path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kB; the weights would be terabytes"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("codebook.codes"), r"codebook\.codes is missing"),
        (lambda t: t.update(extra=torch.zeros(1)), r"extra is unknown"),
        (lambda t: t.update({"codebook.codes": t["codebook.codes"].double()}), r"codebook\.codes: found F64"),
        (lambda t: t.update({"codebook.codes": t["codebook.codes"] * torch.inf}), r"codebook\.codes: .*not finite"),
    ],
)
def test_tensors_are_checked_before_use(artifact, change, message):
    file = artifact.path / "generator.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    with pytest.raises(ArtifactError, match=rf"generator\.safetensors: .*{message}"):
        load(artifact.path)


def test_place_that_is_no_artefact_is_told_what_to_write(tmp_path, artifact, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match=r"user/thing: no such folder; .*write 'hf-hub:user/thing'"):
        load("user/thing")
    with pytest.raises(ArtifactError, match=r"/no/where/at/all: no such folder; .*'hf-hub:user/name'"):
        load("/no/where/at/all")
    with pytest.raises(ArtifactError, match=r"config\.json: is a file, valid: the folder"):
        load(artifact.path / "config.json")
    with pytest.raises(ArtifactError, match=r"config\.json: no such file; an artefact holds generator\.safetensors"):
        load(tmp_path)
    assert load(f"local-dir:{artifact.path}").classes == artifact.classes
    assert load("artifact").classes == artifact.classes


def test_push_needs_a_folder(artifact):
    artifact.path = None
    assert artifact.bytes == artifact.sizes().bytes
    with pytest.raises(ArtifactError, match="push: this artefact has no folder"):
        artifact.push("user/name")


def test_configuration_round_trips(artifact):
    assert ArtifactConfig.from_dict(json.loads(json.dumps(artifact.config.to_dict()))) == artifact.config
    with pytest.raises(ArtifactError, match="dtype"):
        dataclasses.replace(artifact.config, dtype="bfloat16")


def test_errors_are_ours(artifact):
    for mistake in (lambda: artifact.bank(7), lambda: artifact.sample(["bird"]), lambda: artifact.stream(ipc=2)):
        with pytest.raises(RaycondenseError):
            mistake()
    with pytest.raises(ConfigError, match="ipc: found 7, valid: 1, 5"):
        artifact.bank(7)


def test_networks_of_another_configuration_are_refused_at_save(tmp_path):
    sidecar = Sidecar(
        classes=("a",), counts=(1,), mean=(0.5,) * 3, std=(0.5,) * 3, resolution=8, encoding="raw", quality=None,
        source="", split="train", seed=0, sha256="", size=1,
    )  # fmt: skip
    generator = Generator(CONFIG.generator, num_classes=2, latent_dim=6, resolution=8)
    with pytest.raises(ArtifactError, match=r"/a/generator\.safetensors: not the weights that config\.json describes"):
        save_artifact(
            tmp_path / "a", generator=generator, codebook=Codebook(CONFIG.codebook, 2), config=CONFIG, sidecar=sidecar
        )
    assert list(tmp_path.iterdir()) == []
