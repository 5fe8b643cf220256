"""Who is who: identifiers become salted hashes, and hashes that were seen together become one customer.

Resolution is deterministic. Identifiers are normalised (an e-mail is trimmed and lower-cased, a phone
number is written as E.164), junk is dropped, the rest is hashed with the workspace's secret salt; only
hashes are kept. Identifiers of one row belong together, save those that too many customers share; the
connected components of that graph are the customers.
"""

import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import duckdb
import numpy as np
import phonenumbers
import pyarrow as pa
from phonenumbers.phonemetadata import PhoneMetadata
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from nba import tables
from nba.errors import SettingsError
from nba.histories.sources import among
from nba.settings import Identity

SALT_FILE = ".salt"
SALT_VARIABLE = "NBA_SALT"
_STRENGTH = ("loyalty_card", "email", "phone", "device", "cookie")
_HASH_DIGITS = 32
_JUNK = (
    "null", "none", "nan", "nil", "na", "n/a", "undefined", "unknown", "anonymous", "test", "todo", "false",
)  # fmt: skip
_JUNK_MAILBOXES = (
    "null", "none", "nan", "na", "n/a", "undefined", "unknown", "anonymous", "nobody", "test", "noreply",
    "no-reply", "no_reply", "no.reply", "donotreply", "do-not-reply", "do_not_reply", "noemail", "no-email",
    "sinemail", "sincorreo",
)  # fmt: skip


def salt(workspace: Path) -> str:
    """Give the secret salt of a workspace: `NBA_SALT`, else its `.salt` file, made on first use.

    Raises:
        SettingsError: when the salt is too short to keep anything secret.
    """
    found = os.environ.get(SALT_VARIABLE, "")
    path = workspace / SALT_FILE
    if not found and not path.exists():
        found = secrets.token_hex(32)
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(found)
        except FileExistsError:  # another run was faster
            found = ""
    found = found or path.read_text(encoding="utf-8").strip()
    if len(found) < 16:
        where = SALT_VARIABLE if os.environ.get(SALT_VARIABLE) else str(path)
        raise SettingsError(
            f"the salt in {where} has {len(found)} characters; expected 16 or more",
            "Restore the workspace's .salt file, or set NBA_SALT to a long random text and keep it.",
        )
    return found


def fingerprint(secret: str) -> str:
    """Name a salt without telling it, so that another salt is noticed before every id changes."""
    return hashlib.sha256(b"fingerprint|" + secret.encode()).hexdigest()[:8]


def use_salt(connection: duckdb.DuckDBPyConnection, secret: str) -> None:
    """Give a connection the salt with which it hashes identifiers."""
    _run(connection, "set variable salt = '" + secret.replace("'", "''") + "'")


def ranked(kinds: Iterable[str], external: str) -> list[str]:
    """Order identifier kinds from the strongest to the weakest.

    Example:
        >>> ranked(["cookie", "app_login", "email", "crm_id"], "crm_id")
        ['crm_id', 'email', 'app_login', 'cookie']
    """
    order = [external, *(kind for kind in _STRENGTH if kind != external)]
    between = order.index("device") - 0.5 if "device" in order else len(order)
    place = {kind: float(i) for i, kind in enumerate(order)}
    return sorted(set(kinds), key=lambda kind: (place.get(kind, between), kind))


def normalised(kind: str, text: str, external: str) -> str:
    """Give the SQL that normalises an identifier and makes junk null.

    A phone number needs `phones` instead.

    Args:
        kind: Identifier kind.
        text: SQL of the identifier's text, trimmed.
        external: The kind whose values may be short.
    """
    if kind == "email":
        is_junk = among(f"split_part(lower({text}), '@', 1)", _JUNK_MAILBOXES)
        return (
            f"case when regexp_full_match({text}, '[^@\\s,;<>]+@[^@\\s,;<>]+\\.[^@\\s.,;<>]{{2,}}')"
            f" and not {is_junk} then lower({text}) end"
        )
    clean = {"loyalty_card": f"upper(regexp_replace({text}, '[\\s-]', '', 'g'))", "device": f"lower({text})"}
    value = clean.get(kind, text)
    junk = f"(strlen({value}) < 10 and {among(f'lower({value})', _JUNK)}) or ltrim({value}, '0-_. ') = ''"
    if kind != external:
        junk += f" or strlen({value}) < 4 or ltrim({value}, left({value}, 1) || '-') = ''"
    return f"case when not ({junk}) then {value} end"


def hashed(kind: str, value: str) -> str:
    """Give the SQL of the salted hash of a normalised identifier (variable `salt` of the connection)."""
    return f"left(sha256(getvariable('salt') || '|{kind}|' || {value}), {_HASH_DIGITS})"


