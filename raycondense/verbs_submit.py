"""What ``raycondense submit`` does."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raycondense.cli import VERBS, parse
from raycondense.errors import ConfigError, Interrupted, choices_message

NOT_HERE = ("submit", "doctor", "demo")
"""Verbs that make no sense as a job."""


@dataclass(frozen=True, kw_only=True)
class Submit:
    """Run a verb as a job on a Ray cluster: raycondense submit [OPTIONS] -- VERB [ITS OPTIONS].

    Sends the small files of the working directory (a configuration, a space, changed code), not data and not secrets.
    """

    address: str | None = None
    """The cluster's dashboard, http://HOST:PORT; by default RAY_API_SERVER_ADDRESS or http://127.0.0.1:8265, where `ray
    dashboard cluster.yaml` brings it."""
    working_dir: Path | None = Path(".")
    """Folder whose files go along and in which the verb runs; None sends nothing."""
    exclude: tuple[str, ...] = ()
    """More names to leave out, e.g. '*.png' notes; with a leading slash, paths from the folder's top."""
    env: tuple[str, ...] = ()
    """Variables of the job and its workers, NAME=VALUE. They are shown on the dashboard: no secrets."""
    name: str | None = None
    """The job's id; by default Ray makes one."""
    wait: bool = True
    """Follow the log and end with the job's exit code; --no-wait returns when the job is taken."""
    dry_run: bool = False
    """Say what would be sent and run, and stop."""


def submit(words: list[str]) -> int:
    """``raycondense submit -- fit --preset imagenet1k_64 --data s3://bucket/train.beton``"""
    own, verb = split(words)
    flags = parse(Submit, "submit", own)
    check_verb(verb)
    environment = parse_environment(flags.env)
    from raycondense.cluster import jobs
    from raycondense.cluster.working_dir import choose_files

    command = ["raycondense", *verb]
    jobs.check_no_secrets(command, environment)
    address = jobs.check_address(flags.address or os.environ.get("RAY_API_SERVER_ADDRESS") or jobs.HERE)
    upload = choose_files(flags.working_dir, flags.exclude) if flags.working_dir is not None else None
    check_local_files(verb, set() if upload is None else {upload.folder / path for path in upload.files})
    if upload is None:
        print("sends no files")
    else:
        print(
            f"sends {len(upload.files)} files, {upload.bytes / 1e6:.1f} MB, of {upload.folder}: {summary(upload.files)}"
        )
    if flags.dry_run:
        for path in upload.files if upload is not None else ():
            print(f"  {path}")
        print(f"would run at {address}: {' '.join(command)}")
        return 0
    server = jobs.Jobs(address)
    with tempfile.TemporaryDirectory(prefix="raycondense-") as scratch:
        folder = None
        if upload is not None:
            folder = Path(scratch) / "working_dir"
            upload.copy_to(folder)
        job = server.submit(command, folder=folder, environment=environment, name=flags.name)
    print(f"{job}: {' '.join(command)}", flush=True)
    if not flags.wait:
        print(f"its log: {server.hint(job)}")
        return 0
    try:
        server.follow(job, _write)
        code, line = server.result(job)
    except KeyboardInterrupt:
        raise Interrupted(
            f"{job} goes on without us; its log: {server.hint(job)}; to end it: ray job stop --address {address} {job}"
        ) from None
    print(line, file=sys.stderr if code else sys.stdout)
    return code


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Options of submit itself, and the verb with its own after ``--``.

    Raises:
        ConfigError: no ``--`` with a verb behind it.
    """
    if "--" not in words:
        if {"-h", "--help"} & set(words):
            return list(words), []
        raise ConfigError("submit: found no --, valid: raycondense submit [OPTIONS] -- VERB [ITS OPTIONS]")
    cut = list(words).index("--")
    return list(words[:cut]), list(words[cut + 1 :])


def check_verb(words: list[str]) -> None:
    """Find mistakes in the verb's command line here, before a cluster is asked.

    Raises:
        ConfigError: no such verb, or its options are not valid.
    """
    valid = [name for name in VERBS if name not in NOT_HERE]
    if not words or words[0] not in valid:
        raise ConfigError(choices_message("verb after --", words[0] if words else "", valid))
    if words[0] == "fit":
        from raycondense.verbs import Fit, start_config

        flags = parse(Fit, "fit", words[1:], default=Fit(config=start_config(words[1:])))
        if flags.data is None and not flags.dry_run:
            raise ConfigError("--data: missing; valid: a .beton on every node, on a shared file system, or at a URI")
    elif words[0] == "evaluate":
        from raycondense.verbs import Evaluate

        parse(Evaluate, "evaluate", words[1:])


def check_local_files(words: Sequence[str], sent: set[Path]) -> None:
    """Refuse relative paths of files that are here and do not go along: on the cluster there is no such file.

    Raises:
        ConfigError: an argument names one.
    """
    for word in words[1:]:
        path = Path(word)
        if not word.startswith("-") and not path.is_absolute() and path.is_file() and path.absolute() not in sent:
            raise ConfigError(
                f"{word}: is on this machine and is not sent along; valid: a path on the cluster's nodes, or a URI (s3://…)"
            )


def parse_environment(items: Sequence[str]) -> dict[str, str]:
    """``NAME=VALUE`` items as a dict.

    Raises:
        ConfigError: an item has another form.
    """
    found: dict[str, str] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not name.isidentifier():
            raise ConfigError(f"--env: found {name!r}, valid: NAME=VALUE")
        found[name] = value
    return found


def summary(files: Sequence[Path]) -> str:
    """The top folders and files, most files first: ``raycondense/ (130), my.yaml``."""
    counts: dict[str, int] = {}
    for path in files:
        top = f"{path.parts[0]}/" if len(path.parts) > 1 else path.parts[0]
        counts[top] = counts.get(top, 0) + 1
    named = [
        f"{top} ({n})" if top.endswith("/") else top for top, n in sorted(counts.items(), key=lambda i: (-i[1], i[0]))
    ]
    return ", ".join(named[:8]) + (", …" if len(named) > 8 else "") if named else "nothing"


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
