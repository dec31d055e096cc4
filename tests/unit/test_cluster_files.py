"""cluster.yaml and clusters/: valid to Ray, AWS, Google Cloud, Kubernetes and bash; closed to strangers."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from raycondense import verbs_submit

ROOT = Path(__file__).resolve().parents[2]
CLUSTERS = ROOT / "clusters"
SCHEMAS = Path(__file__).parent / "schemas"
LAUNCHED = {"aws": ROOT / "cluster.yaml", "gcp": CLUSTERS / "gcp.yaml", "local": CLUSTERS / "onprem.yaml"}
COMMANDS = (
    "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
    "head_start_ray_commands", "worker_start_ray_commands",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home with a token, as the files ask for; whatever Ray or boto3 writes there is gone afterwards."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0" * 64)
    monkeypatch.chdir(ROOT)


def load(provider: str) -> dict[str, Any]:
    return yaml.safe_load(LAUNCHED[provider].read_text(encoding="utf-8"))


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """What Ray's launcher makes of a configuration, checked with its own schema."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    ready = prepare_config(copy.deepcopy(config))
    validate_config(ready)
    return ready


def ray_version() -> str:
    """The Ray that every node installs."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith("ray=="))


@pytest.mark.parametrize("provider", LAUNCHED)
def test_ray_accepts_the_file(provider):
    ready = prepared(load(provider))
    assert ready["provider"]["type"] == provider
    assert ready["max_workers"] >= 1


@pytest.mark.parametrize("provider", LAUNCHED)
def test_ray_would_not_accept_a_mistake(provider):
    """The check can fail: an unknown key, and a value of the wrong kind."""
    from click import ClickException

    with pytest.raises((jsonschema.ValidationError, ClickException, ValueError)):
        prepared({**load(provider), "idle_timeout": 5})
    with pytest.raises((jsonschema.ValidationError, ClickException, ValueError)):
        prepared({**load(provider), "idle_timeout_minutes": "five"})


@pytest.mark.parametrize("provider", LAUNCHED)
def test_what_is_copied_is_here_and_is_all_that_the_setup_reads(provider):
    mounts = load(provider)["file_mounts"]
    local = {name for name in mounts.values() if not name.startswith("~")}
    assert all((ROOT / name).exists() for name in local)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {
        "raycondense",
        "tools",
        "pyproject.toml",
        "constraints.txt",
        project["readme"],
        *project["license-files"],
    } <= local
    assert {
        target: f"~/raycondense/{name}" for target, name in mounts.items() if target.startswith("~/raycondense")
    } == {target: target for target in mounts if target.startswith("~/raycondense")}


@pytest.mark.parametrize("provider", LAUNCHED)
def test_every_command_is_one_that_bash_understands(provider):
    ready = prepared(load(provider))
    commands = [command for part in COMMANDS for command in ready.get(part, [])]
    assert len(commands) >= 6
    for command in commands:
        done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), command


@pytest.mark.parametrize("provider", LAUNCHED)
def test_nobody_gets_in_without_ssh_and_token(provider):
    config = load(provider)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    starts = {part: config[part][-1] for part in ("head_start_ray_commands", "worker_start_ray_commands")}
    for start in starts.values():
        assert re.search(r"export [^;]*\bRAY_AUTH_MODE=token\b[^;]*; *ray start", start), start
    assert "--dashboard-host=127.0.0.1" in starts["head_start_ray_commands"]
    assert "0.0.0.0" not in json.dumps(config)
    # Also for whoever logs in and for jobs: set beside the path.
    assert any("RAY_AUTH_MODE=token" in command and ".bashrc" in command for command in config["setup_commands"])


@pytest.mark.parametrize("provider", LAUNCHED)
def test_starts_with_room_for_files_and_without_the_launchers_single_thread(provider):
    config = load(provider)
    for part in ("head_start_ray_commands", "worker_start_ray_commands"):
        stop, start = config[part]
        assert stop == "ray stop"
        assert start.startswith("ulimit -n 65536; unset OMP_NUM_THREADS; ")
        assert re.search(r"XDG_CACHE_HOME=\S", start)
    assert "RAY_HEAD_IP" in config["worker_start_ray_commands"][1]
    assert ("RAY_enable_autoscaler_v2=0" in config["head_start_ray_commands"][1]) == (provider == "local")


def test_own_machines_know_their_head():
    config = load("local")
    assert f"--node-ip-address={config['provider']['head_ip']} " in config["head_start_ray_commands"][1]
    assert config["max_workers"] == len(config["provider"]["worker_ips"])


@pytest.mark.parametrize("provider", ["aws", "gcp"])
def test_the_head_computes_nothing_and_idle_workers_go(provider):
    config = load(provider)
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0, "GPU": 0}
    assert 0 < config["idle_timeout_minutes"] <= 60
    assert config["provider"]["cache_stopped_nodes"] is False
    assert all(kind["min_workers"] == 0 for kind in types.values())


def launch_problems(node: dict[str, Any]) -> str:
    """What AWS's own description of RunInstances has against a node_config."""
    import botocore.loaders
    import botocore.model
    import botocore.validate

    service = botocore.model.ServiceModel(botocore.loaders.Loader().load_service_model("ec2", "service-2"))
    shape = service.operation_model("RunInstances").input_shape
    return botocore.validate.ParamValidator().validate({**node, "MinCount": 1, "MaxCount": 1}, shape).generate_report()


