"""The gate between challenger and champion: evidence, a named approver, a record, one move of the alias."""

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nba import monitoring, tables, tracking
from nba.errors import DataError, MissingError
from nba.evaluation import offpolicy, promotion
from nba.evaluation.promotion import Check, Rules
from nba.history import History
from pipelines import pooled, replay
from pipelines.progress import Progress, silent
from pipelines.replay import Context, Model


@dataclass(frozen=True)
class Verdict:
    """What the gate found, and what was done.

    Attributes:
        checks: The conditions.
        is_passed: Whether all hold.
        champion, challenger: Versions before.
        is_moved: Whether the challenger is the champion now.
    """

    checks: list[Check]
    is_passed: bool
    champion: int
    challenger: int
    is_moved: bool


def promote(
    workspace: Path,
    at: datetime,
    *,
    approver: str | None = None,
    note: str = "",
    force: bool = False,
    progress: Progress | None = None,
) -> Verdict:
    """Show the evidence for the challenger; with an approver, and if it passes, make it the champion.

    The record is written first and the alias moved by one statement after it; a run that is killed in between
    is completed by the next.

    Args:
        workspace: Folder of the workspace.
        at: Outcomes closed by then count.
        approver: Who approves; None only shows the evidence.
        note: Why, for the record.
        force: Promote although a condition fails; needs a note.
        progress: Where to report.

    Raises:
        MissingError: when there is no champion or no challenger.
        DataError: when an approver asks for what the gate refuses, or for force without a note; when `at`
            lies before the last record or the challenger's training.
    """
    progress = progress or silent()
    context = Context.read(workspace, at)
    _forward(context, tracking.CHALLENGER)
    _complete(context)
    champion, challenger = _models(context)
    step = progress.step("evidence for the challenger", total=1)
    nth, is_first = _nth(context, champion.version, challenger.version)
    checks = evidence(context, champion, challenger)
    step(1)
    passed = promotion.passes(checks)
    rows = [
        {**check._asdict(), "champion": champion.version, "challenger": challenger.version, "asked_at": at}
        for check in checks
    ]
    judged = is_first and any(c.check == promotion.VALUE and c.status != promotion.UNKNOWN for c in checks)
    history = History.read(workspace).commit(
        append={"challengers": _challenger(context, rows[0], nth)} if judged else {},
        replace={"promotion_evidence": tables.PROMOTION_EVIDENCE.build(rows)},
    )
    if approver is None:
        return Verdict(checks, passed, champion.version, challenger.version, is_moved=False)
    _may(approver, checks, passed=passed, force=force, note=note)
    versions = champion.version, challenger.version
    _record(context, history, "promote", versions, approver, passed, checks, note)
    _move(context, challenger.version)
    return Verdict(checks, passed, *versions, is_moved=True)


def overrule(workspace: Path, at: datetime, *, approver: str, note: str) -> None:
    """Make the challenger the champion without asking for evidence, on record: for a world of simulation.

    Args:
        workspace: Folder of the workspace.
        at: The moment, for the record.
        approver: Who answers for it.
        note: Why no evidence is asked for.

    Raises:
        MissingError: when there is no champion or no challenger.
        DataError: without an approver or a note; when `at` lies before the last record or the challenger's
            training.
    """
    context = Context.read(workspace, at)
    _forward(context, tracking.CHALLENGER)
    _complete(context)
    champion, challenger = _versions(context)
    _may(approver, [], passed=False, force=True, note=note)
    _record(context, context.history, "promote", (champion, challenger), approver, False, [], note)
    _move(context, challenger)


def rollback(
    workspace: Path, at: datetime, *, approver: str, version: int | None = None, note: str = ""
) -> tuple[int, int]:
    """Make the champion before the last promotion the champion again, or a version by its number.

    Args:
        workspace: Folder of the workspace.
        at: The moment, for the record.
        approver: Who approves.
        version: Version to go back to; the one before the last promotion if absent.
        note: Why, for the record.

    Returns:
        The version before and after.

    Raises:
        MissingError: when there is no champion, or nothing to go back to.
        DataError: without an approver, when the version is the champion, or `at` lies before the last record.
    """
    context = Context.read(workspace, at)
    if not approver.strip():
        raise DataError("the approver has no name; expected who answers for it", "Name one with --approver.")
    _forward(context)
    _complete(context)
    name = tracking.policy_name(context.config)
    registered, _ = tracking.find(name, tracking.CHAMPION)
    target = _before(context, registered.version) if version is None else version
    if target == registered.version:
        raise DataError(
            f"version {target} is the champion already", "Name an earlier version with --version."
        )
    tracking.version(name, target)
    versions = registered.version, target
    _record(context, context.history, "rollback", versions, approver, False, [], note)
    _move(context, target)
    return versions


