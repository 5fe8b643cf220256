"""What was decided and what came of it: features, scores, eligibility, decisions, outcomes, assignments."""

from nba.tables import fields as f
from nba.tables.fields import Table

DECISIONS = Table(
    "decisions",
    "What was chosen for each customer of a batch, with the probability of that choice.",
    ("decision_id",),
    (
        f.identifier("decision_id", "the decision; also the idempotency key of its delivery"),
        f.identifier("batch_id", "the run of decisions it belongs to"),
        f.CUSTOMER,
        f.identifier("external_id", "the id by which orchestration knows the customer", nullable=True),
        f.TREATMENT,
        f.text("channel", "the medium; `none` for no contact"),
        f.time("decided_at", "when"),
        f.chance("p_action", "chance with which the final treatment was chosen, after all limits"),
        f.identifier("policy_id", "the policy and version that chose"),
        f.identifier("experiment_id", "the experiment it belongs to", nullable=True),
        f.text("arm", "the arm of the experiment", nullable=True),
        f.chance("p_arm", "share of the arm", nullable=True),
        f.money("expected_value", "expected net value of the choice, levers counted", nullable=True),
        f.text("reason", "why this treatment, or why none"),
        f.identifier("config_hash", "hash of the configuration it was made with"),
        f.time("valid_until", "when it lapses if not delivered"),
        f.time(
            "send_from",
            "first moment at which it may be sent (quiet hours); unknown for `none`",
            nullable=True,
        ),
        f.time("send_until", "when it may no longer be sent", nullable=True),
    ),
    laws=("a holdout customer is given `none`", "p_action is above 0"),
)

CHOICES = Table(
    "choices",
    "Every candidate of every decision: eligible or why not, its belief, price and probability.",
    ("decision_id", "treatment_id"),
    (
        f.identifier("decision_id", "the decision"),
        f.TREATMENT,
        f.flag("is_eligible", "whether it could be chosen"),
        f.text("reason", "rule that removed it; empty if eligible"),
        f.chance("p_action", "chance of being chosen"),
        f.money("mean", "believed net value against no contact, levers counted", nullable=True),
        f.money("se", "standard error of the belief", nullable=True, low=0.0),
        f.money("price", "shadow price of the limits it uses; below 0 where a minimum asks for it"),
        f.number(
            "weight",
            "business weight on what a response is worth, of action and context; 1 changes nothing",
            "factor",
            nullable=True,
            low=0.1,
            high=10.0,
        ),
    ),
    laws=("p_action sums to 1 over a decision", "p_action is 0 where not eligible"),
)

OUTCOMES = Table(
    "outcomes",
    "What came of a decision within its reward window, once the window has closed.",
    ("decision_id",),
    (
        f.identifier("decision_id", "the decision"),
        f.flag("is_delivered", "whether it reached the customer; true for `none`"),
        f.flag("is_response", "whether the customer bought within the window"),
        f.flag("is_click", "whether the customer clicked within the window", nullable=True),
        f.flag("is_unsubscribe", "whether the customer opted out within the window"),
        f.money(
            "reward", "what counts within the window ([reward] says how much), net of the contact's cost"
        ),
        f.money("margin", "of purchases within the window, returns subtracted", nullable=True),
        f.money("cost", "spent on the contact", nullable=True, low=0.0),
        f.time("closed_at", "when the window closed"),
        f.count("window_days", "length of the window", "days", low=1),
    ),
    laws=("closed_at is no earlier than decided_at + window_days",),
)

CORRECTIONS = Table(
    "corrections",
    "Outcomes that late data have changed since they were closed: the latest row counts from its moment on.",
    ("decision_id", "corrected_at"),
    (*OUTCOMES.fields, f.time("corrected_at", "when the correction became known")),
)

FEEDBACK_FAULTS = Table(
    "feedback_faults",
    "Touches that name a decision but do not count for it, with the reason; opt-outs count all the same.",
    ("touch_id",),
    (
        f.identifier("touch_id", "the touch"),
        f.identifier("decision_id", "the decision that it names"),
        f.CUSTOMER,
        f.time("touched_at", "when it happened"),
        f.text("kind", "what happened"),
        f.text("reason", "why it does not count"),
    ),
)

