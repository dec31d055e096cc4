"""`ray up clusters/onprem.yaml` for real: over ssh to machines that the test makes, a run on two of them, `ray down`.

A machine is a network namespace on a bridge, with its own sshd, processes, host name, home, /tmp/ray and /dev/shm.
Nothing is pretended but the installation: the machines find this environment instead of making one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


def missing() -> str:
    """Why this cannot run here, or nothing."""
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    path = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin:/sbin"
    absent = [
        name for name in ("ip", "sshd", "ssh", "ssh-keygen", "rsync", "unshare") if not shutil.which(name, path=path)
    ]
    if absent:
        return f"not installed: {', '.join(absent)} (openssh-server, rsync, iproute2)"
    probe = subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "true"], capture_output=True, check=False)
    return "" if probe.returncode == 0 else "namespaces are not allowed here"


pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(2400)]


def call(*words: str | Path, **options: object) -> str:
    """Run a program and return its output; a failure shows it."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{words}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def wait_for(what, seconds: float, message: str) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, message
        time.sleep(0.5)


@dataclass
class Machine:
    """One namespace with its sshd."""

    name: str
    address: str
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def ray(self) -> Path:
        """What is /tmp/ray there."""
        return self.folder / "ray"

    def programs(self) -> list[str]:
        """Command lines of all processes there but sshd's own."""
        assert self.process is not None
        inside = os.readlink(f"/proc/{self._first()}/ns/pid")
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and os.readlink(entry / "ns/pid") == inside:
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip())
        return [line for line in found if line and "sshd" not in line]

    def _first(self) -> int:
        """The process that is number 1 there: unshare's child."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0])

    def switch_off(self) -> None:
        if self.process is not None and self.process.poll() is None:
            # unshare kills its child, and with process number 1 goes all that is in there.
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(timeout=30)


@dataclass
class Network:
    """A bridge and machines on it; this process is at ``.254``."""

    folder: Path
    prefix: str = field(default_factory=lambda: f"rc{os.getpid() % 100000}")
    machines: list[Machine] = field(default_factory=list)

    @property
    def net(self) -> str:
        return f"10.88.{os.getpid() % 250}"

    @property
    def key(self) -> Path:
        return self.folder / "key"

    def __enter__(self) -> Network:
        self.folder.mkdir(parents=True, exist_ok=True)
        call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key)
        Path("/run/sshd").mkdir(exist_ok=True)
        call("ip", "link", "add", self.prefix, "type", "bridge")
        call("ip", "address", "add", f"{self.net}.254/24", "dev", self.prefix)
        call("ip", "link", "set", self.prefix, "up")
        return self

    def __exit__(self, *error: object) -> None:
        for machine in self.machines:
            machine.switch_off()
            for kind in ("link", "netns"):
                subprocess.run(["ip", kind, "delete", f"{self.prefix}{machine.name}"], capture_output=True, check=False)
        subprocess.run(["ip", "link", "delete", self.prefix], capture_output=True, check=False)

    def add(self, *names: str) -> None:
        """Make machines, switch them on and wait for their sshd."""
        for name in names:
            number = len(self.machines) + 1
            self.machines.append(Machine(name, f"{self.net}.{number}", self.folder / name))
        for machine in self.machines:
            if machine.process is None:
                self._start(machine)
        for machine in self.machines:
            wait_for(lambda m=machine: self._answers(m), 30, f"{machine.name}: no sshd")

    def _answers(self, machine: Machine) -> bool:
        assert machine.process is not None
        assert machine.process.poll() is None, (machine.folder / "sshd.log").read_text()
        try:
            socket.create_connection((machine.address, 22), timeout=1).close()
        except OSError:
            return False
        return True

    def _start(self, machine: Machine) -> None:
        space, inner, outer = (f"{self.prefix}{machine.name}", "eth0", f"{self.prefix}{machine.name}")
        call("ip", "netns", "add", space)
        call("ip", "link", "add", outer, "type", "veth", "peer", "name", inner, "netns", space)
        call("ip", "link", "set", outer, "master", self.prefix, "up")
        call("ip", "-n", space, "address", "add", f"{machine.address}/24", "dev", inner)
        call("ip", "-n", space, "link", "set", inner, "up")
        call("ip", "-n", space, "link", "set", "lo", "up")
        for folder in (machine.home, machine.ray):
            folder.mkdir(parents=True)
        call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", machine.folder / "host_key")
        (machine.folder / "passwd").write_text(
            f"root:x:0:0:root:{machine.home}:/bin/bash\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n"
            "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
        )
        names = "".join(f"{other.address} {other.name}\n" for other in self.machines)
        (machine.folder / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
        (machine.folder / "sshd_config").write_text(
            f"Port 22\nListenAddress {machine.address}\nHostKey {machine.folder}/host_key\nPidFile none\n"
            f"AuthorizedKeysFile {self.key}.pub\nStrictModes no\nUsePAM no\nPermitRootLogin yes\nMaxStartups 100\n"
        )
        script = (
            f"hostname {machine.name} && mount --bind {machine.folder}/passwd /etc/passwd && "
            f"mount --bind {machine.folder}/hosts /etc/hosts && "
            f"mkdir -p /tmp/ray && mount --bind {machine.ray} /tmp/ray && "
            "mount -t tmpfs -o size=1g tmpfs /dev/shm && "
            f"exec /usr/sbin/sshd -D -e -f {machine.folder}/sshd_config"
        )
        machine.process = subprocess.Popen(
            ["ip", "netns", "exec", space, "unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--mount-proc",
             "--kill-child", "bash", "-c", script],
            stdin=subprocess.DEVNULL, stdout=(machine.folder / "sshd.log").open("wb"), stderr=subprocess.STDOUT,
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
        )  # fmt: skip


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    if reason := missing():
        pytest.skip(reason)
    with Network(tmp_path / "machines") as network:
        yield network


def cluster_file(network: Network, path: Path, name: str) -> None:
    """clusters/onprem.yaml with what a user edits, and the installation replaced by a link to this environment."""
    head, *workers = network.machines
    text = (ROOT / "clusters" / "onprem.yaml").read_text().replace("10.0.0.1", head.address)
    config = yaml.safe_load(text)
    config["cluster_name"] = name
    config["provider"]["worker_ips"] = [worker.address for worker in workers]
    config["min_workers"] = config["max_workers"] = len(workers)
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(network.key)}
    install, profile = config["setup_commands"]
    assert "setup.sh" in install
    config["setup_commands"] = [f"ln -sfn {sys.prefix} ~/raycondense/.venv", profile]
    path.write_text(yaml.safe_dump(config))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def status_of(url: str) -> int:
    """HTTP status that a GET without a token gets; 0 where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


