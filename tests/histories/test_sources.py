"""Raw files to staged rows: formats, times, numbers, quarantine, faults."""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import sys
import zipfile
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nba.histories import sources
from tests.histories.conftest import EVENTS, GOOD, HEAD, SALT


def zipped(files: dict[str, str]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return made.getvalue()


# by hand


def test_a_csv_file_becomes_typed_rows(read: Any, rows: Any) -> None:
    (shop,), faults = read({"orders.csv": GOOD})
    assert not faults
    first, second = rows(shop)
    assert (first["key"], first["revenue"], first["margin"], first["n_items"]) == ("O1", 12.5, 6.25, 1)
    assert first["ordered_at"] == datetime(2026, 1, 5, 10, tzinfo=UTC)
    assert second["ordered_at"] == datetime(2026, 1, 6, 9, tzinfo=UTC)
    assert first["external"] == "C1"
    assert first["i_crm_id"] not in ("C1", second["i_crm_id"])


def test_an_identifier_is_hashed_without_the_blanks_around_it(read: Any, rows: Any) -> None:
    text = HEAD + "".join(f"O{i},2026-01-05,1,{crm}\n" for i, crm in enumerate(["C1", "  C1", "\u00a0C1 "]))
    (shop,), _ = read({"orders.csv": text})
    expected = hashlib.sha256(f"{SALT}|crm_id|C1".encode()).hexdigest()[:32]
    found = [(str(row["i_crm_id"]).replace("-", ""), row["external"]) for row in rows(shop)]
    assert found == [(expected, "C1")] * 3


@pytest.mark.parametrize(
    ("content", "more"),
    [
        ("\ufeff" + GOOD, {}),
        (GOOD.replace("\n", "\r\n"), {}),
        (GOOD.replace("O1,", '"O1",'), {}),
        (GOOD.replace(",", ";").replace("12.50", "12,50"), {"delimiter": ";", "decimal": ","}),
        (GOOD.encode("utf-16"), {"encoding": "utf-16"}),
        (GOOD.replace(" crm", "crm").replace("order,", " order ,"), {}),
        ("\n" + GOOD.replace("C1\n", "C1\n\n\n") + "\n", {}),
    ],
    ids=["BOM", "CRLF", "quoted", "decimal comma", "utf-16", "spaces in header", "blank lines"],
)
def test_the_same_rows_however_they_are_written(
    read: Any, content: str | bytes, more: dict[str, Any], rows: Any
) -> None:
    (shop,), faults = read({"orders.csv": content}, more)
    assert not faults
    assert [(r["row_number"], r["key"], r["revenue"]) for r in rows(shop)] == [
        (1, "O1", 12.5),
        (2, "O2", 3.0),
    ]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, str.encode, zipped])
@pytest.mark.parametrize("name", ["orders.csv.gz", "orders.csv"])
def test_compressed_files_are_read_whatever_they_are_called(
    read: Any, pack: Any, name: str, rows: Any
) -> None:
    content = pack({"o.csv": GOOD}) if pack is zipped else pack(GOOD if pack is str.encode else GOOD.encode())
    (shop,), faults = read({name: content}, {"path": name})
    assert not faults
    assert len(rows(shop)) == 2


def test_quoted_line_ends_count_as_one_row(read: Any, rows: Any, bad: Any) -> None:
    text = 'order,placed,amount,crm,note\nO1,2026-01-05,1,C1,"two\nlines"\nO2,never,1,C2,x\n'
    (shop,), _ = read({"orders.csv": text})
    assert bad(shop) == {2: "ordered_at: not a time"}
    assert [r["row_number"] for r in rows(shop)] == [1]


def test_an_inch_mark_is_no_open_quote(read: Any, rows: Any) -> None:
    text = HEAD.replace("\n", ",note\n") + 'O1,2026-01-05,1,C1,5" wide\nO2,2026-01-05,1,C2,x\n'
    (shop,), faults = read({"orders.csv": text})
    assert not faults
    assert [r["key"] for r in rows(shop)] == ["O1", "O2"]


