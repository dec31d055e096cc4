"""The pool of evaluation actors for real: what dies is replaced, what was done stays, and nothing runs too often."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray import cloudpickle

from raycondense.cluster import actors
from raycondense.cluster.actors import EvaluationManager, Parcel, WorkerSettings
from raycondense.cluster.evaluation import EvaluationPool, run_on_actors
from raycondense.cluster.start import require_room
from raycondense.errors import ConfigError, DataError, RunError
from raycondense.evaluation.queue import Outcome, run_here
from raycondense.evaluation.store import Store
from raycondense.storage import append_line, read_lines
from raycondense.testing.results import made_row

pytestmark = pytest.mark.cluster

# Workers cannot import this file: its classes travel as they are.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@dataclass(frozen=True)
class Task:
    """A work that notes in ``folder`` that it was begun, does something, and finds one row."""

    folder: str
    key: str
    does: str = ""
    """Words, done in turn: ``nap`` 0.3 s, ``wait`` for the file "go", ``meet`` two others, ``stumble`` in the first
    attempt, ``refuse``, ``break``, ``die``, ``gpu`` notes devices and threads."""
    cost: float = 1.0
    needs: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return f"task {self.key}"

    def run(self, store: Store) -> list[dict[str, Any]]:
        folder = Path(self.folder)
        append_line(folder / "begun", f"{self.key} {os.getpid()}")
        for word in self.does.split():
            if word == "nap":
                time.sleep(0.3)
            elif word == "wait":
                wait_for((folder / "go").exists)
            elif word == "meet":
                wait_for(lambda: len(begun(folder)) >= 3)
            elif word == "stumble" and [key for key, _ in begun(folder)].count(self.key) == 1:
                raise OSError("stale file handle")
            elif word == "refuse":
                raise DataError(f"{self.key}.beton: damaged")
            elif word == "break":
                raise strange_error()
            elif word == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            elif word == "gpu":
                import torch

                threads = torch.get_num_threads()
                append_line(folder / "devices", f"{os.environ.get('CUDA_VISIBLE_DEVICES')}, {threads} threads")
        append_line(folder / "ended", self.key)
        return [made_row(0, key=self.key, finished_at=round(time.time(), 3)) | {"table": "results"}]


def strange_error() -> Exception:
    """An exception that does not survive pickling."""

    class Strange(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} {two}")

    return Strange(1, 2)


def begun(folder: Path) -> list[tuple[str, int]]:
    """Key and process of every attempt."""
    return [(line.split()[0], int(line.split()[1])) for line in read_lines(folder / "begun")]


def wait_for(what: Callable[[], bool], seconds: float = 90.0) -> None:
    # Long, because Ray's workers are niced: on a machine with other work they start late.
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.02)


def wait_for_end(*processes: int) -> None:
    wait_for(lambda: not any(psutil.pid_exists(process) for process in processes), 60)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def pool(ray_session: None, root: Path) -> Iterator[EvaluationPool]:
    """Two workers that all tests share: what one test does to them must not show in the next."""
    with EvaluationPool(root, workers=2, name="shared") as pool:
        yield pool


def test_a_pool_finds_what_one_process_finds(pool: EvaluationPool, root: Path, tmp_path: Path) -> None:
    """Order of needs, second tries, failures and what follows from them; rows and their attempts."""
    alone, shared = Store(tmp_path / "store"), Store(root)
    here = fates(lambda *given, **more: run_here(given[0], alone, *given[1:], **more), alone, tmp_path / "here")
    there = fates(pool.run, shared, tmp_path / "pool")
    assert here.pop("worse") == ("Strange: 1 2", "Strange", 2, None)
    assert there.pop("worse") == ("RuntimeError: Strange: 1 2", "RuntimeError", 2, None), "it does not pickle"
    assert here == there
    refused = "task bad: bad.beton: damaged"
    assert here == {
        **dict.fromkeys(["last", "more0", "more1", "first"], (None, "NoneType", 1, 1)),
        "second": (None, "NoneType", 2, 2),
        "bad": ("bad.beton: damaged", "DataError", 1, None),
        "never": (f"task never: not run, because what it needs failed: {refused}", "_NeedFailed", 0, None),
    }


def fates(run: Callable[..., list[Outcome]], store: Store, folder: Path) -> dict[str, tuple[Any, ...]]:
    """Error, its type, attempts, and the attempt in the recorded row, of works that meet everything."""
    folder.mkdir()
    where = str(folder)
    works = [
        Task(where, "last", needs=("first", "second"), cost=9),
        *(Task(where, f"more{i}", "nap") for i in range(2)),
        Task(where, "first", "nap"),
        Task(where, "second", "stumble", needs=("first", "elsewhere")),
        Task(where, "bad", "refuse"),
        Task(where, "worse", "break"),
        Task(where, "never", needs=("more1", "bad")),
    ]
    told: list[str] = []

    def tell(outcome: Outcome) -> None:
        recorded = store.find([outcome.key])
        assert (outcome.key in recorded) == (outcome.error is None), "recorded before it is told"
        told.append(outcome.key)

    outcomes = run(works, tell, known_done=["elsewhere"])
    assert [outcome.key for outcome in outcomes] == [work.key for work in works]
    assert sorted(told) == sorted(work.key for work in works)
    ended = read_lines(folder / "ended")
    assert ended.index("first") < ended.index("second") < ended.index("last")
    assert Counter(key for key, _ in begun(folder)) == +Counter({o.key: o.attempts for o in outcomes})
    rows = store.find(work.key for work in works)
    assert [o.rows for o in outcomes] == [
        [rows[o.key] | {"table": "results"}] if o.key in rows else [] for o in outcomes
    ]
    return {
        o.key: (o.error, type(o.exception).__name__, o.attempts, rows.get(o.key, {}).get("attempt")) for o in outcomes
    }


def test_a_killed_worker_is_replaced_and_its_work_runs_once_more(
    pool: EvaluationPool, root: Path, tmp_path: Path
) -> None:
    works = [Task(str(tmp_path), f"kill{i}", "wait" if i == 0 else "nap", cost=9 - i) for i in range(6)]
    pool.submit(works)
    wait_for(lambda: "kill0" in dict(begun(tmp_path)))
    victim = dict(begun(tmp_path))["kill0"]
    os.kill(victim, signal.SIGKILL)
    (tmp_path / "go").touch()
    outcomes = {outcome.key: outcome for outcome in pool.outcomes()}
    assert all(outcome.error is None for outcome in outcomes.values())
    assert {key: outcome.attempts for key, outcome in outcomes.items()} == {
        work.key: 2 if work.key == "kill0" else 1 for work in works
    }
    assert sorted(key for key, _ in begun(tmp_path)) == sorted(["kill0", *(work.key for work in works)])
    assert Store(root).find(["kill0"])["kill0"]["attempt"] == 2
    wait_for(lambda: len(pool.status()["workers"]) == 2)
    assert victim not in {worker["pid"] for worker in pool.status()["workers"].values()}


def test_a_work_that_kills_its_worker_is_told_and_the_others_finish(pool: EvaluationPool, tmp_path: Path) -> None:
    works = [Task(str(tmp_path), "deadly", "die", cost=9), *(Task(str(tmp_path), f"safe{i}", "nap") for i in range(3))]
    works.append(Task(str(tmp_path), "heir", needs=("deadly",)))
    deadly, *safe, heir = pool.run(works)
    assert deadly.error == "task deadly: its worker died in attempt 2 (out of memory?)"
    assert isinstance(deadly.exception, RunError)
    assert [outcome.error for outcome in safe] == [None] * 3
    assert "task deadly" in str(heir.error)
    assert Counter(key for key, _ in begun(tmp_path)) == {"deadly": 2, "safe0": 1, "safe1": 1, "safe2": 1}


def test_what_a_pool_knows_is_not_run_again(pool: EvaluationPool, tmp_path: Path) -> None:
    work = Task(str(tmp_path), "once")
    first, again = pool.run([work])[0], pool.run([work])[0]
    assert first == again
    assert pool.submit([work]) == ["once"]
    assert list(pool.outcomes()) == [first]
    assert list(pool.outcomes()) == []
    assert len(begun(tmp_path)) == 1
    with pytest.raises(ValueError, match="task lonely: needs nobody"):
        pool.run([Task(str(tmp_path), "lonely", needs=("nobody",))])
    with pytest.raises(ValueError, match="task lonely: needs nobody"):
        pool.submit([Task(str(tmp_path), "lonely", needs=("nobody",))])
    assert list(pool.outcomes()) == [], "nothing of them is waited for"


def test_the_pool_costs_a_job_next_to_nothing(pool: EvaluationPool, tmp_path: Path) -> None:
    """Of a job of 30 s 5 % are allowed, which is 1.5 s; what is measured is milliseconds."""
    wait_for(lambda: len(pool.status()["workers"]) == 2)
    start = time.perf_counter()
    pool.run([Task(str(tmp_path), f"quick{i}") for i in range(60)])
    assert (time.perf_counter() - start) / 60 < 0.3


SCRIPT = """
import os, sys
from ray import cloudpickle
import ray
from raycondense.cluster.evaluation import EvaluationPool
from raycondense.evaluation.store import Store

