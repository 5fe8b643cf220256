"""Models: list the registered versions, compare two, put one into the bin and take it out again.

A workspace's models are those of its policy; where it has none yet, those of the chance to buy.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nba import settings, tracking
from nba.errors import DataError, MissingError

_MEASURES = (
    "n_examples", "auc", "pr_auc", "log_loss", "ece", "calibration_slope", "latest_log_loss", "latest_ece",
    "latest_calibration_slope", "qini", "qini_lower", "qini_upper",
)  # fmt: skip

_DIFFERENT = (
    "Measured on different examples ({} and {}): changes are of the examples too, and a lower loss does not"
    " tell the better model."
)


def listed(workspace: Path) -> list[dict[str, Any]]:
    """List the versions of a workspace's models, newest first.

    Raises:
        MissingError: when nothing is registered.
    """
    name, rows = _versions(workspace)
    return [
        {
            "name": name,
            "version": row["version"],
            "alias": row["alias"] + (" (in the bin)" if row["is_deleted"] else ""),
            "trained": f"{row['created_at']:%Y-%m-%d %H:%M}",
            "model": row["tags"].get("model_id", ""),
            "at": row["tags"].get("at", "")[:10],
            **{name: row["metrics"].get(name) for name in ("n_examples", "auc", "log_loss", "ece", "qini")},
        }
        for row in rows
    ]


class Compared(NamedTuple):
    """Two versions side by side.

    Attributes:
        rows: A dict by measure: its name, both values and their change; last what the gate of effects says,
            of versions that were held against the stack.
        note: Why changes are not those of the models alone; empty where both were measured on the same rows.
    """

    rows: list[dict[str, Any]]
    note: str


def compared(workspace: Path, first: int, second: int) -> Compared:
    """Put the measures of two versions side by side.

    Raises:
        DataError: when both are the same.
        MissingError: when one of them is not registered.
    """
    if first == second:
        raise DataError(f"version {first} twice; expected two versions", "`nba models` lists them.")
    found = {row["version"]: row for row in _versions(workspace)[1]}
    absent = [number for number in (first, second) if number not in found]
    if absent:
        raise MissingError(f"no version {absent} is registered", f"There are {sorted(found)}.")
    one, two = found[first]["metrics"], found[second]["metrics"]
    rows: list[dict[str, Any]] = []
    for name in _MEASURES:
        a, b = one.get(name), two.get(name)
        change = b - a if a is not None and b is not None else None
        rows.append({"measure": name, str(first): a, str(second): b, "change": change})
    gates = [found[number]["tags"].get(tracking.GATE) for number in (first, second)]
    rows.append({"measure": "gate", str(first): gates[0], str(second): gates[1], "change": None})
    return Compared(rows, _note(found[first], found[second]))


def _note(one: dict[str, Any], two: dict[str, Any]) -> str:
    # Numbers and rates tell samples of the same decisions apart; versions of before the hash, with their
    # moments, all there is to tell.
    names = ["n_examples", "n", "base_rate"]
    is_hashed = all(tracking.MEASURED_ON in row["tags"] for row in (one, two))
    tag = tracking.MEASURED_ON if is_hashed else "at"
    marks = [(row["tags"].get(tag), *(row["metrics"].get(k) for k in names)) for row in (one, two)]
    if marks[0] == marks[1]:
        return ""
    told = [
        f"{row['metrics'].get('n_examples', np.nan):,.0f} until {(row['tags'].get('at') or '?')[:10]}"
        for row in (one, two)
    ]
    return _DIFFERENT.format(*told)


def bin_version(workspace: Path, number: int, *, restore: bool = False) -> None:
    """Delete the run of a version (it can be restored), or restore it.

    Raises:
        MissingError: when there is no such version.
        DataError: when it is the champion or the challenger, or already is where it should be.
    """
    name, _ = _versions(workspace)
    tracking.bin_run(name, number, restore=restore)


def _versions(workspace: Path) -> tuple[str, list[dict[str, Any]]]:
    config = settings.read(workspace)
    tracking.setup(config, workspace)
    for name in (tracking.policy_name(config), tracking.purchases_name(config)):
        rows = tracking.versions(name)
        if rows:
            return name, rows
    raise MissingError("no model of this workspace is registered", "Run `nba train` first.")
