from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from nba import tables
from nba.catalog import Action, Catalog, Treatment
from nba.errors import DataError, SettingsError
from nba.history import History
from nba.policy import limits
from nba.settings import Limits, Volume

SHOP = Catalog(
    (
        Action("sale", "sell", "promo", "Sale", 20.0),
        Action("club", "keep", "loyalty", "Club", 50.0),
    ),
    (
        Treatment("sale_mail", "sale", "email", 0.1),
        Treatment("sale_sms", "sale", "sms", 0.5),
        Treatment("club_sms", "club", "sms", 0.5),
    ),
)

# by hand


def test_volumes_count_what_fits_all_that_they_name():
    found = limits.of(
        SHOP,
        Limits(
            capacity={"sms": 100},
            budget=7.0,
            volumes=(
                Volume(name="promo by sms", groups=("promo",), channels=("sms",), most=30),
                Volume(name="club", actions=("club",), least=10),
            ),
        ),
    )
    assert found.names == ("sms", "budget", "promo by sms", "club")
    expected = [[0, 0, 0, 0], [0, 0.1, 0, 0], [1, 0.5, 1, 0], [1, 0.5, 0, 1]]
    np.testing.assert_array_equal(found.use, expected)
    np.testing.assert_array_equal(found.available, [100, 7, 30, np.inf])
    np.testing.assert_array_equal(found.least, [0, 0, 0, 10])


def test_a_limit_per_day_has_what_earlier_batches_left(tmp_path):
    at = datetime(2026, 3, 29, 10, tzinfo=UTC)  # Madrid: midnight was at 23:00 UTC
    moments = [datetime(2026, 3, 28, 22, 59, tzinfo=UTC), datetime(2026, 3, 28, 23, 0, tzinfo=UTC)]
    rows = [
        {"decision_id": str(i), "batch_id": "b", "customer_id": "c", "treatment_id": "sale_sms"}
        | {"channel": "sms", "decided_at": moment, "p_action": 0.5, "policy_id": "p", "reason": ""}
        | {"config_hash": "", "valid_until": at}
        for i, moment in enumerate([*moments, at])
    ]
    history = History.read(tmp_path).commit(append={"decisions": tables.DECISIONS.build(rows)})
    with history.as_of(at) as snapshot:
        spent = limits.spent_today(snapshot, SHOP, "Europe/Madrid")
    assert spent.tolist() == [0, 0, 1, 0]
    daily = Limits(volumes=(Volume(name="sms", channels=("sms",), most=5, least=3, per="day"),))
    found = limits.of(SHOP, daily, spent)
    assert (found.available[0], found.least[0]) == (4, 2)


def test_a_minimum_above_what_is_eligible_is_named_with_what_can_be_reached():
    is_eligible = np.ones((100, 4), dtype=bool)
    is_eligible[40:, 3] = False
    asked = limits.of(SHOP, Limits(volumes=(Volume(name="club", actions=("club",), least=60),)))
    found, told = limits.reachable(asked, is_eligible)
    assert found.least[0] == pytest.approx(40)
    assert told[0].words == "club: at least 60 were asked for, 40 can be reached"


def test_a_holdout_takes_no_part_of_a_minimum():
    asked = limits.of(SHOP, Limits(volumes=(Volume(name="club", actions=("club",), most=100, least=50),)))
    arms = [limits.scaled(asked, share, active=0.9) for share in (0.6, 0.3)]
    assert sum(arm.least[0] for arm in arms) == pytest.approx(50)
    assert [arm.available[0] for arm in arms] == [60, 30]


def test_minimums_that_contradict_a_cap_are_lowered_together():
    is_eligible = np.ones((100, 4), dtype=bool)
    both = (
        Volume(name="sale by sms", actions=("sale",), channels=("sms",), least=30),
        Volume(name="club by sms", actions=("club",), channels=("sms",), least=30),
    )
    found, told = limits.reachable(limits.of(SHOP, Limits(capacity={"sms": 40}, volumes=both)), is_eligible)
    assert found.least.sum() == pytest.approx(40)
    assert {one.limit for one in told} <= {"sale by sms", "club by sms"}
    assert told


