import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from nba import draws, settings, tables
from nba.errors import DataError
from nba.history import History
from nba.policy import limits
from nba.policy.limits import Limited, scaled
from nba.serving.decide import decide
from nba.serving.deciders import strategy
from tests.serving.conftest import arm, make_shop


def rows(table: pa.Table, **where) -> pa.Table:
    for name, value in where.items():
        table = table.filter(pc.equal(table[name], value))
    return table


# by hand


def test_limits_are_capacities_of_channels_and_the_budget(shop):
    found = limits.of(shop.catalog, shop.config.limits)
    assert found.names == ("email", "sms", "call", "budget")
    np.testing.assert_array_equal(found.use[:, 0], [0, 1, 0, 1, 0])
    np.testing.assert_array_equal(found.use[:, 3], shop.catalog.cost)
    assert scaled(found, 0.1).available.tolist() == [12, 3, 1, 6.0]


def test_strategies_are_those_of_the_settings():
    chosen = [strategy(settings.PolicySettings(strategy=name)).policy_id for name in
              ("softmax", "epsilon_greedy", "greedy", "uniform")]  # fmt: skip
    assert chosen == ["softmax-t0.25-f0.05", "epsilon_greedy-0.05", "greedy", "random"]


def test_every_customer_has_one_decision_with_its_reason(batch, shop):
    decisions = batch.decisions
    assert decisions["customer_id"].to_pylist() == shop.features["customer_id"].to_pylist()
    held = rows(decisions, arm="holdout")
    assert set(held["treatment_id"].to_pylist()) == {"none"}
    assert set(held["reason"].to_pylist()) == {"held out"}
    words = set(" ".join(rows(decisions, arm="policy")["reason"].to_pylist()).split())
    assert {"best", "explored", "nothing"} <= words
    unreachable = decisions.filter(pc.is_null(decisions["external_id"]))
    assert set(unreachable["treatment_id"].to_pylist()) == {"none"}
    assert batch.policies["policy"] == "softmax-t0.25-f0.05@believer-1"
    assert batch.policies["response"] == "response_greedy@believer-1"


def test_expected_value_is_what_the_choice_is_believed_to_earn(batch, shop):
    belief = shop.model.scores(shop.features, shop.catalog)
    column = shop.catalog.columns(batch.decisions["treatment_id"].to_pylist())
    every = np.arange(len(column))
    expected = np.where(column == 0, 0, 30 * belief.uplift[every, column] - shop.catalog.cost[column])
    of_policy = np.array(batch.decisions["arm"].to_pylist()) == "policy"
    np.testing.assert_allclose(batch.decisions["expected_value"].to_numpy()[of_policy], expected[of_policy])


def test_without_a_model_the_first_batch_explores_evenly_and_says_so(shop, history):
    with history.as_of(shop.at) as snapshot:
        found = decide(snapshot, shop.features, shop.catalog, shop.config, {}, "b1")
    assert found.policies["policy"] == found.policies["response"] == "uniform-start"
    assert any("no model is registered yet" in note for note in found.notes)
    contacts = found.decisions.filter(pc.not_equal(found.decisions["treatment_id"], "none"))
    assert contacts.num_rows > 20
    assert contacts["expected_value"].null_count == contacts.num_rows


def test_retention_is_valued_by_the_lifetime_value_it_saves(shop, history):
    ids = shop.features["customer_id"].to_pylist()
    forecast = [
        {"customer_id": name, "as_of": shop.at, "n_repeat": 1, "horizon_days": 365, "model_id": "m",
         "reason": "", "clv_at_risk": float(i)}
        for i, name in enumerate(ids)
    ]  # fmt: skip
    after = history.commit(append={"clv": tables.CLV.build(forecast)})
    config = shop.config.model_copy(update={"reward": settings.Reward(clv_actions=("club",))})
    with after.as_of(shop.at) as snapshot:
        found = decide(snapshot, shop.features, shop.catalog, config, {"champion": shop.model}, "b1")
    uplift = shop.model.scores(shop.features, shop.catalog).uplift
    column = shop.catalog.columns(found.decisions["treatment_id"].to_pylist())
    every = np.arange(len(ids))
    club = np.array([name.startswith("club") for name in shop.catalog.treatment_ids])[column]
    expected = (30 + every * club) * uplift[every, column] - shop.catalog.cost[column]
    of_policy = np.array(found.decisions["arm"].to_pylist()) == "policy"
    assert (club & of_policy).sum() > 5
    np.testing.assert_allclose(
        found.decisions["expected_value"].to_numpy()[of_policy], np.where(column == 0, 0, expected)[of_policy]
    )


def test_a_batch_without_customers_is_refused(shop, history):
    with history.as_of(shop.at) as snapshot, pytest.raises(DataError, match="no customer is known"):
        decide(snapshot, shop.features.slice(0, 0), shop.catalog, shop.config, {}, "b1")


# laws