FEATURES = Table(
    "features",
    "What was known of each customer at a moment.",
    ("customer_id", "as_of"),
    (f.CUSTOMER, f.time("as_of", "the moment looked back from")),
    open_prefix="f_",
    laws=("no feature changes when anything at or after as_of changes",),
)

EXAMPLES = Table(
    "examples",
    "Decisions with the features known then and the outcome of their closed window.",
    ("decision_id",),
    (
        f.identifier("decision_id", "the decision"),
        f.CUSTOMER,
        f.time("as_of", "when it was decided"),
        f.TREATMENT,
        f.chance("p_action", "logged chance of the treatment"),
        f.flag("is_response", "whether the customer bought within the window"),
        f.flag("is_click", "whether the customer clicked within the window", nullable=True),
        f.money("reward", "net of the contact's cost"),
        f.text("arm", "the arm of the experiment, within which the chance is", nullable=True),
        f.number("weight", "how much it counts; 1 if absent", "examples", nullable=True, low=0.0),
        f.flag(
            "is_open", "whether its window was open and its outcome completed; no if absent", nullable=True
        ),
    ),
    open_prefix="f_",
)

SCORES = Table(
    "scores",
    "What the models believe of each customer and treatment.",
    ("customer_id", "treatment_id", "as_of"),
    (
        f.CUSTOMER,
        f.TREATMENT,
        f.time("as_of", "the moment of the features"),
        f.chance("p_response", "chance of a response within the window if treated"),
        f.number("uplift", "change of that chance against no contact", "probability", low=-1.0, high=1.0),
        f.number("uplift_se", "standard error of the uplift", "probability", low=0.0),
        f.money("value", "expected net value against no contact"),
        f.identifier("model_id", "the model and version"),
    ),
)

ELIGIBILITY = Table(
    "eligibility",
    "Which treatments each customer may have in a batch, and which rule removed the others.",
    ("batch_id", "customer_id", "treatment_id"),
    (
        f.identifier("batch_id", "the batch"),
        f.CUSTOMER,
        f.TREATMENT,
        f.flag("is_eligible", "whether it could be chosen"),
        f.text("reason", "rule that removed it; empty if eligible"),
    ),
)

BATCHES = Table(
    "batches",
    "One row per batch and arm: what was decided, at which prices, within which limits.",
    ("batch_id", "arm", "limit"),
    (
        f.identifier("batch_id", "the batch"),
        f.text("arm", "the arm decided"),
        f.text("limit", "the limit: a channel's name, `budget`"),
        f.time("decided_at", "when"),
        f.number("available", "what the limit allowed in this arm", "contacts or money", low=0.0),
        f.number("used", "what the decisions use", "contacts or money", low=0.0),
        f.money("price", "shadow price per unit of the limit; below 0 where a minimum asks for it"),
        f.count("n_customers", "customers decided", low=0),
    ),
    laws=("used is at most available",),
)

REMOVALS = Table(
    "removals",
    "Why candidates of a batch were removed: customers by treatment, stage and rule.",
    ("batch_id", "treatment_id", "stage", "rule"),
    (
        f.identifier("batch_id", "the batch"),
        f.TREATMENT,
        f.code(
            "stage",
            "stage of the engagement policy; `kept` where nothing removed it",
            values=("kept", "running", "consent", "eligibility", "applicability", "suitability", "contact"),
        ),
        f.text("rule", "the first rule that removed it; empty where none did"),
        f.count("n_customers", "customers", low=0),
    ),
)

ASSIGNMENTS = Table(
    "assignments",
    "Which arm of an experiment each customer is in.",
    ("experiment_id", "customer_id"),
    (
        f.identifier("experiment_id", "the experiment"),
        f.CUSTOMER,
        f.text("arm", "the arm"),
        f.time("assigned_at", "when the customer first came under the experiment"),
        f.chance("p_arm", "share of the arm"),
    ),
)
