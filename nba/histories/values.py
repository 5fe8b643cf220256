"""The SQL that makes of what a source gives values of the contract's kinds: texts, numbers, flags, times."""

import re
from collections.abc import Mapping

import pyarrow as pa

from nba import tables
from nba.histories.sources import among, literal
from nba.settings import Source

_BLANKS = ("", "null", "nan", "none", "n/a")
_YES, _NO = ("true", "t", "yes", "y", "1", "si", "sí"), ("false", "f", "no", "n", "0")


SQL = {
    "id": "varchar", "code": "varchar", "text": "varchar", "number": "double", "count": "double",
    "flag": "boolean", "time": "timestamptz",
}  # fmt: skip
NOT = {
    "number": "not a number",
    "count": "not a whole number",
    "flag": "not yes or no",
    "time": "not a time",
}


def is_direct(kind: str, found: pa.DataType) -> bool:
    """Say whether a column of this type serves as the kind as it is, without being read as text."""
    if kind == "time":
        return pa.types.is_timestamp(found) or pa.types.is_date(found)
    return (kind in ("number", "count") and is_number(found)) or (
        kind == "flag" and pa.types.is_boolean(found)
    )


def is_number(found: pa.DataType) -> bool:
    """Say whether a column holds numbers."""
    return pa.types.is_integer(found) or pa.types.is_floating(found) or pa.types.is_decimal(found)


def text_of(column: str, found: pa.DataType) -> str:
    """Write the text of a column, trimmed, null where blank."""
    # Whole numbers without ".0": pandas writes customer ids with gaps as floats.
    if pa.types.is_floating(found):
        whole = f"{column} = floor({column}) and abs({column}) < 1e15"
        return f"case when isfinite({column}) then case when {whole} then {column}::bigint::varchar" + (
            f" else {column}::varchar end end"
        )
    # What is plain ASCII without blanks around it, as nearly all is, need not be trimmed.
    plain = f"{column}::varchar"
    is_trimmed = f"strlen({plain}) = length({plain}) and not ({plain} like ' %' or {plain} like '% ')"
    text = f"case when {is_trimmed} then {plain} else trim({plain}) end"
    blank = among(f"lower({text})", _BLANKS)
    return f"case when strlen({text}) > 4 then {text} when {blank} then null else {text} end"


def given_of(column: str, found: pa.DataType) -> str:
    """Write a column that serves as it is: null where the text of its value would be."""
    return f"case when isfinite({column}) then {column} end" if pa.types.is_floating(found) else column


def replaced(text: str, values: Mapping[str, str | float | bool]) -> str:
    """Write a text with the source's own words replaced by the contract's."""
    if not values:
        return text
    cases = " ".join(f"when {literal(old)} then {literal(_plain(new))}" for old, new in values.items())
    return f"case {text} {cases} else {text} end"


def _plain(value: str | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def constant(spec: tables.Field, value: str | float | bool) -> str:
    """Write a value that the mapping fixes for a field."""
    if spec.kind == "time":
        return f"{literal(str(value))}::timestamptz"
    return f"{literal(_plain(value))}::{SQL[spec.kind]}"


def value_of(kind: str, text: str, found: pa.DataType, source: Source, zone: str) -> str:
    """Write a value of a kind, null where the text holds none; zone is that of times without offset."""
    if kind == "time":
        return time_of(text, found, source, zone)
    if kind in ("number", "count"):
        value = number_of(text, found, source.decimal)
        return value if kind == "number" else f"case when {value} = floor({value}) then {value} end"
    if kind == "flag":
        if pa.types.is_boolean(found):
            return text
        low = f"lower({text})"
        return f"case when {among(low, _YES)} then true when {among(low, _NO)} then false end"
    return text


def number_of(text: str, found: pa.DataType, decimal: str) -> str:
    """Write a number, null where the text holds none; decimal is the source's sign, . or ,."""
    if is_number(found):
        return f"case when isfinite({text}::double) then {text}::double end"
    bare = f"replace({text}, {literal(_other(decimal))}, '')"
    if decimal == ",":
        bare = f"replace({bare}, ',', '.')"
    return f"case when {is_written(text, decimal)} then try_cast({bare} as double) end"


def _other(decimal: str) -> str:
    return "," if decimal == "." else "."


def is_written(text: str, decimal: str) -> str:
    """Say whether a text is a number as written with a decimal sign: no group of thousands begins with 0."""
    point, comma = (re.escape(sign) for sign in (decimal, _other(decimal)))
    plain = f"[+-]?(\\d+|[1-9]\\d{{0,2}}({comma}\\d{{3}})+)?({point}\\d+|{point})?([eE][+-]?\\d{{1,2}})?"
    return f"regexp_full_match({text}, {literal(plain)})"


def is_ambiguous(text: str) -> str:
    """Say whether a text is a number by either decimal sign, and not the same: 1,234."""
    return f"regexp_full_match({text}, '[+-]?[1-9]\\d{{0,2}}[.,]\\d{{3}}')"


def evidence(text: str, decimal: str) -> tuple[str, str, str]:
    """Count how many texts can only be written with the decimal sign, with the other, or with either."""
    own, other = is_written(text, decimal), is_written(text, _other(decimal))
    signed = f"regexp_matches({text}, '[.,]')"
    return (
        f"count(*) filter ({signed} and {own} and not {other})",
        f"count(*) filter ({other} and not {own})",
        f"count(*) filter ({is_ambiguous(text)} and contains({text}, {literal(_other(decimal))}))",
    )


def why_no_number(text: str, kind: str, decimal: str, *, is_doubtful: bool) -> str:
    """Write why a text is no number."""
    doubt = f"when {is_ambiguous(text)} then 'thousands or decimals? set decimal'" if is_doubtful else ""
    wrong = literal(f"{NOT[kind]} with decimal = '{decimal}'")
    return (
        f"case {doubt} when {is_written(text, _other(decimal))} and not {is_written(text, decimal)}"
        f" then {wrong} else '{NOT[kind]}' end"
    )


def time_of(text: str, found: pa.DataType, source: Source, zone: str) -> str:
    """Write a moment, null where the text holds none; zone is that of times without offset."""
    zone = literal(zone)
    if pa.types.is_timestamp(found):
        moment = f"{text}::timestamptz" if found.tz else f"timezone({zone}, {text}::timestamp)"
    elif pa.types.is_date(found):
        moment = f"timezone({zone}, {text}::timestamp)"
    elif source.time_format is not None:
        given = source.time_format
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