def test_aws_would_launch_every_node_type():
    for kind in load("aws")["available_node_types"].values():
        assert launch_problems(kind["node_config"]) == ""
        (disk,) = kind["node_config"]["BlockDeviceMappings"]
        assert disk["Ebs"]["VolumeSize"] >= 100
    wrong = kind["node_config"] | {"InstanceTypo": 1}
    assert "InstanceTypo" in launch_problems(wrong)


def test_aws_has_spot_and_on_demand_workers():
    types = load("aws")["available_node_types"]
    markets = {
        name: kind["node_config"].get("InstanceMarketOptions", {}).get("MarketType") for name, kind in types.items()
    }
    assert markets == {"head": None, "gpu-spot": "spot", "gpu-on-demand": None}


@pytest.mark.slow
@pytest.mark.long
def test_ray_brings_the_aws_file_up_as_far_as_an_instance(monkeypatch):
    """Ray's own AWS provider against a pretended AWS (moto's): roles, keys, networks, resources by type, a worker."""
    moto = pytest.importorskip("moto")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "testing")
    for name in ("AWS_PROFILE", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")
    with moto.mock_aws():
        import boto3
        from ray.autoscaler._private.aws.config import bootstrap_aws
        from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

        config = load("aws")
        region = config["provider"]["region"]
        image = boto3.client("ec2", region_name=region).describe_images()["Images"][0]["ImageId"]
        # A profile that is there, or Ray would make one and wait 15 s for it.
        iam = boto3.client("iam")
        iam.create_instance_profile(InstanceProfileName="nodes")
        for kind in config["available_node_types"].values():
            kind["node_config"] |= {"ImageId": image, "IamInstanceProfile": {"Name": "nodes"}}
        ready = bootstrap_aws(prepared(config))
        ready = AWSNodeProvider.fillout_available_node_types_resources(ready)
        assert ready["available_node_types"]["gpu-spot"]["resources"]["GPU"] == 4
        assert ready["available_node_types"]["gpu-spot"]["resources"]["CPU"] == 48
        assert ready["available_node_types"]["head"]["resources"]["CPU"] == 0
        provider = AWSNodeProvider(ready["provider"], ready["cluster_name"])
        node = ready["available_node_types"]["gpu-spot"]["node_config"]
        made = provider.create_node(node, {"ray-node-type": "worker", "ray-user-node-type": "gpu-spot"}, 1)
        (instance,) = made.values()
        assert (instance.instance_type, instance.instance_lifecycle) == ("g6.12xlarge", "spot")


def gcp_problems(node: dict[str, Any]) -> list[str]:
    schema = json.loads((SCHEMAS / "gcp_instance.json").read_text())
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(node)]


