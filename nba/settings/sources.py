"""Settings of what is read: the workspace, its sources, identities, quality rules and own features."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from nba.settings.common import Frozen, Share


class Workspace(Frozen):
    """What the workspace is.

    Attributes:
        name: Its name, also of its MLflow experiment and registered policy.
        currency: ISO code in which all money is.
        timezone: IANA zone of source times that carry none.
        seed: Seed of all randomness that is not hashed by key.
        tracking: MLflow tracking URI; absent, `mlruns/` of the checkout. MLflow's own variables win.
        memory_gb: Memory that DuckDB may take to read sources and to look back; what does not fit is spilled
            to disk. The process takes more: 2 GB in all for a source of 5 GB need 1 here.
        attributes: Attribute of customers (`a_age`) to `number` or `text`. One that is not named here is a
            number if all its values were when it was first ingested, and stays what it was; what is no number
            then is left blank and counted.
    """

    name: str
    currency: str = "EUR"
    timezone: str = "UTC"
    seed: int = 0
    tracking: str | None = None
    memory_gb: Annotated[float, Field(ge=0.5)] = 4.0
    attributes: dict[Annotated[str, Field(pattern="^a_[a-z0-9_]+$")], Literal["number", "text"]] = Field(
        default={}
    )


class Answer(NamedTuple):
    """A kind of file or table in which orchestration answers batches (`docs/delivery.md`).

    Attributes:
        table: The table of the contract that its rows join.
        columns: Its columns beside the customer's `external_id`, named as the table's fields.
        kinds: What `kind` may be.
    """

    table: str
    columns: tuple[str, ...]
    kinds: tuple[str, ...] = ()


ANSWERS: Mapping[str, Answer] = {
    "activations": Answer(
        "touches",
        ("touch_id", "decision_id", "touched_at", "channel", "kind", "cost"),
        ("sent", "delivered", "failed", "refused"),
    ),
    "engagements": Answer(
        "touches",
        ("touch_id", "decision_id", "touched_at", "channel", "kind"),
        ("seen", "clicked", "unsubscribed"),
    ),
    "conversions": Answer("orders", ("order_id", "ordered_at", "revenue", "margin", "n_items", "is_return")),
}


class Source(Frozen):
    """One raw source and how its columns map to a table of the contract.

    Attributes:
        name: How reports call it.
        table: customers, orders, events or touches.
        feedback: activations, engagements or conversions: answers of orchestration as `docs/delivery.md`
            lays them down. It fills `table`, `identifiers` and `columns`, and reads the manifest beside a
            file, if there is one.
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
            otherwise the last known value count, and it is known with its last line. Without it they are
            duplicates, and the last one counts.
        time_format: How times are written where not ISO or epoch, as of `strptime` (`%d/%m/%Y %H:%M`); of
            several, the first that fits counts, and `iso` stands for ISO or epoch.
        known_after_hours: Hours after which a row is known, where no column is mapped to `known_at`; a
            look back from a moment does not see what was not known by then.
        timezone: IANA zone of times without offset; the workspace's if absent.
        country: Two-letter country of phone numbers without prefix.
        max_bad_share: More unusable rows than this stop the run.
        optional: Whether it is fine that there is no file yet.
        matching: Field of `[matching]` to source column (customers only): records of persons are compared
            by these. They are read into memory and never stored.
    """

    name: str
    table: Literal["customers", "orders", "events", "touches"]
    feedback: Literal["activations", "engagements", "conversions"] | None = None
    path: str = ""
    format: Literal["csv", "jsonl", "parquet", "sql"] = "csv"
    url: str | None = None
    query: str | None = None
    encoding: str = "utf-8"
    delimiter: str = ","
    decimal: str = "."
    identifiers: dict[str, str] = Field(min_length=1)
    columns: dict[str, str]
    products: dict[str, tuple[str, ...]] = Field(default={})
    constants: dict[str, str | float | bool] = Field(default={})
    values: dict[str, dict[str, str | float | bool]] = Field(default={})
    margin_share: Annotated[float, Field(ge=-1.0, le=1.0)] | None = None
    aggregate: bool = False
    time_format: str | tuple[str, ...] | None = None
    known_after_hours: Annotated[float, Field(ge=0)] = 0.0
    timezone: str | None = None
    country: str = "ES"
    max_bad_share: Share = 0.5
    optional: bool = False
    matching: dict[str, str] = Field(default={})

    @model_validator(mode="before")
    @classmethod
    def _as_laid_down(cls, given: Any) -> Any:
        answer = ANSWERS.get(given.get("feedback") or "") if isinstance(given, dict) else None
        if answer is None:
            return given
        if given.get("table", answer.table) != answer.table:
            raise ValueError(f"{given['feedback']} join the table {answer.table!r}, not {given['table']!r}")
        blanks = {"cost": 0.0} if answer.table == "touches" else {}
        return {
            "identifiers": {"crm_id": "external_id"},
            **given,
            "table": answer.table,
            "columns": {name: name for name in answer.columns} | given.get("columns", {}),
            "constants": blanks | given.get("constants", {}),
        }

    @model_validator(mode="after")
    def _is_of_persons(self) -> "Source":
        if self.matching and self.table != "customers":
            raise ValueError(f"matching compares records of customers; the table is {self.table!r}")
        return self

    @model_validator(mode="after")
    def _is_somewhere(self) -> "Source":
        wanted = ("url", "query") if self.format == "sql" else ("path",)
        absent = [name for name in wanted if not getattr(self, name)]
        if absent:
            raise ValueError(f"{' and '.join(absent)} missing; format is {self.format!r}")
        return self


class Identity(Frozen):
    """How identifiers become customers.

    Attributes:
        max_customers: An identifier shared by more CRM ids than this links nobody. Beside a weak one,
            a person without a CRM id counts by its e-mail (or what else is personal).
        max_identifiers: An identifier that is not weak and stands beside more e-mails than this, or more
            phones, or more loyalty cards, links nobody either, be it a CRM id (`WEB`) or a shop's own e-mail.
        personal: The kinds that are so counted, each apart.
        junk: Identifiers that name nobody, of whatever kind, beside those known to (guest, unknown, none,
            null, n/a, test, anonymous, 0000, ...): words, e-mails or mailboxes, phone numbers. Case does not
            count.
        external: Identifier kind by which orchestration knows customers.
        exclusive: Kinds of which a customer has one identifier at most: of links that would join two, the
            older one stands. Add the external kind if the CRM holds nobody twice.
        weak: Kinds that several people may share; they never join two customers with external ids.
        email_ignore_case: Whether the case of mailboxes does not count (that of domains never does).
        email_ignore_dots, email_ignore_tags: Domains in whose mailboxes dots, or +tags, do not count.
    """

    max_customers: int = Field(default=3, ge=1)
    max_identifiers: int = Field(default=10, ge=1)
    personal: tuple[str, ...] = ("loyalty_card", "email", "phone")
    junk: tuple[str, ...] = ()
    external: str = "crm_id"
    exclusive: tuple[str, ...] = ("loyalty_card",)
    weak: tuple[str, ...] = ("cookie", "device")
    email_ignore_case: bool = True
    email_ignore_dots: tuple[str, ...] = ("gmail.com", "googlemail.com")
    email_ignore_tags: tuple[str, ...] = ("gmail.com", "googlemail.com")


class Matching(Frozen):
    """Records of persons that are alike, linked with a probability through Splink (`nba[matching]`).

    It runs where sources name columns under `matching`. Links are followed after those of identifiers, the
    likeliest first, and never where both sides have an identifier of an exclusive kind.

    Attributes:
        fields: Field to how it is compared: `name` (any text, by Jaro-Winkler similarity), `date` (of birth)
            or `code` (a postcode: one character may differ).
        block_on: Only records that agree on all fields of one of these groups are compared; no field may
            stand in all of them, since how much it tells is learnt from pairs of the others.
        probability: Links that are less likely are not followed.
        joins_external: Whether two customers who both have an external id may be joined, since the CRM holds
            people twice.
    """

    fields: dict[Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")], Literal["name", "date", "code"]] = Field(
        default={}
    )
    block_on: tuple[tuple[str, ...], ...] = ()
    probability: Annotated[float, Field(ge=0.5, le=1.0)] = 0.99
    joins_external: bool = False

    @model_validator(mode="after")
    def _can_be_learnt(self) -> "Matching":
        faults = []
        unknown = sorted({name for group in self.block_on for name in group} - {*self.fields})
        if unknown:
            faults.append(f"block_on names {unknown}; fields are {sorted(self.fields)}")
        if self.fields and (not self.block_on or not all(self.block_on)):
            faults.append(
                'block_on is missing or empty; expected groups, such as [["born"], ["surname", "postcode"]]'
            )
        everywhere = sorted(name for name in self.fields if all(name in group for group in self.block_on))
        if self.block_on and everywhere:
            faults.append(f"{everywhere} stand in every group of block_on, so that nothing is learnt of them")
        if faults:
            raise ValueError("; ".join(faults))
        return self


class Bounds(Frozen):
    """From where on a finding warns, and from where on it stops the run.

    Attributes:
        warn, stop: The thresholds; absent ones never do.
    """

    warn: float | None = None
    stop: float | None = None


class QualityRules(Frozen):
    """What warns, and what stops an ingestion before anything is written.

    Each is a table with `warn` and `stop`, such as `volume = { warn = 0.5, stop = 0.1 }`.

    Attributes:
        quarantined, duplicates: Share of a source's rows.
        clashes: Share of a source's rows that are lost: another source gives their key to another customer.
        behind: Days that a source's newest row is behind that of the freshest source.
        stale: Days since a table's newest row.
        future: Share of rows after the moment of the run.
        early: Share of rows that were known before they happened.
        volume: Rows of the last whole day as a share of the usual; lower is worse.
        empty: Days without any row, of the four weeks before the newest row, in a table that usually has ten
            rows a day or more; weekdays on which it mostly has none do not count.
        gone: Files of a source that were there in the run before, and are no longer.
        references: Share of touches that name a treatment or decision that is not known.
        nulls: Share of unknown values, by field, such as `"touches.treatment_id"`.
        unfit: Values of an attribute that is a number and that are none, as a share of its values.
        consent: Share of customers, by channel; lower is worse.
        largest: Identifiers of the customer who has most of them.
        cut: Share of the identifiers of a kind that too many people share, so that they link nobody.
        cut_external: The same of external ids, as a number.
        merges: Customers who turned out to be another one in a run, as a share of customers.
        splits: Customers whose identifiers fell apart in a run, as a share of customers.
        refused, refused_matches: Links that were not followed, since they would have joined two people (by
            identifiers; by likeness), as a share of customers.
    """

    quarantined: Bounds = Bounds(warn=0.05)
    duplicates: Bounds = Bounds(warn=0.2)
    clashes: Bounds = Bounds(warn=0)
    behind: Bounds = Bounds(warn=14)
    stale: Bounds = Bounds(warn=8)
    future: Bounds = Bounds(warn=0.001)
    early: Bounds = Bounds(warn=0.001)
    volume: Bounds = Bounds(warn=0.3)
    empty: Bounds = Bounds(warn=0)
    gone: Bounds = Bounds(warn=0)
    references: Bounds = Bounds(warn=0.01)
    unfit: Bounds = Bounds(warn=0.0)
    largest: Bounds = Bounds(warn=500)
    cut: Bounds = Bounds(warn=0.02)
    cut_external: Bounds = Bounds(warn=0)
    merges: Bounds = Bounds(warn=0.1)
    splits: Bounds = Bounds(warn=0.001)
    refused: Bounds = Bounds(warn=0.1)
    refused_matches: Bounds = Bounds(warn=0.1)
    nulls: dict[str, Bounds] = Field(default={})
    consent: dict[str, Bounds] = Field(default={})


class OwnFeature(Frozen):
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


class CatalogFiles(Frozen):
    """The two CSV files of the catalog.

    Attributes:
        actions, treatments: Path of the file, relative to the workspace.
    """

    actions: str = "catalog/actions.csv"
    treatments: str = "catalog/treatments.csv"
