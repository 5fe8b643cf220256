"""Staged rows to one history: customers, consent, keys, order, quarantine."""

from datetime import UTC, datetime
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nba import tables
from nba.errors import DataError
from nba.histories import identity, unify, versions

CRM = {
    "name": "crm",
    "table": "customers",
    "path": "crm*.csv",
    "identifiers": {"crm_id": "id", "email": "mail", "phone": "tel"},
    "columns": {"joined_at": "joined", "can_email": "ok", "a_segment": "segment", "timezone": "tz"},
    "margin_share": None,
}
SHOP = {
    "name": "shop",
    "path": "orders*.csv",
    "identifiers": {"crm_id": "crm", "email": "mail"},
    "columns": {"order_id": "order", "ordered_at": "placed", "revenue": "amount", "n_items": "pieces"},
}
WEB = {
    "name": "web",
    "table": "events",
    "path": "web.jsonl",
    "format": "jsonl",
    "identifiers": {"cookie": "cookie", "email": "email"},
    "columns": {"occurred_at": "ts", "kind": "type", "detail": "page"},
    "constants": {"channel": "web"},
    "margin_share": None,
}
CRM_HEAD = "id,mail,tel,joined,ok,segment,tz\n"
SHOP_HEAD = "order,placed,amount,pieces,crm,mail\n"
FILES = {
    "crm.csv": CRM_HEAD
    + "C1,Ana@Shop.es,600123456,2025-01-01,yes,A,Europe/Madrid\nC2,ben@shop.es,,2025-02-01,no,B,Mars/North\n",
    "orders.csv": SHOP_HEAD
    + "O2,2026-01-03,20,2,,ana@shop.es\nO1,2026-01-02,10,1,C1,\nO3,2026-01-04,5,1,,gema@shop.es\n",
    "web.jsonl": '{"cookie": "ck-ana", "email": "ana@shop.es", "ts": "2024-06-01T00:00:00Z", "type": "view", '
    '"page": "/"}\n'
    '{"cookie": "ck-ana", "ts": "2026-01-01T00:00:00Z", "type": "cart", "page": "mail ana@shop.es"}\n'
    '{"cookie": "ck-unknown", "ts": "2026-01-01T00:00:00Z", "type": "view", "page": "/"}\n',
}


def rows(found: dict[str, pa.Table], name: str, key: str) -> dict[Any, dict[str, Any]]:
    return {row[key]: row for row in found[name].to_pylist()}


def measured(found: dict[str, pa.Table], source: str) -> dict[str, float]:
    return {r["measure"]: r["value"] for r in found["quality"].to_pylist() if r["source"] == source}


# by hand


def test_one_customer_from_four_sources(unified: Any) -> None:
    found = unified(FILES, CRM, SHOP, WEB)
    assert set(found) == set(unify.NAMES)
    customers = rows(found, "customers", "external_id")
    assert len(found["customers"]) == 4
    ana = customers["C1"]
    assert (ana["can_email"], ana["can_sms"], ana["a_segment"], ana["timezone"]) == (
        True,
        False,
        "A",
        "Europe/Madrid",
    )
    # She began with her CRM id; the cookie and the e-mail that were seen before it came to her then.
    assert ana["joined_at"] == datetime(2025, 1, 1, tzinfo=UTC)
    assert (customers["C2"]["can_email"], customers["C2"]["timezone"]) == (False, None)
    orders = rows(found, "orders", "order_id")
    assert orders["O1"]["customer_id"] == orders["O2"]["customer_id"] == ana["customer_id"]
    assert sum(e["customer_id"] == ana["customer_id"] for e in found["events"].to_pylist()) == 2


