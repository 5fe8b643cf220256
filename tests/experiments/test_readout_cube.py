"""Days added one by one give the readout of all at once."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from nba import tables
from nba.experiments import actions, adaptive, facts
from nba.history import History
from pipelines.analyze import analyze
from tests.experiments.shop import START, TOML, copied, numbers, same

# laws


def test_a_further_batch_leaves_the_tuning_of_earlier_looks():
    n, batches = 500, 4
    rng = np.random.default_rng(4)
    batch = np.repeat(np.arange(batches), n)
    p_action = np.tile([0.4, 0.6], (n * batches, 1))
    chosen = (rng.random(n * batches) > 0.4).astype(np.int64)
    log = adaptive.Log(rng.normal(size=n * batches), chosen, p_action, batch, np.zeros((n * batches, 2)))
    target = np.tile([1.0, -1.0], (n * batches, 1))
    watched = adaptive.monitor(log, target, float(actions.PLANNED_BATCHES * n))
    for b in range(batches):
        row = actions._row(log.only(batch <= b), ["mail", "none"], "mail", 0.95)
        assert row["always_lower"] == pytest.approx(watched.lower[b])
        assert row["always_upper"] == pytest.approx(watched.upper[b])


def test_days_one_by_one_give_the_readout_of_a_rebuild(workspace, tmp_path, monkeypatch):
    text = TOML.replace(
        'role = "primary", planned_effect = 5.0', 'role = "primary", planned_effect = 5.0, cap = 40'
    )
    stepwise, whole = (copied(workspace, tmp_path / name, text) for name in ("stepwise", "whole"))
    read = []
    totals = facts.totals
    monkeypatch.setattr(
        facts, "totals", lambda s, people, *rest: read.append(people.num_rows) or totals(s, people, *rest)
    )
    for day in (9, 15, 22, 23, 44, 60):
        analyze(stepwise, START + timedelta(days=day))
    # Each customer's past was read once by each of the two experiments; later days read their own facts.
    assert sum(read) == History.read(stepwise).table("assignments").num_rows
    analyze(whole, START + timedelta(days=60))
    same(numbers(stepwise), numbers(whole))
    before = len(read)
    analyze(stepwise, START + timedelta(days=60))
    assert len(read) == before
    for name in ("cube", "cube_units", "cube_states"):
        tables.BY_NAME[name].check(History.read(stepwise).table(name))


def test_a_late_row_an_earlier_moment_and_another_declaration_build_the_cube_anew(workspace, tmp_path):
    orders = History.read(workspace).table("orders")
    some = orders.filter(pa.array(np.arange(orders.num_rows) % 50 != 0))
    late = copied(workspace, tmp_path / "late", orders=some)
    analyze(late, START + timedelta(days=30))
    before = numbers(late)
    History.read(late).commit(replace={"orders": orders})
    analyze(late, START + timedelta(days=30))
    right = copied(workspace, tmp_path / "right")
    analyze(right, START + timedelta(days=30))
    same(numbers(late), numbers(right))
    assert before != numbers(right)
    analyze(late, START + timedelta(days=60))
    analyze(late, START + timedelta(days=30))
    same(numbers(late), numbers(right))
    capped = TOML.replace('numerator = "margin", role', 'numerator = "margin", cap = 20, role')
    (late / "nba.toml").write_text(capped, encoding="utf-8")
    analyze(late, START + timedelta(days=30))
    again = copied(workspace, tmp_path / "again", capped)
    analyze(again, START + timedelta(days=30))
    same(numbers(late), numbers(again))