def test_google_cloud_would_launch_every_node_type():
    config = load("gcp")
    zone = config["provider"]["availability_zone"]
    assert zone.startswith(config["provider"]["region"])
    for kind in config["available_node_types"].values():
        node = kind["node_config"]
        assert gcp_problems(node) == []
        assert all(f"zones/{zone}/" in word for word in re.findall(r"zones/\S+?/\S+", json.dumps(node)))
    assert gcp_problems(node | {"machine_type": "n1"})
    assert gcp_problems(node | {"scheduling": {"provisioningModel": "CHEAP"}})


def kubernetes_problems(manifest: dict[str, Any]) -> list[str]:
    """What KubeRay's fields, and Kubernetes' own schema for the pods inside, have against a RayJob."""
    import kubernetes_validate

    schema = json.loads((SCHEMAS / "rayjob.json").read_text())
    found = [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(manifest)]
    cluster = manifest["spec"].get("rayClusterSpec", {})
    for group in (cluster.get("headGroupSpec", {}), *cluster.get("workerGroupSpecs", [])):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray"}, **group.get("template", {})}
        try:
            kubernetes_validate.validate(pod, "1.34", strict=True)
        except kubernetes_validate.ValidationError as error:
            found.append(error.message)
    return found


def kuberay() -> dict[str, Any]:
    return yaml.safe_load((CLUSTERS / "kuberay.yaml").read_text(encoding="utf-8"))


def test_kubernetes_accepts_the_manifest():
    assert kubernetes_problems(kuberay()) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "shutdownAfterJobFinish"), True),
        (("spec", "submissionMode"), "Job"),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "on"),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0, "imagePull"), "Always"),
        (
            ("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "volumes", 0, "emptyDir", "size"),
            "1Gi",
        ),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "maxReplicas"), "two"),
    ],
)
def test_kubernetes_would_not_accept_a_mistake(path, value):
    manifest = kuberay()
    part: Any = manifest
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = value
    assert len(kubernetes_problems(manifest)) == 1


