"""What a batch would have come to: sums over those who are decided, and how far belief may be wrong."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nba.catalog import Action, Catalog, Treatment
from nba.errors import DataError
from nba.policy.explore import Estimate
from nba.serving import whatif
from nba.settings import Settings

SHOP = Catalog((Action("sale", "s", "s", "Sale", 20.0),), (Treatment("mail", "sale", "email", 0.5),))


def settings_of(**limits):
    return Settings.model_validate(
        {"workspace": {"name": "shop"}, "policy": {"strategy": "uniform"}, "limits": limits}
    )


def stored_of(mean, se, share=1.0, stands_for=1.0, spent=0.0):
    n = len(mean)
    belief = Estimate(np.column_stack([np.zeros(n), mean]), np.column_stack([np.zeros(n), se]))
    return whatif.Stored(
        "b", None, belief, np.ones((n, 2), bool), np.full((n, 2), "", object), share, np.zeros((n, 2)),
        np.ones((n, 2)), np.zeros(n, np.int32), np.array([0.0, spent]), stands_for,
    )  # fmt: skip


def solved(stored, config):
    return whatif.solve("x", stored, SHOP, config, "")


# by hand


def test_errors_of_belief_are_taken_as_fully_correlated():
    (total,) = solved(stored_of([2.0, 4.0], [1.0, 3.0]), settings_of())
    assert (total["value"], total["contacts"], total["cost"]) == (3.0, 1.0, 0.5)
    assert total["value_upper"] - total["value"] == pytest.approx(1.96 * 0.5 * (1 + 3))
    assert total["value"] - total["value_lower"] == pytest.approx(1.96 * 0.5 * (1 + 3))


def test_limits_per_day_have_less_after_an_earlier_batch():
    daily = {"volumes": [{"name": "mails", "channels": ["email"], "most": 30, "per": "day"}]}
    mean, se = np.full(100, 2.0), np.ones(100)
    _, fresh = solved(stored_of(mean, se), settings_of(**daily))
    _, later = solved(stored_of(mean, se, spent=12.0), settings_of(**daily))
    assert (fresh["available"], later["available"]) == (30, 18)
    assert later["used"] <= 18


def test_without_a_rule_later_ones_still_remove():
    stored = stored_of([2.0, 2.0, 2.0, 2.0], [1.0] * 4)
    reason = np.array([["", "cap"], ["", "cap"], ["", "no consent"], ["", whatif.NOT_OFFERED]], dtype=object)
    stored = stored._replace(reason=reason, is_eligible=reason == "")
    # Of the first two the cap was the first rule; one of them is paused, too.
    found = np.array([["", "paused"], ["", ""], ["", "no consent"], ["", ""]], dtype=object)
    config, changes = settings_of(), whatif.Changes({}, without_rules=("cap",))
    again = whatif.asked_again(stored, found, changes)
    assert again.reason[:, 1].tolist() == ["paused", "cap", "no consent", whatif.NOT_OFFERED]
    after, _ = whatif.changed(again, SHOP, config, changes)
    assert after.is_eligible[:, 1].tolist() == [False, True, False, False]
    now = whatif.asked_again(stored, found, whatif.Changes({}, rules_as_set=True))
    assert now.is_eligible[:, 1].tolist() == [False, True, False, False]
    with pytest.raises(DataError, match="rule 'not offered then' is not known"):
        whatif.check(whatif.Changes({}, without_rules=(whatif.NOT_OFFERED,)), SHOP, stored, config)


# laws


@given(
    n=st.integers(2, 40), share=st.floats(0.05, 1.0), holdout=st.floats(0.0, 0.5), seed=st.integers(0, 10**6)
)
def test_a_preview_is_the_solution_of_the_sample_times_whom_it_stands_for(n, share, holdout, seed):
    rng = np.random.default_rng(seed)
    stored = stored_of(rng.normal(size=n), rng.gamma(1, 1, n), share * (1 - holdout), 1 / share)
    config = settings_of(capacity={"email": 200}, budget=70.0)
    rows = whatif.preview(stored, SHOP, config, whatif.Changes({}))
    single = solved(stored, config)
    for row, one in zip(rows[: len(single)], single, strict=True):
        for name in ("value", "value_lower", "value_upper", "contacts", "cost", "available", "used"):
            if name in one:
                assert row[name] == pytest.approx(one[name] / share)
        if "price" in one:
            assert row["price"] == one["price"]
    assert rows[0]["contacts"] <= n / share + 1e-9
