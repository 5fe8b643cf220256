"""Typed settings of a workspace, read from its `nba.toml`.

Every stage takes the part that concerns it; nothing else reads the file. Errors name the key, what was
found and what is allowed, all faults at once.
"""

import csv as text_csv
import hashlib
import inspect
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pyarrow as pa
from pyarrow import csv
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from nba import tables
from nba.catalog import Catalog
from nba.errors import MissingError, SettingsError

FILE = "nba.toml"
# Experiments may also be declared here, beside or instead of `[[experiments]]`.
DECLARED = "experiments"
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Money = Annotated[float, Field(ge=0.0)]
OtherAlias = Annotated[str, Field(pattern=r"^alias:[a-z0-9_-]+$")]
# What experiments can count or sum per customer; pipelines/analyze.py says how.
MEASURES = (
    *("margin", "revenue", "orders", "items", "returns"),
    *("cost", "contacts", "clicks", "unsubscribes", "visits", "tickets", "complaints"),
)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Workspace(_Frozen):
    """What the workspace is.

    Attributes:
        name: Its name, also of its MLflow experiment and registered policy.
        currency: ISO code in which all money is.
        timezone: IANA zone of source times that carry none.
        seed: Seed of all randomness that is not hashed by key.
        tracking: MLflow tracking URI; absent, `mlruns/` of the checkout. MLflow's own variables win.
        memory_gb: Memory that reading sources may take; what does not fit is spilled to disk.
    """

    name: str
    currency: str = "EUR"
    timezone: str = "UTC"
    seed: int = 0
    tracking: str | None = None
    memory_gb: Annotated[float, Field(ge=0.5)] = 4.0


class Source(_Frozen):
    """One raw source and how its columns map to a table of the contract.

    Attributes:
        name: How reports call it.
        table: customers, orders, events or touches.
        path: Files, relative to the workspace; may hold `*`. `{data}` stands for the folder or file
            that the user gives with `--data`.
        format: csv, jsonl or parquet; sql for a table or query of a database.
        url: Of the database (sql), such as `postgresql://reader:${DB_PASSWORD}@host/shop`; `${NAME}` stands
            for an environment variable.
        query: Name of the table, or the whole query (sql).
        encoding, delimiter, decimal: How a text file is written.
        identifiers: Identifier kind to source column (crm_id, email, phone, cookie, device, ...).
        columns: Contract field to source column.
        products: Contract field to source columns that are multiplied (pieces and price, for example).
        constants: Contract field to a fixed value; where the field is mapped too, it fills the blanks.
        values: Contract field to a mapping of source values to contract values.
        margin_share: Margin as a share of revenue, where no column gives the margin.
        aggregate: Rows with the same key are lines of one thing: numbers are summed, the first time and
            otherwise the last known value count. Without it they are duplicates, and the last one counts.
        time_format: How times are written where not ISO or epoch, as of `strptime` (`%d/%m/%Y %H:%M`); of
            several, the first that fits counts, and `iso` stands for ISO or epoch.
        known_after_hours: Hours after which a row is known, where no column is mapped to `known_at`; a
            look back from a moment does not see what was not known by then.
        timezone: IANA zone of times without offset; the workspace's if absent.
        country: Two-letter country of phone numbers without prefix.
        max_bad_share: More unusable rows than this stop the run.
        optional: Whether it is fine that there is no file yet.
    """

    name: str
    table: Literal["customers", "orders", "events", "touches"]
    path: str = ""
    format: Literal["csv", "jsonl", "parquet", "sql"] = "csv"
    url: str | None = None
    query: str | None = None
    encoding: str = "utf-8"
    delimiter: str = ","
    decimal: str = "."
    identifiers: dict[str, str] = Field(min_length=1)
    columns: dict[str, str]
    products: dict[str, tuple[str, ...]] = {}
    constants: dict[str, str | float | bool] = {}
    values: dict[str, dict[str, str | float | bool]] = {}
    margin_share: Annotated[float, Field(ge=-1.0, le=1.0)] | None = None
    aggregate: bool = False
    time_format: str | tuple[str, ...] | None = None
    known_after_hours: Annotated[float, Field(ge=0)] = 0.0
    timezone: str | None = None
    country: str = "ES"
    max_bad_share: Share = 0.5
    optional: bool = False

    @model_validator(mode="after")
    def _is_somewhere(self) -> "Source":
        wanted = ("url", "query") if self.format == "sql" else ("path",)
        absent = [name for name in wanted if not getattr(self, name)]
        if absent:
            raise ValueError(f"{' and '.join(absent)} missing; format is {self.format!r}")
        return self


class Identity(_Frozen):
    """How identifiers become customers.

    Attributes:
        max_customers: An identifier shared by more CRM ids than this links nobody.
        external: Identifier kind by which orchestration knows customers.
        exclusive: Kinds of which a customer has one identifier at most: of links that would join two, the
            older one stands. Add the external kind if the CRM holds nobody twice.
        weak: Kinds that several people may share; they never join two customers with external ids.
        email_ignore_case: Whether the case of mailboxes does not count (that of domains never does).
        email_ignore_dots, email_ignore_tags: Domains in whose mailboxes dots, or +tags, do not count.
    """

    max_customers: int = Field(default=3, ge=1)
    external: str = "crm_id"
    exclusive: tuple[str, ...] = ("loyalty_card",)
    weak: tuple[str, ...] = ("cookie", "device")
    email_ignore_case: bool = True
    email_ignore_dots: tuple[str, ...] = ("gmail.com", "googlemail.com")
    email_ignore_tags: tuple[str, ...] = ("gmail.com", "googlemail.com")


