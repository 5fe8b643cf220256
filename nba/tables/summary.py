"""What the app shows of what was done and what it brought, prepared once so that a page only reads."""

from nba.tables import fields as f
from nba.tables.experiments import EFFECTS
from nba.tables.fields import Table

SUMMARY_BATCHES = Table(
    "summary_batches",
    "One row per batch and arm, for pages: how much was sent, what it cost, and what it was worth.",
    ("batch_id", "arm"),
    (
        f.identifier("batch_id", "the batch"),
        f.text("arm", "the arm of the experiment; `policy` where there was none"),
        f.identifier("policy_id", "the policy that chose (the last by name where several did)"),
        f.time("decided_at", "when"),
        f.time("matures_at", "when the last reward window of the batch closes", nullable=True),
        f.flag("is_matured", "whether every reward window of the batch has closed"),
        f.count("n", "decisions, one per customer", low=0),
        f.count("n_closed", "decisions whose reward window has closed", low=0),
        f.count("n_contacts", "decisions other than `none`", low=0),
        f.count("n_delivered", "contacts known to have reached the customer", low=0),
        f.money("cost", "spent on the contacts, as reported", low=0.0),
        f.number("mean", "reward per customer", "money", nullable=True),
        f.money("effect", "reward per customer against the control of the same batch", nullable=True),
        f.money("lower", "lower end of the 95% interval of the effect", nullable=True),
        f.money("upper", "upper end of the 95% interval of the effect", nullable=True),
        f.text("reason", "why the effect is unknown, where it is; else empty"),
    ),
)

SUMMARY_MIX = Table(
    "summary_mix",
    "How often each treatment was decided, by batch and arm, for pages.",
    ("batch_id", "arm", "treatment_id"),
    (
        f.identifier("batch_id", "the batch"),
        f.text("arm", "the arm of the experiment; `policy` where there was none"),
        f.TREATMENT,
        f.identifier("action_id", "the action carried; `none` for no contact"),
        f.text("channel", "the medium; `none` for no contact"),
        f.time("decided_at", "when"),
        f.count("n", "decisions", low=0),
        f.count("n_delivered", "of these, known to have reached the customer", low=0),
        f.money("cost", "spent on them, as reported", low=0.0),
        f.money("expected_value", "expected net value against no contact, summed", nullable=True),
    ),
)

SUMMARY_CHANNELS = Table(
    "summary_channels",
    "What was sent over each channel in all batches, for pages.",
    ("channel",),
    (
        f.text("channel", "the medium; `none` for no contact"),
        f.count("n", "decisions", low=0),
        f.count("n_customers", "customers with at least one of them", low=0),
        f.count("n_delivered", "of the decisions, known to have reached the customer", low=0),
        f.money("cost", "spent on them, as reported", low=0.0),
    ),
)

SUMMARY_EFFECTS = Table(
    "summary_effects",
    "The effects for pages, also over all customers of the arm.",
    ("experiment_id", "metric", "arm", "segment"),
    (
        *EFFECTS.fields,
        f.number("total", "effect times customers in the arm", "unit of the metric", nullable=True),
        f.number("total_lower", "lower end of its interval", "unit of the metric", nullable=True),
        f.number("total_upper", "upper end of its interval", "unit of the metric", nullable=True),
        f.number(
            "always_total_lower", "its lower end, valid at every look", "unit of the metric", nullable=True
        ),
        f.number(
            "always_total_upper", "its upper end, valid at every look", "unit of the metric", nullable=True
        ),
    ),
)

SUMMARY_PERIODS = Table(
    "summary_periods",
    "What the time of the last batches was worth, in the experiment's metric in money, for pages.",
    ("period", "arm"),
    (
        f.code("period", "of how many matured batches", values=("last_4", "last_12")),
        f.text("arm", "the arm"),
        f.text("control", "the arm compared with"),
        f.text("metric", "the metric in money"),
        f.time("since", "when the first of these batches was decided"),
        f.time("until", "the last matured moment"),
        f.count("n_batches", "matured batches", low=1),
        f.count("n", "customers in the arm, assigned by the first of these batches", low=0),
        f.count("n_control", "such customers in the control", low=0),
        f.money("effect", "what they earned in that time above the control's, per customer", nullable=True),
        f.money("lower", "lower end of the interval, for one reading", nullable=True),
        f.money("upper", "upper end of the interval, for one reading", nullable=True),
        f.money("total", "effect times customers in the arm", nullable=True),
        f.money("total_lower", "lower end of its interval", nullable=True),
        f.money("total_upper", "upper end of its interval", nullable=True),
        f.money("cost", "spent in this time on contacts of these customers: margin is net of it", low=0.0),
        f.number("level", "confidence level of the interval", "fraction", low=0.0, high=1.0),
        f.text("reason", "why the effect is unknown, where it is; else empty"),
    ),
)

