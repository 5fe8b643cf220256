import json
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from nba import metrics
from nba.catalog import Action, Catalog, Treatment
from nba.errors import DataError, MissingError
from nba.models import calibration, card, compare, immature, margin, report
from nba.models import scorer as module
from nba.models.inputs import Coding
from nba.models.scorer import Scorer

# by hand


def test_thinning_keeps_treated_rows_and_total_weight():
    column = np.array([0] * 900 + [1] * 90 + [-1] * 10)
    kept = module.thin(column, np.random.default_rng(0), cap=200)
    assert (column[kept.rows] == 1).sum() == 90
    assert len(kept.rows) == 200
    assert kept.weight.sum() == pytest.approx(990)
    everything = module.thin(column, np.random.default_rng(0))
    assert len(everything.rows) == 990
    assert (everything.weight == 1).all()


def test_pairing_keeps_the_treated_and_follows_their_shares():
    column = np.array([0] * 5000 + [1] * 300 + [3] * 100)
    paired = module.pair(column, 3, np.random.default_rng(0))
    assert (paired[5000:] == column[5000:]).all()
    assert np.mean(paired[:5000] == 1) == pytest.approx(0.75, abs=3 * np.sqrt(0.75 * 0.25 / 5000))
    assert not (paired == 2).any()
    assert set(module.pair(np.zeros(100, int), 3, np.random.default_rng(0))) == {1, 2, 3}


def test_half_life_halves(varied):
    weight = module.age_weight(varied.examples.slice(0, 3), half_life_days=7)
    np.testing.assert_allclose(weight, [0.25, 0.5, 1])
    assert (module.age_weight(varied.examples.slice(0, 3), None) == 1).all()


def test_margin_is_shrunk_by_the_number_of_orders():
    rows = pa.table({"f_margin_per_order": [10.0, np.nan, 40.0], "f_orders_total": [3.0, 0.0, 97.0]})
    np.testing.assert_allclose(margin.shrunk(rows, 20.0), [15.0, 20.0, (97 * 40 + 60) / 100])


def test_margin_of_a_response_is_learnt_from_rewards(scorer, varied):
    # a response earns 30 where an order earns 15; the guard of 20 responses hardly shows
    assert scorer.margin.population == pytest.approx(15)
    assert scorer.scores(varied.examples.slice(0, 3)).margin_per_response == pytest.approx(30, rel=0.02)


def test_capacities_of_one_fit_are_those_of_their_own_fits(varied, catalog, quick):
    early, new = varied.examples.slice(0, 14000), varied.examples.slice(14000, 200)
    asked = quick.model_copy(update={"trees": 5, "folds": 2})
    every = Scorer.by_capacity(early, catalog, asked, 0)
    assert set(every) == {"constant", "linear", "trees", "blend"}
    for capacity in ("linear", "trees"):
        own = Scorer.fit(early, catalog, asked.model_copy(update={"capacity": capacity}), 0)
        found, expected = every[capacity].scores(new, catalog), own.scores(new, catalog)
        np.testing.assert_array_equal(found.uplift, expected.uplift)
        np.testing.assert_array_equal(found.uplift_se, expected.uplift_se)
        assert not (found.uplift == every["blend"].scores(new, catalog).uplift).all()
    # The weights come from the data, shrunk to a prior: a single candidate does not count in full.
    assert 0 < every["trees"].effect.weights[2] != 1


# laws


def test_shapes_and_the_column_of_none(scorer, varied, catalog):
    found = scorer.scores(varied.examples.slice(0, 50), catalog)
    for matrix in (found.p_response, found.uplift, found.uplift_se):
        assert matrix.shape == (50, 5)
    assert (found.uplift[:, 0] == 0).all()
    assert (found.uplift_se[:, 0] == 0).all()
    assert (found.uplift_se[:, 1:] > 0).all()
    assert ((found.p_response > 0) & (found.p_response < 1)).all()


