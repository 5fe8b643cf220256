from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nba import tables
from nba.catalog import Action, Catalog, Treatment
from nba.errors import SettingsError
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


def test_the_nuisance_of_a_channel_is_its_optouts_shrunk(tmp_path):
    kinds = [("email", "sent")] * 900 + [("email", "unsubscribed")] * 9 + [("sms", "sent")] * 100
    rows = [
        {"touch_id": str(i), "customer_id": "a", "touched_at": datetime(2026, 1, 1, tzinfo=UTC)}
        | {"channel": channel, "kind": kind, "cost": 0.0}
        for i, (channel, kind) in enumerate(kinds)
    ]
    history = History.read(tmp_path).commit(append={"touches": tables.TOUCHES.build(rows)})
    with history.as_of(AT) as snapshot:
        found = arbitrate.nuisance(snapshot, shop(), Reward(unsubscribe_cost=10.0))
        free = arbitrate.nuisance(snapshot, shop(), Reward())
    overall = 9 / 1000
    expected = [0, 10 * (9 + 200 * overall) / 1100, 10 * (0 + 200 * overall) / 300]
    np.testing.assert_allclose(found, expected)
    assert (free == 0).all()


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


# laws


@settings(deadline=None)
@given(uplift=st.floats(-1, 1), margin=st.floats(0, 1000))
def test_none_is_worth_nothing_and_a_lever_of_one_changes_nothing(uplift, margin):
    effect = np.array([[0.0, uplift, uplift]])
    plain = arbitrate.estimate(effect, np.abs(effect), np.array([margin]), shop())
    doubled = arbitrate.estimate(effect, np.abs(effect), np.array([margin]), shop(lever=2.0))
    np.testing.assert_allclose(plain.mean[0, 1:], uplift * margin - shop().cost[1:])
    np.testing.assert_allclose(doubled.mean[0, 1], 2 * uplift * margin - 0.1)
    assert plain.mean[0, 0] == doubled.mean[0, 0] == 0
