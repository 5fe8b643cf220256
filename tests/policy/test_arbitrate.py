from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nba import tables
from nba.catalog import Action, Catalog, Treatment
from nba.errors import DataError, SettingsError
from nba.history import History
from nba.policy import arbitrate
from nba.settings import Reward

AT = datetime(2026, 3, 2, 6, tzinfo=UTC)


def shop(lever: float = 1.0) -> Catalog:
    return Catalog(
        (Action("sale", "s", "s", "Sale", 20.0, lever), Action("club", "s", "s", "Club", 50.0)),
        (Treatment("sale_mail", "sale", "email", 0.1), Treatment("club_sms", "club", "sms", 0.5)),
    )


# by hand


def test_value_is_uplift_times_margin_less_cost_and_nuisance():
    uplift = np.array([[0.0, 0.1, -0.02], [0.0, 0.2, 0.1]])
    se = np.full((2, 3), 0.01)
    found = arbitrate.estimate(uplift, se, np.array([30.0, np.nan]), shop(), np.array([0.0, 0.2, 0.3]))
    expected = [[0, 3 - 0.3, -0.6 - 0.8], [0, 4 - 0.3, 5 - 0.8]]
    np.testing.assert_allclose(found.mean, expected)
    np.testing.assert_allclose(found.se, [[0, 0.3, 0.3], [0, 0.2, 0.5]])


def test_the_response_baseline_ranks_by_response_not_by_effect():
    found = arbitrate.by_response(np.array([[0.3, 0.4, 0.1]]), np.array([10.0]), shop())
    np.testing.assert_allclose(found.mean, [[0, 4 - 0.1, 1 - 0.5]])