class Bounds(_Frozen):
    """From where on a finding warns, and from where on it stops the run.

    Attributes:
        warn, stop: The thresholds; absent ones never do.
    """

    warn: float | None = None
    stop: float | None = None


class QualityRules(_Frozen):
    """What warns, and what stops an ingestion before anything is written.

    Each is a table with `warn` and `stop`, such as `volume = { warn = 0.5, stop = 0.1 }`.

    Attributes:
        quarantined, duplicates: Share of a source's rows.
        behind: Days that a source's newest row is behind that of the freshest source.
        stale: Days since a table's newest row.
        future: Share of rows after the moment of the run.
        early: Share of rows that were known before they happened.
        volume: Rows of the last whole day as a share of the usual; lower is worse.
        references: Share of touches that name a treatment or decision that is not known.
        nulls: Share of unknown values, by field, such as `"touches.treatment_id"`.
        consent: Share of customers, by channel; lower is worse.
    """

    quarantined: Bounds = Bounds(warn=0.05)
    duplicates: Bounds = Bounds(warn=0.2)
    behind: Bounds = Bounds(warn=14)
    stale: Bounds = Bounds(warn=8)
    future: Bounds = Bounds(warn=0.001)
    early: Bounds = Bounds(warn=0.001)
    volume: Bounds = Bounds(warn=0.3)
    references: Bounds = Bounds(warn=0.01)
    nulls: dict[str, Bounds] = {}
    consent: dict[str, Bounds] = {}


class OwnFeature(_Frozen):
    """A feature of the company's own, computed with the others in training and scoring.

    Attributes:
        name: Column name, with the prefix `f_`.
        unit: Unit of its values.
        doc: What it means, in one phrase.
        source: orders, events, touches, decisions or customers.
        sql: DuckDB aggregate over the source's rows of one customer that were known; `age` is the days
            from the row's time to the moment. For customers a plain expression over the one row.
        absent: Value of a customer without rows; unknown if left out.
    """

    name: Annotated[str, Field(pattern="^f_[a-z][a-z0-9_]*$")]
    unit: str
    doc: str
    source: Literal["orders", "events", "touches", "decisions", "customers"]
    sql: str
    absent: float | None = None


class CatalogFiles(_Frozen):
    """The two CSV files of the catalog.

    Attributes:
        actions, treatments: Path of the file, relative to the workspace.
    """

    actions: str = "catalog/actions.csv"
    treatments: str = "catalog/treatments.csv"


class Reward(_Frozen):
    """What counts as the outcome of a decision.

    Attributes:
        window_days: Days after the decision in which orders count.
        unsubscribe_cost: Money that an opt-out is worth, subtracted from the reward and the value of contact.
        margin_share: Part of the margin that counts; 0 leaves only the values below.
        response_value: Money that a purchase is worth beside its margin.
        click_value: Money that a click is worth.
        correction_days: Days after its window within which what arrives late still corrects an outcome.
        clv_actions: Retention actions: a response to them is worth its margin and the lifetime value that it
            saves (`clv_at_risk` of the `clv` table).
    """

    window_days: int = Field(default=14, ge=1, le=365)
    unsubscribe_cost: Money = 0.0
    clv_actions: tuple[str, ...] = ()
    margin_share: Share = 1.0
    response_value: Money = 0.0
    click_value: Money = 0.0
    correction_days: int = Field(default=30, ge=0, le=365)


class Volume(_Frozen):
    """How many contacts there may or should be, over all customers.

    Attributes:
        name: Of the limit, as reports call it.
        channels, actions, groups: What counts; all that are given must fit, empty is all.
        most: At most so many; held exactly. None is no limit.
        least: At least so many in expectation, even where they are worth less than nothing.
        per: batch, or day (since the workspace's midnight, earlier batches counted).
    """

    name: str = Field(min_length=1)
    channels: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    most: Annotated[int, Field(ge=0)] | None = None
    least: int = Field(default=0, ge=0)
    per: Literal["batch", "day"] = "batch"

    @model_validator(mode="after")
    def _limits_something(self) -> "Volume":
        if self.most is None and self.least == 0:
            raise ValueError(f"volume {self.name!r} needs most, least or both")
        if self.most is not None and self.least > self.most:
            raise ValueError(f"volume {self.name!r} asks for at least {self.least} and at most {self.most}")
        return self


class Limits(_Frozen):
    """Limits of one batch over all customers.

    Attributes:
        capacity: Channel to contacts per batch; a channel without one is unlimited.
        budget: Money per batch; None is unlimited.
        contact_days, max_contacts: A customer gets at most so many contacts in so many days.
        volumes: Further limits, per channel, action, group and day, from above and below.
    """

    capacity: dict[str, Annotated[int, Field(ge=0)]] = {}
    budget: Money | None = None
    contact_days: int = Field(default=28, ge=1)
    max_contacts: int = Field(default=3, ge=1)
    volumes: tuple[Volume, ...] = ()


class Rule(_Frozen):
    """A condition of the engagement policy: a candidate stays where it is true.

    Attributes:
        name: Of the rule; a removed candidate keeps it as its reason.
        stage: eligibility (may have it), applicability (makes sense now) or suitability (in the customer's
            interest).
        keep: SQL condition over features (`f_...`), columns of customers and `decided_at`; unknown removes.
        issues, groups, actions, treatments, channels: Whom it concerns; empty is all.
    """

    name: str = Field(min_length=1)
    stage: Literal["eligibility", "applicability", "suitability"] = "eligibility"
    keep: str
    issues: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    treatments: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()


class Purpose(_Frozen):
    """Consent for a purpose, beside that for the channel.

    Attributes:
        name: Of the purpose.
        column: Flag of customers that holds it (`a_...`); unknown is no.
        issues: Issues that serve this purpose; empty is all.
        channels: Channels on which it is asked for; empty is all.
    """

    name: str = Field(min_length=1)
    column: str
    issues: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()