def test_row_numbers_hold_across_blocks_and_malformed_rows(
    read: Any, monkeypatch: Any, rows: Any, bad: Any
) -> None:
    monkeypatch.setattr(sources, "_BLOCK", 1 << 12)
    lines = [f"O{i},2026-01-05,1,C{i}" if i % 97 else f"O{i},2026-01-05,1,C{i},extra" for i in range(1, 3001)]
    (shop,), _ = read({"orders.csv": HEAD + "\n".join(lines) + "\n"})
    assert all(row["key"] == f"O{row['row_number']}" for row in rows(shop))
    assert sorted(bad(shop)) == [i for i in range(1, 3001) if i % 97 == 0]
    assert bad(shop)[97] == "not a row; 5 fields; the header has 4"


def test_json_lines_may_nest_and_break(read: Any, rows: Any, bad: Any) -> None:
    text = (
        '{"cookie": "ck-0001", "ts": 1767607200000, "type": "view", "user": {"email": "ana@shop.es"}}\n'
        '{"cookie": "ck-0002", "ts": "2026-01-05T11:00:00+01:00", "type": "view"}\n'
        '{"cookie": "ck-0003", "ts": 1767607200, "type": null}\n'
        '["not", "an object"]\n'
        '{"cookie": broken}\n'
    )
    (web,), faults = read({"web.jsonl": text}, {**EVENTS, "max_bad_share": 0.9})
    assert not faults
    assert {r["occurred_at"] for r in rows(web)} == {datetime(2026, 1, 5, 10, tzinfo=UTC)}
    assert rows(web)[0]["i_email"] is not None
    assert bad(web) == {3: "kind: missing", 4: "not a JSON object", 5: "not a JSON object"}


def test_a_key_may_be_absent_from_one_json_file_but_not_from_all(read: Any) -> None:
    line = '{"cookie": "ck-0001", "ts": 1767607200, "type": "view"%s}\n'
    _, faults = read({"web.jsonl": line % ""}, EVENTS)
    assert "web.jsonl has no column 'user'; found ['cookie', 'ts', 'type']" in faults["web"]
    files = {"in/1.jsonl": line % "", "in/2.jsonl": line % ', "user": {"email": null}'}
    (web,), faults = read(files, {**EVENTS, "path": "in/*.jsonl"})
    assert (web.n_rows, faults) == (2, {})


def test_parquet_keeps_its_types(read: Any, rows: Any, bad: Any) -> None:
    table = pa.table(
        {
            "order": pa.array([1, 2, 3]),
            "placed": pa.array([datetime(2026, 7, 1, 12)] * 3, pa.timestamp("ms")),
            "amount": pa.array([1.5, float("nan"), -2.0]),
            "crm": pa.array([17850.0, 17851.0, 17850.0]),
        }
    )
    (shop,), _ = read({"o.parquet": table}, {"path": "o.parquet", "format": "parquet"}, zone="Europe/Madrid")
    first, last = rows(shop)
    assert (first["key"], first["external"]) == ("1", "17850")
    assert first["ordered_at"] == datetime(2026, 7, 1, 10, tzinfo=UTC)
    assert (last["is_return"], last["revenue"], last["margin"]) == (True, -2.0, -1.0)
    assert bad(shop) == {2: "revenue: missing"}


