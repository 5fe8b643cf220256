from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from nba.errors import DataError
from nba.models import card, compare, crossfit, inputs
from nba.models.compare import LEAST
from nba.models.inputs import Coding


@pytest.fixture(scope="module")
def found(scorer, varied, catalog, quick):
    return compare.compare(scorer, varied.examples, catalog, quick, 0)


# by hand


def test_checks_name_leaks_gaps_and_probabilities():
    X = np.column_stack([np.arange(100.0), np.full(100, np.nan), np.random.default_rng(0).normal(size=100)])
    said = compare.checks(("f_a", "f_b", "f_c"), X, (X[:, 0] >= 50).astype(float), np.full(100, 0.005))
    assert "'f_a' tells the outcome" in said[0]
    assert "without any value: f_b" in said[1]
    assert "100.0% of the decisions" in said[2]
    assert compare.checks(("f_c",), X[:, 2:], X[:, 0], np.full(100, 0.5))[0].startswith("No feature tells")
    some = compare.checks(("f_c",), X[:, 2:], X[:, 0], np.repeat([0.0, 0.5], 50))
    assert "50.0% of the decisions have no logged probability" in some[1]
    assert "from 0.5 to 0.5" in some[2]
    assert len(compare.checks(("f_c",), X[:, 2:], X[:, 0], np.zeros(100))) == 2


def test_candidates_that_were_logged_say_who_could_have_got_what(scorer, varied, catalog):
    rows = varied.examples
    coding = Coding.of(catalog)
    column = coding.columns(rows["treatment_id"].to_pylist())
    # The call is closed to every row that did not get it, and to none who did; the last ten were not logged.
    p = np.tile([0.5, *[0.125] * 4], (rows.num_rows, 1))
    no_call = column != 4
    p[no_call] = [0.625, 0.125, 0.125, 0.125, 0]
    p[0] = [1, 0, 0, 0, 0]
    names = ["none", *coding.treatment_ids]
    ids = rows["decision_id"].to_pylist()
    asked = []

    def logged(decision_id):
        asked.extend(decision_id.to_pylist())
        return pa.table(
            {"decision_id": np.repeat(ids[:-10], 5), "treatment_id": names * (len(ids) - 10),
             "p_action": p[:-10].ravel()}
        )  # fmt: skip

    own = p[np.arange(len(p)), column]
    own[0] = 1.0 if column[0] == 0 else own[0]
    at = rows.column_names.index("p_action")
    rows = rows.set_column(at, "p_action", pa.array(own))
    found = compare.probabilities(rows, column, coding, logged)
    assert asked == ids
    np.testing.assert_array_equal(np.isnan(found).any(axis=1), np.arange(len(ids)) >= len(ids) - 10)
    given = compare.Given.of(rows, column, coding, logged)
    assert given.arms.tolist() == [0, *(1 + np.argsort(np.array(coding.treatment_ids[:3])))]
    np.testing.assert_allclose(given.p.sum(axis=1), 1)
    assert len(ids) - 1 not in given.rows
    assert 0 not in given.rows
    assert "advice_call" in given.told(coding)[1]
    assert "sale_email" in given.told(coding)[0]


def test_a_log_that_contradicts_itself_is_said_on_the_card_not_raised(scorer, varied, catalog, quick):
    wrong = pa.array(np.full(varied.examples.num_rows, 0.9))
    at = varied.examples.column_names.index("p_action")
    contradictory = varied.examples.set_column(at, "p_action", wrong)
    found = compare.compare(scorer, contradictory, catalog, quick, 0)
    assert found.gate is None
    assert "p_action contradicts the arms: rows that got 'none'" in found.findings[-2]
    # Without a look-up, too few that got a treatment may have been unable to get it; too many may not.
    (alone,) = (said for said in compare.unfitted(scorer, contradictory).findings if "contradicts" in said)
    assert "rows that got 'none'" in alone
    low = varied.examples.set_column(at, "p_action", pa.array(np.full(varied.examples.num_rows, 0.05)))
    assert sum("contradicts" in said for said in compare.unfitted(scorer, low).findings) == 5
    assert "contradicts the arms" in card.card(scorer, varied.examples, found, {})


