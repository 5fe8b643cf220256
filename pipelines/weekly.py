"""The week in one command: judge last week's challenger, train the next on what has closed, evaluate."""

from datetime import datetime
from pathlib import Path

from nba import settings, tracking
from nba.errors import MissingError
from nba.history import History
from pipelines import evaluate, feedback, learn, promote, replay, runs
from pipelines.progress import Progress
from pipelines.runs import Counts, Step, Write


def weekly(
    workspace: Path, at: datetime, *, progress: Progress | None = None, write: Write = print
) -> runs.Record:
    """Run the week's steps; a week that failed goes on at the step that failed.

    Args:
        workspace: Folder of the workspace.
        at: Outcomes that had closed by then count.
        progress: Where to report.
        write: Gets one line of JSON per step.

    Raises:
        BusyError: when another run works on the workspace.
        NbaError: of the step that failed.
    """
    return runs.run("weekly", STEPS, workspace, at, progress=progress, write=write)


def _feedback(workspace: Path, at: datetime, progress: Progress) -> Counts:
    found = feedback.feedback(workspace, at, progress=progress)
    return {"closed": found.n_closed, "waiting": found.n_waiting}


def _promote(workspace: Path, at: datetime, progress: Progress) -> Counts:
    # Before training: the evidence is of decisions that closed after the challenger was trained.
    try:
        found = promote.promote(workspace, at, progress=progress)
    except MissingError:
        return {"passed": 0, "moved": 0}
    approver = settings.read(workspace).promotion.approver
    moved = found.is_passed and bool(approver.strip())
    if moved:
        promote.promote(workspace, at, approver=approver, note="standing approval, by nba weekly")
    return {"passed": int(found.is_passed), "moved": int(moved), "challenger": found.challenger}


def _train(workspace: Path, at: datetime, progress: Progress) -> Counts:
    if not History.read(workspace).has("outcomes"):
        raise MissingError(
            "no outcome has closed yet", "Run this week's command once a reward window has closed."
        )
    if waits := _waiting(workspace, at):
        return waits
    found = learn.learn(workspace, at, progress=progress)
    report = found.trained
    return {
        "policy": report.policy_id,
        "alias": report.alias,
        "is_new": int(report.is_new),
        "settings": found.reason,
    }


def _waiting(workspace: Path, at: datetime) -> Counts:
    # A challenger is judged on decisions made since its training only. Replaced before one of them closes,
    # none would ever be judged where windows are longer than a week.
    context = replay.Context.read(workspace, at)
    challenger = replay.Model.find(context, tracking.CHALLENGER)
    if challenger is None or challenger.trained_at >= at:
        return {}
    if replay.closed_batches(context, replay.Unseen.by(challenger)):
        return {}
    reason = "no decision made since its training has closed"
    return {"alias": tracking.CHALLENGER, "is_new": 0, "settings": f"the challenger stands: {reason}"}


def _evaluate(workspace: Path, at: datetime, progress: Progress) -> Counts:
    return {"policies": evaluate.evaluate(workspace, at, progress=progress).num_rows}


STEPS = (
    Step("feedback", _feedback),
    Step("promote", _promote),
    Step("train", _train),
    Step("evaluate", _evaluate),
)