def test_what_a_refused_row_of_parquet_held_is_told_as_text(read: Any, bad: Any) -> None:
    table = pa.table(
        {
            "order": ["O1", "O2", "O3"],
            "placed": [datetime(2026, 1, 5, 10), None, datetime(1800, 1, 1)],
            "amount": [float("inf"), 2.0, 2.5],
            "crm": ["C1", "C1", "C1"],
        }
    )
    (shop,), _ = read(
        {"orders.parquet": table}, {"path": "orders.parquet", "format": "parquet", "max_bad_share": 1.0}
    )
    why = "no date that can be (1900-01-01, 1970-01-01, 2099 and later stand for none)"
    assert bad(shop) == {1: "revenue: missing", 2: "ordered_at: missing", 3: f"ordered_at: {why}"}
    assert [json.loads(row["raw"]) for row in shop.files[0].quarantine.to_pylist()] == [
        {"order": "O1", "placed": "2026-01-05 10:00:00", "amount": None},
        {"order": "O2", "placed": None, "amount": "2"},
        {"order": "O3", "placed": "1800-01-01 00:00:00", "amount": "2.5"},
    ]


def test_dates_and_zoned_times_of_parquet(read: Any, rows: Any) -> None:
    for placed, expected in (
        (pa.array([date(2026, 7, 1)]), datetime(2026, 6, 30, 22, tzinfo=UTC)),
        (
            pa.array([datetime(2026, 7, 1, tzinfo=UTC)], pa.timestamp("ns", "Asia/Tokyo")),
            datetime(2026, 7, 1, tzinfo=UTC),
        ),
    ):
        table = pa.table({"order": ["a"], "placed": placed, "amount": [1], "crm": ["C1"]})
        (shop,), _ = read(
            {"o.parquet": table}, {"path": "o.parquet", "format": "parquet"}, zone="Europe/Madrid"
        )
        assert rows(shop)[0]["ordered_at"] == expected


TIMES = [
    ("2026-07-01 12:00:00", datetime(2026, 7, 1, 10, tzinfo=UTC)),
    ("2026-07-01T12:00", datetime(2026, 7, 1, 10, tzinfo=UTC)),
    ("2026-07-01", datetime(2026, 6, 30, 22, tzinfo=UTC)),
    ("20260701", datetime(2026, 6, 30, 22, tzinfo=UTC)),
    ("2026-07-01T12:00:00Z", datetime(2026, 7, 1, 12, tzinfo=UTC)),
    ("2026-07-01T12:00:00-0300", datetime(2026, 7, 1, 15, tzinfo=UTC)),
    ("2026-07-01 12:00:00.25+02:00", datetime(2026, 7, 1, 10, 0, 0, 250_000, tzinfo=UTC)),
    ("1782907200", datetime(2026, 7, 1, 12, tzinfo=UTC)),
    ("1782907200000", datetime(2026, 7, 1, 12, tzinfo=UTC)),
    # The hour that is skipped, and the hour that comes twice.
    ("2026-03-29 02:30:00", datetime(2026, 3, 29, 1, 30, tzinfo=UTC)),
    ("2026-10-25 02:30:00", datetime(2026, 10, 25, 1, 30, tzinfo=UTC)),
    # Zones by name; what is no zone is never passed over.
    ("2026-01-10 10:00:00 America/New_York", datetime(2026, 1, 10, 15, tzinfo=UTC)),
    ("2026-01-10 10:00:00 EST", datetime(2026, 1, 10, 15, tzinfo=UTC)),
    ("2026-07-10 10:00:00 Asia/Tokyo", datetime(2026, 7, 10, 1, tzinfo=UTC)),
    ("2026-07-01 12:00:00 UTC", datetime(2026, 7, 1, 12, tzinfo=UTC)),
    ("2026-07-01 12:00:00 GMT", datetime(2026, 7, 1, 12, tzinfo=UTC)),
    ("2026-01-10 10:00:00 PM", None),
    ("2026-01-10 01:30 PM", None),
    ("2026-01-10 10:00:00 foo", None),
    ("2026-01-10 foo", None),
    # An hour, or seconds since 1970: not guessed.
    ("2026011010", None),
    ("202601101030", None),
    ("1999123123", None),
    ("1946684800", datetime(2031, 9, 9, 1, 46, 40, tzinfo=UTC)),
    ("2026-02-30", None),
    ("31/12/2026", None),
    ("yesterday", None),
    ("infinity", None),
    ("epoch", None),
    ("1e300", None),
    ("12345", None),
    ("9999-01-01", None),
]