def test_combinations_part_by_part_are_the_same(unified: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = unified(FILES, CRM, SHOP, WEB)
    monkeypatch.setattr(identity, "_PART", 2)
    assert unified(FILES, CRM, SHOP, WEB) == whole


def test_customers_without_crm_id_have_no_external_id_and_no_consent(unified: Any) -> None:
    found = unified(FILES, CRM, SHOP, WEB)
    strangers = found["customers"].filter(pc.is_null(found["customers"]["external_id"])).to_pylist()
    assert len(strangers) == 2
    assert not any(row[f"can_{channel}"] for row in strangers for channel in tables.CHANNELS)


def test_no_personal_data_in_any_table(unified: Any) -> None:
    found = unified(FILES, CRM, SHOP, WEB)
    text = " ".join(str(table.to_pylist()) for table in found.values()).lower()
    assert not [word for word in ("shop.es", "600123456", "ck-ana", "ck-unknown") if word in text]


def test_every_table_keeps_the_contract_and_its_order(unified: Any) -> None:
    found = unified(FILES, CRM, SHOP, WEB)
    for name, table in found.items():
        tables.BY_NAME[name].check(table)
    for name, time in (("orders", "ordered_at"), ("events", "occurred_at")):
        order = [(row["customer_id"], row[time]) for row in found[name].to_pylist()]
        assert order == sorted(order)


def test_the_latest_consent_row_wins(unified: Any) -> None:
    line = "C1,ana@shop.es,,2025-01-01,{},{},\n"
    files = {
        "crm_2026-01.csv": CRM_HEAD + line.format("yes", "A"),
        "crm_2026-02.csv": CRM_HEAD + line.format("no", ""),
    }
    row = unified(files, CRM)["customers"].to_pylist()[0]
    assert (row["can_email"], row["a_segment"]) == (False, "A")
    # A row that goes back to what it was is no duplicate of the first.
    row = unified({"crm_2026-03.csv": CRM_HEAD + line.format("yes", "A")}, CRM)["customers"].to_pylist()[0]
    assert row["can_email"] is True


def test_a_time_of_change_outweighs_the_order_of_files(unified: Any) -> None:
    head = "id,mail,tel,joined,ok,segment,tz,changed\n"
    files = {
        "crm_1.csv": head + "C1,,,2025-01-01,no,A,,2026-05-01\n",
        "crm_2.csv": head + "C1,,,2025-01-01,yes,A,,2026-04-01\n",
    }
    crm = {**CRM, "columns": {**CRM["columns"], "updated_at": "changed"}}
    assert unified(files, crm)["customers"]["can_email"].to_pylist() == [False]


def test_a_second_crm_without_consent_does_not_take_it_away(unified: Any) -> None:
    store = {
        **CRM,
        "name": "store",
        "path": "store.csv",
        "columns": {"joined_at": "joined", "a_store": "segment"},
    }
    files = {**FILES, "store.csv": CRM_HEAD + "C1,,,2026-01-01,,12,\n"}
    ana = rows(unified(files, CRM, store), "customers", "external_id")["C1"]
    assert (ana["can_email"], ana["a_segment"], ana["a_store"]) == (True, "A", 12.0)


def _two_records(first: str, second: str, *later: str) -> str:
    # C1 and C2 are one customer by their e-mail, who began with C1.
    line = "{},ana@shop.es,,2025-01-0{},{},{},,{}\n"
    told = [("C1", first), ("C2", second), *(tuple(one.split(" ")) for one in later)]
    return CRM_HEAD.replace("tz\n", "tz,changed\n") + "".join(
        line.format(who, min(i + 1, 2), said, said, f"2026-0{i + 1}-01") for i, (who, said) in enumerate(told)
    )


@pytest.mark.parametrize(("dated", "purposes"), [(False, ()), (True, ("a_segment",))])
@pytest.mark.parametrize(
    ("told", "allowed"),
    [
        (("no", "yes"), False),
        (("yes", "no"), False),
        (("yes", "yes"), True),
        (("no", "yes", "C1 yes"), True),
        (("yes", "no", "C1 yes"), False),
        (("no", "yes", "C2 yes"), False),
        (("no", "yes", " yes"), False),
        (("yes", "yes", " no"), False),
    ],
)
def test_an_opt_out_under_one_crm_id_outweighs_consent_under_another(
    unified: Any, told: tuple[str, ...], allowed: bool, dated: bool, purposes: tuple[str, ...]
) -> None:
    columns = {**CRM["columns"], **({"updated_at": "changed"} if dated else {})}
    # Without times of change the order of files counts.
    head, *lines = _two_records(*told).splitlines(keepends=True)
    files = {f"crm_{i}.csv": head + line for i, line in enumerate(lines)}
    found = unified(files, {**CRM, "columns": columns}, purposes=purposes)
    [row] = found["customers"].to_pylist()
    last = told[-1].split(" ")[-1] if len(told) > 2 else told[1]
    assert row["can_email"] is allowed
    assert row["a_segment"] == (("no", "yes")[allowed] if purposes else last)
    if dated:
        # Each moment looks at what both had said by then.
        states = found["states"].to_pylist()
        assert [one["can_email"] for one in states][:2] == [told[0] == "yes", told[:2] == ("yes", "yes")]
        assert (states[-1]["can_email"], states[-1]["a_segment"]) == (allowed, row["a_segment"])


def test_a_crm_id_of_which_no_consent_is_told_takes_none_away(unified: Any) -> None:
    store = {**CRM, "name": "store", "path": "store.csv", "columns": {"joined_at": "joined"}}
    files = {
        "crm.csv": CRM_HEAD + "C1,ana@shop.es,,2025-01-01,yes,A,\n",
        "store.csv": CRM_HEAD + "C2,ana@shop.es,,2026-01-01,,,\n",
    }
    [row] = unified(files, CRM, store)["customers"].to_pylist()
    assert (row["can_email"], row["a_segment"]) == (True, "A")


def test_attributes_are_numbers_where_all_are(unified: Any) -> None:
    lines = ["C1,,,2025-01-01,yes,{},\n", "C2,,,2025-01-01,yes,{},\n"]
    for first, second, expected in (("1.5", "-2", [1.5, -2.0]), ("08001", "28001", ["08001", "28001"])):
        files = {"crm.csv": CRM_HEAD + lines[0].format(first) + lines[1].format(second)}
        found = rows(unified(files, CRM), "customers", "external_id")
        assert [found["C1"]["a_segment"], found["C2"]["a_segment"]] == expected


def test_of_rows_with_the_same_key_the_last_counts(unified: Any) -> None:
    files = {
        "orders_1.csv": SHOP_HEAD + "O1,2026-01-01,10,1,C1,\nO1,2026-01-01,10,1,C1,\n",
        "orders_2.csv": SHOP_HEAD + "O1,2026-01-01,12,1,C1,\n",
    }
    found = unified(files, SHOP)
    assert found["orders"]["revenue"].to_pylist() == [12.0]
    shop = measured(found, "shop")
    assert (shop["rows_in"], shop["rows_kept"], shop["duplicates"], shop["conflicts"]) == (3, 1, 2, 2)


def test_keys_that_stand_twice_are_found_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "_PART", 7)
    with duckdb.connect() as connection:
        connection.execute("create view v as select (i % 70)::varchar as key from range(100) t(i)").fetchall()
        found = versions._repeated(connection, "v").tolist()
        twice = connection.execute("select hash(i::varchar) from range(30) t(i)").fetchall()
    assert sorted(found) == sorted(h for (h,) in twice)


