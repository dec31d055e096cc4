"""Spaces: read strictly, fitted to a configuration, drawn from."""

from __future__ import annotations

import pickle
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from raycondense.config import Config
from raycondense.configfile import override
from raycondense.errors import ConfigError
from raycondense.presets import get_preset
from raycondense.tuning.space import Space


def space_of(**parameters: Any) -> Space:
    """A space whose paths have ``__`` for the dot."""
    return Space.from_dict({"parameters": {path.replace("__", "."): value for path, value in parameters.items()}})


INTRA = {"log": [0.001, 10], "off": 0.2}


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def test_a_file_as_people_write_it(tmp_path):
    path = write(
        tmp_path,
        "description: |\n  two\n  lines\nparameters:\n  losses.intra: {log: [1e-3, 10], off: 0.2}\n"
        "  losses.ce: {uniform: [0, 1], when: {extractors.weights: blend}}\n"
        "  codebook.dim: {int: [16, 128], log: true}\n  generator.width: {choice: [8, 16]}\n"
        "  extractors.draw: {choice: [step, rank]}\n  losses.intra_bounded: {choice: [true, false]}\n"
        "objectives: [accuracy, bytes]\n",
    )
    space = Space.load(path)
    assert space.name == "mine"
    assert space.objectives == ("accuracy", "bytes")
    assert [p.kind for p in space.parameters] == ["float", "float", "int", "choice", "choice", "choice"]
    intra = space.parameter("losses.intra")
    assert (intra.low, intra.high, intra.log, intra.off) == (0.001, 10.0, True, 0.2)
    assert space.parameter("losses.ce").when == (("extractors.weights", ("blend",)),)
    dim = space.parameter("codebook.dim")
    assert (dim.low, dim.high, dim.log) == (16, 128, True)
    assert type(dim.low) is int
    assert Space.from_dict(space.to_dict()) == space
    assert pickle.loads(pickle.dumps(space)) == space, "trials get it in other processes"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("parameters: {losses.intro: {log: [1, 2]}}", r"unknown field 'losses\.intro' \(did you mean 'losses\.intra'"),
        ("parameters: {intra: {log: [1, 2]}}", r"did you mean 'losses\.intra'"),
        ("parameters: {losses: {log: [1, 2]}}", r"losses: found 0 .*valid: fields"),
        ("parameters: {evaluation.lr: {log: [1, 2]}}", r"evaluation\.lr: cannot be searched: .*--evaluation\.lr"),
        ("parameters: {condense.images: {int: [1, 2]}}", r"condense\.images: cannot be searched"),
        ("parameters: {codebook.ipc: {choice: [1, 2]}}", r"codebook\.ipc: cannot be searched"),
        ("parameters: {augment.strategy: {choice: [flip, crop]}}", r"augment\.strategy: cannot be searched"),
        ("parameters: {losses.intra: {lg: [1, 2]}}", r"losses\.intra: unknown key 'lg' \(did you mean 'log'"),
        ("parameters: {losses.intra: {off: 0.2}}", r"losses\.intra: found no range, valid: log"),
        ("parameters: {losses.intra: {log: [1, 2], uniform: [1, 2]}}", r"found log, uniform, valid: log"),
        ("parameters: {losses.intra: {int: [1, 2]}}", r"losses\.intra: found int, valid: log: \[low, high\], uniform"),
        ("parameters: {codebook.dim: {uniform: [1, 2]}}", r"codebook\.dim: found uniform, valid: int"),
        ("parameters: {codebook.dim: {log: [1, 2]}}", r"codebook\.dim: found log, valid: int"),
        ("parameters: {extractors.draw: {uniform: [0, 1]}}", r"extractors\.draw: found uniform, valid: choice"),
        ("parameters: {losses.intra: 0.5}", r"losses\.intra: found 0\.5, valid: \{log"),
        ("parameters: {losses.intra: {log: [2, 1]}}", r"losses\.intra: log: found \[2, 1\], an empty range"),
        ("parameters: {losses.intra: {log: [1, 1]}}", r"an empty range"),
        ("parameters: {losses.intra: {log: [0, 1]}}", r"valid for a logarithm: more than 0"),
        ("parameters: {losses.intra: {log: [1, .inf]}}", r"two finite numbers"),
        ("parameters: {losses.intra: {log: [1, x]}}", r"two finite numbers"),
        ("parameters: {losses.intra: {log: [1]}}", r"two finite numbers"),
        ("parameters: {losses.intra: {log: [false, true]}}", r"two finite numbers"),
        ("parameters: {codebook.dim: {int: [1.5, 4]}}", r"two whole numbers"),
        ("parameters: {codebook.dim: {int: [4, 8], log: 1}}", r"log: found 1, valid beside int: true or false"),
        ("parameters: {losses.intra: {log: [1, 2], off: 1}}", r"off: found 1, valid: a probability between 0 and 1"),
        ("parameters: {losses.intra: {uniform: [0, 2], off: 0.1}}", r"off: found with a range that holds 0 itself"),
        ("parameters: {losses.intra: {choice: [1, 2], off: 0.1}}", r"off: found with a choice"),
        ("parameters: {losses.intra: {choice: [1]}}", r"choice: found \[1\], valid: a list of two or more"),
        ("parameters: {losses.intra: {choice: [1, 1]}}", r"each value once"),
        ("parameters: {losses.intra: {choice: [[1], [2]]}}", r"valid: numbers, words, true and false"),
        ("parameters: {generator.width: {times: [0, 1]}}", r"times: found \[0, 1\], valid: factors, more than 0"),
        ("parameters: {losses.ce: {log: [1, 2], when: 3}}", r"when: found 3"),
        ("parameters: {losses.ce: {log: [1, 2], when: {extractors.wheights: blend}}}", r"did you mean 'extractors\.w"),
        ("parameters: {losses.ce: {log: [1, 2], when: {extractors.weights: [{a: 1}]}}}", r"found \{'a': 1\}"),
        ("parameters: {losses.intra: {log: [1, 2]}, losses.intra: {log: [1, 3]}}", r"losses\.intra: set twice"),
        ("parameters: {}", r"parameters: found \{\}, valid: one or more"),
        ("objectives: [accuracy]", r"parameters: found None"),
        ("parameter: {losses.intra: {log: [1, 2]}}", r"unknown field of a space 'parameter' \(did you mean"),
        ("parameters: {losses.intra: {log: [1, 2]}}\nobjectives: [acuracy]", r"unknown objective 'acuracy' \(did"),
        ("parameters: {losses.intra: {log: [1, 2]}}\nobjectives: [bytes]", r"objectives: found \[bytes\], valid"),
        ("parameters: {losses.intra: {log: [1, 2]}}\nobjectives: accuracy", r"objectives: found 'accuracy'"),
        ("parameters: {losses.intra: {log: [1, 2]}}\ndescription: [a]", r"description: found \['a'\], valid: text"),
        ("- 1", r"found \[1\]"),
        (
            "parameters: {losses.realism: {log: [1, 2], when: {initialise.method: gan}}, "
            "initialise.method: {choice: [gan, none]}}",
            r"initialise\.method has to stand before losses\.realism",
        ),
    ],
)  # fmt: skip
def test_mistakes_in_a_file_name_it_and_what_is_valid(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        Space.load(write(tmp_path, text))
    assert str(caught.value).startswith(str(tmp_path / "mine.yaml"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"losses__intra": {"uniform": [-1, 1]}}, r"losses\.intra: found -1\.0, valid: 0 \(off\)"),
        ({"generator__width": {"choice": [8, 9]}}, r"generator\.width: found 9, valid: a multiple of 4"),
        ({"generator__width": {"choice": [8, "x"]}}, r"generator\.width: found 'x' \(str\), valid: a whole number"),
        ({"generator__width": {"int": [16, 64]}}, r"generator\.max_width: found 32, .*at least generator\.width = 64"),
        ({"extractors__draw": {"choice": ["step", "ranks"]}}, r"extractors\.draw: found 'ranks', valid: step, rank"),
        ({"losses__realism": {"log": [0.1, 1]}}, r"losses\.realism: .*unless initialise\.method is gan"),
        ({"losses__ce": {"times": [0.5, 1]}}, r"losses\.ce: times: the configuration's own value is 0"),
        ({"condense__lr_codebook": {"log": [0.1, 1]}, "losses__ce": {"uniform": [-2, 1]}}, r"losses\.ce: found -2"),
    ],
)
def test_ends_that_the_configuration_refuses_are_found_before_the_start(parameters, message):
    with pytest.raises(ConfigError, match=message) as caught:
        space_of(**parameters).for_config(get_preset("digits"))
    assert "combination" not in str(caught.value)


