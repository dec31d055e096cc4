"""Jobs of Ray's job server: hand a command over, follow its log, and end as it ended.

A thin layer over `ray.job_submission`. What it adds: one line for what goes wrong, a log that goes on after a lost
connection, the job's own exit code, and a refusal of secrets, because a job's command and environment are shown to
everyone who can see the dashboard.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from raycondense.errors import ConfigError, RunError
from raycondense.redact import is_secret_name, without_secrets

HERE = "http://127.0.0.1:8265"
"""Where the job server is while `ray dashboard cluster.yaml` forwards the cluster's dashboard to this machine."""
LOST_FOR = 120.0
"""Seconds that the job server may be away while a log is followed."""


def check_no_secrets(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Refuse what would be shown with the job.

    Raises:
        ConfigError: an argument or a variable holds a secret.
    """
    instead = "valid: keep it on the nodes (docs/cluster.md), for jobs are shown on the dashboard"
    for word in command:
        if _holds_secret(word):
            raise ConfigError(f"submit: found a secret in the argument {without_secrets(word)}; {instead}")
    for name, value in environment.items():
        if is_secret_name(name):
            raise ConfigError(f"--env {name}: its name is that of a secret; {instead}")
        if _holds_secret(value):
            raise ConfigError(f"--env {name}: found a secret in its value; {instead}")


def _holds_secret(text: str) -> bool:
    return without_secrets(text) != text


def use_token(address: str) -> None:
    """Let Ray send its token where there is one, unless RAY_AUTH_MODE says otherwise; call it before Ray is imported.

    Only to this machine or through TLS, where nobody can read it on the way.
    """
    if os.environ.get("RAY_AUTH_MODE"):
        return
    url = urlsplit(address)
    if url.scheme != "https" and url.hostname not in ("127.0.0.1", "localhost", "::1"):
        return
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    if os.environ.get("RAY_AUTH_TOKEN") or path.is_file():
        os.environ["RAY_AUTH_MODE"] = "token"


class Jobs:
    """The job server at ``address``.

    Args:
        address: ``http://HOST:PORT`` or ``https://…`` of the cluster's dashboard.

    Raises:
        ConfigError: no server answers there, or it asks for a token that is not here or not its own.
    """

    def __init__(self, address: str) -> None:
        self.address = check_address(address)
        use_token(self.address)
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        for name in (
            "ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"
        ):  # fmt: skip
            logging.getLogger(name).setLevel(logging.WARNING)
        # Ray's client prefers these to the address that it is given.
        hidden = {name: os.environ.pop(name, None) for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")}
        try:
            self._client = JobSubmissionClient(self.address)
        except AuthenticationError as error:
            raise ConfigError(self._unauthorised(error)) from None
        except OSError:  # what the HTTP library under Ray's client raises is one too
            raise ConfigError(
                f"--address: no job server answers at {self.address}; valid: a cluster's dashboard, which is on this "
                "machine while `ray dashboard cluster.yaml` runs in another shell"
            ) from None
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"--address: {self.address} is no job server of Ray's ({_first_line(error)})") from None
        finally:
            os.environ.update({name: value for name, value in hidden.items() if value is not None})

    def submit(
        self,
        command: Sequence[str],
        *,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        name: str | None = None,
    ) -> str:
        """Start a job on the cluster's head and return its id.

        Args:
            command: program and arguments. Ray runs a line in a shell: each of them is quoted.
            folder: what the job's working directory holds; none leaves it empty.
            environment: variables of the job and of all its workers; everyone who sees the dashboard sees them.
            name: the job's id; by default Ray makes one.

        Raises:
            ConfigError: a secret in command or environment, or a job of this name was there before.
            RunError: the job server refused or went away.
        """
        environment = dict(environment or {})
        check_no_secrets(command, environment)
        runtime: dict[str, Any] = {}
        if folder is not None:
            runtime["working_dir"] = str(folder)
        if environment:
            runtime["env_vars"] = environment
        deadline = time.monotonic() + LOST_FOR
        while True:
            try:
                job: str = self._client.submit_job(
                    entrypoint=shlex.join(command), runtime_env=runtime or None, submission_id=name
                )
                return job
            except Exception as error:
                if name is not None and "already exists" in str(error):
                    raise ConfigError(f"--name: the cluster has had a job {name!r}; name another") from None
                # A cluster that has just come up: its dashboard answers before the process that starts jobs.
                if "try again later" not in str(error) or time.monotonic() > deadline:
                    raise RunError(f"{self.address}: the job was not taken: {_first_line(error)}") from error
            time.sleep(1)

    def follow(self, job: str, write: Callable[[str], Any]) -> None:
        """Hand the job's log to ``write`` as it grows, until the job has ended, through lost connections too.

        Raises:
            RunError: the job server stays away for `LOST_FOR` seconds.
        """
        seen = 0
        deadline = time.monotonic() + LOST_FOR

        async def tail() -> None:
            nonlocal seen, deadline
            # A new connection begins at the log's start: what was written is passed over.
            passed = 0
            async for text in self._client.tail_job_logs(job):
                deadline = time.monotonic() + LOST_FOR
                new = text[max(0, seen - passed) :]
                passed += len(text)
                if new:
                    write(new)
                    seen += len(new)

        while True:
            try:
                asyncio.run(tail())
                if self._client.get_job_status(job).is_terminal():
                    return
                deadline = time.monotonic() + LOST_FOR
            except Exception as error:
                if time.monotonic() > deadline:
                    raise RunError(
                        f"{self.address}: no connection for {LOST_FOR:.0f} s ({_first_line(error)}); the job goes on: "
                        f"{self.hint(job)}"
                    ) from error
            time.sleep(1)

    def result(self, job: str) -> tuple[int, str]:
        """Exit code and a line about a job that has ended: the command's own code where it had one."""
        info = self._client.get_job_info(job)
        status, code = str(info.status), info.driver_exit_code
        if status == "SUCCEEDED":
            return 0, f"{job}: succeeded"
        if status == "STOPPED":
            return 130, f"{job}: stopped"
        if code is None or code == 0:
            return 1, f"{job}: failed: {_first_line(info.message or 'no reason given')}"
        # Ended by a signal: as a shell says it.
        code = 128 - code if code < 0 else code
        return code, f"{job}: failed with exit code {code}"

    def hint(self, job: str) -> str:
        """How to come back to a job."""
        return f"ray job logs --follow --address {self.address} {job}"

    def _unauthorised(self, error: Exception) -> str:
        mode = os.environ.get("RAY_AUTH_MODE", "unset")
        what = (
            "does not take this machine's token" if mode == "token" else f"asks for a token (RAY_AUTH_MODE is {mode})"
        )
        return (
            f"--address: {self.address} {what}; valid: RAY_AUTH_MODE=token and the cluster's own token in "
            "~/.ray/auth_token or where RAY_AUTH_TOKEN_PATH says"
        )


def check_address(address: str) -> str:
    """``address`` in the form that Ray's client takes.

    Raises:
        ConfigError: another form, or a password in it.
    """
    text = address if "://" in address else f"http://{address}"
    try:
        url = urlsplit(text)
        valid = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(
            f"--address: found {address!r}, valid: http://HOST:PORT of a cluster's dashboard, e.g. {HERE}"
        )
    if without_secrets(text) != text:
        raise ConfigError(
            "--address: found a secret in it; valid: http://HOST:PORT and Ray's token, RAY_AUTH_MODE=token"
        )
    return text.rstrip("/")


def _first_line(error: object) -> str:
    """The first line of a message; of a traceback, with which the job server answers, the last one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return lines[-1] if "Traceback" in str(error) else lines[0]
