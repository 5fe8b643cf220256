"""From the raw columns of a source to the contract's fields: one SQL query per file.

A row is used or it goes to quarantine with every reason; identifiers leave this module only as salted
hashes, and raw text only without them. What the staged rows of a source hold: `row_number`, `key`
(order_id, event_id, touch_id; for customers a hash of the content), the fields, `combo`, and `reason` and
`raw` where the row cannot be used. Each combination of identifiers stands once, under its number `combo`,
with `i_<kind>` (hashes) and `external` (the CRM id in clear, by which orchestration knows the customer).

Times without offset are local to the source's zone. In the hour that clocks skip in spring they count as
if clocks had not changed yet (02:30 becomes 03:30); in the hour that comes twice in autumn, as the second.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import available_timezones

import duckdb
import pyarrow as pa

from nba import tables
from nba.histories import identifiers
from nba.histories.scrub import scrubbed
from nba.histories.sources import among, literal
from nba.histories.values import (
    NOT,
    SQL,
    constant,
    evidence,
    given_of,
    is_ambiguous,
    is_direct,
    is_number,
    number_of,
    replaced,
    text_of,
    time_of,
    value_of,
    why_no_number,
)
from nba.settings import ANSWERS, Identity, Source

KEYS = {"customers": "key", "orders": "order_id", "events": "event_id", "touches": "touch_id"}
TIMES = {"customers": "joined_at", "orders": "ordered_at", "events": "occurred_at", "touches": "touched_at"}
_RESOLVED = ("customer_id", "external_id")
_FILLED = {"customers": {f"can_{c}" for c in tables.CHANNELS}, "orders": {"n_items", "is_return"}}
_NO_DATE = "no date that can be (1900-01-01, 1970-01-01, 2099 and later stand for none)"
_NUMBERS = ("number", "count")
_HASHED_KEYS = ("event_id", "touch_id")
_UPDATED = tables.Field("updated_at", "time", "when the row was last changed", nullable=True)


@dataclass(frozen=True)
class Plan:
    """How one source is read: its fields, and the source columns they need.

    Attributes:
        fields: Contract fields (and `updated_at`, `a_*`) that the source gives.
        wanted: Source columns to read, in the order c0, c1, ...
        zone: IANA zone of times without offset.
        identity: How identifiers are normalised; by its `external` kind orchestration knows customers.
    """

    source: Source
    fields: tuple[tables.Field, ...]
    wanted: tuple[str, ...]
    zone: str
    identity: Identity

    @property
    def external(self) -> str:
        """The identifier kind by which orchestration knows customers."""
        return self.identity.external


def faults(source: Source, zone: str, external: str) -> list[str]:
    """Name everything in which a source's mapping does not fit the contract."""
    contract = {f.name: f for f in _possible(source)}
    given = {*source.columns, *source.products, *source.constants}
    out = []
    for name in sorted({*given, *source.values}):
        if name not in contract:
            known = f"{sorted(contract)}" + (", or a_*" if source.table == "customers" else "")
            out.append(f"{name!r} is not a field of {source.table}; expected one of {known}")
    filled = {*_FILLED.get(source.table, ()), *_HASHED_KEYS}
    if source.margin_share is not None:
        filled.add("margin")
    for spec in contract.values():
        if not spec.nullable and spec.name not in given | filled:
            more = ", or set margin_share" if spec.name == "margin" else ""
            out.append(f"{spec.name} is missing; map it in columns, or fix it in constants{more}")
    out += _identifier_faults(source, external)
    if "phone" in source.identifiers and not identifiers.is_country(source.country):
        out.append(f"country {source.country!r} is not a two-letter country, such as ES")
    for name, spec in contract.items():
        if name in source.constants and not _fits(spec, source.constants[name]):
            out.append(f"constants.{name} is {source.constants[name]!r}; expected a {spec.kind}")
    if zone not in available_timezones():
        out.append(f"timezone {zone!r} is not an IANA zone, such as Europe/Madrid")
    if len(source.delimiter) != 1 or source.decimal not in (".", ","):
        out.append(
            f"delimiter {source.delimiter!r} and decimal {source.decimal!r}: expected one character; . or ,"
        )
    return out


