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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import available_timezones

import pyarrow as pa

from nba import tables
from nba.histories import identifiers
from nba.histories.scrub import scrubbed
from nba.histories.sources import among, literal
from nba.settings import ANSWERS, Identity, Source

KEYS = {"customers": "key", "orders": "order_id", "events": "event_id", "touches": "touch_id"}
TIMES = {"customers": "joined_at", "orders": "ordered_at", "events": "occurred_at", "touches": "touched_at"}
_RESOLVED = ("customer_id", "external_id")
_FILLED = {"customers": {f"can_{c}" for c in tables.CHANNELS}, "orders": {"n_items", "is_return"}}
_HASHED_KEYS = ("event_id", "touch_id")
_UPDATED = tables.Field("updated_at", "time", "when the row was last changed", nullable=True)
_BLANKS = ("", "null", "nan", "none", "n/a")
_YES, _NO = ("true", "t", "yes", "y", "1", "si", "sí"), ("false", "f", "no", "n", "0")


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


def combos(plan: Plan, types: Sequence[pa.DataType], rows: str, after: int = 0) -> str:
    """Write the query that numbers the combinations of identifiers in a file and hashes them.

    Args:
        plan: How the source is read.
        types: Arrow types of the wanted columns.
        rows: `from` clause of the raw rows; a table `phone_number(raw, e164)` must hold phone numbers.
        after: The highest number that is taken.

    Returns:
        SQL giving `combo`, the texts `k_<kind>`, `i_<kind>`, `junk_<kind>` (an identifier was there, but
        is junk), `external`, and whether it `names` anybody.
    """
    # Each text is normalised and hashed once, however many combinations it stands in.
    kinds = list(plan.source.identifiers)
    texts = ", ".join(f"{identifier_texts(plan, types, kind)} as k_{kind}" for kind in kinds)
    clean, joins, made = [], [], []
    for kind in kinds:
        phone = kind == "phone"
        value = "e164" if phone else identifiers.normalised(kind, "k", plan.identity)
        lookup = " left join phone_number on raw = k" if phone else ""
        distinct = f"select distinct k_{kind} as k from told where k_{kind} is not null"
        clean.append(
            f"{kind}_clean as materialized (select k, n, {identifiers.hashed(kind, 'n')} as i from (select k,"
            f" {value} as n from ({distinct}){lookup}))"
        )
        joins.append(f"left join {kind}_clean on {kind}_clean.k = k_{kind}")
        made += [
            f"{kind}_clean.i as i_{kind}",
            f"(k_{kind} is not null and {kind}_clean.n is null) as junk_{kind}",
        ]
    external = f"{plan.external}_clean.n" if plan.external in kinds else "null::varchar"
    some = " or ".join(f"{kind}_clean.n is not null" for kind in kinds)
    return (
        f"with told as materialized (select distinct {texts} from {rows}),\n{', '.join(clean)}\n"
        f"select row_number() over () + {after} as combo, {', '.join(f'k_{kind}' for kind in kinds)},"
        f" {', '.join(made)}, {external} as external, ({some}) as names from told {' '.join(joins)}"
    )


