"""What ingestion found, as rows."""

from typing import Any

import pyarrow as pa
import pytest

from nba import tables
from nba.histories import quality
from nba.histories.assess import judge
from nba.settings import QualityRules

FILES = {
    "crm.csv": """id,mail,joined,ok
1,ana@shop.es,2026-01-01,yes
2,ben@shop.es,2026-01-02,no
3,null@shop.es,never,no
""",
    "orders.csv": """order,placed,amount,mail
O1,2026-01-10,5,ana@shop.es
O1,2026-01-12,5,ana@shop.es
O2,2026-01-05,5,
""",
}
CRM = {
    "name": "crm",
    "table": "customers",
    "path": "crm.csv",
    "identifiers": {"crm_id": "id", "email": "mail"},
    "columns": {"joined_at": "joined", "can_email": "ok"},
    "margin_share": None,
}
SHOP = {"identifiers": {"email": "mail"}}


def found(table: pa.Table, source: str) -> dict[str, Any]:
    return {row["measure"]: row["value"] for row in table.to_pylist() if row["source"] == source}


# by hand


def test_rows_identities_consent_and_freshness(unified: Any) -> None:
    table = unified(FILES, CRM, SHOP)["quality"]
    tables.QUALITY.check(table)
    crm, shop = found(table, "crm"), found(table, "shop")
    assert [crm[k] for k in ("files", "rows_in", "rows_kept", "quarantined", "junk_email")] == [1, 3, 2, 1, 1]
    assert [shop[k] for k in ("rows_in", "rows_kept", "quarantined", "duplicates", "conflicts")] == [
        3,
        1,
        1,
        1,
        1,
    ]
    assert (shop["days_behind"], crm["days_behind"]) == (0.0, 10.0)
    who = found(table, "identity")
    assert [who[k] for k in ("customers", "customers_known", "largest", "identifiers_email")] == [2, 2, 2, 2]
    assert found(table, "consent")["can_email"] == pytest.approx(0.5)
    notes = {(r["source"], r["measure"]): r["note"] for r in table.to_pylist()}
    assert notes["crm", "quarantined"] == "joined_at: not a time (1)"
    assert notes["shop", "days_behind"] == "newest row is of 2026-01-12 00:00 UTC"


def test_a_key_of_another_customer_from_another_source_is_a_clash(unified: Any) -> None:
    till = {"name": "till", "path": "till.csv", "identifiers": {"email": "mail"}}
    head = FILES["orders.csv"].splitlines()[0]
    shop = head + "\n1,2026-01-05,100,ana@shop.es\n2,2026-01-05,5,ana@shop.es\n2,2026-01-06,6,ben@shop.es\n"
    files = {"crm.csv": FILES["crm.csv"], "orders.csv": shop}
    for mail, expected, status in (("ben@shop.es", 1, "warning"), ("ana@shop.es", 0, "ok")):
        more = {**files, "till.csv": f"{head}\n1,2026-01-05,77,{mail}\n"}
        table = unified(more, CRM, SHOP, till)["quality"]
        n = found(table, "shop")
        assert [n[k] for k in ("rows_in", "rows_kept", "duplicates", "clashes")] == [3, 1, 2, expected]
        assert found(table, "till")["clashes"] == 0
        judged = {(r["check"], r["subject"]): r["status"] for r in judge(table, QualityRules()).to_pylist()}
        assert (judged["clashes", "shop"], judged["clashes", "till"]) == (status, "ok")


def test_cut_identifiers_are_reported_as_hashes(unified: Any) -> None:
    crm = "id,mail,joined,ok\n" + "".join(f"{i},all@shop.es,2026-01-01,yes\n" for i in range(1, 6))
    table = unified({"crm.csv": crm}, CRM)["quality"]
    (row,) = [r for r in table.to_pylist() if r["measure"] == "cut_email"]
    assert row["value"] == 1
    assert row["note"].endswith(" (5)")
    assert "shop.es" not in row["note"]


def test_findings_are_read_back() -> None:
    table = tables.QUALITY.build([{"source": "identity", "measure": "splits", "value": 2.0, "note": ""}])
    assert quality.value(table, "identity", "splits") == 2.0
    assert quality.value(table, "identity", "other") == 0.0
    assert quality.value(None, "identity", "splits") == 0.0