def _identifier_faults(source: Source, external: str) -> list[str]:
    out = []
    used = {*source.columns.values(), *(c for group in source.products.values() for c in group)}
    for kind, column in source.identifiers.items():
        if not re.fullmatch("[a-z][a-z0-9_]*", kind):
            out.append(f"identifier kind {kind!r}: expected lower-case letters, digits and _")
        if column in used and kind != external:
            out.append(
                f"column {column!r} is an identifier ({kind}) and also a field; identifiers stay hashed"
            )
    return out


def plan(source: Source, zone: str, identity: Identity) -> Plan:
    """Say how a source without faults is read."""
    given = {*source.columns, *source.products, *source.constants}
    fields = tuple(f for f in _possible(source) if f.name in given)
    columns = [*source.identifiers.values(), *source.columns.values()]
    columns += [column for group in source.products.values() for column in group]
    return Plan(source, fields, tuple(dict.fromkeys(columns)), zone, identity)


def given(plan: Plan, rows: str) -> str:
    """Write the query of the combinations of identifiers in a file, as they stand there (`g_<kind>`)."""
    columns = ", ".join(f"{_column(plan, kind)} as g_{kind}" for kind in plan.source.identifiers)
    return f"select distinct {columns} from {rows}"


def combos(plan: Plan, types: Sequence[pa.DataType], rows: str, after: int = 0) -> str:
    """Write the query that numbers the combinations of identifiers in a file and hashes them.

    Args:
        plan: How the source is read.
        types: Arrow types of the wanted columns.
        rows: Name of a table of what `given` gives; `phone_number(raw, e164)` must hold phone numbers.
        after: The highest number that is taken.

    Returns:
        SQL giving `combo`, what was given (`g_<kind>`), its text `k_<kind>`, `i_<kind>`, `junk_<kind>` (an
        identifier was there, but is junk), `external`, and whether it `names` anybody.
    """
    # Each text is normalised and hashed once, however many combinations it stands in.
    kinds = list(plan.source.identifiers)
    clean, joins, made = [], [], []
    for kind in kinds:
        phone = kind == "phone"
        value = "e164" if phone else identifiers.normalised(kind, "k", plan.identity)
        lookup = " left join phone_number on raw = k" if phone else ""
        distinct = f"select distinct g_{kind} as g from {rows} where g_{kind} is not null"
        texts = f"select g, {identifier_texts(plan, types, kind, 'g')} as k from ({distinct})"
        clean.append(
            f"{kind}_clean as materialized (select g, k, n, {identifiers.hashed(kind, 'n')} as i from ("
            f"select g, k, {value} as n from ({texts}){lookup}))"
        )
        joins.append(f"left join {kind}_clean on {kind}_clean.g = g_{kind}")
        made += [
            f"{kind}_clean.k as k_{kind}",
            f"{kind}_clean.i as i_{kind}",
            f"({kind}_clean.k is not null and {kind}_clean.n is null) as junk_{kind}",
        ]
    external = f"{plan.external}_clean.n" if plan.external in kinds else "null::varchar"
    some = " or ".join(f"{kind}_clean.n is not null" for kind in kinds)
    return (
        f"with {', '.join(clean)}\n"
        f"select {rows}.rowid + {after + 1} as combo, {', '.join(f'g_{kind}' for kind in kinds)},"
        f" {', '.join(made)}, {external} as external, ({some}) as names from {rows} {' '.join(joins)}"
    )


def _column(plan: Plan, kind: str) -> str:
    return f"c{plan.wanted.index(plan.source.identifiers[kind])}"


def _same(plan: Plan, rows: str) -> str:
    # Rows find their combination by what the source gives, so that only what is distinct is made a text.
    found = (
        f"{rows}.{_column(plan, kind)} is not distinct from g_{kind}" for kind in plan.source.identifiers
    )
    return " and ".join(found)


