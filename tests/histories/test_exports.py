"""Raw files to staged rows: what real exports do."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from nba.histories import sources, staging
from tests.histories.conftest import EVENTS, GOOD, HEAD

# by hand


def test_dates_in_several_formats_within_one_column(read: Any, rows: Any, bad: Any) -> None:
    text = HEAD + (
        "O1,31/12/2026 23:30,1,C1\nO2,2026-12-31 23:30,1,C1\nO3,1798759800,1,C1\nO4,31.12.2026,1,C1\n"
        "O5,2026-12-31T23:30:00+05:00,1,C1\n"
    )
    more = {"time_format": ("%d/%m/%Y %H:%M", "iso"), "timezone": "Europe/Madrid"}
    (shop,), _ = read({"orders.csv": text}, more)
    found = {row["key"]: row["ordered_at"] for row in rows(shop)}
    assert found == {
        "O1": datetime(2026, 12, 31, 22, 30, tzinfo=UTC),
        "O2": datetime(2026, 12, 31, 22, 30, tzinfo=UTC),
        "O3": datetime(2026, 12, 31, 23, 30, tzinfo=UTC),
        "O5": datetime(2026, 12, 31, 18, 30, tzinfo=UTC),
    }
    assert bad(shop) == {4: "ordered_at: not a time"}


def test_columns_that_moved_between_files_are_found_by_name(read: Any) -> None:
    files = {
        "in/1.csv": HEAD + "O1,2026-01-01,1,C1\n",
        "in/2.csv": "crm,new,amount,placed,order\nC1,x,2,2026-01-02,O2\n",
    }
    (shop,), faults = read(files, {"path": "in/*.csv"})
    assert not faults
    assert [(r["key"], r["revenue"], r["external"]) for f in shop.files for r in f.rows.to_pylist()] == [
        ("O1", 1.0, "C1"),
        ("O2", 2.0, "C1"),
    ]


def test_leading_zeros_and_words_for_nothing(read: Any, rows: Any, bad: Any) -> None:
    text = (
        HEAD + "0007,2026-01-01,1,00012\n0008,2026-01-01,NaN,C1\nN/A,2026-01-01,1,C1\n0009,2026-01-01,1,nan\n"
    )
    (shop,), _ = read({"orders.csv": text}, {"max_bad_share": 1.0})
    assert [(r["key"], r["external"]) for r in rows(shop)] == [("0007", "00012")]
    assert bad(shop) == {2: "revenue: missing", 3: "order_id: missing", 4: "no identifier"}


def test_encodings_mixed_within_one_file_are_refused_whole(read: Any, tmp_path: Any) -> None:
    text = HEAD.encode() + "Ó1,2026-01-01,1,C1\n".encode() + "Ó2,2026-01-01,1,C1\n".encode("latin-1")
    _, faults = read({"orders.csv": text})
    assert "not in encoding utf-8" in faults["shop"][0]
    assert not list((tmp_path / ".cache").glob("*"))


@pytest.mark.parametrize("size", [10, 30_000])
def test_one_late_accent_tells_utf8_from_latin_1(read: Any, size: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(sources, "_HEAD", 1 << 10)
    monkeypatch.setattr(sources, "_BLOCK", 1 << 12)
    rest = "".join(f"O{i},2026-01-01,1,C{i}\n" for i in range(size))
    _, faults = read({"orders.csv": HEAD + rest + "Málaga,2026-01-01,1,C1\n"}, {"encoding": "latin-1"})
    assert "orders.csv is in utf-8, not in latin-1; set encoding = 'utf-8'" in faults["shop"][0]


def test_rows_in_utf8_within_a_latin_1_file_go_to_quarantine(read: Any, rows: Any, bad: Any) -> None:
    lines = ["Ávila,2026-01-01,1,C1\n".encode("latin-1"), "Málaga,2026-01-01,1,C2\n".encode(),
             b"O3,2026-01-01,1,C3\n", b"O4,2026-01-01\n", "«CAFÉ»,2026-01-01,1,C5\n".encode("latin-1"),
             "Córdoba,2026-01-01,1,C6".encode()]  # fmt: skip
    (shop,), faults = read(
        {"orders.csv": HEAD.encode() + b"".join(lines)}, {"encoding": "latin-1", "max_bad_share": 1.0}
    )
    assert not faults
    assert [(r["row_number"], r["key"]) for r in rows(shop)] == [(1, "Ávila"), (3, "O3"), (5, "«CAFÉ»")]
    told = "text in utf-8, not in latin-1"
    assert bad(shop) == {2: told, 4: "not a row; 2 fields; the header has 4", 6: told}
    assert (shop.files[0].n_rows, shop.files[0].n_bad, shop.files[0].n_forgotten) == (6, 3, 0)


def test_json_lines_in_utf8_within_a_latin_1_file_go_to_quarantine(read: Any, rows: Any, bad: Any) -> None:
    line = '{"ts": "2026-01-01", "type": "visit", "cookie": "cookie-%s", "at": "%s"}\n'
    text = (line % (1, "Ávila")).encode("latin-1") + (line % (2, "Málaga")).encode()
    (web,), faults = read(
        {"web.jsonl": text}, {**EVENTS, "identifiers": {"cookie": "cookie"}, "encoding": "cp1252"}
    )
    assert not faults
    assert [r["row_number"] for r in rows(web)] == [1]
    assert bad(web) == {2: "text in utf-8, not in cp1252"}


def test_a_file_that_grows_while_it_is_read_is_refused(read: Any, tmp_path: Any, monkeypatch: Any) -> None:
    part = staging._part

    def growing(*arguments: Any) -> int:
        with (tmp_path / "orders.csv").open("a") as file:
            file.write("O9,2026-01-01,1,C1\n")
        return part(*arguments)

    monkeypatch.setattr(staging, "_part", growing)
    _, faults = read({"orders.csv": GOOD})
    assert faults["shop"] == ["orders.csv changed while it was read; run again when it is whole"]
    assert not list((tmp_path / ".cache").glob("*"))


def test_a_source_in_chunks_is_the_same_source(read: Any, monkeypatch: Any, rows: Any) -> None:
    lines = "".join(f"O{i},2026-01-{1 + i % 28:02d},{i},C{i % 50}\n" for i in range(5000))
    whole = rows(read({"orders.csv": HEAD + lines})[0][0])
    monkeypatch.setattr(sources, "_BLOCK", 1 << 13)
    monkeypatch.setattr(sources, "_CHUNK", 1 << 15)
    (shop,), _ = read(
        {"orders.csv": HEAD + lines + "\n"}
    )  # another content, or it would be read from the cache
    assert len(list(shop.files[0].folder.glob("rows-*.parquet"))) > 3
    assert rows(shop) == whole


def test_when_a_row_was_known(read: Any, rows: Any) -> None:
    text = "order,placed,amount,crm,loaded\nO1,2026-01-01,1,C1,2026-01-03\nO2,2026-01-01,1,C1,\n"
    columns = {"order_id": "order", "ordered_at": "placed", "revenue": "amount"}
    day = datetime(2026, 1, 1, tzinfo=UTC)
    for more, expected in (
        ({"columns": columns}, [None, None]),
        ({"columns": columns, "known_after_hours": 12}, [day + timedelta(hours=12)] * 2),
        ({"columns": {**columns, "known_at": "loaded"}}, [day + timedelta(days=2), None]),
        (
            {"columns": {**columns, "known_at": "loaded"}, "known_after_hours": 12},
            [day + timedelta(days=2), day + timedelta(hours=12)],
        ),
    ):
        (shop,), faults = read({"orders.csv": text}, more)
        assert not faults
        assert [row["known_at"] for row in rows(shop)] == expected