CONFIG = """
preset: digits
initialise: {steps: 20}
condense: {images: 4000, checkpoint_images: 1000, log_images: 500}
"""


def test_a_cluster_is_brought_up_used_and_taken_down(network: Network, digits: Path, tmp_path: Path) -> None:
    network.folder.mkdir(exist_ok=True)
    network.add("head", "one", "two")
    head, one, two = network.machines
    name = f"rc-{os.getpid()}"
    config = tmp_path / "onprem.yaml"
    cluster_file(network, config, name)
    home = tmp_path / "launcher"
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
    (home / ".ray" / "auth_token").chmod(0o600)
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "TUNE_", "RAYCONDENSE_"))
    } | {
        "HOME": str(home),
        "RAY_AUTH_MODE": "token",
        "RAY_UP_enable_autoscaler_v2": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    bin_ = Path(sys.prefix) / "bin"
    here = {"env": environment, "cwd": ROOT, "stdin": subprocess.DEVNULL}
    tunnel = None
    try:
        started = time.monotonic()
        call(bin_ / "ray", "up", "-y", "--no-config-cache", "--disable-usage-stats", config, timeout=600, **here)
        up = time.monotonic() - started
        for machine in (one, two):
            wait_for(
                lambda m=machine: any("raylet" in line for line in m.programs()), 400, f"{machine.name} never joined"
            )
        joined = time.monotonic() - started
        # The token went to every machine, for its user's eyes alone; the secret is in nobody's command line.
        for machine in network.machines:
            token = machine.home / ".ray" / "auth_token"
            assert token.read_text() == "0123456789abcdef" * 4
            assert token.stat().st_mode & 0o077 == 0
            assert not [line for line in machine.programs() if "0123456789abcdef" in line]
        # The dashboard answers on the head's loopback alone.
        assert status_of(f"http://{head.address}:8265/api/version") == 0

        port = free_port()
        tunnel = subprocess.Popen(
            [bin_ / "ray", "dashboard", "--no-config-cache", "--port", str(port), config], start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **here,
        )  # fmt: skip
        wait_for(lambda: status_of(f"http://127.0.0.1:{port}/api/version") == 401, 60, "no tunnel to the dashboard")

        work = tmp_path / "work"
        work.mkdir()
        (work / "short.yaml").write_text(CONFIG)
        run = tmp_path / "shared" / "run"
        started = time.monotonic()
        said = call(
            bin_ / "raycondense", "submit", "--address", f"http://127.0.0.1:{port}", "--name", "first", "--",
            "fit", "--config-file", "short.yaml", "--data", digits / "train.beton", "--out", run,
            "--cluster.workers", "2", "--cluster.cpus-per-worker", str(os.cpu_count()),
            "--cluster.gpus-per-worker", "0",
            # The token is found without being asked for.
            timeout=900, **{**here, "cwd": work, "env": {k: v for k, v in environment.items() if k != "RAY_AUTH_MODE"}},
        )  # fmt: skip
        trained = time.monotonic() - started
        assert "sends 1 files" in said
        assert f"artefact: {run / 'artifact'}" in said
        assert "first: succeeded" in said
        # Each of the two workers ran on a machine of its own, and none on the head.
        for machine, expected in ((head, 0), (one, 1), (two, 1)):
            logs = list(machine.ray.glob("session_2*/logs/train/*app-worker*")) + list(
                machine.ray.glob("session_2*/logs/train/*sys-worker*")
            )
            print(machine.name, [path.name for path in logs])
            assert bool(logs) == bool(expected), f"{machine.name}: {logs}"
        records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        assert records[-1]["images"] >= 4000

        # The artefact comes back through ssh and is whole.
        call(bin_ / "ray", "rsync-down", config, f"{run}/artifact/", f"{tmp_path}/fetched/", **here)
        from raycondense.artifact.load import load

        assert len(load(tmp_path / "fetched").bank(10)) == 100

        # The head is stopped at once; workers leave when they have missed it for a minute.
        call(bin_ / "ray", "down", "-y", config, timeout=300, **here)
        for machine in network.machines:
            wait_for(
                lambda m=machine: not [line for line in m.programs() if "raylet" in line or "gcs_server" in line],
                200, f"{machine.name}: Ray still runs: {machine.programs()}",
            )  # fmt: skip
        print(f"ray up {up:.0f} s, workers joined after {joined:.0f} s, job {trained:.0f} s")
    except BaseException:
        for machine in network.machines:
            for log in (
                *machine.ray.glob("session_2*/logs/monitor.*"),
                *machine.ray.glob("session_2*/logs/job-driver-*"),
            ):
                print(f"--- {machine.name} {log.name}\n{log.read_text(errors='replace')[-3000:]}")
        raise
    finally:
        if tunnel is not None:
            os.killpg(tunnel.pid, signal.SIGTERM)
            tunnel.wait(timeout=30)
        for path in Path("/tmp/ray").glob(f"cluster-{name}.*"):
            path.unlink()


# What Slurm does for clusters/slurm.sh: the command on every node of the job, in its environment, until all have ended.
SRUN = """#!{python}
import os, shlex, subprocess, sys
words = sys.argv[1:]
while words[0].startswith("--"):
    words.pop(0)
passed = [f"{{k}}={{v}}" for k, v in os.environ.items() if k.startswith(("RAY_", "SLURM_", "XDG_")) or k == "PATH"]
line = shlex.join(["env", "-C", os.getcwd(), *passed, *words])
options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR")
ssh = ["ssh", "-i", {key!r}, *(f"-o{{option}}" for option in options)]
running = [subprocess.Popen([*ssh, f"root@{{address}}", line]) for address in {addresses!r}]
sys.exit(max(process.wait() for process in running))
"""


def test_slurms_script_runs_over_two_machines(network: Network, digits: Path, tmp_path: Path) -> None:
    """The script is ours and real, and so is Ray over both machines; srun and scontrol are a few lines."""
    network.add("node1", "node2")
    slurm = tmp_path / "slurm"
    slurm.mkdir()
    addresses = [machine.address for machine in network.machines]
    (slurm / "srun").write_text(SRUN.format(python=sys.executable, key=str(network.key), addresses=addresses))
    (slurm / "scontrol").write_text("#!/bin/sh\n" + "".join(f"echo {address}\n" for address in addresses))
    for name in ("srun", "scontrol"):
        (slurm / name).chmod(0o755)
    # Homes are shared on a Slurm cluster.
    home = tmp_path / "home"
    for machine in network.machines:
        machine.home.rmdir()
        machine.home.symlink_to(home)
    home.mkdir()
    (tmp_path / "short.yaml").write_text(CONFIG)
    run = tmp_path / "run"
    environment = {
        "HOME": str(home), "VENV": sys.prefix, "PATH": f"{slurm}:/usr/local/bin:/usr/bin:/bin", "TMPDIR": str(tmp_path),
        "SLURM_JOB_ID": "77", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_CPUS_PER_TASK": "1", "SLURM_GPUS_ON_NODE": "0",
    }  # fmt: skip
    said = call(
        "bash", ROOT / "clusters" / "slurm.sh", "fit", "--config-file", "short.yaml", "--data", digits / "train.beton",
        "--out", run, "--cluster.workers", "2", "--cluster.gpus-per-worker", "0",
        env=environment, cwd=tmp_path, timeout=900,
    )  # fmt: skip
    assert f"artefact: {run / 'artifact'}" in said
    assert (home / ".ray" / "auth_token").stat().st_mode & 0o077 == 0
    for machine in network.machines:
        assert list(machine.ray.glob("session_2*/logs/train/*app-worker*")), machine.name
        wait_for(
            lambda m=machine: not [line for line in m.programs() if "raylet" in line], 60, f"{machine.name}: Ray runs"
        )
