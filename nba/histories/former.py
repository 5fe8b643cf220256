"""Customers that went into others, as they were known until then.

A customer is named after the identifier that it began with, its root. Whatever led to that root by a moment
was the customer's, until the root itself was another's. So a look back to before two were known to be one
sees both, whatever is learnt later. Of several that met, the one that went on has what they shared.

It all stands in the connection: `former` (the customers), `former_identity` (their identifiers),
`former_owner` (their combinations) and `anyone` (customers of now and of then, by number).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import duckdb
import numpy as np
import pyarrow as pa

from nba import tables
from nba.histories.linking import NEVER, Ints, joined

_OF_NOW = -1
_GONE = pa.schema([("customer_id", pa.string()), ("now_id", pa.string()), ("turn", pa.int64())])
_FORMER = """create or replace temp table former (
    customer_no bigint, customer_id varchar, next_id varchar, until timestamptz)"""
_IDENTITY = """create or replace temp table former_identity as
    select node, strength, hash, sight, sight as joined, node as customer_no, sight as until
    from identifiers limit 0"""
_OWNER = """create or replace temp table former_owner (
    combo bigint, customer_no bigint, now_no bigint, reached_at timestamptz, until timestamptz)"""


@dataclass(frozen=True)
class Spans:
    """What was whose, and when.

    Attributes:
        ends: Until when each root had what led to it, shape (m,).
        into: Which root it went to, shape (m,); -1 for the customer of now.
        node: Nodes that were a root's, shape (s,); a node may have been several's, one after the other.
        who: The root, shape (s,).
        begins: Since when, shape (s,); before the root's end.
    """

    ends: Ints
    into: Ints
    node: Ints
    who: Ints
    begins: Ints


def spans(label: Ints, links: tuple[Ints, Ints, Ints], now: Ints, roots: Ints, sight: Ints) -> Spans:
    """Tell what led to the roots of former customers, until they were others'.

    Args:
        label: Component of each node, shape (n,).
        links: Two ends, both in one component, and the time of each link, each of shape (l,).
        now: Since when each node leads to the root of its component's customer of now, shape (n,).
        roots: Nodes that were roots, shape (m,), one or more; of one component, whoever went on comes before
            whoever did not.
        sight: When each root was first seen, shape (m,).

    Example:
        An e-mail (node 1) and a cookie (node 2) met at 3, and both the CRM id (node 0) at 9; the cookie had
        been a customer too:

        >>> links = np.array([0, 1]), np.array([1, 2]), np.array([9, 3])
        >>> roots = np.array([1, 2])
        >>> told = spans(np.zeros(3, np.int64), links, np.array([0, 9, 9]), roots, sight=np.array([1, 2]))
        >>> told.ends.tolist(), told.into.tolist()
        ([9, 3], [-1, 0])
        >>> list(zip(told.node.tolist(), told.who.tolist(), told.begins.tolist()))
        [(1, 0, 1), (2, 0, 3), (2, 1, 2)]
    """
    some = np.zeros(int(label.max(initial=-1)) + 1, bool)
    some[label[roots]] = True
    nodes, number = np.flatnonzero(some[label]), np.cumsum(some[label]) - 1
    inside = some[label[links[0]]]
    own = number[links[0][inside]], number[links[1][inside]], links[2][inside]
    small = (np.cumsum(some) - 1)[label[nodes]]
    at = number[roots]
    turn = _turns(small[at])
    reached, holders, found = [now[nodes]], [np.full(int(some.sum()), _OF_NOW)], []
    ends, into = np.full(len(roots), NEVER), np.full(len(roots), _OF_NOW)
    for k in range(int(turn.max()) + 1):
        mine = np.flatnonzero(turn == k)
        where = small[at[mine]]
        others = np.stack([times[at[mine]] for times in reached])
        ends[mine] = others.min(axis=0)
        # Of those that were reached at once the first, who had the others by then.
        into[mine] = np.stack(holders)[others.argmin(axis=0), where]
        reached.append(joined(small, own, at[mine]))
        holders.append(np.full(len(holders[0]), _OF_NOW))
        holders[-1][where] = mine
        who = holders[-1][small]
        begins = np.maximum(reached[-1], sight[who])
        held = np.flatnonzero((who != _OF_NOW) & (begins < ends[who]))
        found.append((nodes[held], who[held], begins[held]))
    node, who, begins = (np.concatenate(one) for one in zip(*found))
    return Spans(ends, into, node, who, begins)


def _turns(component: Ints) -> Ints:
    # The place of each within its component, in the order in which they come.
    order = np.argsort(component, kind="stable")
    first = np.searchsorted(component[order], component[order])
    out = np.empty(len(component), np.int64)
    out[order] = np.arange(len(component)) - first
    return out


def begin(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the tables that rows are written by, beside `customer`: nobody has gone."""
    _run(connection, _FORMER)
    _run(connection, _OWNER)
    _run(
        connection,
        """create or replace temp view anyone as select customer_no, customer_id from customer
        union all select customer_no, customer_id from former""",
    )


