"""What files of customers say of each: consent and attributes of now, and of every moment since when.

They come as a company's CRM tells them, the latest row of each field outweighing the earlier ones. Where
rows say when they were changed (`updated_at`), what held before stays known too, so that a look back from a
moment does not see what was told later.
"""

from collections.abc import Sequence

import duckdb

from nba import tables

_ALWAYS = "timestamptz '1900-01-01 00:00:00+00'"
# In the order in which they count: what is not dated first, then by time of change, then by name of file.
_TOLD = """crm as (
            select *, row_number() over (
                order by updated_at nulls first, name, joined_at, source, row_number) as turn
            from once left join file_name using (source, file))"""


def customers(connection: duckdb.DuckDBPyConnection, attributes: Sequence[str]) -> str:
    """Write the query of the table `customers`, in order of customer.

    Args:
        connection: Holds what `identity.resolve` gives, and the view `once` of usable rows of customers.
        attributes: Names of all attributes `a_*`.
    """
    picked = ", ".join(f"arg_max({column}, turn) as {column}" for column in _fields(attributes))
    return f"""with {_TOLD},
        latest as (select customer_no, {picked} from crm group by customer_no),
        oldest as (
            select customer_no, arg_min(node, (sight, node)) as node
            from identity where strength = 0 group by 1),
        known as (
            select customer_no, clear as external_id from oldest join identifiers using (node)
            join clear using (hash)),
        first as (select customer_no, min(sight) >> 10 as joined from identity group by 1)
        select customer_id, external_id, make_timestamp(joined)::timestamptz as joined_at,
            {_shown(connection, attributes)}
        from first left join known using (customer_no) join customer using (customer_no)
            left join latest using (customer_no) order by customer_no"""


def states(connection: duckdb.DuckDBPyConnection, attributes: Sequence[str]) -> str:
    """Write the query of the table `states`, in order of customer and time; see `customers`.

    Only customers of whom at least one row is dated are there. What is not dated has always been so.
    """
    grown = ", ".join(
        f"last_value({column} ignore nulls) over w as {column}" for column in _fields(attributes)
    )
    return f"""with {_TOLD},
        grown as (
            select customer_no, updated_at, turn, {grown} from crm
            semi join (select customer_no from crm where updated_at is not null) using (customer_no)
            window w as (partition by customer_no order by turn
                rows between unbounded preceding and current row)),
        last as (
            from grown
            qualify row_number() over (partition by customer_no, updated_at order by turn desc) = 1)
        select customer_id, coalesce(updated_at, {_ALWAYS}) as since_at, {_shown(connection, attributes)}
        from last join customer using (customer_no) order by customer_no, since_at"""


def _fields(attributes: Sequence[str]) -> list[str]:
    return [*(f"can_{channel}" for channel in tables.CHANNELS), "timezone", *attributes]


def _shown(connection: duckdb.DuckDBPyConnection, attributes: Sequence[str]) -> str:
    consent = [f"coalesce(can_{channel}, false) as can_{channel}" for channel in tables.CHANNELS]
    return ", ".join([*consent, "timezone", *(_typed(connection, name) for name in attributes)])


def _typed(connection: duckdb.DuckDBPyConnection, attribute: str) -> str:
    # A number where every value is one; 08001 is a code.
    number = "-?(0|[1-9]\\d{0,14})(\\.\\d+)?"
    told = connection.execute(
        f"select bool_and(regexp_full_match({attribute}, '{number}')) from once where {attribute} is not null"
    ).fetchall()
    return f"{attribute}::double as {attribute}" if told[0][0] else attribute