def evidence(context: Context, champion: Model, challenger: Model) -> list[Check]:
    """Ask every condition, on decisions that neither model has learnt from."""
    nth, _ = _nth(context, champion.version, challenger.version)
    asked = Rules(**context.config.promotion.model_dump(exclude={"approver"}), nth=nth)
    health = [
        *promotion.health(challenger.scorer.report.metrics, asked),
        *_fresh(context),
        *_gone_back_on(context, challenger.version),
    ]
    unseen = replay.Unseen.by(champion, challenger)
    players = {
        name: replay.champion_player(context, model)
        for name, model in (("champion", champion), ("challenger", challenger))
    }
    found = pooled.replayed(context, players, unseen, replay.closed_batches(context, unseen))
    name = "decisions that neither has learnt from"
    left = replay.left_out(context, unseen)
    if found is None:
        note = "none of them has closed yet: ask again once a window has"
        if left.n:
            note = f"none of {left.n} has its probability and its candidates stored"
        return [Check(name, promotion.UNKNOWN, 0.0, 1.0, note, *promotion.COUNTED), *health]
    able = pooled.supported(found, list(players))
    if not len(able.arm):
        note = "no arm of the log could have chosen what both would choose"
        return [Check(name, promotion.FAIL, 0.0, 1.0, note, *promotion.COUNTED), *health]
    n = len(able.arm)
    note = f"of {len(np.unique(found.batch))} batches"
    if missing := left.n_unlogged + left.n_bare:
        note += f"; {missing} without probability or candidates are left out"
    counted = Check(name, promotion.PASS, float(n), 1.0, note, *promotion.COUNTED)
    mixed = 0.5 * (able.target["champion"] + able.target["challenger"])
    q = offpolicy.outcome_model(able.X, able.log, mixed)
    judged = promotion.judge(
        able.log,
        np.nan_to_num(able.unsubscribed),
        able.target["challenger"],
        able.target["champion"],
        q,
        asked,
    )
    return [counted, *judged, *health]


def _nth(context: Context, champion: int, challenger: int) -> tuple[int, bool]:
    # Which of a champion's challengers this is, and whether it is judged for the first time.
    if not context.history.has("challengers"):
        return 1, True
    policy = tracking.policy_name(context.config)
    known = {
        row["challenger"]: row["nth"]
        for row in context.history.table("challengers").to_pylist()
        if (row["policy"], row["champion"]) == (policy, champion)
    }
    return known.get(challenger, len(known) + 1), challenger not in known


def _challenger(context: Context, asked: dict[str, Any], nth: int) -> pa.Table:
    row = {name: asked[name] for name in ("champion", "challenger", "asked_at")}
    return tables.CHALLENGERS.build([row | {"policy": tracking.policy_name(context.config), "nth": nth}])


def _fresh(context: Context) -> list[Check]:
    with context.history.as_of(context.at) as snapshot:
        found = monitoring.health(snapshot).to_pylist()
    status = {"ok": promotion.PASS, "warning": promotion.FAIL, "unknown": promotion.UNKNOWN}
    return [
        Check(
            f"{row['check']}: {row['subject']}",
            status[row["status"]],
            np.nan if row["value"] is None else row["value"],
            row["limit"],
            row["note"],
        )
        for row in found
        # A table that the workspace never fills is no source that could be late.
        if row["check"] == "data is fresh"
        and context.history.has(row["subject"])
        and context.history.n_rows(row["subject"])
    ]


def _gone_back_on(context: Context, challenger: int) -> list[Check]:
    # What somebody took back does not come again by itself.
    last = next((row for row in reversed(_records(context)) if challenger in _moved(row)), None)
    if last is None or last["what"] != "rollback" or last["to_version"] == challenger:
        return []
    note = f"{last['approver']} went back on it on {last['promoted_at']:%Y-%m-%d}"
    return [Check("not rolled back before", promotion.FAIL, 1.0, 0.0, note)]


def _moved(row: dict[str, Any]) -> tuple[int, int]:
    return row["from_version"], row["to_version"]