def phones(texts: Sequence[str], country: str) -> list[str | None]:
    """Write phone numbers as E.164; None where it is no valid number.

    Numbers in the plain forms of the country are recognised by its published patterns (15 times faster);
    all others go through `phonenumbers`, with the same result.

    Args:
        texts: Distinct texts.
        country: Two-letter country of numbers without prefix.

    Example:
        >>> phones(["600 123 456", "+34-600123456", "0034 600.123.456", "000000", "12345"], "ES")
        ['+34600123456', '+34600123456', '+34600123456', None, None]
    """
    quick = _plain_numbers(country.upper())
    return [quick(text) or _slow_number(text, country.upper()) for text in texts]


@cache
def _plain_numbers(country: str) -> Callable[[str], str | None]:
    meta = PhoneMetadata.metadata_for_region(country, None)
    if meta is None:
        return lambda _text: None
    kinds = [
        k.national_number_pattern for k in (meta.mobile, meta.fixed_line) if k and k.national_number_pattern
    ]
    prefixes = [f"\\+{meta.country_code}"]
    if meta.international_prefix == "00":
        prefixes.append(f"00{meta.country_code}")
    if meta.national_prefix is None and meta.national_prefix_for_parsing is None:
        prefixes.append("")
    lengths = set(meta.general_desc.possible_length) if meta.general_desc else set()
    plain = re.compile(f"(?:{'|'.join(prefixes)})({'|'.join(f'(?:{kind})' for kind in kinds)})")
    strip = str.maketrans("", "", " .-()")

    def quick(text: str) -> str | None:
        match = plain.fullmatch(text.translate(strip)) if text.isascii() else None
        if match is None or len(match[1]) not in lengths:
            return None
        return f"+{meta.country_code}{match[1]}"

    return quick


def _slow_number(text: str, country: str) -> str | None:
    try:
        number = phonenumbers.parse(text, country)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(number):
        return None
    number.extension = None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


@dataclass(frozen=True)
class Resolution:
    """Which identifiers belong to which customer.

    Attributes:
        identities: The contract's table: what was seen now, and earlier identifiers not seen again.
        cut: Identifiers that link nobody: identifier_kind, identifier_hash, n_customers (CRM ids).
        merged: Earlier customer id to the older one that it was merged into.
        n_split: Earlier customers whose identifiers no longer hang together.
        n_largest: Identifiers of the largest customer.
        n_found: Identifiers by kind.
        salt: Fingerprint of the salt of the hashes.
    """

    identities: pa.Table
    cut: pa.Table
    merged: Mapping[str, str]
    n_split: int
    n_largest: int
    n_found: Mapping[str, int]
    salt: str


def resolve(
    connection: duckdb.DuckDBPyConnection,
    kinds: Sequence[str],
    settings: Identity,
    known: pa.Table | None = None,
) -> Resolution:
    """Make customers of the identifiers that were seen together.

    An identifier is cut when more than `max_customers` CRM ids stand beside it, directly or through
    one stronger identifier between (a shared computer, on which many known e-mails log in).

    Args:
        connection: Holds a table `seen`, one row per combination of identifiers: their hashes as
            `i_<kind>` (null where absent), `seen_at` (first time) and `source`.
        kinds: Identifier kinds, the strongest first; the first is the external one.
        settings: From how many CRM ids on an identifier links nobody.
        known: The identities table of earlier; its customers keep their ids.

    Returns:
        The same whatever the order of rows.
    """
    _identifiers(connection, kinds)
    _cut(connection, settings.max_customers)
    component = _components(connection)
    connection.register(
        "node_component", pa.table({"node": np.arange(len(component)), "component": component})
    )
    connection.register("known", known if known is not None else tables.IDENTITIES.empty())
    _run(
        connection,
        """create or replace temp table member as
        select i.*, c.component from identifiers i join node_component c using (node)
        anti join cut using (identifier_kind, identifier_hash)""",
    )
    names, merged, n_split = _names(connection)
    connection.register("component_customer", names)
    connection.register("merged", pa.table({"old": [*merged], "new": [*merged.values()]}, schema=_MERGED))
    identities = connection.sql(
        """select identifier_kind, identifier_hash, customer_id, source, first_seen_at
        from member join component_customer using (component)
        union all
        select identifier_kind, identifier_hash, coalesce(new, customer_id), source, first_seen_at
        from known anti join identifiers using (identifier_kind, identifier_hash)
        left join merged on old = customer_id
        order by 1, 2"""
    ).to_arrow_table()
    found = connection.execute("select kind, count(*) from identifiers group by 1 order by 1").fetchall()
    largest = connection.execute(
        "select max(n) from (select count(*) n from member group by component)"
    ).fetchall()
    return Resolution(
        tables.IDENTITIES.conform(identities),
        connection.sql("select * from cut order by 1, 2").to_arrow_table(),
        merged,
        n_split,
        largest[0][0] or 0,
        dict(found),
        fingerprint(connection.execute("select getvariable('salt')").fetchall()[0][0]),
    )