def test_a_feature_that_only_the_treated_have_is_named_with_the_stack_and_without(scorer, varied):
    rows, coding = varied.examples.slice(0, 3000), scorer.coding
    column = coding.columns(rows["treatment_id"].to_pylist())
    at = rows.schema.get_field_index("f_x4")
    late = rows.set_column(at, "f_x4", pa.array(np.where(column > 0, 1.0, np.nan)))

    def logged(decision_id):
        names, p = ["none", *coding.treatment_ids] * len(decision_id), [0.5, *[0.125] * 4] * len(decision_id)
        return pa.table({"decision_id": decision_id.take(np.repeat(np.arange(len(decision_id)), 5)),
                         "treatment_id": names, "p_action": p})  # fmt: skip

    (said,) = (text for text in compare.unfitted(scorer, late, logged).findings if "differs" in text)
    assert said.startswith("Feature 'f_x4' differs between arms by more than p_action allows")
    assert not any("differs" in text for text in compare.unfitted(scorer, rows, logged).findings)
    known = compare.Given.of(late, column, coding, logged)
    X = inputs.matrix(late, scorer.names)[known.rows]
    assert (np.array(["none", *sorted(coding.treatment_ids)])[known.arm] == known.names).all()
    (said,) = compare._uneven(scorer.names, X, known.arm, known.p, np.arange(3000))
    assert "'f_x4'" in said


def test_a_verdict_on_features_that_know_what_came_later_says_so_first(scorer, varied, catalog, quick):
    rows = varied.examples.slice(0, 2500)
    y = rows["is_response"].to_numpy(zero_copy_only=False) + 0.35 * np.random.default_rng(0).normal(size=2500)
    late = rows.set_column(rows.schema.get_field_index("f_x4"), "f_x4", pa.array(y))
    found = compare.compare(scorer, late, catalog, quick, 0)
    assert any("'f_x4' tells the outcome suspiciously well" in text for text in found.findings)
    assert found.gate.reason.startswith("Only if 'f_x4' is known before the decision:")
    assert "- Only if 'f_x4' is known" in card.card(scorer, varied.examples, found, {})


def test_signs_of_effects_are_asked_of_the_stack(scorer, varied, catalog, quick):
    rows = varied.examples.slice(0, 2500)
    asked = quick.model_copy(update={"monotone_effects": {"f_x1": 1}})
    found = compare.compare(scorer, rows, catalog, asked, 0)
    names = found.candidates["candidate"].to_pylist()
    assert names == ["none", "constant", "x_trees", "dr_trees", "stack", "served"]
    assert any("(f_x1 +1) are kept by the stack; what is served does not" in text for text in found.findings)
    unheard = quick.model_copy(update={"monotone_effects": {"f_unheard": 1}})
    with pytest.raises(DataError, match=r"monotone_effects names \['f_unheard'\]; the examples have no such"):
        compare.compare(scorer, rows, catalog, unheard, 0)


