"""Hillstrom's e-mail test as a history: its arms are logged decisions of known probability.

The public set (MineThatData E-Mail Analytics and Data Mining Challenge, Kevin Hillstrom, 2008) holds one row
per customer: what was known before, which e-mail was sent, and what happened within two weeks. One half is
there to learn from. The other was mailed at the same time; it is logged as if in two later mailings, so that
a champion may be judged by the first and a challenger that has learnt from that by the second.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from nba import tables
from nba.draws import uniform
from nba.errors import DataError, MissingError

SENT_AT = datetime(2008, 3, 20, tzinfo=UTC)
WINDOW_DAYS = 14


class Mailing(NamedTuple):
    """A random part of the customers, logged as one batch.

    Attributes:
        batch_id: Its name.
        sent_at: When it is logged.
        lower, upper: The hashed numbers of its customers, lower <= u < upper.
    """

    batch_id: str
    sent_at: datetime
    lower: float
    upper: float


MAILINGS = (
    Mailing("test-learn", SENT_AT, 0.0, 0.5),
    Mailing("test-judge", SENT_AT + timedelta(days=21), 0.5, 0.75),
    Mailing("test-promote", SENT_AT + timedelta(days=42), 0.75, 1.0),
)
_COLUMNS = (
    "recency", "history_segment", "history", "mens", "womens", "zip_code", "newbie", "channel", "segment",
    "visit", "conversion", "spend",
)  # fmt: skip
_SENT = {"Mens E-Mail": "mens_email", "Womens E-Mail": "womens_email", "No E-Mail": "none"}
_COST = 0.01
_KNOWN_DAYS = 400  # before the mailing; the file does not say


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


def history(frame: pd.DataFrame) -> dict[str, pa.Table]:
    """Make the tables of the test.

    Args:
        frame: From `read`.

    Returns:
        customers, and decisions, choices (anybody could get any arm), outcomes and touches of all mailings.
    """
    ids = pd.Series([f"h{i:06d}" for i in range(len(frame))])
    drawn = uniform(ids, "hillstrom-half")
    mailed, joined = [], pd.Series(SENT_AT, index=frame.index)
    for mailing in MAILINGS:
        mine = (drawn >= mailing.lower) & (drawn < mailing.upper)
        mailed.append(_mailed(mailing, frame[mine], ids[mine].tolist()))
        joined[mine] = mailing.sent_at - timedelta(days=_KNOWN_DAYS)
    logged = {name: pa.concat_tables([part[name] for part in mailed]) for name in mailed[0]}
    return {"customers": _customers(frame, ids.tolist(), joined.tolist())} | logged


def _mailed(mailing: Mailing, rows: pd.DataFrame, who: list[str]) -> dict[str, pa.Table]:
    batch_id, sent_at = mailing.batch_id, mailing.sent_at
    treatment = [_SENT[segment] for segment in rows["segment"]]
    sent = np.array(treatment) != "none"
    decision_ids = [f"{batch_id}-{name}" for name in who]
    n = len(rows)
    decisions = {
        "decision_id": decision_ids, "batch_id": [batch_id] * n, "customer_id": who, "external_id": who,
        "treatment_id": treatment, "channel": np.where(sent, "email", "none").tolist(),
        "decided_at": _times(sent_at, n), "p_action": [1 / 3] * n, "policy_id": ["three-arm-test"] * n,
        "experiment_id": ["hillstrom-test"] * n, "arm": ["random"] * n, "p_arm": [1.0] * n,
        "reason": ["drawn at random"] * n, "config_hash": ["hillstrom-test"] * n,
        "valid_until": _times(sent_at + timedelta(days=1), n),
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
        "closed_at": _times(sent_at + timedelta(days=WINDOW_DAYS), n), "window_days": [WINDOW_DAYS] * n,
    }  # fmt: skip
    mailed = [i for i in range(n) if sent[i]]
    touches = {
        "touch_id": [f"sent-{who[i]}" for i in mailed], "customer_id": [who[i] for i in mailed],
        "touched_at": _times(sent_at, len(mailed)), "channel": ["email"] * len(mailed),
        "kind": ["sent"] * len(mailed), "treatment_id": [treatment[i] for i in mailed],
        "decision_id": [decision_ids[i] for i in mailed], "cost": [_COST] * len(mailed),
    }  # fmt: skip
    return {
        "decisions": tables.DECISIONS.conform(pa.table(decisions)),
        "choices": tables.CHOICES.conform(pa.table(choices)),
        "outcomes": tables.OUTCOMES.conform(pa.table(outcomes)),
        "touches": tables.TOUCHES.conform(pa.table(touches)),
    }


def _customers(frame: pd.DataFrame, ids: list[str], joined: list[datetime]) -> pa.Table:
    n = len(frame)
    data = {"customer_id": ids, "external_id": ids, "joined_at": pa.array(joined, tables.TIME)}
    data |= {f"can_{name}": [name == "email"] * n for name in tables.CHANNELS}
    data["timezone"] = pa.nulls(n, pa.string())
    for name in ("recency", "history", "mens", "womens", "newbie"):
        data[f"a_{name}"] = frame[name].to_numpy(float)
    for name in ("zip_code", "channel"):
        data[f"a_{name}"] = frame[name].astype(str).tolist()
    return tables.CUSTOMERS.conform(pa.table(data))


def _times(moment: datetime, n: int) -> pa.Array:
    return pa.array([moment] * n, tables.TIME)
