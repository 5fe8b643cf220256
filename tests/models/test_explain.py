from io import BytesIO

import numpy as np
import pyarrow.compute as pc
import pytest

from nba.models import explain


@pytest.fixture(scope="module")
def explanation(scorer, varied):
    return explain.explain(scorer, varied.examples.slice(0, 300))


# laws


def test_contributions_add_up_to_the_prediction(explanation):
    assert max(explanation.gap, explanation.effect_gap) < 1e-6
    assert explanation.response.shape == explanation.values.shape == (300, len(explanation.names))


def test_effect_contributions_are_centred(explanation):
    np.testing.assert_allclose(explanation.effect.mean(axis=0), 0, atol=1e-9)
    assert explanation.effect.shape[1] == len(explanation.effect_names)


def test_reasons_of_one_sum_to_its_served_effect(scorer, varied):
    treated = varied.examples.filter(pc.not_equal(varied.examples["treatment_id"], "none")).slice(0, 1)
    found = explain.reasons(scorer, treated)
    served = scorer.scores(treated)
    column = scorer.coding.columns(treated["treatment_id"].to_pylist())[0]
    assert found.uplift == pytest.approx(served.uplift[0, column], abs=1e-6)
    assert found.usual + found.effect.sum() + found.baseline == pytest.approx(found.uplift, abs=1e-9)
    assert np.abs(found.effect).max() > 0
    assert found.p_none == pytest.approx(served.p_response[0, 0], abs=1e-6)
    assert len(found.names) == len(found.response) == len(found.values)


def test_leaving_alone_has_no_effect_to_explain(scorer, varied):
    alone = varied.examples.filter(pc.equal(varied.examples["treatment_id"], "none")).slice(0, 1)
    found = explain.reasons(scorer, alone)
    assert found.uplift == found.usual == found.baseline == np.abs(found.effect).max() == 0
    assert np.abs(found.response).max() > 0


# recovery


def test_the_features_that_matter_come_first(explanation):
    table = explanation.table().to_pandas()
    response = table[table["model"] == "response"]["feature"].tolist()
    effect = table[table["model"] == "uplift"]["feature"].tolist()
    assert response[0] == "f_x0"
    assert {"f_x2", "f_x3"} < set(effect[:4])


def test_beeswarm_draws_without_a_display(explanation):
    out = BytesIO()
    explain.beeswarm(explanation, top=5).savefig(out, format="png")
    assert out.getvalue().startswith(b"\x89PNG")
    labels = explain.beeswarm(explanation, "uplift", top=5).axes[0].get_yticklabels()
    assert {"x2", "x3"} <= {label.get_text() for label in labels}
    figure = explain.dependence(explanation, top=4)
    assert len(figure.axes) == 2 * 4  # a second scale for the effect
    assert figure.axes[0].get_title() == "x0"
