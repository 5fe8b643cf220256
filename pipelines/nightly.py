"""The night in one command: ingest, feedback, decide, verify, deliver, alerts, reports."""

from datetime import datetime, timedelta
from pathlib import Path

from nba import settings
from nba.errors import MissingError
from nba.history import History
from nba.serving import delivery
from pipelines import alerts, analyze, candidates, decide, deliver, evaluate, feedback, ingest, overview, runs
from pipelines.progress import Progress, silent
from pipelines.runs import Counts, Step, Write


def nightly(
    workspace: Path, at: datetime, *, progress: Progress | None = None, write: Write = print
) -> runs.Record:
    """Run the night's steps; a night that failed goes on at the step that failed.

    Args:
        workspace: Folder of the workspace.
        at: The moment of decision.
        progress: Where to report.
        write: Gets one line of JSON per step.

    Raises:
        BusyError: when another run works on the workspace.
        NbaError: of the step that failed.
    """
    return runs.run("nightly", STEPS, workspace, at, progress=progress, write=write)


def _ingest(workspace: Path, _at: datetime, progress: Progress) -> Counts:
    report = ingest.ingest(workspace, progress=progress)
    rows = {row["source"]: row for row in report.rows}
    kept = sum(row.get("rows_kept") or 0 for row in rows.values())
    bad = sum(row.get("quarantined") or 0 for row in rows.values())
    return {"version": report.version, "rows": kept, "quarantined": bad}


def _feedback(workspace: Path, at: datetime, progress: Progress) -> Counts:
    if not History.read(workspace).has("decisions"):
        return {"closed": 0}
    found = feedback.feedback(workspace, at, progress=progress)
    return {"closed": found.n_closed, "waiting": found.n_waiting}


def _decide(workspace: Path, at: datetime, progress: Progress) -> Counts:
    report = decide.decide(workspace, at, progress=progress)
    manifest = delivery.read_manifest(report.folder)
    return {
        "batch": report.batch_id,
        "decisions": manifest["n_decisions"],
        "contacts": manifest["n_contacts"],
    }


def _verify(workspace: Path, at: datetime, _progress: Progress) -> Counts:
    return {"decisions": delivery.verify(_folder(workspace, at))["n_decisions"]}


def _deliver(workspace: Path, at: datetime, progress: Progress) -> Counts:
    found = deliver.deliver(workspace, decide.batch_name(at), progress=progress)
    return {row["sink"]: row["decisions"] for row in found}


def _reports(workspace: Path, at: datetime, _progress: Progress) -> Counts:
    earlier = "select count(*) as n from decisions where decided_at < $at"
    if not History.read(workspace).sql(earlier, {"at": at})["n"][0].as_py():
        return {"reports": 0}
    done = 0
    # Readers of what happened; what has nothing to read yet says so by MissingError.
    candidates.recent(workspace)
    for read in (analyze.analyze, evaluate.evaluate, overview.overview):
        try:
            read(workspace, at, progress=silent())
            done += 1
        except MissingError:
            continue
    return {"reports": done}


def _alerts(workspace: Path, at: datetime, _progress: Progress) -> Counts:
    found = alerts.alerts(workspace, at + timedelta(seconds=1))
    return {"warnings": sum(status == "warning" for status in found["status"].to_pylist())}


def _folder(workspace: Path, at: datetime) -> Path:
    root = workspace / settings.read(workspace).delivery.path
    return delivery.folder_of(root, decide.batch_name(at))


STEPS = (
    Step("ingest", _ingest),
    Step("feedback", _feedback),
    Step("decide", _decide),
    Step("verify", _verify),
    Step("deliver", _deliver),
    Step("alerts", _alerts),  # before the summary, which is of all that was written before it
    Step("reports", _reports),
)