def test_combinations_that_the_configuration_refuses_are_found_before_the_start():
    # Each alone is fine with the preset's other value (16 and 32).
    space = space_of(generator__width={"choice": [16, 32]}, generator__max_width={"choice": [16, 64]})
    with pytest.raises(ConfigError, match=r"in the combination generator\.width = 32, generator\.max_width = 16"):
        space.for_config(get_preset("digits"))


def test_combinations_among_many_parameters_are_found_too():
    many = {f"losses__{name}": INTRA for name in ("intra", "inter", "ce", "matching_weight")}
    many |= {f"condense__{name}": {"log": [1e-4, 1], "off": 0.1} for name in ("lr_generator", "lr_codebook")}
    many |= {f"losses__{name}_temperature": {"log": [0.1, 1]} for name in ("intra", "inter")}
    config = get_preset("digits")
    space_of(**many, generator__width={"choice": [4, 16]}).for_config(config)
    with pytest.raises(ConfigError, match=r"generator\.width"):
        space_of(**many, generator__width={"choice": [4, 17]}).for_config(config)


def test_factors_become_values_of_the_configuration():
    space = space_of(generator__width={"times": [0.25, 0.5, 1]}, condense__lr_codebook={"times": [0.1, 1]})
    fitted = space.for_config(get_preset("digits"))
    assert fitted.parameter("generator.width").choices == (4, 8, 16)
    assert fitted.parameter("condense.lr_codebook").choices == pytest.approx((0.001, 0.01))
    assert fitted.for_config(get_preset("digits")) == fitted, "fitting is done once"


