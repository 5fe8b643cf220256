"""What the app shows of what decisions rest on: sources, models, runs, and what to look at."""

from nba.tables import fields as f
from nba.tables.fields import Table

ALERTS = Table(
    "alerts",
    "What somebody should look at, as of the last nightly run.",
    ("alert", "subject"),
    (
        f.code(
            "alert",
            "what it is about",
            values=(
                *("stale data", "SRM", "drift", "cap pressure", "empty batch"),
                *("silent batch", "value drop"),
            ),
        ),
        f.text("subject", "the table, batch, arm, limit, feature or experiment"),
        f.time("at", "the moment looked back from"),
        f.code("status", "the finding", values=("ok", "warning", "unknown")),
        f.number("value", "what was found", "as the note says", nullable=True),
        f.number("limit", "where a warning begins", "as the value", nullable=True),
        f.text("note", "in words"),
    ),
)

SUMMARY_SOURCES = Table(
    "summary_sources",
    "What ingestion made of each source, for pages.",
    ("source",),
    (
        f.text("source", "name of the source"),
        f.count("files", "files read", low=0, nullable=True),
        f.count("rows_in", "rows found", low=0, nullable=True),
        f.count("rows_kept", "rows that became history", low=0, nullable=True),
        f.count("quarantined", "rows that cannot be used", low=0, nullable=True),
        f.count("duplicates", "rows whose key a later row has", low=0, nullable=True),
        f.count("conflicts", "rows that contradict another", low=0, nullable=True),
        f.number("days_behind", "age of the newest row when it was read", "days", nullable=True),
    ),
)

SUMMARY_TABLES = Table(
    "summary_tables",
    "How full and how fresh each table of the history is, for pages.",
    ("table",),
    (
        f.text("table", "the table"),
        f.count("n_rows", "rows", low=0),
        f.time("newest_at", "time of the newest row", nullable=True),
        f.number("days_behind", "days from the newest row to the summary", "days", nullable=True),
    ),
)

SUMMARY_CONSENT = Table(
    "summary_consent",
    "Whom each channel may reach, for pages.",
    ("channel",),
    (
        f.text("channel", "the medium"),
        f.count("n", "customers known to orchestration: they have its id", low=0),
        f.count("n_consent", "of these, with consent in the CRM", low=0),
        f.count("n_opted_out", "of these with consent, opted out since", low=0),
        f.count("n_reachable", "with consent, and not opted out", low=0),
        f.number(
            "share", "reachable of those known to orchestration", "fraction", low=0.0, high=1.0, nullable=True
        ),
        f.count(
            "n_unknown",
            "customers whom orchestration does not know, and no channel reaches",
            low=0,
            nullable=True,
        ),
    ),
)

SUMMARY_QUARANTINE = Table(
    "summary_quarantine",
    "Rows that could not be used, by source and reason, for pages.",
    ("source", "reason"),
    (
        f.text("source", "name of the source"),
        f.text("reason", "what was wrong"),
        f.count("n", "rows", low=0),
        f.text("file", "a file in which it occurs"),
        f.count("row_number", "a row of that file", low=0),
    ),
)

SUMMARY_CLUSTERS = Table(
    "summary_clusters",
    "The customers with most identifiers, where false merges would show, for pages.",
    ("customer_id",),
    (
        f.CUSTOMER,
        f.count("n_identifiers", "identifiers that name the customer", low=0),
        f.count("n_kinds", "kinds among them", low=0),
        f.text("kinds", "how many of each kind"),
        f.time("first_seen_at", "when the first was seen"),
    ),
)

SUMMARY_IDENTITIES = Table(
    "summary_identities",
    "Which kinds of identifiers lead to a known customer, and which were cut, for pages.",
    ("identifier_kind",),
    (
        f.text("identifier_kind", "crm_id, email, phone, cookie, ..."),
        f.count("n", "identifiers of this kind", low=0),
        f.number("share", "of them, that lead to an external id", "fraction", low=0.0, high=1.0),
        f.number(
            "joined",
            "of them, that were joined with another identifier into one customer",
            "fraction",
            low=0.0,
            high=1.0,
            nullable=True,
        ),
        f.number(
            "per_customer", "of this kind, for each customer who has one", "ratio", low=1.0, nullable=True
        ),
        f.count("n_junk", "values that name nobody, as `none@none`, in the last reading", low=0),
        f.count("n_cut", "identifiers that too many customers share, so that they link nobody", low=0),
        f.text("note", "the most shared of them (hashed), and by how many customers"),
    ),
)

RUNS = Table(
    "runs",
    "What each step of a night or week did; kept as `runs/*.json`, read by pages.",
    ("run_id", "step"),
    (
        f.identifier("run_id", "the run: its kind and its moment"),
        f.text("step", "the step; empty where the record cannot be read"),
        f.code("status", "how it ended", values=("done", "failed", "unfinished")),
        f.time("started_at", "when the step began", nullable=True),
        f.number("seconds", "how long it took", "seconds", low=0.0, nullable=True),
        f.text("note", "what it counted; where it failed, what was wrong and how to mend it"),
    ),
)