class ContactPolicy(_Frozen):
    """A pause after what came of contacts.

    Attributes:
        name: Of the policy; a removed candidate keeps it as its reason.
        after: What is counted: sent, seen, clicked, refused, unsubscribed or bought (a response within the
            reward window, known once that has closed).
        times: How often it must have happened.
        within_days: In how many days; None is as long as the pause. A day is 24 hours.
        pause_days: Days without it, from the last time on.
        level: What is counted and paused: treatment, action, group, issue, channel or everything.
        only: Names at that level that it concerns; empty is all.
    """

    name: str = Field(min_length=1)
    after: Literal["sent", "seen", "clicked", "refused", "unsubscribed", "bought"]
    times: int = Field(default=1, ge=1)
    within_days: Annotated[float, Field(gt=0)] | None = None
    pause_days: Annotated[float, Field(gt=0)]
    level: Literal["treatment", "action", "group", "issue", "channel", "everything"] = "action"
    only: tuple[str, ...] = ()


class FrequencyCap(_Frozen):
    """How often one customer may be contacted.

    Attributes:
        name: Of the cap; a removed candidate keeps it as its reason.
        most: Contacts within the window.
        days: Rolling window: contacts less than so many times 24 hours ago, whatever clocks show.
        calendar: Window that begins at the customer's midnight: day, week (from Monday) or month.
        level: What is counted: treatment, action, group, issue, channel or everything.
        only: Names at that level that it concerns; empty is each.
    """

    name: str = Field(min_length=1)
    most: int = Field(ge=0)
    days: Annotated[float, Field(gt=0)] | None = None
    calendar: Literal["day", "week", "month"] | None = None
    level: Literal["treatment", "action", "group", "issue", "channel", "everything"] = "everything"
    only: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _has_one_window(self) -> "FrequencyCap":
        if (self.days is None) == (self.calendar is None):
            raise ValueError(f"cap {self.name!r} needs either days or calendar")
        return self


Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEKDAYS: tuple[Weekday, ...] = get_args(Weekday)


class SendWindow(_Frozen):
    """When contacts may go out, by the customer's own clock.

    Attributes:
        channels: Channels that it concerns; empty is all. The first window that names a channel counts.
        days: Allowed weekdays: mon, tue, wed, thu, fri, sat, sun.
        opens, closes: Allowed hours, HH:MM; closes may be 24:00.
    """

    channels: tuple[str, ...] = ()
    days: tuple[Weekday, ...] = WEEKDAYS
    opens: Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")] = "00:00"
    closes: Annotated[str, Field(pattern=r"^(([01]\d|2[0-3]):[0-5]\d|24:00)$")] = "24:00"

    @model_validator(mode="after")
    def _opens_before_it_closes(self) -> "SendWindow":
        if self.opens >= self.closes or not self.days:
            raise ValueError(f"opens {self.opens}, closes {self.closes}, days {list(self.days)}: never open")
        return self


class Engagement(_Frozen):
    """Who may have what, and when (the engagement policy).

    Attributes:
        issue_days: Days for which the action last given keeps its issue: other actions of the issue wait,
            on every channel; 0 is off.
        rules: Conditions.
        purposes: Consents beside those of the channels.
        contact_policies: Pauses.
        frequency_caps: Contacts per customer.
        send_windows: Quiet hours and allowed days.
    """

    issue_days: Annotated[float, Field(ge=0)] = 0.0
    rules: tuple[Rule, ...] = ()
    purposes: tuple[Purpose, ...] = ()
    contact_policies: tuple[ContactPolicy, ...] = ()
    frequency_caps: tuple[FrequencyCap, ...] = ()
    send_windows: tuple[SendWindow, ...] = ()

    @model_validator(mode="after")
    def _names_are_its_own(self) -> "Engagement":
        parts = (self.rules, self.purposes, self.contact_policies, self.frequency_caps)
        names = [one.name for part in parts for one in part]
        twice = sorted({name for name in names if names.count(name) > 1})
        if len(names) > 100:
            raise ValueError(f"{len(names)} rules, purposes, policies and caps; at most 100 are asked")
        if twice:
            raise ValueError(f"names {twice} stand twice; each rule, purpose, policy and cap needs its own")
        return self


class PolicySettings(_Frozen):
    """How the champion explores.

    Attributes:
        strategy: softmax, squarecb, thompson, epsilon_greedy, greedy or uniform.
        temperature: Money by which a worse treatment is e times less likely (softmax).
        scale: Factor of gamma (squarecb: above 1 is greedier) or of standard errors (thompson: below 1 is).
        floor: Chance spread evenly over all eligible treatments.
        valid_days: Days for which a decision may be delivered.
    """

    strategy: Literal["softmax", "squarecb", "thompson", "epsilon_greedy", "greedy", "uniform"] = "softmax"
    temperature: Annotated[float, Field(gt=0)] = 0.25
    scale: Annotated[float, Field(gt=0)] = 1.0
    floor: Share = 0.05
    valid_days: int = Field(default=7, ge=1)


class Arm(_Frozen):
    """One arm of the experiment and the policy that decides it.

    Attributes:
        name: How reports call it; the arm that receives nothing is `holdout`.
        share: Part of the customers, 0 to 1; all shares sum to 1.
        policy: `none` (holdout), `random`, `response_greedy`, an alias of the registered policy (`champion`,
            `challenger`, or `alias:NAME` for another), or
            `outside`: business as usual, which another system decides and this one only measures.
    """

    name: str
    share: Share
    policy: Literal["none", "random", "response_greedy", "champion", "challenger", "outside"] | OtherAlias