def test_scores_do_not_depend_on_the_other_customers(scorer, varied):
    both = scorer.scores(varied.examples.slice(0, 40)).uplift
    np.testing.assert_array_equal(scorer.scores(varied.examples.slice(10, 5)).uplift, both[10:15])


def test_same_rows_and_seed_give_the_same_model(varied, catalog, quick):
    few = varied.examples.slice(0, 3000)
    first, second, third = (Scorer.fit(few, catalog, quick, seed).model_id for seed in (0, 0, 1))
    assert first == second != third


def test_saved_and_loaded_is_the_same(scorer, varied, tmp_path):
    scorer.save(tmp_path / "model")
    loaded = Scorer.load(tmp_path / "model")
    assert loaded.model_id == scorer.model_id
    rows = varied.examples.slice(0, 100)
    for name in ("p_response", "uplift", "uplift_se", "margin_per_response"):
        np.testing.assert_array_equal(getattr(loaded.scores(rows), name), getattr(scorer.scores(rows), name))
    assert loaded.report.metrics == pytest.approx(scorer.report.metrics, nan_ok=True)
    assert {k: t.column_names for k, t in loaded.report.tables.items()} == {
        k: t.column_names for k, t in scorer.report.tables.items()
    }


def test_a_later_catalog_gives_the_columns_and_new_treatments_are_uncertain(scorer, varied, catalog):
    later = Catalog(
        (*catalog.actions, Action("club", "sales", "all", "club", margin=1.0)),
        (
            Treatment("club_push", "club", "push", 0.0),
            *catalog.treatments[::-1],
            Treatment("advice_sms", "advice", "sms", 0.1),
        ),
    )
    rows = varied.examples.slice(0, 100)
    old, new = scorer.scores(rows, catalog), scorer.scores(rows, later)
    for j, name in enumerate(later.treatment_ids[2:6], start=2):
        i = catalog.treatment_ids.index(name)
        np.testing.assert_allclose(new.uplift[:, j], old.uplift[:, i])
    assert new.uplift_se[:, 1].mean() > new.uplift_se[:, 6].mean() > old.uplift_se[:, 1:].mean()


def test_features_by_name_missing_ones_are_unknown(scorer, varied):
    rows = varied.examples.slice(0, 20)
    names = rows.column_names[::-1]
    np.testing.assert_array_equal(
        scorer.scores(rows.select(names).append_column("f_new", [np.zeros(20)])).uplift,
        scorer.scores(rows).uplift,
    )
    assert np.isfinite(scorer.scores(rows.drop_columns(["f_x0"])).uplift).all()


def test_wide_has_three_columns_per_treatment(scorer, varied):
    wide = scorer.wide(varied.examples.slice(0, 4))
    assert wide.num_columns == 3 * 5 + 1
    assert wide["uplift:none"].to_pylist() == [0.0] * 4


def test_too_little_to_learn_from_is_one_clear_error(varied, catalog, quick):
    with pytest.raises(DataError, match=r"50 examples; expected 100(.|\n)*responses; expected 5"):
        Scorer.fit(
            varied.examples.slice(0, 50).set_column(5, "is_response", [[False] * 50]), catalog, quick, 0
        )
    with pytest.raises(DataError, match="is_response: 2 of 200 values are missing"):
        Scorer.fit(
            varied.examples.slice(0, 200).set_column(5, "is_response", [[None, True] * 2 + [False] * 196]),
            catalog, quick, 0,
        )  # fmt: skip


