"""Rules as SQL conditions over what is known of a customer, checked before they run.

A rule keeps a candidate where its condition is true; where it is false or unknown (NULL) the candidate goes.
DuckDB parses the condition; only comparisons, logic, arithmetic, CASE, CAST, IN lists and the functions
below may stand in it, and only columns that are there. Nothing of it is ever evaluated by Python.
"""

import difflib
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import duckdb

from nba.errors import SettingsError

FUNCTIONS = frozenset(
    # By kind: numbers, choices, text, patterns, times, operators.
    """
    abs ceil floor round ln log10 sqrt pow sign
    least greatest coalesce nullif
    lower upper trim length contains prefix starts_with suffix ends_with
    like ilike ~~ !~~ ~~* !~~* regexp_matches
    year month day dayofweek isodow hour date_diff datediff date_part
    + - * / % // || not
    """.split()  # noqa: SIM905
)
_CLASSES = frozenset(
    "COLUMN_REF CONSTANT COMPARISON CONJUNCTION OPERATOR BETWEEN CASE CAST TYPE FUNCTION".split()  # noqa: SIM905
)
# Types of nodes within these classes that would still reach beyond the row.
_FORBIDDEN = frozenset(
    "SUBQUERY WINDOW STAR LAMBDA LAMBDA_REF PARAMETER COLLATE POSITIONAL_REFERENCE DEFAULT".split()  # noqa: SIM905
)
_QUERY_PARTS = ("where_clause", "having", "qualify", "sample", "group_expressions")


def check(condition: str, columns: Iterable[str]) -> tuple[str, ...]:
    """See that a condition is a safe expression over columns that are there.

    Args:
        condition: SQL, such as `f_n_orders_365d >= 2 and a_segment in ('gold', 'silver')`.
        columns: Columns of a row.

    Returns:
        The columns that it reads, in order of first mention.

    Raises:
        SettingsError: when it does not parse, is more than one expression, calls a function that is not
            allowed, or names a column that is not there.

    Example:
        >>> check("f_age_days > 30 and lower(a_segment) = 'gold'", ["f_age_days", "a_segment"])
        ('f_age_days', 'a_segment')
    """
    faults, known = [], {name.lower(): name for name in columns}
    found: dict[str, None] = {}
    for node in _nodes(_parsed(condition)):
        kind, type_ = node.get("class"), node.get("type")
        if kind == "COLUMN_REF":
            name = ".".join(node["column_names"])
            if name.lower() in known:
                found[known[name.lower()]] = None
            else:
                faults.append(_unknown(name, list(known.values())))
        elif kind == "FUNCTION" and node["function_name"].lower() not in FUNCTIONS:
            faults.append(f"function {node['function_name']!r} is not allowed in a rule")
        elif kind not in _CLASSES or type_ in _FORBIDDEN:
            faults.append(f"{str(type_).lower().replace('_', ' ')} is not allowed in a rule")
    if faults:
        raise SettingsError(
            f"the condition {condition!r} cannot be used: " + "; ".join(dict.fromkeys(faults)),
            "Use comparisons, and/or/not, arithmetic, CASE, IN and columns of the features and customers.",
        )
    return tuple(found)


def fault(name: str, condition: str, columns: Iterable[str]) -> str:
    """Say what `check` finds wrong with a condition of that name; nothing where it is sound."""
    try:
        check(condition, columns)
    except SettingsError as error:
        return f"{name}: {error.message}"
    return ""


def unanswered(
    asked: Iterable[tuple[str, str]], source: str, ask: Callable[[str], object], error: duckdb.Error
) -> SettingsError:
    """Name the conditions that cannot be answered of some rows, such as text compared with a number.

    Args:
        asked: Name and condition of each.
        source: SQL of the rows.
        ask: Runs a query.
        error: What came of asking all together.
    """
    faults = []
    for name, condition in asked:
        try:
            ask(f"select count(*) filter ({condition}) from {source}")
        except duckdb.Error as found:
            faults.append(f"- {name}: {str(found).splitlines()[0]}")
    return SettingsError(
        "\n".join(["conditions cannot be answered:", *(faults or [f"- {str(error).splitlines()[0]}"])]),
        "Compare columns with values of their own type; a condition is true or false.",
    )


def _parsed(condition: str) -> dict[str, Any]:
    with duckdb.connect() as connection:
        query = "select json_serialize_sql($sql)"
        text = connection.execute(query, {"sql": f"select ({condition}\n) as kept"}).fetchall()[0][0]
    found = json.loads(text)
    if found.get("error"):
        raise SettingsError(
            f"the condition {condition!r} is not SQL: {found.get('error_message', 'it cannot be parsed')}",
            "Write one condition, such as f_n_orders_365d >= 2; text stands in single quotes.",
        )
    statements = found["statements"]
    node = statements[0]["node"] if len(statements) == 1 else {}
    plain = node.get("type") == "SELECT_NODE" and (node.get("from_table") or {}).get("type") == "EMPTY"
    extra = any(node.get(part) for part in _QUERY_PARTS)
    if not plain or extra or len(node["select_list"]) != 1 or node.get("modifiers"):
        raise SettingsError(
            f"the condition {condition!r} is more than one expression",
            "Write one condition, without a query.",
        )
    return dict(node["select_list"][0])


def _nodes(node: Any) -> Iterator[dict[str, Any]]:
    # Every expression of the tree: a dictionary with a class.
    if isinstance(node, dict):
        if "class" in node and "type" in node:
            yield node
        for key, part in node.items():
            if key not in ("value", "cast_type"):
                yield from _nodes(part)
    elif isinstance(node, list):
        for part in node:
            yield from _nodes(part)


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3)
    if near:
        return f"column {name!r} is not there; near to it are {near}"
    alike = [one for one in known if one[:2] == name[:2]] or known
    more = f" and {len(alike) - 8} more" if len(alike) > 8 else ""
    return f"column {name!r} is not there; there are {', '.join(alike[:8])}{more}"