class Measured(_Frozen):
    """A metric of an experiment, per customer from the assignment on.

    Attributes:
        name: How reports call it.
        numerator: What is counted or summed: one of `MEASURES`.
        denominator: What it is divided by, for a ratio of totals; None is per customer.
        role: primary (one per experiment), secondary or guardrail.
        is_good: Whether more of it is good.
        planned_effect: Primary: the least effect worth having, in the metric's unit, over the planned
            duration (28 days where there is no end); the plan's size rests on it.
        margin: Guardrail: the loss that would be borne, in the metric's unit, over the same duration.
        is_adjusted: Whether the same measure before the assignment takes variance away (CUPED).
        cap: Totals above this are cut to it, before and after the assignment (winsorising); declared
            here, before the start, or not at all.
        quantile: Compares this quantile of the totals, 0 to 1, instead of their mean, by bootstrap, for
            one reading; only of secondary metrics without denominator.
    """

    name: str
    numerator: str
    denominator: str | None = None
    role: Literal["primary", "secondary", "guardrail"] = "secondary"
    is_good: bool = True
    planned_effect: Annotated[float, Field(ge=0)] = 0.0
    margin: Annotated[float, Field(ge=0)] = 0.0
    is_adjusted: bool = True
    cap: Annotated[float, Field(gt=0)] | None = None
    quantile: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _counts_something_known(self) -> "Measured":
        unknown = {self.numerator, self.denominator} - {None, *MEASURES}
        if unknown:
            raise ValueError(
                f"metric {self.name!r} counts {sorted(map(str, unknown))}; known are {list(MEASURES)}"
            )
        if self.role == "guardrail" and not self.margin > 0:
            found = f"guardrail {self.name!r} has margin {self.margin:g}"
            raise ValueError(f"{found}; expected the loss that would be borne, above 0")
        if self.quantile is not None and (self.role != "secondary" or self.denominator):
            raise ValueError(
                f"metric {self.name!r} has a quantile; expected a secondary metric without denominator"
            )
        return self


class Phase(_Frozen):
    """A change of shares while an experiment runs; a growing share takes only from shrinking ones.

    Attributes:
        starts_at: When it takes force.
        shares: Arm to its share from then on; all arms, summing to 1.
    """

    starts_at: AwareDatetime
    shares: dict[str, Share]


class Experiment(_Frozen):
    """The standing experiment of the workspace: who decides for whom; its holdout is the global one.

    Attributes:
        experiment_id: How tables and reports call it.
        salt: Names the draw of its arms; another salt draws anew.
        control: Arm that the others are compared with.
        level: Confidence level of its intervals, over all looks together.
        arms: Who decides for which part of the customers.
        metrics: What is measured; exactly one is primary.
        phases: Changes of the shares, in order.
        starts_at: First moment at which customers are assigned; None is the first batch.
        ends_at: Planned end; with one the test spends its error over the planned looks, without one it may
            be watched for ever, with wider intervals.
        look_days: Days between looks.
        segments: Attributes of customers (`a_...`, `timezone`, `can_...`) by which effects are also shown.
        correction: How claims over segments and secondary metrics are corrected, together: holm
            (family-wise error) or bh (false discovery rate).
    """

    experiment_id: str = "policy"
    salt: str = "policy"
    control: str = "holdout"
    level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    arms: tuple[Arm, ...] = (
        Arm(name="holdout", share=0.1, policy="none"),
        Arm(name="policy", share=0.9, policy="champion"),
    )
    metrics: tuple[Measured, ...] = (
        Measured(name="margin", numerator="margin", role="primary"),
        Measured(name="orders", numerator="orders"),
        Measured(
            name="unsubscribes",
            numerator="unsubscribes",
            role="guardrail",
            is_good=False,
            margin=0.02,
            is_adjusted=False,
        ),
    )
    phases: tuple[Phase, ...] = ()
    starts_at: AwareDatetime | None = None
    ends_at: AwareDatetime | None = None
    look_days: int = Field(default=7, ge=1)
    segments: tuple[str, ...] = ()
    correction: Literal["holm", "bh"] = "holm"

    @model_validator(mode="after")
    def _arms_make_a_whole(self) -> "Experiment":
        names = [arm.name for arm in self.arms]
        total = sum(arm.share for arm in self.arms)
        if abs(total - 1) > 1e-9:
            raise ValueError(f"arm shares sum to {total:g}; expected 1")
        if len(set(names)) < len(names):
            raise ValueError(f"arm names repeat: {names}")
        if len(names) < 2:
            raise ValueError(f"the arms are {names}; an experiment needs 2 or more")
        if self.control not in names:
            raise ValueError(f"control is {self.control!r}; arms are {names}")
        if any((arm.name == "holdout") != (arm.policy == "none") for arm in self.arms):
            raise ValueError("the arm with policy 'none' is called 'holdout', and no other is")
        return self

    @model_validator(mode="after")
    def _can_be_read(self) -> "Experiment":
        faults = []
        measured = [metric.name for metric in self.metrics]
        primary = [metric.name for metric in self.metrics if metric.role == "primary"]
        if len(primary) != 1:
            faults.append(f"primary metrics are {primary}; expected exactly one")
        if len(set(measured)) < len(measured):
            faults.append(f"metric names repeat: {measured}")
        if self.starts_at and self.ends_at and self.ends_at <= self.starts_at:
            faults.append(f"ends_at {self.ends_at} is not after starts_at {self.starts_at}")
        if self.ends_at and not self.starts_at:
            faults.append("ends_at without starts_at")
        names = {arm.name for arm in self.arms}
        for i, phase in enumerate(self.phases):
            if set(phase.shares) != names or abs(sum(phase.shares.values()) - 1) > 1e-9:
                faults.append(
                    f"phase {i + 1} has shares {phase.shares}; expected all of {sorted(names)}, sum 1"
                )
        starts = [phase.starts_at for phase in self.phases]
        if starts != sorted(set(starts)) or (starts and self.starts_at and starts[0] <= self.starts_at):
            faults.append("phases do not follow one another after the start")
        if faults:
            raise ValueError("; ".join(faults))
        return self


