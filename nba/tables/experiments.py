"""What experiments read: effects, readouts, looks, and the cube of sums they are computed from."""

from nba.tables import fields as f
from nba.tables.fields import Table

EFFECTS = Table(
    "effects",
    "Results of experiments: each arm against its control.",
    ("experiment_id", "metric", "arm", "segment"),
    (
        f.identifier("experiment_id", "the experiment"),
        f.text("metric", "what was measured, per customer"),
        f.text("arm", "the arm"),
        f.text("segment", "`all`, or the part of the customers"),
        f.text("control", "the arm compared with"),
        f.count("n", "customers in the arm", low=0),
        f.count("n_control", "customers in the control", low=0),
        f.number("mean", "mean of the arm", "the metric's", nullable=True),
        f.number("mean_control", "mean of the control", "the metric's", nullable=True),
        f.number("effect", "difference of the means, per customer", "the metric's", nullable=True),
        f.number("lower", "lower end of the interval", "the metric's", nullable=True),
        f.number("upper", "upper end of the interval", "the metric's", nullable=True),
        f.number("relative_effect", "effect over the control's mean", "fraction", nullable=True),
        f.number("relative_lower", "lower end of its interval", "fraction", nullable=True),
        f.number("relative_upper", "upper end of its interval", "fraction", nullable=True),
        f.number("always_lower", "lower end, valid at every look", "the metric's", nullable=True),
        f.number("always_upper", "upper end, valid at every look", "the metric's", nullable=True),
        f.chance("p_value", "two-sided, for one reading at the planned end", nullable=True),
        f.chance("p_always", "two-sided, valid at every look", nullable=True),
        f.chance(
            "p_corrected",
            "corrected over segments and secondary metrics: of one reading at the planned end, before it and"
            " where none is planned of what is valid at every look",
            nullable=True,
        ),
        f.chance(
            "p_heterogeneity",
            "chance of segments this different if none are (Cochran's Q), corrected",
            nullable=True,
        ),
        f.number("level", "confidence level of the interval", "fraction", low=0.0, high=1.0),
        f.text("method", "how it was computed"),
        f.text("estimand", "what the number is an estimate of"),
        f.text("reason", "why it is unknown, where it is; else empty"),
    ),
)

READOUTS = Table(
    "readouts",
    "The verdict of each experiment's arm against its control, by the rule fixed before the start.",
    ("experiment_id", "arm"),
    (
        f.identifier("experiment_id", "the experiment"),
        f.text("arm", "the arm"),
        f.text("control", "the arm compared with"),
        f.text("unit", "the unit of randomisation and of analysis"),
        f.text("metric", "the primary metric"),
        f.code(
            "verdict",
            "what to do",
            values=(
                *("ship", "keep running", "stop: harm", "stop: no difference worth having"),
                "cannot be read",
            ),
        ),
        f.text("reason", "why, in one sentence"),
        f.flag("is_early", "whether it came before the planned end: the estimate is then likely too high"),
        f.count("n_looks", "looks taken so far", low=0),
        f.chance(
            "p_srm", "chance of counts this uneven if assignment works; valid at any look", nullable=True
        ),
        f.chance(
            "p_traffic", "chance of treatments this uneven against their logged probabilities", nullable=True
        ),
        f.time("matured_at", "last matured moment: what the readout rests on", nullable=True),
        f.money(
            "cost", "spent until then on contacts of the arm's customers: margin is net of it", nullable=True
        ),
        f.time("ends_at", "planned end", nullable=True),
        f.number(
            "days_left", "from the last matured moment to the planned end", "days", low=0.0, nullable=True
        ),
        f.text("rule", "how the looks are corrected"),
        f.text("estimand", "what the numbers are estimates of"),
    ),
)

DECLARATIONS = Table(
    "declarations",
    "What the verdict of each experiment rests on, as it stood at its first batch.",
    ("experiment_id",),
    (
        f.identifier("experiment_id", "the experiment"),
        f.time("declared_at", "its first batch"),
        f.text("rule", "control, level, dates, looks, arms, primary metric and guardrails, as JSON"),
    ),
)

LOOKS = Table(
    "looks",
    "What each scheduled look of an experiment saw, with intervals valid at all looks together.",
    ("experiment_id", "metric", "arm", "looked_at"),
    (
        f.identifier("experiment_id", "the experiment"),
        f.text("metric", "what was measured, per customer"),
        f.text("arm", "the arm"),
        f.time("looked_at", "the look"),
        f.number("effect", "difference of the means, per customer", "the metric's", nullable=True),
        f.number("se", "its standard error", "the metric's", nullable=True, low=0.0),
        f.number("bound", "standard errors on each side", "standard errors", nullable=True, low=0.0),
        f.number("lower", "lower end of the interval", "the metric's"),
        f.number("upper", "upper end of the interval", "the metric's"),
        f.number("scale", "what brings the look to the whole horizon, for margins", "factor", low=0.0),
    ),
)