def test_events_without_id_are_told_apart_by_content(unified: Any) -> None:
    line = '{"cookie": "ck-0001", "email": null, "ts": 1767607200, "type": "view", "page": "%s"}\n'
    found = unified({"web.jsonl": line % "/a" + line % "/b" + line % "/a"}, WEB)
    assert (found["events"].num_rows, measured(found, "web")["duplicates"]) == (2, 1)


def test_lines_are_summed_into_orders(unified: Any) -> None:
    text = SHOP_HEAD + (
        "O1,2026-01-02 10:00,10,2,C1,\nO1,2026-01-02 09:00,5.5,1,C1,\nO1,2026-01-02 09:00,1,1,,\n"
        "R1,2026-01-05,-10,-2,C1,\n"
    )
    found = unified({"orders.csv": text}, {**SHOP, "aggregate": True})
    orders = rows(found, "orders", "order_id")
    assert [orders["O1"][k] for k in ("revenue", "margin", "n_items", "is_return")] == [15.5, 7.75, 3, False]
    assert orders["O1"]["ordered_at"] == datetime(2026, 1, 2, 9, tzinfo=UTC)
    assert [orders["R1"][k] for k in ("revenue", "n_items", "is_return")] == [-10.0, 2, True]
    shop = measured(found, "shop")
    assert (shop["rows_kept"], shop["records"], shop["quarantined"]) == (3, 2, 1)


