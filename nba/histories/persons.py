"""What files of customers say of each: consent and attributes of now, and of every moment since when.

They come as a company's CRM tells them, the latest row of each field outweighing the earlier ones. Where
rows say when they were changed (`updated_at`), what held before stays known too, so that a look back from a
moment does not see what was told later. What is told of an identifier is told of the customer since that
identifier is the customer's. What was told of customers who went into others is kept too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import duckdb

from nba import tables

_ALWAYS = "timestamptz '1900-01-01 00:00:00+00'"
# In the order in which they count: what is not dated first, then by time of change, then by name of file.
_TOLD = """crm as (
            select *, row_number() over (
                order by updated_at nulls first, name, joined_at, source, row_number) as turn
            from {once} left join file_name using (source, file))"""
# Rows of customers who went into others; once, as those of now.
TOLD_FORMER = """select r.* exclude (combo), customer_no, reached_at, 1 as n_rows
    from all_customers r join former_owner using (combo)
    qualify row_number() over (
        partition by key, customer_no order by source desc, file desc, row_number desc) = 1"""
# 08001 is a code.
_NUMBER = "'-?(0|[1-9]\\d{0,14})(\\.\\d+)?'"


class _Views(NamedTuple):
    # Of rows, identifiers and customers.
    once: str = "once"
    identity: str = "identity"
    customer: str = "customer"


_NOW = _Views()
_FORMER = _Views("once_former", "former_identity", "former")


@dataclass(frozen=True)
class Kind:
    """What an attribute is.

    Attributes:
        is_number: Whether it is a number; else text.
        n: Values that were told.
        n_unfit: Of a number, those that are none; they are left blank.
    """

    is_number: bool
    n: int = 0
    n_unfit: int = 0


def kinds(
    connection: duckdb.DuckDBPyConnection, attributes: Sequence[str], told: Mapping[str, str]
) -> dict[str, Kind]:
    """Say which attributes are numbers.

    An attribute is what is told of it: were that decided anew with each row that comes, a later row would
    change the features of earlier moments. One of which nothing is told is a number where every value is one.

    Args:
        connection: Holds the view `once` of usable rows of customers.
        attributes: Names of all attributes `a_*`.
        told: Attribute to `number` or `text`.
    """
    if not attributes:
        return {}
    counted = ", ".join(
        f"count({name}), count(*) filter (not regexp_full_match({name}, {_NUMBER}))" for name in attributes
    )
    found = connection.execute(f"select {counted} from once").fetchall()[0]
    out = {}
    for name, n, unfit in zip(attributes, found[::2], found[1::2]):
        is_number = told[name] == "number" if name in told else bool(n) and not unfit
        out[name] = Kind(is_number, n, unfit if is_number else 0)
    return out


def customers(attributes: Mapping[str, Kind]) -> str:
    """Write the query of the table `customers`, in order of customer.

    It needs what `identity.resolve` gives, and the view `once` of usable rows of customers.

    Args:
        attributes: All attributes `a_*`, and what they are.
    """
    return _customers(attributes, _NOW)


def customers_earlier(attributes: Mapping[str, Kind]) -> str:
    """Write the query of the table `customers_earlier`, in order of customer; see `customers`.

    It needs the view `once_former` of `TOLD_FORMER` instead.
    """
    return f"""select c.*, until as superseded_at from ({_customers(attributes, _FORMER)}) c
        join former using (customer_id) order by customer_id"""


def _customers(attributes: Mapping[str, Kind], of: _Views) -> str:
    picked = ", ".join(f"arg_max({column}, turn) as {column}" for column in _fields(attributes))
    return f"""with {_TOLD.format(once=of.once)},
        latest as (select customer_no, {picked} from crm group by customer_no),
        oldest as (
            select customer_no, arg_min(node, (sight, node)) as node
            from {of.identity} where strength = 0 group by 1),
        known as (
            select customer_no, clear as external_id from oldest join identifiers using (node)
            join clear using (hash)),
        first as (select customer_no, min(joined) as joined from {of.identity} group by 1)
        select customer_id, external_id, make_timestamptz(joined) as joined_at,
            {_shown(attributes)}
        from first left join known using (customer_no) join {of.customer} using (customer_no)
            left join latest using (customer_no) order by customer_no"""


def states(attributes: Mapping[str, Kind]) -> str:
    """Write the query of the table `states`, in order of customer and time; see `customers`.

    Those who went into others come last: it needs both views. What is told of them after they went shows that
    what is told is dated.

    Only customers of whom at least one row is dated are there. What is not dated has always been so. Of those
    of whom a row is known since later than it says, each moment looks at all that was known by then.
    """
    return f"""from ({_states(attributes, _NOW)}) union all by name
        from ({_states(attributes, _FORMER)}) semi join former using (customer_id)"""


def _states(attributes: Mapping[str, Kind], of: _Views) -> str:
    names = _fields(attributes)
    grown = ", ".join(f"last_value({column} ignore nulls) over w as {column}" for column in names)
    picked = ", ".join(f"arg_max({column}, turn) as {column}" for column in names)
    return f"""with {_TOLD.format(once=of.once)},
        dated as (
            select *, case when reached_at > greatest(joined_at, updated_at) then reached_at
                else coalesce(updated_at, {_ALWAYS}) end as since_at
            from crm semi join (
                select customer_no from crm where updated_at is not null) using (customer_no)),
        late as (
            select distinct customer_no from dated where since_at > coalesce(updated_at, {_ALWAYS})),
        grown as (
            select customer_no, since_at, turn, {grown} from dated anti join late using (customer_no)
            window w as (partition by customer_no order by turn
                rows between unbounded preceding and current row)),
        last as (
            from grown
            qualify row_number() over (partition by customer_no, since_at order by turn desc) = 1),
        told_late as (from dated semi join late using (customer_no)),
        told as (
            select customer_no, moment as since_at, {picked} from told_late
            join (select distinct customer_no, since_at as moment from told_late) using (customer_no)
            where told_late.since_at <= moment group by 1, 2
            union all by name select * exclude (turn) from last)
        select customer_id, since_at, {_shown(attributes)}
        from told join {of.customer} using (customer_no) order by customer_no, since_at"""


def _fields(attributes: Mapping[str, Kind]) -> list[str]:
    return [*(f"can_{channel}" for channel in tables.CHANNELS), "timezone", *attributes]


def _shown(attributes: Mapping[str, Kind]) -> str:
    consent = [f"coalesce(can_{channel}, false) as can_{channel}" for channel in tables.CHANNELS]
    return ", ".join([*consent, "timezone", *(_typed(name, kind) for name, kind in attributes.items())])


def _typed(name: str, kind: Kind) -> str:
    if not kind.is_number:
        return name
    # A value that is none counts as the latest that was told, and is blank.
    return f"case when regexp_full_match({name}, {_NUMBER}) then {name}::double end as {name}"