def test_validation_by_time_is_by_configuration(scorer, varied, catalog, quick):
    asked = quick.model_copy(update={"validation": "time", "validation_gap_days": 7})
    found = Scorer.fit(varied.examples, catalog, asked, 0)
    assert found.report.metrics["validation_blocks"] == 2  # of three weeks
    assert "validation_blocks" not in scorer.report.metrics
    assert found.model_id != scorer.model_id
    assert found.report.metrics["log_loss"] < found.report.metrics["log_loss_constant"]
    assert found.report.metrics["calibration_slope"] == pytest.approx(1, abs=0.15)
    # With nothing closed before any block, other customers judge, as without it.
    open_then = asked.model_copy(update={"validation_gap_days": 99})
    assert Scorer.fit(varied.examples, catalog, open_then, 0).model_id == scorer.model_id
    unsaid = asked.model_copy(update={"validation_gap_days": None})
    with pytest.raises(DataError, match="without validation_gap_days; expected days, the reward window"):
        Scorer.fit(varied.examples, catalog, unsaid, 0)


def test_without_a_control_effects_are_not_made_up(varied, catalog, quick):
    treated = varied.examples.filter(pc.not_equal(varied.examples["treatment_id"], "none"))
    n = treated.num_rows
    with pytest.raises(DataError, match=rf"0 of {n} examples are without contact \(treatment 'none'\)"):
        Scorer.fit(treated, catalog, quick, 0)


@pytest.fixture(scope="module")
def odd(varied, catalog, quick):
    """Fitted without any e-mail of the sale, with columns that say nothing, and one sign given."""
    rows = varied.examples.slice(0, 4000)
    rows = rows.filter(pc.not_equal(rows["treatment_id"], "sale_email"))
    endless = np.where(np.arange(rows.num_rows) % 7 == 0, np.inf, 1.0)
    unknown = pa.nulls(rows.num_rows, pa.float64())
    for name, column in (("f_same", np.ones(rows.num_rows)), ("f_endless", endless), ("f_unknown", unknown)):
        rows = rows.append_column(name, [column])
    asked = quick.model_copy(update={"monotone": {"f_x0": -1}})
    return Scorer.fit(rows, catalog, asked, seed=0), rows


def test_columns_that_say_nothing_and_a_treatment_that_nobody_got_yet(odd):
    scorer, rows = odd
    found = scorer.scores(rows.slice(0, 500))
    for part in (found.p_response, found.uplift, found.uplift_se):
        assert np.isfinite(part).all()
    none, new, *others = found.p_response.mean(axis=0)
    assert none < new < max(others)
    assert found.uplift_se[:, 1].mean() > found.uplift_se[:, 3].mean()


def test_a_sign_that_is_asked_for_is_kept_against_the_data(odd, catalog, quick):
    # In truth the chance rises with f_x0.
    scorer, rows = odd
    line = pa.concat_tables([rows.slice(0, 1)] * 9)
    line = line.set_column(line.column_names.index("f_x0"), "f_x0", [np.linspace(-2, 2, 9)])
    p = scorer.scores(line).p_response
    assert (np.diff(p, axis=0) <= 1e-12).all()
    unheard = quick.model_copy(update={"monotone": {"f_unheard": 1}})
    with pytest.raises(DataError, match=r"names \['f_unheard'\]; the examples have no such feature"):
        Scorer.fit(rows, catalog, unheard, seed=0)


def test_two_thousand_features_are_refused_before_they_fill_the_memory(varied, catalog, quick):
    rows = varied.examples.slice(0, 400)
    nothing = pa.nulls(400, pa.float64())
    wide = pa.table({**{n: rows[n] for n in rows.column_names}, **{f"f_{j}": nothing for j in range(2000)}})
    with pytest.raises(DataError, match="2,008 features, 2 actions and 3 channels make 14,074 coefficients"):
        Scorer.fit(wide, catalog, quick, 0)


