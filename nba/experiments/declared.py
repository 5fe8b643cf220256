"""The rule of each experiment as it stood when it began, so that changing it later does not go unseen.

The first batch that an experiment takes part in keeps what its verdict rests on: control, level, dates,
looks, arms with what they run, the primary metric and the guardrails. A readout by other words than those
would be a rule chosen after the data.
"""

import json
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from nba import tables
from nba.history import Snapshot
from nba.settings import Experiment, Settings

_PARTS = ("control", "level", "starts_at", "ends_at", "look_days")


def rule(experiment: Experiment) -> dict[str, Any]:
    """Give what a verdict rests on, by name, as plain values.

    Example:
        >>> sorted(rule(Experiment()))[:3]
        ['arm holdout', 'arm policy', 'control']
    """
    out = {name: _plain(getattr(experiment, name)) for name in _PARTS}
    out |= {f"arm {arm.name}": arm.policy for arm in experiment.arms}
    for metric in experiment.metrics:
        if metric.role != "secondary":
            # Defaults go without saying, so that a key that a later version adds is no change.
            given = metric.model_dump(mode="json", exclude_defaults=True)
            out |= {f"{metric.name}.{key}": value for key, value in given.items() if key != "name"}
    return out


def declarations(config: Settings, at: datetime, known: Collection[str]) -> pa.Table:
    """Make the `declarations` rows of experiments that a batch is the first of.

    Args:
        config: The experiments.
        at: Moment of decision.
        known: Experiments that have a row.
    """
    begun = [config.experiment, *(trial for trial in config.experiments if trial.starts_at <= at)]
    return tables.DECLARATIONS.build(
        {"experiment_id": e.experiment_id, "declared_at": at, "rule": json.dumps(rule(e), sort_keys=True)}
        for e in begun
        if e.experiment_id not in known and not (e.ends_at and e.ends_at <= at)
    )


def changed(snapshot: Snapshot, experiment: Experiment) -> str:
    """Say what of the rule was changed since the experiment began; empty if nothing."""
    rows = snapshot.sql(
        "select declared_at, rule from declarations where experiment_id = $id",
        {"id": experiment.experiment_id},
    ).to_pylist()
    if not rows:
        return ""
    was, now = json.loads(rows[0]["rule"]), rule(experiment)
    parts = [
        f"{name} was {_shown(was.get(name))}, is {_shown(now.get(name))}"
        for name in sorted(was.keys() | now.keys())
        if was.get(name) != now.get(name)
    ]
    if not parts:
        return ""
    since = f"{rows[0]['declared_at']:%Y-%m-%d %H:%M}"
    return (
        f"the rule was changed after the start of {since}: {'; '.join(parts)};"
        " put it back, or declare another experiment"
    )


def _plain(value: Any) -> Any:
    # However a moment is written, it is the same one.
    is_moment = isinstance(value, datetime)
    return value.astimezone(UTC).isoformat(sep=" ", timespec="minutes") if is_moment else value


def _shown(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)