def touches(rows: list[tuple[str, str, str, float]]) -> pa.Table:
    """Customer, channel, kind, days after the new year."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return tables.TOUCHES.build(
        {"touch_id": str(i), "customer_id": customer, "channel": channel, "kind": kind, "cost": 0.0,
         "touched_at": start + timedelta(days=days)}
        for i, (customer, channel, kind, days) in enumerate(rows)
    )  # fmt: skip


def test_the_nuisance_of_a_channel_is_its_optouts_shrunk(tmp_path):
    rows = [(f"c{i}", "email", "sent", 0.0) for i in range(900)]
    rows += [(f"c{i}", "email", "unsubscribed", 1.0) for i in range(9)]
    rows += [(f"d{i}", "sms", "sent", 0.0) for i in range(100)]
    rows += [("e", "email", "unsubscribed", 1.0)]  # after no contact: nobody's
    history = History.read(tmp_path).commit(append={"touches": touches(rows)})
    with history.as_of(AT) as snapshot:
        found = arbitrate.nuisance(snapshot, shop(), Reward(unsubscribe_cost=10.0))
        free = arbitrate.nuisance(snapshot, shop(), Reward())
    overall = 9 / 1000
    expected = [0, 10 * (9 + 200 * overall) / 1100, 10 * (0 + 200 * overall) / 300]
    due = (900 * expected[1] + 100 * expected[2]) / 10  # opt-outs that the rates expect, all first contacts
    np.testing.assert_allclose(found[0], np.array(expected) * (9 + 10) / (due + 10))
    assert (np.diff(found, axis=0) >= 0).all()
    assert free.shape == found.shape
    assert (free == 0).all()


def test_recent_contacts_are_those_of_28_days_on_all_channels(tmp_path):
    rows = [("a", "email", "sent", 0.0), ("a", "sms", "sent", 20.0), ("a", "email", "sent", 29.0)]
    rows += [("a", "email", "unsubscribed", 29.5)]
    history = History.read(tmp_path).commit(append={"touches": touches(rows)})
    with history.as_of(AT) as snapshot:
        found = snapshot.sql(arbitrate._OPT_OUTS).to_pylist()
    assert [tuple(row.values()) for row in found] == [
        ("email", 0, 1, 0),
        ("email", 1, 1, 1),
        ("sms", 1, 1, 0),
    ]


def test_a_tired_customer_costs_more(tmp_path):
    table = np.array([[0.0, 0.1, 0.2], [0.0, 0.3, 0.6]])
    seen = pa.table({"f_contacts_28": pa.array([0.0, None, 1.0, 9.0])})
    np.testing.assert_array_equal(arbitrate.fatigue(table, seen), table[[0, 0, 1, 1]])
    with pytest.raises(DataError, match="lack f_contacts_28"):
        arbitrate.fatigue(table, pa.table({"f_x": [1.0]}))
    alike = arbitrate.fatigue(np.tile(table[0], (2, 1)), pa.table({"f_x": [1.0]}))
    np.testing.assert_array_equal(alike, table[:1])


def test_a_retention_treatment_is_worth_the_value_it_saves(tmp_path):
    rows = [
        {"customer_id": c, "as_of": day, "n_repeat": 1, "horizon_days": 365, "model_id": "m", "reason": "",
         "clv_at_risk": risk}
        for c, day, risk in (
            ("a", AT - timedelta(days=9), 70.0), ("a", AT - timedelta(days=2), 40.0),
            ("a", AT + timedelta(days=1), 999.0), ("b", AT - timedelta(days=2), None),
        )
    ]  # fmt: skip
    history = History.read(tmp_path).commit(append={"clv": tables.CLV.build(rows)})
    ids = pa.array(["b", "a", "c"])
    with history.as_of(AT) as snapshot:
        found = arbitrate.saved(snapshot, shop(), Reward(clv_actions=("club",)), ids)
        assert arbitrate.saved(snapshot, shop(), Reward(), ids) is None
        with pytest.raises(SettingsError, match=r"names \['clubs'\]; the catalog has \['club', 'sale'\]"):
            arbitrate.saved(snapshot, shop(), Reward(clv_actions=("clubs",)), ids)
    assert found is not None
    np.testing.assert_array_equal(found, [[0, 0, 0], [0, 0, 40], [0, 0, 0]])
    uplift = np.tile([0.0, 0.1, 0.1], (3, 1))
    value = arbitrate.estimate(uplift, 0 * uplift, np.full(3, 20.0), shop(), None, found)
    np.testing.assert_allclose(value.mean[1], [0, 2 - 0.1, (20 + 40) * 0.1 - 0.5])


# recovery


def test_the_price_of_fatigue_finds_the_hazard_that_rises_with_contacts(tmp_path):
    """Opt-outs come with chance 0.004 (1 + recent contacts); the price says so, to its noise."""
    rng = np.random.default_rng(5)
    rows = []
    for c in range(4000):
        days = np.sort(rng.uniform(0, 50, rng.integers(1, 9)))
        for i, day in enumerate(days):
            rows.append((f"c{c}", "email", "sent", float(day)))
            recent = int((days[:i] >= day - 28).sum())
            if rng.random() < 0.004 * (1 + recent):
                rows.append((f"c{c}", "email", "unsubscribed", float(day) + 1e-4))
    history = History.read(tmp_path).commit(append={"touches": touches(rows)})
    with history.as_of(AT) as snapshot:
        found = arbitrate.nuisance(snapshot, shop(), Reward(unsubscribe_cost=1.0))[:, 1]
    np.testing.assert_allclose(found[:4], 0.004 * np.arange(1, 5), atol=0.0045)
    assert found[3] > 2 * found[0]


# laws


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), lever=st.floats(0.1, 10))
def test_expected_value_never_rises_with_recent_contacts(seed, lever):
    rng = np.random.default_rng(seed)
    lost = rng.integers(0, 30, (arbitrate.LEVELS, 2)).astype(float)
    tired = arbitrate._tiredness(lost, rng.uniform(0, 30, lost.shape))
    assert (np.diff(tired) >= 0).all()
    price = np.outer(tired, [0.0, 0.1, 0.2])
    seen = pa.table({"f_contacts_28": np.arange(10.0)})
    uplift = np.tile([0.0, 0.1, 0.1], (10, 1))
    weight = np.full((10, 3), lever)
    value = arbitrate.estimate(
        uplift, uplift, np.full(10, 20.0), shop(), arbitrate.fatigue(price, seen), None, weight
    ).mean
    assert (np.diff(value, axis=0) <= 1e-12).all()


@settings(deadline=None)
@given(uplift=st.floats(-1, 1), margin=st.floats(0, 1000))
def test_none_is_worth_nothing_and_a_lever_of_one_changes_nothing(uplift, margin):
    effect = np.array([[0.0, uplift, uplift]])
    plain = arbitrate.estimate(effect, np.abs(effect), np.array([margin]), shop())
    doubled = arbitrate.estimate(effect, np.abs(effect), np.array([margin]), shop(lever=2.0))
    np.testing.assert_allclose(plain.mean[0, 1:], uplift * margin - shop().cost[1:])
    np.testing.assert_allclose(doubled.mean[0, 1], 2 * uplift * margin - 0.1)
    assert plain.mean[0, 0] == doubled.mean[0, 0] == 0