def test_every_calibration_is_saved_and_a_line_of_before_is_read(scorer, varied, tmp_path):
    some = varied.examples.slice(0, 50)
    rng = np.random.default_rng(0)
    score = rng.normal(size=500)
    for kind in ("none", "platt", "isotonic"):
        way = calibration.fitted(kind, score, (score + rng.normal(size=500) > 0).astype(float))
        one = replace(scorer, response=replace(scorer.response, kind=kind, calibrator=way))
        one.save(tmp_path / kind)
        again = Scorer.load(tmp_path / kind)
        assert (again.response.kind, again.model_id) == (kind, one.model_id)
        np.testing.assert_array_equal(again.scores(some).p_response, one.scores(some).p_response)
    meta = json.loads((tmp_path / "platt" / "scorer.json").read_text())
    line = [meta["calibration"]["intercept"], meta["calibration"]["slope"]]
    (tmp_path / "none" / "scorer.json").write_text(json.dumps(meta | {"calibration": line}))
    old, new = Scorer.load(tmp_path / "none"), Scorer.load(tmp_path / "platt")
    np.testing.assert_array_equal(old.scores(some).p_response, new.scores(some).p_response)


def test_a_folder_without_model_or_of_another_format(scorer, tmp_path):
    with pytest.raises(MissingError, match="expected a saved scorer"):
        Scorer.load(tmp_path)
    scorer.save(tmp_path)
    meta = json.loads((tmp_path / "scorer.json").read_text())
    (tmp_path / "scorer.json").write_text(json.dumps(meta | {"format": 0}))
    with pytest.raises(DataError, match="format 0; expected"):
        Scorer.load(tmp_path)


def test_report_tables_have_the_columns_of_the_figures(scorer):
    expected = {
        "calibration": ["bin", "n", "predicted", "observed"],
        "qini": ["share", "qini", "random"],
        "importance": ["feature", "importance"],
        "uplift_deciles": ["decile", "n", "predicted", "observed", "lower", "upper"],
    }
    assert {name: scorer.report.tables[name].column_names for name in expected} == expected


def test_the_card_says_how_errors_were_widened(scorer, varied):
    widening = scorer.report.metrics["se_widening"]
    assert 1 <= widening < 4
    said = f"effects were multiplied by {widening:.2f} (jackknife over customers)\n"
    alone = compare.unfitted(scorer, varied.examples)
    assert said in card.card(scorer, varied.examples, alone, {})
    most = replace(
        scorer, report=replace(scorer.report, metrics=scorer.report.metrics | {"se_widening": 4.0})
    )
    assert "multiplied by 4.00 (jackknife over customers): the most there is" in card.card(
        most, varied.examples, alone, {}
    )


def test_the_card_names_where_what_is_served_lies_outside_of_the_interval():
    row = {"treatment_id": "mail", "lower": -0.01, "upper": 0.02, "predicted": 0.02}
    unknown = row | {"treatment_id": "sms", "lower": np.nan, "upper": np.nan}
    assert card._leaning([row, unknown]) == []
    _, told = card._leaning([row, unknown, row | {"treatment_id": "call", "predicted": 0.021}])
    assert "outside of the 95% interval for 1 of 2 treatments (by chance for one in twenty): call." in told


def test_what_the_baseline_misses_is_no_effect():
    rng = np.random.default_rng(0)
    column, predicted = rng.integers(0, 3, 600), np.repeat([0.1, 0.3], 300)
    # The baseline is 0.2 too low for those of little effect, and right for the others.
    residual = np.where(column > 0, predicted, 0.0) + np.repeat([0.2, 0.0], 300) + rng.normal(0, 0.01, 600)
    learnt = SimpleNamespace(effect=predicted, residual=residual)
    customer = np.arange(600) // 2
    told = report.deciles(column, learnt, customer).to_pandas()
    np.testing.assert_allclose(told["observed"], told["predicted"], atol=0.02)
    assert ((told["lower"] < told["predicted"] + 0.01) & (told["predicted"] - 0.01 < told["upper"])).all()
    coding = Coding(("a_e", "a_s"), ("a", "a"), ("e", "s"))
    found = report.effects(coding, column, learnt, customer).to_pandas()
    np.testing.assert_allclose(found["effect"], found["predicted"], atol=0.05)


