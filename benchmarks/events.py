# ruff: noqa: E501
"""A seeded company of any size for the benchmarks of histories and features: five Parquet sources."""

from datetime import date, timedelta
from pathlib import Path

from nba.history import connect

BENCHMARKS: dict[str, object] = {}
TOML = """
[workspace]
name = "bench"
timezone = "UTC"
memory_gb = {memory}

[[sources]]
name = "crm"
table = "customers"
path = "sources/crm*.parquet"
format = "parquet"
identifiers = {{ crm_id = "crm_id", email = "email", loyalty_card = "card" }}
columns = {{ joined_at = "joined", can_email = "ok", a_segment = "segment" }}

[[sources]]
name = "shop"
table = "orders"
path = "sources/shop*.parquet"
format = "parquet"
identifiers = {{ crm_id = "crm_id", email = "email" }}
columns = {{ order_id = "order_id", ordered_at = "placed", revenue = "amount", margin = "margin", n_items = "n" }}

[[sources]]
name = "web"
table = "events"
path = "sources/web*.parquet"
format = "parquet"
identifiers = {{ cookie = "cookie", email = "email" }}
columns = {{ event_id = "event_id", occurred_at = "ts", kind = "type", detail = "page" }}
constants = {{ channel = "web" }}

[[sources]]
name = "app"
table = "events"
path = "sources/app*.parquet"
format = "parquet"
identifiers = {{ device = "device", crm_id = "crm_id" }}
columns = {{ event_id = "event_id", occurred_at = "ts", kind = "type" }}
constants = {{ channel = "app" }}

[[sources]]
name = "marketing"
table = "touches"
path = "sources/marketing*.parquet"
format = "parquet"
identifiers = {{ crm_id = "crm_id" }}
columns = {{ touch_id = "touch_id", touched_at = "at", channel = "channel", kind = "status", cost = "cost" }}
"""
_SHARES = {"shop": 0.10, "web": 0.60, "app": 0.15, "marketing": 0.15}
FIRST, DAYS = date(2025, 1, 1), 365


def n_people(n: int) -> int:
    """Customers of a company with n events."""
    return min(n // 10, 2_000_000)


def write(workspace: Path, n: int, *, seed: int = 1, memory_gb: float = 4.0) -> None:
    """Write the settings and five sources of a company with n events over a year."""
    (workspace / "sources").mkdir(parents=True, exist_ok=True)
    (workspace / "nba.toml").write_text(TOML.format(memory=memory_gb))
    _write(workspace, "", n, seed, FIRST, DAYS, n_people(n))
    people = f"""select 'C' || lpad(p::varchar, 8, '0') as crm_id, {_email("p")} as email,
        case when p % 5 < 3 then '29' || lpad(p::varchar, 9, '0') end as card,
        timestamp '2024-01-01' + to_days((hash(p, {seed}, 'j') % 365)::int) as joined, p % 3 > 0 as ok,
        'segment ' || (p % 7) as segment
        from range({n_people(n)}) t(p)"""
    _copy(people, workspace / "sources" / "crm.parquet")


def write_day(workspace: Path, n: int, *, seed: int = 2) -> int:
    """Write one more day of a company that has n events a year; gives the number of its events."""
    extra = n // DAYS
    _write(workspace, "_day", extra, seed, FIRST + timedelta(days=DAYS), 1, n_people(n))
    return extra


def _write(workspace: Path, label: str, n: int, seed: int, first: date, days: int, people: int) -> None:
    def draw(what: str) -> str:
        return f"(hash(i, {seed}, '{what}') % 1000000 / 1e6)"

    who = f"floor({people} * pow({draw('who')}, 1.5))::bigint as p"
    at = f"(timestamp '{first}' + to_microseconds((hash(i, {seed}, 'at') % ({days} * 86400))::bigint * 1000000))"
    crm = "'C' || lpad(p::varchar, 8, '0')"
    login = f"case when {draw('login')} < 0.3 then {_email('p')} end as email"
    columns = {
        "shop": f"""'O{label}' || i as order_id, {at} as placed, round(100 * pow({draw("amount")}, 2) + 1, 2) as amount,
            round(30 * pow({draw("amount")}, 2), 2) as margin, 1 + hash(i, 'n') % 4 as n,
            case when {draw("by")} < 0.5 then {crm} end as crm_id,
            case when {draw("by")} >= 0.5 then {_email("p")} end as email""",
        "web": f"""'W{label}' || i as event_id, {at} as ts,
            ['visit', 'view', 'cart', 'search'][1 + (hash(i, 'kind') % 4)::int] as type,
            '/page/' || hash(i, 'page') % 500 as page,
            'ck' || hash(p * 3 + least(2, floor(4 * pow({draw("browser")}, 3)))::bigint, {people}) as cookie, {login}""",
        "app": f"""'A{label}' || i as event_id, {at} as ts,
            ['visit', 'view', 'cart', 'search'][1 + (hash(i, 'kind') % 4)::int] as type,
            'dev' || hash(p, 'device') as device, case when {draw("login")} < 0.6 then {crm} end as crm_id""",
        "marketing": f"""'T{label}' || i as touch_id, {at} as at,
            ['email', 'sms', 'push'][1 + (hash(i, 'channel') % 3)::int] as channel,
            ['sent', 'sent', 'seen', 'clicked'][1 + (hash(i, 'status') % 4)::int] as status, 0.02 as cost,
            {crm} as crm_id""",
    }
    for number, (name, share) in enumerate(_SHARES.items()):
        rows = f"(select i + {number} * 1000000000000 as i, * exclude (i) from range({int(n * share)}) t(i))"
        query = f"select {columns[name]} from (select i, {who} from {rows})"
        _copy(query, workspace / "sources" / f"{name}{label}.parquet")


def _email(person: str) -> str:
    return f"'User.' || {person} || '@mail' || {person} % 9 || '.es'"


def _copy(query: str, path: Path) -> None:
    with connect() as connection:
        connection.execute(f"copy ({query}) to '{path}' (format parquet, compression snappy)").fetchall()
