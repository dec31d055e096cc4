"""`raycondense.doctor`: what it finds, what it advises, and that nothing broken breaks it."""

import io
import os

import pytest

from raycondense import doctor
from raycondense.doctor import Check, ProbeError


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Puts a module of a name with a source of its own before the real one, for probe processes alone."""

    def put(name: str, source: str) -> None:
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return put


@pytest.mark.parametrize(
    ("version", "status"), [((3, 10), "fail"), ((3, 11), "ok"), ((3, 13), "ok"), ((3, 14), "fail"), ((2, 7), "fail")]
)
def test_python(version, status):
    check = doctor.check_python(version)
    assert check.status == status
    assert ("3.11 to 3.13" in check.remedy) == (status == "fail")


def test_running_python_fits():
    assert doctor.check_python().status == "ok"


def test_packages_of_this_environment_fit():
    assert doctor.check_packages().status == "ok"


def test_packages_name_what_is_missing_and_what_is_old():
    check = doctor.check_packages(["numpy>=2", "no-such-package-zz>=1", "pillow<1", 'other-missing; extra == "hub"'])
    assert check.status == "fail"
    assert "no-such-package-zz is missing" in check.found
    assert "pillow is " in check.found
    assert "valid: <1" in check.found
    assert "numpy" not in check.found
    assert "other-missing" not in check.found
    assert check.remedy


def test_probe_returns_output():
    assert doctor.run_probe(["-c", "print('a\\nb')"]) == "a\nb"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise OSError('libfoo.so.1: cannot open')", "OSError: libfoo.so.1: cannot open"),
        ("import sys; sys.exit(3)", "exit code 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "killed by signal 11"),
        ("import time; time.sleep(30)", "no answer within 1 s"),
        ("import sys; sys.stderr.buffer.write(b'\\xff bad\\n'); sys.exit(1)", "bad"),
    ],
)
def test_probe_failures_are_one_line(code, message):
    with pytest.raises(ProbeError, match=message) as caught:
        doctor.run_probe(["-c", code], seconds=1)
    assert "\n" not in str(caught.value)


def test_torch_without_gpu_or_with_some(stand_in):
    fake = "__version__ = '2.9.1'\nclass version:\n    cuda = {cuda}\nclass cuda:\n    is_available = lambda: {gpu}\n"
    fake += "    device_count = lambda: 2\n    get_device_name = lambda i: f'GPU{{i}}'\n"
    fake += (
        "class ones:\n    def __init__(self, *a, **k): pass\n    sum = lambda self: self\n    item = lambda self: 2\n"
    )
    stand_in("torch", fake.format(cuda="'12.8'", gpu=True))
    assert doctor.check_torch() == [Check("PyTorch", "ok", "2.9.1 (CUDA 12.8)"), Check("GPU", "ok", "GPU0, GPU1")]
    stand_in("torch", fake.format(cuda=None, gpu=False))
    torch, gpu = doctor.check_torch()
    assert torch.found == "2.9.1 (CPU only)"
    assert gpu.name == "GPU"
    assert gpu.status in ("ok", "warn")


def test_broken_libraries_are_named_and_nothing_is_raised(stand_in):
    for name in ("torch", "ray", "ffcv"):
        stand_in(name, "raise ImportError('libX.so.9: cannot open shared object file')")
    (torch,) = doctor.check_torch()
    assert torch.status == "fail"
    assert "libX.so.9" in torch.found
    assert "torch" in torch.remedy
    ray = doctor.check_ray(start=True)
    assert ray.status == "fail"
    assert "libX.so.9" in ray.found
    assert "--cluster.workers 0" in ray.remedy
    torchvision = doctor.check_torchvision()
    assert torchvision.status == "fail"


def test_ffcv_that_does_not_import_is_a_warning(stand_in, monkeypatch):
    monkeypatch.setattr(doctor, "installed_version", lambda name: "1.0.2")
    stand_in("ffcv", "raise ImportError('libopencv_core.so.406: cannot open shared object file')")
    check = doctor.check_ffcv()
    assert check.status == "warn"
    assert "libopencv_core.so.406" in check.found
    assert "docs/install.md" in check.remedy


def test_ffcv_that_is_absent_is_a_warning(monkeypatch):
    monkeypatch.setattr(doctor, "installed_version", lambda name: None)
    check = doctor.check_ffcv()
    assert check.status == "warn"
    assert "resident loader" in check.found


def test_ffcv_really_decodes():
    if doctor.installed_version("ffcv") is None and os.environ.get("REQUIRE_FFCV") != "1":
        pytest.skip("FFCV is not installed")
    assert doctor.check_ffcv().status == "ok"


@pytest.mark.cluster
def test_ray_really_starts():
    assert doctor.check_ray(start=True).status == "ok"


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("MemTotal:       24000000 kB\nMemAvailable:   20000000 kB\n", "ok"),
        ("MemTotal:        2000000 kB\nMemAvailable:    1000000 kB\n", "warn"),
        ("MemTotal:        2000000 kB\n", "warn"),
        ("nonsense", "warn"),
    ],
)
def test_memory(tmp_path, text, status):
    (tmp_path / "meminfo").write_text(text)
    assert doctor.check_memory(tmp_path / "meminfo").status == status


def test_memory_of_another_system(tmp_path):
    assert doctor.check_memory(tmp_path / "absent").status == "warn"


def test_folder(tmp_path):
    enough = doctor.check_folder("Disk", tmp_path, 1, "move")
    assert (enough.status, enough.remedy) == ("ok", "")
    assert f"free in {tmp_path}" in enough.found
    full = doctor.check_folder("Disk", tmp_path, 1 << 60, "move")
    assert (full.status, full.remedy) == ("warn", "move")
    absent = doctor.check_folder("Disk", tmp_path / "absent", 1, "move")
    assert absent.status == "warn"
    assert "absent" in absent.found


def test_all_checks_together():
    checks = doctor.run_checks(quick=True)
    names = [check.name for check in checks]
    assert names == sorted(set(names), key=names.index)
    assert {"Python", "Packages", "PyTorch", "GPU", "torchvision", "Images", "Ray", "CPUs", "Memory", "Disk"} <= {
        *names
    }
    assert doctor.exit_code(checks) == 0
    assert all("\n" not in check.found for check in checks)


def test_printing_and_exit_code():
    checks = [Check("A", "ok", "1"), Check("Longer", "warn", "2", "mend it"), Check("B", "fail", "3", "buy it")]
    stream = io.StringIO()
    doctor.print_checks(checks, stream)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "ok    A       1"
    assert lines[2].strip() == "-> mend it"
    assert lines[-1] == "does not work: B; could be better: Longer"
    assert doctor.exit_code(checks) == 1
    assert doctor.exit_code(checks[:2]) == 0
    stream = io.StringIO()
    doctor.print_checks(checks[:1], stream)
    assert stream.getvalue().splitlines()[-1] == "everything that is needed works"