def query(plan: Plan, types: Sequence[pa.DataType], rows: str) -> str:
    """Write the query that maps the raw rows of a file.

    Args:
        plan: How the source is read.
        types: Arrow types of the wanted columns.
        rows: `from` clause of the raw rows; a table `combo_now` must hold what `combos` gives.

    Returns:
        SQL giving the staged columns; `reason` and `raw` are null where the row can be used.
    """
    source = plan.source
    texts = {name: f"t{i}" for i, name in enumerate(plan.wanted)}
    typed = _typed(plan, types)
    trimmed = [f"{_text(f'c{i}', kind)} as t{i}" for i, kind in enumerate(types) if i not in typed]
    kinds = dict(zip(plan.wanted, types))
    first = [f"{texts[column]} as k_{kind}" for kind, column in source.identifiers.items()]
    second, third = [], []
    reasons = ["case when not is_row then 'not a JSON object' end"]
    for spec in plan.fields:
        column = source.columns.get(spec.name)
        if spec.name in source.products:
            parts = source.products[spec.name]
            first.append(f"{' || '.join(texts[c] for c in parts)} as x_{spec.name}")
            value = " * ".join(_product_part(plan, c, texts[c], kinds[c]) for c in parts)
            first.append(f"{value} as y_{spec.name}")
            second.append(f"y_{spec.name} as w_{spec.name}")
        elif column is not None:
            i = plan.wanted.index(column)
            direct = _is_used_as_is(source, spec, kinds[column])
            if direct:
                first += [f"{_given(f'c{i}', kinds[column])} as x_{spec.name}", f"c{i} as y_{spec.name}"]
            else:
                text = _replaced(texts[column], source.values.get(spec.name, {}))
                first.append(f"{text} as x_{spec.name}")
            kind = kinds[column] if direct else pa.string()
            value = _value(spec.kind, f"y_{spec.name}" if direct else f"x_{spec.name}", kind, plan)
            second.append(f"{value} as w_{spec.name}")
        else:
            first.append(f"null::varchar as x_{spec.name}")
            second.append(f"null::{_SQL[spec.kind]} as w_{spec.name}")
        filled = (
            f"w_{spec.name}" if spec.kind != "time" else f"case when {_is_sane(spec)} then w_{spec.name} end"
        )
        if spec.name in source.constants:
            filled = f"coalesce({filled}, {_constant(spec, source.constants[spec.name])})"
        third.append(f"{filled} as v_{spec.name}")
        reasons += _reasons(spec, source)
    reasons.append("case when is_row and not names then 'no identifier' end")
    hashes = ", ".join(f"i_{kind}" for kind in source.identifiers)
    same = " and ".join(
        f"texts.k_{kind} is not distinct from combo_now.k_{kind}" for kind in source.identifiers
    )
    told = "nullif(concat_ws('; ', " + ", ".join(reasons) + "), '')"
    # What needs no text to be used gets one only where the row cannot be.
    told_of = [
        f"case when reason is not null then {_text(f'c{i}', types[i])} end as t{i}" for i in sorted(typed)
    ]
    raw = f"case when reason is not null then {_raw(plan, texts)} end"
    return (
        f"with trimmed as (select {', '.join(['*', *trimmed])} from {rows}),\n"
        f"texts as (select *, {', '.join(first)} from trimmed),\n"
        f"typed as (select texts.*, combo, names, {hashes}{', ' if second else ''}{', '.join(second)}"
        f" from texts join combo_now on {same}),\n"
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
    texts = [f"{identifier_texts(plan, types, kind)} as k_{kind}" for kind in kinds]
    for name, how in fields.items():
        value = _likeness(plan, types, own[name], how) if name in own else "null::varchar"
        texts.append(f"{value} as m_{name}")
    same = " and ".join(f"texts.k_{kind} is not distinct from combo_now.k_{kind}" for kind in kinds)
    named = " ".join(f"when i_{kind} is not null then '{kind}'" for kind in kinds)
    strongest = ", ".join(f"i_{kind}" for kind in kinds)
    shown = ", ".join(f"m_{name} as {name}" for name in fields)
    return (
        f"with texts as (select row_number, {', '.join(texts)} from {rows} where is_row)\n"
        f"select case {named} end as kind, replace(coalesce({strongest})::varchar, '-', '') as hash, {shown}"
        f" from texts join combo_now on {same} where names order by row_number"
    )


def _likeness(plan: Plan, types: Sequence[pa.DataType], column: str, how: str) -> str:
    i = plan.wanted.index(column)
    text = _text(f"c{i}", types[i])
    if how == "date":
        direct = _is_direct("time", types[i])
        moment = _time(f"c{i}" if direct else f"({text})", types[i] if direct else pa.string(), plan)
        return f"strftime(timezone({literal(plan.zone)}, {moment}), '%Y-%m-%d')"
    plain = f"strip_accents(lower({text}))"
    kept = "[^[:alnum:]]" if how == "code" else "[^[:alnum:]]+"
    return f"nullif(trim(regexp_replace({plain}, '{kept}', '{'' if how == 'code' else ' '}', 'g')), '')"


def identifier_texts(plan: Plan, types: Sequence[pa.DataType], kind: str) -> str:
    """Give the SQL of the text of an identifier of a kind, trimmed, null where blank."""
    i = plan.wanted.index(plan.source.identifiers[kind])
    return _text(f"c{i}", types[i])


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


_SQL = {
    "id": "varchar", "code": "varchar", "text": "varchar", "number": "double", "count": "double",
    "flag": "boolean", "time": "timestamptz",
}  # fmt: skip
_NOT = {
    "number": "not a number",
    "count": "not a whole number",
    "flag": "not yes or no",
    "time": "not a time",
}


def _is_direct(kind: str, found: pa.DataType) -> bool:
    if kind == "time":
        return pa.types.is_timestamp(found) or pa.types.is_date(found)
    return (kind in ("number", "count") and _is_number(found)) or (
        kind == "flag" and pa.types.is_boolean(found)
    )


def _is_number(found: pa.DataType) -> bool:
    return pa.types.is_integer(found) or pa.types.is_floating(found) or pa.types.is_decimal(found)


def _text(column: str, found: pa.DataType) -> str:
    # Whole numbers without ".0": pandas writes customer ids with gaps as floats.
    if pa.types.is_floating(found):
        whole = f"{column} = floor({column}) and abs({column}) < 1e15"
        return f"case when isfinite({column}) then case when {whole} then {column}::bigint::varchar" + (
            f" else {column}::varchar end end"
        )
    text = f"trim({column}::varchar)"
    blank = among(f"lower({text})", _BLANKS)
    return f"case when strlen({text}) > 4 then {text} when {blank} then null else {text} end"


def _given(column: str, found: pa.DataType) -> str:
    # Null where the text of a value would be.
    return f"case when isfinite({column}) then {column} end" if pa.types.is_floating(found) else column


def _is_used_as_is(source: Source, spec: tables.Field, found: pa.DataType) -> bool:
    return not source.values.get(spec.name) and _is_direct(spec.kind, found)


def _typed(plan: Plan, types: Sequence[pa.DataType]) -> set[int]:
    """Give the places of wanted columns that only serve as what they are, never as text."""
    source = plan.source
    read = {*source.identifiers.values(), *(c for group in source.products.values() for c in group)}
    for spec in plan.fields:
        column = source.columns.get(spec.name)
        if column is not None and not _is_used_as_is(source, spec, types[plan.wanted.index(column)]):
            read.add(column)
    return {i for i, name in enumerate(plan.wanted) if name not in read}


def _replaced(text: str, values: Mapping[str, str | float | bool]) -> str:
    if not values:
        return text
    cases = " ".join(f"when {literal(old)} then {literal(_plain(new))}" for old, new in values.items())
    return f"case {text} {cases} else {text} end"


def _plain(value: str | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _constant(spec: tables.Field, value: str | float | bool) -> str:
    if spec.kind == "time":
        return f"{literal(str(value))}::timestamptz"
    return f"{literal(_plain(value))}::{_SQL[spec.kind]}"


def _value(kind: str, text: str, found: pa.DataType, plan: Plan) -> str:
    if kind == "time":
        return _time(text, found, plan)
    if kind in ("number", "count"):
        value = _number(text, found, plan.source.decimal)
        return value if kind == "number" else f"case when {value} = floor({value}) then {value} end"
    if kind == "flag":
        if pa.types.is_boolean(found):
            return text
        low = f"lower({text})"
        return f"case when {among(low, _YES)} then true when {among(low, _NO)} then false end"
    return text


def _product_part(plan: Plan, column: str, text: str, found: pa.DataType) -> str:
    if _is_number(found):
        return _number(f"c{plan.wanted.index(column)}", found, ".")
    return _number(f"({text})", found, plan.source.decimal)


def _number(text: str, found: pa.DataType, decimal: str) -> str:
    if _is_number(found):
        return f"case when isfinite({text}::double) then {text}::double end"
    point, comma = ("\\.", ",") if decimal == "." else (",", "\\.")
    plain = f"[+-]?(\\d+|\\d{{1,3}}({comma}\\d{{3}})+)?({point}\\d+|{point})?([eE][+-]?\\d{{1,2}})?"
    bare = f"replace({text}, {literal(comma[-1])}, '')"
    if decimal == ",":
        bare = f"replace({bare}, ',', '.')"
    return f"case when regexp_full_match({text}, {literal(plain)}) then try_cast({bare} as double) end"


def _time(text: str, found: pa.DataType, plan: Plan) -> str:
    zone = literal(plan.zone)
    if pa.types.is_timestamp(found):
        moment = f"{text}::timestamptz" if found.tz else f"timezone({zone}, {text}::timestamp)"
    elif pa.types.is_date(found):
        moment = f"timezone({zone}, {text}::timestamp)"
    elif plan.source.time_format is not None:
        given = plan.source.time_format
        tried = [_formatted(text, one, zone) for one in ((given,) if isinstance(given, str) else given)]
        moment = f"coalesce({', '.join(tried)})" if len(tried) > 1 else tried[0]
    else:
        moment = _iso_or_epoch(text, zone)
    return moment


def _formatted(text: str, time_format: str, zone: str) -> str:
    if time_format == "iso":
        return _iso_or_epoch(text, zone)
    parsed = f"try_strptime({text}, {literal(time_format)})"
    return f"{parsed}::timestamptz" if "%z" in time_format else f"timezone({zone}, {parsed})"


def _is_sane(spec: tables.Field) -> str:
    low, high = "timestamptz '1900-01-01 00:00:00+00'", "timestamptz '2200-01-01 00:00:00+00'"
    return f"w_{spec.name} >= {low} and w_{spec.name} < {high}"


def _iso_or_epoch(text: str, zone: str) -> str:
    # No regular expressions here: these run on every row of every source.
    number = f"try_cast({text} as double)"
    micros = (
        f"case when abs({number}) < 1e11 then {number} * 1e6 when abs({number}) < 1e14 then {number} * 1e3"
        f" else {number} end"
    )
    clock = f"substr({text}, 12)"
    # A letter at the end is a zone's (Z, EST, Europe/Madrid); in a plain time DuckDB passes over any word.
    is_named = f"right({text}, 1) not between '0' and '9'"
    offset = f"({is_named} or contains({clock}, '+') or contains({clock}, '-'))"
    hour, minute = (f"try_strptime({text}, '{form}') is not null" for form in ("%Y%m%d%H", "%Y%m%d%H%M"))
    is_compact = (
        f"left({text}, 2) in ('19', '20')"
        f" and case strlen({text}) when 10 then {hour} when 12 then {minute} else false end"
    )
    return (
        f"case when not regexp_matches({text}, '^-?[0-9]') then null"  # DuckDB knows `epoch` and `infinity`
        f" when {number} is not null then case when strlen({text}) = 8"
        f" then timezone({zone}, try_strptime({text}, '%Y%m%d'))"
        f" when {is_compact} then null"  # 2026011010 is an hour of 2026 or seconds of 2034: never guessed
        f" when strlen({text}) > 8 then timezone('UTC', make_timestamp(try_cast({micros} as bigint))) end"
        f" when strlen({text}) > 15 and {offset} then try_cast({text} as timestamptz)"
        f" when not {is_named} then timezone({zone}, try_cast({text} as timestamp)) end"
    )


def _reasons(spec: tables.Field, source: Source) -> list[str]:
    name, out = spec.name, []
    if spec.kind in _NOT:
        bad = f"w_{name} is null" if spec.kind != "time" else f"not coalesce({_is_sane(spec)}, false)"
        out.append(f"case when x_{name} is not null and {bad} then '{name}: {_NOT[spec.kind]}' end")
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
        value = f"v_{spec.name}" if spec.name in named else f"null::{_SQL[spec.kind]}"
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
    number = f"({_number(value, pa.string(), ',')})::varchar"
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
