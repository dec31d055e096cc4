"""Importing the package, reading a configuration and asking for a preset stay light, and a run imports what it uses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import raycondense
from raycondense.background import importing

HEAVY = ("torch", "ray", "ffcv", "torchvision", "sklearn", "matplotlib", "PIL", "pyarrow", "numba", "numpy", "yaml")
NEVER_IN_A_RUN = ("torchvision", "matplotlib", "torch.utils.tensorboard", "IPython", "ray")
"""Of a run in this process; on Ray, Ray's own modules come along."""


def run(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_after(code: str, watched: tuple[str, ...], *arguments: str) -> list[str]:
    """Which of the ``watched`` modules a fresh Python has loaded after ``code``."""
    told = f"{code}\nimport sys\nprint('loaded:', *[m for m in {watched!r} if m in sys.modules])"
    return run(told, *arguments).rsplit("loaded:", 1)[1].split()


@pytest.mark.parametrize(
    "code",
    ["import raycondense", "from raycondense import presets; presets.cifar10()", "import raycondense.configfile"],
)
def test_no_heavy_module_comes_along(code):
    assert loaded_after(code, HEAVY) == []


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["presets"], ["fit", "--help"]], ids=" ".join)
def test_verbs_that_only_tell_import_neither_torch_nor_ray(words):
    ends = "except SystemExit:\n    pass"
    code = f"from raycondense.cli import main\ntry:\n    main({words!r})\n{ends}"
    assert loaded_after(code, tuple(name for name in HEAVY if name != "yaml")) == []


def test_checking_a_run_before_ray_starts_needs_no_torch(digits: Path):
    """Torch is imported while Ray's processes start, so nothing before may wait for it."""
    code = (
        "import sys\nfrom raycondense.api.fitting import resolve_config, resolve_for_data\n"
        "from raycondense.api.claim import claim_folder\nfrom raycondense.data.staging import BetonLocation\n"
        "from raycondense.display import Display\nimport raycondense.cluster\n"
        "train = BetonLocation.find(sys.argv[1])\nresolve_for_data(resolve_config('digits'), train)"
    )
    late = ("torch", "ray", "ffcv", "numba", "sklearn", "pandas", "matplotlib")
    assert loaded_after(code, late, str(digits / "train.beton")) == []


def test_joining_a_cluster_needs_ray_alone():
    assert loaded_after("import raycondense.cluster.start", ("torch", "ray.train", "ray.data", "pandas")) == []


def test_a_run_imports_what_it_uses(digits: Path, tmp_path: Path):
    code = (
        "import sys, raycondense\n"
        "raycondense.fit('digits', data=sys.argv[1], out=sys.argv[2], device='cpu', progress=False,\n"
        "    cluster={'workers': 0}, extractors={'weights': 'random'}, initialise={'method': 'none'},\n"
        "    condense={'images': 1280, 'log_images': 1280}, **{'data.loader': 'resident'})"
    )
    never = (*NEVER_IN_A_RUN, "ffcv", "numba", "sklearn", "scipy", "pandas", "cv2")
    assert loaded_after(code, never, str(digits / "train.beton"), str(tmp_path / "run")) == []


def test_ffcv_is_imported_without_compiling():
    pytest.importorskip("ffcv")
    code = (
        "import torch\nfrom raycondense.data.import_ffcv import import_ffcv\ntorch.set_num_threads(2)\nimport_ffcv()\n"
        "from ffcv.fields.rgb_image import IMAGE_MODES\nfrom numba import typed\n"
        "print(type(IMAGE_MODES).__name__, sorted(IMAGE_MODES), typed.Dict.__module__, torch.get_num_threads())"
    )
    assert run(code).split() == ["dict", "['jpg',", "'raw']", "numba.typed.typeddict", "2"]


def test_import_takes_less_than_a_tenth_of_a_second():
    code = "import time; t = time.process_time(); import raycondense; print(time.process_time() - t)"
    assert min(float(run(code)) for _ in range(3)) < 0.1


def test_a_module_is_imported_while_something_else_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "slow_module_of_a_test.py").write_text("import time\ntime.sleep(0.2)\ndone = True\n")
    (tmp_path / "broken_module_of_a_test.py").write_text("raise ImportError('its library is missing')\n")
    with importing("slow_module_of_a_test"):
        pass
    assert sys.modules["slow_module_of_a_test"].done
    ran = []
    with pytest.raises(ImportError, match="its library is missing"), importing("broken_module_of_a_test"):
        ran.append(os.getpid())
    assert ran
    # What the block raises is not hidden by what the module raises.
    with pytest.raises(KeyboardInterrupt), importing("broken_module_of_a_test"):
        raise KeyboardInterrupt


def test_public_names():
    assert raycondense.Config is __import__("raycondense.config", fromlist=["Config"]).Config
    assert raycondense.presets.cifar10().name == "cifar10"
    assert set(raycondense.__all__) <= set(dir(raycondense))
    with pytest.raises(AttributeError, match="has no attribute 'condence'"):
        _ = raycondense.condence
