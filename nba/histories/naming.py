"""What customers are called: those of earlier runs keep their ids, new ones get theirs from an identifier."""

from datetime import UTC, datetime, timedelta

import duckdb
import pyarrow as pa

from nba.histories.identifiers import plain_hash
from nba.histories.linking import Ints

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NODE = (1 << 54) - 1


def names(connection: duckdb.DuckDBPyConnection, best: pa.Table) -> tuple[dict[str, str], int]:
    """Name each component, as `component_customer`.

    Args:
        connection: Holds the tables of `identity.resolve`: `identifiers`, `member`, `known`, `kind_strength`.
        best: Component and its strongest, oldest node.

    Returns:
        Earlier customer id to the one that it was merged into, and how many earlier customers no longer hang
        together.
    """
    # An earlier customer lives on where its strongest, oldest identifier is now. Of several that meet, the
    # one that was seen first gives the id. A new customer is named after its strongest, oldest identifier.
    _run(
        connection,
        f"""create or replace temp table known_member as
        select component, k.customer_id, node,
            (m.strength << 54) + epoch_us(k.first_seen_at) + (1::bigint << 52) as turn,
            coalesce(epoch_us(k.joined_at), m.turn) as since, (m.strength << 54) + node
                + ((k.joined_at is distinct from k.first_seen_at)::bigint << 62) as place
        from known k join kind_strength s using (identifier_kind)
        join identifiers i on i.strength = s.strength and k.identifier_hash = {plain_hash("i.hash")}
        join member m using (node)""",
    )
    _run(
        connection,
        """create or replace temp table known_home as
        select customer_id, any_value(component) as component from known_member join (
            select customer_id, min(node) as node from known_member join (
                select customer_id, min(turn) as turn from known_member group by 1) using (customer_id, turn)
            group by 1) using (customer_id, node) group by 1""",
    )
    # Its root: the identifier that was the customer's first, with which no other was seen before.
    _run(
        connection,
        f"""create or replace temp table known_root as
        with own as (from known_member semi join known_home using (customer_id, component)),
        first as (select customer_id, min(since) as since from own group by 1)
        select customer_id, min(place) & {_NODE} as node from own join first using (customer_id, since)
        group by 1""",
    )
    claims = connection.execute(
        """with places as (
            select customer_id, count(distinct component) as n_places from known_member group by 1),
        home as (from known_home),
        doubtful as (select component from home group by 1 having count(*) > 1),
        claim as (
            from home join places using (customer_id)
            where n_places > 1 or component in (from doubtful)),
        age as (
            select customer_id, min(first_seen_at) as since, min(strength) as strongest
            from known semi join claim using (customer_id) left join kind_strength using (identifier_kind)
            group by 1)
        select component, customer_id, n_places from claim join age using (customer_id)
        order by component, since, strongest, customer_id"""
    ).fetchall()
    first: dict[int, str] = {}
    merged: dict[str, str] = {}
    for component, customer_id, _ in claims:
        if first.setdefault(component, customer_id) != customer_id:
            merged[customer_id] = first[component]
    gone = pa.table({"customer_id": pa.array([*merged], pa.string())})
    connection.register("merged_away", gone)
    connection.register("best", best)
    _run(
        connection,
        f"""create or replace temp table component_customer as
        with home as (from known_home anti join merged_away using (customer_id))
        select component, coalesce(customer_id, 'c' || left({plain_hash("hash")}, 20)) as customer_id,
            customer_id is null as is_new, best.node, coalesce(r.node, best.node) as root
        from best join identifiers using (node) left join home using (component)
            left join known_root r using (customer_id)""",
    )
    _apart(connection)
    return merged, sum(n_places > 1 for _, _, n_places in claims)


def merged_at(connection: duckdb.DuckDBPyConnection, since: Ints) -> dict[str, datetime]:
    """Give since when each customer that was merged away is another; since is that of each node, in us."""
    rows = connection.execute(
        "select customer_id, node from known_root semi join merged_away using (customer_id)"
    ).fetchall()
    return {name: _EPOCH + timedelta(microseconds=int(since[node])) for name, node in rows}


def _apart(connection: duckdb.DuckDBPyConnection) -> None:
    # Two new customers, or a new and an earlier one, may get the same name: then -2, -3, ... follows.
    clashes = connection.execute(
        """select component, customer_id from component_customer where is_new and customer_id in (
            select customer_id from (
                select customer_id from component_customer union all select distinct customer_id from known
                where customer_id not in (select customer_id from component_customer where not is_new))
            group by 1 having count(*) > 1)
        order by node"""
    ).fetchall()
    if not clashes:
        return
    used = {row[0] for row in connection.execute("select distinct customer_id from known").fetchall()}
    for component, base in clashes:
        name, turn = base, 1
        while name in used:
            turn += 1
            name = f"{base}-{turn}"
        used.add(name)
        connection.execute(
            "update component_customer set customer_id = $name where component = $component",
            {"name": name, "component": component},
        ).fetchall()


def _run(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    connection.execute(query).fetchall()