SUMMARY_ALERTS = Table(
    "summary_alerts",
    "What somebody should look at, for pages.",
    ("kind", "subject"),
    (
        f.code(
            "kind",
            "what is the matter",
            values=(
                *("uneven arms", "harm", "verdict", "stale data", "thin batch", "unanswered batch"),
                *(
                    "unreadable",
                    "limit pressed",
                    "immature",
                    "credit disagrees",
                    "drift",
                    "value drop",
                    "run failed",
                ),
            ),
        ),
        f.text("subject", "the experiment, table, batch, limit or method concerned"),
        f.code("severity", "how bad", values=("error", "warning", "info")),
        f.number("value", "what was found", "as the kind says", nullable=True),
        f.number("limit", "what was expected", "as the kind says", nullable=True),
        f.text("note", "in words"),
    ),
)

SUMMARY_MODELS = Table(
    "summary_models",
    "Registered versions of the policy's model with their measures, for pages.",
    ("version",),
    (
        f.count("version", "number of the version, from 1", low=1),
        f.text("alias", "champion, challenger, or empty"),
        f.time("created_at", "when it was registered", nullable=True),
        f.time("trained_at", "outcomes closed by then were learnt from", nullable=True),
        f.identifier("model_id", "hash of the model's content", nullable=True),
        f.identifier("run_id", "the MLflow run that made it"),
        f.text("link", "path of the run on MLflow's pages"),
        f.number("n_examples", "decisions learnt from", "decisions", nullable=True, low=0.0),
        f.chance("base_rate", "share of them that responded", nullable=True),
        f.chance("auc", "chance that a responder is scored above another customer", nullable=True),
        f.number("log_loss", "mean log loss on customers it had not seen", "nats", nullable=True),
        f.number("log_loss_constant", "that of the base rate alone", "nats", nullable=True),
        f.number("ece", "mean gap between predicted and observed chance", "probability", nullable=True),
        f.number("qini", "gain over contacting at random", "as the model's card says", nullable=True),
        f.number("qini_lower", "lower end of its interval", "as the model's card says", nullable=True),
        f.number("qini_upper", "upper end of its interval", "as the model's card says", nullable=True),
        f.text("card", "the model's card, in Markdown", nullable=True),
    ),
)

SUMMARY_CALIBRATION = Table(
    "summary_calibration",
    "Observed against predicted chance of the champion, for pages.",
    ("bin",),
    (
        f.count("bin", "number of the bin, lowest first", low=0),
        f.count("n", "decisions", low=0),
        f.chance("predicted", "mean predicted chance"),
        f.chance("observed", "share that responded"),
    ),
)

SUMMARY_QINI = Table(
    "summary_qini",
    "Gain of contacting the best share first, of the champion, for pages.",
    ("share",),
    (
        f.number("share", "share of customers contacted, best first", "fraction", low=0.0, high=1.0),
        f.number("qini", "gain over no contact", "responses"),
        f.number("random", "gain of contacting as many at random", "responses"),
    ),
)

SUMMARY_DECILES = Table(
    "summary_deciles",
    "Measured against predicted uplift of the champion by decile, for pages.",
    ("decile",),
    (
        f.count("decile", "1 is the highest predicted uplift", low=1),
        f.count("n", "decisions", low=0),
        f.number("predicted", "mean predicted change of the chance to respond", "probability"),
        f.number("observed", "measured change", "probability", nullable=True),
        f.number("lower", "lower end of its interval", "probability", nullable=True),
        f.number("upper", "upper end of its interval", "probability", nullable=True),
    ),
)

SUMMARY_IMPORTANCE = Table(
    "summary_importance",
    "How much each feature moves the champion's predictions (mean absolute SHAP value), for pages.",
    ("model", "feature"),
    (
        f.text("model", "response or uplift"),
        f.text("feature", "the feature"),
        f.number("importance", "mean absolute contribution", "log-odds; uplift: probability", low=0.0),
    ),
)

SUMMARY_DEPENDENCE = Table(
    "summary_dependence",
    "How the champion's response depends on its most important features, for pages.",
    ("feature", "bin"),
    (
        f.text("feature", "the feature"),
        f.count("bin", "number of the bin, lowest values first", low=0),
        f.number("value", "mean of the feature in the bin", "the feature's"),
        f.number("contribution", "mean SHAP value in the bin", "log-odds"),
        f.number("lower", "10th percentile of the SHAP values", "log-odds"),
        f.number("upper", "90th percentile of the SHAP values", "log-odds"),
        f.count("n", "customers", low=0),
    ),
)

SUMMARY_DRIFT = Table(
    "summary_drift",
    "How far each feature has moved since the champion was trained, for pages.",
    ("feature",),
    (
        f.text("feature", "the feature"),
        f.number("psi", "population stability index over ten bins", "index", low=0.0, nullable=True),
        f.number("mean_before", "mean when it was trained", "the feature's", nullable=True),
        f.number("mean_now", "mean in the last batch", "the feature's", nullable=True),
        f.chance("unknown_before", "share unknown when it was trained"),
        f.chance("unknown_now", "share unknown in the last batch"),
    ),
)

SUMMARY_CHECKS = Table(
    "summary_checks",
    "Checks of the champion and of what it learns from, for pages.",
    ("check", "subject"),
    (
        f.code(
            "check",
            "what was asked",
            values=("never chosen", "no positives", "too young", "low discrimination", "leaking feature"),
        ),
        f.text("subject", "the treatment, model or feature"),
        f.code("status", "how it stands", values=("ok", "warning")),
        f.number("value", "what was found", "as the check says", nullable=True),
        f.number("limit", "from where on it is a warning", "as the check says", nullable=True),
    ),
)
