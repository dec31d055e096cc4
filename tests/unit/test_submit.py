"""What `raycondense submit` sends, checks and refuses before any cluster is asked."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from raycondense import verbs_submit
from raycondense.cli import main
from raycondense.cluster import jobs
from raycondense.cluster.working_dir import LIMIT, choose_files, is_excluded
from raycondense.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def fill(folder: Path, *names: str, **texts: str) -> Path:
    """Files in ``folder``, each with one letter in it, or with a text (``my_yaml`` for my.yaml)."""
    for name, text in {
        **dict.fromkeys(names, "x"),
        **{key.replace("_", "."): text for key, text in texts.items()},
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def names(folder: Path, *exclude: str) -> set[str]:
    return {path.as_posix() for path in choose_files(folder, exclude).files}


def test_small_files_go_along_and_data_results_and_secrets_stay(tmp_path):
    fill(
        tmp_path,
        "my.yaml", "code/train.py", "code/deep/er.txt", "train.beton", "weights.safetensors", "a.npz",
        "runs/x/log.jsonl",
        "code/runs/kept.txt", ".env", "key.pem", "id_rsa", ".ssh/config", ".aws/credentials", ".git/config",
        ".venv/lib/a.py", "code/__pycache__/a.pyc", "auth_token", "my-credentials.json", "demo/report.html",
    )  # fmt: skip
    assert names(tmp_path) == {"my.yaml", "code/train.py", "code/deep/er.txt", "code/runs/kept.txt"}
    assert names(tmp_path, "*.py", "/code/deep") == {"my.yaml", "code/runs/kept.txt"}


def test_a_checkout_sends_what_git_would(tmp_path):
    fill(tmp_path, "kept.txt", "new.txt", "ignored.log", "key.pem", _gitignore="*.log\n")
    for words in (["init", "-q"], ["add", "kept.txt", "key.pem"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    assert names(tmp_path) == {".gitignore", "kept.txt", "new.txt"}
    (tmp_path / "kept.txt").unlink()
    assert names(tmp_path) == {".gitignore", "new.txt"}


def test_links_that_lead_outside_stay(tmp_path):
    secret = tmp_path / "outside.txt"
    secret.write_text("x")
    folder = tmp_path / "work"
    fill(folder, a_txt="inside")
    (folder / "out.txt").symlink_to(secret)
    (folder / "all").symlink_to(tmp_path)
    (folder / "b.txt").symlink_to("a.txt")
    (folder / "gone.txt").symlink_to("nothing")
    upload = choose_files(folder)
    upload.copy_to(tmp_path / "copy")
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["a.txt", "b.txt"]
    assert (tmp_path / "copy" / "b.txt").read_text() == "inside"
    assert upload.bytes == 12


def test_this_checkout_sends_its_whole_package():
    """The patterns must not leave out a part of it: raycondense/data is no data."""
    sent = set(choose_files(ROOT).files)
    package = {path.relative_to(ROOT) for path in (ROOT / "raycondense").rglob("*.py")}
    assert package <= sent
    assert not [path for path in sent if path.suffix in (".beton", ".safetensors", ".pt")]


@pytest.mark.parametrize(
    ("path", "pattern", "excluded"),
    [
        ("a/runs/b", "/runs", False), ("runs/b", "/runs", True), ("x/y/z.txt", "/x/y", True),
        ("x/yy/z.txt", "/x/y", False),
        ("a/b.png", "*.png", True), ("a/b.PNG", "*.png", False), ("notes/a", "notes/", True),
    ],
)  # fmt: skip
def test_patterns(path, pattern, excluded):
    assert is_excluded(Path(path), [pattern]) is excluded


def test_a_folder_that_is_too_much_is_refused(tmp_path, monkeypatch):
    with (tmp_path / "big.bin").open("wb") as file:
        file.truncate(LIMIT + 1)
    with pytest.raises(ConfigError, match=r"--exclude \(largest: big\.bin \(32\.0 MB\)\)"):
        choose_files(tmp_path)
    assert names(tmp_path, "*.bin") == set()
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in (tmp_path, Path("/"), tmp_path / "none"):
        with pytest.raises(ConfigError, match="--working-dir"):
            choose_files(folder)


@pytest.mark.parametrize(
    "word",
    [
        "postgresql://me:hunter2secret@host/db", "s3://AKIA123:abcdefgh@bucket/runs",
        "s3://bucket/runs?access_key=AKIA123&secret_key=abcdefgh", "https://host/x?sig=abcdefgh",
    ],
)  # fmt: skip
def test_secrets_among_the_arguments_are_refused(word, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status = main(["submit", "--", "fit", "--preset", "digits", "--data", "s3://b/t.beton", "--out", word])
    error = capsys.readouterr().err
    assert status == 2
    assert "secret" in error
    assert "hunter2" not in error
    assert "abcdefgh" not in error


def test_secrets_in_the_environment_are_refused():
    for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "DB_PASSWORD"):
        with pytest.raises(ConfigError, match=name):
            jobs.check_no_secrets([], {name: "abcdefgh"})
    with pytest.raises(ConfigError, match="DB") as caught:
        jobs.check_no_secrets([], {"DB": "postgresql://me:abcdefgh@host/db"})
    assert "abcdefgh" not in str(caught.value)
    jobs.check_no_secrets(["raycondense", "fit", "--data", "s3://bucket/train.beton"], {"NCCL_DEBUG": "INFO"})


def test_the_working_folder_is_no_secret(monkeypatch, tmp_path):
    """Shells keep it in PWD and OLDPWD."""
    monkeypatch.setenv("PWD", str(tmp_path))
    monkeypatch.setenv("OLDPWD", str(tmp_path))
    jobs.check_no_secrets(["raycondense", "fit", "--out", str(tmp_path / "run")], {"WHERE": str(tmp_path)})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "found no --"),
        (["fit", "--preset", "digits"], "found no --"),
        (["--"], "unknown verb after --"),
        (["--", "doctor"], "unknown verb after --"),
        (["--", "submit", "--", "fit"], "unknown verb after --"),
        (["--", "fit", "--preset", "digit", "--data", "x.beton"], "did you mean 'digits'"),
        (["--", "fit", "--preset", "digits"], "--data: missing"),
        (["--", "fit", "--preset", "digits", "--data", "/x.beton", "--cluster.worker", "2"], "--cluster.workers"),
        (["--wait-not", "--", "info"], "submit --help"),
        (["--env", "A", "--", "info"], "NAME=VALUE"),
        (["--address", "ray://head:10001", "--", "info"], "http://HOST:PORT"),
        (["--address", "http://", "--", "info"], "http://HOST:PORT"),
        (["--address", "http://me:abcdefgh@head:8265", "--", "info"], "secret"),
    ],
)
def test_mistakes_are_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["submit", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_files_that_are_here_alone_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path, "train.beton", my_yaml="preset: digits\n")
    assert main(["submit", "--", "fit", "--config-file", "my.yaml", "--data", "train.beton"]) == 2
    assert "train.beton: is on this machine" in capsys.readouterr().err
    # Sent along: my.yaml. On the nodes, for all we know: an absolute path.
    words = ["--dry-run", "--", "fit", "--config-file", "my.yaml", "--data", str(tmp_path / "train.beton")]
    assert main(["submit", *words]) == 0
    said = capsys.readouterr().out
    assert "sends 1 files" in said
    assert "  my.yaml\n" in said
    assert "would run at http://127.0.0.1:8265: raycondense fit --config-file my.yaml" in said
    words[0:1] = ["--dry-run", "--working-dir", "None"]
    assert main(["submit", *words]) == 2


def test_nobody_at_home(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["submit", "--address", "http://127.0.0.1:9", "--", "info"]) == 2
    error = capsys.readouterr().err
    assert "no job server answers at http://127.0.0.1:9" in error
    assert error.count("\n") == 1


def test_the_token_goes_to_this_machine_or_through_tls_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for address, expected in (
        ("http://127.0.0.1:8265", "token"), ("https://head:443", "token"), ("http://10.0.0.1:8265", None),
        ("http://127.0.0.1.example.com", None),
    ):  # fmt: skip
        monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
        monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
        jobs.use_token(address)
        assert "RAY_AUTH_MODE" not in jobs.os.environ
        (tmp_path / "token").write_text("x")
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
        jobs.use_token(address)
        assert jobs.os.environ.get("RAY_AUTH_MODE") == expected
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        jobs.use_token(address)
        assert jobs.os.environ["RAY_AUTH_MODE"] == "disabled"


def test_summary_of_what_is_sent():
    paths = [Path(name) for name in ("a/b.py", "a/c.py", "z.yaml", "d/e")]
    assert verbs_submit.summary(paths) == "a/ (2), d/ (1), z.yaml"
    assert verbs_submit.summary([]) == "nothing"