def test_times(read: Any, rows: Any) -> None:
    lines = [f"O{i},{text},1,C1\n" for i, (text, _) in enumerate(TIMES)]
    (shop,), _ = read({"orders.csv": HEAD + "".join(lines)}, {"max_bad_share": 1.0}, zone="Europe/Madrid")
    found = {row["key"]: row["ordered_at"] for row in rows(shop)}
    assert {text: found.get(f"O{i}") for i, (text, _) in enumerate(TIMES)} == dict(TIMES)


def test_what_a_file_holds_shows_whatever_it_is_called(read: Any) -> None:
    lines = '{"order": "O1", "placed": "2026-01-01", "amount": 1, "crm": "C1"}\n'
    for files, more, told in (
        ({"orders.csv": lines}, {}, "orders.csv holds JSON lines, not csv; set format = 'jsonl'"),
        ({"orders.csv": "\ufeff" + lines}, {}, "orders.csv holds JSON lines, not csv; set format = 'jsonl'"),
        (
            {"orders.jsonl": pa.table({"order": ["O1"]})},
            {"path": "orders.jsonl", "format": "jsonl"},
            "orders.jsonl is a Parquet file, not jsonl; set format = 'parquet'",
        ),
    ):
        assert read(files, more)[1] == {"shop": [told]}


def test_dates_that_stand_for_none_are_no_dates(read: Any, rows: Any, bad: Any) -> None:
    none = ["1900-01-01", "1970-01-01", "0", "1970-01-01 00:00:00+00:00", "2099-12-31", "9999-12-31"]
    good = ["1900-01-03", "1970-01-03", "1969-12-30", "2098-12-30"]
    lines = [f"O{i},{text},1,C1\n" for i, text in enumerate([*none, *good])]
    (shop,), _ = read({"orders.csv": HEAD + "".join(lines)}, {"max_bad_share": 1.0}, zone="America/New_York")
    assert [row["key"] for row in rows(shop)] == [f"O{i}" for i in range(len(none), len(lines))]
    told = {none[number - 1]: reason for number, reason in bad(shop).items()}
    assert told.pop("0") == "ordered_at: not a time"  # a number of so few digits may be anything
    assert {reason.partition(" (")[0] for reason in told.values()} == {"ordered_at: no date that can be"}


def test_a_time_format_may_be_named(read: Any, rows: Any, bad: Any) -> None:
    text = HEAD + "O1,31/12/2026 23:30,1,C1\nO2,12/31/2026 23:30,1,C1\n"
    (shop,), _ = read({"orders.csv": text}, {"time_format": "%d/%m/%Y %H:%M", "timezone": "Europe/Madrid"})
    assert rows(shop)[0]["ordered_at"] == datetime(2026, 12, 31, 22, 30, tzinfo=UTC)
    assert bad(shop) == {2: "ordered_at: not a time"}


NUMBERS = [
    ("1234.5", ".", 1234.5),
    ("1,234.5", ".", 1234.5),
    ("1.234,5", ",", 1234.5),
    ("-1234,50", ",", -1234.5),
    ("1,5", ".", None),
    ("1.5", ",", None),
    ("12.34.5", ".", None),
    ("1e3", ".", 1000.0),
    ("nan", ".", None),
    ("inf", ".", None),
    ("12 EUR", ".", None),
]


@pytest.mark.parametrize("decimal", [".", ","])
def test_numbers_are_never_guessed(read: Any, decimal: str, rows: Any) -> None:
    cases = [(text, expected) for text, sign, expected in NUMBERS if sign == decimal]
    lines = [f"O{i};2026-01-01;{text};C1\n" for i, (text, _) in enumerate(cases)]
    content = HEAD.replace(",", ";") + "".join(lines)
    more = {"delimiter": ";", "decimal": decimal, "max_bad_share": 1.0}
    (shop,), _ = read({"orders.csv": content}, more)
    found = {row["key"]: row["revenue"] for row in rows(shop)}
    assert {text: found.get(f"O{i}") for i, (text, _) in enumerate(cases)} == dict(cases)


