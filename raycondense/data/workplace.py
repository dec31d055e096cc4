"""Where `prepare` works: a hidden folder beside the beton, from which finished files are moved to their names.

``.OUT.beton.work`` holds the journal, the betons as far as they are written, and the spool. It stays when a run is
interrupted, for the same command to go on with, and goes when the files have their names.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raycondense.data.dataset_writer import EmptyClassError
from raycondense.data.identity import difference
from raycondense.data.journal import Done, Identity, Journal, JournalError
from raycondense.data.sidecar import Sidecar
from raycondense.errors import Interrupted, RunError
from raycondense.storage import fsync, write_text


class Workplace:
    """The folder of work on a beton.

    Args:
        out: the beton.

    Attributes:
        folder: the hidden folder.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self.folder = out.with_name(f".{out.name}.work")

    def beton(self, part: int) -> Path:
        """Where part 0, the training images, or part 1, the validation cut, is written."""
        return self.folder / f"{part}.beton"

    def load(self, identity: Identity) -> tuple[Journal, Done]:
        """What an interrupted run left.

        Raises:
            JournalError: it cannot be gone on from; the text says why.
        """
        journal, done = Journal.load(self.folder / "journal")
        changed = difference(journal.identity, identity)
        if changed:
            journal.close()
            raise JournalError(changed)
        return journal, done

    def begin(self, identity: Identity) -> Journal:
        """Begin anew, in an empty folder."""
        self.clear()
        self.folder.mkdir(parents=True)
        fsync(self.folder.parent)
        return Journal.create(self.folder / "journal", identity)

    def clear(self) -> None:
        """Remove the folder. The journal goes last: without it what else is left means nothing."""
        if self.folder.is_dir():
            for entry in os.scandir(self.folder):
                if entry.name != "journal":
                    Path(entry.path).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def kept(self, journal: Journal, total: int) -> Iterator[None]:
        """Close the journal at the end, and say of an interrupt or a full disk what stays to go on from.

        Args:
            journal: of the work in the block.
            total: number of all images.

        Raises:
            Interrupted: Ctrl-C, once there is something to go on from.
            RunError: the disk is full.
        """
        try:
            yield
        except KeyboardInterrupt:
            if not journal.images:
                raise
            raise Interrupted(f"{self._out}: interrupted; {self._how_to_go_on(journal, total)}") from None
        except EmptyClassError:
            # Whatever mends it changes an image that was read, or the settings: nobody can go on from this.
            self.clear()
            raise
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            what = "nothing was written, free some space and run again"
            if journal.images:
                what = f"free some space and {self._how_to_go_on(journal, total)}"
            raise RunError(f"{self._out}: no space left on the disk; {what}") from error
        finally:
            journal.close()
            if not journal.images:
                self.clear()

    def _how_to_go_on(self, journal: Journal, total: int) -> str:
        done = f"{journal.images:,} of {total:,} images"
        return f"run the same command to go on from {done} (they are in {self.folder}, remove it to give them up)"

    def finish(self, sidecars: list[Sidecar], journal: Journal) -> None:
        """Note that the betons are whole and what their sidecars say; from here on only `publish` is left."""
        for part, sidecar in enumerate(sidecars):
            write_text(Sidecar.path(self.beton(part)), sidecar.to_json())
        journal.add_finished()

    def unpublished(self, paths: list[Path]) -> list[Path]:
        """Those of ``paths`` that `publish` has still to give their beton to."""
        return [path for part, path in enumerate(paths) if self.beton(part).exists()]

    def publish(self, paths: list[Path]) -> None:
        """Give the finished betons and sidecars their names, those of part 0 last; may be repeated after a kill."""
        for part, path in reversed(list(enumerate(paths))):
            beton = self.beton(part)
            if beton.exists():
                # Of an older pair, the sidecar goes first: no moment shows it beside the new beton.
                Sidecar.path(path).unlink(missing_ok=True)
                os.replace(beton, path)
                fsync(path.parent)
            if Sidecar.path(beton).exists():
                os.replace(Sidecar.path(beton), Sidecar.path(path))
                fsync(path.parent)


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Keep other processes from writing ``path`` during the block.

    Raises:
        RunError: another one does.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_name(f".{path.name}.lock")
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
        while not file.exists():  # its holder removed it when it was done: that is no lock any more
            lock.release()
            lock.acquire(timeout=0)
    except Timeout:
        raise RunError(
            f"{path}: another `prepare` is writing this file at the moment; wait for it or choose another name"
        ) from None
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        lock.release()