class Trial(Experiment):
    """A declared experiment among customers who are not in the global holdout.

    Attributes:
        experiment_id: How tables and reports call it.
        salt: Names the draw of its arms; another salt draws anew.
        control: Arm that the others are compared with.
        level: Confidence level of its intervals, over all looks together.
        arms: Who decides for which part of its customers; their names are its own.
        metrics: What is measured; exactly one is primary.
        phases: Changes of the shares, in order.
        starts_at: First moment at which customers are assigned.
        ends_at: Planned end; with one the test spends its error over the planned looks, without one it may
            be watched for ever, with wider intervals.
        look_days: Days between looks.
        segments: Attributes of customers by which effects are also shown.
        correction: How claims over segments and secondary metrics are corrected: holm or bh.
        layer: Trials of one layer never share a customer; those of different layers are independent. Only
            trials of the layer `policy` decide, among customers of standing arms that run the champion; in
            others every arm is `outside`. A trial of the layer `standing` assigns nobody: its arms are
            arms of the standing experiment, compared with another control.
        slots: Part of the layer that it takes, as low and high end in 0-1.
        audience: Attribute of customers to the values that take part; empty is everybody.
    """

    experiment_id: str
    salt: str = ""
    control: str
    arms: tuple[Arm, ...]
    starts_at: AwareDatetime
    layer: str = "policy"
    slots: tuple[Share, Share] = (0.0, 1.0)
    audience: dict[str, tuple[str | bool, ...]] = {}

    @model_validator(mode="after")
    def _has_its_place(self) -> "Trial":
        if not self.slots[0] < self.slots[1]:
            raise ValueError(f"slots are {list(self.slots)}; expected a low and a higher end")
        if self.layer not in ("policy", "standing") and any(arm.policy != "outside" for arm in self.arms):
            raise ValueError(f"layer {self.layer!r} decides nothing; its arms must be 'outside'")
        return self


class Models(_Frozen):
    """How models are trained.

    Attributes:
        folds: Cross-fitting folds.
        trees, leaves, learning_rate, min_leaf: LightGBM's capacity.
        tune_trials: Trials of a search for that capacity (Optuna); 0 takes it as it stands.
        tune_rows: Examples that the search runs on.
        half_life_days: Age at which a training example weighs half; None weighs all alike.
        capacity: What effects of contact may be made of: constant, linear, trees, or a blend of all.
        validate_days: `nba learn` chooses half-life and capacity anew on the latest decisions after so many
            days; 0 takes both as they stand.
        use_open: Whether `nba learn` also reads decisions whose window is still open, completed by how soon
            responses come.
        clv_horizon_days: Horizon of customer lifetime value.
        annual_discount: Yearly discount rate of customer lifetime value.
        clv_strata: Covariate by which models of counts are also fitted, drawn to all customers: a column of
            customers such as a_channel, or `cohort`. It must win the backtest.
    """

    folds: int = Field(default=4, ge=2, le=20)
    trees: int = Field(default=80, ge=1)
    leaves: int = Field(default=15, ge=2)
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    min_leaf: int = Field(default=200, ge=1)
    tune_trials: int = Field(default=0, ge=0)
    tune_rows: int = Field(default=30_000, ge=100)
    half_life_days: Annotated[float, Field(gt=0)] | None = None
    capacity: Literal["constant", "linear", "trees", "blend"] = "blend"
    validate_days: int = Field(default=28, ge=0)
    use_open: bool = False
    clv_horizon_days: int = Field(default=365, ge=1)
    annual_discount: Annotated[float, Field(ge=0)] = 0.1
    clv_strata: str | None = None


class Promotion(_Frozen):
    """What a challenger must show to become the champion; fixed before the first look.

    Attributes:
        margin: Non-inferiority margin, money per decision: the lower bound of the difference must lie above
            minus this. 0 asks for more value.
        planned: Decisions at which the interval, valid at every look, is narrowest.
        level: Confidence level over all looks together.
        unsubscribes: Additional opt-outs per decision that would be borne.
        ece: Largest calibration error of the model.
    """

    margin: Money = 0.0
    planned: int = Field(default=20_000, ge=100)
    level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    unsubscribes: Annotated[float, Field(ge=0)] = 0.002
    ece: Annotated[float, Field(gt=0)] = 0.05


