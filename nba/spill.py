"""Folders of passing files: each is held by who uses it, and swept once its holder has died.

What holds one is a lock on a file beside it, which the system frees when a process ends in whatever way. So
no process takes another's folder for a leftover, not even one that it cannot see (in another container).
"""

import fcntl
import os
import shutil
import uuid
import weakref
from pathlib import Path

PREFIX = ".spill-"
_LOCK = ".lock"


class Spill:
    """A folder of one's own to spill to, gone when it is closed or forgotten.

    Args:
        parent: Where it is to be; folders there that a dead process left are removed.
        prefix: How the name of it and of those others begins.

    Attributes:
        path: The folder, which who needs it makes (as DuckDB does).

    Example:
        >>> import tempfile
        >>> parent = Path(tempfile.mkdtemp())
        >>> spill = Spill(parent)
        >>> spill.path.mkdir()
        >>> Spill(parent).close()  # sweeps, but not what is held
        >>> spill.path.is_dir()
        True
        >>> spill.close()
        >>> list(parent.iterdir())
        []
    """

    def __init__(self, parent: Path, prefix: str = PREFIX) -> None:
        sweep(parent, prefix)
        self.path = parent / f"{prefix}{uuid.uuid4().hex[:8]}"
        lock = _lock_of(self.path)
        try:
            held = _held(lock, os.O_CREAT, fcntl.LOCK_EX)  # a sweep lets go of it at once
        except OSError:  # nothing can be written or locked here: then nothing can tell that it was left
            held = -1
        self._finish = weakref.finalize(self, _finish, self.path, held, os.getpid())

    def close(self) -> None:
        """Remove the folder."""
        self._finish()


def sweep(parent: Path, prefix: str = PREFIX) -> None:
    """Remove the folders that a process left which is no more."""
    for lock in parent.glob(f"{prefix}*{_LOCK}"):
        try:
            held = _held(lock, 0, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        _remove(lock.with_suffix(""), held)


def _lock_of(path: Path) -> Path:
    return path.with_suffix(_LOCK)


def _held(lock: Path, more: int, how: int) -> int:
    while True:
        file = os.open(lock, os.O_RDWR | more, 0o600)
        try:
            fcntl.flock(file, how)
            if os.fstat(file).st_nlink:
                return file
        except OSError:
            os.close(file)
            raise
        os.close(file)  # removed by a sweep after it was opened: what is held here, nobody sees


def _finish(path: Path, held: int, owner: int) -> None:
    if os.getpid() == owner:  # a fork of it has no say
        _remove(path, held)


def _remove(path: Path, held: int) -> None:
    shutil.rmtree(path, ignore_errors=True)
    if held >= 0:
        _lock_of(path).unlink(missing_ok=True)
        os.close(held)
