"""How policies stand: estimated values, ablations, scenarios, promotions, learning."""

from nba.tables import fields as f
from nba.tables.fields import Field, Table

POLICY_VALUES = Table(
    "policy_values",
    "Off-policy estimates: what a policy would have earned per decision.",
    ("policy_id", "estimator", "batch_id"),
    (
        f.identifier("policy_id", "the policy judged"),
        f.text("estimator", "how"),
        f.identifier(
            "batch_id",
            "the batch judged on, or `all`; of arms also `judged`: those of the champion",
        ),
        f.count("n_batches", "how many batches it rests on", nullable=True, low=0),
        f.money("value", "reward per decision", nullable=True),
        f.money("se", "standard error", nullable=True),
        f.money("lower", "lower end of the interval", nullable=True),
        f.money("upper", "upper end of the interval", nullable=True),
        f.number("ess", "effective sample size", "decisions", low=0.0),
        f.count("n", "decisions", low=0),
        f.number("max_weight", "largest importance weight", "factor", low=0.0),
        f.text("reason", "why it, or the gain, is unknown, where it is, or a remark; else empty"),
        f.money(
            "gain",
            "of a challenger: reward per decision above the champion's, paired, on the same decisions",
            nullable=True,
        ),
        f.money("gain_lower", "lower end of the gain's interval", nullable=True),
        f.money("gain_upper", "upper end of the gain's interval", nullable=True),
    ),
)

# Where the value of a check must lie, as whoever writes the check knows.
_SIDES = ("at_least", "at_most", "above", "below")


def _bound() -> tuple[Field, ...]:
    told = "where the value must lie from its limit; unknown in records of earlier versions"
    counted = "whether value and limit are whole numbers of decisions"
    return f.code("side", told, values=_SIDES, nullable=True), f.flag("is_count", counted, nullable=True)


DIAGNOSTICS = Table(
    "diagnostics",
    "What off-policy estimates rest on: support, weights, tails, calibration of the logged probabilities.",
    ("policy_id", "check"),
    (
        f.identifier("policy_id", "the policy judged"),
        f.text("check", "what was looked at"),
        f.code("status", "refused: no estimate may rest on it", values=("ok", "warning", "refused")),
        f.number("value", "what was found", "as the check says", nullable=True),
        f.number("limit", "from where on it is not ok", "as the check says", nullable=True),
        f.text("note", "in words"),
        *_bound(),
    ),
)

ABLATIONS = Table(
    "ablations",
    "What each part of the policy is worth: the full policy against itself without the part.",
    ("versus", "method"),
    (
        f.text(
            "versus", "without the part: random, response only, no levers, eligibility only, random scores"
        ),
        f.code("method", "how the two were compared", values=("randomised arms", "off-policy")),
        f.identifier("policy_id", "the full policy; of arms, the first and the last version that ran"),
        f.money("value", "reward per decision of the full policy less that of the other", nullable=True),
        f.money("lower", "lower end of the interval", nullable=True),
        f.money("upper", "upper end of the interval", nullable=True),
        f.number("level", "confidence level of the interval", "fraction", low=0.0, high=1.0),
        f.count("n", "decisions it rests on", low=0),
        f.number(
            "ess", "effective sample size of the less known policy", "decisions", low=0.0, nullable=True
        ),
        f.number("max_weight", "largest weight of the two policies", "factor", low=0.0, nullable=True),
        f.text("reason", "why it is unknown, or a remark; else empty"),
        f.text(
            "doubt",
            "checks of the log that either policy fails: the difference proves nothing; else empty",
            nullable=True,
        ),
    ),
)

VALUE_FINDER = Table(
    "value_finder",
    "Customers for whom nothing good can be proposed, in segments that can be read.",
    ("batch_id", "segment"),
    (
        f.identifier("batch_id", "the batch looked at"),
        f.text("segment", "conditions on features, in words"),
        f.count("n", "customers that a policy decides for, in the whole batch", low=0),
        f.count("n_nothing", "of these, customers without any eligible treatment of positive value", low=0),
        f.money("best", "believed net value of the best eligible treatment, mean"),
        f.money("blocked", "what the best treatment that a rule removed would add, mean", low=0.0),
        f.money("blocked_total", "that, over all customers of the segment", low=0.0, nullable=True),
        f.text("reason", "rule that most often removed the treatment that would add most; empty if none did"),
    ),
)

SCENARIOS = Table(
    "scenarios",
    "What other limits, levers or rules would have made of a stored batch, by its prices solved anew.",
    ("scenario", "batch_id", "item"),
    (
        f.text("scenario", "its name; `as decided` is the batch with the settings that it had"),
        f.identifier("batch_id", "the stored batch"),
        f.text("item", "`total`, or a limit"),
        f.money("value", "believed net value of all customers, no lever counted", nullable=True),
        f.money(
            "value_lower", "lower end of its 95% interval, errors of belief fully correlated", nullable=True
        ),
        f.money("value_upper", "upper end of its interval, at its widest", nullable=True),
        f.number("contacts", "expected contacts", "contacts", nullable=True, low=0.0),
        f.money("cost", "expected cost", nullable=True, low=0.0),
        f.number("available", "what the limit allows", "contacts or money", nullable=True, low=0.0),
        f.number("used", "expected use of the limit", "contacts or money", nullable=True, low=0.0),
        f.money(
            "price", "what one more unit of the limit would add; below 0 where a minimum asks", nullable=True
        ),
        f.text("changes", "what was changed, in words; empty for `as decided`"),
    ),
)