def test_rows_with_only_shared_identifiers_go_to_quarantine(unified: Any) -> None:
    crm = CRM_HEAD + "".join(f"C{i},office@shop.es,,2025-01-01,yes,A,\n" for i in range(5))
    orders = SHOP_HEAD + "O1,2026-01-01,1,1,,office@shop.es\nO2,2026-01-01,1,1,C1,office@shop.es\n"
    found = unified({"crm.csv": crm, "orders.csv": orders}, CRM, SHOP)
    (row,) = found["quarantine"].to_pylist()
    assert (row["source"], row["file"], row["row_number"]) == ("shop", "orders.csv", 1)
    assert row["reason"] == "no identifier of its own: each is shared by too many customers"
    assert "office" not in row["raw"]
    assert found["orders"]["order_id"].to_pylist() == ["O2"]
    shop = measured(found, "shop")
    assert shop["rows_in"] == shop["rows_kept"] + shop["quarantined"] + shop["duplicates"]


def test_all_faults_of_all_sources_come_at_once(unified: Any) -> None:
    with pytest.raises(DataError) as error:
        unified({"orders.csv": SHOP_HEAD}, CRM, {**SHOP, "columns": {"revenue": "x"}}, WEB)
    for text in (
        "source 'crm': no file 'crm*.csv'",
        "source 'shop': order_id is missing",
        "source 'web': no file",
    ):
        assert text in str(error.value)


def test_merges_are_told_in_every_later_run(unified: Any) -> None:
    first = unified(
        {**FILES, "web.jsonl": FILES["web.jsonl"].replace('"email": "ana@shop.es"', '"email": null')},
        CRM,
        SHOP,
        WEB,
    )
    then = unified(FILES, CRM, SHOP, WEB, known=first)
    gone = set(first["customers"]["customer_id"].to_pylist()) - set(
        then["customers"]["customer_id"].to_pylist()
    )
    into = {row["alias_id"]: row["customer_id"] for row in then["aliases"].to_pylist()}
    assert set(into) == gone
    assert set(into.values()) <= set(then["customers"]["customer_id"].to_pylist())
    again = unified(FILES, CRM, SHOP, WEB, known=then)
    assert all(again[name].equals(then[name]) for name in unify.NAMES if name != "quality")
    told = [measured(run, "identity") for run in (then, again)]
    assert [one.pop("merged_now") for one in told] == [len(gone), 0]
    assert told[0] == told[1]


def test_a_chain_of_merges_ends_at_the_customer_of_now() -> None:
    day = [datetime(2026, 1, n, tzinfo=UTC) for n in (1, 2, 3)]
    for first, then, last in ((0, 1, 1), (2, 1, 2)):
        row = {"alias_id": "a", "customer_id": "b", "joined_at": day[first], "is_pending": True}
        found = unify.follow(tables.ALIASES.build([row]), {"b": "c"}, {"b": day[then]}, {"c", "d"})
        assert {r["alias_id"]: (r["customer_id"], r["joined_at"]) for r in found.to_pylist()} == {
            "a": ("c", day[last]), "b": ("c", day[then])
        }  # fmt: skip


# laws

_ORDER = st.tuples(
    st.sampled_from(["O1", "O2", "O3", "O4", ""]),
    st.sampled_from(["2026-01-01", "2026-01-02 10:00", "never"]),
    st.sampled_from(["1", "-2", "x"]),
    st.sampled_from(["1", "2"]),
    st.sampled_from(["C1", "C2", ""]),
    st.sampled_from(["ana@shop.es", "ben@shop.es", "none", ""]),
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_ORDER, max_size=10), st.booleans())
def test_rows_in_are_rows_kept_quarantined_or_duplicates(
    unified: Any, lines: list[tuple[str, ...]], aggregate: bool
) -> None:
    text = SHOP_HEAD + "".join(",".join(line) + "\n" for line in lines)
    found = unified({"orders.csv": text}, {**SHOP, "max_bad_share": 1.0, "aggregate": aggregate})
    shop = measured(found, "shop")
    assert shop["rows_in"] == len(lines)
    assert shop["rows_in"] == shop["rows_kept"] + shop["quarantined"] + shop["duplicates"]
    assert shop["records"] == found["orders"].num_rows
    assert shop["quarantined"] == found["quarantine"].num_rows


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_ORDER, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_the_order_of_files_changes_no_id(unified: Any, lines: list[tuple[str, ...]], random: Any) -> None:
    mixed = list(lines)
    random.shuffle(mixed)
    shop = {**SHOP, "max_bad_share": 1.0}
    found = [
        unified({f"orders{i}.csv": SHOP_HEAD + ",".join(line) + "\n" for i, line in enumerate(some)}, shop)[
            "identities"
        ]
        for some in (lines, mixed)
    ]
    assert found[0].equals(found[1])
