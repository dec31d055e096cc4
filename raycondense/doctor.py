"""`raycondense doctor`: says what works on this machine, and how to mend what does not.

Each check looks at one thing and never raises. What can crash or hang (PyTorch's libraries, FFCV's compiled code,
starting Ray) runs in a process of its own with a time limit; those probes live in the rooms that may import them.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TextIO

from packaging.requirements import Requirement

OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)
PROBE_SECONDS = 120
GIB = 1024**3

TORCH_PROBE = """
import torch
print(torch.__version__, torch.version.cuda or "none", sep="|", end="|")
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
torch.ones(2, device="cuda" if names else "cpu").sum().item()
print(*names, sep=", ")
"""
TORCHVISION_PROBE = """
import torch, torchvision
torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
print(torchvision.__version__)
"""
FFCV_HELP = "`make setup` in a checkout of raycondense, or see docs/install.md"


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found."""

    name: str
    """What was looked at."""
    status: Literal["ok", "warn", "fail"]
    """It works; raycondense works without it or not as well as it could; raycondense needs it."""
    found: str
    """What there is, in one line."""
    remedy: str = ""
    """How to mend it; empty where nothing is to mend."""


class ProbeError(Exception):
    """A probe process failed; the message is the last line that it wrote."""


def run_probe(arguments: Iterable[str], seconds: float = PROBE_SECONDS) -> str:
    """Run ``python ARGUMENTS`` and return what it printed.

    Raises:
        ProbeError: it failed, was killed or took longer than ``seconds``.
    """
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise ProbeError(f"no answer within {seconds:.0f} s") from None
    except OSError as error:
        raise ProbeError(f"cannot start {sys.executable}: {error}") from None
    if done.returncode == 0:
        return done.stdout.strip()
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    if done.returncode < 0:
        raise ProbeError(f"the process was killed by signal {-done.returncode}")
    raise ProbeError(lines[-1] if lines else f"exit code {done.returncode}")


def check_python(version: tuple[int, int] | None = None) -> Check:
    """The Python version; ``version`` stands in for the running one."""
    running = version or (sys.version_info.major, sys.version_info.minor)
    found = f"{platform.python_version()} at {sys.executable}" if version is None else "{}.{}".format(*running)
    if OLDEST_PYTHON <= running <= NEWEST_PYTHON:
        return Check("Python", "ok", found)
    valid = "{}.{} to {}.{}".format(*OLDEST_PYTHON, *NEWEST_PYTHON)
    return Check("Python", "fail", found, f"raycondense runs on Python {valid}: make setup PYTHON=python3.12")


def installed_version(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_packages(requirements: Iterable[str] | None = None) -> Check:
    """The packages that raycondense requires, by name and version; ``requirements`` stands in for its metadata."""
    if requirements is None:
        try:
            requirements = importlib.metadata.requires("raycondense") or ()
        except importlib.metadata.PackageNotFoundError:
            return Check("Packages", "warn", "raycondense runs from its source folder, not installed", "make setup")
    wrong, good = [], 0
    for requirement in map(Requirement, requirements):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = installed_version(requirement.name)
        if version is None:
            wrong.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} is {version}, valid: {requirement.specifier}")
        else:
            good += 1
    if wrong:
        return Check("Packages", "fail", "; ".join(wrong), "make setup, or pip install raycondense again")
    return Check("Packages", "ok", f"all {good} required packages in valid versions")


def check_torch() -> list[Check]:
    """PyTorch, and the GPUs that it can compute on."""
    try:
        version, cuda, names = run_probe(["-c", TORCH_PROBE]).splitlines()[-1].split("|")
    except ProbeError as error:
        return [Check("PyTorch", "fail", str(error), "install it again: pip install --force-reinstall torch")]
    build = "CPU only" if cuda == "none" else f"CUDA {cuda}"
    checks = [Check("PyTorch", "ok", f"{version} ({build})")]
    if names:
        checks.append(Check("GPU", "ok", names))
    elif shutil.which("nvidia-smi") or Path("/dev/nvidia0").exists():
        remedy = (
            f"the driver may be too old for CUDA {cuda}: update it, or install a PyTorch for an older CUDA"
            if cuda != "none"
            else "install a PyTorch with CUDA: pip install --force-reinstall torch torchvision"
        )
        checks.append(Check("GPU", "warn", "there is one, but PyTorch cannot use it", remedy))
    else:
        checks.append(Check("GPU", "ok", "none; everything runs on the CPU"))
    return checks


def check_torchvision() -> Check:
    """torchvision, with its compiled operators."""
    try:
        return Check("torchvision", "ok", run_probe(["-c", TORCHVISION_PROBE]).splitlines()[-1])
    except ProbeError as error:
        remedy = "install the torchvision that belongs to this torch: pip install --force-reinstall torch torchvision"
        return Check("torchvision", "fail", str(error), remedy)


def check_ffcv() -> Check:
    """FFCV: whether it is there, and really decodes."""
    version = installed_version("ffcv")
    if version is None:
        return Check("FFCV", "warn", "not installed; the resident loader is used", FFCV_HELP)
    try:
        run_probe(["-m", "raycondense.data.probe"])
    except ProbeError as error:
        if str(error).startswith(("ImportError", "ModuleNotFoundError")):
            return Check("FFCV", "warn", f"{version} does not import; the resident loader is used: {error}", FFCV_HELP)
        return Check("FFCV", "fail", f"{version} does not work: {error}", f"build it again: {FFCV_HELP}")
    return Check("FFCV", "ok", f"{version}, decodes raw and JPEG images")


