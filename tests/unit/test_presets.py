"""Every preset: valid, itself again through YAML and JSON, and sane for the data it is named after."""

import pytest

from raycondense.config import Config
from raycondense.configfile import config_from_dict, config_to_dict, load_config, override, save_config
from raycondense.errors import ConfigError
from raycondense.presets import PRESETS, get_preset

# Smallest class of the training set, and its resolution as the field uses it.
SMALLEST_CLASS = {
    "digits": (174, 8), "fashion_mnist": (6000, 32), "fashion_mnist_16": (6000, 16), "cifar10": (5000, 32),
    "cifar10_16": (5000, 16), "cifar100": (500, 32),
    "tiny_imagenet": (500, 64), "imagenette": (858, 128), "imagenet1k_64": (732, 64), "imagenet1k_128": (732, 128),
}  # fmt: skip
CLASSES = {"cifar100": 100, "tiny_imagenet": 200, "imagenet1k_64": 1000, "imagenet1k_128": 1000}


def test_there_are_presets_for_the_named_datasets():
    assert set(PRESETS) == set(SMALLEST_CLASS)


@pytest.mark.parametrize("name", PRESETS)
def test_preset_carries_its_name_and_fits_its_dataset(name):
    config = get_preset(name)
    smallest, resolution = SMALLEST_CLASS[name]
    assert isinstance(config, Config)
    assert config.name == name
    assert config.data.resolution == resolution
    # A fifth of a class may go to the validation split.
    assert config.condense.real_per_class <= 0.8 * smallest
    assert config.data.num_classes == CLASSES.get(name, 10)
    assert config.condense.classes_per_step <= config.data.num_classes
    assert config.condense.codes_per_step <= max(config.codebook.ipc)
    assert config.evaluation.diagnostics
    assert "values" in PRESETS[name].__doc__.lower(), (
        "a docstring says that the values are starting points, or names the run"
    )


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("ending", [".yaml", ".yml", ".json"])
def test_preset_round_trips_through_a_file(tmp_path, name, ending):
    config = get_preset(name)
    save_config(config, tmp_path / f"c{ending}")
    assert load_config(tmp_path / f"c{ending}") == config


@pytest.mark.parametrize("name", PRESETS)
def test_preset_can_be_overridden_and_named_in_a_file(tmp_path, name):
    config = override(get_preset(name), {"seed": 7, "losses.intra": 0.25})
    assert (config.seed, config.losses.intra) == (7, 0.25)
    (tmp_path / "mine.yaml").write_text(f"preset: {name}\nseed: 7\nlosses:\n  intra: 0.25\n")
    assert load_config(tmp_path / "mine.yaml") == config
    assert config_from_dict(config_to_dict(config)) == config


def test_digits_are_never_mirrored():
    config = get_preset("digits")
    assert "flip" not in config.augment.strategy
    assert "flip" not in config.evaluation.augment


def test_unknown_preset_names_the_nearest_and_all():
    with pytest.raises(ConfigError, match=r"'cifar11' \(did you mean 'cifar10+'\?\); valid: digits, .*imagenet"):
        get_preset("cifar11")