def test_a_sample_stands_for_what_it_was_drawn_from():
    rng = np.random.default_rng(0)
    y = np.repeat([1.0, 0.0], 6000)  # of the second half every fourth was kept
    served = np.where(y > 0, 0.6, 0.4)
    crossed = SimpleNamespace(p_served=served)
    closed, sampled = np.ones(12_000, dtype=bool), np.repeat([1.0, 4.0], 6000)
    logged = report.Logged(np.arange(12_000), served, np.zeros(12_000, dtype=int), closed, sampled)
    found, tables = report._chances(y, crossed, logged, rng)
    assert found["base_rate"] == pytest.approx(0.2, abs=3 * np.sqrt(0.2 * 0.8 / 7500))
    assert sum(tables["calibration"]["n"].to_pylist()) == found["n"]


def test_open_decisions_are_read_but_judge_nothing(varied, catalog, quick):
    closed, waiting = varied.examples.slice(0, 6000), varied.examples.slice(6000, 3000)
    shares = immature.Completeness(np.array([0.0, 14.0]), np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    rng = np.random.default_rng(0)
    seen = waiting["is_response"].to_numpy() & (rng.random(3000) < 0.5)
    at = waiting.schema.get_field_index("is_response")
    waiting = waiting.set_column(at, "is_response", pa.array(seen))
    waiting = immature.expected(waiting, np.full(3000, 7.0), shares, np.full(3000, 0.2))
    rows = pa.concat_tables([closed, waiting], promote_options="permissive")
    found = Scorer.fit(rows, catalog, quick, 0)
    measured, y = found.report.metrics, closed["is_response"].to_numpy()
    assert (measured["n"], measured["base_rate"]) == (6000, pytest.approx(y.mean()))
    cost = catalog.cost[Coding.of(catalog).columns(closed["treatment_id"].to_pylist())]
    assert found.margin.population == margin.fit_margin(closed, cost).population
    assert abs(measured["calibration_slope"] - 1) < 0.3
    contacts = 6000 - closed["treatment_id"].to_pylist().count("none")
    assert sum(found.report.tables["effects"]["n"].to_pylist()) == contacts
    text = card.card(found, rows, compare.unfitted(found, rows), {})
    assert "- 6,000 decisions with closed outcomes and 3,000 whose window is open, completed" in text


# recovery


def picked(seed, n=12_000):
    # A policy picked by the baseline, which is of steps and waves, and contact changes nothing.
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4))
    shape = (x[:, 0] * x[:, 1] > 0.3) + np.sin(2 * x[:, 2])
    p = np.exp(np.column_stack([np.zeros(n), 0.7 * shape - 0.3, -0.7 * shape - 0.3]))
    p /= p.sum(axis=1, keepdims=True)
    column = (rng.random(n)[:, None] > np.cumsum(p, axis=1)).sum(axis=1)
    data = {
        "customer_id": [f"c{i}" for i in range(n)],
        "as_of": pa.array([datetime(2026, 1, 5, tzinfo=UTC)] * n, pa.timestamp("us", tz="UTC")),
        "treatment_id": np.array(["none", "offer_email", "offer_sms"])[column],
        "p_action": p[np.arange(n), column],
        "is_response": rng.random(n) < 1 / (1 + np.exp(2.2 - 1.1 * shape)),
        "reward": np.zeros(n),
        **{f"f_x{j}": x[:, j] for j in range(4)},
    }
    return pa.table(data)