def test_a_cycle_of_minimums_that_only_together_cannot_be_is_lowered_and_named():
    # Each pair alone fits under the cap of 12; the three ask for 15 contacts: twice the total is at least 30.
    channels = ("email", "sms", "push")
    sale = tuple(Treatment(f"sale_{channel}", "sale", channel, 0.1) for channel in channels)
    shop = Catalog(SHOP.actions[:1], sale)
    pairs = (channels[:2], channels[1:], channels[::2])
    volumes = tuple(Volume(name="+".join(pair), channels=pair, least=10) for pair in pairs)
    cap = Volume(name="all", actions=("sale",), most=12)
    is_eligible = np.ones((100, 4), dtype=bool)
    for one in volumes:
        assert not limits.reachable(limits.of(shop, Limits(volumes=(cap, one))), is_eligible)[1]
    found, told = limits.reachable(limits.of(shop, Limits(volumes=(cap, *volumes))), is_eligible)
    assert found.least.sum() == pytest.approx(24)
    assert {one.limit for one in told} <= {one.name for one in volumes}
    assert sum(one.asked - one.feasible for one in told) == pytest.approx(6)


def test_limits_that_cannot_be_are_refused_by_name():
    with pytest.raises(ValidationError, match="asks for at least 5 and at most 3"):
        Volume(name="x", most=3, least=5)
    with pytest.raises(ValidationError, match="needs most, least or both"):
        Volume(name="x")
    volumes = (
        Volume(name="a", actions=("club",), channels=("email",), most=3),
        Volume(name="b", groups=("nobody",), most=3),
        Volume(name="sms", most=3),
    )
    with pytest.raises(SettingsError) as error:
        limits.of(SHOP, Limits(capacity={"sms": 1}, volumes=volumes))
    for part in ("'a' concerns no treatment", "group 'nobody'", "'sms' names two limits"):
        assert part in error.value.message


def test_a_treatment_without_cost_is_refused():
    actions, treatments = SHOP.to_tables()
    cost = pa.array([0.1, None, 0.5], pa.float64())
    with pytest.raises(DataError, match="cost: 1 values unknown"):
        Catalog.from_tables(actions, treatments.set_column(3, "cost", cost))


def test_prices_and_floors_in_words():
    limited = limits.Limited(
        ("sms", "budget", "club"), np.zeros((2, 3)), np.array([500, 90.5, np.inf]), np.array([0, 0, 20.0])
    )
    words = limits.price_words(limited, np.array([0.312, 0.0, -1.5]), np.array([500.0, 20.0, 20.0]))
    assert words == (
        "sms: one more is worth 0.31 (500 of 500 used)",
        "budget: more would be worth nothing (20 of 90 used)",
        "club: the last one asked for costs 1.50 (20 used)",
    )
    told = limits.floors(0.1, np.array([1.0, 0.2]), ("none", "sale_sms"))
    assert [one.feasible for one in told] == [pytest.approx(0.02)]
    assert limits.short(limited, np.array([0, 0, 11.0]))[0].feasible == 11


# laws


@hypothesis_settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), least=st.integers(1, 80), cap=st.integers(0, 80))
def test_what_is_called_reachable_fits_caps_and_eligibility(seed, least, cap):
    rng = np.random.default_rng(seed)
    is_eligible = rng.random((60, 4)) < 0.5
    is_eligible[:, 0] = True
    volumes = (
        Volume(name="club", actions=("club",), least=least),
        Volume(name="sale", actions=("sale",), least=20),
    )
    asked = limits.of(SHOP, Limits(capacity={"sms": cap}, volumes=volumes))
    found, told = limits.reachable(asked, is_eligible)
    assert (found.least <= asked.least).all()
    assert found.least[1] <= min(cap, is_eligible[:, 3].sum()) + 1e-6
    lowered = {one.limit for one in told}
    assert all((found.least[j] < asked.least[j] - 1e-4) == (asked.names[j] in lowered) for j in range(3))
