"""Feed damaged files to every reader of raycondense, and keep what makes one crash, hang or take too much memory.

    python tools/fuzz.py --inputs 100000 --out /tmp/findings     all readers
    python tools/fuzz.py --readers picture store --inputs 5000   some
    python tools/fuzz.py --replay FILE --readers picture         one input, in this process

Input number i of a reader is a function of (seed, reader, i). Each is read in a child process, where it has a limit of
processor time, of wall time and of memory. A reader may answer damage with a `RaycondenseError` and nothing else; any
other exception, a signal, a limit that is reached is a finding. Of findings with the same cause the smallest is kept:
``OUT/<reader>/<kind>-<hash>.bin``, with the traceback beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

BATCH = 500
"""Inputs of one child process."""
# One thread, and no arenas of memory that only look used.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "MPLBACKEND": "Agg",
    "ARROW_DEFAULT_MEMORY_POOL": "system", "PYTHONWARNINGS": "ignore",
}  # fmt: skip


class Limits(NamedTuple):
    """What one input may take."""

    seconds: float = 10.0
    """Processor time."""
    wall: float = 60.0
    """Wall-clock seconds, for what waits for something that never comes."""
    memory: int = 1 << 30
    """Bytes of address space beyond what the process had before."""


@dataclass
class Finding:
    """A cause, and the smallest input that shows it."""

    reader: str
    kind: str
    """``crash``, ``hang``, ``memory``, or ``error``: an exception that is not ours."""
    cause: str
    """The exception and where it was raised, or the signal."""
    data: bytes
    detail: str
    times: int = 1

    def save(self, out: Path) -> Path:
        """Write input and detail into ``out``."""
        name = f"{self.kind}-{hashlib.sha256(self.cause.encode()).hexdigest()[:10]}"
        folder = out / self.reader
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.bin").write_bytes(self.data)
        (folder / f"{name}.txt").write_text(f"{self.cause}\n{self.times} times\n\n{self.detail}", errors="replace")
        return folder / f"{name}.bin"


@dataclass
class Tally:
    """What came out of all inputs."""

    read: Counter[str] = field(default_factory=Counter)
    """Inputs by reader."""
    accepted: Counter[str] = field(default_factory=Counter)
    """Those that were read without a complaint."""
    findings: dict[tuple[str, str, str], Finding] = field(default_factory=dict)

    def note(self, found: Finding) -> None:
        """Take a finding; of equal ones the smallest stays."""
        key = (found.reader, found.kind, found.cause)
        known = self.findings.get(key)
        if known is None:
            self.findings[key] = found
            return
        known.times += 1
        if len(found.data) < len(known.data):
            known.data, known.detail = found.data, found.detail


def make_input(reader: str, seeds: Sequence[bytes], seed: int, number: int) -> bytes:
    """Input ``number`` of a reader; the first ones are its sound inputs as they are."""
    from fuzz_readers import READERS

    if number < len(seeds):
        return seeds[number]
    dice = random.Random(f"{seed} {reader} {number}")
    known = READERS[reader]
    data = known.damage(dice, dice.choice(seeds), seeds, known.words)
    return data


def judge(reader: str, data: bytes, folder: Path) -> tuple[str, str, str] | bool:
    """Read one input here: whether it was accepted, or kind, cause and detail of a finding."""
    from fuzz_readers import READERS

    from raycondense.errors import RaycondenseError

    try:
        READERS[reader].read(data, folder)
    except RaycondenseError:
        return False
    except MemoryError as error:
        return "memory", _cause(error), traceback.format_exc()
    except Exception as error:
        return "error", _cause(error), traceback.format_exc()
    return True


def _cause(error: BaseException) -> str:
    """The exception's type and the innermost line of ours that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if f"{os.sep}raycondense{os.sep}" in frame.filename]
    last = (ours or list(frames))[-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno} in {last.name}"


def _child(  # runs in a process of its own
    reader: str, seeds: list[bytes], seed: int, numbers: range, master: str, limits: Limits, now: Any, sender: Any
) -> None:
    import faulthandler

    folder = Path(tempfile.mkdtemp(prefix="fz", dir=master + ".work"))
    try:
        shutil.copytree(master, folder, dirs_exist_ok=True)
        with (folder / "stderr").open("w") as stderr:
            os.dup2(stderr.fileno(), 1)
            os.dup2(stderr.fileno(), 2)
        faulthandler.enable(open(folder.with_suffix(".trace"), "w"))  # noqa: SIM115  # as long as the process
        import fuzz_readers  # noqa: F401  # before the limit of memory counts

        judge(reader, seeds[0], folder)  # what is imported late is no input's doing
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + limits.memory, size + limits.memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number in numbers:
            now[:] = [number, time.process_time(), time.monotonic()]
            data = make_input(reader, seeds, seed, number)
            verdict = judge(reader, data, folder)
            sender.send((number, verdict))
            if verdict is not True and verdict is not False and verdict[0] == "memory":
                break  # what is left of it would be the next input's
        now[0] = -1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _cpu(pid: int) -> float:
    try:
        values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")


