"""What if: other limits, levers or rules on the stored candidates of a batch, its prices solved anew."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nba import settings, tables
from nba.catalog import Catalog
from nba.errors import DataError, MissingError, listed
from nba.history import History
from nba.policy import arbitrate, levers, limits
from nba.policy.eligibility import Terms, eligible
from nba.serving.whatif import AS_DECIDED, Changes, Stored, asked_again, changed, check, solve, stored_of
from pipelines import replay
from pipelines.progress import Progress, silent

_CUSTOMERS = """
    select count(*) as n,
        count(*) filter (coalesce(arm, '') <> 'holdout' and policy_id <> 'outside') as decided
    from decisions where batch_id = $batch
"""
_CANDIDATES = """
    with picked as (
        select decision_id, customer_id, decided_at from decisions
        where batch_id = $batch and coalesce(arm, '') <> 'holdout' and policy_id <> 'outside'
        order by hash(customer_id) limit $most
    )
    select d.customer_id, d.decided_at, c.treatment_id, c.is_eligible, c.reason, c.mean, c.se, c.weight
    from choices c join picked d using (decision_id) order by d.customer_id
"""


def scenario(
    workspace: Path,
    name: str,
    changes: Changes,
    batch_id: str | None = None,
    *,
    progress: Progress | None = None,
) -> pa.Table:
    """Solve a stored batch again as it was and with changes, and write both to `scenarios`.

    Values are what the models believed then, not what was measured; everybody but the holdout is decided by
    the workspace's strategy. A scenario of the same name replaces the one before.

    Args:
        workspace: Folder of the workspace.
        name: Of the scenario.
        changes: What is changed.
        batch_id: The batch; the last one decided by a model if absent.
        progress: Where to report.

    Returns:
        The rows of the scenario and of the batch as decided.

    Raises:
        MissingError: when no batch was decided by a model.
        DataError: naming all changes that name something unknown.
    """
    progress = progress or silent()
    if name == AS_DECIDED:
        raise DataError(f"the name {AS_DECIDED!r} is taken by the batch itself", "Choose another name.")
    config = settings.read(workspace)
    catalog = settings.read_catalog(workspace, config)
    history = History.read(workspace)
    step = progress.step("solving the scenario", total=3)
    stored = read(history, catalog, config, batch_id)
    check(changes, catalog, stored, config)
    step(1)
    rows = solve(AS_DECIDED, stored, catalog, config, "")
    step(1)
    moved, after = changed(_asked_again(history, stored, catalog, config, changes), catalog, config, changes)
    rows += solve(name, moved, after[0], after[1], changes.words)
    step(1)
    made = tables.SCENARIOS.build(rows)
    kept = history.table("scenarios") if history.has("scenarios") else tables.SCENARIOS.empty()
    others = [
        row for row in kept.to_pylist()
        if row["scenario"] not in (name, AS_DECIDED) or row["batch_id"] != stored.batch_id
    ]  # fmt: skip
    history.commit(replace={"scenarios": pa.concat_tables([tables.SCENARIOS.build(others), made])})
    return made


def parse(pairs: list[str], what: str, *, whole: bool = False) -> dict[str, float]:
    """Read `name=number` pairs, of whole numbers where they count; each name once.

    Raises:
        DataError: naming all that are something else.

    Example:
        >>> parse(["email=500"], "--capacity")
        {'email': 500.0}
    """
    out, faults = {}, []
    for pair in pairs:
        key, _, text = pair.partition("=")
        try:
            value = float(text)
        except ValueError:
            value = np.nan
        if not key or not np.isfinite(value) or value < 0:
            faults.append(f"{what} {pair!r}; expected name=number, 0 or more")
            continue
        if whole and value != int(value):
            faults.append(f"{what} {pair!r}; expected a whole number")
        elif key in out:
            faults.append(f"{what} {pair!r}; {key!r} was given before")
        else:
            out[key] = value
    if faults:
        raise listed(faults, "the scenario cannot be read", f"Write for example {what} email=500.")
    return out


def _asked_again(
    history: History, stored: Stored, catalog: Catalog, config: settings.Settings, changes: Changes
) -> Stored:
    if not changes.without_rules and not changes.rules_as_set:
        return stored
    until = stored.decided_at + timedelta(days=config.policy.valid_days)
    terms = Terms(until, config.workspace.timezone, config.reward.window_days, changes.without_rules)
    seen = replay.features_of(history, stored.batch_id, stored.ids)
    ids = seen["customer_id"].combine_chunks()
    with history.as_of(stored.decided_at) as snapshot:
        # Of whom the data no longer know at that moment (two that became one), what is stored stands.
        known = pc.is_in(
            ids, snapshot.sql("select customer_id from customers")["customer_id"].combine_chunks()
        )
        found = eligible(
            snapshot, catalog, config.limits, ids.filter(known), config.engagement, seen.filter(known), terms
        )
    again = stored.reason.copy()
    again[known.to_numpy(zero_copy_only=False)] = np.array(found.reasons, dtype=object)[found.reason]
    return asked_again(stored, again, changes)


def read(
    history: History,
    catalog: Catalog,
    config: settings.Settings,
    batch_id: str | None = None,
    most: int = 10**9,
) -> Stored:
    """Read the candidates of a batch, of everybody but the holdout.

    Args:
        history: With choices and features.
        catalog: Fixes the columns.
        config: Prices fatigue, and says which levers there are.
        batch_id: The batch; the last one decided by a model if absent.
        most: Customers at most, by hash; limits shrink with them.

    Raises:
        MissingError: when no batch was decided by a model.
        DataError: when the batch is not known, or nothing is believed of it.
    """
    if not history.has("choices"):
        raise MissingError("no batch has been decided yet", "Run `nba decide` first.")
    if batch_id is None:
        last = history.sql(
            "select batch_id from decisions d join choices c using (decision_id)"
            " where c.treatment_id <> 'none' and not isnan(c.mean) and c.mean is not null"
            " group by 1 order by max(decided_at) desc limit 1"
        )
        if not last.num_rows:
            raise MissingError(
                "no batch was decided by a model yet", "Run `nba learn`, then `nba decide`, first."
            )
        batch_id = last["batch_id"][0].as_py()
    asked = {"batch": batch_id, "most": most}
    # Batches logged before there were weights by context have none.
    has_weight = "weight" in history.sql("from choices limit 0").column_names
    rows = history.sql(_CANDIDATES if has_weight else _CANDIDATES.replace(", c.weight", ""), asked)
    if not rows.num_rows:
        raise DataError(f"batch {batch_id!r} is not known", "`nba overview` lists the batches.")
    ids = sorted(set(rows["customer_id"].to_pylist()))
    (customers,) = history.sql(_CUSTOMERS, {"batch": batch_id}).to_pylist()
    stored = stored_of(rows, catalog, batch_id, len(ids) / customers["n"])
    with history.as_of(stored.decided_at) as snapshot:
        by_recent = arbitrate.nuisance(snapshot, catalog, config.reward)
        spent = limits.spent_today(snapshot, catalog, config.workspace.timezone)
    nuisance = replay.fatigue_of(by_recent, history, batch_id, ids)
    stored = stored._replace(
        nuisance=nuisance, spent=spent, stands_for=customers["decided"] / len(ids), ids=tuple(ids)
    )
    if not config.policy.levers:
        return stored
    seen = replay.features_of(history, batch_id, ids)
    return stored._replace(context=levers.contexts(seen, config.policy.levers))
