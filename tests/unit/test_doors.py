"""The walls of the house: which room of the package may import which, and where outside packages may be known.

A room is a folder or a module directly under ``raycondense/``. An import that fails here either goes through a wall, or
a new door was decided on: then it is added to ``DOORS`` and to docs/architecture.md in the same change.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "raycondense"

# Room → rooms it may know. Any room may know errors; anything that is not listed here is closed.
DOORS = {
    # The ground: no room of the method.
    "redact": "",
    "shapes": "",
    "errors": "redact",
    "storage": "",
    "config": "",
    "presets": "config",
    "configfile": "config presets storage",
    "seeds": "",
    "stopwatch": "",
    "tensorboard": "",
    "checkpoint": "storage",
    "patience": "",
    "background": "",
    "memory": "",
    "host": "checkpoint patience storage tensorboard",
    "remote": "patience redact storage",
    # The parts of the method: they know torch, settings and nothing of where they run.
    "losses": "config seeds",
    "models": "config seeds",
    "augment": "config seeds",
    "data": "config patience remote seeds storage",
    # The loop.
    "state": "shapes storage checkpoint config models seeds",
    "updates": "host state stopwatch",
    "progress": "config host state stopwatch",
    "execution": "config state",
    "step": "augment config data execution host losses models seeds state stopwatch updates",
    "initialise": "augment config data execution host losses models progress seeds state updates",
    "condense": "config data execution host initialise memory models progress state step updates",
    "planning": "artifact augment condense config configfile data display host initialise memory models seeds state "
    "step updates",
    # What comes out of it.
    "artifact": "__init__ config configfile data models seeds shapes storage",
    "publish": "artifact config data state",
    "evaluation": "__init__ artifact augment config configfile data memory models redact seeds shapes storage",
    "tuning": "config configfile redact shapes storage",
    "report": "artifact data display evaluation shapes storage tuning",
    # Where it runs, and the public face.
    "cluster": "artifact background checkpoint condense config configfile data display evaluation host patience "
    "publish redact remote seeds state storage tensorboard tuning",
    "api": "artifact background cluster condense config configfile data display evaluation host patience planning "
    "presets publish redact remote report storage tuning",
    "__init__": "api artifact config data presets redact",
    "testing": "api artifact augment condense config configfile data evaluation host losses models presets seeds state "
    "storage tuning",
    # The command line.
    "display": "host",
    "doctor": "",
    "info": "artifact config data evaluation models presets storage",
    "demo": "api data display presets",
    "verbs": "api artifact cli config configfile data demo display doctor evaluation info presets storage",
    "verbs_leaderboard": "cli evaluation storage",
    "verbs_sweep": "api cli config data presets tuning verbs",
    "verbs_submit": "cli cluster verbs",
    "verbs_plan": "api cli config storage verbs",
    "cli": "__init__ redact verbs verbs_leaderboard verbs_plan verbs_submit verbs_sweep",
}

# Outside package → the rooms that may know it at all.
AT_HOME = {
    "ray": {"cluster"},
    "optuna": {"cluster"},
    "ffcv": {"data"},
    "numba": {"data"},
    "safetensors": {"artifact", "evaluation", "models", "progress", "state"},
    "huggingface_hub": {"artifact"},
    "tyro": {"cli", "verbs", "verbs_leaderboard", "verbs_plan", "verbs_sweep"},
    "rich": {"cli", "verbs", "display", "demo"},
    "yaml": {"configfile", "artifact"},
    "matplotlib": {"artifact", "report"},
    "sklearn": {"data", "evaluation", "initialise", "report"},
    "pyarrow": {"data", "evaluation", "report", "cluster", "remote"},
    "tensorboard": {"tensorboard"},
}
# Outside packages that are slow, optional or broken on some machines: imported where they are used.
LATE = {"torchvision", "sklearn", "matplotlib", "ffcv", "numba", "cv2", "pyarrow", "huggingface_hub", "tensorboard"}
# What decoding an artefact must not need.
NOT_TO_LOAD = LATE | {"PIL", "ray", "optuna", "rich", "tyro", "yaml"}
# Import names that differ from the distribution's.
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}


class Import(NamedTuple):
    """One imported module."""

    path: Path
    line: int
    room: str
    module: str
    late: bool
    """Inside a function: imported at use."""
    typing: bool
    """Inside ``if TYPE_CHECKING``: never imported when the program runs."""

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line} imports {self.module}"


def imports_of(path: Path, package: Path = PACKAGE) -> Iterator[Import]:
    """All imports of a file, also those inside functions; ``from raycondense import x`` counts as ``raycondense.x``."""
    room = path.relative_to(package).parts[0].removesuffix(".py")

    def visit(node: ast.AST, late: bool, typing: bool) -> Iterator[Import]:
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import, valid: import from raycondense..."
            modules = [f"raycondense.{a.name}" for a in node.names] if node.module == "raycondense" else [node.module]
        for module in modules:
            yield Import(path, node.lineno, room, module, late, typing)
        late = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.body:
                yield from visit(child, late, True)
            for child in node.orelse:
                yield from visit(child, late, typing)
            return
        for child in ast.iter_child_nodes(node):
            yield from visit(child, late, typing)

    yield from visit(ast.parse(path.read_text(encoding="utf-8"), str(path)), False, False)


ALL_FILES = sorted(PACKAGE.rglob("*.py"))
ALL_IMPORTS = [found for path in ALL_FILES for found in imports_of(path)]
INSIDE = [found for found in ALL_IMPORTS if found.module.split(".")[0] == "raycondense"]
OUTSIDE = [
    found
    for found in ALL_IMPORTS
    if found.module.split(".")[0] not in {"raycondense", "__future__", *sys.stdlib_module_names}
]


def target_room(found: Import) -> str:
    """The room that an import leads to; names of the package itself (its version) are ``__init__``."""
    parts = found.module.split(".")
    known = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in ALL_FILES}
    return parts[1] if len(parts) > 1 and parts[1] in known else "__init__"


def test_every_room_is_listed():
    assert {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in ALL_FILES} <= set(DOORS)


def test_imports_go_through_doors():
    through_walls = [
        str(found)
        for found in INSIDE
        if target_room(found) not in {found.room, "errors", *DOORS.get(found.room, "").split()}
    ]
    assert not through_walls


def test_doors_lead_downwards():
    """No circle of rooms; the command line's table of verbs and the package's version number apart."""
    below = {room: set(doors.split()) - {"__init__"} for room, doors in DOORS.items()}
    for room in ("verbs", "verbs_leaderboard", "verbs_plan", "verbs_submit", "verbs_sweep"):
        below[room].discard("cli")
    while below:
        bottom = {room for room, doors in below.items() if not doors & below.keys()}
        assert bottom, f"these rooms know each other in a circle: {sorted(below)}"
        below = {room: doors for room, doors in below.items() if room not in bottom}


@pytest.mark.parametrize("package", sorted(AT_HOME))
def test_outside_package_is_known_only_at_home(package):
    strangers = [
        str(found)
        for found in OUTSIDE
        if found.module.split(".")[0] == package and not found.typing and found.room not in AT_HOME[package]
    ]
    assert not strangers


@pytest.mark.parametrize("room", ["losses", "models", "augment", "seeds"])
def test_parts_of_the_method_know_torch_alone(room):
    known = {found.module.split(".")[0] for found in OUTSIDE if found.room == room}
    assert known <= {"torch", "torchvision"}


@pytest.mark.parametrize("room", ["config", "presets", "errors", "storage", "cli"])
def test_settings_and_command_line_start_light(room):
    early = [str(found) for found in OUTSIDE if found.room == room and not found.late and not found.typing]
    assert not early


def test_heavy_packages_are_imported_where_they_are_used():
    early = [str(found) for found in OUTSIDE if found.module.split(".")[0] in LATE and not (found.late or found.typing)]
    assert not early


def loaded_by(modules: list[str], watched: set[str]) -> list[str]:
    """Which of the ``watched`` packages a fresh Python has loaded after importing ``modules``."""
    code = (
        "import importlib, sys\n"
        f"for module in {modules!r}:\n    importlib.import_module(module)\n"
        f"print(*[name for name in {sorted(watched)!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_every_module_brings_in_nothing_heavy():
    """The same at run time: what other packages import for us counts too."""
    paths = [path.relative_to(ROOT).with_suffix("") for path in ALL_FILES]
    modules = [".".join(path.parts).removesuffix(".__init__") for path in paths if path.parts[1] != "cluster"]
    assert loaded_by(modules, LATE | {"ray", "optuna"}) == []


def test_loading_artefacts_needs_torch_and_safetensors_alone():
    assert loaded_by(["raycondense.artifact.load"], NOT_TO_LOAD) == []


def test_outside_packages_are_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    declared = {Requirement(line).name.lower().replace("_", "-") for line in lines}
    used = {found.module.split(".")[0] for found in OUTSIDE}
    assert {DISTRIBUTIONS.get(name, name).replace("_", "-") for name in used} <= declared


def test_the_walk_sees_every_kind_of_import(tmp_path):
    """The test's own eye: imports in functions, lambdas' defaults, branches and type-checking blocks."""
    (tmp_path / "losses").mkdir()
    path = tmp_path / "losses" / "mean.py"
    path.write_text(
        "import ray.train as rt\nfrom raycondense import data, config as c\n"
        "if TYPE_CHECKING:\n    import ffcv\nelse:\n    import cv2\n"
        "class A:\n    import PIL\n    def f(self):\n        try:\n            from ray import tune\n"
        "        finally:\n            pass\n"
    )
    found = [(i.module, i.late, i.typing) for i in imports_of(path, tmp_path)]
    assert found == [
        ("ray.train", False, False),
        ("raycondense.data", False, False),
        ("raycondense.config", False, False),
        ("ffcv", False, True),
        ("cv2", False, False),
        ("PIL", False, False),
        ("ray", True, False),
    ]
