"""Run independent jobs in this process or in spawned processes, longest first.

Only processes of this machine: a pool of actors over a cluster runs the same jobs in `raycondense.cluster`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.synchronize import Event
from typing import Any

from raycondense.errors import ConfigError, RunError
from raycondense.evaluation.jobs import Job, run_job

OnResult = Callable[[int, int, Mapping[str, Any]], None]
"""Called after each job with the number of jobs done, the number of all and the job's result."""


def run_jobs(jobs: Sequence[Job], *, workers: int = 1, progress: OnResult | None = None) -> list[dict[str, Any]]:
    """Run all jobs and return their results in the order of ``jobs``.

    Args:
        jobs: what to run.
        workers: 1 runs in this process with its threads; more spawn that many processes of one thread each.
        progress: called in this process after each job.

    Raises:
        ConfigError: fewer than 1 worker.
        RunError: a process died.
        RaycondenseError: a job failed; the others are given up at once.
    """
    if workers < 1:
        raise ConfigError(f"workers: found {workers}, valid: 1 or more")
    results: list[dict[str, Any]] = [{} for _ in jobs]
    # The longest first, so that no worker starts on a long job when the others have nothing left.
    order = sorted(range(len(jobs)), key=lambda i: -jobs[i].cost)
    workers = min(workers, len(jobs))
    if workers <= 1:
        for done, i in enumerate(order, 1):
            results[i] = run_job(jobs[i])
            if progress is not None:
                progress(done, len(jobs), results[i])
        return results
    # Not forked: CUDA and threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(stop,)) as pool:
        try:
            futures = {pool.submit(run_job, jobs[i]): i for i in order}
            for done, future in enumerate(as_completed(futures), 1):
                i = futures[future]
                results[i] = future.result()
                if progress is not None:
                    progress(done, len(jobs), results[i])
        except BrokenProcessPool as error:
            raise RunError(
                "a process of the evaluation died (out of memory?); use fewer workers. A script that evaluates with "
                'workers has to do so under `if __name__ == "__main__":`'
            ) from error
        except BaseException:
            # A failed job or Ctrl-C: leaving the block would otherwise wait for every student in training.
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results


def _start_worker(stop: Event) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # for libraries that are not loaded yet (k-means)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which sets `stop`

    def leave() -> None:
        stop.wait()
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()
