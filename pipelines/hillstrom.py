"""Hillstrom's e-mail test through the chain: learn on one half, judge on the other, decide for everyone."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba import settings, tracking
from nba.catalog import Catalog
from nba.evaluation import offpolicy
from nba.features import table as features
from nba.histories import hillstrom as source
from nba.history import History
from nba.models.scorer import Scorer
from nba.policy import arbitrate, explore
from nba.serving.deciders import strategy
from pipelines import decide, train
from pipelines.example import make_example
from pipelines.progress import Progress, silent

EXAMPLE = Path(__file__).parent / "workspaces" / "hillstrom"
LEARN_AT = source.SENT_AT + timedelta(days=source.WINDOW_DAYS)
DECIDE_AT = source.MAILINGS[-1].sent_at + timedelta(days=source.WINDOW_DAYS + 1)
_LATER = """
    select d.treatment_id, o.is_response, o.reward, f.*
    from decisions d join outcomes o using (decision_id)
    join features f on f.customer_id = d.customer_id and f.as_of = d.decided_at
    where d.decided_at >= $after and d.decided_at < $until
    order by d.customer_id
"""


@dataclass(frozen=True)
class HillstromResult:
    """What the policy learnt on one half is worth on the other.

    Attributes:
        rows: One per policy: visits and spend per customer with their intervals, share mailed.
        batch: What was decided for everyone.
    """

    rows: list[dict[str, Any]]
    batch: decide.DecideReport


def hillstrom(workspace: Path, data: Path, *, progress: Progress | None = None) -> HillstromResult:
    """Run the chain on the public file; running it again changes nothing.

    The champion learns from the first mailing alone, at `LEARN_AT`. The later two are in the history for
    `nba evaluate` and `nba learn`, and for `nba promote` once a challenger has learnt from the second.

    Args:
        workspace: Folder to make, or one made by an earlier run.
        data: The public CSV file.
        progress: Where to report.

    Raises:
        MissingError, DataError: when the file is absent or not Hillstrom's; nothing is written then.
    """
    progress = progress or silent()
    frame = source.read(data)
    make_example(EXAMPLE, workspace)
    history = History.read(workspace)
    if not history.has("features"):
        step = progress.step("the test becomes a history", total=1)
        history = history.commit(replace=source.history(frame))
        history.commit(append={"features": pa.concat_tables([_seen(history, m) for m in source.MAILINGS])})
        step(1)
    config = settings.read(workspace)
    tracking.setup(config, workspace)
    if not tracking.has_policy(tracking.policy_name(config)):
        train.train(workspace, LEARN_AT, compared=True, progress=progress)
    batch = decide.decide(workspace, DECIDE_AT, "everyone", progress=progress)
    step = progress.step("judging on the other half", total=1)
    rows = judge(workspace, config)
    step(1)
    return HillstromResult(rows, batch)


def _seen(history: History, mailing: source.Mailing) -> pa.Table:
    mailed = history.sql(
        "select customer_id from decisions where batch_id = $batch order by 1", {"batch": mailing.batch_id}
    )
    with history.as_of(mailing.sent_at) as snapshot:
        return features.build(snapshot, mailed["customer_id"].combine_chunks())


def judge(workspace: Path, config: settings.Settings) -> list[dict[str, Any]]:
    """Estimate visits and spend per customer of policies on the mailings made since the champion's training.

    Args:
        workspace: With a trained champion.
        config: Its settings.

    Returns:
        One row per policy; none where the champion has learnt from all mailings.
    """
    catalog = settings.read_catalog(workspace, config)
    name = tracking.policy_name(config)
    folder, _ = tracking.load_policy(name, tracking.CHAMPION)
    trained_at = datetime.fromisoformat(tracking.find(name, tracking.CHAMPION)[1]["at"])
    logged = History.read(workspace).sql(_LATER, {"after": trained_at, "until": DECIDE_AT})
    if not logged.num_rows:
        return []
    seen = logged.drop_columns(["treatment_id", "is_response", "reward"])
    found = Scorer.load(folder).scores(seen, catalog)
    n, k = found.uplift.shape
    believed = arbitrate.estimate(
        found.uplift, found.uplift_se, found.margin_per_response, catalog, np.zeros(k)
    )
    policies = _fixed(catalog, n) | {
        "personalised": explore.Greedy().probabilities(believed, np.ones((n, k), dtype=bool)),
        "personalised, exploring": strategy(config.policy).probabilities(
            believed, np.ones((n, k), dtype=bool)
        ),
    }
    column = catalog.columns(logged["treatment_id"].to_pylist())
    p_logged = np.full((n, k), 1 / 3)
    names = [name for name in seen.column_names if name.startswith("f_")]
    X = np.column_stack([seen[name].to_numpy() for name in names])
    measured = {
        "visits": logged["is_response"].to_numpy().astype(float),
        "spend": logged["reward"].to_numpy(),
    }
    logs = {name: offpolicy.Log(column, y, p_logged, np.arange(n)) for name, y in measured.items()}
    expected = {name: offpolicy.outcome_model(X, log) for name, log in logs.items()}
    out = []
    for name, p in policies.items():
        row: dict[str, Any] = {"policy": name, "mailed": float(1 - p[:, 0].mean())}
        for what, log in logs.items():
            value = offpolicy.dr(log, p, expected[what])
            row |= {what: value.value, f"{what} from": value.lower, f"{what} to": value.upper}
        out.append(row)
    return out


def _fixed(catalog: Catalog, n: int) -> dict[str, NDArray[np.float64]]:
    names = {"none": "nobody"} | {t.treatment_id: f"{t.treatment_id} to all" for t in catalog.treatments}
    k = len(names)
    fixed = {label: np.tile(np.eye(k)[j], (n, 1)) for j, label in enumerate(names.values())}
    return fixed | {"at random": np.full((n, k), 1 / k)}
