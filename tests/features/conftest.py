"""A small history on which features can be worked out by hand."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from nba import tables
from nba.history import History

AT = datetime(2026, 3, 1, tzinfo=UTC)


def ago(days: float) -> datetime:
    """Give the moment some days before AT."""
    return AT - timedelta(days=days)


def rows_of() -> dict[str, list[dict[str, Any]]]:
    """Give the rows of the small history, two customers and a third who joins later."""
    can = {f"can_{c}": True for c in tables.CHANNELS}
    return {
        "customers": [
            {"customer_id": "anna", "joined_at": ago(400), **can, "a_tier": "gold", "a_age": 41.0},
            {"customer_id": "ben", "joined_at": ago(10), **can, "can_sms": False, "a_tier": "Basic +"},
            {"customer_id": "late", "joined_at": ago(-1), **can, "a_tier": "platinum"},
        ],
        "orders": [
            _order("o1", 100, 40.0, 10.0, 2),
            _order("o2", 20, 60.0, 20.0, 4),
            _order("o3", 5, -30.0, -10.0, 1, back=True),
            _order("o4", -1, 99.0, 50.0, 1),
        ],
        "events": [
            {
                "event_id": "e1",
                "customer_id": "anna",
                "occurred_at": ago(3),
                "kind": "visit",
                "channel": "app",
            },
            {
                "event_id": "e2",
                "customer_id": "anna",
                "occurred_at": ago(8),
                "kind": "visit",
                "channel": "web",
            },
            {
                "event_id": "e3",
                "customer_id": "anna",
                "occurred_at": ago(0),
                "kind": "cart",
                "channel": "web",
            },
        ],
        "touches": [
            _touch("t1", 30, "email", "sent"),
            _touch("t2", 29, "email", "clicked"),
            _touch("t3", 6, "push", "sent"),
            _touch("t4", 2, "push", "unsubscribed"),
        ],
        "decisions": [_decision("d1", 30, "sale_email"), _decision("d2", 6, "sale_push")],
        "outcomes": [
            {
                "decision_id": "d1",
                "is_delivered": True,
                "is_response": True,
                "is_click": True,
                "is_unsubscribe": False,
                "reward": 20.0,
                "closed_at": ago(16),
                "window_days": 14,
            }
        ],
    }


def _order(
    name: str, days: float, revenue: float, margin: float, n: int, *, back: bool = False
) -> dict[str, Any]:
    return {
        "order_id": name,
        "customer_id": "anna",
        "ordered_at": ago(days),
        "revenue": revenue,
        "margin": margin,
        "n_items": n,
        "is_return": back,
    }


def _touch(name: str, days: float, channel: str, kind: str) -> dict[str, Any]:
    return {
        "touch_id": name,
        "customer_id": "anna",
        "touched_at": ago(days),
        "channel": channel,
        "kind": kind,
        "cost": 0.0,
    }


def _decision(name: str, days: float, treatment: str) -> dict[str, Any]:
    return {
        "decision_id": name,
        "batch_id": f"b{name}",
        "customer_id": "anna",
        "treatment_id": treatment,
        "channel": treatment.split("_")[1],
        "decided_at": ago(days),
        "p_action": 0.5,
        "policy_id": "x",
        "reason": "",
        "config_hash": "x",
        "valid_until": ago(days - 7),
    }


@pytest.fixture
def history_of(tmp_path: Path) -> Callable[[dict[str, list[dict[str, Any]]]], History]:
    """Write rows as a history, each call into a folder of its own."""
    made = iter(range(10_000))

    def make(rows: dict[str, list[dict[str, Any]]]) -> History:
        found: dict[str, pa.Table] = {name: tables.BY_NAME[name].build(part) for name, part in rows.items()}
        return History.read(tmp_path / str(next(made))).commit(append=found)

    return make


@pytest.fixture
def small() -> dict[str, list[dict[str, Any]]]:
    """The rows of the small history."""
    return rows_of()


@pytest.fixture
def at() -> datetime:
    """The moment looked back from."""
    return AT