attach, root, works = sys.argv[1], sys.argv[2], cloudpickle.loads(bytes.fromhex(sys.stdin.readline()))
if "RAY_ADDRESS" not in os.environ:
    ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
             object_store_memory=80 * 1024**2, _temp_dir=attach)
    attach, gpus = "", 0.5
else:
    gpus = 0
try:
    with (EvaluationPool.attach(attach) if attach else EvaluationPool(root, gpus_per_worker=gpus)) as pool:
        there = Store(root).find(work.key for work in works)
        for outcome in pool.run([work for work in works if work.key not in there]):
            print(outcome.key, outcome.error)
except KeyboardInterrupt:
    print("interrupted")
    sys.exit(130)
"""


def driver(attach: str, root: Path, works: list[Task], **environment: str) -> subprocess.Popen[str]:
    """A process that runs ``works`` unless they are in the store, in the pool ``attach`` or one of its own."""
    known = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "RAY_JOB_ID")}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, attach, str(root)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=known | environment,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(cloudpickle.dumps(works).hex() + "\n")
    process.stdin.flush()
    return process


def test_others_join_a_pool_by_its_name(pool: EvaluationPool, root: Path, tmp_path: Path) -> None:
    works = [Task(str(tmp_path), f"sweep{i}", "nap") for i in range(3)]
    other = driver("shared", root, works, RAY_ADDRESS=ray.get_runtime_context().gcs_address)

    @ray.remote(num_cpus=0)
    def callback(pool: EvaluationPool) -> None:
        pool.post([Task(str(tmp_path), "posted")])

    ray.get(callback.remote(pool))
    output, errors = other.communicate(timeout=120)
    assert other.returncode == 0, errors
    assert output.split() == ["sweep0", "None", "sweep1", "None", "sweep2", "None"]
    # It outlives those who join it.
    view = EvaluationPool.attach("shared")
    view.close()
    assert [outcome.error for outcome in pool.run([Task(str(tmp_path), "posted")])] == [None]
    assert len(begun(tmp_path)) == 4
    with pytest.raises(ConfigError, match=r"unknown evaluation pool 'shred' \(did you mean 'shared'\?\)"):
        EvaluationPool.attach("shred")
    with pytest.raises(ConfigError, match="name: found 'shared', which another pool has"):
        EvaluationPool(root, name="shared")


def test_a_full_queue_refuses_or_lets_wait(ray_session: None, tmp_path: Path) -> None:
    works = [Task(str(tmp_path), f"full{i}", "wait" if i == 0 else "") for i in range(9)]
    with EvaluationPool(tmp_path / "store", workers=1, queue_limit=2) as pool:
        assert pool.submit(works[:1]) == ["full0"]
        wait_for(lambda: begun(tmp_path) != [])
        assert pool.submit(works, wait=False) == ["full0", "full1", "full2"]
        assert pool.submit(works[3:], wait=False) == []
        start = time.monotonic()
        pool.post(works[5:7])
        assert time.monotonic() - start < 20, "it does not wait for room"
        assert pool.status()["waiting"] == 2
        (tmp_path / "go").touch()
        assert pool.submit(works) == [work.key for work in works]
        assert {outcome.key for outcome in pool.outcomes()} == {work.key for work in works}
        workers = [worker["pid"] for worker in pool.status()["workers"].values()]
    wait_for_end(*workers)
    assert len(begun(tmp_path)) == 9
    with pytest.raises(RunError, match="the evaluation pool has ended"):
        pool.submit([Task(str(tmp_path), "late")])


def test_workers_take_fractions_of_a_cpu(ray_session: None, pool: EvaluationPool, tmp_path: Path) -> None:
    """Three at a time on the two CPUs that the shared pool leaves."""
    works = [Task(str(tmp_path), f"part{i}", "meet") for i in range(3)]
    outcomes = run_on_actors(works, Store(tmp_path / "store"), workers=3, cpus_per_worker=0.5)
    assert [outcome.error for outcome in outcomes] == [None] * 3
    assert len({process for _, process in begun(tmp_path)}) == 3


def test_a_killed_driver_loses_nothing_that_was_done(ray_session: None, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    works = [Task(str(tmp_path), f"kept{i}", "nap nap" if i < 3 else "wait", cost=9 - i) for i in range(6)]
    address = ray.get_runtime_context().gcs_address
    first = driver("", store.root, works, RAY_ADDRESS=address)
    wait_for(lambda: len(store.find(work.key for work in works)) == 3)
    first.kill()
    first.communicate(timeout=60)
    wait_for_end(*(process for _, process in begun(tmp_path)))
    done = set(store.find(work.key for work in works))
    assert done == {"kept0", "kept1", "kept2"}
    (tmp_path / "go").touch()
    before = len(begun(tmp_path))
    output, errors = driver("", store.root, works, RAY_ADDRESS=address).communicate(timeout=120)
    assert output.split() == ["kept3", "None", "kept4", "None", "kept5", "None"], errors
    assert sorted(key for key, _ in begun(tmp_path)[before:]) == ["kept3", "kept4", "kept5"]
    assert set(store.find(work.key for work in works)) == {work.key for work in works}


def test_ctrl_c_ends_workers_that_share_a_gpu(tmp_path: Path) -> None:
    """With a Ray of its own, which has one made-up GPU for two workers."""
    sockets = tempfile.mkdtemp(prefix="rt", dir="/tmp")
    try:
        works = [Task(str(tmp_path), "a", "gpu"), *(Task(str(tmp_path), f"b{i}", "gpu wait", cost=0) for i in range(3))]
        process = driver(sockets, tmp_path / "store", works)
        wait_for(lambda: len(begun(tmp_path)) == 3, 120)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 130, errors
        assert output.split() == ["interrupted"]
        assert "Traceback" not in errors
        wait_for_end(*(worker for _, worker in begun(tmp_path)))
        assert read_lines(tmp_path / "devices") == ["0, 1 threads"] * 3
        assert read_lines(tmp_path / "ended") == ["a"]
        assert Store(tmp_path / "store").find(["a"]).keys() == {"a"}
    finally:
        shutil.rmtree(sockets, ignore_errors=True)


def test_a_dead_manager_is_an_error_of_one_line(ray_session: None, tmp_path: Path) -> None:
    with EvaluationPool(tmp_path, workers=1) as pool:
        pool.submit([Task(str(tmp_path), "waits", "wait")])
        ray.kill(pool._manager)
        with pytest.raises(RunError, match="the evaluation pool has ended; what it had done is in the store"):
            list(pool.outcomes())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers: found 0, valid: 1 or more"),
        ({"queue_limit": 0}, "queue_limit: found 0, valid: 1 or more"),
        ({"gpus_per_worker": 1.5}, "gpus_per_worker: found 1.5, valid: 0 or more, above 1 a whole number"),
        ({"cpus_per_worker": -1}, "cpus_per_worker: found -1, valid: 0 or more"),
    ],
)
def test_numbers_that_ray_would_stumble_over(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        EvaluationPool(tmp_path, **options)


def test_what_a_cluster_will_never_have_is_refused(ray_session: None) -> None:
    require_room(4, {"CPU": 1.0, "GPU": 0.0})
    with pytest.raises(
        ConfigError, match=r"^workers: 3 workers need 1.5 GPUs, this machine has 0; lower workers or gpus"
    ):
        require_room(3, {"CPU": 1.0, "GPU": 0.5})


# ------------------------------------------------------------------------------------------------ the manager alone


class Remote:
    """A method of a stand-in for an actor."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self.method = method

    async def remote(self, *values: Any) -> Any:
        await asyncio.sleep(0)
        return self.method(*values)