def test_too_few_examples_are_said_not_raised(scorer, varied, catalog, quick):
    few = compare.compare(scorer, varied.examples.slice(0, LEAST // 2), catalog, quick, 0)
    assert few.gate is None
    assert "Fewer than" in few.findings[-2]
    text = card.card(scorer, varied.examples, few, {})
    assert "The stack could not be fitted" in text


def test_a_card_without_a_stack_has_checks_all_the_same(scorer, varied):
    text = card.card(scorer, varied.examples, compare.unfitted(scorer, varied.examples), {})
    assert "contradicts" not in text
    assert "No feature tells the outcome almost exactly." in text
    assert "Logged probabilities reach from" in text
    assert "The stack was not fitted" in text
    y = varied.examples["is_response"].cast("double")
    told = varied.examples.set_column(varied.examples.column_names.index("f_x0"), "f_x0", y)
    assert "'f_x0' tells the outcome almost exactly" in compare.unfitted(scorer, told).findings[0]


def test_effects_are_compared_by_models_that_had_not_seen_the_customer(varied, catalog, quick):
    rows = varied.examples.slice(0, 3000)
    found = compare.unseen(rows, rows.slice(0, 600), catalog, quick, 0)
    assert found.shape == (600, 4)
    # Outcomes of a third of the customers change: what is said of them does not.
    third = crossfit.folds(rows["customer_id"], 3, 1) == 1
    y = rows["is_response"].to_numpy(zero_copy_only=False)
    at = rows.column_names.index("is_response")
    other = rows.set_column(at, "is_response", pa.array(np.where(third, ~y, y)))
    again = compare.unseen(other, other.slice(0, 600), catalog, quick, 0)
    np.testing.assert_array_equal(again[third[:600]], found[third[:600]])
    assert (again[~third[:600]] != found[~third[:600]]).all()
    assert np.isnan(compare.unseen(rows.slice(0, 90), rows.slice(0, 5), catalog, quick, 0)).all()


def test_agreement_leaves_out_what_is_unknown():
    gap = np.array([[1.0, np.nan], [2.0, np.nan], [3.0, np.nan]])
    assert compare.together(gap, np.array([[1.0, 0.0], [3.0, 0.0], [5.0, 9.0]])) == pytest.approx(
        (1.0, np.sqrt(5 / 3))
    )
    assert np.isnan(compare.together(gap[:, 1:], gap[:, 1:])).all()


# laws


def test_card_has_every_section_and_treatment(found, scorer, varied, catalog):
    text = card.card(scorer, varied.examples, found, {"trees": 3}, ["Not for minors."])
    for heading in (
        "## Data",
        "## Measures",
        "## Checks",
        "## Does personalising pay?",
        "## Limits",
        "## Settings",
    ):
        assert heading in text
    assert all(f"|\u00a0{name}\u00a0|" in text for name in catalog.treatment_ids[1:])
    assert "Not for minors." in text
    assert "less contact costs" in text
    # Two losses: those that chose the calibration are of other rows and weights, which the card says.
    n = f"{scorer.report.metrics['n']:,.0f}"
    assert f"- All of the above are of {n} closed decisions that count alike" in text
    assert f"nothing {scorer.report.metrics['calibration_loss_none']:.5f}" in text
    assert "no measure beside the log loss above, for they are of the trees alone" in text
    assert "both by log loss of customers that had no part in them. With" in text
    timed = {**scorer.report.metrics, "validation_blocks": 2.0}
    by_time = replace(scorer, report=replace(scorer.report, metrics=timed))
    other = card.card(by_time, varied.examples, found, {})
    assert "both by log loss of decisions later than those that they rest on (2 blocks of time)." in other
    assert "nan" not in text
    assert "response rate" not in {cell.strip() for cell in text.split("|")}  # naive where a policy chose
    assert "response_rate" not in scorer.report.tables["effects"].column_names


def test_personalising_is_judged_net_of_costs(scorer, varied, catalog):
    value, cost = compare.worth(scorer, varied.examples, catalog)
    assert cost == {"sale_email": 0.02, "sale_sms": 0.1, "advice_email": 0.02, "advice_call": 2.0}
    np.testing.assert_allclose(list(value.values()), scorer.margin.predict(varied.examples).mean())


# recovery


def test_served_model_agrees_with_the_stack_where_effects_are_strong(found, varied):
    assert found.agreement > 0.7
    assert found.distance < 0.6 * varied.effect[:, 1:].std()
    average = found.averages.to_pandas().set_index("treatment")
    assert len(average) == 4
    truth = varied.effect.mean(axis=0)[1:]
    assert (
        np.abs(average.loc[sorted(average.index), "effect"].sum() - truth.sum()) < 4 * average.se.sum()
    ).all()
    assert found.gate.rule == "personalise"
    rows = {row["candidate"]: row for row in found.candidates.to_pylist()}
    assert rows["stack"]["gain_lower"] > 0 < rows["served"]["gain_lower"]
    assert rows["served"]["rate_lower"] > 0