def test_a_comma_that_may_be_either_is_not_guessed(read: Any, rows: Any, bad: Any) -> None:
    def told(amounts: str, **more: Any) -> tuple[list[float], dict[int, str]]:
        lines = [f"O{i};2026-01-01;{text};C1\n" for i, text in enumerate(amounts.split())]
        source = {"delimiter": ";", "max_bad_share": 1.0, **more}
        (shop,), faults = read({"orders.csv": HEAD.replace(",", ";") + "".join(lines)}, source)
        assert not faults
        return [row["revenue"] for row in rows(shop)], bad(shop)

    wrong, either = "revenue: not a number with decimal = '.'", "revenue: thousands or decimals? set decimal"
    # The setting is forgotten: 0,999 is no group of thousands, and 1,250 no longer is one for sure.
    assert told("0,999 1,250 12,5 8") == ([8], {1: wrong, 2: either, 3: wrong})
    assert told("1,250 2,125") == ([], {1: either, 2: either})
    assert told("1,250 2,125", decimal=".") == ([1250, 2125], {})
    assert told("1,250 2,125", decimal=",") == ([1.25, 2.125], {})
    # What else stands there shows which it is.
    assert told("1,250 99.95 1,234,567") == ([1250, 99.95, 1234567], {})
    assert told("1,250 " + "9.95 " * 11 + "3,5")[1] == {13: wrong}
    # The other way round.
    assert told("0.999 1.250 3,5 12.50", decimal=",") == (
        [3.5],
        {1: wrong.replace("'.'", "','"), 2: either, 4: wrong.replace("'.'", "','")},
    )


def test_returns_are_negative_however_they_are_told(read: Any, rows: Any, bad: Any) -> None:
    text = "order,placed,amount,crm,pieces,back,cost\n" + (
        "O1,2026-01-01,-10,C1,-2,no,1\nO2,2026-01-01,10,C1,2,yes,1\nO3,2026-01-01,10,C1,2,maybe,1\n"
        "O4,2026-01-01,10,C1,-2,no,1\n"
    )
    columns = {"order_id": "order", "ordered_at": "placed", "revenue": "amount", "n_items": "pieces"}
    (shop,), _ = read({"orders.csv": text}, {"columns": columns, "max_bad_share": 1.0})
    assert [(r["revenue"], r["margin"], r["n_items"], r["is_return"]) for r in rows(shop)[:1]] == [
        (
            -10,
            -5,
            2,
            True,
        )
    ]
    assert bad(shop)[4] == "n_items: below 0"
    (shop,), _ = read(
        {"orders.csv": text}, {"columns": {**columns, "is_return": "back"}, "max_bad_share": 1.0}
    )
    assert [(r["revenue"], r["margin"], r["is_return"]) for r in rows(shop) if r["key"] == "O2"] == [
        (-10, -5, True)
    ]
    assert bad(shop)[3] == "is_return: not yes or no"


def test_all_reasons_are_told_and_no_identifier_stays(read: Any) -> None:
    text = "order,placed,amount,crm,mail,name\n" + (
        ",ana@shop.es,+34 600 123 456,C1,ana@shop.es,Ana López\n"
        "O2,2026-13-01 call 0034600123456,ANA@shop.es owes,,Ana@shop.es,Ana\n"
    )
    (shop,), faults = read(
        {"orders.csv": text}, {"identifiers": {"crm_id": "crm", "email": "mail"}, "max_bad_share": 1.0}
    )
    assert not faults
    first, second = shop.files[0].quarantine.to_pylist()
    assert first["reason"] == "order_id: missing; ordered_at: not a time; revenue: not a number"
    assert second["reason"] == "ordered_at: not a time; revenue: not a number"
    for row in (first, second):
        assert not any(secret in row["raw"].lower() for secret in ("ana", "600", "shop.es", "c1"))
    assert "2026-13-01" in second["raw"]


