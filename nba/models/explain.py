"""Which features move the models, and by how much: SHAP values of the served trees and of the effects."""

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba.models import inputs, parts
from nba.models.scorer import Scorer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

MAX_ROWS = 2_000
OWN_CHANCE = "log-odds without contact"
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Explanation:
    """How much each input moves the predictions of n rows.

    Attributes:
        names: Inputs of the response trees: m features and codes.
        values: Inputs, shape (n, m).
        response: SHAP values of the response, in log-odds, shape (n, m).
        effect_names: Inputs of the effects: p features and the log-odds without contact.
        effect: Contributions to the served effect, in chance of a response, less their mean over the rows,
            shape (n, p + 1).
        effect_values: Inputs of the effects, shape (n, p + 1).
        gap: Largest |sum of SHAP values + base − prediction| of the response, in log-odds.
        effect_gap: The same of the served effect, in chance of a response.
    """

    names: tuple[str, ...]
    values: Array
    response: Array
    effect_names: tuple[str, ...]
    effect: Array
    effect_values: Array
    gap: float
    effect_gap: float

    def table(self) -> pa.Table:
        """Give mean absolute contributions; columns model (response, uplift), feature, importance."""
        told = (("response", self.names, self.response), ("uplift", self.effect_names, self.effect))
        rows = [
            (model, name, float(size))
            for model, names, values in told
            for name, size in zip(names, np.abs(values).mean(axis=0))
        ]
        rows.sort(key=lambda row: (row[0], -row[2], row[1]))
        return pa.table(dict(zip(("model", "feature", "importance"), zip(*rows))))


def explain(scorer: Scorer, examples: pa.Table) -> Explanation:
    """Explain the response under each row's own treatment, and the served effect of it.

    The response's trees are explained by TreeSHAP (Lundberg et al. 2020), the effect as served, all that it
    blends with its weights, by `nba.models.parts`. Rows of `none` show the effects of the treatments in
    turn.

    Args:
        scorer: The served model.
        examples: At most `MAX_ROWS` rows with treatment_id and f_*.

    Raises:
        ArithmeticError: when contributions do not add up to the predictions.
    """
    rows = examples.slice(0, MAX_ROWS)
    X = inputs.matrix(rows, scorer.names)
    codes = scorer.coding.codes()
    column = np.maximum(scorer.coding.columns(rows["treatment_id"].to_pylist()), 0)
    full = np.hstack([X, codes[column]])
    values, gap = _of_response(scorer, full)
    in_turn = 1 + np.arange(len(X)) % (len(codes) - 1)
    found = parts.split(scorer, X, np.where(column > 0, column, in_turn))
    effect = np.column_stack([found.features, found.baseline])
    effect -= effect.mean(axis=0)
    names = (*scorer.names, *scorer.coding.names)
    effect_names = (*scorer.names, OWN_CHANCE)
    shown = np.column_stack([X, found.log_odds])
    return Explanation(names, full, values, effect_names, effect, shown, gap, found.gap)


@dataclass(frozen=True)
class Reasons:
    """What moved the scores of one customer under one treatment.

    Attributes:
        names: The p features.
        values: Their values, shape (p,).
        response: SHAP values of the response under the treatment, in log-odds, shape (p,); what the treatment
            itself adds is left out.
        p_none: Chance of a response without contact.
        uplift: The served effect, in chance of a response; 0 without a treatment that the model knows.
        usual: The effect of the treatment on the mean customer.
        effect: What each feature adds to `usual`, in chance of a response, shape (p,).
        baseline: What the chance without contact adds: `usual`, `effect` and this sum to `uplift`.
    """

    names: tuple[str, ...]
    values: Array
    response: Array
    p_none: float
    uplift: float
    usual: float
    effect: Array
    baseline: float


def reasons(scorer: Scorer, example: pa.Table) -> Reasons:
    """Explain the effect of one customer's treatment as served, and the response under it.

    Args:
        scorer: The model that decided.
        example: One row with treatment_id and f_*.

    Raises:
        ArithmeticError: when contributions do not add up to the predictions.
    """
    X = inputs.matrix(example.slice(0, 1), scorer.names)
    column = np.maximum(scorer.coding.columns(example["treatment_id"].to_pylist()[:1]), 0)
    codes = scorer.coding.codes()
    values, _ = _of_response(scorer, np.hstack([X, codes[column]]))
    found = parts.split(scorer, X, column)
    return Reasons(
        scorer.names,
        X[0],
        values[0, : X.shape[1]],
        float(scorer.response.predict(X, codes)[0, 0]),
        float(found.features.sum() + found.baseline[0] + found.rest[0]),
        float(found.rest[0]),
        found.features[0],
        float(found.baseline[0]),
    )