class Attribution(_Frozen):
    """How touches earn credit for orders.

    Attributes:
        lookback_days: A touch counts for an order so many days after it, at most.
        kinds: Kinds of touches that count; touches of one decision count once, at the first of these.
        session_minutes: Touches without a decision on one channel within so many minutes are one.
        repeat: `next` counts a touch for the next order only, `each` for every order in its window.
        intent_channels: Channels that only follow what a customer already wants; all others advertise.
        half_life_days: Age at which a touch weighs half (time decay).
        methods: Rules and models whose credits are written.
        calibrate: Method whose credit is also written scaled to what randomisation says was caused.
        holdouts: Channel to the experiment whose arm `holdout` is never served that channel.
        level: Confidence level of incremental numbers.
    """

    lookback_days: Annotated[float, Field(gt=0, le=730)] = 30.0
    kinds: tuple[Literal["sent", "delivered", "seen", "clicked"], ...] = (
        "sent",
        "delivered",
        "seen",
        "clicked",
    )
    session_minutes: Annotated[float, Field(ge=0)] = 30.0
    repeat: Literal["next", "each"] = "next"
    intent_channels: tuple[str, ...] = ("direct", "organic", "brand_search")
    half_life_days: Annotated[float, Field(gt=0)] = 7.0
    methods: tuple[
        Literal[
            "first", "last", "last_ad", "linear", "time_decay", "position", "first_ads", "last_ads",
            "linear_ads", "time_decay_ads", "position_ads", "markov_1", "markov_2", "markov_3",
            "markov_1_ads", "markov_2_ads", "markov_3_ads", "shapley_count", "shapley_rate",
            "shapley_count_ads", "shapley_rate_ads",
        ],
        ...,
    ] = ("first", "last", "linear", "time_decay", "position", "markov_1")  # fmt: skip
    calibrate: str | None = "linear"
    holdouts: dict[str, str] = {}
    level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95

    @model_validator(mode="after")
    def _calibrates_a_method(self) -> "Attribution":
        if self.calibrate is not None and self.calibrate not in self.methods:
            raise ValueError(f"calibrate is {self.calibrate!r}; methods are {list(self.methods)}")
        return self


class Sink(_Frozen):
    """Somewhere that delivered batches are sent to.

    Attributes:
        name: How records call it.
        kind: folder (also an object store), sql (PostgreSQL) or hook (a function of one's own).
        target: folder: a path or URL that fsspec knows; sql: postgresql://user@host:port/database; hook:
            module:function.
        table: sql: the table of the decisions.
    """

    name: str
    kind: Literal["folder", "sql", "hook"]
    target: str
    table: Annotated[str, Field(pattern="^[a-z_][a-z0-9_]*$")] = "nba_decisions"


class Delivery(_Frozen):
    """How batches are delivered.

    Attributes:
        path: Folder of the batches, relative to the workspace.
        formats: What is written: parquet always, csv and jsonl beside it if named.
        stream_above: Batches of more customers are decided part by part, so that memory does not grow with
            them; smaller ones are solved whole.
        log_choices: Share of the customers of a streamed batch, by hash, of whom every candidate is logged.
        sinks: Where `nba nightly` and `nba deliver` send batches.
    """

    path: str = "decisions"
    formats: tuple[Literal["parquet", "csv", "jsonl"], ...] = ("parquet",)
    stream_above: int = Field(default=200_000, ge=0)
    log_choices: Share = 1.0
    sinks: tuple[Sink, ...] = ()


class App(_Frozen):
    """Who may see and do what in the app.

    Attributes:
        sign_in: Whether people must sign in, through OpenID Connect as `[auth]` of Streamlit's
            `secrets.toml` configures it.
        viewers: E-mail addresses, or domains as `@shop.example`, that may look; empty is whoever signs in.
        approvers: Those who may also approve.
        open_role: Role of whoever opens the app where nobody has to sign in.
        personal_data: Roles that see personal data: the ids by which orchestration knows customers, their
            attributes, free text of events.
    """

    sign_in: bool = False
    viewers: tuple[str, ...] = ()
    approvers: tuple[str, ...] = ()
    open_role: Literal["viewer", "approver"] = "viewer"
    personal_data: tuple[Literal["viewer", "approver"], ...] = ("approver",)


class Settings(_Frozen):
    """All settings of a workspace."""

    workspace: Workspace
    sources: tuple[Source, ...] = ()
    identity: Identity = Identity()
    quality: QualityRules = QualityRules()
    features: tuple[OwnFeature, ...] = ()
    catalog: CatalogFiles = CatalogFiles()
    reward: Reward = Reward()
    limits: Limits = Limits()
    engagement: Engagement = Engagement()
    policy: PolicySettings = PolicySettings()
    experiment: Experiment = Experiment()
    experiments: tuple[Trial, ...] = ()
    models: Models = Models()
    promotion: Promotion = Promotion()
    attribution: Attribution = Attribution()
    delivery: Delivery = Delivery()
    app: App = App()

    @model_validator(mode="after")
    def _trials_do_not_meet(self) -> "Settings":
        faults = []
        ids = [e.experiment_id for e in (self.experiment, *self.experiments)]
        if len(set(ids)) < len(ids):
            faults.append(f"experiment ids repeat: {ids}")
        own = [e for e in self.experiments if e.layer != "standing"]
        arms = [arm.name for e in (self.experiment, *own) for arm in e.arms]
        faults += _not_standing(self.experiment, [e for e in self.experiments if e.layer == "standing"])
        decides = [e.experiment_id for e in own if e.layer == "policy"]
        if decides and all(arm.policy != "champion" for arm in self.experiment.arms):
            faults.append(f"trials {decides} have nobody: no arm of [experiment] runs the champion")
        twice = sorted({name for name in arms if arms.count(name) > 1 and name != "holdout"})
        if twice:
            faults.append(f"arms {twice} stand in two experiments; expected names of their own")
        for i, one in enumerate(own):
            for other in own[:i]:
                apart = one.layer != other.layer or not _overlap(one.slots, other.slots)
                over = bool(one.ends_at and one.ends_at <= other.starts_at) or bool(
                    other.ends_at and other.ends_at <= one.starts_at
                )
                if not apart and not over:
                    pair = f"{other.experiment_id!r} and {one.experiment_id!r}"
                    faults.append(f"{pair} share slots of layer {one.layer!r} at the same time")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def trial_share(self) -> float:
        """The part of all customers that trials can have: those of standing arms that run the champion."""
        return sum(arm.share for arm in self.experiment.arms if arm.policy == "champion")

    @property
    def config_hash(self) -> str:
        """Hash of all settings that decide anything, logged with everything that ran with them."""
        text = json.dumps(self.model_dump(mode="json", exclude={"app"}), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _not_standing(standing: Experiment, trials: list[Trial]) -> list[str]:
    shares = {arm.name: arm.share for arm in standing.arms}
    out = []
    for trial in trials:
        total = sum(shares.get(arm.name, 0.0) for arm in trial.arms)
        wanted = {arm.name: shares[arm.name] / total for arm in trial.arms if arm.name in shares and total}
        found = {arm.name: arm.share for arm in trial.arms}
        if wanted.keys() != found.keys() or any(abs(wanted[name] - found[name]) > 1e-9 for name in wanted):
            text = (
                f"trial {trial.experiment_id!r} has arms {found}; expected arms of [experiment] in proportion"
            )
            out.append(f"{text}, such as {wanted or shares}")
    return out


def _overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return max(one[0], other[0]) < min(one[1], other[1])


def read(workspace: Path) -> Settings:
    """Read the settings of a workspace folder.

    Raises:
        MissingError: when there is no `nba.toml`.
        SettingsError: naming every key that is missing, unknown or out of bounds.
    """
    path = workspace / FILE
    if not path.is_file():
        raise MissingError(
            f"{path} does not exist; expected the configuration of a workspace",
            "Name a workspace folder that holds nba.toml, or make one with `nba simulate`.",
        )
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}", "Mend the line it names.") from None
    declared = read_declared(workspace / DECLARED)
    if declared:
        raw["experiments"] = [*raw.get("experiments", []), *declared]
    try:
        return Settings.model_validate(raw)
    except ValidationError as error:
        lines = [_fault(fault) for fault in error.errors()]
        raise SettingsError(
            "\n".join([f"{path} cannot be used:", *lines]), "Mend these keys; docs/workspace.md lists all."
        ) from None


