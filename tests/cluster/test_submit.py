"""`raycondense submit` against a real job server: Ray with its dashboard and token, in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from raycondense.testing.wire import Wire

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

TOKEN = "0123456789abcdef" * 4
BIN = Path(sys.prefix) / "bin"

# A job of our own making, followed as `raycondense submit` does.
FOLLOWER = """
import json, sys
from raycondense.cluster.jobs import Jobs
server = Jobs(sys.argv[1])
job = server.submit(json.loads(sys.argv[2]), name=sys.argv[3])
server.follow(job, lambda text: (sys.stdout.write(text), sys.stdout.flush()))
print(server.result(job))
"""


@dataclass(frozen=True)
class Server:
    port: int
    token: Path
    home: Path

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self, **changes: str | None) -> dict[str, str]:
        """What a user's shell has: the token where Ray looks for it, and nothing that this test run sets."""
        found = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "TUNE_"))}
        # Ray's client prefers this to what it is given; --address must win.
        found |= {"HOME": str(self.home), "RAY_ADDRESS": "127.0.0.1:9", "RAY_USAGE_STATS_ENABLED": "0"}
        return {key: value for key, value in {**found, **changes}.items() if value is not None}

    def submit(self, *words: str | Path, cwd: Path, **changes: str | None) -> subprocess.CompletedProcess[str]:
        command = [BIN / "raycondense", "submit", "--address", self.address, *words]
        return subprocess.run(
            [str(word) for word in command], env=self.environment(**changes), cwd=cwd, capture_output=True, text=True,
            timeout=180, check=False,
        )  # fmt: skip

    def answers(self) -> bool:
        try:
            self.ask("/api/version")
        except OSError:
            return False
        return True

    def ask(self, path: str) -> str:
        """What the job server tells everyone who has the token."""
        import requests

        answer = requests.get(f"{self.address}{path}", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.text

    def status(self, job: str) -> str:
        return json.loads(self.ask(f"/api/jobs/{job}"))["status"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(what, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    (home / ".ray").mkdir()
    token = home / ".ray" / "auth_token"
    token.write_text(TOKEN)
    ports = [free_port() for _ in range(4)]
    folder = tempfile.mkdtemp(prefix="rt", dir="/tmp")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | {
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0",
        # On a busy machine Ray gives its own processes up too early.
        "RAY_agent_register_timeout_ms": "240000",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    # `ray start`, not ray.init: the process that starts jobs has a fixed port, which another Ray here may have.
    # What it leaves behind is known by the folder on its command line; the rest goes with that.
    start = [BIN / "ray", "start", "--head", f"--port={ports[0]}", f"--dashboard-port={ports[1]}",
             f"--dashboard-agent-listen-port={ports[2]}", f"--ray-client-server-port={ports[3]}",
             "--min-worker-port=0", "--max-worker-port=0", f"--temp-dir={folder}", "--num-cpus=2",
             "--object-store-memory=100000000"]  # fmt: skip
    server = Server(ports[1], token, home)
    try:
        done = subprocess.run(start, env=environment, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        wait_for(server.answers)
        yield server
    finally:
        own = [one for one in psutil.process_iter(["cmdline"]) if folder in " ".join(one.info["cmdline"] or ())]
        for one in own:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.terminate()
        for one in psutil.wait_procs(own, timeout=2)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_verb_runs_with_the_files_that_were_sent(server, tmp_path):
    (tmp_path / "my.yaml").write_text("preset: digits\nseed: 1234\ndata: {num_classes: 10}\n")
    (tmp_path / "train.beton").write_text("stays here")
    done = server.submit(
        "--env", "RAYCONDENSE_LOG=ERROR", "--name", "dry", "--",
        "fit", "--config-file", "my.yaml", "--dry-run", "--out", "it's; $(touch hacked) a run", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sends 1 files, 0.0 MB" in done.stdout
    assert "seed: 1234" in done.stdout
    assert "generator: " in done.stdout
    assert done.stdout.endswith("dry: succeeded\n")
    told = server.ask("/api/jobs/dry")
    assert json.loads(told)["runtime_env"]["env_vars"] == {"RAYCONDENSE_LOG": "ERROR"}
    # The token that let us in is in neither the job's metadata nor its log.
    assert TOKEN not in told + done.stdout + server.ask("/api/jobs/dry/logs")


def test_a_mistake_found_there_is_our_exit_code(server, tmp_path):
    done = server.submit("--working-dir", "None", "--", "info", "/nowhere/at/all.beton", cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "sends no files" in done.stdout
    assert "error: " in done.stdout
    assert "failed with exit code 2" in done.stderr


def test_without_its_token_nothing_is_run(server, tmp_path):
    before = server.ask("/api/jobs/")
    work = tmp_path / "work"
    work.mkdir()
    missing = server.submit("--", "info", cwd=work, HOME=str(tmp_path))
    assert missing.returncode == 2
    assert "asks for a token (RAY_AUTH_MODE is unset)" in missing.stderr
    (tmp_path / "wrong").write_text("f" * 64)
    wrong = server.submit("--", "info", cwd=work, RAY_AUTH_TOKEN_PATH=str(tmp_path / "wrong"))
    assert wrong.returncode == 2
    assert "does not take this machine's token" in wrong.stderr
    for done in (missing, wrong):
        assert done.stderr.count("\n") == 1
        assert "f" * 64 not in done.stderr
    assert server.ask("/api/jobs/") == before


def test_ctrl_c_leaves_the_job_and_a_name_is_taken_once(server, digits, tmp_path):
    words = ("--name", "long", "--", "fit", "--preset", "digits", "--data", digits / "train.beton", "--out",
             tmp_path / "run", "--cluster.workers", "0", "--condense.images", "100000000")  # fmt: skip
    follower = subprocess.Popen(
        [str(word) for word in (BIN / "raycondense", "submit", "--address", server.address, *words)],
        env=server.environment(), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_for(lambda: (tmp_path / "run" / "run.json").is_file())
        follower.send_signal(signal.SIGINT)
        _, error = follower.communicate(timeout=60)
    finally:
        follower.kill()
    assert follower.returncode == 130
    assert "long goes on without us" in error
    assert error.count("\n") == 1
    assert server.status("long") == "RUNNING"
    again = server.submit(*words, cwd=tmp_path)
    assert again.returncode == 2
    assert "--name: the cluster has had a job 'long'" in again.stderr
    stop = error.split("to end it: ")[1].split()
    subprocess.run(
        [BIN / stop[0], *stop[1:]],
        env=server.environment(RAY_AUTH_MODE="token", RAY_ADDRESS=None),
        check=True,
        capture_output=True,
    )
    assert server.status("long") == "STOPPED"


def test_a_log_goes_on_after_a_cut_connection(server, tmp_path):
    """And words reach the command as they are, whatever a shell would make of them."""
    code = (
        "import sys, time\nprint(sys.argv[1:], flush=True)\n"
        "for n in range(40):\n    print('line', n, flush=True)\n    time.sleep(0.1)\nsys.exit(7)"
    )
    odd = ["a b", "$(touch hacked)", "'; touch hacked #", '"quoted"', "*", "--", ""]
    wire = Wire(server.port)
    follower = subprocess.Popen(
        [sys.executable, "-c", FOLLOWER, f"http://127.0.0.1:{wire.port}",
         json.dumps([sys.executable, "-c", code, *odd]), "cut"],
        env=server.environment(), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert follower.stdout is not None
        assert follower.stderr is not None
        lines = []
        while "line 5" not in lines:
            lines.append(follower.stdout.readline().rstrip("\n"))
            assert follower.poll() is None, (lines, follower.stderr)
        wire.cut()
        time.sleep(1.5)
        wire.mend()
        # Not communicate: it would pass over what has been read ahead of the last line.
        rest, error = follower.stdout.read(), follower.stderr.read()
        follower.wait(timeout=60)
    finally:
        follower.kill()
        wire.close()
    assert follower.returncode == 0, error
    said = [*lines, *rest.splitlines()]
    assert repr(odd) in said
    assert [line for line in said if line.startswith("line ")] == [f"line {n}" for n in range(40)]
    assert said[-1] == "(7, 'cut: failed with exit code 7')"
