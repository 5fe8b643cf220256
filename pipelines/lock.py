"""One run at a time changes a workspace: a lock that the system frees when its holder dies."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from nba.errors import NbaError

FILE = ".lock"
_held: set[Path] = set()


class BusyError(NbaError):
    """Another run works on the workspace."""

    exit_code = 4


@contextmanager
def locked(workspace: Path, what: str) -> Iterator[None]:
    """Hold the workspace; within one process it may be held again.

    Args:
        workspace: Its folder.
        what: What runs, for who finds it locked.

    Raises:
        BusyError: when another process holds it.
    """
    path = (workspace / FILE).absolute()
    if path in _held or not workspace.is_dir():
        yield
        return
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise BusyError(
                f"{workspace} is in use: {file.read().strip() or 'another run'}",
                "Wait until it has ended and run the same command again; nothing was changed by this one.",
            ) from None
        file.truncate(0)
        started = datetime.now(UTC).isoformat(timespec="seconds")
        file.write(json.dumps({"what": what, "process": os.getpid(), "since": started}))
        file.flush()
        _held.add(path)
        try:
            yield
        finally:
            _held.discard(path)
            file.truncate(0)