def read_declared(folder: Path) -> list[dict[str, Any]]:
    """Read the experiments that business people declare in CSV files, as `[[experiments]]` entries.

    `experiments.csv` has one row per experiment, `arms.csv`, `metrics.csv` and `phases.csv` (one row per
    phase and arm: starts_at, arm, share) name theirs by `experiment_id`. Columns are the keys of
    `[[experiments]]`; an empty cell is the default. Several segments are separated by `;`, slots are
    written as `0-0.5`, an audience as `a_country=ES|FR; can_email=true`.

    Args:
        folder: Where the files are; without `experiments.csv` nothing is declared.

    Raises:
        SettingsError: naming every file, row and column that cannot be read.
    """
    if not (folder / "experiments.csv").is_file():
        return []
    faults: list[str] = []
    parts = {name: _rows_of(folder / f"{name}.csv", faults) for name in _DECLARED_COLUMNS}
    known = {row.get("experiment_id") for row in parts["experiments"]}
    for name in ("arms", "metrics", "phases"):
        for number, row in enumerate(parts[name], 2):
            if row.get("experiment_id") not in known:
                text = f"{name}.csv line {number}: experiment {row.get('experiment_id')!r}"
                faults.append(f"{text}; experiments.csv has {sorted(map(str, known))}")
    out = []
    for number, row in enumerate(parts["experiments"], 2):
        own = {
            name: [
                {k: v for k, v in part.items() if k != "experiment_id"}
                for part in parts[name]
                if part.get("experiment_id") == row.get("experiment_id")
            ]
            for name in ("arms", "metrics", "phases")
        }
        entry: dict[str, Any] = dict(row)
        try:
            entry |= _spelled_out(row)
        except ValueError as error:
            faults.append(f"experiments.csv line {number}: {error}")
        phases: dict[str, dict[str, Any]] = {}
        for part in own["phases"]:
            phase = phases.setdefault(
                part.get("starts_at", ""), {"starts_at": part.get("starts_at"), "shares": {}}
            )
            phase["shares"][part.get("arm", "")] = part.get("share")
        out.append(entry | {"arms": own["arms"], "metrics": own["metrics"], "phases": list(phases.values())})
    if faults:
        raise SettingsError(
            "\n".join([f"{folder} cannot be used:", *(f"- {fault}" for fault in faults)]),
            "Mend these lines; docs/experiments-formulas.md lists the columns.",
        )
    return out


_DECLARED_COLUMNS = {
    "experiments": (
        *("experiment_id", "salt", "control", "level", "starts_at", "ends_at", "look_days", "segments"),
        *("correction", "layer", "slots", "audience"),
    ),
    "arms": ("experiment_id", "name", "share", "policy"),
    "metrics": ("experiment_id", *Measured.model_fields),
    "phases": ("experiment_id", "starts_at", "arm", "share"),
}


def _rows_of(path: Path, faults: list[str]) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = text_csv.DictReader(file, strict=True)
            rows = list(lines)
    except (UnicodeDecodeError, text_csv.Error) as error:
        faults.append(f"{path.name} is not CSV in UTF-8: {error}")
        return []
    allowed = _DECLARED_COLUMNS[path.stem]
    unknown = [name for name in lines.fieldnames or () if name not in allowed]
    if unknown:
        faults.append(f"{path.name}: unknown columns {unknown}; known are {list(allowed)}")
    out = []
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            faults.append(f"{path.name} line {number}: as many cells as columns are expected")
            continue
        out.append({k: v.strip() for k, v in row.items() if v.strip() and k in allowed})
    return out