def check_pillow() -> Check:
    """Pillow's JPEG decoder, which `prepare` reads images with."""
    try:
        from PIL import features

        jpeg = features.version("libjpeg_turbo")
        if features.check("jpg"):
            turbo = f"libjpeg-turbo {jpeg}" if jpeg else "libjpeg without turbo"
            return Check("Images", "ok", f"Pillow {installed_version('pillow')} with {turbo}")
        found = "this Pillow cannot decode JPEG"
    except ImportError as error:
        found = str(error)
    return Check("Images", "fail", found, "pip install --force-reinstall pillow")


def check_ray(start: bool) -> Check:
    """Ray: its version, and with ``start`` whether it starts and runs a task."""
    version = installed_version("ray")
    reinstall = "pip install --force-reinstall 'ray[default,train,tune]'; without Ray: --cluster.workers 0"
    if version is None:
        return Check("Ray", "fail", "not installed", reinstall)
    if not start:
        return Check("Ray", "ok", f"{version} (not started)")
    try:
        run_probe(["-m", "raycondense.cluster.probe"])
    except ProbeError as error:
        remedy = "mend memory, shared memory and disk, if they are named below; without Ray: --cluster.workers 0"
        if str(error).startswith(("ImportError", "ModuleNotFoundError")):
            remedy = reinstall
        return Check("Ray", "fail", f"{version} does not start: {error}", remedy)
    return Check("Ray", "ok", f"{version}, starts and runs a task")


def check_cpus() -> Check:
    """CPUs that this process may use."""
    usable, present = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    return Check("CPUs", "ok", f"{usable} usable" + (f" of {present}" if usable != present else ""))


def check_memory(meminfo: Path = Path("/proc/meminfo")) -> Check:
    """Main memory, from Linux's ``meminfo``."""
    try:
        values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in meminfo.read_text().splitlines() if line}
        total, available = values["MemTotal"], values["MemAvailable"]
    except (OSError, KeyError, ValueError, IndexError):
        return Check("Memory", "warn", f"{meminfo} does not say how much there is")
    found = f"{available / GIB:.1f} GiB available of {total / GIB:.1f}"
    if available < 3 * GIB:
        return Check("Memory", "warn", found, "two Ray workers take about 2 GiB: end other programs")
    return Check("Memory", "ok", found)


def check_folder(name: str, folder: Path, needed: int, remedy: str) -> Check:
    """Whether ``folder`` can be written and has ``needed`` bytes free."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Check(name, "warn", f"{folder}: {error.strerror}", remedy)
    found = f"{free / GIB:.1f} GiB free in {folder}"
    if not os.access(folder, os.W_OK):
        return Check(name, "warn", f"{folder} cannot be written", remedy)
    return Check(name, "ok", found) if free >= needed else Check(name, "warn", found, remedy)


def run_checks(*, quick: bool = False, folder: Path = Path()) -> list[Check]:
    """Run all checks, the slow ones beside each other; about 10 s, under 5 s with ``quick``.

    Args:
        quick: do not start Ray and do not decode with FFCV.
        folder: where the data and runs are to be kept.
    """
    shm = "Ray's object store lies there; in Docker: docker run --shm-size=4g ..."
    parts: list[Callable[[], Check | list[Check]]] = [
        check_python,
        check_packages,
        check_torch,
        check_torchvision,
        check_pillow,
        partial(check_ray, start=not quick),
        check_cpus,
        check_memory,
        partial(check_folder, "Shared memory", Path("/dev/shm"), GIB, shm),
        partial(check_folder, "Disk", folder.absolute(), 2 * GIB, "free some space, or work in another folder"),
        partial(check_folder, "Temporary", Path(tempfile.gettempdir()), GIB, "free some space, or set TMPDIR"),
    ]
    if not quick:
        parts.insert(5, check_ffcv)
    with ThreadPoolExecutor(max_workers=3) as pool:
        results = list(pool.map(lambda part: part(), parts))
    return [check for result in results for check in (result if isinstance(result, list) else [result])]


def print_checks(checks: Iterable[Check], stream: TextIO | None = None) -> None:
    """Print one line a check, its remedy under it, and a summary."""
    stream = stream or sys.stdout
    checks = list(checks)
    width = max((len(check.name) for check in checks), default=0)
    for check in checks:
        print(f"{check.status:4}  {check.name:{width}}  {check.found}", file=stream)
        if check.remedy:
            print(f"{'':4}  {'':{width}}  -> {check.remedy}", file=stream)
    failed = [check.name for check in checks if check.status == "fail"]
    warned = [check.name for check in checks if check.status == "warn"]
    summary = f"does not work: {', '.join(failed)}" if failed else "everything that is needed works"
    print(summary + (f"; could be better: {', '.join(warned)}" if warned else ""), file=stream)


def exit_code(checks: Iterable[Check]) -> int:
    """0 unless something that is needed does not work, then 1."""
    return int(any(check.status == "fail" for check in checks))


def doctor(*, quick: bool = False, folder: Path = Path()) -> int:
    """Run all checks, print them and return the exit code: what ``raycondense doctor`` does."""
    checks = run_checks(quick=quick, folder=folder)
    print_checks(checks)
    return exit_code(checks)
