"""Secrets are hidden wherever text of ours goes: messages, log records, files."""

import json
import logging
import pickle

import pytest

from raycondense.cli import main
from raycondense.errors import ConfigError, DependencyError, RunError
from raycondense.evaluation.queue import describe
from raycondense.redact import SecretsFilter, is_secret_name, without_secrets
from raycondense.tuning.records import SweepFolder

URL = "s3://AKIAEXAMPLE:hunter2/x+y=@bucket/runs?region=us-east-1"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:hunter2@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql://me:p@ss:w@host/db", "postgresql://me:***@host/db"),
        ("mysql://:hunter2@host/db", "mysql://:***@host/db"),
        (URL, "s3://AKIAEXAMPLE:***@bucket/runs?region=us-east-1"),
        ("'s3://a:b@c/d' and 's3://e:f@g/h'", "'s3://a:***@c/d' and 's3://e:***@g/h'"),
        ("s3://b/p?access_key=A&secret_key=B&scheme=http", "s3://b/p?access_key=***&secret_key=***&scheme=http"),
        ("postgresql://host/db?user=me&password=hunter2", "postgresql://host/db?user=me&password=***"),
        ("https://x.net/c?sv=1&sig=aGk%3D#top", "https://x.net/c?sv=1&sig=***#top"),
        (
            "https://b/o?X-Amz-Credential=a%2Fb&X-Amz-Signature=0f",
            "https://b/o?X-Amz-Credential=***&X-Amz-Signature=***",
        ),
    ],
)
def test_secrets_of_addresses_are_hidden(text, shown):
    assert without_secrets(text) == shown
    assert without_secrets(shown) == shown


@pytest.mark.parametrize(
    "text",
    ["sqlite:///a/b.db", "http://host:8080/a@b", "http://[::1]:80/x@y", "postgresql://me@host/db", "gs://b/x:y@z",
     "losses.intra=0.1", "mail a:b@c.d", "tokens=3 keys=4", ""],
)  # fmt: skip
def test_what_is_no_secret_stays(text):
    assert without_secrets(text) == text


def test_values_of_the_environment_that_are_secret_are_hidden_wherever_they_stand(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wJalrXUtnFEMI-and-more")
    monkeypatch.setenv("HF_TOKEN", "abc")  # too short: it stands in ordinary words
    found = without_secrets("denied: (wJalrXUtnFEMI-and-more), wJalrXUtnFEMI, abcdef")
    assert found == "denied: (***), ***, abcdef"
    # Where the shell is, is no password, and every other path would hold it.
    monkeypatch.setenv("PWD", "/home/me/project")
    assert without_secrets("/home/me/project/runs/a: no such file") == "/home/me/project/runs/a: no such file"


def test_names_of_secrets():
    secret = {"PGPASSWORD", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "DB_PASS", "RAY_AUTH_TOKEN"}
    plain = {
        "PWD",
        "OLDPWD",
        "RAY_AUTH_TOKEN_PATH",
        "RAY_AUTH_MODE",
        "SSH_AUTH_SOCK",
        "MONKEY",
        "COMPASS",
        "HOME",
        "AWS_ACCESS_KEY_ID",
    }
    assert {name for name in secret | plain if is_secret_name(name)} == secret


def test_no_error_of_ours_tells_a_secret():
    error = RunError(f"{URL}: out of reach")
    assert "hunter2" not in str(error)
    assert "hunter2" not in str(pickle.loads(pickle.dumps(error)))
    assert "hunter2" not in str(DependencyError(f"{URL} needs a driver"))
    assert "hunter2" not in describe(OSError(f"cannot open {URL}"))
    assert ConfigError("x", 3).args == ("x", 3)


def test_no_log_record_of_ours_tells_a_secret(caplog):
    logger = logging.getLogger("raycondense")
    try:
        raise OSError(f"cannot open {URL}")
    except OSError:
        logger.exception("%s: %d attempts", URL, 3)
    assert "3 attempts" in caplog.text
    assert "OSError" in caplog.text
    assert "hunter2" not in caplog.text
    # What is logged wrongly is told by the handler, not lost here.
    assert SecretsFilter().filter(logging.LogRecord("raycondense", 20, "", 0, "%d", ("x",), None))


def test_no_record_of_a_sweep_tells_a_secret(tmp_path):
    folder = SweepFolder(tmp_path)
    folder.append({"trial": 0, "event": "end", "state": "failed", "reason": f"OSError: {URL}", "time": 1.0})
    assert "hunter2" not in folder.events.read_text()
    assert json.loads(folder.events.read_text())["reason"].startswith("OSError: s3://AKIAEXAMPLE:***@bucket")


def test_the_command_line_tells_no_secret(capsys):
    assert main(["info", f"{URL}/nothing"]) == 2
    found = capsys.readouterr().err
    assert "AKIAEXAMPLE:***@bucket" in found
    assert "hunter2" not in found
