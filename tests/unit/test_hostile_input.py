"""Files from strangers: every reader answers them with an error of ours, at once and in little memory.

``tools/fuzz.py`` makes such files by the hundred thousand. Here are those that it found something with, and some that
were thought of (``tests/unit/hostile/<reader>/``), and more than a thousand others from a fixed seed.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raycondense.data.sidecar import Sidecar
from raycondense.data.sources import open_source
from raycondense.errors import ArtifactError, DataError, RunError
from raycondense.storage import parse_json, read_file, read_records

TOOLS = Path(__file__).resolve().parents[2] / "tools"
CORPUS = Path(__file__).with_name("hostile")
FOUND = sorted(CORPUS.glob("*/*.bin"))
SLOW = {"ffcv", "page.scores", "page.recipe", "page.log", "page.sweep", "page.trials"}
"""Readers that start compilers or draw pages: `tools/fuzz.py` alone has the time for many inputs of theirs."""
MOST_SECONDS, MOST_BYTES = 5.0, 1 << 30


@pytest.fixture(scope="module")
def tools() -> Iterator[None]:
    sys.path.insert(0, str(TOOLS))
    yield
    sys.path.remove(str(TOOLS))


@pytest.fixture(scope="module")
def sound(tools: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound files of every kind."""
    from fuzz_readers import make_files

    folder = tmp_path_factory.mktemp("sound")
    make_files(folder)
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path / "files")
    return tmp_path / "files"


