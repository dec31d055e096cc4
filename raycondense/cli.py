"""The ``raycondense`` command: finds the verb, turns mistakes into one line, and keeps its start light.

The verbs are in `raycondense.verbs`; their flags are derived from typed dataclasses, `raycondense.config` above all.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar

from raycondense.errors import ConfigError, RaycondenseError, choices_message
from raycondense.redact import without_secrets

VERBS = {
    "prepare": "turn a folder, Parquet shards, a torchvision dataset or an .npz into a .beton",
    "plan": "say what a run will take: size, memory, speed, time and cost, from steps on made-up images",
    "fit": "condense a .beton into a generator",
    "evaluate": "train students on an artefact and on the baselines, and print the table",
    "sweep": "search loss weights, learning rates or sizes with many short runs, and evaluate the best",
    "submit": "run a verb as a job on a Ray cluster and follow its log: submit [OPTIONS] -- VERB [ITS OPTIONS]",
    "report": "write the report.html of a run or the sweep.html of a sweep",
    "leaderboard": "print everything measured so far: sorted, filtered, as a table, Markdown, CSV or JSON",
    "export": "write an artefact's images as an ImageFolder, an .npz or a .beton",
    "presets": "list the presets, or print one",
    "doctor": "say what works on this machine and how to mend what does not",
    "info": "say what an artefact, a beton or a run folder holds; without a path, what there is to choose from",
    "demo": "condense scikit-learn's digits end to end and write a report",
}
HIGHLIGHT = re.compile(r"[╭╮╰╯│─]")
T = TypeVar("T")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status: 0, 2 for the user's mistakes, 1 for failures, 130 for Ctrl-C."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # Configured here and not at import: a library must leave its user's logging alone.
    logging.basicConfig(level=os.environ.get("RAYCONDENSE_LOG", "WARNING").upper(), format="%(name)s: %(message)s")
    logging.getLogger("raycondense").setLevel(os.environ.get("RAYCONDENSE_LOG", "INFO").upper())
    sys.excepthook = _show_bug
    try:
        if not words or words[0] in ("-h", "--help"):
            print(usage())
            return 0 if words else 2
        if words[0] == "--version":
            from raycondense import __version__

            print(f"raycondense {__version__}")
            return 0
        if words[0] not in VERBS:
            raise ConfigError(choices_message("verb", words[0], VERBS))
        from raycondense import verbs, verbs_leaderboard, verbs_plan, verbs_submit, verbs_sweep

        rooms = {
            "leaderboard": verbs_leaderboard, "plan": verbs_plan, "submit": verbs_submit, "sweep": verbs_sweep,
        }  # fmt: skip
        room = rooms.get(words[0], verbs)
        run: Callable[[list[str]], int] = getattr(room, words[0])
        return run(words[1:])
    except RaycondenseError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) has left; nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _show_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback of a bug, which may hold addresses, without what is secret in them."""
    print(without_secrets("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


def usage() -> str:
    """What ``raycondense --help`` prints."""
    lines = [f"  {name:<11} {what}" for name, what in VERBS.items()]
    return "\n".join(["usage: raycondense VERB [OPTIONS]   (raycondense VERB --help: its options)", "", *lines])


def parse(kind: type[T], verb: str, words: Sequence[str], default: T | None = None) -> T:
    """Parse a verb's flags into ``kind``, a dataclass; a mistake becomes a `ConfigError` of one line.

    Args:
        kind: the dataclass whose fields are the flags.
        verb: name of the verb, for messages.
        words: the command line after the verb.
        default: values of flags that are not given.
    """
    import tyro

    options: dict[str, Any] = {} if default is None else {"default": default}
    caught = io.StringIO()
    try:
        with contextlib.redirect_stderr(caught):
            return tyro.cli(kind, prog=f"raycondense {verb}", args=words, **options)
    except SystemExit as exit_:
        if exit_.code in (0, None):
            raise
        raise ConfigError(one_line(caught.getvalue(), verb)) from None


def one_line(box: str, verb: str) -> str:
    """The message inside one of tyro's framed error boxes, with the nearest flags that it proposes."""
    title, *lines = [HIGHLIGHT.sub(" ", line).strip() for line in box.splitlines()] or [""]
    message: list[str] = []
    near: list[str] = []
    proposing = False
    for line in lines:
        if line.startswith(("For full helptext", "Argument helptext")):
            break
        if line.startswith("Perhaps you meant"):
            proposing = True
        elif proposing and line.startswith("--"):
            near.append(line.split()[0].split(",")[0])
        elif not proposing and line:
            message.append(line)
    text = re.sub(r"^Error parsing [\w.]+: (?=[\w.]+: found)", "", " ".join(message) or title)
    text = re.sub(r"\. Got errors: .*", "", text)  # of each type that a field may have
    hint = f" (did you mean {' or '.join(dict.fromkeys(near))}?)" if near else ""
    return f"{text}{hint}; see raycondense {verb} --help"


if __name__ == "__main__":
    sys.exit(main())
