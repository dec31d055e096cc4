"""What a submitted job takes along: the small files of a folder, copied out so that what is said is what is sent.

No ray here: `raycondense.cluster.jobs` hands the copy over.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from raycondense.errors import ConfigError

LIMIT = 32 * 1024**2
"""Most bytes that are sent."""

# Matched against every part of a path; with a leading slash against the path from the folder's top.
EXCLUDED = (
    # What programs make.
    ".git", ".hg", ".venv*", "venv", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis", ".ipynb_checkpoints",
    "node_modules", "/build", "/dist", "/demo", "/runs", "/sweeps", "/leaderboard",
    # Data: it belongs on the nodes or at a URI.
    "*.beton", "*.beton.part", "*.pt", "*.pth", "*.npz", "*.npy", "*.parquet", "*.safetensors", "*.zip",
    "*.tar*", "*.tgz",
    # Secrets: what is sent can be read by everyone who may use the cluster.
    ".env", ".env.*", ".netrc", ".pgpass", ".git-credentials", ".aws", ".ssh", ".kube", ".gnupg", ".docker", ".config",
    ".gcloud", ".ray", "auth_token", "*.pem", "*.key", "*.p12", "id_rsa*", "id_ed25519*", "id_ecdsa*", "*credentials*",
    "*secret*",
)  # fmt: skip


@dataclass(frozen=True)
class Upload:
    """Files that go along with a job.

    Attributes:
        folder: where they are.
        files: their paths in it, sorted.
        bytes: their size together.
    """

    folder: Path
    files: tuple[Path, ...]
    bytes: int

    def copy_to(self, target: Path) -> None:
        """Copy the files into ``target``, which need not exist."""
        target.mkdir(parents=True, exist_ok=True)
        for path in self.files:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            # The content of a link inside the folder, with the file's rights (scripts stay executable).
            shutil.copy(self.folder / path, target / path)


def choose_files(folder: Path, exclude: Sequence[str] = ()) -> Upload:
    """The files of ``folder`` that a job takes along: in a checkout what git would, without data and secrets.

    Args:
        folder: an existing folder.
        exclude: more patterns (``*`` and ``?``) of names, or from the top with a leading slash, to leave out.

    Raises:
        ConfigError: no such folder, a home or root folder, or more than `LIMIT` bytes.
    """
    folder = folder.expanduser().absolute()
    if not folder.is_dir():
        raise ConfigError(f"--working-dir: {folder} is no folder; valid: a folder, or None to send nothing")
    if folder.resolve() in (Path.home().resolve(), Path("/")):
        raise ConfigError(f"--working-dir: {folder} is too much to send; valid: a folder of the project, or None")
    patterns = (*EXCLUDED, *exclude)
    sizes: dict[Path, int] = {}
    for path in _candidates(folder, patterns):
        whole = folder / path
        # A link may lead to something that was never meant to be sent.
        if is_excluded(path, patterns) or not whole.is_file() or not _inside(whole, folder):
            continue
        sizes[path] = whole.stat().st_size
    total = sum(sizes.values())
    if total > LIMIT:
        largest = sorted(sizes, key=lambda path: -sizes[path])[:3]
        named = ", ".join(f"{path} ({sizes[path] / 1024**2:.1f} MB)" for path in largest)
        raise ConfigError(
            f"--working-dir: {folder} holds {total / 1024**2:.0f} MB in {len(sizes)} files, at most "
            f"{LIMIT // 1024**2} MB are sent; leave some out with --exclude (largest: {named})"
        )
    return Upload(folder, tuple(sorted(sizes)), total)


def is_excluded(path: Path, patterns: Sequence[str]) -> bool:
    """Whether a relative path, or a folder it lies in, matches one of the patterns."""
    for pattern in patterns:
        if pattern.startswith("/"):
            tops = (Path(*path.parts[: n + 1]).as_posix() for n in range(len(path.parts)))
            if any(fnmatchcase(top, pattern[1:].rstrip("/")) for top in tops):
                return True
        elif any(fnmatchcase(part, pattern.rstrip("/")) for part in path.parts):
            return True
    return False


def _inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _candidates(folder: Path, patterns: Sequence[str]) -> Iterator[Path]:
    """Paths relative to ``folder``: what git knows or would add, or else all files."""
    try:
        listed = subprocess.run(
            ["git", "-C", str(folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            capture_output=True, timeout=60, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        listed = None
    if listed is not None and listed.returncode == 0:
        for name in listed.stdout.split(b"\0"):
            if name:
                yield Path(name.decode(errors="surrogateescape"))
        return
    waiting = [folder]
    while waiting:
        for found in sorted(waiting.pop().iterdir()):
            path = found.relative_to(folder)
            if is_excluded(path, patterns):
                continue
            if found.is_dir() and not found.is_symlink():
                waiting.append(found)
            else:
                yield path
