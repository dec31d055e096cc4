"""Artefacts on the Hugging Face hub: download and push, through huggingface_hub (the extra ``raycondense[hub]``)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raycondense.artifact.format import FILES
from raycondense.errors import ArtifactError, DependencyError


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise DependencyError(
            "artefacts on the Hugging Face hub need huggingface_hub: pip install 'raycondense[hub]'"
        ) from error
    return huggingface_hub


@contextmanager
def _hub_errors_are_ours(repository: str) -> Iterator[None]:
    from huggingface_hub import errors

    # Its newer versions raise errors of their HTTP library that are no OSError.
    kinds = (OSError, ValueError, getattr(errors, "HTTPError", OSError))
    try:
        yield
    except kinds as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        raise ArtifactError(f"hf-hub:{repository}: {reason} ({type(error).__name__})") from error


def download(repository: str, *, token: str | None = None) -> Path:
    """Bring an artefact into huggingface_hub's cache and return its folder.

    Args:
        repository: ``"user/name"`` or ``"user/name@revision"``.
        token: access token; None takes the one of ``hf auth login``.

    Raises:
        ArtifactError: the hub has no such repository or revision, or cannot be reached.
        DependencyError: huggingface_hub is not installed.
    """
    hub = _hub()
    name, _, revision = repository.partition("@")
    with _hub_errors_are_ours(repository):
        # Only the files of an artefact: a repository may hold anything else.
        return Path(hub.snapshot_download(name, revision=revision or None, allow_patterns=list(FILES), token=token))


def push(folder: Path, repository: str, *, private: bool, token: str | None) -> str:
    """Upload the artefact in ``folder`` and return the repository's address; see `Artifact.push`."""
    hub = _hub()
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ArtifactError(f"{folder}: cannot be pushed without {', '.join(missing)}")
    with _hub_errors_are_ours(repository):
        api = hub.HfApi(token=token)
        address = str(api.create_repo(repository, private=private, exist_ok=True))
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=list(FILES),
            commit_message="Upload a condensed dataset (raycondense)",
        )
    return address