def test_the_log_keeps_every_law_of_the_contract(batch, shop, history):
    actions, treatments = shop.catalog.to_tables()
    after = history.commit(
        append={
            "decisions": batch.decisions,
            "choices": batch.choices,
            "batches": batch.batches,
            "features": batch.features,
            "assignments": batch.assignments,
            "actions": actions,
            "treatments": treatments,
        }
    )
    assert after.broken_laws() == []
    assert batch.choices.num_rows == 400 * 5
    used = rows(batch.batches, limit="email")
    assert sum(used["used"].to_pylist()) <= 120
    no_consent = after.sql(
        "from decisions join customers using (customer_id) where (channel = 'email' and not can_email)"
        " or (channel = 'sms' and not can_sms) or (channel = 'call' and not can_call)"
    )
    assert no_consent.num_rows == 0


def test_the_same_batch_gives_the_same_decisions_and_another_does_not(batch, shop, history):
    with history.as_of(shop.at) as snapshot:
        again = decide(snapshot, shop.features, shop.catalog, shop.config, {"champion": shop.model}, "b1")
        other = decide(snapshot, shop.features, shop.catalog, shop.config, {"champion": shop.model}, "b2")
    assert again.decisions.equals(batch.decisions)
    assert again.choices.equals(batch.choices)
    assert again.batches.equals(batch.batches)
    assert other.decisions["treatment_id"] != batch.decisions["treatment_id"]
    assert other.decisions["arm"].to_pylist() == batch.decisions["arm"].to_pylist()
    assert not set(other.decisions["decision_id"].to_pylist()) & set(
        batch.decisions["decision_id"].to_pylist()
    )


def test_what_happens_later_changes_nothing(batch, shop, history):
    late = shop.customers.slice(0, 1).set_column(0, "customer_id", pa.array(["late"]))
    when = pa.array([shop.at], shop.customers.schema.field("joined_at").type)
    late = late.set_column(late.column_names.index("joined_at"), "joined_at", when)
    after = history.commit(append={"customers": late})
    with after.as_of(shop.at) as snapshot:
        again = decide(snapshot, shop.features, shop.catalog, shop.config, {"champion": shop.model}, "b1")
    assert again.decisions.equals(batch.decisions)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The shop and its history, which no example changes."""
    shop = make_shop()
    history = History.read(tmp_path_factory.mktemp("law") / "shop").commit(
        append={"customers": shop.customers}
    )
    with history.as_of(shop.at) as snapshot:
        yield shop, snapshot


@effort(deadline=None, max_examples=6)
@given(
    share=st.floats(0.01, 0.9),
    chosen=st.sampled_from(["softmax", "epsilon_greedy", "greedy", "uniform", "thompson", "squarecb"]),
    mail=st.integers(0, 400),
    least=st.integers(1, 60),
    budget=st.floats(0, 100),
    is_learnt=st.booleans(),
    name=st.integers(0, 99),
)
def test_a_holdout_customer_never_gets_anything(world, share, chosen, mail, least, budget, is_learnt, name):
    shop, snapshot = world
    rest = [arm(x, (1 - share) * part, x) for x, part in (("random", 0.5), ("champion", 0.5))]
    pushed = settings.Volume(name="at least these", channels=("sms",), least=least)
    config = shop.config.model_copy(
        update={
            "limits": settings.Limits(capacity={"email": mail}, volumes=(pushed,), budget=budget),
            "policy": settings.PolicySettings(strategy=chosen),
            "experiment": settings.Experiment(arms=(arm("holdout", share, "none"), *rest)),
        }
    )
    models = {"champion": shop.model} if is_learnt else {}
    batch = decide(snapshot, shop.features, shop.catalog, config, models, f"b{name}")
    held = set(rows(batch.decisions, arm="holdout")["customer_id"].to_pylist())
    # Who is held out hangs on the customer alone: not on the batch, the policy or what there is to give.
    usual = (
        draws.uniform(shop.features["customer_id"].to_pylist(), f"arm|{config.experiment.experiment_id}")
        < share
    )
    assert held == {x for x, is_held in zip(shop.features["customer_id"].to_pylist(), usual) if is_held}
    mine = pc.is_in(batch.decisions["customer_id"], pa.array(sorted(held), pa.string()))
    decided = batch.decisions.filter(mine)
    assert set(decided["treatment_id"].to_pylist()) <= {"none"}
    assert set(decided["p_action"].to_pylist()) <= {1.0}
    offered = batch.choices.filter(
        pc.is_in(batch.choices["decision_id"], decided["decision_id"].combine_chunks())
    )
    assert all(row["p_action"] == (row["treatment_id"] == "none") for row in offered.to_pylist())


@effort(deadline=None)
@given(share=st.floats(0, 1), n=st.integers(0, 10**6))
def test_shares_of_a_limit_never_exceed_it(share, n):
    limited = Limited(("email", "budget"), np.zeros((1, 2)), np.array([float(n), float(n)]))
    parts = scaled(limited, share).available + scaled(limited, 1 - share).available
    assert (parts <= limited.available + 1e-6 * n).all()
    assert scaled(limited, share).available[0] == int(scaled(limited, share).available[0])
