from dataclasses import replace

import numpy as np
import pytest

from nba.models import calibration, inputs, parts


@pytest.fixture(scope="module")
def rows(scorer, varied):
    some = varied.examples.slice(0, 150)
    return inputs.matrix(some, scorer.names), scorer.coding.columns(some["treatment_id"].to_pylist())


def weighted(scorer, *weights):
    return replace(scorer, effect=replace(scorer.effect, weights=np.array(weights)))


# by hand


def test_one_input_has_the_whole_difference():
    out = parts.through(np.array([[-1.0, 2.0, 0.0], [-1.0, 1e-9, 0.0]]))
    start = 1 / (1 + np.e)
    np.testing.assert_allclose(out[0], [start, 1 - 2 * start, 0])
    np.testing.assert_allclose(out[1], [start, 1e-9 * start * (1 - start), 0])


def test_without_weights_every_effect_is_the_constant(scorer, rows):
    X, column = rows
    found = parts.split(weighted(scorer, 0, 0, 0, 0), X, column)
    constant = scorer.effect.constant.effect(np.ones((1, 1)), scorer.coding)[0][0]
    np.testing.assert_allclose(found.rest, np.append(0, constant)[column])
    assert not found.features.any()
    assert not found.baseline.any()


# laws


@pytest.mark.parametrize(
    "weights", [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0.1, 0.3, 0.4, 0.2)]
)
def test_parts_sum_to_what_is_served(scorer, varied, rows, weights):
    model = weighted(scorer, *map(float, weights))
    found = parts.split(model, *rows)
    served = model.scores(varied.examples.slice(0, 150)).uplift[np.arange(150), rows[1]]
    np.testing.assert_allclose(found.features.sum(axis=1) + found.baseline + found.rest, served, atol=1e-9)
    assert not found.features[rows[1] == 0].any()


def test_parts_sum_to_what_is_served_through_a_curve(scorer, rows):
    score = np.random.default_rng(0).normal(-2, 1, 500)
    curve = calibration.fitted("isotonic", score, (np.arange(500) % 9 == 0).astype(float))
    curved = replace(scorer, response=replace(scorer.response, kind="isotonic", calibrator=curve))
    assert parts.split(weighted(curved, 0.1, 0.3, 0.4, 0.2), *rows).gap < 1e-9


def test_models_that_do_not_add_up_are_refused(scorer, rows, monkeypatch):
    monkeypatch.setattr(parts, "through", lambda logits, way=None: 1.1 * logits)
    with pytest.raises(ArithmeticError, match="miss the served effect"):
        parts.split(weighted(scorer, 0.0, 1.0, 0.0, 0.0), *rows)


# recovery


@pytest.mark.parametrize("weights", [(0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)])
def test_each_candidate_finds_what_moves_the_effect(scorer, varied, weights):
    # x2 moves the effects of the sale, x3 those of the advice; x4 and x5 move nothing.
    some = varied.examples.slice(0, 300)
    X, column = inputs.matrix(some, scorer.names), np.tile([1, 2, 3, 4], 75)
    size = np.abs(parts.split(weighted(scorer, *map(float, weights)), X, column).features)
    sale = column < 3
    x2, x3, x4, x5 = (scorer.names.index(f"f_x{j}") for j in (2, 3, 4, 5))
    nothing = size[:, [x4, x5]].mean(axis=0).max()
    assert size[sale, x2].mean() > 2 * nothing
    assert size[~sale, x3].mean() > 2 * nothing