def _models(context: Context) -> tuple[Model, Model]:
    _versions(context)
    champion, challenger = Model.find(context, "champion"), Model.find(context, "challenger")
    assert champion is not None
    assert challenger is not None
    return champion, challenger


def _versions(context: Context) -> tuple[int, int]:
    # Of champion and challenger, without loading them.
    name = tracking.policy_name(context.config)
    champion, challenger = (
        tracking.find(name, alias)[0].version if tracking.has_policy(name, alias) else 0
        for alias in (tracking.CHAMPION, tracking.CHALLENGER)
    )
    if not champion:
        raise MissingError("there is no champion yet", "Run `nba learn` once outcomes have closed.")
    if challenger in (0, champion):
        raise MissingError(
            f"there is no challenger beside the champion, version {champion}",
            "Run `nba learn` once more outcomes have closed: it registers one.",
        )
    return champion, challenger


def _may(approver: str, checks: list[Check], *, passed: bool, force: bool, note: str) -> None:
    if not approver.strip():
        raise DataError("the approver has no name; expected who answers for it", "Name one with --approver.")
    if passed:
        return
    failed = ", ".join(f"{check.check} ({check.status})" for check in checks if check.status != "pass")
    if not force:
        raise DataError(
            f"the gate refuses the challenger: {failed}",
            "Wait for more evidence; --force with a --note overrules it, on the record.",
        )
    if not note.strip():
        raise DataError(f"--force without a note overrules {failed}", "Say why with --note.")


def _record(
    context: Context,
    history: History,
    what: str,
    versions: tuple[int, int],
    approver: str,
    passed: bool,
    checks: list[Check],
    note: str,
) -> None:
    known = history.table("promotions").num_rows if history.has("promotions") else 0
    shown = [
        {k: (None if isinstance(v, float) and np.isnan(v) else v) for k, v in c._asdict().items()}
        for c in checks
    ]
    row: dict[str, Any] = {
        "promotion_id": f"{known + 1:06d}",
        "promoted_at": context.at,
        "what": what,
        "policy": tracking.policy_name(context.config),
        "from_version": versions[0],
        "to_version": versions[1],
        "approver": approver.strip(),
        "is_passed": passed,
        "is_forced": what == "promote" and not passed,
        "evidence": json.dumps(shown),
        "note": note.strip(),
    }
    history.commit(append={"promotions": tables.PROMOTIONS.build([row])})


def _forward(context: Context, alias: str | None = None) -> None:
    # Records stand in order of time, and nobody approves what was not trained yet.
    faults, last = [], _last(context)
    if last is not None and context.at < last["promoted_at"]:
        faults.append(f"the last record, a {last['what']}, is of {last['promoted_at'].isoformat()}")
    name = tracking.policy_name(context.config)
    if alias is not None and tracking.has_policy(name, alias):
        registered, tags = tracking.find(name, alias)
        if "at" in tags and context.at < datetime.fromisoformat(tags["at"]):
            faults.append(f"version {registered.version} was trained at {tags['at']}")
    if faults:
        raise DataError(
            "\n".join(f"asked is {context.at.isoformat()}, but {fault}" for fault in faults),
            "Records go forward in time: give a later moment with --at.",
        )


def _complete(context: Context) -> None:
    # A record without its move: the run before was killed in between.
    last = _last(context)
    if last is None:
        return
    name = tracking.policy_name(context.config)
    registered, _ = tracking.find(name, tracking.CHAMPION)
    if registered.version == last["from_version"]:
        _move(context, last["to_version"])


def _last(context: Context) -> dict[str, Any] | None:
    rows = _records(context)
    return rows[-1] if rows else None


def _records(context: Context) -> list[dict[str, Any]]:
    # Oldest first.
    if not context.history.has("promotions"):
        return []
    rows = context.history.table("promotions").sort_by("promotion_id").to_pylist()
    name = tracking.policy_name(context.config)  # a copied workspace has records of another policy
    return [row for row in rows if row["policy"] == name]


def _before(context: Context, champion: int) -> int:
    for row in reversed(_records(context)):
        if row["to_version"] == champion and row["what"] == "promote":
            return int(row["from_version"])
    raise MissingError(
        f"no promotion of version {champion} is on record", "Name the version to go back to with --version."
    )


def _move(context: Context, version: int) -> None:
    name = tracking.policy_name(context.config)
    tracking.promote(tracking.version(name, version), tracking.CHAMPION)