def test_conditions_on_the_configuration_leave_parameters_out():
    space = space_of(losses__intra=INTRA, losses__realism={"log": [0.1, 1], "when": {"initialise.method": "gan"}})
    fitted = space.for_config(get_preset("digits"))
    assert [p.path for p in fitted.parameters] == ["losses.intra"]
    assert fitted.left_out == ("losses.realism: left out, initialise.method is 'reconstruct' and not 'gan'",)
    gan = override(get_preset("digits"), {"initialise.method": "gan"})
    assert [p.path for p in space.for_config(gan).parameters] == ["losses.intra", "losses.realism"]
    with pytest.raises(ConfigError, match=r"no parameter is left: losses\.realism"):
        space_of(losses__realism={"log": [0.1, 1], "when": {"initialise.method": "gan"}}).for_config(Config())


def test_conditions_on_another_parameter_are_decided_in_each_draw():
    space = space_of(
        initialise__method={"choice": ["gan", "none"]},
        losses__realism={"log": [0.1, 1], "when": {"initialise.method": "gan"}},
    ).for_config(get_preset("digits"))
    rng = random.Random(0)
    drawn = [space.sample(rng) for _ in range(50)]
    assert {tuple(values) for values in drawn} == {
        ("initialise.method", "losses.realism"), ("initialise.method",)
    }  # fmt: skip
    assert all(("losses.realism" in values) == (values["initialise.method"] == "gan") for values in drawn)
    assert all(space.contains(values) for values in drawn)
    assert not space.contains({"initialise.method": "none", "losses.realism": 0.5})


def test_where_a_condition_does_not_hold_a_loss_is_off():
    # The preset's own cross-entropy is refused with random extractors.
    config, ce = get_preset("cifar10"), {"log": [0.01, 10], "when": {"extractors.weights": "blend"}}
    weights = {"choice": ["random", "blend"]}
    with pytest.raises(
        ConfigError, match=rf"losses\.ce: found {config.losses.ce}, valid: 0 unless extractors\.weights"
    ):
        space_of(extractors__weights=weights, losses__ce=ce).for_config(config)
    space = space_of(extractors__weights=weights, losses__ce={**ce, "off": 0.1}).for_config(config)
    drawn = [space.sample(random.Random(seed)) for seed in range(30)]
    assert all(values["losses.ce"] == 0 for values in drawn if values["extractors.weights"] == "random")
    assert any(values["losses.ce"] for values in drawn)
    assert all(space.contains(values) for values in drawn)
    assert not space.contains({"extractors.weights": "random", "losses.ce": 0.5})
    assert not space.contains({"extractors.weights": "random"})
    assert space.start(config) == ({"extractors.weights": "blend", "losses.ce": config.losses.ce}, ())