def _spelled_out(row: dict[str, str]) -> dict[str, Any]:
    # Cells that hold more than one value.
    out: dict[str, Any] = {}
    if "segments" in row:
        out["segments"] = [part.strip() for part in row["segments"].split(";")]
    if "slots" in row:
        ends = row["slots"].split("-")
        if len(ends) != 2:
            raise ValueError(f"slots is {row['slots']!r}; expected two numbers, such as 0-0.5")
        out["slots"] = ends
    if "audience" in row:
        out["audience"] = {}
        for part in row["audience"].split(";"):
            name, mark, values = part.partition("=")
            if not mark:
                raise ValueError(f"audience is {row['audience']!r}; expected such as a_country=ES|FR")
            spelled = {"true": True, "false": False}
            out["audience"][name.strip()] = [spelled.get(v.strip(), v.strip()) for v in values.split("|")]
    return out


def declare(settings: Settings, trial: Mapping[str, Any]) -> Trial:
    """Make a trial and check that it fits the workspace's other experiments.

    Raises:
        SettingsError: naming every fault at once.
    """
    try:
        made = Trial.model_validate(dict(trial))
        Settings.model_validate(
            settings.model_dump(exclude={"experiments"})
            | {"experiments": [*(e.model_dump() for e in settings.experiments), made.model_dump()]}
        )
    except ValidationError as error:
        lines = [_fault(fault) for fault in error.errors()]
        raise SettingsError("\n".join(["the experiment cannot be declared:", *lines])) from None
    return made


def declaration(trial: Trial) -> str:
    """Write a trial as the text to put at the end of `nba.toml`; reading it back gives the same trial.

    Example:
        >>> arms = [{"name": "a", "share": 0.5, "policy": "champion"}]
        >>> arms.append({"name": "b", "share": 0.5, "policy": "random"})
        >>> trial = Trial(experiment_id="x", control="a", arms=arms, starts_at="2026-03-02T06:00Z")
        >>> print(declaration(trial).splitlines()[0])
        [[experiments]]
    """
    given = trial.model_dump(mode="json", exclude_none=True)
    default = {name: field.get_default() for name, field in Trial.model_fields.items()}
    lines = ["[[experiments]]"]
    for name, value in given.items():
        if name in ("arms", "metrics", "phases") or getattr(trial, name) == default.get(name):
            continue
        moment = name in ("starts_at", "ends_at")
        lines.append(f"{name} = {value if moment else _toml(value)}")
    for name in ("arms", "metrics", "phases"):
        for entry in given.get(name, []):
            lines += ["", f"[[experiments.{name}]]"]
            lines += [
                f"{key} = {value if key == 'starts_at' else _toml(value)}" for key, value in entry.items()
            ]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def reference() -> str:
    """Print every key of `nba.toml` with its default and meaning, in Markdown (`docs/workspace.md`)."""
    out = [
        "# The workspace",
        "",
        "Printed from `nba/settings.py`; do not edit. A workspace is a folder with `nba.toml`; every key",
        "below may stand in it. Keys without a default must be given. Unknown keys are refused.",
        "",
    ]
    for name, spec in Settings.model_fields.items():
        inner = [m for m in (spec.annotation, *get_args(spec.annotation)) if _is_section(m)]
        out += _section(name, inner[0], many=not _is_section(spec.annotation))
    return "\n".join(out)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _section(name: str, model: type[BaseModel], *, many: bool) -> list[str]:
    doc = inspect.cleandoc(model.__doc__ or "")
    head, _, body = doc.partition("Attributes:")
    meaning: dict[str, str] = {}
    key = ""
    for line in body.splitlines():
        words = line.strip()
        if line.startswith("    ") and not line.startswith("     ") and ":" in words:
            key, _, words = words.partition(":")
        for part in filter(None, key.split(",")):
            meaning[part.strip()] = f"{meaning.get(part.strip(), '')} {words.strip()}".strip()
    title = f"[[{name}]]" if many else f"[{name}]"
    rows = [f"## `{title}`", "", head.strip(), "", "| key | default | meaning |", "|---|---|---|"]
    nested = []
    for field, spec in model.model_fields.items():
        inner = [m for m in get_args(spec.annotation) if _is_section(m)]
        nested += _section(f"{name}.{field}", inner[0], many=True) if inner else []
        shown = "" if spec.is_required() or inner else f"`{json.dumps(spec.get_default(), default=str)}`"
        rows.append(f"| `{field}` | {shown} | {meaning.get(field, '')} |")
    return [*rows, "", *nested]


def read_catalog(workspace: Path, settings: Settings) -> Catalog:
    """Read the catalog's CSV files.

    Raises:
        MissingError: when a file is absent.
        DataError: when they break their contract or disagree.
    """
    actions = _read_csv(workspace / settings.catalog.actions, tables.ACTIONS)
    treatments = _read_csv(workspace / settings.catalog.treatments, tables.TREATMENTS)
    return Catalog.from_tables(actions, treatments)


def _read_csv(path: Path, table: tables.Table) -> pa.Table:
    if not path.is_file():
        raise MissingError(f"{path} does not exist; expected the catalog's {table.name}", "Add the file.")
    types = {f.name: f.type for f in table.fields}
    options = csv.ConvertOptions(column_types=types, strings_can_be_null=False)
    try:
        return table.conform(csv.read_csv(path, convert_options=options))
    except pa.ArrowInvalid as error:
        hint = f"See {table.name} in docs/data-dictionary.md."
        raise SettingsError(f"{path} cannot be read: {error}", hint) from None


def _fault(fault: object) -> str:
    assert isinstance(fault, dict)
    key = ".".join(str(part) for part in fault["loc"]) or "(whole file)"
    kind = fault["type"]
    if kind == "missing":
        return f"- {key}: missing"
    if kind == "extra_forbidden":
        return f"- {key}: unknown key"
    found = fault.get("input")
    shown = f"found {found!r}; " if not isinstance(found, dict) else ""
    return f"- {key}: {shown}{str(fault['msg']).removeprefix('Value error, ')}"
