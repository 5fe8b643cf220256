"""The model card: what a model was made of, how good it is, and where it must not be trusted."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nba.models import immature, jackknife
from nba.models.compare import Comparison
from nba.models.scorer import Scorer
from nba.models.snapshots import Snapshots

_MEASURES = {
    "auc": "AUC (chance that a response ranks above a non-response)",
    "pr_auc": "PR-AUC (average precision; the base rate is chance)",
    "log_loss": "log loss, nats per decision, of the chances as served",
    "log_loss_constant": "log loss of the base rate, of the same decisions",
    "ece": "calibration error (ECE, 10 bins of equal size)",
    "ece_of_noise": "calibration error that a perfect model would have by chance",
    "calibration_slope": "calibration slope (1 is calibrated)",
}

_KINDS = {"none": "nothing", "platt": "Platt's line", "isotonic": "isotonic regression"}

_CANDIDATES = {
    "none": "no effect",
    "constant": "one effect per treatment",
    "hierarchy": "Bayesian log-odds shared over actions and channels",
    "x_trees": "X-learner",
    "t_trees": "difference of outcome models",
    "dr_trees, dr_ridge": "regressions of doubly robust scores",
    "response": "the same relative lift for all",
    "stack": "their weighted mean, which the gate judges",
    "served": "the served kind of model",
}


def card(
    scorer: Scorer,
    examples: pa.Table,
    comparison: Comparison,
    params: Mapping[str, Any],
    limits: Sequence[str] = (),
) -> str:
    """Write the card as Markdown.

    Args:
        scorer: The served model with its report.
        examples: What it was fitted on.
        comparison: With the stack; `compare.unfitted` where there is none.
        params: Settings of the training.
        limits: More sentences for the section on limits.
    """
    measured = scorer.report.metrics
    first, last = (pc.min_max(examples["as_of"]).as_py()[k] for k in ("min", "max"))
    qini = [measured.get(name, float("nan")) for name in ("qini", "qini_lower", "qini_upper")]
    lines = [
        f"# Model {scorer.model_id}",
        "Chance of a response and the change of it by contact, for every treatment at once.",
        "## Data",
        f"- {_decisions(examples)}, {first:%Y-%m-%d} to {last:%Y-%m-%d}",
        f"- {len(scorer.names)} features, {len(scorer.coding.treatment_ids)} treatments;"
        f" response rate {measured.get('base_rate', float('nan')):.4f}",
        f"- {_weighed(measured)}",
        "",
        "Average effects on the chance of a response, against no contact (0.01 is a point); as served: the"
        " model's own mean on the same decisions, their customers unseen.",
        "",
        *_head("treatment", "examples", "effect", "95% interval", "as served"),
        *(_effect(row) for row in scorer.report.tables["effects"].to_pylist()),
        *_leaning(scorer.report.tables["effects"].to_pylist()),
        "## Measures, on customers that the model had not seen",
        *_measures(measured),
        *_judged_on(measured),
        *_calibrated(scorer, params),
        *_latest(measured),
        *_widened(measured),
        f"- Qini coefficient (scikit-uplift's definition): {qini[0]:.4f}, 95% {qini[1]:.4f} to {qini[2]:.4f}",
        *_compared(comparison),
        "## Limits",
        "- Effects are of deciding, delivered or not, on such customers, within the reward window.",
        "- A treatment with few examples borrows from its action and channel; its error says so.",
        "- The served effects are learnt without weights: where a policy picked customers by what the"
        " baseline misses, they lean that way (as served against effect, above), which their error does not"
        " know. Decisions of a holdout tell the baseline and the effects above, not the stack.",
        *(f"- {limit}" for limit in limits),
        "## Settings",
        "`" + "`, `".join(f"{key}={value}" for key, value in sorted(params.items())) + "`",
    ]
    return "\n".join(lines) + "\n"


def snapshots(
    found: Snapshots, examples: pa.Table, params: Mapping[str, Any], checks: Sequence[str] = ()
) -> str:
    """Write the card of a model of purchases as Markdown; `checks` are sentences, the rest as in `card`."""
    first, last = (pc.min_max(examples["as_of"]).as_py()[k] for k in ("min", "max"))
    lines = [
        "# Chance to buy after a snapshot",
        "## Data",
        f"- {examples.num_rows:,} examples, a customer at a snapshot each, {first:%Y-%m-%d} to"
        f" {last:%Y-%m-%d}, {len(found.names)} features",
        "## Measures, on the last snapshot by a model of the earlier",
        *_measures(found.metrics),
        "## Checks",
        *(f"- {sentence}" for sentence in checks),
        "## Limits",
        "- A chance to buy, not what contact changes: it must not decide alone whom to contact.",
        "- Seasons that the snapshots do not hold are not known to it.",
        "## Settings",
        "`" + "`, `".join(f"{key}={value}" for key, value in sorted(params.items())) + "`",
    ]
    return "\n".join(lines) + "\n"


def _measures(measured: Mapping[str, float]) -> list[str]:
    interval = auc_interval(measured)
    more = {"auc": "" if interval is None else f", 95% {interval[0]:.4f} to {interval[1]:.4f}"}
    return [
        f"- {text}: {measured[name]:.4f}{more.get(name, '')}"
        for name, text in _MEASURES.items()
        if name in measured
    ]


def _judged_on(measured: Mapping[str, float]) -> list[str]:
    if "n" not in measured:
        return []
    return [
        f"- All of the above are of {measured['n']:,.0f} closed decisions that count alike, whatever their"
        " age; of decisions that were read in part, as many as make a plain sample."
    ]


def _calibrated(scorer: Scorer, params: Mapping[str, Any]) -> list[str]:
    most = f" of {params['trees']} at most" if "trees" in params else ""
    losses = {kind: scorer.report.metrics.get(f"calibration_loss_{kind}") for kind in _KINDS}
    told = "; ".join(f"{_KINDS[kind]} {loss:.5f}" for kind, loss in losses.items() if loss is not None)
    return [
        f"- Chances: {scorer.response.booster.num_trees()} trees{most}, calibrated by"
        f" {_KINDS[scorer.response.kind]}; both by log loss of {_unseen_by(scorer)}."
        + (
            f" With {told}: these losses choose, they are no measure beside the log loss above, for they are"
            " of the trees alone, before what each treatment's rate adds, and of all examples as the fit"
            " weighs them: the older for less, those of open windows, where they are used, included."
            if told
            else ""
        )
    ]


def _unseen_by(scorer: Scorer) -> str:
    blocks = scorer.report.metrics.get("validation_blocks")
    if not blocks:
        return "customers that had no part in them"
    return f"decisions later than those that they rest on ({blocks:.0f} blocks of time)"


def _latest(measured: Mapping[str, float]) -> list[str]:
    if "latest_log_loss" not in measured:
        return ["- Later decisions: unknown; too few to fit a model that ends before the latest of them."]
    loss, constant, ece, noise, slope, n = (
        measured.get(f"latest_{name}", float("nan"))
        for name in ("log_loss", "log_loss_constant", "ece", "ece_of_noise", "calibration_slope", "n")
    )
    return [
        f"- The latest {n:,.0f} decisions, by a model of those that had closed before: log loss {loss:.4f}"
        f" (base rate {constant:.4f}), ECE {ece:.4f} (by chance {noise:.4f}), calibration slope"
        f" {_number(slope)}"
    ]


def auc_interval(measured: Mapping[str, float]) -> tuple[float, float] | None:
    """Give the 95% interval of an AUC, over customers where it was measured so, else by Hanley, McNeil 1982.

    Args:
        measured: auc_lower and auc_upper, or auc, n and base_rate; None comes back without both.

    Example:
        >>> low, high = auc_interval({"auc": 0.8, "n": 1000, "base_rate": 0.1})
        >>> round(low, 3), round(high, 3)
        (0.747, 0.853)
    """
    if {"auc_lower", "auc_upper"} <= set(measured):
        return measured["auc_lower"], measured["auc_upper"]
    if not {"auc", "n", "base_rate"} <= set(measured) or not 0 < measured["base_rate"] < 1:
        return None
    a = measured["auc"]
    yes = measured["n"] * measured["base_rate"]
    no = measured["n"] - yes
    above, below = a / (2 - a) - a**2, 2 * a**2 / (1 + a) - a**2
    se = ((a * (1 - a) + (yes - 1) * above + (no - 1) * below) / (yes * no)) ** 0.5
    return a - 1.96 * se, a + 1.96 * se


def _effect(row: Mapping[str, Any]) -> str:
    interval = "unknown" if row["lower"] != row["lower"] else f"{row['lower']:.4f} to {row['upper']:.4f}"
    served = _number(row["predicted"])
    return _row(row["treatment_id"], f"{row['n']:,}", _number(row["effect"]), interval, served)


def _leaning(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    known = [row for row in rows if row["lower"] == row["lower"] and row["predicted"] == row["predicted"]]
    names = [row["treatment_id"] for row in known if not row["lower"] <= row["predicted"] <= row["upper"]]
    if not names:
        return []
    return [
        "",
        f"What is served lies outside of the 95% interval for {len(names)} of {len(known)} treatments (by"
        f" chance for one in twenty): {', '.join(names)}. There, believe the interval.",
    ]


def _decisions(examples: pa.Table) -> str:
    closed = immature.closed(examples)
    ids = examples["decision_id"].to_pylist() if "decision_id" in examples.column_names else []
    # A completed decision may be two examples, the second of which has a longer id.
    n_open = sum(not (shut or name.endswith("+")) for name, shut in zip(ids, closed))
    more = f" and {n_open:,} whose window is open, completed, which judge nothing" if n_open else ""
    return f"{int(closed.sum()):,} decisions with closed outcomes{more}"


def _widened(measured: Mapping[str, float]) -> list[str]:
    widening = measured.get("se_widening", float("nan"))
    if widening != widening:
        return []
    said = (
        f"- The posterior's standard errors of effects were multiplied by {widening:.2f} (jackknife over"
        " customers)"
    )
    if widening < (1 + jackknife.MOST) ** 0.5:
        return [said]
    return [
        said
        + ": the most there is, so they may be too small; more decisions, or fewer features, would mend it"
    ]


def _weighed(measured: Mapping[str, float]) -> str:
    known, n, worth = (
        measured.get(name, float("nan")) for name in ("p_action_known", "compared_n", "compared_effective")
    )
    if not known > 0:
        return (
            "No p_action is known: effects, deciles and Qini are not weighed, and false where a policy picked"
            " whom to treat"
        )
    some = "" if known == 1 else f" (known for {known:.1%} of the decisions, the others left out)"
    return (
        f"Effects, deciles and Qini weigh decisions by 1 / p_action within their arm{some}: {n:,.0f} contacts"
        f" that were drawn by chance count as {worth:,.0f}"
    )


def _head(*cells: str) -> list[str]:
    return [_row(*cells), "|---|" + "---:|" * (len(cells) - 1)]


def _row(*cells: str) -> str:
    # MLflow's page of a version shows tables without any space between the columns.
    return "|" + "|".join(f"\u00a0{cell}\u00a0" for cell in cells) + "|"


def _number(value: float, digits: int = 4) -> str:
    return "unknown" if value != value else f"{value:.{digits}f}"


def _compared(found: Comparison) -> list[str]:
    lines = ["## Checks", *(f"- {sentence}" for sentence in found.findings)]
    if found.gate is None:
        return lines
    return [
        *lines,
        "## Does personalising pay?",
        f"- {found.gate.reason} (Worth is money per decision: the margin of a response, less contact costs.)",
        f"- The served model's effects correlate with the stack's by {_number(found.agreement, 2)} and lie"
        f" {_number(found.distance)} apart (root mean square, in chance of a response): both learnt"
        " from the decisions that are compared here, at most 60,000, without the customers whose effects they"
        " give. So did all below.",
        f"- Candidates: {'; '.join(f'`{name}` {text}' for name, text in _CANDIDATES.items())}.",
        "",
        *_head(
            "candidate",
            "weight",
            "gain in doubly robust loss over the constant effect, of the scores' variance, 95%",
            "RATE (Qini weights), 95%",
        ),
        *(
            _row(
                row["candidate"],
                "" if row["weight"] is None else format(row["weight"], ".2f"),
                f"{row['gain']:.2g} ({row['gain_lower']:.2g} to {row['gain_upper']:.2g})",
                f"{row['rate']:.2g} ({row['rate_lower']:.2g} to {row['rate_upper']:.2g})",
            )
            for row in found.candidates.to_pylist()
        ),
    ]