JUDGED = Table(
    "judged",
    "Effects with the interval by which the verdict goes; made on reading, never stored.",
    ("experiment_id", "metric", "arm", "segment"),
    (
        *SUMMARY_EFFECTS.fields,
        f.text("basis", "what the interval is valid for: one reading, every look or the planned looks"),
        f.time("judged_at", "the planned look that the effect judged is of", nullable=True),
        f.number("judged_effect", "difference of the means, by the verdict", "the metric's", nullable=True),
        f.number("judged_lower", "lower end of the verdict's interval", "the metric's", nullable=True),
        f.number("judged_upper", "upper end of the verdict's interval", "the metric's", nullable=True),
        f.number("judged_total_lower", "lower end, all customers", "unit of the metric", nullable=True),
        f.number("judged_total_upper", "upper end, all customers", "unit of the metric", nullable=True),
    ),
)

SUMMARY_ARMS = Table(
    "summary_arms",
    "Customers of every experiment by arm against what the shares promise, for pages.",
    ("experiment_id", "arm"),
    (
        f.identifier("experiment_id", "the experiment"),
        f.text("arm", "the arm"),
        f.count("n", "customers assigned so far", low=0),
        f.number(
            "n_expected", "customers that the arm's share promises", "customers", low=0.0, nullable=True
        ),
        f.chance(
            "p_srm", "chance of counts this uneven if assignment works; valid at any look", nullable=True
        ),
        f.chance(
            "p_traffic", "chance of treatments this uneven against their logged probabilities", nullable=True
        ),
    ),
)

SUMMARY_CREDITS = Table(
    "summary_credits",
    "Credit by method, channel and treatment, for pages.",
    ("method", "channel", "treatment_id"),
    (
        f.text("method", "rule or model"),
        f.text("channel", "the medium"),
        f.identifier("treatment_id", "what was sent; `unknown` where it was not ours"),
        f.count("n_orders", "orders with a share of credit", low=0),
        f.money("credit", "margin credited"),
        f.chance("share", "part of all orders the method credits", nullable=True),
    ),
)

SUMMARY_CLV = Table(
    "summary_clv",
    "How many customers have which lifetime value, for pages.",
    ("bin",),
    (
        f.count("bin", "number of the bin, lowest first", low=0),
        f.money("lower", "lowest value of the bin"),
        f.money("upper", "highest value of the bin"),
        f.count("n", "customers", low=0),
        f.money("total", "value of the bin's customers together"),
        f.chance("p_alive", "mean chance of still being a customer", nullable=True),
    ),
)

SUMMARY_NUMBERS = Table(
    "summary_numbers",
    "Single numbers for pages.",
    ("measure",),
    (
        f.text("measure", "what was counted"),
        f.number("value", "the number", "as its note says", nullable=True),
        f.time("at", "the moment, where it is one", nullable=True),
        f.text("note", "in words, where that helps"),
    ),
)

SUMMARY_SEGMENTS = Table(
    "summary_segments",
    "What was decided for which part of the customers, in all batches, for pages.",
    ("attribute", "segment", "arm", "treatment_id"),
    (
        f.text("attribute", "attribute of customers"),
        f.text("segment", "its value"),
        f.text("arm", "the arm of the experiment; `policy` where there was none"),
        f.TREATMENT,
        f.identifier("action_id", "the action carried; `none` for no contact"),
        f.text("channel", "the medium; `none` for no contact"),
        f.count("n", "decisions", low=0),
        f.count("n_delivered", "of these, known to have reached the customer", low=0),
        f.money("cost", "spent on them, as reported", low=0.0),
        f.money("expected_value", "expected net value against no contact, summed", nullable=True),
    ),
)

SUMMARY_ARBITRATION = Table(
    "summary_arbitration",
    "How the candidates of the last batch came to their rank, by arm and treatment, for pages.",
    ("batch_id", "arm", "treatment_id"),
    (
        f.identifier("batch_id", "the batch"),
        f.text("arm", "the arm of the experiment; `policy` where there was none"),
        f.TREATMENT,
        f.identifier("action_id", "the action carried; `none` for no contact"),
        f.text("channel", "the medium; `none` for no contact"),
        f.count("n", "customers of the arm", low=0),
        f.count("n_eligible", "of these, customers who could be given it", low=0),
        f.count("n_chosen", "of these, customers who were given it", low=0),
        f.chance(
            "p_response",
            "mean chance of a response if treated, by today's champion, of those who could be given it",
            nullable=True,
        ),
        f.number(
            "uplift",
            "mean change of that chance against no contact, by the same model, of the same customers",
            "probability",
            low=-1.0,
            high=1.0,
            nullable=True,
        ),
        f.money(
            "value",
            "mean expected net value against no contact, of those who could be given it",
            nullable=True,
        ),
        f.number(
            "lever", "business weight on the value; 1 changes nothing", "factor", low=0.0, nullable=True
        ),
        f.money("cost", "per delivery", low=0.0),
        f.money("price", "mean price of the limits it uses"),
        f.money("priority", "value less price: what candidates are ranked by", nullable=True),
        f.chance("p_action", "mean chance of being chosen, of those who could be given it", nullable=True),
    ),
)

SUMMARY_REMOVED = Table(
    "summary_removed",
    "How many candidates of the last batch each rule removed, for pages.",
    ("batch_id", "arm", "treatment_id", "reason"),
    (
        f.identifier("batch_id", "the batch"),
        f.text("arm", "the arm of the experiment; `policy` where there was none"),
        f.TREATMENT,
        f.text("reason", "rule that removed it; empty if eligible"),
        f.count("n", "customers", low=0),
    ),
)