GUARDRAILS = Table(
    "guardrails",
    "How each guardrail stands at the newest look, over the days for which its limit is declared.",
    ("experiment_id", "metric", "arm"),
    (
        f.identifier("experiment_id", "the experiment"),
        f.text("metric", "what must not suffer, per customer"),
        f.text("arm", "the arm"),
        f.time("looked_at", "the look"),
        f.number("limit", "change that would be borne at most", "the metric's"),
        f.number("effect", "difference of the means, brought to these days", "the metric's", nullable=True),
        f.number("always_lower", "lower end, valid at every look, brought to these days", "the metric's"),
        f.number("always_upper", "upper end, valid at every look, brought to these days", "the metric's"),
        f.number("days", "over which all of it is", "days", low=0.0, nullable=True),
        f.text("standing", "held, not yet shown or broken"),
    ),
)

_PARTS = {"y": "numerator", "d": "denominator", "x": "numerator before", "w": "denominator before"}

_PAIRS = [a + b for i, a in enumerate(_PARTS) for b in list(_PARTS)[i:]]

CUBE = Table(
    "cube",
    "Sufficient statistics of experiments, from which everything of a readout is computed.",
    ("experiment_id", "until", "arm", "phase", "segment", "metric"),
    (
        f.identifier("experiment_id", "the experiment"),
        f.time("until", "the day: facts before it count"),
        f.text("arm", "the arm"),
        f.count("phase", "phase of entry", low=0),
        f.text("segment", "`all`, or the part of the customers"),
        f.text("metric", "what was measured, per customer"),
        f.count("n", "customers", low=0),
        f.number("exposure_days", "since their assignment, summed over customers", "days", low=0.0),
        *(
            f.number(f"shift_{k}", f"subtracted from the {v}", "the metric's", nullable=True)
            for k, v in _PARTS.items()
        ),
        *(
            f.number(f"sum_{k}", f"sum of the {v}, shifted", "the metric's", nullable=True)
            for k, v in _PARTS.items()
        ),
        *(
            f.number(f"sum_{k}", f"sum of products of {k[0]} and {k[1]}, shifted", "squared", nullable=True)
            for k in _PAIRS
        ),
    ),
)

CUBE_UNITS = Table(
    "cube_units",
    "Totals of each customer as of the cube's last day, which the next day starts from.",
    ("experiment_id", "customer_id", "metric"),
    (
        f.identifier("experiment_id", "the experiment"),
        f.CUSTOMER,
        f.text("metric", "what is measured"),
        *(f.number(k, f"{v}, not capped", "the metric's") for k, v in _PARTS.items()),
    ),
)

CUBE_STATES = Table(
    "cube_states",
    "What the cube of an experiment was made from: where a mark changed, it is built anew.",
    ("experiment_id",),
    (
        f.identifier("experiment_id", "the experiment"),
        f.time("until", "the cube's last day"),
        f.time("entered", "customers assigned by then are in it"),
        f.text("declared", "mark of the declaration"),
        f.text("people", "mark of the customers"),
        f.text("facts", "mark of the facts before the last day"),
    ),
)

ACTION_EFFECTS = Table(
    "action_effects",
    "What each treatment changed against no contact, from decisions whose probabilities learned.",
    ("treatment_id",),
    (
        f.TREATMENT,
        f.count("n", "decisions in which both it and no contact could be chosen", low=0),
        f.count("n_chosen", "of these, decisions in which it was chosen", low=0),
        f.money("effect", "reward per decision against no contact", nullable=True),
        f.money("lower", "lower end of the interval, for one reading", nullable=True),
        f.money("upper", "upper end of the interval, for one reading", nullable=True),
        f.money("always_lower", "lower end of the interval valid at every look", nullable=True),
        f.money("always_upper", "upper end of the interval valid at every look", nullable=True),
        f.number("level", "confidence level of the intervals", "fraction", low=0.0, high=1.0),
        f.number("max_weight", "largest 1 / p_action", "factor", low=0.0, nullable=True),
        f.text("method", "how it was computed"),
        f.text("estimand", "what the number is an estimate of"),
        f.text("reason", "why it is unknown, where it is; else empty"),
    ),
)