def doubtful(
    connection: duckdb.DuckDBPyConnection, plan: Plan, types: Sequence[pa.DataType], rows: str
) -> set[str]:
    """Find the columns of numbers in which 1,234 may be either: the decimal sign seems to be another one.

    So it is where a tenth as many numbers can only be of the other sign as of that one; and where `decimal`
    is left to its default, if none can only be of that one.

    Args:
        connection: Holds the rows.
        plan: How the source is read.
        types: Arrow types of the wanted columns.
        rows: `from` clause of the raw rows.
    """
    source = plan.source
    named = {column for group in source.products.values() for column in group}
    named |= {source.columns[f.name] for f in plan.fields if f.kind in _NUMBERS and f.name in source.columns}
    at = {name: i for i, name in enumerate(plan.wanted) if name in named and not is_number(types[i])}
    sign = literal("," if source.decimal == "." else ".")
    if not at:
        return set()
    some = ", ".join(f"coalesce(bool_or(contains(c{i}::varchar, {sign})), false)" for i in at.values())
    found = connection.execute(f"select {some} from {rows}").fetchall()[0]
    out = set()
    for name in (name for name, is_there in zip(at, found) if is_there):
        text = text_of(f"c{at[name]}", types[at[name]])
        counted = ", ".join(evidence("t", source.decimal))
        own, other, either = connection.execute(
            f"select {counted} from (select {text} as t from {rows})"
        ).fetchall()[0]
        is_told = "decimal" in source.model_fields_set
        if 10 * other > own or (either and not own and not is_told):
            out.add(name)
    return out


def query(
    plan: Plan, types: Sequence[pa.DataType], rows: str, doubtful: Collection[str] = frozenset()
) -> str:
    """Write the query that maps the raw rows of a file.

    Args:
        plan: How the source is read.
        types: Arrow types of the wanted columns.
        rows: `from` clause of the raw rows; a table `combo_now` must hold what `combos` gives.
        doubtful: Columns of numbers in which 1,234 may be either.

    Returns:
        SQL giving the staged columns; `reason` and `raw` are null where the row can be used.
    """
    source = plan.source
    texts = {name: f"t{i}" for i, name in enumerate(plan.wanted)}
    typed = _typed(plan, types)
    trimmed = [f"{text_of(f'c{i}', kind)} as t{i}" for i, kind in enumerate(types) if i not in typed]
    kinds = dict(zip(plan.wanted, types))
    first, second, third = [], [], []
    reasons = ["case when not is_row then 'not a JSON object' end"]
    for spec in plan.fields:
        column = source.columns.get(spec.name)
        if spec.name in source.products:
            parts = source.products[spec.name]
            first.append(f"{' || '.join(texts[c] for c in parts)} as x_{spec.name}")
            value = " * ".join(
                _unless_doubtful(_product_part(plan, c, texts[c], kinds[c]), texts[c], c in doubtful)
                for c in parts
            )
            first.append(f"{value} as y_{spec.name}")
            second.append(f"y_{spec.name} as w_{spec.name}")
        elif column is not None:
            i = plan.wanted.index(column)
            direct = _is_used_as_is(source, spec, kinds[column])
            if direct:
                first += [f"{given_of(f'c{i}', kinds[column])} as x_{spec.name}", f"c{i} as y_{spec.name}"]
            else:
                text = replaced(texts[column], source.values.get(spec.name, {}))
                first.append(f"{text} as x_{spec.name}")
            kind = kinds[column] if direct else pa.string()
            value = value_of(
                spec.kind, f"y_{spec.name}" if direct else f"x_{spec.name}", kind, source, plan.zone
            )
            if spec.kind in _NUMBERS and not direct:
                value = _unless_doubtful(value, f"x_{spec.name}", column in doubtful)
            second.append(f"{value} as w_{spec.name}")
        else:
            first.append(f"null::varchar as x_{spec.name}")
            second.append(f"null::{SQL[spec.kind]} as w_{spec.name}")
        filled = (
            f"w_{spec.name}" if spec.kind != "time" else f"case when {_is_sane(spec)} then w_{spec.name} end"
        )
        if spec.name in source.constants:
            filled = f"coalesce({filled}, {constant(spec, source.constants[spec.name])})"
        third.append(f"{filled} as v_{spec.name}")
        is_text = column is not None and not _is_used_as_is(source, spec, kinds[column])
        reasons += _reasons(spec, source, is_text=is_text, is_doubtful=column in doubtful)
    reasons.append("case when is_row and not names then 'no identifier' end")
    named = ", ".join(f"k_{kind}, i_{kind}" for kind in source.identifiers)
    told = "nullif(concat_ws('; ', " + ", ".join(reasons) + "), '')"
    # What needs no text to be used gets one only where the row cannot be.
    told_of = [
        f"case when reason is not null then {text_of(f'c{i}', types[i])} end as t{i}" for i in sorted(typed)
    ]
    raw = f"case when reason is not null then {_raw(plan, texts)} end"
    return (
        f"with trimmed as (select {', '.join(['*', *trimmed])} from {rows}),\n"
        f"texts as (select {', '.join(['*', *first])} from trimmed),\n"
        f"typed as (select {', '.join(['texts.*', 'combo', 'names', named, *second])}"
        f" from texts join combo_now on {_same(plan, 'texts')}),\n"
        f"filled as (select *, {', '.join(third)} from typed),\n"
        f"judged as (select *, {told} as reason from filled),\n"
        f"shown as (select {', '.join(['*', *told_of])} from judged)\n"
        f"select row_number, reason, {raw} as raw, combo, {', '.join(_finished(plan))} from shown"
    )


