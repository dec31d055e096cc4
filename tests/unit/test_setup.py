"""tools/setup.sh: which Python it takes, what it skips, and what it says when FFCV cannot be had.

A stand-in for Python carries the script through: it makes a virtual environment of one file, and its pip writes down
what it was asked for. Nothing is downloaded and apt-get is never called.
"""

import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# $STATE holds: pip.log, and "broken" where building FFCV is to fail.
PYTHON = """#!/usr/bin/env bash
case "$*" in
    *python_version*) echo @VERSION@ ;;
    *Python.h*) echo /dev/null ;;
    *"import ffcv"*) ;;
    *"import ensurepip"*) ;;
    *"%d.%d"*) echo 3.12 ;;
    "-m venv --clear "*) mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
    "-m pip --version") ;;
    "-m pip install"*)
        echo "$*" >> "$STATE/pip.log"
        if [[ $* == *ffcv==* && -e $STATE/broken ]]; then exit 1; fi ;;
    *) echo "unexpected: $*" >&2; exit 9 ;;
esac
"""


class Checkout:
    """A copy of what setup.sh needs, with Pythons of its own before all others."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state, self.bin = folder / "checkout", folder / "state", folder / "bin"
        shutil.copytree(ROOT / "tools", self.folder / "tools")
        for name in ("pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.folder / name)
        self.state.mkdir()
        self.bin.mkdir()
        for name in ("python", "python3", "python3.11", "python3.12", "python3.13"):
            self.install_python(name, "")

    def install_python(self, name: str, version: str) -> None:
        """Put a Python of ``version`` in the path; an empty version is one that does not run."""
        path = self.bin / name
        path.write_text(PYTHON.replace("@VERSION@", version) if version else "#!/bin/sh\nexit 127\n")
        path.chmod(0o755)

    def setup(self, **variables: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.bin}:/usr/bin:/bin"
        return subprocess.run(
            ["bash", "tools/setup.sh"],
            cwd=self.folder,
            env={"PATH": path, "STATE": str(self.state), "APT": "no", **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    def pip_calls(self) -> list[str]:
        """What pip was asked for since the last call."""
        log = self.state / "pip.log"
        calls = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return calls


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


@pytest.fixture
def ffcv_packages():
    """Skips where the system packages of FFCV are not installed: the script stops before it builds."""
    if not (shutil.which("g++") and shutil.which("pkg-config") and Path("/usr/include/opencv4").exists()):
        pytest.skip("FFCV's system packages are not installed")


def test_no_fitting_python_names_those_found(checkout):
    checkout.install_python("python3", "3.10.4")
    done = checkout.setup()
    assert done.returncode == 1
    assert "no Python 3.11 to 3.13 found (found: python3 is 3.10.4)" in done.stderr
    assert "make demo PYTHON=" in done.stderr
    assert checkout.pip_calls() == []


def test_no_python_at_all(checkout):
    done = checkout.setup()
    assert done.returncode == 1
    assert "(found: none)" in done.stderr


@pytest.mark.parametrize(
    ("version", "message"), [("3.9.2", "is Python 3.9.2; valid: 3.11 to 3.13"), ("", "is no Python that runs")]
)
def test_a_chosen_python_must_fit(checkout, version, message):
    checkout.install_python("mine", version)
    done = checkout.setup(PYTHON="mine")
    assert done.returncode == 1
    assert f"PYTHON=mine {message}" in done.stderr


def test_the_next_fitting_python_is_taken(checkout):
    checkout.install_python("python3", "3.10.4")
    checkout.install_python("python3.12", "3.12.8")
    done = checkout.setup()
    assert done.returncode == 0, done.stderr
    assert "Python 3.12.8" in done.stdout


def test_a_second_run_does_nothing_and_is_quick(checkout, ffcv_packages):
    checkout.install_python("python3", "3.11.7")
    first = checkout.setup()
    assert first.returncode == 0, first.stderr
    calls = checkout.pip_calls()
    assert len(calls) == 3
    assert ".[dev,hub]" in calls[0]
    assert all("--constraint constraints.txt" in call for call in calls)
    assert "--no-cache-dir --no-deps ffcv==1.0.2" in calls[1]
    start = time.monotonic()
    second = checkout.setup()
    assert time.monotonic() - start < 1
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert checkout.pip_calls() == []


def test_a_changed_project_or_python_is_installed_again(checkout, ffcv_packages):
    checkout.install_python("python3", "3.11.7")
    checkout.setup()
    checkout.pip_calls()
    with (checkout.folder / "pyproject.toml").open("a") as file:
        file.write("\n# a change\n")
    assert checkout.setup().returncode == 0
    assert len(checkout.pip_calls()) == 3
    checkout.install_python("python3.13", "3.13.1")
    done = checkout.setup(PYTHON="python3.13")
    assert "making .venv with Python 3.13.1" in done.stdout
    assert len(checkout.pip_calls()) == 3


def test_constraints_can_be_left_out(checkout):
    checkout.install_python("python3", "3.11.7")
    assert checkout.setup(CONSTRAINTS="none").returncode == 0
    assert not any("--constraint" in call for call in checkout.pip_calls())


def test_without_ffcv_it_goes_on_loudly(checkout, ffcv_packages):
    checkout.install_python("python3", "3.11.7")
    (checkout.state / "broken").touch()
    done = checkout.setup()
    assert done.returncode == 0
    assert "resident loader" in done.stderr
    assert "docs/install.md" in done.stderr
    checkout.pip_calls()
    # It does not try again until something has changed, but it says so each time.
    again = checkout.setup()
    assert again.returncode == 0
    assert "resident loader" in again.stderr
    assert checkout.pip_calls() == []


def test_required_ffcv_is_tried_again_and_fails(checkout, ffcv_packages):
    checkout.install_python("python3", "3.11.7")
    (checkout.state / "broken").touch()
    checkout.setup()
    done = checkout.setup(REQUIRE_FFCV="1")
    assert done.returncode == 1
    assert "REQUIRE_FFCV=1" in done.stderr
    (checkout.state / "broken").unlink()
    assert checkout.setup(REQUIRE_FFCV="1").returncode == 0


def test_missing_system_packages_are_named(checkout):
    checkout.install_python("python3", "3.11.7")
    tools = ["bash", "cat", "cut", "sha256sum", "df", "awk", "dirname", "mkdir", "cp", "mv", "rm", "env", "grep"]
    for name in tools:
        (checkout.bin / name).symlink_to(shutil.which(name))
    done = checkout.setup(PATH=str(checkout.bin))  # neither g++ nor pkg-config
    assert done.returncode == 0, done.stderr
    assert "not installing g++ pkg-config" in done.stderr
    assert "resident loader" in done.stderr