SUMMARY_CANDIDATES = Table(
    "summary_candidates",
    "Candidates of a sample of the last batch that a model decided, for what-if on pages.",
    ("customer_id", "treatment_id"),
    (
        f.CUSTOMER,
        f.TREATMENT,
        f.identifier("batch_id", "the batch"),
        f.time("decided_at", "when"),
        f.flag("is_eligible", "whether it could be chosen"),
        f.text("reason", "rule that removed it; empty if eligible"),
        f.money("mean", "believed net value against no contact", nullable=True),
        f.money("se", "standard error of the belief", nullable=True, low=0.0),
        f.money("nuisance", "price of fatigue per contact", low=0.0),
        f.number(
            "weight", "business weight that the value holds", "factor", low=0.1, high=10.0, nullable=True
        ),
        f.number(
            "sampled", "part of the batch's customers that are in the sample", "fraction", low=0.0, high=1.0
        ),
        f.number(
            "stands_for",
            "customers of the batch that were decided, the holdout not among them, for each here",
            "customers",
            low=1.0,
            nullable=True,
        ),
        f.count(
            "spent_today", "choices of the treatment by earlier batches of the same day", low=0, nullable=True
        ),
    ),
)

SUMMARY_EXAMPLES = Table(
    "summary_examples",
    "A sample of the last batch's decisions to look at one by one, for pages.",
    ("decision_id",),
    (
        f.identifier("decision_id", "the decision"),
        f.CUSTOMER,
        f.time("decided_at", "when"),
        f.text("arm", "the arm of the experiment; `policy` where there was none"),
        f.TREATMENT,
        f.text("channel", "the medium; `none` for no contact"),
        f.chance("p_action", "chance with which it was chosen"),
        f.money("expected_value", "expected net value against no contact", nullable=True),
        f.text("reason", "why this treatment, or why none"),
    ),
)

SUMMARY_SPREADS = Table(
    "summary_spreads",
    "How much each metric varies between past customers by duration, for planning on pages.",
    ("experiment_id", "metric", "days"),
    (
        f.identifier("experiment_id", "the experiment whose metrics they are"),
        f.text("metric", "what is measured, per customer"),
        f.count("days", "days that customers are watched", "days", low=1),
        f.count("n", "customers that the experiment can have", low=0),
        f.number("mean", "mean of the metric", "the metric's"),
        f.number("sd", "standard deviation between customers", "the metric's", low=0.0),
        f.number("sd_adjusted", "what is left of it after CUPED", "the metric's", low=0.0),
    ),
)

SUMMARY_CREDIT_PARTS = Table(
    "summary_credit_parts",
    "Credit by method, month, part of the customers and treatment, for pages.",
    ("method", "period", "audience", "channel", "treatment_id"),
    (
        f.text("method", "rule or model"),
        f.text("period", "`all`, or the month of the order as 2026-01"),
        f.text("audience", "`all`, or the part of the customers as attribute=value"),
        f.text("channel", "the medium"),
        f.identifier("treatment_id", "what was sent; `unknown` where it was not ours"),
        f.identifier("action_id", "the action carried; `unknown` where it was not ours"),
        f.text("campaign", "issue and group of the action; `unknown` where it was not ours"),
        f.count("n_orders", "orders with a share of credit", low=0),
        f.money("credit", "margin credited"),
        f.chance("share", "part of all orders the method credits in this period and audience", nullable=True),
    ),
)

SUMMARY_AT_RISK = Table(
    "summary_at_risk",
    "The customers of whom most lifetime value is at risk, and what the last batch did for them, for pages.",
    ("customer_id",),
    (
        f.CUSTOMER,
        f.money("clv_at_risk", "worth if surely still a customer, less clv", low=0.0),
        f.money("clv", "expected discounted margin over the horizon", nullable=True),
        f.money("clv_lower", "lower end of its 90% prediction interval", nullable=True),
        f.money("clv_upper", "upper end of its 90% prediction interval", nullable=True),
        f.chance("p_alive", "chance of still being a customer", nullable=True),
        f.count("n_repeat", "days with a purchase after the first", low=0),
        f.number("quiet_days", "days since the last purchase", "days", low=0.0, nullable=True),
        f.identifier(
            "treatment_id", "what the last batch gave; unknown where it decided nothing", nullable=True
        ),
        f.text("reason", "why", nullable=True),
    ),
)

SUMMARY_RETAINED = Table(
    "summary_retained",
    "What the last batch did for customers by how much lifetime value is at risk, for pages.",
    ("band", "channel"),
    (
        f.count("band", "fifth of the customers by lifetime value at risk, 1 is the highest", low=1),
        f.text("channel", "the medium; `none` for no contact"),
        f.count("n", "decisions", low=0),
        f.number("share", "of the band's decisions", "fraction", low=0.0, high=1.0),
        f.money("clv_at_risk", "lifetime value at risk of these customers", low=0.0),
    ),
)
