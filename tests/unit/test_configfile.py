"""Strict reading of configurations: what is not understood is an error that names the field."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycondense.config import CodebookConfig, Config, GeneratorConfig, LossConfig
from raycondense.configfile import (
    config_from_dict,
    config_to_dict,
    config_to_yaml,
    field_paths,
    load_config,
    override,
    save_config,
    section_from_dict,
)
from raycondense.errors import ConfigError

numbers = st.floats(min_value=0, max_value=1e9, allow_nan=False)


def test_dict_is_plain_and_complete():
    plain = config_to_dict(Config())
    assert json.loads(json.dumps(plain)) == plain
    assert plain["codebook"]["ipc"] == [10]
    assert set(plain) == {field.name for field in dataclasses.fields(Config)}
    assert config_from_dict(plain) == Config()


@given(intra=numbers, images=st.integers(1, 10**12), flag=st.booleans(), ipc=st.sets(st.integers(1, 99), min_size=1))
def test_any_valid_configuration_round_trips_through_yaml_and_json(tmp_path_factory, intra, images, flag, ipc):
    config = override(
        Config(name="x: y # 'z'"),
        {"losses.intra": intra, "condense.images": images, "data.os_cache": flag, "codebook.ipc": sorted(ipc)},
    )
    folder = tmp_path_factory.mktemp("round")
    for ending in (".yaml", ".json"):
        save_config(config, folder / f"c{ending}")
        assert load_config(folder / f"c{ending}") == config


def test_override_takes_dotted_and_nested_together():
    config = override(Config(), {"losses.intra": 0.3, "losses": {"inter": 0.2}, "seed": 4, "codebook": {"ipc": [1, 5]}})
    assert config.losses == LossConfig(intra=0.3, inter=0.2)
    assert config.codebook.ipc == (1, 5)
    assert config.seed == 4
    assert override(Config(), {"losses.intra": 0.1, "losses": {"intra": 0.1}}) == Config()
    assert override(config, {}) == config


def test_fields_that_depend_on_each_other_change_together_in_any_order():
    for keys in (("losses.ce", "extractors.weights"), ("extractors.weights", "losses.ce")):
        values = {"losses.ce": 0.5, "extractors.weights": "blend"}
        assert override(Config(), {key: values[key] for key in keys}).losses.ce == 0.5
    with pytest.raises(ConfigError, match=r"losses\.ce"):
        override(Config(), {"losses.ce": 0.5})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"losses.intre": 1}, r"unknown field 'losses\.intre' \(did you mean 'losses\.intra'\?\); valid in losses: "),
        ({"losses": {"intre": 1}}, r"unknown field 'losses\.intre' \(did you mean 'losses\.intra'\?\)"),
        ({"intra": 1}, r"unknown field 'intra' \(did you mean 'losses\.intra'\?\); valid: name, seed, data"),
        ({"lr": 1}, r"did you mean 'initialise\.lr' or 'evaluation\.lr'\?"),
        ({"loss": {"intra": 1}}, r"unknown field 'loss' \(did you mean 'losses'\?\)"),
        ({"generator.code_dim": 1}, r"unknown field 'generator\.code_dim' \(did you mean 'generator\.class_dim'"),
        ({3: 1}, r"unknown field '3'"),
        ({"losses": 3}, r"losses: found 3 \(int\), valid: fields with values"),
        ({"losses.intra.more": 3}, r"losses\.intra\.more: losses\.intra is a value"),
        ({"losses.intra": 0.1, "losses": {"intra": 0.2}}, r"losses\.intra: set twice, to 0\.1 .* and to 0\.2"),
        ({"losses.intra": "0.1"}, r"losses\.intra: found '0\.1' \(str\), valid: a finite number"),
        ({"losses.intra": True}, r"losses\.intra: found True \(bool\), valid: a finite number"),
        ({"losses.intra": float("nan")}, r"losses\.intra: found nan .*finite"),
        ({"condense.images": 1.5}, r"condense\.images: found 1\.5 \(float\), valid: a whole number"),
        ({"condense.images": float("inf")}, r"condense\.images: found inf"),
        ({"condense.images": None}, r"condense\.images: found None \(NoneType\)"),
        ({"data.os_cache": 1}, r"data\.os_cache: found 1 \(int\), valid: true or false"),
        ({"name": 5}, r"name: found 5 \(int\), valid: text"),
        ({"codebook.ipc": 10}, r"codebook\.ipc: found 10 \(int\), valid: a list"),
        ({"codebook.ipc": [1, "x"]}, r"codebook\.ipc\[1\]: found 'x' \(str\), valid: a whole number"),
        ({"augment.strategy": "color"}, r"augment\.strategy: found 'color' \(str\), valid: a list"),
        ({"augment.strategy": ["colour"]}, r"augment\.strategy: found 'colour', valid: color, crop"),
        ({"data.loader": "dali"}, r"data\.loader: found 'dali', valid: auto, ffcv, resident"),
        ({"data.loader": 1}, r"data\.loader: found 1 \(int\), valid: auto, ffcv, resident"),
        ({"data.resolution": 33}, r"data\.resolution: found 33, valid: 8, 16"),
    ],
)
def test_what_is_wrong_is_named_with_what_was_found_and_what_is_valid(values, message):
    with pytest.raises(ConfigError, match=message) as caught:
        override(Config(), values, source="mine.yaml")
    assert str(caught.value).startswith("mine.yaml: ")
    assert "\n" not in str(caught.value)


def test_whole_floats_and_numpy_numbers_are_numbers():
    config = override(Config(), {"condense.images": 1e6, "seed": np.int64(3), "losses.intra": np.float32(0.5)})
    assert (config.condense.images, config.seed, config.losses.intra) == (1_000_000, 3, 0.5)
    assert type(config.condense.images) is int
    assert type(config.seed) is int
    assert type(override(Config(), {"losses.intra": 1}).losses.intra) is float


def test_one_section_can_be_read_alone():
    assert section_from_dict(CodebookConfig, {"ipc": [2], "dim": 8}, name="codebook") == CodebookConfig(ipc=(2,), dim=8)
    with pytest.raises(ConfigError, match=r"config\.json: unknown field 'generator\.heads'.*valid in generator: width"):
        section_from_dict(GeneratorConfig, {"heads": 8}, name="generator", source="config.json")
    with pytest.raises(ConfigError, match=r"generator: found \[1\] \(list\)"):
        section_from_dict(GeneratorConfig, [1], name="generator")


def test_yaml_reads_numbers_as_people_write_them(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("condense:\n  lr_generator: 5e-4\n  images: 1e6\n  lr_codebook: 1.5E-2\nname: e5\n")
    config = load_config(file)
    assert (config.condense.lr_generator, config.condense.images, config.condense.lr_codebook) == (5e-4, 10**6, 0.015)
    assert config.name == "e5"


def test_file_changes_only_what_it_holds(tmp_path):
    file = tmp_path / "c.yml"
    file.write_text("# nothing but a comment\n")
    base = Config(seed=9)
    assert load_config(file) == Config()
    assert load_config(file, base=base) == base
    file.write_text("losses.inter: 0.5\n")
    assert load_config(file, base=base) == override(base, {"losses.inter": 0.5})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.toml", "", r"ending '\.toml' of a configuration file; valid: \.yaml, \.yml, \.json"),
        ("c.yaml", "seed: [", r"c\.yaml: not valid YAML: .*line"),
        ("c.json", "{", r"c\.json: not valid JSON"),
        ("c.json", "null", r"c\.json: found None"),
        ("c.json", "[" * 100_000, r"c\.json: not valid JSON"),
        ("c.yaml", "- 1\n", r"c\.yaml: found \[1\] \(list\), valid: fields with values"),
        ("c.yaml", "seed: 1\nseed: 2\n", r"c\.yaml: seed: set twice \(line 2\)"),
        ("c.json", '{"losses": {"intra": 1, "intra": 2}}', r"c\.json: intra: set twice"),
        ("c.yaml", "seed: !!python/object/apply:os.getcwd []\n", r"c\.yaml: not valid YAML"),
        ("c.yaml", "preset: cifar\n", r"c\.yaml: unknown preset 'cifar' \(did you mean"),
        ("c.yaml", "preset: 3\n", r"c\.yaml: preset: found 3"),
        ("c.yaml", "seed: -1\n", r"c\.yaml: seed: found -1, valid: 0 or more"),
        ("c.yaml", "name: " + "x" * (1 << 20), r"c\.yaml: found \d+ bytes, valid"),
    ],
)
def test_bad_file_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file"):
        load_config(tmp_path / "nowhere.yaml")


def test_bytes_that_are_no_text_are_named(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"c\.yaml: not valid YAML"):
        load_config(tmp_path / "c.yaml")


def test_yaml_text_keeps_the_order_of_fields_and_short_lists():
    text = config_to_yaml(Config())
    assert text.startswith("name: custom\nseed: 0\ndata:\n  resolution: 32\n")
    assert "  ipc: [10]\n" in text


def test_field_paths_are_all_fields():
    assert "losses.intra" in field_paths()
    assert "losses" not in field_paths()
    assert len(set(field_paths())) == len(field_paths())


def test_workers_are_a_number_or_two(tmp_path):
    for value, expected in ((3, 3), (0, 0), ([1, 4], (1, 4)), ((2, 2), (2, 2)), ([1.0, 4.0], (1, 4))):
        config = override(Config(), {"cluster.workers": value})
        assert config.cluster.workers == expected
        save_config(config, tmp_path / "c.yaml")
        assert load_config(tmp_path / "c.yaml") == config
    elastic = override(Config(), {"cluster.workers": [1, 4]}).cluster
    assert (elastic.fewest_workers, elastic.most_workers) == (1, 4)
    assert (Config().cluster.fewest_workers, Config().cluster.most_workers) == (1, 1)


@pytest.mark.parametrize("value", [[4, 1], [0, 2], [1], [1, 2, 3], [1, 2.5], "3", -1, None, True, {"least": 1}])
def test_other_workers_are_refused(value):
    with pytest.raises(ConfigError, match=r"cluster\.workers"):
        override(Config(), {"cluster.workers": value})
