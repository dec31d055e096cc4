"""Importing the package, reading a configuration and asking for a preset stay light."""

import subprocess
import sys

import pytest

import raycondense

HEAVY = ("torch", "ray", "ffcv", "torchvision", "sklearn", "matplotlib", "PIL", "pyarrow", "numba", "numpy", "yaml")


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    "code",
    ["import raycondense", "from raycondense import presets; presets.cifar10()", "import raycondense.configfile"],
)
def test_no_heavy_module_comes_along(code):
    loaded = run(f"{code}\nimport sys\nprint([m for m in {HEAVY!r} if m in sys.modules])")
    assert loaded.strip() == "[]"


def test_import_takes_less_than_a_tenth_of_a_second():
    code = "import time; t = time.process_time(); import raycondense; print(time.process_time() - t)"
    assert min(float(run(code)) for _ in range(3)) < 0.1


def test_public_names():
    assert raycondense.Config is __import__("raycondense.config", fromlist=["Config"]).Config
    assert raycondense.presets.cifar10().name == "cifar10"
    assert set(raycondense.__all__) <= set(dir(raycondense))
    with pytest.raises(AttributeError, match="has no attribute 'condence'"):
        _ = raycondense.condence
