"""Runs of several steps: which step failed, going on from there, and what was done, as JSON."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nba import monitoring, settings
from nba.errors import DataError, NbaError
from nba.history import replace_text
from pipelines.lock import locked
from pipelines.progress import Progress, silent

FOLDER = monitoring.RUNS
Counts = Mapping[str, float | int | str | None]
Write = Callable[[str], None]


@dataclass(frozen=True)
class Step:
    """One step of a run.

    Attributes:
        name: How the record calls it.
        work: Does it, and says how much in a few numbers.
    """

    name: str
    work: Callable[[Path, datetime, Progress], Counts]


@dataclass
class Record:
    """What a run did; kept as `runs/<run_id>.json`.

    Attributes:
        steps: Name to status (done, failed), seconds, when, and its numbers.
    """

    run_id: str
    at: str
    config_hash: str
    status: str = "running"
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)

    def save(self, workspace: Path) -> None:
        """Write the record, whole or not at all."""
        replace_text(path_of(workspace, self.run_id), json.dumps(vars(self), indent=1))


def path_of(workspace: Path, run_id: str) -> Path:
    """Give the file of a run's record."""
    return workspace / FOLDER / f"{run_id}.json"


def read(workspace: Path, run_id: str) -> Record | None:
    """Read a run's record; None where there is none.

    Raises:
        DataError: when it is damaged.
    """
    path = path_of(workspace, run_id)
    if not path.is_file():
        return None
    try:
        return Record(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read: {error}", "Remove it: the run then begins anew.") from None


def run(
    kind: str,
    steps: Sequence[Step],
    workspace: Path,
    at: datetime,
    *,
    progress: Progress | None = None,
    write: Write = print,
) -> Record:
    """Do the steps in order; a run that failed goes on at the step that failed.

    Args:
        kind: What the run is called: nightly, weekly.
        steps: In order; each may be repeated without harm.
        workspace: Folder of the workspace.
        at: The moment that the run looks back from.
        progress: Where to report.
        write: Gets one line of JSON per step.

    Raises:
        BusyError: when another run works on the workspace.
        NbaError: of the step that failed, which the record names.
    """
    progress = progress or silent()
    config = settings.read(workspace)
    at = at.astimezone(UTC)
    run_id = f"{kind}-{at:%Y%m%dT%H%M%S}"
    with locked(workspace, run_id):
        record = read(workspace, run_id) or Record(run_id, at.isoformat(), config.config_hash)
        record.status, record.config_hash = "running", config.config_hash
        for step in steps:
            if record.steps.get(step.name, {}).get("status") == "done":
                _say(write, record, step.name, {"status": "skipped"})
                continue
            _do(step, record, workspace, at, progress, write)
        record.status = "done"
        record.save(workspace)
    return record


def _do(step: Step, record: Record, workspace: Path, at: datetime, progress: Progress, write: Write) -> None:
    started, begun = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    result: dict[str, Any] = {"status": "failed", "started": started}
    try:
        result |= {"numbers": dict(step.work(workspace, at, progress)), "status": "done"}
    except NbaError as error:
        result |= {"error": error.message, "hint": error.hint}
        raise
    except BaseException as error:
        result["error"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        # A monotonic clock: the time of day may be set meanwhile.
        result["seconds"] = round(time.monotonic() - begun, 3)
        record.steps[step.name] = result
        record.status = "running" if result["status"] == "done" else "failed"
        record.save(workspace)
        _say(write, record, step.name, result)


def _say(write: Write, record: Record, name: str, result: Mapping[str, Any]) -> None:
    write(json.dumps({"run": record.run_id, "step": name, **result}, default=str))