def find(
    connection: duckdb.DuckDBPyConnection,
    graph: tuple[Ints, tuple[Ints, Ints, Ints]],
    since: Ints,
    past: pa.Table | None,
    merged: Mapping[str, str],
) -> None:
    """Make the tables of customers that went into others, in this run or before it.

    Args:
        connection: As `identity.resolve` leaves it.
        graph: Component of each node; the links inside of customers, and since when they count.
        since: Since when each node is its customer's, in microseconds.
        past: The aliases of before.
        merged: Customer to the one that it went into in this run, in order of age.
    """
    begin(connection)
    _run(connection, _IDENTITY)
    gone = _gone(past, merged)
    if gone:
        _fill(connection, graph, since, gone)


def _gone(past: pa.Table | None, merged: Mapping[str, str]) -> list[tuple[str, str]]:
    # All that went, and who they are now; whoever went on before whoever did not.
    rows = past.to_pylist() if past is not None else []
    into = {row["alias_id"]: row["customer_id"] for row in rows} | dict(merged)
    step = {row["alias_id"]: row.get("next_id") or row["customer_id"] for row in rows} | dict(merged)
    depth: dict[str, int] = {}
    for name in step:
        chain = [name]
        while chain[-1] in step and chain[-1] not in depth and len(chain) <= len(step):
            chain.append(step[chain[-1]])
        for place, each in enumerate(reversed(chain[:-1]), start=1):
            depth.setdefault(each, depth.get(chain[-1], 0) + place)
    out = []
    for name in sorted(into, key=lambda each: depth[each]):
        now = into[name]
        while now in into:
            now = into[now]
        out.append((name, now))
    return out


def _fill(
    connection: duckdb.DuckDBPyConnection,
    graph: tuple[Ints, tuple[Ints, Ints, Ints]],
    since: Ints,
    gone: Sequence[tuple[str, str]],
) -> None:
    ids, now = zip(*gone)
    connection.register("gone", pa.table([list(ids), list(now), list(range(len(ids)))], schema=_GONE))
    # Customers are named after their roots.
    rows = connection.execute(
        """select g.customer_id, node, sight >> 10 as sight, now_id from (
            select *, regexp_replace(customer_id, '-\\d+$', '') as name from gone) g
        join identifiers i on name = 'c' || left(replace(i.hash::varchar, '-', ''), 20)
        join member using (node) join component_customer c using (component)
        where c.customer_id = now_id
        qualify row_number() over (partition by g.customer_id order by node) = 1 order by g.turn"""
    ).fetchall()
    connection.unregister("gone")
    if not rows:
        return
    roots, sight = (np.array([row[i] for row in rows], np.int64) for i in (1, 2))
    told = spans(graph[0], graph[1], since, roots, sight)
    first = connection.execute("select coalesce(max(customer_no), 0) + 1 from customer").fetchall()[0][0]
    lived = np.flatnonzero(sight < told.ends)
    nexts = [rows[i][3] if told.into[i] == _OF_NOW else rows[told.into[i]][0] for i in lived]
    of_then = {
        "customer_no": lived + first,
        "customer_id": [rows[i][0] for i in lived],
        "next_id": nexts,
        "until": pa.array(told.ends[lived]).cast(tables.TIME),
    }
    _insert(connection, "former", of_then, "from found")
    held = {"node": told.node, "customer_no": told.who + first, "joined": told.begins}
    _insert(
        connection,
        "former_identity",
        held | {"until": told.ends[told.who]},
        "select node, strength, hash, sight, joined, customer_no, until"
        " from found join identifiers using (node)",
    )
    _run(
        connection,
        """insert into former_owner
        select combo, f.customer_no, o.customer_no, make_timestamptz(joined), make_timestamptz(until)
        from centre join former_identity f using (node) join owner o using (combo)""",
    )


def _insert(
    connection: duckdb.DuckDBPyConnection, table: str, columns: Mapping[str, object], query: str
) -> None:
    connection.register("found", pa.table(dict(columns)))
    _run(connection, f"insert into {table} {query}")
    connection.unregister("found")


def went(connection: duckdb.DuckDBPyConnection) -> dict[str, tuple[str, datetime]]:
    """Tell what each former customer first went into, and when."""
    rows = connection.execute("select customer_id, next_id, until from former").fetchall()
    return {name: (next_id, until) for name, next_id, until in rows}


def identities() -> str:
    """Write the query of the table `identities_earlier`."""
    return """select identifier_kind, replace(hash::varchar, '-', '') as identifier_hash, customer_id,
            source, make_timestamptz(sight >> 10) as first_seen_at, make_timestamptz(joined) as joined_at,
            make_timestamptz(until) as superseded_at
        from former_identity join anyone using (customer_no) join kind_strength using (strength)
        join source_place on place = sight & 1023 order by strength, hash, until"""


def _run(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    connection.execute(query).fetchall()