def records(plan: Plan, types: Sequence[pa.DataType], rows: str, fields: Mapping[str, str]) -> str:
    """Write the query of the records that are compared by likeness.

    Args:
        plan: How the source is read; its wanted columns hold those of `matching`.
        types: Arrow types of the wanted columns.
        rows: `from` clause of the raw rows; a table `combo_now` must hold what `combos` gives.
        fields: Field to how it is compared (`name`, `date` or `code`).

    Returns:
        SQL giving `kind` and `hash` of the row's strongest identifier, and the fields, cleaned.
    """
    own = plan.source.matching
    kinds = identifiers.ranked(plan.source.identifiers, plan.external)
    texts = [_column(plan, kind) for kind in kinds]
    for name, how in fields.items():
        value = _likeness(plan, types, own[name], how) if name in own else "null::varchar"
        texts.append(f"{value} as m_{name}")
    named = " ".join(f"when i_{kind} is not null then '{kind}'" for kind in kinds)
    strongest = ", ".join(f"i_{kind}" for kind in kinds)
    shown = ", ".join(f"m_{name} as {name}" for name in fields)
    return (
        f"with texts as (select row_number, {', '.join(dict.fromkeys(texts))} from {rows} where is_row)\n"
        f"select case {named} end as kind, replace(coalesce({strongest})::varchar, '-', '') as hash, {shown}"
        f" from texts join combo_now on {_same(plan, 'texts')} where names order by row_number"
    )


def _likeness(plan: Plan, types: Sequence[pa.DataType], column: str, how: str) -> str:
    i = plan.wanted.index(column)
    text = text_of(f"c{i}", types[i])
    if how == "date":
        direct = is_direct("time", types[i])
        moment = time_of(
            f"c{i}" if direct else f"({text})", types[i] if direct else pa.string(), plan.source, plan.zone
        )
        return f"strftime(timezone({literal(plan.zone)}, {moment}), '%Y-%m-%d')"
    plain = f"strip_accents(lower({text}))"
    kept = "[^[:alnum:]]" if how == "code" else "[^[:alnum:]]+"
    return f"nullif(trim(regexp_replace({plain}, '{kept}', '{'' if how == 'code' else ' '}', 'g')), '')"


def identifier_texts(plan: Plan, types: Sequence[pa.DataType], kind: str, given: str) -> str:
    """Give the SQL of the text of an identifier of a kind, trimmed, null where blank."""
    return text_of(given, types[plan.wanted.index(plan.source.identifiers[kind])])


def staged_fields(table: str, attributes: Sequence[str] = ()) -> list[tables.Field]:
    """List the fields that every staged source of a table has, besides the key and identifiers."""
    named = [f for f in tables.BY_NAME[table].fields if f.name not in (*_RESOLVED, KEYS[table])]
    more = [_UPDATED, *(tables.Field(a, "text", "", nullable=True) for a in attributes)]
    return named + (more if table == "customers" else [])