def test_addresses_within_pages_are_removed(read: Any, rows: Any) -> None:
    pages = ("/a?mail=ana@x.es&b=1", "/a?mail=ana%40x.es&b=1", "/sale%20now", "/a?b=1")
    text = "ts,type,cookie,page\n" + "".join(f"2026-01-05,view,ck-0001,{page}\n" for page in pages)
    mapped = {
        "columns": {"occurred_at": "ts", "kind": "type", "detail": "page"},
        "identifiers": {"cookie": "cookie"},
    }
    (web,), faults = read({"web.csv": text}, {**EVENTS, **mapped, "path": "web.csv", "format": "csv"})
    assert not faults
    kept = ["/a?mail=(removed)&b=1", "/a?mail=(removed)&b=1", "/sale%20now", "/a?b=1"]
    assert [row["detail"] for row in rows(web)] == kept


def test_junk_identifiers_are_no_identifiers(read: Any, rows: Any, bad: Any) -> None:
    text = "order,placed,amount,mail\n" + "".join(
        f"O{i},2026-01-01,1,{mail}\n"
        for i, mail in enumerate(
            ["null@shop.es", "NoReply@shop.es", "test@shop.es", "none", "ana", "ana@shop.es"]
        )
    )
    (shop,), _ = read({"orders.csv": text}, {"identifiers": {"email": "mail"}, "max_bad_share": 1.0})
    assert set(bad(shop).values()) == {"no identifier"}
    assert [r["key"] for r in rows(shop)] == ["O5"]
    assert shop.files[0].junk == {"email": 4}  # "none" is blank


@pytest.mark.parametrize(
    ("content", "more", "expected"),
    [
        (None, {}, "no file 'orders.csv'"),
        ("", {}, "orders.csv is empty"),
        (GOOD[:-12], {}, "truncated: it ends in the middle of row 2"),
        (GOOD.replace("O1", "Ó1").encode("latin-1"), {}, "not in encoding utf-8"),
        (GOOD.replace("O1", "Ó1"), {"encoding": "latin-1"}, "is in utf-8, not in latin-1"),
        (GOOD, {"encoding": "klingon"}, "encoding 'klingon' is not known"),
        (
            GOOD,
            {"identifiers": {"crm_id": "crmm"}},
            "has no column 'crmm' (did you mean 'crm'?); found ['order'",
        ),
        (GOOD.replace(",", ";"), {}, "delimiter is ','; the header holds ';'"),
        (GOOD.replace("crm", "order"), {}, "has no column 'crm'"),
        ("order," + GOOD.replace("\n", ",x\n").replace("crm,x", "crm,crm"), {}, "more than once"),
        (
            HEAD + "x,x,x,x\n" * 3 + GOOD[len(HEAD) :],
            {},
            "3 of 5 rows cannot be used, more than max_bad_share",
        ),
        (GOOD, {"columns": {"revenue": "amount", "colour": "x"}}, "'colour' is not a field of orders"),
        (GOOD, {"columns": {"revenue": "amount"}}, "ordered_at is missing; map it in columns"),
        (
            GOOD,
            {"margin_share": None},
            "margin is missing; map it in columns, or fix it in constants, or set",
        ),
        (GOOD, {"timezone": "Madrid"}, "timezone 'Madrid' is not an IANA zone"),
        (GOOD, {"constants": {"revenue": "much"}}, "constants.revenue is 'much'; expected a number"),
        (GOOD, {"path": "{data}/x.csv"}, "give it with --data"),
        (GOOD, {"identifiers": {"email": "amount"}}, "'amount' is an identifier (email) and also a field"),
        (
            HEAD + 'O1,"2026-01-01,1,C1\n' + "O2,2026-01-01,1,C1\n" * 300_000,
            {},
            "quote is probably never closed",
        ),
        (GOOD.replace("O2", '"O2') + GOOD[len(HEAD) :], {}, "quote is probably never closed"),
        # Within a column that is mapped, and within one that is not.
        (HEAD + 'O1,2026-01-01,1,"C1\n' + "O2,2026-01-01,1,C1\n" * 9, {}, "row 1 of many lines"),
        (
            HEAD.replace("\n", ",note\n")
            + 'O1,2026-01-01,1,C1,x\nO2,2026-01-01,1,C1,"z\nO3,2026-01-01,1,C1,y\n',
            {},
            "row 2 of many lines",
        ),
        (zipped({"a.csv": GOOD, "b.csv": GOOD}), {}, "is a zip archive of 2 files"),
        (zipped({"[Content_Types].xml": "", "xl/workbook.xml": ""}), {}, "is an Excel workbook"),
        (b"PK\x03\x04" + b"\0" * 99, {}, "is a zip archive that cannot be read"),
        (
            gzip.compress(GOOD.replace("O1", "Ó1").encode(), mtime=0),
            {"encoding": "cp1252"},
            "is in utf-8, not in cp1252",
        ),
        (gzip.compress(GOOD.encode() * 99, mtime=0)[:-9], {}, "is damaged or truncated"),
        (GOOD, {"time_format": "%Q"}, "cannot be read with time_format '%Q'"),
        (GOOD, {"identifiers": {"phone": "crm"}, "country": "Spain"}, "country 'Spain' is not a two-letter"),
        ('[{"order": "O1"}]\n', {"format": "jsonl"}, "is one JSON array"),
    ],
)
def test_faults_are_told_in_the_users_words(
    read: Any, content: str | bytes | None, more: dict[str, Any], expected: str
) -> None:
    files = {} if content is None else {"orders.csv": content}
    _, faults = read(files, more)
    assert expected in "; ".join(faults["shop"])


