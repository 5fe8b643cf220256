"""Hillstrom's e-mail test as a history: its arms are logged decisions of known probability.

The public set (MineThatData E-Mail Analytics and Data Mining Challenge, Kevin Hillstrom, 2008) holds one row
per customer: what was known before, which e-mail was sent, and what happened within two weeks.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from nba import tables
from nba.draws import uniform
from nba.errors import DataError, MissingError

SENT_AT = datetime(2008, 3, 20, tzinfo=UTC)
WINDOW_DAYS = 14
BATCHES = ("test-learn", "test-judge")
_COLUMNS = (
    "recency", "history_segment", "history", "mens", "womens", "zip_code", "newbie", "channel", "segment",
    "visit", "conversion", "spend",
)  # fmt: skip
_SENT = {"Mens E-Mail": "mens_email", "Womens E-Mail": "womens_email", "No E-Mail": "none"}
_COST = 0.01


def read(path: Path) -> pd.DataFrame:
    """Read and check the public file.

    Args:
        path: The CSV file, 12 columns, one row per customer.

    Raises:
        MissingError: when the file is absent.
        DataError: when it is another file, empty or damaged: every fault at once.
    """
    if not path.is_file():
        raise MissingError(
            f"{path} does not exist; expected the file of Hillstrom's e-mail test",
            "Fetch the MineThatData e-mail challenge file (2008) and name it with --data.",
        )
    try:
        frame = pd.read_csv(path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}", "Fetch the file again.") from None
    missing = [name for name in _COLUMNS if name not in frame.columns]
    faults = [f"missing columns {missing}; found {list(frame.columns)}"] if missing else []
    if not missing:
        odd = sorted(set(frame["segment"].astype(str)) - set(_SENT))
        faults += [f"segment has values {odd}; expected {list(_SENT)}"] if odd else []
        numbers = frame[["recency", "history", "visit", "conversion", "spend"]]
        bad = {name: str(kind) for name, kind in numbers.dtypes.items() if kind.kind not in "iuf"}
        faults += [f"columns are not numbers: {bad}"] if bad else []
        unknown = int(frame[list(_COLUMNS)].isna().any(axis=1).sum())
        faults += [f"{unknown} rows have unknown values"] if unknown else []
        faults += ["no rows"] if frame.empty else []
    if faults:
        raise DataError("\n".join([f"{path} is not Hillstrom's test:", *(f"- {f}" for f in faults)]))
    return frame


def history(frame: pd.DataFrame, half: Literal[0, 1]) -> dict[str, pa.Table]:
    """Make the tables of one random half of the test.

    Args:
        frame: From `read`.
        half: 0 to learn from, 1 to judge on; halves are drawn by hash of the row number.

    Returns:
        customers (of both halves), and the half's decisions, choices (anybody could get any arm), outcomes
        and touches.
    """
    ids = pd.Series([f"h{i:06d}" for i in range(len(frame))])
    mine = np.floor(2 * uniform(ids, "hillstrom-half")).astype(int) == half
    rows, who = frame[mine], ids[mine].tolist()
    treatment = [_SENT[segment] for segment in rows["segment"]]
    sent = np.array(treatment) != "none"
    decision_ids = [f"{BATCHES[half]}-{name}" for name in who]
    n = len(rows)
    decisions = {
        "decision_id": decision_ids, "batch_id": [BATCHES[half]] * n, "customer_id": who, "external_id": who,
        "treatment_id": treatment, "channel": np.where(sent, "email", "none").tolist(),
        "decided_at": _times(SENT_AT, n), "p_action": [1 / 3] * n, "policy_id": ["three-arm-test"] * n,
        "experiment_id": ["hillstrom-test"] * n, "arm": ["random"] * n, "p_arm": [1.0] * n,
        "reason": ["drawn at random"] * n, "config_hash": ["hillstrom-test"] * n,
        "valid_until": _times(SENT_AT + timedelta(days=1), n),
    }  # fmt: skip
    arms = list(_SENT.values())
    choices = {
        "decision_id": np.repeat(decision_ids, len(arms)), "treatment_id": arms * n,
        "is_eligible": [True] * (n * len(arms)), "reason": [""] * (n * len(arms)),
        "p_action": [1 / len(arms)] * (n * len(arms)), "price": [0.0] * (n * len(arms)),
    }  # fmt: skip
    outcomes = {
        "decision_id": decision_ids, "is_delivered": [True] * n, "is_response": rows["visit"] == 1,
        "is_click": pa.nulls(n, pa.bool_()), "is_unsubscribe": [False] * n,
        "reward": rows["spend"].to_numpy(float) - _COST * sent,
        "closed_at": _times(SENT_AT + timedelta(days=WINDOW_DAYS), n), "window_days": [WINDOW_DAYS] * n,
    }  # fmt: skip
    mailed = [i for i in range(n) if sent[i]]
    touches = {
        "touch_id": [f"sent-{who[i]}" for i in mailed], "customer_id": [who[i] for i in mailed],
        "touched_at": _times(SENT_AT, len(mailed)), "channel": ["email"] * len(mailed),
        "kind": ["sent"] * len(mailed), "treatment_id": [treatment[i] for i in mailed],
        "decision_id": [decision_ids[i] for i in mailed], "cost": [_COST] * len(mailed),
    }  # fmt: skip
    return {
        "customers": _customers(frame, ids.tolist()),
        "decisions": tables.DECISIONS.conform(pa.table(decisions)),
        "choices": tables.CHOICES.conform(pa.table(choices)),
        "outcomes": tables.OUTCOMES.conform(pa.table(outcomes)),
        "touches": tables.TOUCHES.conform(pa.table(touches)),
    }


def _customers(frame: pd.DataFrame, ids: list[str]) -> pa.Table:
    n = len(frame)
    data = {"customer_id": ids, "external_id": ids, "joined_at": _times(SENT_AT - timedelta(days=400), n)}
    data |= {f"can_{name}": [name == "email"] * n for name in tables.CHANNELS}
    data["timezone"] = pa.nulls(n, pa.string())
    for name in ("recency", "history", "mens", "womens", "newbie"):
        data[f"a_{name}"] = frame[name].to_numpy(float)
    for name in ("zip_code", "channel"):
        data[f"a_{name}"] = frame[name].astype(str).tolist()
    return tables.CUSTOMERS.conform(pa.table(data))


def _times(moment: datetime, n: int) -> pa.Array:
    return pa.array([moment] * n, tables.TIME)
