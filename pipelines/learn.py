"""The nightly update: close outcomes, choose memory and capacity, refit, register a challenger."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from nba import feedback as closing
from nba import settings, tables
from nba.catalog import Catalog
from nba.history import History
from nba.models import belief, immature, warm
from nba.settings import Models, Settings
from pipelines import feedback, train
from pipelines.progress import Progress, silent

_RESPONSES = """
    with first as (
        select decision_id, min(ordered_at) as ordered_at
        from decisions_all d join orders r using (customer_id)
        where r.revenue > 0 and not r.is_return and r.ordered_at < $at
            and r.ordered_at >= d.decided_at and r.ordered_at < d.decided_at + to_days($window::integer)
        group by 1
    )
    select decision_id, treatment_id <> 'none' as is_treated, d.decided_at,
        decision_id in (from closed) as is_known,
        d.decided_at + to_days($window::integer) <= $at as is_closed,
        epoch(ordered_at - d.decided_at) / 86400.0 as delay
    from decisions d left join first using (decision_id)
    where d.decided_at < $at and d.policy_id <> 'outside'
"""
_OPEN = """
    select d.decision_id, d.customer_id, d.decided_at as as_of, d.treatment_id, d.p_action, d.arm,
        o.delay is not null as is_response, 0.0 as reward, f.* exclude (customer_id, as_of)
    from decisions d join open_now o using (decision_id)
    join features f on f.customer_id = d.customer_id and f.as_of = d.decided_at
    order by d.decided_at, d.decision_id