@pytest.mark.parametrize("n_before", [0, 300_000])
def test_a_malformed_row_in_another_encoding_is_one_fault_and_nothing_else(
    read: Any, monkeypatch: pytest.MonkeyPatch, n_before: int
) -> None:
    heard: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", hook := heard.append)
    text = (HEAD + "O2,2026-01-01,1,C1\n" * n_before).encode() + b"O1,2026-01-01,1,C1,Mu\xf1oz\n"
    _, faults = read({"orders.csv": text}, {})
    assert len(faults["shop"]) == 1
    assert "is not in encoding utf-8; set encoding" in faults["shop"][0]
    assert heard == []
    assert sys.unraisablehook is hook


@pytest.mark.parametrize("content", ["parquet", "jsonl"])
def test_truncated_files_of_other_formats(read: Any, tmp_path: Any, content: str) -> None:
    if content == "parquet":
        pq.write_table(pa.table({"a": range(1000)}), tmp_path / "whole")
        files = {"o.parquet": (tmp_path / "whole").read_bytes()[:-20]}
        _, faults = read(files, {"path": "o.parquet", "format": "parquet"})
        assert "not a whole Parquet file" in faults["shop"][0]
    else:
        line = '{"cookie": "ck-0001", "ts": 1767607200000, "type": "view", "user": {}}\n'
        _, faults = read({"web.jsonl": (line * 5)[:-30]}, EVENTS)
        assert "truncated: it ends in the middle of row 5" in faults["web"][0]


def test_a_repeated_header_within_a_file_is_quarantined(read: Any, bad: Any) -> None:
    (shop,), faults = read({"orders.csv": GOOD + GOOD})
    assert not faults
    assert bad(shop) == {3: "ordered_at: not a time; revenue: not a number"}


def test_all_files_of_a_glob_and_none_where_that_is_fine(read: Any) -> None:
    files = {f"in/o{i}.csv": f"{HEAD}O{i},2026-01-0{i},1,C1\n" for i in (1, 2)}
    (shop,), _ = read(files, {"path": "in/*.csv"})
    assert [file.name for file in shop.files] == ["in/o1.csv", "in/o2.csv"]
    (none,), faults = read({}, {"path": "feedback/*.csv", "optional": True})
    assert (none.n_rows, faults) == (0, {})


