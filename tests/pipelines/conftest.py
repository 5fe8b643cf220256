"""Fixtures of the steps' tests: the small hand-made workspace."""

from datetime import timedelta
from types import SimpleNamespace

import pyarrow as pa
import pytest

from nba import tables
from nba.errors import MissingError
from nba.history import History
from pipelines import decide, replay
from tests.pipelines.shop import ACTIONS, AT, TOML, TREATMENTS, N


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    (tmp_path / "catalog").mkdir()
    (tmp_path / "nba.toml").write_text(TOML)
    (tmp_path / "catalog/actions.csv").write_text(ACTIONS)
    (tmp_path / "catalog/treatments.csv").write_text(TREATMENTS)
    ids = [f"c{i:04d}" for i in range(N)]
    customers = pa.table(
        {
            "customer_id": ids,
            "external_id": [f"x{i}" for i in range(N)],
            "joined_at": pa.array([AT - timedelta(days=90)] * N, tables.TIME),
            **{f"can_{channel}": [True] * N for channel in tables.CHANNELS},
        }
    )
    orders = tables.ORDERS.build(
        {"order_id": f"o{i}", "customer_id": ids[i], "ordered_at": AT + timedelta(days=i % 21 - 7)}
        | {"revenue": 20.0, "margin": 10.0 + i % 5, "n_items": 1, "is_return": False}
        for i in range(0, N, 2)
    )
    # Something is known of every day, so that no window waits for data.
    visit = {"customer_id": ids[0], "kind": "visit"}
    events = tables.EVENTS.build(
        visit | {"event_id": f"e{day}", "occurred_at": AT + timedelta(days=day)} for day in range(40)
    )
    History.read(tmp_path).commit(append={"customers": customers, "orders": orders, "events": events})
    registered = SimpleNamespace(model=None, trained_at=AT)

    def find(name, alias):
        assert name == "shop-policy"
        if registered.model is None or alias != "champion":
            raise MissingError("none is registered")
        return SimpleNamespace(version=1), {"at": registered.trained_at.isoformat()}

    for step in (decide, replay):
        monkeypatch.setattr(step.tracking, "setup", lambda *_: None)
        monkeypatch.setattr(step.tracking, "policy_name", lambda config: f"{config.workspace.name}-policy")
        monkeypatch.setattr(step.tracking, "find", find)
        monkeypatch.setattr(step.tracking, "load_policy", lambda *_: (tmp_path, 1))
        monkeypatch.setattr(step.Scorer, "load", lambda _folder: registered.model)
    return SimpleNamespace(root=tmp_path, registered=registered)
