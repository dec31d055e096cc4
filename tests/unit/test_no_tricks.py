"""What no code of this repository does: run data (pickle, eval), hand text to a shell, unpack archives by their names.

The rules are checked in the syntax tree of every Python file, and by a few patterns in every shell script.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("raycondense", "tools", "benchmarks")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
SCRIPTS = sorted({*ROOT.glob("*.sh"), *ROOT.glob("tools/**/*.sh"), *ROOT.glob("clusters/**/*.sh")})

# Module → why it may be imported, by file. Anything not listed here is closed.
RUNS_DATA = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}
MAY_RUN_DATA = {
    # Works travel between processes of one cluster, as all of Ray's own messages do; nothing of it is kept.
    "raycondense/cluster/actors.py": {"cloudpickle"},
    # Reads one class of one library, and refuses everything else.
    "raycondense/cluster/cma.py": {"pickle"},
}
FORBIDDEN = {
    "eval": "runs text", "exec": "runs text", "compile": "runs text", "__import__": "imports what text says",
    "os.system": "a shell", "os.popen": "a shell", "subprocess.getoutput": "a shell", "pty.spawn": "a shell",
    "subprocess.getstatusoutput": "a shell", "asyncio.create_subprocess_shell": "a shell",
    "tempfile.mktemp": "a name that somebody else may take first",
    "shutil.unpack_archive": "writes where an archive's names say", "yaml.unsafe_load": "makes objects",
    "yaml.full_load": "makes objects", "yaml.load_all": "makes objects", "yaml.unsafe_load_all": "makes objects",
    "torch.jit.load": "runs data", "torch.hub.load": "runs downloads", "torch.package.PackageImporter": "runs data",
    "pandas.read_pickle": "runs data", "numpy.core.multiarray.fromfile": "", "ssl._create_unverified_context": "",
}  # fmt: skip
UNPACKS = ("extractall", "extract", "add_safe_globals")
"""Methods of archives (and of torch's reader) that trust them."""
ALIASES = {"np": "numpy", "pd": "pandas"}


def faults_of(text: str, name: str = "raycondense/x.py") -> Iterator[str]:
    """What a file does that none may."""
    tree = ast.parse(text)
    allowed = MAY_RUN_DATA.get(name, set())
    known = dict(ALIASES)
    for node in ast.walk(tree):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
            known |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module, *(alias.name for alias in node.names)]
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        for module in modules:
            for part in set(module.split(".")) & RUNS_DATA - allowed:
                yield f"{name}:{node.lineno}: imports {part}, which runs what it reads"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            for what in _faults_of_call(node, _dotted(node.func, known)):
                yield f"{name}:{node.lineno}: {what}"


def _dotted(node: ast.expr, known: dict[str, str]) -> str:
    """``np.load`` as ``numpy.load``; of what is no name, its last part."""
    if isinstance(node, ast.Name):
        return known.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, known)}.{node.attr}"
    return ""


def _faults_of_call(node: ast.Call, called: str) -> Iterator[str]:
    words = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}

    def says(name: str, value: object) -> bool:
        found = words.get(name)
        return isinstance(found, ast.Constant) and found.value is value

    if called in FORBIDDEN:
        yield f"{called}: {FORBIDDEN[called] or 'not here'}"
    if called == "torch.load" and not says("weights_only", True):
        yield "torch.load without weights_only=True"
    if called in ("numpy.load", "numpy.lib.format.read_array") and not says("allow_pickle", False):
        yield f"{called} without allow_pickle=False"
    if called == "yaml.load" and not re.search(r"Safe|_yaml_loader", ast.unparse(words.get("Loader", ast.Constant(0)))):
        yield "yaml.load without a safe loader"
    if "shell" in words and not says("shell", False):
        yield "a shell"
    if called.startswith("subprocess.") and called.rpartition(".")[2] in ("run", "Popen", "call", "check_call",
                                                                          "check_output"):  # fmt: skip
        command = node.args[0] if node.args else words.get("args")
        if not isinstance(command, ast.List | ast.Name) or isinstance(command, ast.JoinedStr):
            yield "a command that is no list of words"
    if "entrypoint" in words and not re.fullmatch(r"shlex\.join\(.*\)", ast.unparse(words["entrypoint"]), re.DOTALL):
        yield "a job's entrypoint, which Ray gives to a shell, that is not from shlex.join"
    if called.rpartition(".")[2] in UNPACKS and "." in called:
        yield f"{called}: trusts what it reads"
    if says("verify", False):
        yield "a server that nobody makes sure of"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_trusts_what_it_reads(path):
    assert list(faults_of(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle", "from ray import cloudpickle", "import joblib as j", "from os import system\nsystem('ls')",
        "import os\nos.system(f'ls {x}')", "eval(x)", "import torch\ntorch.load(f)",
        "import torch\ntorch.load(f, weights_only=False)", "import torch as t\nt.load(f)",
        "import numpy as np\nnp.load(f)",
        "from numpy import load\nload(f, allow_pickle=True)", "import yaml\nyaml.load(t, Loader=yaml.Loader)",
        "import yaml\nyaml.load(t)", "import subprocess\nsubprocess.run('ls', shell=True)",
        "import subprocess\nsubprocess.run(f'ls {x}')", "from subprocess import run\nrun('ls ' + x)",
        "run(command, shell=quick)", "import zipfile\nzipfile.ZipFile(f).extractall(g)", "archive.extract(name)",
        "client.submit_job(entrypoint=' '.join(words))", "client.submit_job(entrypoint=f'raycondense {x}')",
        "requests.get(u, verify=False)", "torch.serialization.add_safe_globals([X])",
    ],
)  # fmt: skip
def test_tricks_are_found(text):
    assert list(faults_of(text)) != []


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ntorch.load(f, weights_only=True)", "import numpy as np\nnp.load(f, allow_pickle=False)",
        "import subprocess\nsubprocess.run(['ls', x], shell=False)",
        "import yaml\nyaml.load(t, Loader=yaml.SafeLoader)",
        "client.submit_job(entrypoint=shlex.join(words))", "artifact.load(x)", "network.eval()", "re.compile('a')",
    ],
)  # fmt: skip
def test_what_is_sound_is_left_alone(text):
    assert list(faults_of(text)) == []


def test_exceptions_are_still_needed():
    for name, modules in MAY_RUN_DATA.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        assert all(re.search(rf"import {module}\b", text) for module in modules), name


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_scripts_quote_what_users_say(path):
    text = re.sub(r"(?m)^\s*#.*$", "", path.read_text(encoding="utf-8"))
    assert re.findall(r"\beval\b|`[^`\n]*`|(?<=\s)\$@|\bbash -c\b|\bsh -c\b", text) == []
    assert subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True).stderr == ""