def _possible(source: Source) -> list[tables.Field]:
    named = [f for f in tables.BY_NAME[source.table].fields if f.name not in _RESOLVED]
    if source.table != "customers":
        return named
    given = {*source.columns, *source.constants}
    attributes = sorted(name for name in given if re.fullmatch("a_[a-z0-9_]+", name))
    return [*named, _UPDATED, *(tables.Field(a, "text", "attribute", nullable=True) for a in attributes)]


def _fits(spec: tables.Field, value: str | float | bool) -> bool:
    if spec.kind in ("number", "count"):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if spec.kind == "flag":
        return isinstance(value, bool)
    if spec.kind == "time":
        try:
            return isinstance(value, str) and datetime.fromisoformat(value) is not None
        except ValueError:
            return False
    if spec.values:
        return value in spec.values
    return spec.name.startswith("a_") or isinstance(value, str)


def _is_used_as_is(source: Source, spec: tables.Field, found: pa.DataType) -> bool:
    return not source.values.get(spec.name) and is_direct(spec.kind, found)


def _typed(plan: Plan, types: Sequence[pa.DataType]) -> set[int]:
    """Give the places of wanted columns that only serve as what they are, never as text."""
    source = plan.source
    read = {c for group in source.products.values() for c in group}
    for spec in plan.fields:
        column = source.columns.get(spec.name)
        if column is not None and not _is_used_as_is(source, spec, types[plan.wanted.index(column)]):
            read.add(column)
    return {i for i, name in enumerate(plan.wanted) if name not in read}


def _product_part(plan: Plan, column: str, text: str, found: pa.DataType) -> str:
    if is_number(found):
        return number_of(f"c{plan.wanted.index(column)}", found, ".")
    return number_of(f"({text})", found, plan.source.decimal)


def _is_sane(spec: tables.Field) -> str:
    # Systems write the first day that they know, or a day far ahead, where there is none; in whatever zone.
    name = f"w_{spec.name}"
    first, last = (f"timestamptz '{day} 14:00:00+00'" for day in ("1900-01-01", "2098-12-31"))
    epoch = ("timestamptz '1969-12-31 10:00:00+00'", "timestamptz '1970-01-02 14:00:00+00'")
    return f"{name} >= {first} and {name} < {last} and not ({name} >= {epoch[0]} and {name} < {epoch[1]})"


def _unless_doubtful(value: str, text: str, is_doubtful: bool) -> str:
    return f"case when not {is_ambiguous(text)} then {value} end" if is_doubtful else value


def _reasons(spec: tables.Field, source: Source, *, is_text: bool, is_doubtful: bool) -> list[str]:
    name, out = spec.name, []
    if spec.kind in NOT:
        bad = f"w_{name} is null" if spec.kind != "time" else f"not coalesce({_is_sane(spec)}, false)"
        why = f"'{NOT[spec.kind]}'"
        if spec.kind == "time":
            why = f"case when w_{name} is null then {why} else '{_NO_DATE}' end"
        if spec.kind in _NUMBERS and is_text:
            why = why_no_number(f"x_{name}", spec.kind, source.decimal, is_doubtful=is_doubtful)
        out.append(f"case when x_{name} is not null and {bad} then '{name}: ' || {why} end")
    filled = {*_FILLED.get(source.table, ()), *_HASHED_KEYS}
    filled |= {"margin"} if source.margin_share is not None else set()
    if not spec.nullable and name not in filled:
        out.append(f"case when is_row and x_{name} is null and v_{name} is null then '{name}: missing' end")
    if spec.low is not None and name != "n_items":
        out.append(f"case when v_{name} < {spec.low} then '{name}: below {spec.low:g}' end")
    if name == "n_items":
        back = "coalesce(v_is_return, v_revenue < 0)" if "is_return" in _named(source) else "v_revenue < 0"
        out.append(f"case when v_n_items < 0 and not {back} then 'n_items: below 0' end")
    values = (ANSWERS[source.feedback].kinds if source.feedback and name == "kind" else ()) or spec.values
    if values:
        known = f"v_{name} is null or {among(f'v_{name}', values)}"
        out.append(f"case when not ({known}) then '{name}: not among {', '.join(values)}' end")
    return out


