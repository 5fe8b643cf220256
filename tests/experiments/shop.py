"""A workspace with a trial of two equal policies, and its readout."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from nba import tables
from nba.history import History
from pipelines.analyze import analyze

START = datetime(2026, 1, 1, tzinfo=UTC)
WEEKS, N = 6, 1500
TOML = """
[workspace]
name = "x"
[reward]
window_days = 7
[experiment]
segments = ["a_city"]
[[experiments]]
experiment_id = "cc"
control = "champ"
starts_at = 2026-01-01T00:00:00Z
ends_at = 2026-02-12T00:00:00Z
slots = [0.0, 0.999]
arms = [
  { name = "champ", share = 0.5, policy = "champion" },
  { name = "chall", share = 0.5, policy = "challenger" },
]
metrics = [
  { name = "margin", numerator = "margin", role = "primary", planned_effect = 5.0 },
  { name = "basket", numerator = "revenue", denominator = "orders" },
  { name = "returns", numerator = "returns", role = "guardrail", is_good = false, margin = 1.0 },
]
"""


def decisions_of(ids, placed):
    parts = [
        pa.table(
            {
                "decision_id": [f"{c}-{w}" for c in ids],
                "batch_id": [f"b{w}"] * N,
                "customer_id": ids,
                "treatment_id": ["none"] * N,
                "channel": ["none"] * N,
                "decided_at": pa.array([START + timedelta(days=7 * w)] * N, tables.TIME),
                "p_action": [1.0] * N,
                "policy_id": ["p"] * N,
                "experiment_id": placed.experiment_id.tolist(),
                "arm": placed.arm.tolist(),
                "p_arm": placed.p_arm,
                "reason": [""] * N,
                "config_hash": [""] * N,
                "valid_until": pa.array([START] * N, tables.TIME),
            }
        )
        for w in range(WEEKS)
    ]
    return tables.DECISIONS.conform(pa.concat_tables(parts))


def verdict(folder, days):
    analyze(folder, START + timedelta(days=days))
    rows = History.read(folder).table("readouts").to_pylist()
    return {row["experiment_id"]: row for row in rows}


def copied(workspace, folder, text=TOML, **changed):
    history = History.read(workspace)
    folder.mkdir()
    (folder / "nba.toml").write_text(text, encoding="utf-8")
    names = ("assignments", "decisions", "orders", "customers")
    History.read(folder).commit(append={name: changed.get(name, history.table(name)) for name in names})
    return folder


def numbers(folder):
    history = History.read(folder)
    rows = []
    for name in ("effects", "looks", "readouts"):
        table = history.table(name)
        rows += table.sort_by([(key, "ascending") for key in tables.BY_NAME[name].key]).to_pylist()
    return rows


def same(one, two):
    assert len(one) == len(two) > 0
    for a, b in zip(one, two):
        for key, value in a.items():
            expected = pytest.approx(b[key], rel=1e-8, abs=1e-9) if isinstance(value, float) else b[key]
            assert value == expected, key