def test_pods_have_token_shared_memory_and_the_nodes_ray():
    cluster = kuberay()["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == ray_version()
    (worker,) = cluster["workerGroupSpecs"]
    (container,) = worker["template"]["spec"]["containers"]
    assert {"name": "shared-memory", "mountPath": "/dev/shm"} in container["volumeMounts"]
    assert container["resources"]["limits"] == container["resources"]["requests"]
    verbs_submit.check_verb(shlex.split(kuberay()["spec"]["entrypoint"])[1:])


def test_the_image_has_the_nodes_ray_and_a_python_that_fits():
    text = (CLUSTERS / "Dockerfile").read_text()
    version, minor = re.search(r"^FROM rayproject/ray:([\d.]+)-py3(\d+)-gpu$", text, re.MULTILINE).groups()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert version == ray_version()
    assert f"3.{minor}.0" in SpecifierSet(project["requires-python"])
    (needed,) = [Requirement(line) for line in project["dependencies"] if line.startswith("ray[")]
    assert version in needed.specifier
    for line in re.findall(r"^COPY --chown=\S+ (.*) \S+$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in line.split())


@pytest.mark.parametrize("path", [*LAUNCHED.values(), CLUSTERS / "slurm.sh"], ids=lambda path: path.name)
def test_commands_in_comments_are_valid(path):
    text = path.read_text(encoding="utf-8").replace("\\\n#", "")
    lines = re.findall(r"^#\s+(raycondense submit|sbatch clusters/slurm\.sh) (.*)$", text, re.MULTILINE)
    assert lines
    for program, rest in lines:
        words = shlex.split(rest, comments=True)
        verbs_submit.check_verb(verbs_submit.split(words)[1] if program.startswith("raycondense") else words)


@pytest.mark.parametrize("path", sorted(CLUSTERS.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_ones_that_bash_understands(path):
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def stand_in(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
    (folder / name).chmod(0o755)


def test_slurm_hands_every_word_over_as_it_is(tmp_path):
    """Slurm itself is not here: srun and ray write down what they are given."""
    bin_ = tmp_path / "venv" / "bin"
    bin_.mkdir(parents=True)
    stand_in(tmp_path / "slurm", "scontrol", 'echo node07; echo node09; [[ "$*" == "show hostnames node[07,09]" ]]')
    stand_in(tmp_path / "slurm", "srun", f'printf "%s\\0" "$@" >{tmp_path}/words; env >{tmp_path}/environment')
    stand_in(bin_, "ray", "mkdir -p ~/.ray; echo token >~/.ray/auth_token")
    (tmp_path / ".ray" / "auth_token").unlink()
    environment = {
        "PATH": f"{tmp_path}/slurm:/usr/bin:/bin", "HOME": str(tmp_path), "VENV": str(tmp_path / "venv"),
        "SLURM_JOB_NODELIST": "node[07,09]", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "1234567",
        "SLURM_CPUS_PER_TASK": "32", "SLURM_GPUS_ON_NODE": "4",
    }  # fmt: skip
    verb = ["fit", "--out", "a folder/$(touch hacked)", "--data", "it's; true"]
    done = subprocess.run(
        ["bash", str(CLUSTERS / "slurm.sh"), *verb],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    words = (tmp_path / "words").read_text().split("\0")[:-1]
    assert words[words.index("--") + 1 :] == ["raycondense", *verb]
    assert words[words.index("ray") : words.index("--")] == [
        "ray", "symmetric-run", "--address", "node07:24567", "--min-nodes", "2",
        "--num-cpus=32", "--num-gpus=4",
    ]  # fmt: skip
    assert "RAY_AUTH_MODE=token" in (tmp_path / "environment").read_text().splitlines()
    assert not (tmp_path / "hacked").exists()
    assert (tmp_path / ".ray" / "auth_token").stat().st_mode & 0o077 == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root formats and mounts disks")
def test_scratch_takes_the_empty_local_disk_and_no_other(tmp_path):
    """A real disk (of 20 MB, in a file) and real mounts, in a namespace of their own; lsblk alone is told its model."""
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(20 * 1024**2)
    loop = subprocess.run(["losetup", "--find", "--show", str(image)], capture_output=True, text=True, check=False)
    if loop.returncode != 0:
        pytest.skip("no loop devices here")
    disk = loop.stdout.strip().removeprefix("/dev/")
    stand_in(
        tmp_path / "bin", "lsblk",
        f'case "$*" in "-dno NAME,MODEL") printf "%s\\n" "nvme0n1 Amazon Elastic Block Store" '
        f'"{disk} Amazon EC2 NVMe Instance Storage";; *) exec /usr/bin/lsblk "$@";; esac',
    )  # fmt: skip
    script = (
        f"export PATH={tmp_path}/bin:/usr/sbin:/usr/bin:/sbin:/bin READY_MADE={tmp_path}/none; cd {tmp_path};"
        f"bash {CLUSTERS}/scratch.sh {tmp_path}/scratch nobody && echo kept >scratch/file &&"
        f"bash {CLUSTERS}/scratch.sh {tmp_path}/scratch nobody && cat scratch/file && stat -c %U scratch &&"
        f"umount scratch &&"
        f"bash {CLUSTERS}/scratch.sh {tmp_path}/plain nobody"
    )
    try:
        done = subprocess.run(["unshare", "--mount", "bash", "-c", script], capture_output=True, text=True, check=False)
    finally:
        subprocess.run(["losetup", "--detach", f"/dev/{disk}"], check=False)
    assert done.returncode == 0, done.stderr
    first, again, kept, owner, plain = done.stdout.splitlines()
    assert f"(/dev/{disk})" in first
    assert f"(/dev/{disk})" in again
    # Once used it is never formatted again: the third call finds a disk with a file system and takes a plain folder.
    assert (kept, owner) == ("kept", "nobody")
    assert disk not in plain
