"""The data contract: every table that crosses a boundary, with the unit and meaning of each field.

Kinds: **id** string; **code** string from a closed list; **text** string; **number** float64;
**count** int64; **flag** bool; **time** timestamp[us, UTC]. Suffixes: `_id`, `_at` (time), `_days`;
prefixes: `n_` (count), `p_` (probability), `can_` and `is_` (flag), `f_` (feature), `a_` (attribute of
a customer, as the company names it). Money is in the workspace's currency, net of tax; rates are fractions.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nba.errors import DataError, listed

TIME = pa.timestamp("us", tz="UTC")
_TYPES: dict[str, pa.DataType] = {
    "id": pa.string(),
    "code": pa.string(),
    "text": pa.string(),
    "number": pa.float64(),
    "count": pa.int64(),
    "flag": pa.bool_(),
    "time": TIME,
}


@dataclass(frozen=True)
class Field:
    """One column of a table.

    Attributes:
        kind: id, code, text, number, count, flag or time.
        doc: What it means, in one phrase.
        unit: Unit of a number (money, days, probability 0-1); empty where the kind says it.
        nullable: Whether unknown is allowed; a number may be NaN only where nullable.
        low, high: Closed bounds of a number or count.
        values: The closed list of a code.
    """

    name: str
    kind: str
    doc: str
    unit: str = ""
    nullable: bool = False
    low: float | None = None
    high: float | None = None
    values: tuple[str, ...] = ()

    @property
    def type(self) -> pa.DataType:
        """The Arrow type of the column."""
        return _TYPES[self.kind]


@dataclass(frozen=True)
class Table:
    """One table of the contract: its key, fields and laws, one check, one printed page.

    Attributes:
        open_prefix: Further columns with this prefix are allowed (``f_``, ``a_``), or "" for none.
        laws: Sentences that hold beyond single fields; the executable ones stand in `LAWS`.
    """

    name: str
    doc: str
    key: tuple[str, ...]
    fields: tuple[Field, ...]
    open_prefix: str = ""
    laws: tuple[str, ...] = field(default=())

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema with unit and doc as field metadata (without the open columns)."""
        return pa.schema(
            [
                pa.field(f.name, f.type, f.nullable, metadata={"doc": f.doc, "unit": f.unit})
                for f in self.fields
            ]
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the declared columns, in order."""
        return tuple(f.name for f in self.fields)

    def faults(self, table: pa.Table) -> list[str]:
        """Name everything in which a table breaks this contract; empty if nothing."""
        found = table.column_names
        missing = [name for name in self.columns if name not in found]
        extra = [name for name in found if name not in self.columns and not self._is_open(name)]
        out = []
        if missing:
            out.append(f"missing columns {missing}; found {found}")
        if extra:
            out.append(f"unexpected columns {extra}")
        for spec in self.fields:
            if spec.name in found:
                out += _field_faults(spec, table[spec.name])
        if not missing and table.num_rows:
            repeats = table.num_rows - table.group_by(list(self.key)).aggregate([]).num_rows
            if repeats:
                out.append(f"{repeats} rows repeat the key {self.key}")
        return out

    def check(self, table: pa.Table) -> pa.Table:
        """Return the table unchanged if it keeps the contract.

        Raises:
            DataError: naming every fault at once.

        Example:
            >>> OUTCOMES.check(OUTCOMES.empty()).num_rows
            0
        """
        faults = self.faults(table)
        if faults:
            raise listed(
                faults,
                f"{self.name} breaks its contract",
                f"see the {self.name} table in docs/data-dictionary.md",
            )
        return table

    def empty(self) -> pa.Table:
        """Return the table without rows."""
        return self.schema.empty_table()

    def build(self, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
        """Make and check a table from rows; absent nullable fields become null."""
        rows = list(rows)
        opened = sorted({name for row in rows for name in row if self._is_open(name)})
        data = {f.name: pa.array([row.get(f.name) for row in rows], f.type) for f in self.fields}
        data |= {name: pa.array([row.get(name) for row in rows]) for name in opened}
        return self.conform(pa.table(data))

    def conform(self, table: pa.Table) -> pa.Table:
        """Order the columns, cast to the contract's types, add absent nullable columns, and check.

        Raises:
            DataError: when a cast fails or the contract is broken.
        """
        data: dict[str, Any] = {}
        faults = []
        for spec in self.fields:
            if spec.name in table.column_names:
                try:
                    data[spec.name] = table[spec.name].cast(spec.type)
                except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                    faults.append(f"{spec.name}: cannot be read as {spec.kind} ({error})")
            elif spec.nullable:
                data[spec.name] = pa.nulls(table.num_rows, spec.type)
        if faults:
            raise listed(faults, f"{self.name} breaks its contract")
        data |= {name: table[name] for name in table.column_names if self._is_open(name)}
        extra = [name for name in table.column_names if name not in data and name not in self.columns]
        if extra:
            raise DataError(f"{self.name} breaks its contract:\n- unexpected columns {extra}")
        return self.check(pa.table(data).replace_schema_metadata(None)) if data else self.check(table)

    def sample(self, n: int, rng: np.random.Generator) -> pa.Table:
        """Make n random rows that keep the contract (for tests)."""
        data = {f.name: _sample(f, n, rng, unique=f.name in self.key) for f in self.fields}
        return self.check(pa.table(data))

    def page(self) -> str:
        """Print the table as a section of the data dictionary, in Markdown."""
        head = f"## {self.name}\n\n{self.doc}\n\nKey: `{', '.join(self.key)}`\n\n"
        rows = ["| field | kind | unit | may be unknown | meaning |", "|---|---|---|---|---|"]
        for f in self.fields:
            meaning = f.doc + (f" One of: {', '.join(f.values)}." if f.values else "")
            rows.append(f"| `{f.name}` | {f.kind} | {f.unit} | {'yes' if f.nullable else ''} | {meaning} |")
        if self.open_prefix:
            rows.append(f"| `{self.open_prefix}*` | | | yes | further columns, as declared |")
        laws = "".join(f"\n- {law}" for law in self.laws)
        return head + "\n".join(rows) + (f"\n\nLaws:\n{laws}" if laws else "") + "\n"

    def _is_open(self, name: str) -> bool:
        return bool(self.open_prefix) and name.startswith(self.open_prefix)


def _field_faults(spec: Field, column: pa.ChunkedArray) -> list[str]:
    if column.type != spec.type:
        return [f"{spec.name}: type {column.type}; expected {spec.type}"]
    out = []
    nulls = column.null_count
    if pa.types.is_floating(column.type):
        nulls += pc.sum(pc.is_nan(column)).as_py() or 0
    if nulls and not spec.nullable:
        out.append(f"{spec.name}: {nulls} values unknown")
    if spec.low is not None and (n := pc.sum(pc.less(column, spec.low)).as_py()):
        out.append(f"{spec.name}: {n} values below {spec.low:g} (lowest {pc.min(column).as_py():g})")
    if spec.high is not None and (n := pc.sum(pc.greater(column, spec.high)).as_py()):
        out.append(f"{spec.name}: {n} values above {spec.high:g} (highest {pc.max(column).as_py():g})")
    if spec.values:
        odd = sorted(set(pc.unique(column).to_pylist()) - set(spec.values) - {None})
        if odd:
            out.append(f"{spec.name}: values {odd[:5]} are not among {list(spec.values)}")
    return out


def _sample(spec: Field, n: int, rng: np.random.Generator, *, unique: bool) -> pa.Array:
    if spec.kind == "time":
        start = datetime(2026, 1, 1, tzinfo=UTC)
        return pa.array([start + timedelta(seconds=int(s)) for s in rng.integers(0, 10**7, n)], TIME)
    if spec.kind == "flag":
        return pa.array(rng.random(n) < 0.5)
    if spec.kind in ("number", "count"):
        low = 0.0 if spec.low is None else spec.low
        high = low + 1.0 if spec.high is None else spec.high
        values = low + (high - low) * (0.01 + 0.98 * rng.random(n))
        counted = np.arange(n) + int(low) if unique and spec.kind == "count" else values
        return pa.array(counted).cast(spec.type, safe=False)
    if spec.values:
        return pa.array(rng.choice(spec.values, n).tolist(), pa.string())
    names = [f"{spec.name}_{i}" for i in (range(n) if unique else rng.integers(0, max(n // 3, 1), n))]
    return pa.array(names, pa.string())


def _f(kind: str) -> Any:
    def make(name: str, doc: str, unit: str = "", **more: Any) -> Field:
        return Field(name, kind, doc, unit, **more)

    return make


_id, _code, _text = _f("id"), _f("code"), _f("text")
_number, _count, _flag, _time = _f("number"), _f("count"), _f("flag"), _f("time")


def _interval(name: str, doc: str, unit: str) -> tuple[Field, Field, Field]:
    low = _number(f"{name}_lower", "lower end of its interval", unit, nullable=True)
    high = _number(f"{name}_upper", "upper end of its interval", unit, nullable=True)
    return _number(name, doc, unit, nullable=True), low, high


def _p(name: str, doc: str, **more: Any) -> Field:
    return Field(name, "number", doc, "probability 0-1", low=0.0, high=1.0, **more)


def _money(name: str, doc: str, **more: Any) -> Field:
    return Field(name, "number", doc, "money", **more)


_CUSTOMER = _id("customer_id", "the unified customer")
_TREATMENT = _id("treatment_id", "what is sent; `none` is doing nothing")
_KNOWN = _time("known_at", "when it became known to us; unknown is when it happened", nullable=True)
CHANNELS = ("email", "sms", "push", "call")

ACTIONS = Table(
    "actions",
    "What may be proposed.",
    ("action_id",),
    (
        _id("action_id", "the action"),
        _text("issue", "business purpose"),
        _text("group", "theme under the issue"),
        _text("name", "name as people know it"),
        _money("margin", "earned per response where the customer's own margin is not known", low=0.0),
        _number("lever", "business weight on the value; 1 changes nothing", "factor", low=0.0, high=100.0),
        _time("starts_at", "first moment at which it may be proposed", nullable=True),
        _time("ends_at", "first moment at which it may no longer be proposed", nullable=True),
    ),
)
TREATMENTS = Table(
    "treatments",
    "Actions on channels: what is sent.",
    ("treatment_id",),
    (
        _TREATMENT,
        _id("action_id", "the action carried"),
        _text("channel", "the medium"),
        _money("cost", "per delivery", low=0.0),
        _count("cooldown_days", "days after a delivery without the same action", "days", low=0),
    ),
)
CUSTOMERS = Table(
    "customers",
    "One row per unified customer.",
    ("customer_id",),
    (
        _CUSTOMER,
        _id("external_id", "the id by which orchestration knows the customer", nullable=True),
        _time("joined_at", "first seen in any source"),
        *(_flag(f"can_{c}", f"consent to {c} in the CRM (later opt-outs are touches)") for c in CHANNELS),
        _text("timezone", "IANA zone of the customer", nullable=True),
    ),
    open_prefix="a_",
)
IDENTITIES = Table(
    "identities",
    "Which salted identifier belongs to which customer; no personal data in clear.",
    ("identifier_kind", "identifier_hash"),
    (
        _text("identifier_kind", "crm_id, email, phone, cookie, device, loyalty_card, ..."),
        _id("identifier_hash", "salted hash of the normalised identifier"),
        _CUSTOMER,
        _text("source", "where it was first seen"),
        _time("first_seen_at", "when it was first seen"),
    ),
)
ALIASES = Table(
    "aliases",
    "Customer ids that went into older ones when two customers turned out to be one person.",
    ("alias_id",),
    (
        _id("alias_id", "the id that went"),
        _CUSTOMER,
        _flag("is_pending", "whether rows of orders, events, touches and identities still carry it on disk"),
    ),
)
SUPPRESSED = Table(
    "suppressed",
    "Identifiers of persons who asked to be forgotten, hashed again: rows that carry one are passed over.",
    ("tombstone",),
    (_id("tombstone", "hash of a salted hash"),),
)
INGESTED = Table(
    "ingested",
    "Which raw files the history was made of.",
    ("source", "file"),
    (
        _text("source", "name of the source"),
        _text("file", "file within the source, or the table of a database"),
        _id("content_hash", "hash of its content and of all settings that its rows depend on"),
        _count("n_rows", "rows in it", low=0),
        _count("n_quarantined", "of these, rows that cannot be used", low=0),
    ),
)
ORDERS = Table(
    "orders",
    "Purchases and returns.",
    ("order_id",),
    (
        _id("order_id", "the order"),
        _CUSTOMER,
        _time("ordered_at", "when it was placed"),
        _money("revenue", "net revenue; negative for a return"),
        _money("margin", "revenue less cost of goods; negative for a return"),
        _count("n_items", "pieces in the order", low=0),
        _flag("is_return", "whether goods came back"),
        _KNOWN,
    ),
)
EVENTS = Table(
    "events",
    "What customers did: web and app events, service tickets.",
    ("event_id",),
    (
        _id("event_id", "the event"),
        _CUSTOMER,
        _time("occurred_at", "when it happened"),
        _text("kind", "visit, view, cart, search, ticket, complaint, ..."),
        _text("channel", "web, app, store, service, ...", nullable=True),
        _text("detail", "free detail, as the source gives it", nullable=True),
        _KNOWN,
    ),
)
TOUCHES = Table(
    "touches",
    "Contacts and what came of them.",
    ("touch_id",),
    (
        _id("touch_id", "the touch"),
        _CUSTOMER,
        _time("touched_at", "when it happened"),
        _text("channel", "the medium"),
        _code(
            "kind",
            "what happened",
            values=("sent", "delivered", "failed", "seen", "clicked", "refused", "unsubscribed"),
        ),
        _id("treatment_id", "what was sent; unknown where it was not ours", nullable=True),
        _id("decision_id", "the decision that caused it, where known", nullable=True),
        _money("cost", "spent on it", low=0.0),
        _KNOWN,
    ),
)
DECISIONS = Table(
    "decisions",
    "What was chosen for each customer of a batch, with the probability of that choice.",
    ("decision_id",),
    (
        _id("decision_id", "the decision; also the idempotency key of its delivery"),
        _id("batch_id", "the run of decisions it belongs to"),
        _CUSTOMER,
        _id("external_id", "the id by which orchestration knows the customer", nullable=True),
        _TREATMENT,
        _text("channel", "the medium; `none` for no contact"),
        _time("decided_at", "when"),
        _p("p_action", "chance with which the final treatment was chosen, after all limits"),
        _id("policy_id", "the policy and version that chose"),
        _id("experiment_id", "the experiment it belongs to", nullable=True),
        _text("arm", "the arm of the experiment", nullable=True),
        _p("p_arm", "share of the arm", nullable=True),
        _money("expected_value", "expected net value of the choice against no contact", nullable=True),
        _text("reason", "why this treatment, or why none"),
        _id("config_hash", "hash of the configuration it was made with"),
        _time("valid_until", "when it lapses if not delivered"),
        _time(
            "send_from",
            "first moment at which it may be sent (quiet hours); unknown for `none`",
            nullable=True,
        ),
        _time("send_until", "when it may no longer be sent", nullable=True),
    ),
    laws=("a holdout customer is given `none`", "p_action is above 0"),
)
CHOICES = Table(
    "choices",
    "Every candidate of every decision: eligible or why not, its belief, price and probability.",
    ("decision_id", "treatment_id"),
    (
        _id("decision_id", "the decision"),
        _TREATMENT,
        _flag("is_eligible", "whether it could be chosen"),
        _text("reason", "rule that removed it; empty if eligible"),
        _p("p_action", "chance of being chosen"),
        _money("mean", "believed net value against no contact", nullable=True),
        _money("se", "standard error of the belief", nullable=True, low=0.0),
        _money("price", "shadow price of the limits it uses", low=0.0),
    ),
    laws=("p_action sums to 1 over a decision", "p_action is 0 where not eligible"),
)
OUTCOMES = Table(
    "outcomes",
    "What came of a decision within its reward window, once the window has closed.",
    ("decision_id",),
    (
        _id("decision_id", "the decision"),
        _flag("is_delivered", "whether it reached the customer; true for `none`"),
        _flag("is_response", "whether the customer bought within the window"),
        _flag("is_click", "whether the customer clicked within the window", nullable=True),
        _flag("is_unsubscribe", "whether the customer opted out within the window"),
        _money("reward", "what counts within the window ([reward] says how much), net of the contact's cost"),
        _money("margin", "of purchases within the window, returns subtracted", nullable=True),
        _money("cost", "spent on the contact", nullable=True, low=0.0),
        _time("closed_at", "when the window closed"),
        _count("window_days", "length of the window", "days", low=1),
    ),
    laws=("closed_at is no earlier than decided_at + window_days",),
)
CORRECTIONS = Table(
    "corrections",
    "Outcomes that late data have changed since they were closed: the latest row counts from its moment on.",
    ("decision_id", "corrected_at"),
    (*OUTCOMES.fields, _time("corrected_at", "when the correction became known")),
)
FEEDBACK_FAULTS = Table(
    "feedback_faults",
    "Touches that name a decision but count for no outcome, with the reason.",
    ("touch_id",),
    (
        _id("touch_id", "the touch"),
        _id("decision_id", "the decision that it names"),
        _CUSTOMER,
        _time("touched_at", "when it happened"),
        _text("kind", "what happened"),
        _text("reason", "why it does not count"),
    ),
)
QUARANTINE = Table(
    "quarantine",
    "Rows that could not be used, with the reason: nothing is silently dropped.",
    ("source", "file", "row_number", "reason"),
    (
        _text("source", "name of the source"),
        _text("file", "file within the source"),
        _count("row_number", "row in the file, from 1 without its header", low=0),
        _text("reason", "what was wrong"),
        _text("raw", "the row as it stood, identifiers removed"),
    ),
)
FEATURES = Table(
    "features",
    "What was known of each customer at a moment.",
    ("customer_id", "as_of"),
    (_CUSTOMER, _time("as_of", "the moment looked back from")),
    open_prefix="f_",
    laws=("no feature changes when anything at or after as_of changes",),
)
EXAMPLES = Table(
    "examples",
    "Decisions with the features known then and the outcome of their closed window.",
    ("decision_id",),
    (
        _id("decision_id", "the decision"),
        _CUSTOMER,
        _time("as_of", "when it was decided"),
        _TREATMENT,
        _p("p_action", "logged chance of the treatment"),
        _flag("is_response", "whether the customer bought within the window"),
        _flag("is_click", "whether the customer clicked within the window", nullable=True),
        _money("reward", "net of the contact's cost"),
        _number("weight", "how much it counts; 1 if absent", "examples", nullable=True, low=0.0),
    ),
    open_prefix="f_",
)
SCORES = Table(
    "scores",
    "What the models believe of each customer and treatment.",
    ("customer_id", "treatment_id", "as_of"),
    (
        _CUSTOMER,
        _TREATMENT,
        _time("as_of", "the moment of the features"),
        _p("p_response", "chance of a response within the window if treated"),
        _number("uplift", "change of that chance against no contact", "probability", low=-1.0, high=1.0),
        _number("uplift_se", "standard error of the uplift", "probability", low=0.0),
        _money("value", "expected net value against no contact"),
        _id("model_id", "the model and version"),
    ),
)
ELIGIBILITY = Table(
    "eligibility",
    "Which treatments each customer may have in a batch, and which rule removed the others.",
    ("batch_id", "customer_id", "treatment_id"),
    (
        _id("batch_id", "the batch"),
        _CUSTOMER,
        _TREATMENT,
        _flag("is_eligible", "whether it could be chosen"),
        _text("reason", "rule that removed it; empty if eligible"),
    ),
)
BATCHES = Table(
    "batches",
    "One row per batch and arm: what was decided, at which prices, within which limits.",
    ("batch_id", "arm", "limit"),
    (
        _id("batch_id", "the batch"),
        _text("arm", "the arm decided"),
        _text("limit", "the limit: a channel's name, `budget`"),
        _time("decided_at", "when"),
        _number("available", "what the limit allowed in this arm", "contacts or money", low=0.0),
        _number("used", "what the decisions use", "contacts or money", low=0.0),
        _money("price", "shadow price per unit of the limit", low=0.0),
        _count("n_customers", "customers decided", low=0),
    ),
    laws=("used is at most available",),
)
ASSIGNMENTS = Table(
    "assignments",
    "Which arm of an experiment each customer is in.",
    ("experiment_id", "customer_id"),
    (
        _id("experiment_id", "the experiment"),
        _CUSTOMER,
        _text("arm", "the arm"),
        _time("assigned_at", "when the customer first came under the experiment"),
        _p("p_arm", "share of the arm"),
    ),
)
EFFECTS = Table(
    "effects",
    "Results of experiments: each arm against its control.",
    ("experiment_id", "metric", "arm", "segment"),
    (
        _id("experiment_id", "the experiment"),
        _text("metric", "what was measured, per customer"),
        _text("arm", "the arm"),
        _text("segment", "`all`, or the part of the customers"),
        _text("control", "the arm compared with"),
        _count("n", "customers in the arm", low=0),
        _count("n_control", "customers in the control", low=0),
        _number("mean", "mean of the arm", "the metric's", nullable=True),
        _number("mean_control", "mean of the control", "the metric's", nullable=True),
        _number("effect", "difference of the means, per customer", "the metric's", nullable=True),
        _number("lower", "lower end of the interval", "the metric's", nullable=True),
        _number("upper", "upper end of the interval", "the metric's", nullable=True),
        _number("relative_effect", "effect over the control's mean", "fraction", nullable=True),
        _number("relative_lower", "lower end of its interval", "fraction", nullable=True),
        _number("relative_upper", "upper end of its interval", "fraction", nullable=True),
        _number("always_lower", "lower end, valid at every look", "the metric's", nullable=True),
        _number("always_upper", "upper end, valid at every look", "the metric's", nullable=True),
        _p("p_value", "two-sided, for one reading at the planned end", nullable=True),
        _p("p_corrected", "corrected over segments and secondary metrics", nullable=True),
        _p(
            "p_heterogeneity",
            "chance of segments this different if none are (Cochran's Q), corrected",
            nullable=True,
        ),
        _number("level", "confidence level of the interval", "fraction", low=0.0, high=1.0),
        _text("method", "how it was computed"),
        _text("estimand", "what the number is an estimate of"),
        _text("reason", "why it is unknown, where it is; else empty"),
    ),
)
READOUTS = Table(
    "readouts",
    "The verdict of each experiment's arm against its control, by the rule fixed before the start.",
    ("experiment_id", "arm"),
    (
        _id("experiment_id", "the experiment"),
        _text("arm", "the arm"),
        _text("control", "the arm compared with"),
        _text("unit", "the unit of randomisation and of analysis"),
        _text("metric", "the primary metric"),
        _code(
            "verdict",
            "what to do",
            values=(
                *("ship", "keep running", "stop: harm", "stop: no difference worth having"),
                "cannot be read",
            ),
        ),
        _text("reason", "why, in one sentence"),
        _flag("is_early", "whether it came before the planned end: the estimate is then likely too high"),
        _count("n_looks", "looks taken so far", low=0),
        _p("p_srm", "chance of counts this uneven if assignment works; valid at any look", nullable=True),
        _p("p_traffic", "chance of treatments this uneven against their logged probabilities", nullable=True),
        _time("matured_at", "last matured moment: what the readout rests on", nullable=True),
        _time("ends_at", "planned end", nullable=True),
        _number(
            "days_left", "from the last matured moment to the planned end", "days", low=0.0, nullable=True
        ),
        _text("rule", "how the looks are corrected"),
        _text("estimand", "what the numbers are estimates of"),
    ),
)
LOOKS = Table(
    "looks",
    "What each scheduled look of an experiment saw, with intervals valid at all looks together.",
    ("experiment_id", "metric", "arm", "looked_at"),
    (
        _id("experiment_id", "the experiment"),
        _text("metric", "what was measured, per customer"),
        _text("arm", "the arm"),
        _time("looked_at", "the look"),
        _number("effect", "difference of the means, per customer", "the metric's", nullable=True),
        _number("se", "its standard error", "the metric's", nullable=True, low=0.0),
        _number("bound", "standard errors on each side", "standard errors", nullable=True, low=0.0),
        _number("lower", "lower end of the interval", "the metric's"),
        _number("upper", "upper end of the interval", "the metric's"),
        _number("scale", "what brings the look to the whole horizon, for margins", "factor", low=0.0),
    ),
)
_PARTS = {"y": "numerator", "d": "denominator", "x": "numerator before", "w": "denominator before"}
_PAIRS = [a + b for i, a in enumerate(_PARTS) for b in list(_PARTS)[i:]]
CUBE = Table(
    "cube",
    "Sufficient statistics of experiments, from which everything of a readout is computed.",
    ("experiment_id", "until", "arm", "phase", "segment", "metric"),
    (
        _id("experiment_id", "the experiment"),
        _time("until", "the day: facts before it count"),
        _text("arm", "the arm"),
        _count("phase", "phase of entry", low=0),
        _text("segment", "`all`, or the part of the customers"),
        _text("metric", "what was measured, per customer"),
        _count("n", "customers", low=0),
        _number("exposure_days", "since their assignment, summed over customers", "days", low=0.0),
        *(
            _number(f"shift_{k}", f"subtracted from the {v}", "the metric's", nullable=True)
            for k, v in _PARTS.items()
        ),
        *(
            _number(f"sum_{k}", f"sum of the {v}, shifted", "the metric's", nullable=True)
            for k, v in _PARTS.items()
        ),
        *(
            _number(f"sum_{k}", f"sum of products of {k[0]} and {k[1]}, shifted", "squared", nullable=True)
            for k in _PAIRS
        ),
    ),
)
CUBE_UNITS = Table(
    "cube_units",
    "Totals of each customer as of the cube's last day, which the next day starts from.",
    ("experiment_id", "customer_id", "metric"),
    (
        _id("experiment_id", "the experiment"),
        _CUSTOMER,
        _text("metric", "what is measured"),
        *(_number(k, f"{v}, not capped", "the metric's") for k, v in _PARTS.items()),
    ),
)
CUBE_STATES = Table(
    "cube_states",
    "What the cube of an experiment was made from: where a mark changed, it is built anew.",
    ("experiment_id",),
    (
        _id("experiment_id", "the experiment"),
        _time("until", "the cube's last day"),
        _time("entered", "customers assigned by then are in it"),
        _text("declared", "mark of the declaration"),
        _text("people", "mark of the customers"),
        _text("facts", "mark of the facts before the last day"),
    ),
)
ACTION_EFFECTS = Table(
    "action_effects",
    "What each treatment changed against no contact, from decisions whose probabilities learned.",
    ("treatment_id",),
    (
        _TREATMENT,
        _count("n", "decisions in which both it and no contact could be chosen", low=0),
        _count("n_chosen", "of these, decisions in which it was chosen", low=0),
        _money("effect", "reward per decision against no contact", nullable=True),
        _money("lower", "lower end of the interval, for one reading", nullable=True),
        _money("upper", "upper end of the interval, for one reading", nullable=True),
        _money("always_lower", "lower end of the interval valid at every look", nullable=True),
        _money("always_upper", "upper end of the interval valid at every look", nullable=True),
        _number("level", "confidence level of the intervals", "fraction", low=0.0, high=1.0),
        _number("max_weight", "largest 1 / p_action", "factor", low=0.0, nullable=True),
        _text("method", "how it was computed"),
        _text("estimand", "what the number is an estimate of"),
        _text("reason", "why it is unknown, where it is; else empty"),
    ),
)
CREDITS = Table(
    "credits",
    "Attribution: which touch earns which share of an order.",
    ("method", "order_id", "touch_id"),
    (
        _text("method", "rule or model"),
        _id("order_id", "the order"),
        _id("touch_id", "the touch"),
        _CUSTOMER,
        _text("channel", "the medium of the touch"),
        _id("treatment_id", "what was sent, where it was ours", nullable=True),
        _p("share", "part of the order's credit"),
        _money("credit", "part of the order's margin"),
        _money("revenue_credit", "part of the order's revenue", nullable=True),
    ),
    laws=("shares sum to 1 within order and method",),
)
ATTRIBUTION = Table(
    "attribution",
    "Attribution by channel and period: what a method credits against what randomisation says was caused.",
    ("method", "channel", "period"),
    (
        _text("method", "rule or model"),
        _text("channel", "the medium; `all` for all advertising together"),
        _text("period", "`all`, or a month of the touches as 2026-01"),
        _flag("is_advertising", "false for channels that only follow intent"),
        _number("conversions", "orders credited, in parts", "orders", nullable=True),
        _money("credited", "margin credited", nullable=True),
        _money("revenue", "revenue credited", nullable=True),
        _money("compared", "of the margin, what touches got that the margin caused speaks of", nullable=True),
        _money("cost", "spent on these touches", low=0.0, nullable=True),
        _number("incremental_conversions", "orders caused", "orders", nullable=True),
        _number("conversions_lower", "lower end of its interval", "orders", nullable=True),
        _number("conversions_upper", "upper end of its interval", "orders", nullable=True),
        _money("incremental", "margin caused", nullable=True),
        _money("se", "standard error of the margin caused", nullable=True, low=0.0),
        _money("lower", "lower end of the interval of the margin caused", nullable=True),
        _money("upper", "upper end of the interval of the margin caused", nullable=True),
        _number("ratio", "compared over caused", "times", nullable=True),
        _number("ratio_lower", "lower end of its interval", "times", nullable=True),
        _number("ratio_upper", "upper end of its interval", "times", nullable=True),
        *_interval("roas", "margin caused per money spent", "times"),
        *_interval("cost_per_conversion", "spent per order caused; no upper end: unbounded", "money"),
        _text("warning", "where the interval of the ratio excludes 1; else empty"),
        _text("source", "what the incremental numbers rest on: randomised, observed, combined, none"),
        _text("reason", "why a number is unknown, where it is; else empty"),
    ),
)
INCREMENTAL = Table(
    "incremental",
    "What contact caused and what it returned on its cost, by channel, action and period.",
    ("level", "item", "period"),
    (
        _text("level", "channel, action, or `all` for all contact against the holdout"),
        _text("item", "the channel or action"),
        _text("period", "`all`, or a month of the decisions as 2026-01"),
        _count("n", "decisions or customers that the estimate rests on", low=0),
        _money("cost", "spent on the contacts that the estimate speaks of", low=0.0, nullable=True),
        *_interval("margin", "margin caused, before cost", "money"),
        *_interval("conversions", "orders caused", "orders"),
        *_interval("roas", "margin caused per money spent", "times"),
        *_interval("cost_per_conversion", "spent per order caused; no upper end: unbounded", "money"),
        *_interval("marginal_return", "margin caused per money by a few more contacts", "times"),
        _text("source", "what it rests on: randomised, observed, combined, none"),
        _text("reason", "what is unknown and why; else empty"),
    ),
)
PATH_STATISTICS = Table(
    "path_statistics",
    "How customers come to order: path lengths, lags, frequent paths.",
    ("measure", "item"),
    (
        _text("measure", "length, lag_days, path, journeys"),
        _text("item", "the length, the days, the path, what was counted"),
        _number("conversions", "orders", "orders", low=0.0),
        _number("nulls", "journeys without an order", "journeys", low=0.0, nullable=True),
        _money("margin", "of the orders", nullable=True),
    ),
)
CLV = Table(
    "clv",
    "Customer lifetime value: expected discounted future margin.",
    ("customer_id", "as_of"),
    (
        _CUSTOMER,
        _time("as_of", "the moment of the forecast"),
        _count("n_repeat", "days with a purchase after the first", low=0),
        _number("recency_days", "first to last purchase", "days", low=0.0, nullable=True),
        _number("age_days", "first purchase to as_of", "days", low=0.0, nullable=True),
        _p("p_alive", "chance of still being a customer", nullable=True),
        _number("expected_orders", "purchases over the horizon", "orders", low=0.0, nullable=True),
        _number("orders_lower", "lower end of their 90% interval", "orders", low=0.0, nullable=True),
        _number("orders_upper", "upper end of their 90% interval", "orders", low=0.0, nullable=True),
        _money("expected_margin", "margin per purchase", nullable=True),
        _money("clv", "expected discounted margin over the horizon", nullable=True),
        _money("clv_at_risk", "worth if surely still a customer, less clv", low=0.0, nullable=True),
        _time("next_order_at", "median of the next purchase, if one comes by the horizon", nullable=True),
        _count("horizon_days", "the horizon", "days", low=1),
        _id("model_id", "the model that forecasts"),
        _text("reason", "why it is unknown, or what limits it; else empty"),
    ),
)
CLV_GROUPS = Table(
    "clv_groups",
    "Customer lifetime value by segment, acquisition channel and cohort.",
    ("attribute", "item"),
    (
        _text("attribute", "`all`, `cohort` (quarter of the first purchase) or an attribute of customers"),
        _text("item", "its value"),
        _count("n", "customers", low=0),
        _count("n_known", "of these, customers with a forecast", low=0),
        _p("p_alive", "mean chance of still being a customer", nullable=True),
        _number("expected_orders", "mean purchases over the horizon", "orders", low=0.0, nullable=True),
        _money("clv", "mean lifetime value", nullable=True),
        _money("clv_total", "lifetime value of all", nullable=True),
        _money("clv_at_risk", "what winning them back would save, of all", low=0.0, nullable=True),
    ),
)
CLV_GRID = Table(
    "clv_grid",
    "Customers by frequency and by time since the last purchase: how many, how alive, what they are worth.",
    ("repeats", "quiet"),
    (
        _text("repeats", "days with a purchase after the first: 0, 1, 2, 3-4, 5-9, 10+"),
        _text("quiet", "days since the last purchase: 0-29, 30-59, 60-89, 90-179, 180-364, 365+"),
        _count("repeats_from", "lower end of repeats", low=0),
        _count("quiet_from", "lower end of quiet", "days", low=0),
        _count("n", "customers", low=0),
        _p("p_alive", "mean chance of still being a customer", nullable=True),
        _number("expected_orders", "mean purchases over the horizon", "orders", low=0.0, nullable=True),
        _money("clv", "mean lifetime value", nullable=True),
    ),
)
CLV_SCORES = Table(
    "clv_scores",
    "How well the chosen models forecast what followed earlier moments (rolling origins).",
    ("origin_at", "part"),
    (
        _time("origin_at", "the moment of the forecast"),
        _text("part", "orders or value"),
        _number("days", "how far it looked", "days", low=0.0),
        _count("n", "customers", low=0),
        _number("mae", "mean absolute error of a customer", "orders or money", nullable=True),
        _number("rmse", "root of the mean squared error", "orders or money", nullable=True),
        _number("ratio", "total forecast over total observed", "times", nullable=True),
        _number("ngini", "normalised Gini: 1 ranks perfectly, 0 by chance", "fraction", nullable=True),
        _number(
            "top_decile",
            "part of the total that the tenth forecast highest brought",
            "fraction",
            nullable=True,
        ),
        _number("decile_mape", "mean relative error of ten groups by forecast", "fraction", nullable=True),
    ),
)
CLV_DECILES = Table(
    "clv_deciles",
    "Calibration of lifetime value on periods that the models had not seen, by tenths of the forecast.",
    ("origin_at", "part", "decile"),
    (
        _time("origin_at", "the moment of the forecast"),
        _text("part", "orders or value"),
        _count("decile", "1 is the lowest forecast", low=0),
        _number("forecast", "mean forecast", "orders or money"),
        _number("observed", "mean of what followed", "orders or money"),
        _count("n", "customers", low=1),
    ),
)
CLV_BACKTEST = Table(
    "clv_backtest",
    "How the candidates of customer lifetime value forecast the latest stretch of history.",
    ("part", "candidate"),
    (
        _text("part", "orders or value"),
        _text("candidate", "the model"),
        _number("loss", "mean loss on customers it had not seen the future of", "deviance"),
        _number("default_loss", "that of the default", "deviance"),
        _number("se", "standard error of the difference", "deviance", low=0.0),
    ),
)
POLICY_VALUES = Table(
    "policy_values",
    "Off-policy estimates: what a policy would have earned per decision.",
    ("policy_id", "estimator", "batch_id"),
    (
        _id("policy_id", "the policy judged"),
        _text("estimator", "how"),
        _id("batch_id", "the batch judged on, or `all`"),
        _money("value", "reward per decision", nullable=True),
        _money("se", "standard error", nullable=True),
        _money("lower", "lower end of the interval", nullable=True),
        _money("upper", "upper end of the interval", nullable=True),
        _number("ess", "effective sample size", "decisions", low=0.0),
        _count("n", "decisions", low=0),
        _number("max_weight", "largest importance weight", "factor", low=0.0),
        _text("reason", "why it is unknown, where it is; else empty"),
    ),
)
DIAGNOSTICS = Table(
    "diagnostics",
    "What off-policy estimates rest on: support, weights, tails, calibration of the logged probabilities.",
    ("policy_id", "check"),
    (
        _id("policy_id", "the policy judged"),
        _text("check", "what was looked at"),
        _code("status", "refused: no estimate may rest on it", values=("ok", "warning", "refused")),
        _number("value", "what was found", "as the check says", nullable=True),
        _number("limit", "from where on it is not ok", "as the check says", nullable=True),
        _text("note", "in words"),
    ),
)
ABLATIONS = Table(
    "ablations",
    "What each part of the policy is worth: the full policy against itself without the part.",
    ("versus", "method"),
    (
        _text(
            "versus", "without the part: random, response only, no levers, eligibility only, random scores"
        ),
        _code("method", "how the two were compared", values=("randomised arms", "off-policy")),
        _id("policy_id", "the full policy"),
        _money("value", "reward per decision of the full policy less that of the other", nullable=True),
        _money("lower", "lower end of the interval", nullable=True),
        _money("upper", "upper end of the interval", nullable=True),
        _number("level", "confidence level of the interval", "fraction", low=0.0, high=1.0),
        _count("n", "decisions it rests on", low=0),
        _text("reason", "why it is unknown, or a remark; else empty"),
    ),
)
VALUE_FINDER = Table(
    "value_finder",
    "Customers for whom nothing good can be proposed, in segments that can be read.",
    ("batch_id", "segment"),
    (
        _id("batch_id", "the batch looked at"),
        _text("segment", "conditions on features, in words"),
        _count("n", "customers", low=0),
        _count("n_nothing", "of these, customers without any eligible treatment of positive value", low=0),
        _money("best", "believed net value of the best eligible treatment, mean"),
        _money("blocked", "what the best treatment that a rule removed would add, mean", low=0.0),
        _text("reason", "rule that removes most treatments of these customers; empty if none does"),
    ),
)
SCENARIOS = Table(
    "scenarios",
    "What other limits, levers or rules would have made of a stored batch, by its prices solved anew.",
    ("scenario", "batch_id", "item"),
    (
        _text("scenario", "its name; `as decided` is the batch with the settings that it had"),
        _id("batch_id", "the stored batch"),
        _text("item", "`total`, or a limit"),
        _money("value", "believed net value of all customers", nullable=True),
        _money("value_lower", "lower end of its 95% interval, errors of belief independent", nullable=True),
        _money("value_upper", "upper end of its interval", nullable=True),
        _number("contacts", "expected contacts", "contacts", nullable=True, low=0.0),
        _money("cost", "expected cost", nullable=True, low=0.0),
        _number("available", "what the limit allows", "contacts or money", nullable=True, low=0.0),
        _number("used", "expected use of the limit", "contacts or money", nullable=True, low=0.0),
        _money("price", "what one more unit of the limit would add", nullable=True, low=0.0),
        _text("changes", "what was changed, in words; empty for `as decided`"),
    ),
)
PROMOTION_EVIDENCE = Table(
    "promotion_evidence",
    "The conditions of the gate when it was last asked.",
    ("check",),
    (
        _text("check", "what was asked"),
        _code("status", "unknown does not pass", values=("pass", "fail", "unknown")),
        _number("value", "what was found", "as the check says", nullable=True),
        _number("limit", "what it had to reach, or to keep below", "as the check says", nullable=True),
        _text("note", "in words"),
        _count("champion", "version of the champion", low=0),
        _count("challenger", "version of the challenger", low=0),
        _time("asked_at", "the moment looked back from"),
    ),
)
PROMOTIONS = Table(
    "promotions",
    "Who made which version the champion, when and on what evidence; rows are only ever added.",
    ("promotion_id",),
    (
        _id("promotion_id", "number of the record, as text"),
        _time("promoted_at", "the moment looked back from"),
        _code("what", "what was done", values=("promote", "rollback")),
        _id("policy", "the registered policy"),
        _count("from_version", "the champion before", low=0),
        _count("to_version", "the champion after", low=0),
        _text("approver", "who approved it"),
        _flag("is_passed", "whether the gate's conditions held"),
        _text("evidence", "the conditions as found, JSON"),
        _text("note", "why, in the approver's words"),
    ),
    laws=("rows are never changed or removed",),
)
SHADOWS = Table(
    "shadows",
    "What a registered policy would have decided beside the one that decided: logged, never delivered.",
    ("decision_id", "policy_id"),
    (
        _id("decision_id", "the decision that was made"),
        _id("batch_id", "its batch"),
        _CUSTOMER,
        _id("policy_id", "the policy in the shadow"),
        _TREATMENT,
        _p("p_action", "chance with which the policy in the shadow chose it"),
        _p("p_decided", "chance that it would have given to what was decided"),
        _money("expected_value", "expected net value of its choice against no contact", nullable=True),
    ),
)
LEARNING = Table(
    "learning",
    "What nightly learning tried on the latest closed decisions, and what it chose.",
    ("learnt_at", "capacity", "half_life_days"),
    (
        _time("learnt_at", "when"),
        _text("capacity", "candidate: constant, linear, trees, blend"),
        _number("half_life_days", "age at which an example weighs half; 0 weighs all alike", "days", low=0.0),
        _number("loss", "mean squared error of the effect on the latest decisions", "squared deviations"),
        _number("gain_se", "how much better than the default, in standard errors", "standard errors"),
        _flag("is_chosen", "whether the model was fitted so"),
        _count("n", "decisions validated on", low=0),
    ),
)
QUALITY = Table(
    "quality",
    "What ingestion found in each source.",
    ("source", "measure"),
    (
        _text("source", "name of the source, or `identity`"),
        _text("measure", "what was measured: rows_in, rows_kept, quarantined, duplicates, ..."),
        _number("value", "the finding", "as the measure says"),
        _text("note", "in words, where that helps"),
    ),
)

ALERTS = Table(
    "alerts",
    "What somebody should look at, as of the last nightly run.",
    ("alert", "subject"),
    (
        _code(
            "alert",
            "what it is about",
            values=(
                *("stale data", "SRM", "drift", "cap pressure", "empty batch"),
                *("silent batch", "value drop"),
            ),
        ),
        _text("subject", "the table, batch, arm, limit, feature or experiment"),
        _time("at", "the moment looked back from"),
        _code("status", "the finding", values=("ok", "warning", "unknown")),
        _number("value", "what was found", "as the note says", nullable=True),
        _number("limit", "where a warning begins", "as the value", nullable=True),
        _text("note", "in words"),
    ),
)
SUMMARY_BATCHES = Table(
    "summary_batches",
    "One row per batch and arm, for pages: how much was sent, what it cost, and what it was worth.",
    ("batch_id", "arm"),
    (
        _id("batch_id", "the batch"),
        _text("arm", "the arm of the experiment; `policy` where there was none"),
        _id("policy_id", "the policy that chose (the last by name where several did)"),
        _time("decided_at", "when"),
        _time("matures_at", "when the last reward window of the batch closes", nullable=True),
        _flag("is_matured", "whether every reward window of the batch has closed"),
        _count("n", "decisions, one per customer", low=0),
        _count("n_closed", "decisions whose reward window has closed", low=0),
        _count("n_contacts", "decisions other than `none`", low=0),
        _count("n_delivered", "contacts known to have reached the customer", low=0),
        _money("cost", "spent on the contacts, as reported", low=0.0),
        _number("mean", "reward per customer", "money", nullable=True),
        _money("effect", "reward per customer against the control of the same batch", nullable=True),
        _money("lower", "lower end of the 95% interval of the effect", nullable=True),
        _money("upper", "upper end of the 95% interval of the effect", nullable=True),
        _text("reason", "why the effect is unknown, where it is; else empty"),
    ),
)
SUMMARY_MIX = Table(
    "summary_mix",
    "How often each treatment was decided, by batch and arm, for pages.",
    ("batch_id", "arm", "treatment_id"),
    (
        _id("batch_id", "the batch"),
        _text("arm", "the arm of the experiment; `policy` where there was none"),
        _TREATMENT,
        _id("action_id", "the action carried; `none` for no contact"),
        _text("channel", "the medium; `none` for no contact"),
        _time("decided_at", "when"),
        _count("n", "decisions", low=0),
        _count("n_delivered", "of these, known to have reached the customer", low=0),
        _money("cost", "spent on them, as reported", low=0.0),
        _money("expected_value", "expected net value against no contact, summed", nullable=True),
    ),
)
SUMMARY_CHANNELS = Table(
    "summary_channels",
    "What was sent over each channel in all batches, for pages.",
    ("channel",),
    (
        _text("channel", "the medium; `none` for no contact"),
        _count("n", "decisions", low=0),
        _count("n_customers", "customers with at least one of them", low=0),
        _count("n_delivered", "of the decisions, known to have reached the customer", low=0),
        _money("cost", "spent on them, as reported", low=0.0),
    ),
)
SUMMARY_EFFECTS = Table(
    "summary_effects",
    "The effects for pages, also over all customers of the arm.",
    ("experiment_id", "metric", "arm", "segment"),
    (
        *EFFECTS.fields,
        _number("total", "effect times customers in the arm", "unit of the metric", nullable=True),
        _number("total_lower", "lower end of its interval", "unit of the metric", nullable=True),
        _number("total_upper", "upper end of its interval", "unit of the metric", nullable=True),
    ),
)
SUMMARY_ARMS = Table(
    "summary_arms",
    "Customers by arm against what the shares promise, for pages.",
    ("experiment_id", "arm"),
    (
        _id("experiment_id", "the experiment"),
        _text("arm", "the arm"),
        _count("n", "customers decided at least once", low=0),
        _number("n_expected", "customers that the arm's share promises", "customers", low=0.0, nullable=True),
        _p("p_srm", "chance of counts this uneven if assignment works (chi-square)", nullable=True),
    ),
)
SUMMARY_CREDITS = Table(
    "summary_credits",
    "Credit by method, channel and treatment, for pages.",
    ("method", "channel", "treatment_id"),
    (
        _text("method", "rule or model"),
        _text("channel", "the medium"),
        _id("treatment_id", "what was sent; `unknown` where it was not ours"),
        _count("n_orders", "orders with a share of credit", low=0),
        _money("credit", "margin credited"),
        _p("share", "part of all orders the method credits", nullable=True),
    ),
)
SUMMARY_CLV = Table(
    "summary_clv",
    "How many customers have which lifetime value, for pages.",
    ("bin",),
    (
        _count("bin", "number of the bin, lowest first", low=0),
        _money("lower", "lowest value of the bin"),
        _money("upper", "highest value of the bin"),
        _count("n", "customers", low=0),
        _money("total", "value of the bin's customers together"),
        _p("p_alive", "mean chance of still being a customer", nullable=True),
    ),
)
SUMMARY_NUMBERS = Table(
    "summary_numbers",
    "Single numbers for pages.",
    ("measure",),
    (
        _text("measure", "what was counted"),
        _number("value", "the number", "as its note says", nullable=True),
        _time("at", "the moment, where it is one", nullable=True),
        _text("note", "in words, where that helps"),
    ),
)
SUMMARY_SEGMENTS = Table(
    "summary_segments",
    "What was decided for which part of the customers, in all batches, for pages.",
    ("attribute", "segment", "arm", "treatment_id"),
    (
        _text("attribute", "attribute of customers"),
        _text("segment", "its value"),
        _text("arm", "the arm of the experiment; `policy` where there was none"),
        _TREATMENT,
        _id("action_id", "the action carried; `none` for no contact"),
        _text("channel", "the medium; `none` for no contact"),
        _count("n", "decisions", low=0),
        _count("n_delivered", "of these, known to have reached the customer", low=0),
        _money("cost", "spent on them, as reported", low=0.0),
        _money("expected_value", "expected net value against no contact, summed", nullable=True),
    ),
)
SUMMARY_ARBITRATION = Table(
    "summary_arbitration",
    "How the candidates of the last batch came to their rank, by arm and treatment, for pages.",
    ("batch_id", "arm", "treatment_id"),
    (
        _id("batch_id", "the batch"),
        _text("arm", "the arm of the experiment; `policy` where there was none"),
        _TREATMENT,
        _id("action_id", "the action carried; `none` for no contact"),
        _text("channel", "the medium; `none` for no contact"),
        _count("n", "customers of the arm", low=0),
        _count("n_eligible", "of these, customers who could be given it", low=0),
        _count("n_chosen", "of these, customers who were given it", low=0),
        _p("p_response", "mean chance of a response if treated, on a sample of customers", nullable=True),
        _number(
            "uplift",
            "mean change of that chance against no contact, on the sample",
            "probability",
            low=-1.0,
            high=1.0,
            nullable=True,
        ),
        _money(
            "value",
            "mean expected net value against no contact, of those who could be given it",
            nullable=True,
        ),
        _number("lever", "business weight on the value; 1 changes nothing", "factor", low=0.0, nullable=True),
        _money("cost", "per delivery", low=0.0),
        _money("price", "mean price of the limits it uses", low=0.0),
        _money("priority", "value less price: what candidates are ranked by", nullable=True),
        _p("p_action", "mean chance of being chosen, of those who could be given it", nullable=True),
    ),
)
SUMMARY_REMOVED = Table(
    "summary_removed",
    "How many candidates of the last batch each rule removed, for pages.",
    ("batch_id", "arm", "treatment_id", "reason"),
    (
        _id("batch_id", "the batch"),
        _text("arm", "the arm of the experiment; `policy` where there was none"),
        _TREATMENT,
        _text("reason", "rule that removed it; empty if eligible"),
        _count("n", "customers", low=0),
    ),
)
SUMMARY_CANDIDATES = Table(
    "summary_candidates",
    "Candidates of a sample of the last batch that a model decided, for what-if on pages.",
    ("customer_id", "treatment_id"),
    (
        _CUSTOMER,
        _TREATMENT,
        _id("batch_id", "the batch"),
        _time("decided_at", "when"),
        _flag("is_eligible", "whether it could be chosen"),
        _text("reason", "rule that removed it; empty if eligible"),
        _money("mean", "believed net value against no contact", nullable=True),
        _money("se", "standard error of the belief", nullable=True, low=0.0),
        _money("nuisance", "price of fatigue per contact", low=0.0),
        _number(
            "sampled", "part of the batch's customers that are in the sample", "fraction", low=0.0, high=1.0
        ),
    ),
)
SUMMARY_EXAMPLES = Table(
    "summary_examples",
    "A sample of the last batch's decisions to look at one by one, for pages.",
    ("decision_id",),
    (
        _id("decision_id", "the decision"),
        _CUSTOMER,
        _time("decided_at", "when"),
        _text("arm", "the arm of the experiment; `policy` where there was none"),
        _TREATMENT,
        _text("channel", "the medium; `none` for no contact"),
        _p("p_action", "chance with which it was chosen"),
        _money("expected_value", "expected net value against no contact", nullable=True),
        _text("reason", "why this treatment, or why none"),
    ),
)
SUMMARY_SPREADS = Table(
    "summary_spreads",
    "How much each metric varies between past customers by duration, for planning on pages.",
    ("experiment_id", "metric", "days"),
    (
        _id("experiment_id", "the experiment whose metrics they are"),
        _text("metric", "what is measured, per customer"),
        _count("days", "days that customers are watched", "days", low=1),
        _count("n", "customers that the experiment can have", low=0),
        _number("mean", "mean of the metric", "the metric's"),
        _number("sd", "standard deviation between customers", "the metric's", low=0.0),
        _number("sd_adjusted", "what is left of it after CUPED", "the metric's", low=0.0),
    ),
)
SUMMARY_SOURCES = Table(
    "summary_sources",
    "What ingestion made of each source, for pages.",
    ("source",),
    (
        _text("source", "name of the source"),
        _count("files", "files read", low=0, nullable=True),
        _count("rows_in", "rows found", low=0, nullable=True),
        _count("rows_kept", "rows that became history", low=0, nullable=True),
        _count("quarantined", "rows that cannot be used", low=0, nullable=True),
        _count("duplicates", "rows whose key a later row has", low=0, nullable=True),
        _count("conflicts", "rows that contradict another", low=0, nullable=True),
        _number("days_behind", "age of the newest row when it was read", "days", nullable=True),
    ),
)
SUMMARY_TABLES = Table(
    "summary_tables",
    "How full and how fresh each table of the history is, for pages.",
    ("table",),
    (
        _text("table", "the table"),
        _count("n_rows", "rows", low=0),
        _time("newest_at", "time of the newest row", nullable=True),
        _number("days_behind", "days from the newest row to the summary", "days", nullable=True),
    ),
)
SUMMARY_CONSENT = Table(
    "summary_consent",
    "Whom each channel may reach, for pages.",
    ("channel",),
    (
        _text("channel", "the medium"),
        _count("n", "customers", low=0),
        _count("n_consent", "of these, with consent in the CRM", low=0),
        _count("n_opted_out", "of these with consent, opted out since", low=0),
        _count("n_reachable", "with consent, not opted out, and known to orchestration", low=0),
        _number("share", "reachable of all customers", "fraction", low=0.0, high=1.0, nullable=True),
    ),
)
SUMMARY_QUARANTINE = Table(
    "summary_quarantine",
    "Rows that could not be used, by source and reason, for pages.",
    ("source", "reason"),
    (
        _text("source", "name of the source"),
        _text("reason", "what was wrong"),
        _count("n", "rows", low=0),
        _text("file", "a file in which it occurs"),
        _count("row_number", "a row of that file", low=0),
    ),
)
SUMMARY_CLUSTERS = Table(
    "summary_clusters",
    "The customers with most identifiers, where false merges would show, for pages.",
    ("customer_id",),
    (
        _CUSTOMER,
        _count("n_identifiers", "identifiers that name the customer", low=0),
        _count("n_kinds", "kinds among them", low=0),
        _text("kinds", "how many of each kind"),
        _time("first_seen_at", "when the first was seen"),
    ),
)
SUMMARY_CREDIT_PARTS = Table(
    "summary_credit_parts",
    "Credit by method, month, part of the customers and treatment, for pages.",
    ("method", "period", "audience", "channel", "treatment_id"),
    (
        _text("method", "rule or model"),
        _text("period", "`all`, or the month of the order as 2026-01"),
        _text("audience", "`all`, or the part of the customers as attribute=value"),
        _text("channel", "the medium"),
        _id("treatment_id", "what was sent; `unknown` where it was not ours"),
        _id("action_id", "the action carried; `unknown` where it was not ours"),
        _text("campaign", "issue and group of the action; `unknown` where it was not ours"),
        _count("n_orders", "orders with a share of credit", low=0),
        _money("credit", "margin credited"),
        _p("share", "part of all orders the method credits in this period and audience", nullable=True),
    ),
)
SUMMARY_ALERTS = Table(
    "summary_alerts",
    "What somebody should look at, for pages.",
    ("kind", "subject"),
    (
        _code(
            "kind",
            "what is the matter",
            values=(
                *("uneven arms", "harm", "verdict", "stale data", "thin batch", "unanswered batch"),
                *("limit pressed", "immature", "credit disagrees", "drift", "value drop", "run failed"),
            ),
        ),
        _text("subject", "the experiment, table, batch, limit or method concerned"),
        _code("severity", "how bad", values=("error", "warning", "info")),
        _number("value", "what was found", "as the kind says", nullable=True),
        _number("limit", "what was expected", "as the kind says", nullable=True),
        _text("note", "in words"),
    ),
)
SUMMARY_AT_RISK = Table(
    "summary_at_risk",
    "The customers of whom most lifetime value is at risk, and what the last batch did for them, for pages.",
    ("customer_id",),
    (
        _CUSTOMER,
        _money("clv_at_risk", "worth if surely still a customer, less clv", low=0.0),
        _money("clv", "expected discounted margin over the horizon", nullable=True),
        _p("p_alive", "chance of still being a customer", nullable=True),
        _count("n_repeat", "days with a purchase after the first", low=0),
        _number("quiet_days", "days since the last purchase", "days", low=0.0, nullable=True),
        _id("treatment_id", "what the last batch gave; unknown where it decided nothing", nullable=True),
        _text("reason", "why", nullable=True),
    ),
)
SUMMARY_RETAINED = Table(
    "summary_retained",
    "What the last batch did for customers by how much lifetime value is at risk, for pages.",
    ("band", "channel"),
    (
        _count("band", "fifth of the customers by lifetime value at risk, 1 is the highest", low=1),
        _text("channel", "the medium; `none` for no contact"),
        _count("n", "decisions", low=0),
        _number("share", "of the band's decisions", "fraction", low=0.0, high=1.0),
        _money("clv_at_risk", "lifetime value at risk of these customers", low=0.0),
    ),
)
SUMMARY_MODELS = Table(
    "summary_models",
    "Registered versions of the policy's model with their measures, for pages.",
    ("version",),
    (
        _count("version", "number of the version, from 1", low=1),
        _text("alias", "champion, challenger, or empty"),
        _time("created_at", "when it was registered", nullable=True),
        _time("trained_at", "outcomes closed by then were learnt from", nullable=True),
        _id("model_id", "hash of the model's content", nullable=True),
        _id("run_id", "the MLflow run that made it"),
        _text("link", "path of the run on MLflow's pages"),
        _number("n_examples", "decisions learnt from", "decisions", nullable=True, low=0.0),
        _p("base_rate", "share of them that responded", nullable=True),
        _p("auc", "chance that a responder is scored above another customer", nullable=True),
        _number("log_loss", "mean log loss on customers it had not seen", "nats", nullable=True),
        _number("log_loss_constant", "that of the base rate alone", "nats", nullable=True),
        _number("ece", "mean gap between predicted and observed chance", "probability", nullable=True),
        _number("qini", "gain over contacting at random", "as the model's card says", nullable=True),
        _number("qini_lower", "lower end of its interval", "as the model's card says", nullable=True),
        _number("qini_upper", "upper end of its interval", "as the model's card says", nullable=True),
    ),
)
SUMMARY_CALIBRATION = Table(
    "summary_calibration",
    "Observed against predicted chance of the champion, for pages.",
    ("bin",),
    (
        _count("bin", "number of the bin, lowest first", low=0),
        _count("n", "decisions", low=0),
        _p("predicted", "mean predicted chance"),
        _p("observed", "share that responded"),
    ),
)
SUMMARY_QINI = Table(
    "summary_qini",
    "Gain of contacting the best share first, of the champion, for pages.",
    ("share",),
    (
        _number("share", "share of customers contacted, best first", "fraction", low=0.0, high=1.0),
        _number("qini", "gain over no contact", "responses"),
        _number("random", "gain of contacting as many at random", "responses"),
    ),
)
SUMMARY_DECILES = Table(
    "summary_deciles",
    "Measured against predicted uplift of the champion by decile, for pages.",
    ("decile",),
    (
        _count("decile", "1 is the highest predicted uplift", low=1),
        _count("n", "decisions", low=0),
        _number("predicted", "mean predicted change of the chance to respond", "probability"),
        _number("observed", "measured change", "probability", nullable=True),
        _number("lower", "lower end of its interval", "probability", nullable=True),
        _number("upper", "upper end of its interval", "probability", nullable=True),
    ),
)
SUMMARY_IMPORTANCE = Table(
    "summary_importance",
    "How much each feature moves the champion's predictions (mean absolute SHAP value), for pages.",
    ("model", "feature"),
    (
        _text("model", "response or uplift"),
        _text("feature", "the feature"),
        _number("importance", "mean absolute contribution", "log-odds", low=0.0),
    ),
)
SUMMARY_DEPENDENCE = Table(
    "summary_dependence",
    "How the champion's response depends on its most important features, for pages.",
    ("feature", "bin"),
    (
        _text("feature", "the feature"),
        _count("bin", "number of the bin, lowest values first", low=0),
        _number("value", "mean of the feature in the bin", "the feature's"),
        _number("contribution", "mean SHAP value in the bin", "log-odds"),
        _number("lower", "10th percentile of the SHAP values", "log-odds"),
        _number("upper", "90th percentile of the SHAP values", "log-odds"),
        _count("n", "customers", low=0),
    ),
)
SUMMARY_DRIFT = Table(
    "summary_drift",
    "How far each feature has moved since the champion was trained, for pages.",
    ("feature",),
    (
        _text("feature", "the feature"),
        _number("psi", "population stability index over ten bins", "index", low=0.0, nullable=True),
        _number("mean_before", "mean when it was trained", "the feature's", nullable=True),
        _number("mean_now", "mean in the last batch", "the feature's", nullable=True),
        _p("unknown_before", "share unknown when it was trained"),
        _p("unknown_now", "share unknown in the last batch"),
    ),
)
SUMMARY_CHECKS = Table(
    "summary_checks",
    "Checks of the champion and of what it learns from, for pages.",
    ("check", "subject"),
    (
        _code(
            "check",
            "what was asked",
            values=("never chosen", "no positives", "too young", "low discrimination", "leaking feature"),
        ),
        _text("subject", "the treatment, model or feature"),
        _code("status", "how it stands", values=("ok", "warning")),
        _number("value", "what was found", "as the check says", nullable=True),
        _number("limit", "from where on it is a warning", "as the check says", nullable=True),
    ),
)

ALL: tuple[Table, ...] = (
    ACTIONS,
    TREATMENTS,
    CUSTOMERS,
    IDENTITIES,
    ALIASES,
    INGESTED,
    SUPPRESSED,
    ORDERS,
    EVENTS,
    TOUCHES,
    DECISIONS,
    CHOICES,
    OUTCOMES,
    CORRECTIONS,
    FEEDBACK_FAULTS,
    QUARANTINE,
    QUALITY,
    ALERTS,
    FEATURES,
    EXAMPLES,
    SCORES,
    ELIGIBILITY,
    BATCHES,
    ASSIGNMENTS,
    EFFECTS,
    READOUTS,
    LOOKS,
    CUBE,
    CUBE_UNITS,
    CUBE_STATES,
    ACTION_EFFECTS,
    CREDITS,
    ATTRIBUTION,
    INCREMENTAL,
    PATH_STATISTICS,
    CLV,
    CLV_BACKTEST,
    CLV_GROUPS,
    CLV_GRID,
    CLV_SCORES,
    CLV_DECILES,
    POLICY_VALUES,
    DIAGNOSTICS,
    ABLATIONS,
    VALUE_FINDER,
    SCENARIOS,
    PROMOTION_EVIDENCE,
    PROMOTIONS,
    SHADOWS,
    LEARNING,
    SUMMARY_BATCHES,
    SUMMARY_MIX,
    SUMMARY_CHANNELS,
    SUMMARY_EFFECTS,
    SUMMARY_ARMS,
    SUMMARY_CREDITS,
    SUMMARY_CLV,
    SUMMARY_NUMBERS,
    SUMMARY_SEGMENTS,
    SUMMARY_ARBITRATION,
    SUMMARY_REMOVED,
    SUMMARY_CANDIDATES,
    SUMMARY_EXAMPLES,
    SUMMARY_SPREADS,
    SUMMARY_SOURCES,
    SUMMARY_TABLES,
    SUMMARY_CONSENT,
    SUMMARY_QUARANTINE,
    SUMMARY_CLUSTERS,
    SUMMARY_CREDIT_PARTS,
    SUMMARY_ALERTS,
    SUMMARY_AT_RISK,
    SUMMARY_RETAINED,
    SUMMARY_MODELS,
    SUMMARY_CALIBRATION,
    SUMMARY_QINI,
    SUMMARY_DECILES,
    SUMMARY_IMPORTANCE,
    SUMMARY_DEPENDENCE,
    SUMMARY_DRIFT,
    SUMMARY_CHECKS,
)
BY_NAME: Mapping[str, Table] = {table.name: table for table in ALL}


@dataclass(frozen=True)
class Law:
    """A rule across tables, as a query that returns the rows that break it.

    Attributes:
        needs: Tables that must be present for the law to be checked.
        sql: DuckDB query over those tables; no row means that the law holds.
    """

    name: str
    needs: tuple[str, ...]
    sql: str


LAWS: tuple[Law, ...] = (
    Law(
        "chosen treatments exist in the catalog",
        ("decisions", "treatments"),
        "from decisions anti join treatments using (treatment_id) where treatment_id <> 'none'",
    ),
    Law(
        "probabilities within a decision sum to 1",
        ("choices",),
        "select decision_id from choices group by 1 having abs(sum(p_action) - 1) > 1e-9",
    ),
    Law(
        "the chosen treatment's probability is the decision's p_action",
        ("decisions", "choices"),
        "select d.decision_id from decisions d join choices c using (decision_id, treatment_id)"
        " where abs(d.p_action - c.p_action) > 1e-9 or d.p_action <= 0",
    ),
    Law(
        "not eligible means probability 0",
        ("choices",),
        "from choices where not is_eligible and p_action > 0",
    ),
    Law(
        "an outcome closes no earlier than its window",
        ("decisions", "outcomes"),
        "select decision_id from outcomes join decisions using (decision_id)"
        " where closed_at < decided_at + to_days(window_days::integer)",
    ),
    Law(
        "credit shares sum to 1 within order and method",
        ("credits",),
        "select method, order_id from credits group by 1, 2 having abs(sum(share) - 1) > 1e-9",
    ),
    Law("no limit is exceeded", ("batches",), "from batches where used > available + 1e-9"),
    Law(
        "a holdout customer is given none",
        ("decisions",),
        "from decisions where arm = 'holdout' and treatment_id <> 'none'",
    ),
)


def dictionary() -> str:
    """Print the data dictionary, in Markdown (`docs/data-dictionary.md` is this text)."""
    rules = (__doc__ or "").split("\n", 2)[2]
    head = f"# Data dictionary\n\nPrinted from `nba/tables.py`; do not edit.\n\n{rules}"
    laws = "\n".join(f"- {law.name} ({', '.join(law.needs)})" for law in LAWS)
    pages: Sequence[str] = [table.page() for table in ALL]
    return head.rstrip() + "\n\n" + "\n".join(pages) + f"\n## Laws across tables\n\n{laws}\n"