def _of_response(scorer: Scorer, full: Array) -> tuple[Array, float]:
    # SHAP values of the response's trees, and how far their sums are from the predictions.
    with warnings.catch_warnings():
        # Raised by matplotlib where shap makes its colour maps.
        warnings.filterwarnings("ignore", message="The set_(bad|over|under) function")
        import shap

    booster = scorer.response.booster
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="LightGBM binary classifier with TreeExplainer")
        explainer = shap.TreeExplainer(booster)
        values = np.asarray(explainer.shap_values(full))
    total = values.sum(axis=1) + float(np.ravel(explainer.expected_value)[-1])
    gap = float(np.abs(total - booster.predict(full, raw_score=True)).max())
    if gap > _TOLERANCE:
        raise ArithmeticError(f"SHAP values miss the predictions by {gap}; expected {_TOLERANCE} or less")
    return values, gap


def beeswarm(explanation: Explanation, model: str = "response", top: int = 15) -> "Figure":
    """Draw the SHAP values of the response or the uplift, one point per row, features by importance.

    The colour is the rank of the feature's value within its column; the figure needs no display.
    """
    inputs_of = {
        "response": (explanation.response, explanation.values, explanation.names, "log-odds of a response"),
        "uplift": (
            explanation.effect, explanation.effect_values, explanation.effect_names,
            "effect of contact, in chance of a response",
        ),
    }  # fmt: skip
    contribution, shown, labels, unit = inputs_of[model]
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    order = np.argsort(-np.abs(contribution).mean(axis=0), kind="stable")[:top][::-1]
    names = [labels[j].removeprefix("f_") for j in order]
    height = 0.35 * len(order) + 1.2
    figure = Figure(figsize=(8, height))
    FigureCanvasAgg(figure)
    # Margins by hand, in inches: matplotlib's layout engines draw everything twice, at every training.
    left = min(0.2 + 0.085 * max(map(len, names)), 5.0)
    axes = figure.add_axes((left / 8, 0.6 / height, (7.8 - left) / 8, (height - 0.7) / height))
    for place, j in enumerate(order):
        points = contribution[:, j]
        known = np.nan_to_num(shown[:, j], nan=-np.inf)
        rank = np.argsort(np.argsort(known, kind="stable"), kind="stable") / max(len(points) - 1, 1)
        axes.scatter(points, place + _jitter(points), c=rank, cmap="coolwarm", s=4, linewidths=0)
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.set_yticks(range(len(order)), names)
    axes.set_xlabel(f"Contribution to the {unit} (blue: low value, red: high)")
    return figure


def dependence(explanation: Explanation, top: int = 6) -> "Figure":
    """Draw how contributions depend on values: response and effect of the strongest features.

    One panel per feature, known values only; dark points are the response's (left scale, log-odds), light
    ones the effect's (right scale, percentage points); both scales have their zero in the middle.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    p = len(explanation.effect_names) - 1
    strength = np.abs(explanation.response[:, :p]).mean(axis=0)
    order = np.argsort(-strength, kind="stable")[:top]
    height = 2.4 * ((len(order) + 2) // 3)
    figure = Figure(figsize=(9, height))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(
        left=0.06, right=0.94, bottom=0.3 / height, top=1 - 0.3 / height, wspace=0.45, hspace=0.3
    )
    for place, j in enumerate(order, start=1):
        axes = figure.add_subplot((len(order) + 2) // 3, 3, place)
        known = np.isfinite(explanation.values[:, j])
        value = explanation.values[known, j]
        right = axes.twinx()
        effect = 100 * explanation.effect[known, j]
        right.scatter(value, effect, s=4, color="#9ecae1", linewidths=0)
        for side, points in ((axes, explanation.response[known, j]), (right, effect)):
            most = 1.1 * max(float(np.abs(points).max(initial=0.0)), 1e-9)
            side.set_ylim(-most, most)
        right.tick_params(labelsize=7, labelcolor="#6baed6")
        axes.set_zorder(1)
        axes.patch.set_visible(False)
        axes.scatter(value, explanation.response[known, j], s=4, color="#08519c", linewidths=0)
        axes.axhline(0, color="0.6", linewidth=0.8)
        axes.set_title(explanation.names[j].removeprefix("f_"), fontsize=8)
        axes.tick_params(labelsize=7)
    return figure


def _jitter(points: Array) -> Array:
    # Spread by density, alternating sides, so that equal inputs give equal figures.
    bins = np.clip(((points - points.min()) / max(np.ptp(points), 1e-12) * 40).astype(int), 0, 39)
    seen = np.zeros(40, dtype=int)
    out = np.empty(len(points))
    for i, b in enumerate(bins):
        seen[b] += 1
        out[i] = (seen[b] // 2) * (1 if seen[b] % 2 else -1)
    return 0.4 * out / max(float(np.abs(out).max()), 1.0)
