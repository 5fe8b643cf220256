"""What files of customers say of each: consent and attributes of now, and of every moment since when.

They come as a company's CRM tells them, the latest row of each field outweighing the earlier ones. Where
rows say when they were changed (`updated_at`), what held before stays known too, so that a look back from a
moment does not see what was told later. What is told of an identifier is told of the customer since that
identifier is the customer's. What was told of customers who went into others is kept too. Of a customer
with several external ids each has its own say in consent, and no outweighs yes: who opted out under one of
them stays out when the two turn out to be one.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import duckdb

from nba import tables

_ALWAYS = "timestamptz '1900-01-01 00:00:00+00'"
# In the order in which they count: what is not dated first, then by time of change, then by name of file.
_TOLD = """crm as (
            select *, row_number() over (
                order by updated_at nulls first, name, joined_at, source, row_number) as turn
            from {once} left join file_name using (source, file) left join record using (key))"""
# Rows of customers who went into others; once, as those of now.
TOLD_FORMER = """select r.* exclude (combo), customer_no, reached_at, 1 as n_rows
    from all_customers r join former_owner using (combo)
    qualify row_number() over (
        partition by key, customer_no order by source desc, file desc, row_number desc) = 1"""
# The external id of rows (by key) of customers who have several; rows without one are a record of their own.
_RECORD = """create or replace temp table record as
    with many as (select customer_no from identity where strength = 0 group by 1 having count(*) > 1),
        many_former as (
            select customer_no from former_identity where strength = 0 group by 1 having count(*) > 1),
        shared as (
            select combo from owner semi join many using (customer_no) union
            select combo from former_owner semi join many_former using (customer_no))
    select key, any_value(i_{external}) as record
    from all_customers join (
        select combo, i_{external} from seen semi join shared using (combo)) using (combo)
    group by key"""
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
        is_consent: Whether it holds the consent for a purpose.
    """

    is_number: bool
    n: int = 0
    n_unfit: int = 0
    is_consent: bool = False


def records(connection: duckdb.DuckDBPyConnection, external: str) -> None:
    """Make the table `record` of the external ids of rows, of customers who have several.

    Args:
        connection: Holds what `identity.resolve` gives, and the views of `unify.look`.
        external: Kind of the external id.
    """
    connection.execute(_RECORD.format(external=external)).fetchall()


def kinds(
    connection: duckdb.DuckDBPyConnection,
    attributes: Sequence[str],
    told: Mapping[str, str],
    purposes: Collection[str] = (),
) -> dict[str, Kind]:
    """Say which attributes are numbers.

    An attribute is what is told of it: were that decided anew with each row that comes, a later row would
    change the features of earlier moments. One of which nothing is told is a number where every value is one.

    Args:
        connection: Holds the view `once` of usable rows of customers.
        attributes: Names of all attributes `a_*`.
        told: Attribute to `number` or `text`.
        purposes: Those that hold the consent for a purpose.
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
        out[name] = Kind(is_number, n, unfit if is_number else 0, name in purposes)
    return out


def customers(attributes: Mapping[str, Kind]) -> str:
    """Write the query of the table `customers`, in order of customer.

    It needs what `identity.resolve` gives, the view `once` of usable rows of customers, and `record`.

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
    latest, weighed = _weighed(attributes)
    return f"""with {_TOLD.format(once=of.once)},
        several as (select distinct customer_no from crm where record is not null),
        by_record as (
            select customer_no, {latest} from crm semi join several using (customer_no)
            group by customer_no, record),
        latest as (
            select customer_no, {_picked(attributes)} from crm anti join several using (customer_no)
            group by customer_no
            union all by name select customer_no, {weighed} from by_record group by customer_no),
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
    latest, weighed = _weighed(attributes)
    return f"""with {_TOLD.format(once=of.once)},
        dated as (
            select *, case when reached_at > greatest(joined_at, updated_at) then reached_at
                else coalesce(updated_at, {_ALWAYS}) end as since_at
            from crm semi join (
                select customer_no from crm where updated_at is not null) using (customer_no)),
        late as (
            select distinct customer_no from dated
            where since_at > coalesce(updated_at, {_ALWAYS}) or record is not null),
        grown as (
            select customer_no, since_at, turn, {grown} from dated anti join late using (customer_no)
            window w as (partition by customer_no order by turn
                rows between unbounded preceding and current row)),
        last as (
            from grown
            qualify row_number() over (partition by customer_no, since_at order by turn desc) = 1),
        told_late as (from dated semi join late using (customer_no)),
        by_record as (
            select customer_no, moment as since_at, {latest} from told_late
            join (select distinct customer_no, since_at as moment from told_late) using (customer_no)
            where told_late.since_at <= moment group by 1, 2, record),
        told as (
            select customer_no, since_at, {weighed} from by_record group by 1, 2
            union all by name select * exclude (turn) from last)
        select customer_id, since_at, {_shown(attributes)}
        from told join {of.customer} using (customer_no) order by customer_no, since_at"""


def _fields(attributes: Mapping[str, Kind]) -> list[str]:
    return [*(f"can_{channel}" for channel in tables.CHANNELS), "timezone", *attributes]


def _picked(attributes: Mapping[str, Kind]) -> str:
    return ", ".join(f"arg_max({name}, turn) as {name}" for name in _fields(attributes))


def _weighed(attributes: Mapping[str, Kind]) -> tuple[str, str]:
    # The latest of each field by record; and of these the latest, but of consents the strictest.
    names = _fields(attributes)
    latest = [f"arg_max(({name}, turn), turn) filter ({name} is not null) as {name}" for name in names]
    weighed = []
    for name in names:
        order = f"{name}[2]"
        if name.startswith("can_") or (name in attributes and attributes[name].is_consent):
            order = f"(not {tables.is_yes(f'{name}[1]')}, {name}[2])"
        weighed.append(f"arg_max({name}, {order})[1] as {name}")
    return ", ".join(latest), ", ".join(weighed)


def _shown(attributes: Mapping[str, Kind]) -> str:
    consent = [f"coalesce(can_{channel}, false) as can_{channel}" for channel in tables.CHANNELS]
    return ", ".join([*consent, "timezone", *(_typed(name, kind) for name, kind in attributes.items())])


def _typed(name: str, kind: Kind) -> str:
    if not kind.is_number:
        return name
    # A value that is none counts as the latest that was told, and is blank.
    return f"case when regexp_full_match({name}, {_NUMBER}) then {name}::double end as {name}"
