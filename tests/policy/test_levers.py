import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nba.catalog import Action, Catalog, Treatment
from nba.errors import SettingsError
from nba.policy import levers
from nba.policy.explore import Estimate, Greedy, Softmax
from nba.policy.limits import Limited
from nba.settings import Lever

NO_LIMIT = Limited((), np.zeros((3, 0)), np.zeros(0))
SPENT = np.array([0.0, 0.1, 0.2])


def lever(name: str, when: str, weight: float, **more: tuple[str, ...]) -> Lever:
    return Lever(name=name, when=when, weight=weight, **more)


def gains(n: int, seed: int = 0) -> Estimate:
    mean = np.random.default_rng(seed).normal(0.5, 1, (n, 3))
    mean[:, 0] = 0
    return Estimate(mean, np.zeros((n, 3)))


# by hand


def test_a_lever_costs_what_its_detours_lose():
    gain = Estimate(np.array([[0.0, 1.0, 0.9], [0.0, 1.0, 0.2]]), np.zeros((2, 3)))
    weights = {"club": np.array([[1.0, 1.0, 2.0]])}
    found = levers.costs(Greedy(), gain, SPENT, weights, np.ones((2, 3), bool), NO_LIMIT)
    # unweighted: 0.9 twice; with it the first customer gets 0.7 instead
    assert [one.lever for one in found] == ["club", "all"]
    assert found[0].value == pytest.approx(0.7 + 0.9)
    assert found[0].cost == found[1].cost == pytest.approx(0.2)
    assert found[0].moved == pytest.approx(1)


def test_levers_out_of_bounds_are_named():
    with pytest.raises(SettingsError, match="lever 'club' runs from 0 to 1"):
        levers.together({"club": np.array([[1.0, 0.0]]), "sale": np.array([[1.0, 1.0]])})
    assert levers.together({"a": np.array([[8.0]]), "b": np.array([[8.0]])})[0, 0] == levers.HIGH


def test_contexts_are_conditions_over_features_and_unknown_is_no():
    seen = pa.table({"f_x": pa.array([1.0, 3.0, None]), "f_y": [5.0, 5.0, 5.0]})
    chosen = [lever("high", "f_x > 2", 2.0), lever("all", "f_y = 5", 0.5)]
    assert levers.contexts(seen, chosen).tolist() == [2, 3, 2]
    with pytest.raises(SettingsError) as error:
        levers.contexts(seen, [lever("a", "f_z > 1", 2.0), lever("b", "x in (select 1)", 2.0)])
    assert "lever 'a'" in str(error.value)
    assert "lever 'b'" in str(error.value)
    with pytest.raises(SettingsError, match="cannot be answered:\n- lever 'c': "):
        levers.contexts(seen, [lever("b", "f_x > 1", 2.0), lever("c", "f_x = 'gold'", 2.0)])


def test_weights_multiply_within_bounds_and_leave_none_alone():
    shop = Catalog(
        (Action("sale", "s", "g", "Sale", 20.0, 4.0), Action("club", "s", "h", "Club", 50.0)),
        (Treatment("sale_mail", "sale", "email", 0.1), Treatment("club_sms", "club", "sms", 0.5)),
    )
    chosen = [lever("high", "f_x > 2", 5.0), lever("sms", "f_x > 2", 0.5, channels=("sms",))]
    found = levers.weights(np.array([0, 1, 3], dtype=np.int32), chosen, shop)
    np.testing.assert_allclose(found, [[1, 4, 1], [1, 10, 5], [1, 10, 2.5]])
    with pytest.raises(
        SettingsError, match=r"'odd' names actions \['clubs'\]; the catalog has \['club', 'sale'\]"
    ):
        levers.weights(np.zeros(1, dtype=np.int32), [lever("odd", "true", 2.0, actions=("clubs",))], shop)


# laws


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000))
def test_a_lever_of_one_changes_nothing(seed):
    gain, may = gains(50, seed), np.ones((50, 3), bool)
    limited = Limited(("all",), np.array([[0.0], [1.0], [1.0]]), np.array([20.0]))
    plain = levers.weighted(gain, SPENT, np.ones((1, 1)))
    one = levers.weighted(gain, SPENT, levers.together({"club": np.ones((1, 3)), "loyal": np.ones((50, 1))}))
    np.testing.assert_array_equal(one.mean, plain.mean)
    for found in levers.costs(Softmax(0.1, 0.05), gain, SPENT, {"club": np.ones((1, 3))}, may, limited):
        assert found.cost == pytest.approx(0, abs=1e-9)
        assert found.moved == pytest.approx(0, abs=1e-9)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), lever=st.floats(0.1, 10))
def test_without_limits_the_best_choice_cannot_gain_by_a_lever(seed, lever):
    weights = {"club": np.array([[1.0, 1.0, lever]])}
    found = levers.costs(Greedy(), gains(60, seed), SPENT, weights, np.ones((60, 3), bool), NO_LIMIT)
    assert found[0].cost >= -1e-9