def run_reader(reader: str, inputs: range, seed: int, master: Path, limits: Limits, tally: Tally) -> None:
    """Feed ``inputs`` to one reader, in one child process after another."""
    from fuzz_readers import READERS

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fuzz_readers", "torch", "raycondense.state", "raycondense.artifact.save"])
    work = Path(f"{master}.work")
    work.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(master, place, dirs_exist_ok=True)
        seeds = READERS[reader].seeds(Path(place))
    next_number = inputs.start
    while next_number < inputs.stop:
        numbers = range(next_number, min(next_number + BATCH, inputs.stop))
        receiver, sender = context.Pipe(duplex=False)
        now = context.Array("d", [-2.0, 0.0, 0.0], lock=False)
        child = context.Process(
            target=_child, args=(reader, seeds, seed, numbers, str(master), limits, now, sender), daemon=True
        )
        child.start()
        sender.close()
        killed, done = "", next_number
        while True:
            try:
                while receiver.poll(0.05):
                    number, verdict = receiver.recv()
                    done = number + 1
                    _note(tally, reader, verdict, lambda n=number: make_input(reader, seeds, seed, n))
            except EOFError:
                break
            if now[0] >= 0 and child.pid is not None and not killed:
                waited = time.monotonic() - now[2]
                if waited > limits.seconds / 2 and _cpu(child.pid) - now[1] > limits.seconds:
                    killed = f"more than {limits.seconds:g} s of processor time"
                elif waited > limits.wall:
                    killed = f"more than {limits.wall:g} s of waiting"
                if killed:
                    os.kill(child.pid, signal.SIGKILL)
        child.join()
        receiver.close()
        if done < numbers.stop and child.exitcode:
            data = make_input(reader, seeds, seed, done)
            cause = killed or (f"signal {signal.Signals(-child.exitcode).name}" if child.exitcode < 0 else "exit")
            traces = "".join(path.read_text(errors="replace") for path in work.glob("*.trace"))
            tally.read[reader] += 1
            tally.note(Finding(reader, "hang" if killed else "crash", cause, data, traces))
            done += 1
        for left in work.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        next_number = max(done, next_number + 1) if done < numbers.stop else numbers.stop


def _note(tally: Tally, reader: str, verdict: Any, data: Any) -> None:
    tally.read[reader] += 1
    if isinstance(verdict, bool):
        tally.accepted[reader] += verdict
    else:
        tally.note(Finding(reader, verdict[0], verdict[1], data(), verdict[2]))


def main() -> int:
    """The command line; 1 where there was a finding."""
    os.environ.update(ENVIRONMENT)  # before anything large is imported
    from fuzz_readers import READERS, make_files

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000, help="of all readers together")
    parser.add_argument("--readers", nargs="+", choices=READERS, default=list(READERS), metavar="READER")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=Limits().seconds, help="processor time of an input")
    parser.add_argument("--memory", type=float, default=1.0, help="GiB that an input may take")
    parser.add_argument("--out", type=Path, default=Path("findings"), help="where findings are written")
    parser.add_argument("--replay", type=Path, help="read this one file, in this process")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        master = Path(folder) / "master"
        master.mkdir()
        make_files(master)
        if flags.replay is not None:
            print(judge(flags.readers[0], flags.replay.read_bytes(), master))
            return 0
        limits = Limits(seconds=flags.seconds, memory=int(flags.memory * 2**30))
        tally = Tally()
        whole = sum(READERS[name].share for name in flags.readers)
        for name in flags.readers:
            start, count = time.monotonic(), max(2, round(flags.inputs * READERS[name].share / whole))
            run_reader(name, range(count), flags.seed, master, limits, tally)
            mine = [found for found in tally.findings.values() if found.reader == name]
            print(
                f"{name:<18} {tally.read[name]:>7,} inputs, {tally.accepted[name]:>6,} accepted, "
                f"{len(mine):>3} findings  ({time.monotonic() - start:.0f} s)",
                flush=True,
            )
            for found in mine:
                path = found.save(flags.out)
                print(f"    {found.kind:<7} {found.cause}  ({found.times} times, {len(found.data)} bytes) {path}")
    print(f"{tally.read.total():,} inputs, {len(tally.findings)} findings")
    return 1 if tally.findings else 0


if __name__ == "__main__":
    sys.exit(main())
