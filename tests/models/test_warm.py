import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from nba import tables
from nba.errors import DataError
from nba.models import warm
from nba.models.scorer import Scorer

NAMES = {
    "sale_email": "trial_mail",
    "sale_sms": "trial_text",
    "advice_email": "trial_tips",
    "advice_call": "trial_call",
}


def renamed(examples: pa.Table, names: dict[str, str]) -> pa.Table:
    """The same decisions by other ids of the treatments, and in other arms."""
    given = [names.get(name, name) for name in examples["treatment_id"].to_pylist()]
    place = examples.column_names.index("treatment_id")
    found = examples.set_column(place, "treatment_id", pa.array(given)).append_column(
        "arm", [["all"] * len(given)]
    )
    return tables.EXAMPLES.conform(found)


def rows(**columns) -> pa.Table:
    n = len(columns["treatment_id"])
    return tables.EXAMPLES.conform(
        pa.table(
            {
                "decision_id": [f"d{i}" for i in range(n)],
                "customer_id": [f"c{i}" for i in range(n)],
                "as_of": pa.array([0] * n, tables.TIME),
                "p_action": [0.5] * n,
                "is_response": [False] * n,
                "reward": [0.0] * n,
                "arm": ["all"] * n,
                **columns,
            }
        )
    )


@pytest.fixture(scope="module")
def asked(quick):
    return quick.model_copy(update={"trees": 10, "folds": 2})


@pytest.fixture(scope="module")
def trial(draw):
    """An earlier experiment in the world of `own`."""
    return draw(6_000, seed=11)


@pytest.fixture(scope="module")
def own(draw):
    """What has closed since, of which tests take as much as they say."""
    return draw(6_000, seed=12)


def first(log, n):
    return log.examples.slice(0, n)


def by_time(examples):
    return examples.sort_by([("as_of", "ascending"), ("decision_id", "ascending")])


# by hand


def test_earlier_decisions_have_own_treatments_and_ids_of_their_own(catalog):
    found = rows(treatment_id=["none", "trial_mail", "sale_sms", "gone"], weight=[1.0, 2.0, None, 1.0])
    got = warm.mapped(found, {"trial_mail": "sale_email"}, catalog)
    assert got["treatment_id"].to_pylist() == ["none", "sale_email", "sale_sms"]
    assert got["decision_id"].to_pylist() == ["earlier/d0", "earlier/d1", "earlier/d2"]
    assert got["arm"].to_pylist() == ["earlier/all"] * 3


def test_all_names_that_do_not_fit_are_told_at_once(catalog):
    found = rows(treatment_id=["none", "trial_mail"])
    with pytest.raises(
        DataError, match=r"(?s)'typo' is not among.*trial_mail.*'gone', for 'trial_mail'"
    ) as caught:
        warm.mapped(found, {"typo": "sale_email", "trial_mail": "gone"}, catalog)
    assert "warm_treatments" in str(caught.value.hint)
    with pytest.raises(DataError, match=r"none of its treatments \['trial_mail'\] is in the catalog"):
        warm.mapped(found, {}, catalog)


def test_a_pool_weighs_by_share_and_reads_the_own_features():
    own = rows(decision_id=["own"], treatment_id=["none"], f_both=[1.0], f_own=[2.0])
    earlier = rows(
        treatment_id=["none", "sale_sms"], weight=[None, 0.5], f_both=[3.0, 4.0], f_gone=[5.0, 6.0]
    )
    found = warm.pooled(own, earlier, 0.2)
    assert [n for n in found.column_names if n.startswith("f_")] == ["f_both", "f_own"]
    assert found["f_own"].to_pylist() == [None, None, 2.0]
    assert found["weight"].fill_null(1.0).to_pylist() == pytest.approx([0.2, 0.1, 1.0])
    assert warm.pooled(own, earlier, 0.0) is own
    assert "f_gone" not in warm.pooled(tables.EXAMPLES.empty(), earlier, 1.0, ["f_both"]).column_names
    alone = warm.pooled(tables.EXAMPLES.empty(), earlier, 0.2)  # a common factor of all rows says nothing
    assert alone["weight"].to_pylist() == [1.0, 0.5]
    assert "f_gone" in alone.column_names