def _named(source: Source) -> set[str]:
    return {*source.columns, *source.products, *source.constants}


def _scrubbed(plan: Plan, text: str) -> str:
    return scrubbed(text, [kind for kind in plan.source.identifiers if kind != plan.external])


def _raw(plan: Plan, texts: Mapping[str, str]) -> str:
    # Unmapped columns may hold names and addresses, so they are not kept either.
    hidden = set(plan.source.identifiers.values())
    parts = [f"{literal(name)}, {_scrubbed(plan, texts[name])}" for name in plan.wanted if name not in hidden]
    return f"json_object({', '.join(parts)})::varchar"


def _finished(plan: Plan) -> list[str]:
    source, named = plan.source, {f.name for f in plan.fields}
    derived: dict[str, str] = {}
    if source.table == "orders":
        derived = _order_fields(source)
    if source.known_after_hours and source.table != "customers":
        late = f"v_{TIMES[source.table]} + interval ({source.known_after_hours * 3600!r}) second"
        derived["known_at"] = f"coalesce(v_known_at, {late})" if "known_at" in named else late
    if source.table == "customers":
        zones = "(select name from pg_timezone_names())"
        derived["timezone"] = f"case when v_timezone in {zones} then v_timezone end"
        mapped = [f"can_{c}" for c in tables.CHANNELS if f"can_{c}" in named]
        derived |= {name: f"coalesce(v_{name}, false)" for name in mapped}
    out = []
    attributes = [f.name for f in plan.fields if f.name.startswith("a_")]
    for spec in staged_fields(source.table, attributes):
        value = f"v_{spec.name}" if spec.name in named else f"null::{SQL[spec.kind]}"
        value = derived.get(spec.name, value) if spec.name in named or spec.name in _DERIVED else value
        if spec.name == "detail" and "detail" in named:
            value = f"case when v_detail is not null then {_scrubbed(plan, 'v_detail')} end"
        if spec.name.startswith("a_"):
            value = _attribute(plan, value)
        out.append(f"({value}){'::bigint' if spec.kind == 'count' else ''} as {spec.name}")
    return [f"{_key(plan)} as key", *out]


_DERIVED = ("is_return", "n_items", "margin", "revenue", "known_at")


def _attribute(plan: Plan, value: str) -> str:
    # A number is written the same way whatever the source's decimal sign; 08001 stays a code.
    text = f"({_scrubbed(plan, value)})"
    if plan.source.decimal == ".":
        return text
    number = f"({number_of(value, pa.string(), ',')})::varchar"
    return f"case when regexp_matches({value}, '^0[0-9]') then {text} else coalesce({number}, {text}) end"


def _order_fields(source: Source) -> dict[str, str]:
    named = _named(source)
    back = "coalesce(v_is_return, v_revenue < 0)" if "is_return" in named else "v_revenue < 0"
    margin = "v_margin" if "margin" in named else "null::double"
    if source.margin_share is not None:
        margin = f"coalesce({margin}, v_revenue * {source.margin_share!r})"
    told = "v_is_return" if "is_return" in named else "false"
    n_items = "coalesce(v_n_items, 1)" if "n_items" in named else "1"
    return {
        "is_return": back,
        "n_items": f"abs({n_items})",
        # Some tills write what came back as positive amounts and tell it by a sign of their own.
        "revenue": f"case when {told} then -abs(v_revenue) else v_revenue end",
        "margin": f"case when {told} and v_revenue > 0 then -({margin}) else {margin} end",
    }


def _key(plan: Plan) -> str:
    source, name = plan.source, KEYS[plan.source.table]
    named = [f.name for f in plan.fields]
    content = [f"coalesce(v_{f}::varchar, '')" for f in named if f != name]
    content += [f"coalesce(i_{kind}::varchar, '')" for kind in source.identifiers]
    if source.table == "customers" and source.aggregate:
        content = [f"coalesce(i_{kind}::varchar, '')" for kind in source.identifiers]
    made = f"left(md5(concat_ws('|', {literal(source.name)}, {', '.join(content)})), 24)"
    return f"coalesce(v_{name}, {made})" if name in named else made