LEVER_COSTS = Table(
    "lever_costs",
    "What each business weight costs: a stored batch solved again without it, valued without any weight.",
    ("batch_id", "lever"),
    (
        f.identifier("batch_id", "the stored batch"),
        f.text("lever", "an action's lever (`action NAME`), one by context, or `all` together"),
        f.number("weight", "its factor; unknown for `all`", "factor", nullable=True, low=0.1, high=10.0),
        f.count("n_customers", "customers whose candidates it weighs", low=0),
        f.money("value", "expected of the batch with all levers"),
        f.money("without", "expected of the batch without this one"),
        f.money("cost", "what it costs: the second less the first; below 0 by what is left to chance"),
        f.number("moved", "expected customers who are given something else by it", "customers", low=0.0),
    ),
)

PROMOTION_EVIDENCE = Table(
    "promotion_evidence",
    "The conditions of the gate when it was last asked.",
    ("check",),
    (
        f.text("check", "what was asked"),
        f.code("status", "unknown does not pass", values=("pass", "fail", "unknown")),
        f.number("value", "what was found", "as the check says", nullable=True),
        f.number("limit", "what it had to reach, or to keep below", "as the check says", nullable=True),
        f.text("note", "in words"),
        f.count("champion", "version of the champion", low=0),
        f.count("challenger", "version of the challenger", low=0),
        f.time("asked_at", "the moment looked back from"),
        *_bound(),
    ),
)

CHALLENGERS = Table(
    "challengers",
    "Who was judged against which champion, in order: challengers of one champion share the gate's level.",
    ("policy", "champion", "challenger"),
    (
        f.identifier("policy", "the registered policy"),
        f.count("champion", "version of the champion", low=0),
        f.count("challenger", "version of the challenger", low=0),
        f.count("nth", "which of this champion's challengers it is, by when they were first judged", low=1),
        f.time("asked_at", "the moment looked back from when it was first judged"),
    ),
    laws=("rows are never changed or removed",),
)

PROMOTIONS = Table(
    "promotions",
    "Who made which version the champion, when and on what evidence; rows are only ever added.",
    ("promotion_id",),
    (
        f.identifier("promotion_id", "number of the record, as text"),
        f.time("promoted_at", "the moment looked back from"),
        f.code("what", "what was done", values=("promote", "rollback")),
        f.identifier("policy", "the registered policy"),
        f.count("from_version", "the champion before", low=0),
        f.count("to_version", "the champion after", low=0),
        f.text("approver", "who approved it"),
        f.flag("is_passed", "whether the gate's conditions held"),
        f.flag(
            "is_forced",
            "whether the gate was overruled or not asked; unknown in records of earlier versions",
            nullable=True,
        ),
        f.text("evidence", "the conditions as found, JSON"),
        f.text("note", "why, in the approver's words"),
    ),
    laws=("rows are never changed or removed",),
)

SHADOWS = Table(
    "shadows",
    "What a registered policy would have decided beside the one that decided: logged, never delivered.",
    ("decision_id", "policy_id"),
    (
        f.identifier("decision_id", "the decision that was made"),
        f.identifier("batch_id", "its batch"),
        f.CUSTOMER,
        f.identifier("policy_id", "the policy in the shadow"),
        f.TREATMENT,
        f.chance("p_action", "chance with which the policy in the shadow chose it"),
        f.chance("p_decided", "chance that it would have given to what was decided"),
        f.money("expected_value", "expected net value of its choice against no contact", nullable=True),
    ),
)

LEARNING = Table(
    "learning",
    "What nightly learning tried on the latest closed decisions, and what it chose.",
    ("learnt_at", "capacity", "half_life_days"),
    (
        f.time("learnt_at", "when"),
        f.text("capacity", "candidate: constant, linear, trees, blend"),
        f.number(
            "half_life_days", "age at which an example weighs half; 0 weighs all alike", "days", low=0.0
        ),
        f.number("loss", "mean squared error of the effect on the latest decisions", "squared deviations"),
        f.number(
            "gain_se", "how much better than the default, in errors clustered by customer", "standard errors"
        ),
        f.flag("is_chosen", "whether the model was fitted so"),
        f.count("n", "decisions validated on", low=0),
    ),
)

WARM_STARTS = Table(
    "warm_starts",
    "What nightly learning tried and chose of how much an earlier experiment weighs beside own decisions.",
    ("learnt_at", "share"),
    (
        f.time("learnt_at", "when"),
        f.number(
            "share",
            "candidate: weight of an earlier decision beside an own one",
            "fraction",
            low=0.0,
            high=1.0,
        ),
        f.number(
            "loss", "mean squared error of the effect on the latest own decisions", "squared deviations"
        ),
        f.number(
            "gain_se", "how much better than in full, in errors clustered by customer", "standard errors"
        ),
        f.flag("is_chosen", "whether the model was fitted so"),
        f.count("n", "decisions validated on", low=0),
    ),
)
