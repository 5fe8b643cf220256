"""A person who asked to be forgotten leaves no trace, and does not come back with the raw files."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from nba import tables
from nba.errors import DataError, MissingError
from nba.history import History
from pipelines import forget, ingest

TOML = """
[workspace]
name = "test"

[[sources]]
name = "crm"
table = "customers"
path = "crm.csv"
identifiers = { crm_id = "id", email = "mail", phone = "tel" }
columns = { joined_at = "joined", can_email = "ok", a_town = "town" }

[[sources]]
name = "shop"
table = "orders"
path = "shop*.csv"
identifiers = { email = "mail" }
columns = { order_id = "order", ordered_at = "placed", revenue = "amount" }
margin_share = 0.5
"""
CRM = """id,mail,tel,joined,ok,town
C-ana,ana@shop.es,600123456,2025-01-01,yes,Zafra
C-ben,ben@shop.es,600123457,2025-01-01,no,Soria
C-eva,eva@shop.es,,2025-01-01,yes,Soria
"""
SHOP = """order,placed,amount,mail
ORDER-A1,2026-01-01,10,ANA@shop.es
ORDER-B1,2026-01-02,7,ben@shop.es
ORDER-A2,never,3,ana@shop.es
ORDER-B2,never,4,ben@shop.es
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NBA_SALT", "a salt for tests, long enough")
    for name, text in (("nba.toml", TOML), ("crm.csv", CRM), ("shop.csv", SHOP)):
        (tmp_path / name).write_text(text)
    ingest.ingest(tmp_path)
    history = History.read(tmp_path)
    ids = dict(zip(*(history.table("customers")[c].to_pylist() for c in ("external_id", "customer_id"))))
    at = datetime(2026, 1, 5, tzinfo=UTC)
    assigned = [
        {"experiment_id": "policy", "customer_id": who, "arm": arm, "assigned_at": at, "p_arm": 0.5}
        for who, arm in ((ids["C-ana"], "policy"), (ids["C-ben"], "holdout"))
    ]
    outcome = tables.OUTCOMES.sample(1, np.random.default_rng(1)).to_pylist()[0]
    decision = {
        "batch_id": "b1", "treatment_id": "sale_email", "channel": "email", "decided_at": at, "p_action": 0.5,
        "policy_id": "p", "reason": "", "config_hash": "x", "valid_until": at,
    }  # fmt: skip
    history.commit(
        append={
            "assignments": tables.ASSIGNMENTS.build(assigned),
            "decisions": tables.DECISIONS.build(
                decision | {"decision_id": f"decision-{name}", "customer_id": ids[name], "external_id": name}
                for name in ("C-ana", "C-ben")
            ),
            "outcomes": tables.OUTCOMES.build(
                outcome | {"decision_id": f"decision-{n}"} for n in ("C-ana", "C-ben")
            ),
        }
    )
    return tmp_path


def text_of(workspace: Path) -> str:
    """All that stands in the workspace, raw files apart."""
    out = []
    for path in sorted((workspace / "tables").rglob("*")):
        if path.suffix == ".parquet":
            out.append(json.dumps(pq.ParquetFile(path).read().to_pylist(), default=str))
        elif path.is_file():
            out.append(path.read_text())
    return "\n".join(out)


# by hand


@pytest.mark.parametrize(
    ("identifier", "kind"),
    [("Ana@shop.es", None), ("+34 600 12 34 56", "phone"), ("C-ana", None), (" ana@shop.es ", "email")],
)
def test_no_trace_is_left_by_whichever_identifier(workspace: Path, identifier: str, kind: str | None) -> None:
    before = History.read(workspace)
    mine = before.sql("select customer_id from customers where external_id = 'C-ana'")["customer_id"][
        0
    ].as_py()
    hashes = before.sql("select identifier_hash from identities where customer_id = $c", {"c": mine})
    traces = [mine, "C-ana", "ORDER-A", "Zafra", "decision-C-ana", *hashes["identifier_hash"].to_pylist()]
    dashed = [f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}" for h in traces[5:]]
    assert [word for word in traces if word not in text_of(workspace)] == []
    report = forget.forget(workspace, identifier, kind)
    assert [word for word in [*traces, *dashed] if word in text_of(workspace)] == []
    assert report.rows == {
        "assignments": 1, "customers": 1, "decisions": 1, "identities": 3, "orders": 1, "outcomes": 1
    }  # fmt: skip
    # The raw files still hold the person; nothing of it comes back.
    (workspace / "shop_2.csv").write_text(SHOP.replace("-A1", "-A7").replace("-B1", "-B7"))
    for _ in range(2):
        ingest.ingest(workspace)
        assert [word for word in [*traces, *dashed] if word in text_of(workspace)] == []
    after = History.read(workspace)
    assert sorted(after.table("orders")["order_id"].to_pylist()) == ["ORDER-B1", "ORDER-B7"]
    rows = {(r["source"], r["measure"]): r["value"] for r in after.table("quality").to_pylist()}
    counts = [rows["shop", m] for m in ("rows_in", "rows_kept", "quarantined", "duplicates", "passed_over")]
    assert counts == [8, 2, 2, 0, 4]
    assert counts[0] == sum(counts[1:])
    assert not after.broken_laws()