def test_a_header_alone_is_no_rows(read: Any) -> None:
    (shop,), faults = read({"orders.csv": HEAD})
    assert (shop.n_rows, shop.n_bad, faults) == (0, 0, {})


def test_constants_fill_blanks_and_values_are_translated(read: Any, rows: Any, bad: Any) -> None:
    text = "at,what,price,crm\n2026-01-01,open,,C1\n2026-01-01,sent,0.1,C1\n2026-01-01,eaten,0.1,C1\n"
    source = {
        "table": "touches",
        "columns": {"touched_at": "at", "kind": "what", "cost": "price"},
        "constants": {"channel": "email", "cost": 0.0},
        "values": {"kind": {"open": "seen"}},
    }
    (shop,), _ = read({"orders.csv": text}, source)
    assert [(r["kind"], r["channel"], r["cost"]) for r in rows(shop)] == [
        ("seen", "email", 0.0),
        ("sent", "email", 0.1),
    ]
    assert bad(shop)[3].startswith("kind: not among sent")


def test_products_multiply(read: Any, rows: Any, bad: Any) -> None:
    text = "order,placed,pieces,price,crm\nO1,2026-01-01,3,2.5,C1\nO2,2026-01-01,x,2.5,C1\n"
    source = {
        "columns": {"order_id": "order", "ordered_at": "placed"},
        "products": {"revenue": ["pieces", "price"]},
    }
    (shop,), _ = read({"orders.csv": text}, source)
    assert rows(shop)[0]["revenue"] == 7.5
    assert bad(shop) == {2: "revenue: not a number"}


# laws

_CELL = st.sampled_from(
    ["", "O1", "O2", "2026-01-01", "1767607200", "7", "-3.5", "C1", "null", "x,y", "á", '"']
)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(_CELL, min_size=4, max_size=5), max_size=12))
def test_every_row_is_kept_or_quarantined(read: Any, rows: Any, bad: Any, cells: list[list[str]]) -> None:
    lines = [",".join('"' + c.replace('"', '""') + '"' for c in line) for line in cells]
    (shop,), faults = read(
        {"orders.csv": HEAD + "".join(f"{line}\n" for line in lines)}, {"max_bad_share": 1.0}
    )
    assert not faults
    numbers = [r["row_number"] for r in rows(shop)] + list(bad(shop))
    assert sorted(numbers) == list(range(1, len(cells) + 1))
    assert shop.n_rows == len(cells)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1)), st.integers(-14 * 60, 14 * 60))
def test_an_instant_is_the_same_in_every_spelling(
    read: Any, rows: Any, local: datetime, minutes: int
) -> None:
    moment = local.replace(microsecond=0, tzinfo=UTC)
    sign, (hours, rest) = "-" if minutes < 0 else "+", divmod(abs(minutes), 60)
    shifted = moment + timedelta(minutes=minutes)
    spellings = [f"{shifted:%Y-%m-%dT%H:%M:%S}{sign}{hours:02d}:{rest:02d}", f"{moment:%Y-%m-%d %H:%M:%S}Z"]
    # Shorter numbers are dates or too short to tell; ten digits from 19 to 20 may be an hour instead.
    if moment.timestamp() >= 1e9 and not 1.9e9 <= moment.timestamp() < 2.1e9:
        spellings += [f"{int(moment.timestamp())}", f"{int(moment.timestamp()) * 1000}"]
    text = HEAD + "".join(f"O{i},{spelling},1,C1\n" for i, spelling in enumerate(spellings))
    (shop,), _ = read({"orders.csv": text})
    assert {r["ordered_at"] for r in rows(shop)} == {moment}
    assert len(rows(shop)) == len(spellings)