def test_a_lane_ends_when_its_worker_never_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Works are not blamed for it; without a lane they fail, and so do those that come later."""
    starts: list[int] = []

    class Stillborn:
        def __init__(self) -> None:
            starts.append(1)
            self.where = Remote(self.fail)

        def fail(self) -> None:
            raise ray.exceptions.OutOfMemoryError("some lines\nno disk\n")

        @classmethod
        def remote(cls, settings: WorkerSettings) -> Stillborn:
            return cls()

    monkeypatch.setattr(actors, "_actor", lambda kind, settings: Stillborn)

    async def outcomes() -> list[Any]:
        manager = EvaluationManager(WorkerSettings(str(tmp_path), 1, 0, 30), 2, 10, 2)
        parcels = [Parcel.of(Task(str(tmp_path), key)) for key in "ab"]
        await manager.submit(parcels[:1], (), True)
        await manager.outcomes_after(0)
        await manager.submit(parcels[1:], (), True)
        return await manager.outcomes_after(0)

    found = asyncio.run(outcomes())
    assert len(starts) == 2 * actors.STARTS
    assert [outcome.key for outcome in found] == ["a", "b"]
    assert {outcome.error for outcome in found} == {"no evaluation worker could be started: no disk"}
    assert all(outcome.attempts == 0 for outcome in found)