"""


@dataclass(frozen=True)
class LearnReport:
    """What was learnt.

    Attributes:
        trained: The refit.
        n_closed: Outcomes that this run closed.
        n_waiting: Decisions whose window has ended but whose data have not come yet: not learnt from.
        n_open: Open decisions that were completed and read.
        reason: Why capacity and half-life are what they are.
        candidates: What was tried, as rows of the `learning` table.
        warm: How many decisions of an earlier experiment were read, and how much they weigh; empty without.
    """

    trained: train.TrainReport
    n_closed: int
    n_waiting: int
    n_open: int
    reason: str
    candidates: list[dict[str, Any]]
    warm: str = ""


def learn(workspace: Path, at: datetime, *, progress: Progress | None = None) -> LearnReport:
    """Update the belief from the pooled log; the same night again changes nothing.

    Only outcomes that had closed by the moment are learnt from. The first version becomes the champion; a
    later one the challenger, which `nba promote` may put in its place.

    Args:
        workspace: Folder of the workspace.
        at: The moment.
        progress: Where to report.

    Raises:
        MissingError: when no decision has been logged yet.
        DataError: when there are too few examples to learn from, or the earlier experiment that the belief
            begins from does not fit.
    """
    progress = progress or silent()
    config = settings.read(workspace)
    catalog = settings.read_catalog(workspace, config)
    History.read(workspace).paths("decisions")
    closed = feedback.feedback(workspace, at, progress=progress)
    history = History.read(workspace)
    is_warm = config.models.warm_start is not None
    rows = train.own_examples(history, at) if is_warm else train.examples(history, at)
    step = progress.step("choosing memory and capacity", total=1)
    models, reason, tried = _chosen(history, rows, catalog, config, at)
    step(1)
    if tried:
        history = history.commit(append={"learning": tables.LEARNING.build(tried)})
    warmed = ""
    if is_warm:
        asked = config.model_copy(update={"models": models})
        rows, warmed = _warmed(workspace, rows, catalog, asked, at)
        history = History.read(workspace)
    n_open = 0
    if config.models.use_open:
        asked = config.model_copy(update={"models": models})
        more = open_examples(history, asked, rows, at, catalog)
        n_open = more.num_rows
        rows = tables.EXAMPLES.conform(pa.concat_tables([rows, more], promote_options="permissive"))
    trained = train.train(workspace, at, models=models, rows=rows, has_open=n_open > 0, progress=progress)
    return LearnReport(trained, closed.n_closed, closed.n_waiting, n_open, reason, tried, warmed)


def open_examples(
    history: History, config: Settings, examples: pa.Table, at: datetime, catalog: Catalog
) -> pa.Table:
    """Complete the decisions whose window is still open by how soon responses came to closed ones.

    Args:
        history: With decisions, orders and features.
        config: Gives the window, and how to fit what closed examples tell of each open one.
        examples: The closed examples.
        at: The moment.
        catalog: Its treatments.

    Returns:
        Weighted `examples`.

    Raises:
        DataError: when there are too few closed examples to learn from.
    """
    window = config.reward.window_days
    with history.connection(follows=True) as connection:
        connection.register("closed", examples.select(["decision_id"]))
        found = connection.sql(_RESPONSES, params={"at": at, "window": window}).to_arrow_table()
        known = found["is_known"].to_numpy(zero_copy_only=False)
        treated = found["is_treated"].to_numpy(zero_copy_only=False)
        delay = found["delay"].to_numpy()
        responded = known & np.isfinite(delay)
        shares = immature.completeness(delay[responded], treated[responded], float(window))
        is_open = ~known & ~found["is_closed"].to_numpy(zero_copy_only=False)
        connection.register("open_now", found.filter(pa.array(is_open)))
        rows = connection.sql(_OPEN).to_arrow_table()
    if not rows.num_rows:
        return tables.EXAMPLES.empty()
    moments = rows["as_of"].cast(pa.int64()).to_numpy() / 86400e6
    with history.as_of(at) as snapshot:
        until = closing.data_until(snapshot)  # what has not arrived yet says nothing
    age = np.maximum(until.timestamp() / 86400 - moments, 0.0)
    waiting = tables.EXAMPLES.conform(rows)
    p = belief.chances(examples, waiting, catalog, config.models, config.workspace.seed)
    return immature.expected(waiting, age, shares, p)


def _warmed(
    workspace: Path, rows: pa.Table, catalog: Catalog, config: Settings, at: datetime
) -> tuple[pa.Table, str]:
    # The own examples with those of the earlier experiment, at a share that is chosen anew now and then.
    history, models = History.read(workspace), config.models
    earlier = train.earlier_examples(workspace, config, catalog, at)
    share, why = train.warm_share(history, config, at, models.validate_days or None)
    if share is None:
        window = config.reward.window_days
        choice = warm.choose(rows, earlier, catalog, models, config.workspace.seed, window)
        share, why = choice.share, choice.reason
        if choice.candidates:
            history.commit(append={"warm_starts": tables.WARM_STARTS.build(warm.rows(choice, at))})
    found = train.pool(history, rows, earlier, share, at)
    n, _ = warm.counted(found)
    return found, f"{n:,} decisions of an earlier experiment, each weighing {share:g} ({why})"


def _chosen(
    history: History, rows: pa.Table, catalog: Catalog, config: Settings, at: datetime
) -> tuple[Models, str, list[dict[str, Any]]]:
    models = config.models
    if models.validate_days == 0:
        return models, "validate_days is 0: the settings stand", []
    if history.has("learning"):
        since = at - timedelta(days=models.validate_days)
        last = history.sql(
            "select * from learning where learnt_at > $since and learnt_at <= $at"
            " qualify learnt_at = max(learnt_at) over ()",
            {"since": since, "at": at},
        ).to_pylist()
        if last:
            found = next((row for row in last if row["is_chosen"]), None)
            day = f"{last[0]['learnt_at']:%Y-%m-%d}"
            if found is None:
                return models, f"as chosen on {day}", []
            update = {"capacity": found["capacity"], "half_life_days": found["half_life_days"] or None}
            return models.model_copy(update=update), f"as chosen on {day}", []
    with threadpool_limits(limits=1, user_api="blas"):
        choice = belief.choose(rows, catalog, models, config.workspace.seed, config.reward.window_days)
    return choice.settings, choice.reason, belief.rows(choice, at)
