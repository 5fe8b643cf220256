"""Tables of a real database as sources: PostgreSQL, started by these tests, and SQLite."""

import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from nba.histories import database

SHOP = {
    "format": "sql",
    "path": "",
    "url": "postgresql://reader:${TEST_DB_PASSWORD}@127.0.0.1:{port}/postgres",
    "query": "shop.orders",
    "identifiers": {"crm_id": "crm", "email": "mail"},
    "columns": {"order_id": "no", "ordered_at": "placed", "revenue": "amount", "is_return": "back"},
}
MADE = """
create schema shop;
create table shop.orders (no text, placed timestamptz, local timestamp, amount numeric(12, 2), back boolean,
    crm text, mail text);
insert into shop.orders values
    ('0007', '2026-07-01 12:00+02', '2026-07-01 12:00', 12.50, false, '001', 'Ana@Shop.es'),
    ('0008', '2026-07-02 12:00+02', '2026-03-29 02:30', -3, true, null, 'ana@shop.es'),
    ('0009', null, null, 1, false, '002', null);
create role reader login password 'secret-of-the-shop';
grant usage on schema shop to reader; grant select on all tables in schema shop to reader;
"""


@pytest.fixture(scope="module")
def port(postgres: str) -> int:
    """Port of the run's PostgreSQL server, in which the shop's tables are."""
    with psycopg.connect(postgres) as connection:
        connection.execute(MADE)
    found = urlsplit(postgres).port
    assert found is not None
    return found


@pytest.fixture
def shop(port: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("TEST_DB_PASSWORD", "secret-of-the-shop")
    return {**SHOP, "url": SHOP["url"].replace("{port}", str(port))}


def _rows(staged: Any) -> list[dict[str, Any]]:
    return staged.files[0].rows.sort_by("row_number").to_pylist()


# by hand


def test_a_table_of_postgresql_is_a_source(read: Any, shop: dict[str, Any]) -> None:
    (found,), faults = read({}, shop)
    assert not faults
    first, second = _rows(found)
    assert (first["key"], first["revenue"], first["external"], first["is_return"]) == (
        "0007",
        12.5,
        "001",
        False,
    )
    assert f"{first['ordered_at']:%Y-%m-%d %H:%M}" == "2026-07-01 10:00"
    assert (second["revenue"], second["is_return"]) == (-3.0, True)
    assert first["i_email"] == second["i_email"]
    assert found.files[0].name == "table shop.orders"
    assert found.files[0].reasons == {"ordered_at: missing": 1}


def test_a_query_and_local_times(read: Any, shop: dict[str, Any]) -> None:
    query = (
        "select no, local as placed, amount, back, crm, mail from shop.orders where crm is not null or back"
    )
    (found,), faults = read({}, {**shop, "query": query, "timezone": "Europe/Madrid"})
    assert not faults
    assert [f"{row['ordered_at']:%m-%d %H:%M}" for row in _rows(found)] == ["07-01 10:00", "03-29 01:30"]
    assert found.files[0].name == "query"


@pytest.mark.parametrize("kind", ["timestamptz", "timestamp", "date"])
def test_moments_beyond_any_calendar_are_quarantined_and_the_others_kept(
    read: Any, shop: dict[str, Any], kind: str
) -> None:
    moments = "('infinity'), ('-infinity'), ('0044-03-15 BC'), ('2026-03-01'), (null)"
    query = f"""select row_number() over ()::text as no, t::{kind} as placed, 1 as amount, false as back,
        'C1' as crm, null as mail from (values {moments}) v(t)"""
    (found,), faults = read({}, {**shop, "query": query, "max_bad_share": 1.0})
    assert not faults
    assert [row["key"] for row in _rows(found)] == ["4"]
    told = {reason.partition(" (")[0]: n for reason, n in found.files[0].reasons.items()}
    assert told == {"ordered_at: missing": 1, "ordered_at: no date that can be": 3}


def test_the_same_rows_are_the_same_content(read: Any, shop: dict[str, Any]) -> None:
    keys = {read({}, shop)[0][0].files[0].key for _ in range(2)}
    assert len(keys) == 1
    other = read({}, {**shop, "query": "select * from shop.orders where crm = '001'"})[0][0]
    assert other.files[0].key not in keys


def test_a_database_that_goes_away_is_told_and_nothing_is_kept(
    read: Any, shop: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres: str
) -> None:
    monkeypatch.setattr(database, "_BATCH", 50)
    many = "select n::text as no, now() as placed, 1 as amount, false as back, n::text as crm, '' as mail"
    source = {**shop, "query": f"{many} from generate_series(1, 3000000) n"}
    fetch, fetched = database._fetch, []

    def interrupted(result: Any) -> list[Any]:
        fetched.append(1)
        if len(fetched) == 3:
            with psycopg.connect(postgres) as other:
                other.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'reader'"
                )
        return fetch(result)

    monkeypatch.setattr(database, "_fetch", interrupted)
    (found,), faults = read({}, source)
    assert "went away while it was read" in faults["shop"][0]
    assert found.files == ()
    assert not list((tmp_path / ".cache").glob("*/file.json"))


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"query": "shop.nothing"}, "does not exist"),
        (
            {"columns": {**SHOP["columns"], "revenue": "amont"}},
            "has no column 'amont' (did you mean 'amount'?)",
        ),
        ({"query": "select *, no as mail from shop.orders"}, "names ['mail'] more than once"),
        ({"query": "select *, 1 / (crm is null)::int from shop.orders"}, "division by zero"),
        ({"url": "nosuch://x/y"}, "has a url that cannot be used"),
        (
            {"url": "postgresql://reader:${NOT_SET_HERE}@127.0.0.1/x"},
            "needs the environment variable NOT_SET_HERE",
        ),
        ({"url": "postgresql://reader:hidden@127.0.0.1:1/x"}, "cannot be read"),
    ],
)
def test_faults_are_told_without_the_password(
    read: Any, shop: dict[str, Any], more: dict[str, Any], expected: str
) -> None:
    _, faults = read({}, {**shop, **more})
    assert expected in faults["shop"][0]
    assert not any(secret in faults["shop"][0] for secret in ("secret-of-the-shop", "hidden"))


def test_other_databases_go_through_sqlalchemy(read: Any, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "shop.db") as connection:
        connection.execute("create table orders (no text, placed text, amount real, crm text)")
        rows = [(f"O{i}", f"2026-01-{1 + i % 28:02d}", i / 2, f"C{i % 9}") for i in range(2000)]
        connection.executemany("insert into orders values (?, ?, ?, ?)", rows)
    connection.close()
    source = {
        **SHOP,
        "url": "sqlite:///shop.db",
        "query": "orders",
        "identifiers": {"crm_id": "crm"},
        "columns": {"order_id": "no", "ordered_at": "placed", "revenue": "amount"},
    }
    (found,), faults = read({}, source)
    assert not faults
    assert [row["revenue"] for row in _rows(found)] == [i / 2 for i in range(2000)]
