"""Who is who: identifiers that were seen together become one customer.

Identifiers of one row belong together; the connected components of that
graph are the customers. Three guards keep people apart: an identifier that too many people share is
cut, and links nobody; a customer has at most one identifier of an exclusive kind (a loyalty card); and a
weak identifier (a cookie, a device) never joins two customers who both have a CRM id. Where a link is
refused, the older one stands. Links between records that are only alike (`matching`) come after all of
these, and are held to the same guards.

Of earlier customers that turn out to be one, the one that was seen first goes on; the others become aliases.

Who is who is dated. A customer begins with one identifier, its root: the one that it is named after, or that
it began with in earlier runs. Every other one is the customer's since links lead from it to the root; rows
that come through it count for the customer from then on, so that a later login tells a look back nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import duckdb
import numpy as np
import pyarrow as pa

from nba import tables
from nba.histories import former, naming
from nba.histories.identifiers import fingerprint, plain_hash
from nba.histories.linking import NEVER, Bools, Ints, followed, joined, liken, settle
from nba.settings import Identity, Matching

_MERGED = pa.schema([("old", pa.string()), ("new", pa.string()), ("since", tables.TIME)])
_LARGEST = 5
_PART = 2_000_000


@dataclass(frozen=True)
class Rules:
    """What is held together and what is kept apart.

    Attributes:
        identity: The guards.
        matching: From which probability on alike records are linked.
        links: Pairs of identifiers that are alike, as `matching.links` gives them; None where nothing is
            matched.
    """

    identity: Identity
    matching: Matching = field(default_factory=Matching)
    links: pa.Table | None = None


@dataclass(frozen=True)
class Resolution:
    """Which identifiers belong to which customer.

    The rows stay in the connection: `customer` (customer_no, customer_id: numbered in order of the ids),
    `identity` (node, strength, hash, customer_no, place and time of first sight, since when it is the
    customer's) and `owner` (combo, customer_no: null where every identifier of the combination is cut;
    reached_at: since when it is the customer's). `write` gives the contract's table.

    Attributes:
        cut: Identifiers that link nobody: identifier_kind, identifier_hash, n_customers (how many
            people stand beside it: CRM ids, or else e-mails or the like).
        merged: Earlier customer id to the older one that it was merged into.
        merged_at: The same id to since when it is the other.
        n_split: Earlier customers whose identifiers no longer hang together.
        n_refused: Links that were not followed, since they would join two people.
        largest: Identifiers of the largest customers, largest first.
        n_found: Identifiers by kind.
        n_known: Of these, identifiers of a customer with an external id.
        salt: Fingerprint of the salt of the hashes.
        matched: Customers that were joined by likeness alone, links that a guard refused, and the least
            probability of a link; None where nothing is matched.
    """

    cut: pa.Table
    merged: Mapping[str, str]
    merged_at: Mapping[str, datetime]
    n_split: int
    n_refused: int
    largest: tuple[int, ...]
    n_found: Mapping[str, int]
    n_known: Mapping[str, int]
    salt: str
    matched: tuple[int, int, float] | None = None


def resolve(
    connection: duckdb.DuckDBPyConnection,
    kinds: Sequence[str],
    sources: Sequence[str],
    rules: Rules,
    known: str | None = None,
    gone: pa.Table | None = None,
) -> Resolution:
    """Make customers of the identifiers that were seen together.

    An identifier is cut when more than `max_customers` CRM ids stand beside it, directly or through
    one stronger identifier between (a shared computer, on which many known e-mails log in); for a weak one
    people without a CRM id count too. One that is not weak, a CRM id too, is cut when more than
    `max_identifiers` of one personal kind stand beside it.

    Args:
        connection: Holds a table `seen`, one row per combination of identifiers: its number `combo`, the
            hashes as `i_<kind>` (null where absent), `seen_at` (when its first row was known),
            `named_at` (since when the strongest of them is there: of a row of customers, since the customer
            joined) and `source` (a place in `sources`).
        kinds: Identifier kinds, the strongest first; the first is the external one.
        sources: Names of the sources.
        rules: The guards, and links by likeness.
        known: What stands after `from` for the identities of earlier; their customers keep their ids.
        gone: The aliases of earlier; see `former`.

    Returns:
        The same whatever the order of rows.
    """
    _identifiers(connection, kinds, sources)
    _cut(connection, kinds, rules.identity)
    graph = _components(connection, kinds, rules)
    connection.register("member", graph.members)
    _known(connection, known)
    merged, n_split = naming.names(connection, _best(graph))
    since = _since(connection, graph)
    merged_at = naming.merged_at(connection, since)
    told = [[*merged], [*merged.values()], [merged_at[old] for old in merged]]
    connection.register("merged", pa.table(told, schema=_MERGED))
    customer = _customers(connection, graph, has_known=known is not None)
    _identity(connection, customer, since)
    _owners(connection, customer, since)
    former.find(connection, (graph.component, graph.links), since, gone, merged)
    return Resolution(
        connection.sql(
            f"""select identifier_kind, {plain_hash("hash")} as identifier_hash, n_customers
            from cut join identifiers using (node) join kind_strength using (strength) order by 1, 2"""
        ).to_arrow_table(),
        merged,
        merged_at,
        n_split,
        graph.n_refused,
        _largest(graph),
        *_counts(graph, kinds),
        fingerprint(connection.execute("select getvariable('salt')").fetchall()[0][0]),
        graph.matched,
    )


@dataclass(frozen=True)
class _Graph:
    # Component, strength and first sight (microseconds) of each node, and whether it is not cut; the links
    # inside of customers, those of likeness too, and since when they count; as `Resolution` else.
    component: Ints
    strength: Ints
    sight: Ints
    is_kept: Bools
    links: tuple[Ints, Ints, Ints]
    n_refused: int
    matched: tuple[int, int, float] | None = None

    @property
    def turn(self) -> Ints:
        # In which nodes of a component come first: the strongest, then the oldest.
        return (self.strength << 54) + self.sight + (1 << 52)

    @property
    def members(self) -> pa.Table:
        node = np.flatnonzero(self.is_kept)
        found = {"strength": self.strength, "component": self.component, "turn": self.turn}
        return pa.table({"node": node, **{name: values[node] for name, values in found.items()}})


def _known(connection: duckdb.DuckDBPyConnection, known: str | None) -> None:
    rows = """(select ''::varchar as identifier_kind, ''::varchar as identifier_hash,
        ''::varchar as customer_id, '' as source, now() as first_seen_at, now() as joined_at limit 0)"""
    if known is not None:
        # Tables of earlier versions do not tell since when.
        is_dated = "joined_at" in connection.sql(f"select * from {known} limit 0").columns
        rows = known if is_dated else f"(select *, null::timestamptz as joined_at from {known})"
    _run(connection, f"create or replace temp view known as select * from {rows}")


def _run(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    connection.execute(query).fetchall()


def _identifiers(connection: duckdb.DuckDBPyConnection, kinds: Sequence[str], sources: Sequence[str]) -> None:
    # Nodes in order of strength; time and source of the first sight are packed into one number.
    parts = " union all ".join(
        f"select combo, {rank}::bigint as strength, i_{kind} as hash,"
        f" epoch_us({_sight(kinds[:rank])}) * 1024 + source as sight from seen where i_{kind} is not null"
        for rank, kind in enumerate(kinds)
    )
    places = pa.table({"place": range(len(sources)), "source": pa.array(sources, pa.string())})
    ranks = pa.table({"strength": range(len(kinds)), "identifier_kind": list(kinds)})
    connection.register("source_place", places)
    connection.register("kind_strength", ranks)
    # Numbered by rowid, in order of strength and hash: the same however rows come.
    _run(
        connection,
        f"""create or replace temp table identifiers_sorted as
        select strength, hash, min(sight) as sight from ({parts}) group by 1, 2 order by 1, 2""",
    )
    _run(
        connection,
        "create or replace temp view identifiers as select rowid as node, * from identifiers_sorted",
    )
    _run(
        connection,
        f"""create or replace temp table pairs as
        select combo, node, p.strength, p.sight >> 10 as since from ({parts}) p
        join identifiers i on p.strength = i.strength and p.hash = i.hash""",
    )


def _sight(stronger: Sequence[str]) -> str:
    held = " or ".join(f"i_{kind} is not null" for kind in stronger)
    return f"case when {held} then seen_at else named_at end" if held else "named_at"


def _cut(connection: duckdb.DuckDBPyConnection, kinds: Sequence[str], settings: Identity) -> None:
    personal, weak = (
        ", ".join(["-1", *(str(i) for i, kind in enumerate(kinds) if kind in named)])
        for named in (settings.personal, settings.weak)
    )
    most = settings.max_identifiers
    # What stands in a few rows only cannot stand beside many others.
    _run(
        connection,
        f"""create or replace temp table crowded as
        with many as (
            select node from pairs where strength not in ({weak}) group by node having count(*) > {most}),
        among as (
            select distinct p.node, p.strength, q.strength as by_strength, q.node as by_node
            from pairs p semi join many using (node) join pairs q on p.combo = q.combo and p.node <> q.node
            where q.strength in ({personal}) and q.strength <> p.strength),
        counted as (
            select node, strength, by_strength, count(*) as n from among group by all having n > {most})
        select node, strength, max(n) as n_customers from counted group by node, strength""",
    )
    _run(
        connection,
        """create or replace temp table owners as
        select distinct p.node, e.node as owner
        from pairs p join pairs e on p.combo = e.combo and e.strength = 0
        anti join crowded c on c.node = e.node where p.strength > 0""",
    )
    # Who is known by no CRM id counts by e-mail or the like: by the kind of which most are there.
    _run(
        connection,
        f"""create or replace temp table cut as
        with direct as (
            select node, count(*) as n from owners group by all having n > {settings.max_customers}
            union select node, n_customers from crowded),
        beside as (
            select distinct p.node, p.strength, q.node as by_node, q.strength as by_strength
            from pairs p join pairs q on p.combo = q.combo and 0 < q.strength and q.strength < p.strength
            anti join direct on q.node = direct.node),
        through as (
            select b.node, o.owner, 0 as kind from beside b join owners o on o.node = b.by_node
            union select node, owner, 0 from owners
            union select b.node, b.by_node, b.by_strength
            from beside b anti join (select distinct node from owners) o on o.node = b.by_node
            where b.strength in ({weak}) and b.by_strength in ({personal})),
        counted as (select node, kind, count(*) as n from through group by node, kind),
        people as (
            select node, (coalesce(sum(n) filter (kind = 0), 0)
                + coalesce(max(n) filter (kind > 0), 0))::bigint as n_customers
            from counted group by node having n_customers > {settings.max_customers})
        select node, max(n_customers) as n_customers
        from (from people union all select node, n_customers from crowded) group by node""",
    )


def _components(connection: duckdb.DuckDBPyConnection, kinds: Sequence[str], rules: Rules) -> _Graph:
    # Each row links its strongest identifier that is not cut with its others.
    _run(
        connection,
        """create or replace temp table centre as
        select combo, min(node) as node, count(*) as n
        from pairs anti join cut using (node) group by combo""",
    )
    found = connection.execute(
        """select c.node as centre, p.node, min(since) as since
        from pairs p join centre c using (combo) anti join cut on cut.node = p.node
        where c.n > 1 and p.node <> c.node group by 1, 2"""
    ).fetchnumpy()
    nodes = connection.execute(
        "select strength, sight >> 10 as sight from identifiers_sorted order by rowid"
    ).fetchnumpy()
    strength, sight = (np.asarray(nodes[name], np.int64) for name in ("strength", "sight"))
    is_kept = np.ones(len(strength), bool)
    is_kept[np.asarray(connection.execute("select node from cut").fetchnumpy()["node"], np.int64)] = False
    rank = {kind: i for i, kind in enumerate(kinds)}
    settings = rules.identity
    weak = np.isin(strength, [rank[kind] for kind in settings.weak if kind in rank])
    alone = [0, *(rank[kind] for kind in settings.exclusive if kind in rank)]
    exclusive = np.where(np.isin(strength, alone), strength, -1)
    # External ids may be joined by strong links, unless they are exclusive themselves.
    external = -2 if kinds[0] in settings.exclusive else 0
    one, other, since = (np.asarray(found[name], np.int64) for name in ("centre", "node", "since"))
    label, n_refused = settle((one, other, since), weak, exclusive, external)
    is_weak = weak[one] | weak[other]
    if rules.links is None:
        links = _dated(label, (one, other, since), is_weak, exclusive, external)
        return _Graph(label, strength, sight, is_kept, links, n_refused)
    a, b = _likenesses(connection, rules.links)
    label, n_joined, against = liken(label, (a, b), exclusive, external, rules.matching.joins_external)
    # Two records are alike since both are there.
    ends = np.concatenate([one, a]), np.concatenate([other, b])
    since = np.concatenate([since, np.maximum(sight[a], sight[b])])
    is_weak = np.concatenate([is_weak, np.zeros(len(a), bool)])
    links = _dated(label, (*ends, since), is_weak, exclusive, external)
    return _Graph(
        label, strength, sight, is_kept, links, n_refused, (n_joined, against, rules.matching.probability)
    )


def _dated(
    label: Ints, links: tuple[Ints, Ints, Ints], is_weak: Bools, exclusive: Ints, external: int
) -> tuple[Ints, Ints, Ints]:
    # The links inside of customers, each since when it was followed.
    a, b, since = links
    inside = np.flatnonzero(label[a] == label[b])
    a, b = a[inside], b[inside]
    return a, b, followed(label, (a, b, since[inside]), is_weak[inside], exclusive, external)


def _likenesses(connection: duckdb.DuckDBPyConnection, links: pa.Table) -> tuple[Ints, Ints]:
    # Links of identifiers that are not here, or are cut, lead nowhere.
    connection.register("likeness", links)
    found = connection.execute(
        f"""with node as (
            select identifier_kind as kind, {plain_hash("i.hash")} as hash, node from identifiers i
            join kind_strength using (strength) anti join cut using (node))
        select l.node as a, r.node as b from likeness k
        join node l on l.kind = k.kind and l.hash = k.hash
        join node r on r.kind = k.other_kind and r.hash = k.other_hash
        order by p_same desc, l.node, r.node"""
    ).fetchnumpy()
    connection.unregister("likeness")
    return np.asarray(found["a"], np.int64), np.asarray(found["b"], np.int64)


def _best(graph: _Graph) -> pa.Table:
    # The first node of each component. In numpy: to group is several times slower.
    node, turn = np.flatnonzero(graph.is_kept), graph.turn
    first = np.full(int(graph.component.max(initial=-1)) + 1, NEVER)
    np.minimum.at(first, graph.component[node], turn[node])
    node = node[turn[node] == first[graph.component[node]]]
    component, at = np.unique(graph.component[node], return_index=True)
    return pa.table({"component": component, "node": node[at]})


def _since(connection: duckdb.DuckDBPyConnection, graph: _Graph) -> Ints:
    # Since when each node is its customer's, in microseconds: a root since it was seen.
    rows = connection.execute("select root from component_customer").fetchnumpy()
    roots = np.asarray(rows["root"], np.int64)
    out = joined(graph.component, graph.links, roots)
    out[roots] = graph.sight[roots]
    return np.where(out == NEVER, graph.sight, out)  # of what is cut


def _customers(connection: duckdb.DuckDBPyConnection, graph: _Graph, *, has_known: bool) -> Ints:
    # The customer of each node, -1 for those that are cut. Earlier identifiers that were not seen again stay
    # with their customer.
    _run(
        connection,
        f"""create or replace temp table earlier as
        select k.identifier_kind, k.identifier_hash, coalesce(new, customer_id) as customer_id, k.source,
            k.first_seen_at, greatest(coalesce(k.joined_at, k.first_seen_at), since) as joined_at
        from known k anti join (select s.identifier_kind, {plain_hash("i.hash")} as identifier_hash
            from identifiers i join kind_strength s using (strength)) using (identifier_kind, identifier_hash)
        left join merged on old = customer_id"""
        if has_known
        else "create or replace temp table earlier as from known",
    )
    _run(
        connection,
        """create or replace temp table customer as
        select row_number() over (order by customer_id) as customer_no, customer_id from (
            select customer_id from component_customer union select customer_id from earlier)""",
    )
    rows = connection.execute(
        "select component, customer_no from component_customer join customer using (customer_id)"
    ).fetchnumpy()
    number = np.full(int(graph.component.max(initial=-1)) + 1, -1, np.int64)
    number[np.asarray(rows["component"], np.int64)] = rows["customer_no"]
    return np.where(graph.is_kept, number[graph.component], -1)


def _identity(connection: duckdb.DuckDBPyConnection, customer: Ints, since: Ints) -> None:
    # Side by side: nodes are numbered in the order of the rows.
    connection.register("node_found", pa.table({"customer_no": customer, "joined": since}))
    _run(
        connection,
        """create or replace temp table identity as
        select node, strength, hash, sight, joined, customer_no
        from identifiers positional join node_found where customer_no >= 0""",
    )
    connection.unregister("node_found")


def write(connection: duckdb.DuckDBPyConnection) -> str:
    """Give the query of the contract's table `identities`, in order of kind (strongest first) and hash."""
    now = f"""select identifier_kind, {plain_hash("hash")} as identifier_hash, customer_id, source,
            make_timestamptz(sight >> 10) as first_seen_at,
            make_timestamptz(joined) as joined_at, i.strength, node
        from identity i join customer using (customer_no) join kind_strength using (strength)
        join source_place on place = sight & 1023"""
    if not _has_earlier(connection):  # nodes are in that order
        return f"select * exclude (strength, node) from ({now}) order by node"
    return f"""select * exclude (strength, node) from (
        {now} union all by name
        select e.*, coalesce(strength, 99) as strength, null::bigint as node
        from earlier e left join kind_strength using (identifier_kind))
    order by strength, identifier_hash"""


def _has_earlier(connection: duckdb.DuckDBPyConnection) -> bool:
    return bool(connection.execute("select count(*) from earlier").fetchall()[0][0])


def _owners(connection: duckdb.DuckDBPyConnection, customer: Ints, since: Ints) -> None:
    # The strongest identifier tells since when: the first row of the combination links it with the others. In
    # numpy: a gather is several times faster than joins.
    n = connection.execute("select count(*) from centre").fetchall()[0][0]
    _run(
        connection,
        "create or replace temp table owner (combo bigint, customer_no bigint, reached_at timestamptz)",
    )
    # Part by part: combinations may be as many as rows.
    for first in range(0, n, _PART):
        some = f"select combo, node from centre where rowid >= {first} and rowid < {first + _PART}"
        centre = connection.execute(some).fetchnumpy()
        node = np.asarray(centre["node"], np.int64)
        number, reached = customer[node], pa.array(since[node]).cast(tables.TIME)
        found = {"combo": np.asarray(centre["combo"], np.int64), "customer_no": number, "reached_at": reached}
        connection.register("owner_found", pa.table(found))
        _run(connection, "insert into owner from owner_found")
        connection.unregister("owner_found")
    cut = connection.execute("select count(*) from cut").fetchall()[0][0]
    if cut:
        _run(
            connection,
            "insert into owner select distinct combo, null, null from pairs anti join centre using (combo)",
        )


def _largest(graph: _Graph) -> tuple[int, ...]:
    sizes = np.bincount(graph.component[graph.is_kept])
    return tuple(np.sort(sizes[sizes > 0])[::-1][:_LARGEST].tolist())


def _counts(graph: _Graph, kinds: Sequence[str]) -> tuple[dict[str, int], dict[str, int]]:
    # Identifiers by kind, and those of them that are of a customer with an external id.
    is_known = np.zeros(int(graph.component.max(initial=-1)) + 1, bool)
    is_known[graph.component[graph.is_kept & (graph.strength == 0)]] = True
    known = graph.is_kept & is_known[graph.component]
    found, of_known = (np.bincount(s, minlength=len(kinds)) for s in (graph.strength, graph.strength[known]))
    order = sorted((kind, i) for i, kind in enumerate(kinds) if found[i])
    return {kind: int(found[i]) for kind, i in order}, {kind: int(of_known[i]) for kind, i in order}