@pytest.fixture
def _little_memory() -> Iterator[None]:
    """What takes a GiB more than this process has fails with a MemoryError."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MOST_BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def test_the_corpus_belongs_to_readers_that_there_are(tools):
    from fuzz_readers import READERS

    assert {path.parent.name for path in FOUND} <= READERS.keys()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc to tell the memory by")
@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}/{path.stem}")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("_little_memory")
def test_past_findings(path, folder):
    from fuzz import judge

    start = time.process_time()
    verdict = judge(path.parent.name, path.read_bytes(), folder)
    assert isinstance(verdict, bool), verdict[2]
    assert time.process_time() - start < MOST_SECONDS


def test_every_reader_reads_its_sound_inputs(tools, folder):
    from fuzz import judge
    from fuzz_readers import READERS

    for name in READERS.keys() - SLOW - {"picture", "config.yaml", "space.yaml"}:
        seeds = READERS[name].seeds(folder)
        assert [judge(name, data, folder) for data in seeds] == [True] * len(seeds), name


def test_more_than_a_thousand_inputs(tools, tmp_path):
    from fuzz_readers import READERS

    readers = [name for name in READERS if name not in SLOW]
    done = subprocess.run(
        [sys.executable, str(TOOLS / "fuzz.py"), "--inputs", "1500", "--seed", "7", "--out", str(tmp_path / "found"),
         "--readers", *readers],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    read = {
        match[1]: int(match[2].replace(",", "")) for match in re.finditer(r"(?m)^(\S+) +([\d,]+) inputs", done.stdout)
    }
    assert read.keys() >= set(readers)
    assert sum(count for name, count in read.items() if name in readers) >= 1450


def test_the_fuzzer_finds_crashes_hangs_and_hunger(tools, tmp_path, monkeypatch):
    """A reader of each fault, through the same processes; otherwise finding nothing would mean nothing."""
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path[:0] = [{str(TOOLS)!r}, {str(tmp_path)!r}]\n"
        "import fuzz, faulty\n"
        "from pathlib import Path\n"
        "if __name__ == '__main__':\n"
        "    tally = fuzz.Tally()\n"
        f"    master = Path({str(tmp_path / 'master')!r}); master.mkdir()\n"
        "    for name in ('sound', 'error', 'crash', 'hang', 'memory'):\n"
        "        fuzz.run_reader(name, range(3), 0, master, fuzz.Limits(seconds=1), tally)\n"
        "    print(sorted((f.reader, f.kind, f.times, len(f.data)) for f in tally.findings.values()))\n"
    )
    (tmp_path / "faulty.py").write_text(
        "import os, signal, sys, types\n"
        "from raycondense.errors import DataError\n"
        "class Reader:\n"
        "    words, share = (), 1\n"
        "    def __init__(self, fault): self.fault = fault\n"
        "    def seeds(self, folder): return [b'fine']\n"
        "    def damage(self, dice, data, others, words): return data + bytes(1 + dice.randrange(9))\n"
        "    def read(self, data, folder):\n"
        "        if data == b'fine': return\n"
        "        if self.fault == 'sound': raise DataError('damaged')\n"
        "        if self.fault == 'error': raise KeyError('x')\n"
        "        if self.fault == 'crash': os.kill(os.getpid(), signal.SIGSEGV)\n"
        "        if self.fault == 'memory': bytearray(2 << 30)\n"
        "        while self.fault == 'hang': pass\n"
        "sys.modules['fuzz_readers'] = types.ModuleType('fuzz_readers')\n"
        "sys.modules['fuzz_readers'].READERS = {n: Reader(n) for n in ('sound', 'error', 'crash', 'hang', 'memory')}\n"
    )
    paths = os.pathsep.join([str(tmp_path), *(p for p in sys.path if p)])
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}
    )
    assert done.stdout.startswith("[('crash', 'crash', 2, "), done.stdout + done.stderr
    assert [kind for kind in ("crash", "error", "hang", "memory") if f"'{kind}', '{kind}', 2" not in done.stdout] == []
    assert "'sound'" not in done.stdout


def test_pipes_and_devices_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    for name in ("pipe", "zeros", "."):
        with pytest.raises(OSError, match="no ordinary file"):
            read_file(tmp_path / name, 10)
    (tmp_path / "long").write_bytes(bytes(11))
    with pytest.raises(OSError, match="more than 10 bytes"):
        read_file(tmp_path / "long", 10)
    os.mkfifo(tmp_path / "x.beton.json")
    with pytest.raises(DataError, match="no ordinary file"):
        Sidecar.load(tmp_path / "x.beton")


@pytest.mark.parametrize(
    "text", ["[" * 10**5, "1" * 30, "-18446744073709551617", '"\\ud800"', '{"a": "x\\uDFFF"}', "{"]
)
def test_json_that_nothing_of_ours_writes(text, tmp_path):
    with pytest.raises(ValueError):  # noqa: PT011  # of many texts
        parse_json(text)
    (tmp_path / "log.jsonl").write_text('{"a": 1}\n' + text + "\n")
    with pytest.raises(RunError, match="line 2 is damaged"):
        read_records(tmp_path / "log.jsonl")
    assert parse_json('["\\ud83d\\ude00", 18446744073709551615, 1e5]') == ["😀", 2**64 - 1, 1e5]


def test_an_artefact_of_pipes_is_damaged(folder):
    from raycondense.artifact.load import load

    (folder / "run" / "artifact" / "recipe.json").unlink()
    os.mkfifo(folder / "run" / "artifact" / "recipe.json")
    with pytest.raises(ArtifactError, match="no ordinary file"):
        load(folder / "run" / "artifact")


def test_a_page_shows_no_file_that_a_link_calls_a_preview(folder):
    """Pages are sent around: one made of a stranger's sweep must not carry a file of this machine."""
    from raycondense.report.sweep import write_sweep_report

    sweep = folder / "sweep"
    secret = folder / "secret.png"
    secret.write_bytes(b"\x89PNG\r\n\x1a\n" + b"hunter2" * 100)
    preview = next(sweep.glob("trials/*/artifact/preview.png"))
    shown = write_sweep_report(sweep).read_text()
    preview.unlink()
    preview.symlink_to(secret)
    assert "its artefact is gone" in write_sweep_report(sweep).read_text()
    assert shown.count("data:image/png") == write_sweep_report(sweep).read_text().count("data:image/png") + 1


def test_class_folders_that_lead_in_circles_or_to_pipes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"x")
        (tmp_path / name / "loop").symlink_to(tmp_path / name)
        (tmp_path / name / "again").symlink_to(tmp_path / name)
    os.mkfifo(tmp_path / "a" / "2.png")
    source = open_source(tmp_path)
    assert [source.key(i) for i in range(len(source))] == [str(tmp_path / name / "1.png") for name in ("a", "b")]