def test_what_a_policy_picked_by_is_no_effect(quick):
    offers = tuple(Treatment(f"offer_{channel}", "offer", channel, 0.1) for channel in ("email", "sms"))
    shop = Catalog((Action("offer", "sales", "all", "Offer", margin=10.0),), offers)
    log = picked(1)
    found = Scorer.fit(log, shop, quick, 1).report
    effects = found.tables["effects"].to_pandas()
    assert (effects["effect"].abs() < 3 * effects["se"]).all()
    told = found.tables["uplift_deciles"].to_pandas()
    assert ((told["lower"] < 0) & (told["upper"] > 0)).sum() >= 8
    assert found.metrics["qini_lower"] < 0.02
    assert found.metrics["p_action_known"] == 1
    assert found.metrics["compared_effective"] < 0.9 * found.metrics["compared_n"]
    # Without the chances the same rows show an effect that is not there.
    # Effects as served are not weighed: the card names where they lean too far to be chance.
    lean = effects.loc[~effects["predicted"].between(effects["lower"], effects["upper"]), "treatment_id"]
    said = f"outside of the 95% interval for {len(lean)} of 2 treatments"
    assert card._leaning(found.tables["effects"].to_pylist())[1].startswith(f"What is served lies {said}")
    blind = Scorer.fit(log.drop_columns(["p_action"]), shop, quick, 1).report
    assert blind.metrics["p_action_known"] == 0
    false = blind.tables["effects"].to_pandas()
    assert (false["effect"].abs() > 3 * false["se"]).any()


def test_average_effects_within_three_standard_errors(scorer, varied):
    effects = scorer.report.tables["effects"].to_pandas()
    truth = varied.effect.mean(axis=0)[1:]
    assert (np.abs(effects["effect"] - truth) < 3 * effects["se"]).all()
    assert (np.abs(scorer.scores(varied.examples).uplift.mean(axis=0)[1:] - truth) < 3 * effects["se"]).all()


def test_ranks_effects_better_than_the_response_does(scorer, draw):
    fresh = draw(6000, seed=99)
    found = scorer.scores(fresh.examples)
    by_uplift = np.mean([np.corrcoef(found.uplift[:, j], fresh.effect[:, j])[0, 1] for j in range(1, 5)])
    by_response = np.mean(
        [np.corrcoef(found.p_response[:, j], fresh.effect[:, j])[0, 1] for j in range(1, 5)]
    )
    assert by_uplift > 0.8 > by_response
    error = np.sqrt(np.mean((found.uplift - fresh.effect)[:, 1:] ** 2))
    spread = np.sqrt(np.mean((fresh.effect - fresh.effect.mean(axis=0))[:, 1:] ** 2))
    assert error < 0.6 * spread
    assert scorer.report.metrics["qini_lower"] > 0


def test_standard_errors_are_of_the_size_of_the_errors(scorer, draw):
    fresh = draw(4000, seed=98)
    found = scorer.scores(fresh.examples)
    z = ((found.uplift - fresh.effect) / np.where(found.uplift_se > 0, found.uplift_se, np.inf))[:, 1:]
    assert 0.5 < np.sqrt(np.mean(z**2)) < 2.0


def test_no_effect_gives_tiny_and_nearly_constant_uplift(draw, catalog, quick):
    spreads = []
    for seed in range(4):
        log = draw(12_000, seed=seed, kind="none")
        found = Scorer.fit(log.examples, catalog, quick, seed)
        uplift = found.scores(log.examples).uplift[:, 1:]
        # 1,500 customers per treatment at a base rate of 0.09: a mean is known to 0.0075
        assert np.abs(uplift.mean(axis=0)).max() < 3 * 0.0075
        spreads.append(uplift.std(axis=0).max())
    # what looks like heterogeneity by chance is let through in part; it is small beside the base rate 0.09
    assert np.median(spreads) < 0.005
    assert max(spreads) < 0.02


def test_constant_odds_are_not_taken_for_heterogeneity(draw, catalog, quick):
    log = draw(12_000, seed=5, kind="constant")
    uplift = Scorer.fit(log.examples, catalog, quick, 0).scores(log.examples).uplift
    error = np.sqrt(np.mean((uplift - log.effect)[:, 1:] ** 2))
    assert error < 0.03
    assert metrics.gini((log.effect[:, 4] > np.median(log.effect[:, 4])).astype(float), uplift[:, 4]) > 0.3
