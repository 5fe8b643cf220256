import numpy as np
import pytest

from nba.features import table as features
from nba.models import wording
from nba.models.wording import Words


@pytest.fixture(scope="module")
def found(scorer, varied):
    rows = varied.examples.slice(0, 200)
    return wording.contributions(scorer, rows, rows["treatment_id"].to_pylist())


# by hand


def test_words_of_real_features():
    words = {f.name: Words(f.doc, f.unit) for f in features.FEATURES}
    assert wording.phrase("f_orders_28", 3.0, words) == "3 purchases in the last 28 days"
    assert wording.phrase("f_days_since_order", 12.0, words) == "12 days since the last purchase"
    assert wording.phrase("f_days_since_order", float("nan"), words) == "since the last purchase: unknown"
    assert wording.phrase("f_a_region_north", 1.0, words) == "a region north: 1"


def test_strongest_first_with_direction(found, scorer):
    said = wording.reasons(found, {"f_x2": Words("purchases in the last 28 days", "orders")}, top=2)
    assert len(said) == 200
    row = int(np.flatnonzero(np.abs(found.effect).sum(axis=1) > 0)[0])
    strongest = found.names[int(np.argmax(np.abs(found.effect[row])))]
    expected = "contact helps more" if found.effect[row, scorer.names.index(strongest)] > 0 else "helps less"
    assert expected in said[row][0]


def test_stability_by_hand(found):
    assert wording.stability([found, found]) == 1
    assert np.isnan(wording.stability([found]))


# laws


def test_contributions_add_up(found):
    assert found.gap < 1e-6
    assert found.response.shape == found.effect.shape == found.values.shape


def test_none_has_no_effect_to_explain(scorer, varied):
    rows = varied.examples.slice(0, 20)
    none = wording.contributions(scorer, rows, ["none"] * 20)
    assert not none.effect.any()
    assert all("contact" not in sentence for said in wording.reasons(none, {}) for sentence in said)


# recovery


def test_the_features_that_matter_are_the_reasons_and_depend_the_right_way(found):
    strength = np.abs(found.effect).mean(axis=0)
    assert {"f_x2", "f_x3"} < {found.names[j] for j in np.argsort(-strength)[:3]}
    table = wording.dependence(found, "f_x0", "response").to_pandas()
    assert np.corrcoef(table.value, table.contribution)[0, 1] > 0.8
    assert (table.lower <= table.contribution + 1e-9).all()


def test_reasons_of_resampled_customers_agree(varied, catalog, quick):
    found = wording.under_resampling(varied.examples, catalog, quick, 0, most=6000)
    assert set(found) == {"effect", "response"}
    assert all(0.55 < share <= 1 for share in found.values())  # 3 of 8 by chance: 0.375
    few = wording.under_resampling(varied.examples.slice(0, 60), catalog, quick, 0)
    assert np.isnan(list(few.values())).all()
