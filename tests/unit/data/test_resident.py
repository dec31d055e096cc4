"""The resident loader holds the whole set; the factories choose it where FFCV is not wanted or not there."""

import logging
import subprocess
import sys
from itertools import islice

import numpy as np
import pytest
import torch

from raycondense.config import Config, replace_path
from raycondense.data import resident
from raycondense.data.batches import ClassBatches
from raycondense.data.beton import BetonReader
from raycondense.data.class_plan import ShuffledPlan
from raycondense.data.open import choose_loader, open_class_batches, open_shuffled_batches
from raycondense.data.resident import ResidentClassBatches, ResidentShuffledBatches, load_resident
from raycondense.errors import ConfigError, DataError
from raycondense.testing.betons import write_beton

COUNTS = (11, 8, 14)


@pytest.fixture
def path(tmp_path):
    write_beton(tmp_path / "x.beton", COUNTS, resolution=16)
    return tmp_path / "x.beton"


def config(**changes):
    made = Config()
    wanted = {"data.resolution": 16, "data.loader": "resident", "condense.classes_per_step": 2} | changes
    for name, value in ({"condense.real_per_class": 4} | wanted).items():
        made = replace_path(made, name, value)
    return made


def test_loads_the_whole_set(path, monkeypatch):
    monkeypatch.setattr(resident, "_PIECE", 7)
    images = load_resident(path, resolution=16, device="cpu", threads=2)
    assert np.array_equal(images.numpy(), BetonReader(path).images(range(33)))


def test_too_large_for_memory(path, monkeypatch):
    monkeypatch.setattr(resident, "free_bytes", lambda device: 1000)
    with pytest.raises(DataError, match=r"x\.beton: 33 images of 16 px take .* set data\.loader to ffcv"):
        load_resident(path, resolution=16, device="cpu", threads=1)


def test_free_memory_is_known_here():
    free = resident.free_bytes(torch.device("cpu"))
    assert free is None or 1 << 20 < free < 1 << 50
    assert resident.free_bytes(torch.device("meta")) is None


def test_shuffled_batches(path):
    reader = BetonReader(path)
    plan = ShuffledPlan(33, seed=4, batch=10)
    with ResidentShuffledBatches(path, plan, resolution=16) as batches:
        for step, (images, labels) in enumerate(islice(batches.steps(2), 8), 2):
            indices = plan.indices(step)
            assert np.array_equal(images.numpy(), reader.images(indices))
            assert np.array_equal(labels.numpy(), reader.labels[indices])
            assert labels.dtype == torch.int64


def test_ranks_of_shuffled_batches(path):
    rows = []
    for rank, world in ((0, 1), (0, 2), (1, 2)):
        with open_shuffled_batches(path, config(), batch=9, seed=1, rank=rank, world_size=world) as batches:
            rows.append(next(iter(batches.steps(5))))
    assert torch.equal(torch.cat([rows[1].images, rows[2].images]), rows[0].images)
    assert torch.equal(torch.cat([rows[1].labels, rows[2].labels]), rows[0].labels)


def test_negative_step(path):
    with (
        open_class_batches(path, config()) as batches,
        pytest.raises(ConfigError, match="start: found step -1, valid: 0 or more"),
    ):
        batches.steps(-1)


def test_factory_uses_the_settings(path, caplog):
    with caplog.at_level(logging.INFO, "raycondense"):
        batches = open_class_batches(path, config(**{"condense.classes_per_step": 3}), rank=1, world_size=2)
    assert isinstance(batches, ResidentClassBatches)
    assert isinstance(batches, ClassBatches)
    assert (batches.plan.rank, batches.plan.world_size, batches.plan.real_per_class) == (1, 2, 4)
    assert "resident loader" in caplog.text
    assert str(path) in caplog.text


def test_factory_names_the_setting_that_does_not_fit(path):
    with pytest.raises(DataError, match=r"condense\.real_per_class: found 9, valid: 1 to 8"):
        open_class_batches(path, config(**{"condense.real_per_class": 9}))
    with pytest.raises(DataError, match=r"data\.resolution 32.*--resolution 32"):
        open_class_batches(path, config(**{"data.resolution": 32}))
    with pytest.raises(ConfigError, match="batch: found 1 images, valid: 2 or more"):
        open_shuffled_batches(path, config(), batch=1, seed=0, world_size=2)


def test_resident_does_not_need_ffcv():
    assert choose_loader("resident") == "resident"


SCRIPT = """
import logging, sys
logging.basicConfig(level=logging.INFO)
from raycondense.data.open import choose_loader
from raycondense.errors import DependencyError
print(choose_loader("auto"))
try:
    choose_loader("ffcv")
except DependencyError as error:
    print(error)
"""


@pytest.mark.parametrize("fault", ["raise ImportError('libopencv_core.so: no such file')", "import no_such_module"])
def test_ffcv_that_does_not_import(tmp_path, fault):
    """auto takes the resident loader and says why; forcing FFCV is an error that says how to install it."""
    (tmp_path / "ffcv").mkdir()
    (tmp_path / "ffcv" / "__init__.py").write_text(fault)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + SCRIPT
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    choice, message = done.stdout.splitlines()
    assert choice == "resident"
    assert message.startswith("data.loader: found ffcv, which does not import (")
    assert "pip install 'raycondense[ffcv]'" in message
    assert "set data.loader to auto or resident" in message
    assert "FFCV does not import" in done.stderr