_MERGED = pa.schema([("old", pa.string()), ("new", pa.string())])


def _run(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    connection.execute(query).fetchall()


def _identifiers(connection: duckdb.DuckDBPyConnection, kinds: Sequence[str]) -> None:
    parts = " union all ".join(
        f"select combo, '{kind}' as kind, {rank} as strength, i_{kind} as hash, seen_at, source from numbered"
        f" where i_{kind} is not null"
        for rank, kind in enumerate(kinds)
    )
    _run(
        connection,
        "create or replace temp table pairs as with numbered as materialized"
        f" (select row_number() over () as combo, * from seen) {parts}",
    )
    _run(
        connection,
        """create or replace temp table identifiers as
        select kind, strength, hash, kind as identifier_kind, hash as identifier_hash,
            min(seen_at) as first_seen_at, arg_min(source, (seen_at, source)) as source,
            row_number() over (order by strength, hash) - 1 as node
        from pairs group by kind, strength, hash""",
    )


def _cut(connection: duckdb.DuckDBPyConnection, most: int) -> None:
    _run(
        connection,
        """create or replace temp table owners as
        select distinct p.strength, p.hash, e.hash as owner
        from pairs p join pairs e on p.combo = e.combo and e.strength = 0 where p.strength > 0""",
    )
    _run(
        connection,
        f"""create or replace temp table cut as
        with direct as (select strength, hash, count(*) as n from owners group by all having n > {most}),
        beside as (
            select distinct p.strength, p.hash, q.strength as by_strength, q.hash as by_hash
            from pairs p join pairs q on p.combo = q.combo and 0 < q.strength and q.strength < p.strength
            anti join direct on q.strength = direct.strength and q.hash = direct.hash),
        through as (
            select b.strength, b.hash, o.owner from beside b
            join owners o on o.strength = b.by_strength and o.hash = b.by_hash
            union select * from owners)
        select identifier_kind, identifier_hash, n as n_customers
        from (select strength, hash, count(*) as n from through group by all having n > {most})
        join identifiers using (strength, hash)""",
    )


def _components(connection: duckdb.DuckDBPyConnection) -> np.ndarray:
    # Each row links its strongest identifier that is not cut with its others.
    edges = connection.execute(
        """with linking as (
            select combo, node from pairs join identifiers using (strength, hash)
            anti join cut using (identifier_kind, identifier_hash)),
        centre as (select combo, min(node) as centre from linking group by combo)
        select distinct centre, node from linking join centre using (combo) where node <> centre"""
    ).fetchnumpy()
    n = connection.execute("select count(*) from identifiers").fetchall()[0][0]
    a, b = np.asarray(edges["centre"], dtype=np.int64), np.asarray(edges["node"], dtype=np.int64)
    graph = coo_array((np.ones(len(a), dtype=np.int8), (a, b)), shape=(n, n))
    return connected_components(graph, directed=False)[1].astype(np.int64) if n else np.zeros(0, np.int64)


def _names(connection: duckdb.DuckDBPyConnection) -> tuple[pa.Table, dict[str, str], int]:
    # An earlier customer lives on where its strongest, oldest identifier is now; of several that meet,
    # the older one gives the id.
    claims = connection.execute(
        """with claim as (
            select component, k.customer_id, m.strength, k.first_seen_at, m.hash,
                count(distinct component) over (partition by k.customer_id) as n_places
            from known k join member m using (identifier_kind, identifier_hash)),
        home as (
            select * from claim
            qualify row_number() over (
                partition by customer_id order by strength, first_seen_at, hash) = 1),
        age as (select customer_id, min(first_seen_at) as since from known group by 1)
        select component, customer_id, n_places from home join age using (customer_id)
        order by component, since, customer_id"""
    ).fetchall()
    names: dict[int, str] = {}
    merged: dict[str, str] = {}
    for component, customer_id, _ in claims:
        if names.setdefault(component, customer_id) != customer_id:
            merged[customer_id] = names[component]
    fresh = connection.execute(
        """select component, hash from member
        qualify row_number() over (partition by component order by strength, first_seen_at, hash) = 1
        order by component"""
    ).fetchnumpy()
    used = {row[0] for row in connection.execute("select distinct customer_id from known").fetchall()}
    ids = []
    for component, digest in zip(fresh["component"].tolist(), fresh["hash"].tolist()):
        name = names.get(component)
        if name is None:
            name, turn = f"c{digest[:20]}", 1
            while name in used:
                turn += 1
                name = f"c{digest[:20]}-{turn}"
            used.add(name)
        ids.append(name)
    table = pa.table(
        {"component": pa.array(fresh["component"], pa.int64()), "customer_id": pa.array(ids, pa.string())}
    )
    return table, merged, sum(n_places > 1 for _, _, n_places in claims)