def test_what_is_earlier_is_counted():
    marked = rows(treatment_id=["none", "none"]).set_column(0, "decision_id", pa.array(["earlier/a", "b"]))
    assert warm.counted(marked) == (1, 1.0)
    assert warm.counted(marked.slice(1)) == (0, 0.0)


def test_with_few_own_contacts_the_earlier_count_in_full(trial, own, catalog, asked):
    earlier = warm.mapped(renamed(trial.examples, {}), {}, catalog)
    for few in (tables.EXAMPLES.empty(), by_time(first(own, 300))):
        found = warm.choose(few, earlier, catalog, asked, 0, 1)
        assert (found.share, found.candidates) == (1.0, ())


# recovery


def test_from_an_earlier_experiment_first_batches_are_worth_more_than_from_nothing(draw, catalog, asked):
    """What is sent first, by true effects, as a share of what the best would bring; of three worlds."""
    found = []
    for seed in (11, 21, 31):
        earlier = warm.mapped(
            renamed(draw(6_000, seed).examples, NAMES), {b: a for a, b in NAMES.items()}, catalog
        )
        own = draw(3_000, seed + 1)
        ready, few, true = own.examples.slice(2_000), by_time(first(own, 600)), own.effect[2_000:, 1:]
        none = tables.EXAMPLES.empty()
        for pool in (few, warm.pooled(none, earlier, 1.0), warm.pooled(few, earlier, 1.0)):
            uplift = Scorer.fit(pool, catalog, asked, 0).scores(ready, catalog).uplift[:, 1:]
            sent = true[np.arange(len(true)), uplift.argmax(axis=1)]
            error = np.sqrt(np.mean((uplift - true) ** 2))
            found.append(
                [sent.mean() / true.max(axis=1).mean(), error, true.mean() / true.max(axis=1).mean()]
            )
    (cold, cold_error, even), (begun, *_), (warmer, error, _) = np.reshape(found, (3, 3, 3)).mean(axis=0)
    assert begun > even + 0.3  # the first batch: a cold start draws evenly
    assert warmer > cold + 0.05  # the second, with few own outcomes
    assert error < 0.5 * cold_error


def test_a_treatment_that_was_not_tried_starts_wide(trial, own, catalog, asked):
    tried = trial.examples.filter(pc.not_equal(trial.examples["treatment_id"], "advice_call"))
    earlier = warm.mapped(renamed(tried, {}), {}, catalog)
    model = Scorer.fit(warm.pooled(tables.EXAMPLES.empty(), earlier, 1.0), catalog, asked, 0)
    se = model.scores(own.examples.slice(0, 500), catalog).uplift_se.mean(axis=0)
    assert se[4] > 1.5 * se[1:4].max()


def test_a_prior_that_is_wrong_is_dropped_and_one_that_is_right_is_kept(trial, own, catalog, asked):
    right = warm.mapped(renamed(trial.examples, {}), {}, catalog)
    # What it took for a call was none, and the other way round: effects of the wrong sign.
    swapped = {"none": "advice_call", "advice_call": "none"}
    wrong = warm.mapped(renamed(trial.examples, swapped), {}, catalog)
    known, ready, true = by_time(first(own, 4_500)), own.examples.slice(4_500), own.effect[4_500:, 1:]

    def error(examples):
        uplift = Scorer.fit(examples, catalog, asked, 0).scores(ready, catalog).uplift[:, 1:]
        return np.sqrt(np.mean((uplift - true) ** 2))

    kept = warm.choose(known, right, catalog, asked, 0, 1)
    assert kept.share >= 0.3
    found = warm.choose(known, wrong, catalog, asked, 0, 1)
    assert found.share <= 0.1
    assert "better than in full" in found.reason
    assert [row["share"] for row in warm.rows(found, None) if row["is_chosen"]] == [found.share]
    cold, in_full = error(known), error(warm.pooled(known, wrong, 1.0))
    assert error(warm.pooled(known, wrong, found.share)) < 0.5 * (cold + in_full)
    assert in_full > 1.3 * cold  # else the prior was not wrong
