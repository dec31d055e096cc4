"""The repository as a newcomer meets it: what the documents say exists, and what must not be in it is not."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import raycondense
from raycondense.cli import VERBS

ROOT = Path(__file__).resolve().parents[2]
LARGEST_MODULE = 16 * 1024
# Files that may be larger, each with its one reason.
LARGER_MODULES = {"config.py": 24 * 1024}  # every setting with its help text, in one place

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
MAKE_TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def repository_files() -> list[Path]:
    """Every file that is in git or would be added to it."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def commands_in(text: str, program: str) -> set[str]:
    """First words after ``program`` in inline code and in lines of code of a Markdown document."""
    code = re.findall(r"`([^`\n]+)`", text)
    fenced = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in fenced for line in block.splitlines()]
    lines += [line for line in text.splitlines() if line.startswith("    ")]
    pattern = re.compile(rf"^\s*(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\S*/)?{program} +([a-z][a-z-]*)(?![\w=./*])")
    return {match[1] for candidate in [*code, *lines] if (match := pattern.match(candidate))}


def test_the_first_documents_are_there():
    for name in ("README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "docs/install.md", "docs/architecture.md"):
        assert (ROOT / name).is_file(), name


def test_the_readme_says_how_to_start():
    assert {"demo", "test"} <= commands_in((ROOT / "README.md").read_text(encoding="utf-8"), "make")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_documents_exist(path):
    text = path.read_text(encoding="utf-8")
    assert commands_in(text, "make") <= MAKE_TARGETS
    assert commands_in(text, "raycondense") <= set(VERBS)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_in_documents_lead_somewhere(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    relative = [target for target in targets if target and "://" not in target and not target.startswith("mailto:")]
    assert [target for target in relative if not (path.parent / target).exists()] == []


def test_commands_are_found_where_documents_have_them():
    text = "Run `make demo`, or\n```bash\n$ raycondense fit x.beton\nmake --help\n```\nmake no\n"
    text += "    .venv/bin/raycondense info a"
    assert commands_in(text, "make") == {"demo"}
    assert commands_in(text, "raycondense") == {"fit", "info"}


def test_modules_are_small():
    sizes = {path.relative_to(ROOT / "raycondense"): path.stat().st_size for path in ROOT.glob("raycondense/**/*.py")}
    too_large = {
        str(path): size for path, size in sizes.items() if size > LARGER_MODULES.get(str(path), LARGEST_MODULE)
    }
    assert not too_large


def test_no_file_names_a_registry_or_this_machine():
    # In two pieces each, so that this file does not name them either.
    hosts = ["pypi" + ".org", "python" + "hosted", "deb.debian" + ".org", "anaconda" + ".org", "npmjs" + ".org"]
    places = ["/work/" + "main", "/work/" + "shared", "/root" + "/", "download.pytorch" + ".org"]
    found = []
    for path in repository_files():
        data = path.read_bytes()
        if b"\0" not in data[:8000]:
            text = data.decode("utf-8", errors="replace")
            found += [f"{path.relative_to(ROOT)}: {word}" for word in [*hosts, *places] if word in text]
    assert not found


def test_no_data_in_the_repository():
    endings = {".beton", ".pt", ".pth", ".ckpt", ".npy", ".npz", ".safetensors"}
    large = [p for p in repository_files() if p.suffix in endings or p.stat().st_size > 2 * 1024**2]
    assert [str(path.relative_to(ROOT)) for path in large] == []


def test_versions_agree():
    assert raycondense.__version__ == PROJECT["version"]
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"version: {PROJECT['version']}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def constraints() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {name: Version(version) for name, version in pairs}


def test_constraints_are_plain_versions():
    for name, version in constraints().items():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name), name
        assert version.local is None, f"{name}=={version} is a local build"


def test_constraints_lie_within_the_declared_ranges():
    extras = PROJECT["optional-dependencies"].values()
    exact = constraints()
    for requirement in map(Requirement, [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]):
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        assert name in exact, f"{name}: run tools/freeze.py"
        assert requirement.specifier.contains(exact[name]), f"{requirement}: {exact[name]}"


@pytest.mark.parametrize("name", ["tools/setup.sh", ".ci/run"])
def test_scripts_run_in_bash(name):
    assert os.access(ROOT / name, os.X_OK)
    subprocess.run(["bash", "-n", ROOT / name], check=True)


def test_make_help_lists_every_target():
    done = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")}
    assert listed == MAKE_TARGETS