def test_samples_depend_on_the_seed_alone_and_lie_in_the_space():
    space = space_of(
        losses__intra=INTRA,
        losses__inter={"uniform": [0.5, 1]},
        codebook__dim={"int": [4, 8]},
        extractors__width={"choice": [8, 16]},
    ).for_config(get_preset("digits"))
    config = get_preset("digits")
    first = [space.sample(random.Random(7)) for _ in range(2)]
    assert first[0] == first[1] != space.sample(random.Random(8))
    rng = random.Random(0)
    drawn = [space.sample(rng) for _ in range(400)]
    assert all(space.contains(values) for values in drawn)
    off = Counter(values["losses.intra"] == 0 for values in drawn)[True]
    assert 50 < off < 110, "a fifth"
    small = sum(0 < values["losses.intra"] < 0.1 for values in drawn)
    assert 120 < small < 200, "half of the logarithm"
    assert {values["codebook.dim"] for values in drawn} == {4, 5, 6, 7, 8}
    assert space.apply(config, drawn[0]).losses.intra == drawn[0]["losses.intra"]
    assert not space.contains({**drawn[0], "losses.intra": 1e-5})
    assert not space.contains({**drawn[0], "codebook.dim": 4.5})
    assert not space.contains({**drawn[0], "losses.ce": 1.0})
    assert not space.contains({"losses.intra": 1.0})


def test_the_configurations_own_values_are_a_point_of_the_space():
    config = override(get_preset("digits"), {"losses.intra": 0})
    space = space_of(
        losses__intra=INTRA, losses__inter={"log": [0.5, 1]}, codebook__dim={"int": [4, 8]},
        generator__width={"choice": [4, 12]}, extractors__draw={"choice": ["rank", "step"]},
    ).for_config(config)  # fmt: skip
    values, moved = space.start(config)
    assert values == {
        "losses.intra": 0.0, "losses.inter": 0.5, "codebook.dim": 8, "generator.width": 12, "extractors.draw": "step",
    }  # fmt: skip
    assert moved == ("losses.inter", "codebook.dim", "generator.width")
    assert space.contains(values)
    inside = space_of(losses__intra=INTRA, losses__inter=INTRA).for_config(config)
    assert inside.apply(config, inside.start(config)[0]) == config


def test_optuna_draws_from_a_space_and_takes_its_points():
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    config = get_preset("digits")
    space = space_of(
        initialise__method={"choice": ["gan", "none"]},
        losses__realism={"log": [0.1, 1], "off": 0.5, "when": {"initialise.method": "gan"}},
        losses__intra=INTRA,
        codebook__dim={"int": [4, 64], "log": True},
        losses__intra_bounded={"choice": [True, False]},
    ).for_config(config)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    points = [space.sample(random.Random(seed)) for seed in range(5)]
    for point in points:
        study.enqueue_trial(space.suggestions(point))
    drawn = []

    def objective(trial: optuna.Trial) -> float:
        drawn.append(space.draw(trial))
        return 0.0

    study.optimize(objective, n_trials=60)
    assert drawn[:5] == points
    assert all(space.contains(values) for values in drawn)
    assert 2 <= sum(values["losses.intra"] == 0 for values in drawn) <= 25


def test_lines_say_everything():
    text = "\n".join(
        space_of(
            losses__intra=INTRA, codebook__dim={"int": [4, 8]}, generator__width={"times": [1, 2]},
            losses__ce={"uniform": [0, 1], "when": {"extractors.weights": ["blend", "trained"]}},
        ).lines()
    )  # fmt: skip
    assert "losses.intra     0.001 to 10, uniform in the logarithm, or off (0) with probability 0.2" in text
    assert "codebook.dim     4 to 8, whole" in text
    assert "generator.width  the configuration's times 1, 2" in text
    assert "losses.ce        0 to 1, where extractors.weights is blend or trained" in text


def test_starting_points_are_completed_by_the_configuration_and_checked():
    parameters = {"losses.intra": {"log": [0.01, 1], "off": 0.2}, "losses.inter": {"log": [0.01, 10]}}
    space = Space.from_dict({"parameters": parameters, "starts": [{"losses.intra": 0}, {"losses.inter": 3}]})
    assert Space.from_dict(space.to_dict()) == space
    digits = get_preset("digits")
    assert space.for_config(digits).more_starts(digits) == [
        {"losses.intra": 0.0, "losses.inter": 0.1}, {"losses.intra": 0.1, "losses.inter": 3},
    ]  # fmt: skip
    for starts, message in (
        ([{"losses.inter": 20}], r"starts\[0\]\.losses\.inter: found 20, valid: "),
        ([{"losses.intre": 1}], r"starts\[0\]: unknown parameter of this space 'losses.intre' \(did you mean"),
        ({"losses.inter": 1}, "starts: found .* valid: a list of points"),
        ([{}], "starts: found .* valid: a list of points"),
    ):
        with pytest.raises(ConfigError, match=message):
            Space.from_dict({"parameters": parameters, "starts": starts}).for_config(digits)