def test_who_joined_long_before_computers_counted_time_is_forgotten_too(tmp_path: Path) -> None:
    # The CRM is the second source, so that the place of a first sight is not 0.
    head, crm, shop = TOML.split("[[sources]]")
    (tmp_path / "nba.toml").write_text("[[sources]]".join([head, shop, crm]))
    (tmp_path / ".salt").write_text("a salt for tests, long enough")
    (tmp_path / "crm.csv").write_text(CRM.replace("2025-01-01", "1965-03-01", 1))
    (tmp_path / "shop.csv").write_text(SHOP)
    ingest.ingest(tmp_path)
    told = History.read(tmp_path).table("identities").to_pylist()
    assert [r["source"] for r in told if r["first_seen_at"].year == 1965] == ["crm"] * 3
    more = SHOP.replace("-A1", "-A7").replace("-B1", "-B7").replace("2026", "1964")
    (tmp_path / "shop_2.csv").write_text(more)  # added to what is there
    ingest.ingest(tmp_path)
    told = History.read(tmp_path).table("identities").to_pylist()
    first = {(r["first_seen_at"].year, r["source"]) for r in told if r["identifier_kind"] == "email"}
    assert first == {(1964, "shop"), (2025, "crm")}
    assert forget.forget(tmp_path, "C-ana").rows == {"customers": 1, "identities": 3, "orders": 2}
    assert "Zafra" not in text_of(tmp_path)


def test_a_person_in_quarantine_only_is_forgotten_too(workspace: Path) -> None:
    # Carol's row cannot be used; beside her own identifiers it holds Ben's phone.
    row = "C-carol,carol@shop.es,600123457,someday,yes,Carolville\n"
    (workspace / "crm.csv").write_text(CRM + row)
    ingest.ingest(workspace)
    assert "Carolville" in text_of(workspace)
    report = forget.forget(workspace, "Carol@shop.es")
    assert (report.rows, report.n_identifiers, report.n_staged) == ({}, 2, 1)
    assert "Carolville" not in text_of(workspace)
    # Mended or told anew under her other identifier, her rows do not come back; Ben's stay.
    (workspace / "crm.csv").write_text(CRM + row.replace("someday", "2025-01-01").replace("carol@", "c@"))
    ingest.ingest(workspace)
    assert "Carolville" not in text_of(workspace)
    history = History.read(workspace)
    assert sorted(history.table("customers")["external_id"].to_pylist()) == ["C-ana", "C-ben", "C-eva"]
    rows = {(r["source"], r["measure"]): r["value"] for r in history.table("quality").to_pylist()}
    assert (rows["crm", "rows_in"], rows["crm", "rows_kept"], rows["crm", "passed_over"]) == (4, 3, 1)
    assert rows["forgotten", "persons"] == 1


def test_an_identifier_in_quarantine_under_several_kinds_forgets_nobody(workspace: Path) -> None:
    more = "600123499,zoe@shop.es,,never,yes,Soria\nC-leo,leo@shop.es,600123499,never,yes,Soria\n"
    (workspace / "crm.csv").write_text(CRM + "C-x,x@shop.es,,2025-01-01,yes,Soria\n" * 9 + more)
    ingest.ingest(workspace)
    before = text_of(workspace)
    with pytest.raises(DataError, match=r"under several kinds \(crm_id, phone\); nobody was forgotten"):
        forget.forget(workspace, "600123499")
    assert text_of(workspace) == before


def test_an_identifier_that_is_shared_by_too_many_forgets_nobody(workspace: Path) -> None:
    more = "".join(f"C-{i},office@shop.es,,2025-01-01,yes,Soria\n" for i in range(40))
    (workspace / "crm.csv").write_text(CRM + more)
    ingest.ingest(workspace)
    before = text_of(workspace)
    with pytest.raises(MissingError, match="nobody"):
        forget.forget(workspace, "office@shop.es")
    assert text_of(workspace) == before


def test_aggregates_are_of_those_who_remain_and_losses_by_arm_are_told(workspace: Path) -> None:
    forget.forget(workspace, "ana@shop.es")
    rows = {
        (r["source"], r["measure"]): r["value"] for r in History.read(workspace).table("quality").to_pylist()
    }
    assert rows["forgotten", "persons"] == rows["forgotten", "arm policy/policy"] == 1.0
    forget.forget(workspace, "ben@shop.es")
    ingest.ingest(workspace)
    history = History.read(workspace)
    rows = {(r["source"], r["measure"]): r["value"] for r in history.table("quality").to_pylist()}
    assert rows["forgotten", "persons"] == 2.0
    assert rows["forgotten", "arm policy/holdout"] == 1.0
    assert history.table("assignments").num_rows == history.table("decisions").num_rows == 0
    assert history.table("customers")["external_id"].to_pylist() == ["C-eva"]


def test_an_unknown_identifier_changes_nothing(workspace: Path) -> None:
    before = text_of(workspace)
    with pytest.raises(MissingError, match="nobody"):
        forget.forget(workspace, "nobody@shop.es")
    with pytest.raises(MissingError, match="of kind phone"):
        forget.forget(workspace, "ana@shop.es", "phone")
    assert text_of(workspace) == before


def test_an_identifier_of_several_persons_forgets_nobody(workspace: Path) -> None:
    # Zoe's number in the CRM reads like Ben's phone.
    (workspace / "crm.csv").write_text(CRM + "600123457,zoe@shop.es,,2025-01-01,yes,Soria\n")
    ingest.ingest(workspace)
    before = text_of(workspace)
    with pytest.raises(DataError, match=r"2 customers are known by that identifier \(crm_id, phone\)"):
        forget.forget(workspace, "600123457")
    assert text_of(workspace) == before
    assert forget.forget(workspace, "600123457", "phone").n_identifiers == 3
    assert "C-ben" not in text_of(workspace)
