"""Ingest: one commit or nothing, the same again and again, and the public example."""

import json
import os
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

import pipelines
from nba import settings, tables
from nba.errors import MissingError, NbaError, SettingsError
from nba.histories import staging, unify
from nba.histories.simulated import World
from nba.histories.simulated_people import judge
from nba.history import History
from nba.spill import Spill
from pipelines import forget, ingest
from pipelines.commands import histories as commands

SALT = "a salt for tests, long enough"
DATA = Path(os.environ.get("NBA_DATA", Path(__file__).parents[3] / "shared" / "data"))
RETAIL = DATA / "online_retail" / "online_retail.parquet"
EXAMPLE = Path(pipelines.__file__).parent / "workspaces" / "online_retail"
needs_retail = pytest.mark.skipif(not RETAIL.is_file(), reason="Online Retail is not there; set NBA_DATA")

TOML = """
[workspace]
name = "test"
timezone = "Europe/Madrid"

[[sources]]
name = "crm"
table = "customers"
path = "sources/crm*.csv"
identifiers = { crm_id = "id", email = "mail" }
columns = { joined_at = "joined", can_email = "ok" }

[[sources]]
name = "shop"
table = "orders"
path = "sources/shop*.csv"
delimiter = ";"
decimal = ","
identifiers = { email = "mail" }
columns = { order_id = "order", ordered_at = "placed", revenue = "amount", margin = "margin" }

[[sources]]
name = "web"
table = "events"
path = "sources/web*.jsonl"
format = "jsonl"
identifiers = { cookie = "cookie", email = "mail" }
columns = { occurred_at = "ts", kind = "type" }
"""
CRM = "id,mail,joined,ok\nC1,ana@shop.es,2025-01-01 10:00:00,yes\nC2,ben@shop.es,2025-02-01,no\n"
SHOP = """order;placed;amount;margin;mail
O1;2026-01-01;10,50;3;ANA@shop.es
O2;2026-01-02;x;1;ben@shop.es
O3;2026-01-02;-4,5;-1;ben@shop.es
"""
WEB = """{"cookie": "ck-0001", "ts": 1767607200000, "type": "view", "mail": null}
{"cookie": "ck-0002", "ts": 1767607200, "type": "view", "mail": "ana@shop.es"}
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("NBA_SALT", raising=False)
    (tmp_path / "sources").mkdir()
    (tmp_path / "nba.toml").write_text(TOML)
    for name, text in (("crm.csv", CRM), ("shop.csv", SHOP), ("web.jsonl", WEB)):
        (tmp_path / "sources" / name).write_text(text)
    return tmp_path


def content(workspace: Path) -> dict[str, pa.Table]:
    history = History.read(workspace)
    return {name: history.table(name) for name in history.files}


def files(workspace: Path) -> dict[str, bytes]:
    found = [
        path for path in (workspace / "tables").rglob("*") if path.is_file() and ".cache" not in path.parts
    ]
    return {str(path): path.read_bytes() for path in found}


_KILLED = """
import os, pathlib, signal, sys
from pipelines import ingest

ingest.History.commit = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
ingest.ingest(pathlib.Path(sys.argv[1]))
"""


# by hand


def test_all_tables_come_in_one_commit(workspace: Path) -> None:
    report = ingest.ingest(workspace)
    assert (report.version, report.is_changed) == (1, True)
    found = content(workspace)
    assert set(found) == {*unify.NAMES, "ingested"}
    assert [len(found[name]) for name in unify.NAMES] == [
        *(3, 0, 6, 2, 2, 0, 1, len(report.quality), 0, 0, 0, 0, 0, 0)
    ]
    assert report.rows[1] | {"days_behind": 0} == {
        "source": "shop", "files": 1, "rows_in": 3, "rows_kept": 2, "quarantined": 1, "duplicates": 0,
        "days_behind": 0,
    }  # fmt: skip
    assert not History.read(workspace).broken_laws()


def test_again_changes_nothing(workspace: Path) -> None:
    ingest.ingest(workspace)
    before, found = files(workspace), content(workspace)
    report = ingest.ingest(workspace)
    assert (report.version, report.is_changed) == (1, False)
    assert files(workspace) == before
    assert all(table.equals(found[name]) for name, table in content(workspace).items())


def alike(one: History, other: History) -> None:
    """Whether two histories say the same; rows may stand in another order."""
    for name in unify.NAMES:
        left, right = (history.table(name).to_pylist() for history in (one, other))
        for row in (*left, *right):
            row.pop("is_pending", None)
        if name == "quality":
            # These need all customers at once, and stay as the last full run found them; of the others, new
            # files are held against what was usual.
            kept = (
                "linked_",
                "largest",
                "links_refused",
                "cut_",
                "external_cut",
                "null_",
                "usual_rows",
                "volume",
                "empty_days",
                "closed_weekdays",
            )
            left, right = ([r for r in rows if not r["measure"].startswith(kept)] for rows in (left, right))
        assert sorted(left, key=str) == sorted(right, key=str), name


def rebuilt(workspace: Path, index: str) -> History:
    """What the same step gives from the state before, without anything that was kept of the files."""
    copy = workspace.parent / f"{workspace.name}-again"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(workspace, copy)
    (copy / "tables" / "history.json").write_text(index)
    shutil.rmtree(copy / "tables" / ".cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ingest.incremental, "new_files", lambda *_: None)
        ingest.ingest(copy)
    return History.read(copy)


def test_new_files_give_what_a_full_rebuild_gives(workspace: Path) -> None:
    ingest.ingest(workspace)
    (workspace / "sources" / "shop_2.csv").write_text(SHOP.replace("O1", "O7").replace("O3", "O8"))
    (workspace / "sources" / "web_2.jsonl").write_text(
        WEB.replace("null", '"ben@shop.es"').replace("2000,", "3000,").replace("200,", "300,")
    )
    index = (workspace / "tables" / "history.json").read_text()
    before = History.read(workspace)
    ingest.ingest(workspace)
    after = History.read(workspace)
    # Rows were added, none was written again.
    assert set(before.files["orders"]) < set(after.files["orders"])
    assert after.table("orders").num_rows == 4
    assert after.table("aliases").num_rows == 1
    anew = rebuilt(workspace, index)
    alike(after, anew)
    # Many that wait to be written anew are; those that were do not wait.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ingest.incremental, "MOST_PENDING", 0)
        found = [ingest._fresh(one, [], one.table("ingested")) for one in (after, anew)]
    assert found == [None, []]


def test_new_files_count_identifiers_of_a_kind_that_nobody_had_before(workspace: Path) -> None:
    toml = TOML.replace('= { email = "mail" }', '= { email = "mail", loyalty_card = "card" }')
    (workspace / "nba.toml").write_text(toml)
    head = SHOP.splitlines()[0] + ";card\n"
    (workspace / "sources" / "shop.csv").write_text(head + "O1;2026-01-01;1;1;ana@shop.es;\n")
    for old in workspace.glob("sources/shop_*.csv"):
        old.unlink()
    ingest.ingest(workspace)
    index = (workspace / "tables" / "history.json").read_text()
    rows = "O8;2026-01-09;1;1;ana@shop.es;LC9001\nO9;2026-01-09;1;1;zoe@shop.es;LC9002\n"
    (workspace / "sources" / "shop_9.csv").write_text(head + rows)
    ingest.ingest(workspace)
    after = History.read(workspace)
    assert len(after.files["orders"]) == 2
    told = {r["measure"]: r["value"] for r in after.table("quality").to_pylist() if r["source"] == "identity"}
    assert (told["identifiers_loyalty_card"], told["linked_loyalty_card"]) == (2.0, 0.5)
    alike(after, rebuilt(workspace, index))


def test_who_shares_an_identifier_is_told_and_new_files_meet_it_as_a_rebuild_does(workspace: Path) -> None:
    toml = TOML.replace('"mail" }\ncolumns = { order_id', '"mail", crm_id = "crm" }\ncolumns = { order_id')
    (workspace / "nba.toml").write_text(toml + "\n[identity]\nmax_customers = 2\nmax_identifiers = 4\n")
    head = SHOP.splitlines()[0] + ";crm\n"
    rows = [f"O{i};2026-01-02;1;1;mail{i}@shop.es;{'WEB' if i < 6 else 'guest'}" for i in range(8)]
    (workspace / "sources" / "shop.csv").write_text(head + "\n".join([*rows, "O8;2026-01-02;1;1;;WEB", ""]))
    login = '{{"cookie": "kiosk-1", "ts": "2026-01-0{}", "type": "view", "mail": "mail{}@shop.es"}}\n'
    (workspace / "sources" / "web.jsonl").write_text("".join(login.format(3, i) for i in range(3)))
    report = ingest.ingest(workspace)
    assert report.findings is not None
    worth = [r for r in report.findings.to_pylist() if r["status"] == "warning"]
    told = next(row for row in worth if row["check"] == "cut external")
    assert (told["value"], told["note"].endswith("nobody: WEB (6)")) == (1.0, True)
    assert "cookie" in {row["subject"] for row in worth if row["check"] == "cut"}
    history = History.read(workspace)
    assert history.table("orders").num_rows == 8
    assert len(set(history.table("orders")["customer_id"].to_pylist())) == 8
    assert history.table("quarantine")["reason"].to_pylist() == [
        "no identifier of its own: each is shared by too many customers"
    ]
    # A day later both are met again.
    (workspace / "sources" / "shop_2.csv").write_text(head + "P1;2026-01-05;1;1;zoe@shop.es;WEB\n")
    (workspace / "sources" / "web_2.jsonl").write_text(login.format(6, 5) + login.format(6, 0))
    index = (workspace / "tables" / "history.json").read_text()
    ingest.ingest(workspace)
    after = History.read(workspace)
    assert len(after.files["orders"]) == 2
    alike(after, rebuilt(workspace, index))


def test_a_look_back_sees_what_the_crm_told_then(workspace: Path) -> None:
    (workspace / "nba.toml").write_text(
        TOML.replace('can_email = "ok"', 'can_email = "ok", updated_at = "at"')
    )
    head = "id,mail,joined,ok,at\n"
    for month, told in (
        ("01", "C1,ana@shop.es,2025-01-01,yes,{}\nC2,,2025-01-01,yes,\n"),
        ("03", "C1,,2025-01-01,no,{}\n"),
    ):
        (workspace / "sources" / f"crm_2026-{month}.csv").write_text(head + told.format(f"2026-{month}-15"))
    (workspace / "sources" / "crm.csv").unlink()
    ingest.ingest(workspace)
    history = History.read(workspace)
    assert [r["since_at"].month for r in history.table("states").to_pylist()] == [1, 3]

    def allowed(*day: int) -> dict[str, bool]:
        with history.as_of(datetime(*day, tzinfo=UTC)) as snapshot:
            found = snapshot.sql("select external_id, can_email from customers where external_id is not null")
        return {row["external_id"]: row["can_email"] for row in found.to_pylist()}

    assert allowed(2025, 12, 31) == {"C1": False, "C2": True}
    assert allowed(2026, 2, 28) == {"C1": True, "C2": True}
    assert allowed(2026, 3, 16) == {"C1": False, "C2": True}
    now = {r["external_id"]: r["can_email"] for r in history.table("customers").to_pylist()}
    assert now[None] is False
    assert now["C1"] is False
    forget.forget(workspace, "ana@shop.es")
    assert History.read(workspace).n_rows("states") == 0


def test_a_link_that_the_crm_tells_later_is_seen_by_no_look_back_to_before(workspace: Path) -> None:
    (workspace / "nba.toml").write_text(
        TOML.replace('can_email = "ok"', 'can_email = "ok", updated_at = "at"')
    )
    head, shop = "id,mail,joined,ok,at\n", SHOP.splitlines()[0]
    (workspace / "sources" / "crm.csv").write_text(head + "C1,,2025-01-01,yes,2025-01-02\n")
    (workspace / "sources" / "shop.csv").write_text(f"{shop}\nO1;2026-01-05;10;3;ana@shop.es\n")
    (workspace / "sources" / "web.jsonl").write_text(WEB.splitlines()[0] + "\n")

    def february() -> dict[str, Any]:
        with History.read(workspace).as_of(datetime(2026, 2, 15, tzinfo=UTC)) as snapshot:
            rows = {name: snapshot.table(name).to_pylist() for name in ("orders", "identities")}
            people = snapshot.sql("select customer_id, joined_at, can_email from customers order by all")
        return {name: sorted(found, key=str) for name, found in rows.items()} | {"people": people.to_pylist()}

    ingest.ingest(workspace)
    before = february()
    told = "C1,ana@shop.es,2025-01-01,yes,2026-03-01\n"
    (workspace / "sources" / "crm_2026-03.csv").write_text(head + told)
    ingest.ingest(workspace)
    assert february() == before
    history = History.read(workspace)
    assert history.table("aliases").num_rows == 1
    with history.as_of(datetime(2026, 3, 2, tzinfo=UTC)) as snapshot:
        both = "select external_id, joined_at from customers semi join orders using (customer_id)"
        (row,) = snapshot.sql(both).to_pylist()
    assert (row["external_id"], row["joined_at"].year) == ("C1", 2024)  # 2025 begins in Madrid


NEWS = """
[[sources]]
name = "news"
table = "customers"
path = "sources/news.csv"
identifiers = { phone = "tel" }
columns = { joined_at = "joined", can_sms = "sms", a_wish = "wish" }
"""


def test_what_is_told_of_a_customer_outlives_its_merge(workspace: Path) -> None:
    toml = TOML.replace('cookie = "cookie"', 'phone = "tel", cookie = "cookie"')
    (workspace / "nba.toml").write_text(toml + NEWS)
    (workspace / "sources" / "news.csv").write_text("tel,joined,sms,wish\n600123456,2025-01-01,yes,tea\n")
    (workspace / "sources" / "web.jsonl").write_text(WEB.replace("}", ', "tel": null}'))
    ingest.ingest(workspace)
    # No CRM id goes away with the phone's customer, but consent and a wish are known of it.
    met = {"tel": "600123456", "mail": "ana@shop.es", "ts": "2026-01-09", "type": "view", "cookie": None}
    (workspace / "sources" / "web_2.jsonl").write_text(json.dumps(met) + "\n")
    index = (workspace / "tables" / "history.json").read_text()
    ingest.ingest(workspace)
    after = History.read(workspace)
    alike(after, rebuilt(workspace, index))
    ana = next(row for row in after.table("customers").to_pylist() if row["external_id"] == "C1")
    assert (ana["can_email"], ana["can_sms"], ana["a_wish"]) == (True, True, "tea")


@pytest.mark.parametrize(("since", "goes_on"), [("2024-06-01", "visitor"), ("2025-06-01", "ana")])
def test_decisions_and_arm_survive_whichever_of_two_customers_is_the_older(
    workspace: Path, since: str, goes_on: str
) -> None:
    visit = {"cookie": "ck-0009", "ts": since, "type": "view", "mail": None}
    (workspace / "sources" / "web_1.jsonl").write_text(json.dumps(visit) + "\n")
    ingest.ingest(workspace)
    history, at = History.read(workspace), datetime(2026, 2, 1, tzinfo=UTC)
    people = {
        "ana": "select customer_id as who from customers where external_id = 'C1'",
        "visitor": "select customer_id as who from events where occurred_at < date '2026-01-01'",
    }
    ids = {name: history.sql(query)["who"][0].as_py() for name, query in people.items()}
    decided = {
        "decision_id": "d1", "batch_id": "b1", "customer_id": ids["ana"], "treatment_id": "sale_email",
        "channel": "email", "decided_at": at, "p_action": 0.5, "policy_id": "p", "reason": "",
        "config_hash": "x", "valid_until": at, "experiment_id": "policy", "arm": "holdout",
    }  # fmt: skip
    assigned = {"experiment_id": "policy", "customer_id": ids["ana"], "arm": "holdout", "p_arm": 0.5}
    history.commit(
        append={
            "decisions": tables.DECISIONS.build([decided]),
            "assignments": tables.ASSIGNMENTS.build([{**assigned, "assigned_at": at}]),
        }
    )
    login = {"cookie": "ck-0009", "ts": "2026-02-09", "type": "view", "mail": "ana@shop.es"}
    (workspace / "sources" / "web_2.jsonl").write_text(json.dumps(login) + "\n")
    index = (workspace / "tables" / "history.json").read_text()
    ingest.ingest(workspace)
    for after in (History.read(workspace), rebuilt(workspace, index)):
        kept = ids[goes_on]
        told = [(r["alias_id"], r["customer_id"]) for r in after.table("aliases").to_pylist()]
        assert told == [(who, kept) for name, who in ids.items() if name != goes_on]
        with after.as_of(datetime(2026, 3, 1, tzinfo=UTC)) as snapshot:
            assert snapshot.sql(
                "select external_id as e from customers where customer_id = $id", {"id": kept}
            )["e"].to_pylist() == ["C1"]
            for name in ("decisions", "assignments"):
                rows = snapshot.table(name).to_pylist()
                assert [(row["customer_id"], row["arm"]) for row in rows] == [(kept, "holdout")]


def test_corrected_rows_and_changed_files_rebuild(workspace: Path) -> None:
    ingest.ingest(workspace)
    (workspace / "sources" / "shop_2.csv").write_text(SHOP.replace("10,50", "99"))
    ingest.ingest(workspace)
    history = History.read(workspace)
    assert len(history.files["orders"]) == 1
    assert sorted(history.table("orders")["revenue"].to_pylist()) == [-4.5, 99.0]
    (workspace / "sources" / "shop_2.csv").unlink()
    report = ingest.ingest(workspace)
    assert sorted(History.read(workspace).table("orders")["revenue"].to_pylist()) == [-4.5, 10.5]
    # A file that goes takes its rows with it, and that is told; one that gets another name does not.
    assert report.findings is not None
    (gone,) = [row for row in report.findings.to_pylist() if row["check"] == "files gone"]
    assert (gone["subject"], gone["value"], gone["status"]) == ("shop", 1.0, "warning")
    assert "sources/shop_2.csv (3 rows)" in gone["note"]
    (workspace / "sources" / "shop.csv").rename(workspace / "sources" / "shop_3.csv")
    report = ingest.ingest(workspace)
    assert report.findings is not None
    assert "files gone" not in report.findings["check"].to_pylist()


_ROW = st.tuples(st.sampled_from(["shop", "web"]), st.integers(0, 4), st.integers(0, 4), st.integers(1, 28))


@hypothesis(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(_ROW, min_size=1, max_size=6), min_size=2, max_size=3))
def test_days_added_one_by_one_equal_a_rebuild(tmp_path_factory: Any, days: list[list[Any]]) -> None:
    workspace = tmp_path_factory.mktemp("days")
    (workspace / "sources").mkdir()
    toml = TOML.replace('margin = "margin"', 'margin = "margin", known_at = "loaded"')
    toml = toml.replace('= { email = "mail" }', '= { email = "mail", loyalty_card = "card" }')
    (workspace / "nba.toml").write_text(toml + "\n[identity]\nmax_customers = 2\n")
    (workspace / ".salt").write_text(SALT)
    people = "".join(f"C{i},mail{i % 4}@shop.es,2025-01-01,yes\n" for i in range(5))
    (workspace / "sources" / "crm.csv").write_text(CRM.splitlines()[0] + "\n" + people)
    for n, day in enumerate(days):
        shop = [
            f"O{n}-{i // 2};2026-01-{d:02d};{c};1;mail{p}@shop.es;2026-02-{d + i % 3:02d};"
            for i, (s, p, c, d) in enumerate(day)
            if s == "shop"
        ]
        if n == len(days) - 1:  # identifiers of a kind that nobody had before
            shop += [f"O9-{i};2026-01-09;1;1;mail{i}@shop.es;;LC900{i}" for i in (0, 9)]
        web = [
            json.dumps({"cookie": f"ck-000{c}", "ts": f"2026-01-{d:02d}", "type": "view",
                        "mail": f"mail{p}@shop.es" if p < 4 else None})
            for s, p, c, d in day if s == "web"
        ]  # fmt: skip
        (workspace / "sources" / f"shop{n}.csv").write_text(
            "\n".join([SHOP.splitlines()[0] + ";loaded;card", *shop, ""])
        )
        (workspace / "sources" / f"web{n}.jsonl").write_text("\n".join([*web, WEB.splitlines()[0], ""]))
        index = (workspace / "tables" / "history.json").read_text() if n else ""
        ingest.ingest(workspace)
    alike(History.read(workspace), rebuilt(workspace, index))


def test_staged_files_are_swept_when_their_source_goes(workspace: Path) -> None:
    extra = workspace / "sources" / "shop_2.csv"
    extra.write_text(SHOP.replace("O1", "O7"))
    ingest.ingest(workspace)
    extra.unlink()
    ingest.ingest(workspace)
    assert len(list((workspace / "tables" / ".cache").glob("*"))) == 3


def test_changed_settings_are_not_served_from_staged_files(workspace: Path) -> None:
    ingest.ingest(workspace)
    (workspace / "nba.toml").write_text(TOML.replace("Europe/Madrid", "UTC"))
    before = History.read(workspace).table("orders")["ordered_at"]
    ingest.ingest(workspace)
    after = History.read(workspace).table("orders")["ordered_at"]
    assert pc.min(after).as_py().hour == 0
    assert pc.min(before).as_py().hour == 23


def test_personal_data_stays_in_the_raw_files(workspace: Path) -> None:
    ingest.ingest(workspace)
    kept = [path for path in (workspace / "tables").rglob("*") if path.is_file()]
    assert kept
    for path in kept:
        data = path.read_bytes() if path.suffix != ".parquet" else _text(path)
        assert b"shop.es" not in data
        assert b"ck-000" not in data


def _text(path: Path) -> bytes:
    import pyarrow.parquet as pq

    return json.dumps(pq.ParquetFile(path).read().to_pylist(), default=str).encode()


def test_ctrl_c_leaves_the_tables_as_they_were(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest.ingest(workspace)
    before = files(workspace)
    (workspace / "sources" / "shop_2.csv").write_text(SHOP.replace("O1", "O7"))

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    for module, name in (
        (staging, "_part"),
        (staging.sources, "_refuse_utf8_as_latin"),
        (unify.quality, "measure"),
        (unify.identity, "resolve"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, interrupted)
            with pytest.raises(KeyboardInterrupt):
                ingest.ingest(workspace)
        assert files(workspace) == before
    (workspace / "sources" / "shop_3.csv").write_text(SHOP.replace("O1", "O9"))
    with monkeypatch.context() as patch:
        # Within the reading of rows, where DuckDB calls back.
        patch.setattr(staging.sources.np, "isin", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ingest.ingest(workspace)
    assert files(workspace) == before
    assert ingest.ingest(workspace).version == 2


def test_faults_of_all_sources_come_as_one_error_and_nothing_is_written(workspace: Path) -> None:
    (workspace / "sources" / "crm.csv").write_text(CRM.replace("mail", "e-mail"))
    (workspace / "sources" / "shop.csv").write_bytes(SHOP.replace("O1", "Ñ1").encode("latin-1"))
    (workspace / "sources" / "web.jsonl").unlink()
    with pytest.raises(NbaError) as error:
        ingest.ingest(workspace)
    for text in (
        "source 'crm': sources/crm.csv has no column 'mail' (did you mean 'e-mail'?); found ['id', 'e-mail'",
        "source 'shop': sources/shop.csv is not in encoding utf-8",
        "source 'web': no file 'sources/web*.jsonl'",
        "nothing was written",
    ):
        assert text in str(error.value)
    assert files(workspace) == {}


def test_half_the_rows_bad_stop_the_run(workspace: Path) -> None:
    path = workspace / "sources" / "shop.csv"
    path.write_text(SHOP + "O4;2026-01-01;?;1;a@shop.es\nO5;2026-01-01;?;1;a@shop.es\n")
    with pytest.raises(NbaError, match=r"3 of 5 rows cannot be used, more than max_bad_share = 0\.5 allows"):
        ingest.ingest(workspace)
    told = {row["source"]: row["findings"] for row in ingest.check(workspace).to_pylist()}["shop"]
    assert told.startswith("FAULT: 3 of 5 rows cannot be used")
    assert told.count("revenue: not a number") == 1
    with pytest.raises(NbaError, match="sources that cannot be used: shop"):
        commands.ingest(workspace, check=True)
    path.write_text(SHOP)
    commands.ingest(workspace, check=True)


def test_what_a_killed_run_left_is_swept_and_what_another_makes_stays(workspace: Path) -> None:
    folder = workspace / "tables"
    for run in (lambda: ingest.ingest(workspace), lambda: forget.forget(workspace, "ben@shop.es")):
        with_lock = folder / f"{ingest.NEW}killed"
        (with_lock / "spill").mkdir(parents=True)
        (with_lock / "spill" / "part").write_bytes(b"x")
        (folder / f"{ingest.NEW}killed.lock").touch()
        other = Spill(folder, ingest.NEW)
        other.path.mkdir()
        run()
        assert other.path.is_dir()
        other.close()
        assert not list(folder.glob(f"{ingest.NEW}*"))


def test_a_killed_ingest_leaves_what_the_next_one_knows_as_left(workspace: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(workspace)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [path for path in (workspace / "tables").glob(f"{ingest.NEW}*") if path.is_dir()]
    ingest.ingest(workspace)
    assert not list((workspace / "tables").glob(f"{ingest.NEW}*"))


def test_settings_faults_name_the_key(workspace: Path) -> None:
    (workspace / "nba.toml").write_text(TOML.replace('path = "sources/crm*.csv"\n', ""))
    with pytest.raises(SettingsError, match=r"sources.0: .*path missing"):
        ingest.ingest(workspace)
    (workspace / "nba.toml").unlink()
    with pytest.raises(MissingError):
        ingest.ingest(workspace)


def test_another_salt_is_noticed_before_every_id_changes(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest.ingest(workspace)
    monkeypatch.setenv("NBA_SALT", "quite another salt than before")
    with pytest.raises(SettingsError, match="nobody would be recognised"):
        ingest.ingest(workspace)


def test_check_tells_what_sources_would_give_and_writes_nothing(workspace: Path) -> None:
    (workspace / "sources" / "crm.csv").unlink()
    rows = {row["source"]: row for row in ingest.check(workspace).to_pylist()}
    assert rows["crm"]["findings"].startswith("FAULT: no file 'sources/crm*.csv'")
    assert (rows["shop"]["rows"], rows["shop"]["quarantined"]) == (3, 1)
    assert rows["shop"]["findings"] == "1 row: revenue: not a number"
    assert rows["web"]["findings"] == "fine"
    assert {path.name for path in workspace.iterdir()} == {"nba.toml", "sources"}


# recovery


@pytest.mark.parametrize(("noise", "precision", "recall"), [(1.0, 0.998, 0.98), (3.0, 0.995, 0.98)])
def test_the_simulated_people_are_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noise: float, precision: float, recall: float
) -> None:
    # The figures of a larger world, and their targets, are in the benchmarks.
    monkeypatch.setenv("NBA_SALT", SALT)
    world = World.create(800, 1, n_batches=2, noise=noise)
    world.write_workspace(tmp_path / "world")
    ingest.ingest(tmp_path / "world")
    found = History.read(tmp_path / "world").table("identities")
    judged = judge(found, world.people(), SALT, tmp_path / "world" / "tables" / ".cache")
    assert judged.n_identifiers > 3000
    assert judged.precision >= precision
    assert judged.recall >= recall
    # What nothing connects, such as cookies that never logged in, is told apart.
    assert 0 < judged.n_alone < 0.1 * judged.n_identifiers
    assert judged.recall_all < judged.recall


# reference


@pytest.fixture(scope="module")
def retail(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("retail")
    text = (EXAMPLE / "nba.toml").read_text()
    (folder / "nba.toml").write_text(text)
    ingest.ingest(folder, data=RETAIL)
    return folder


@needs_retail
@pytest.mark.data
def test_online_retail_gives_the_known_numbers(retail: Path) -> None:
    orders = History.read(retail).table("orders")
    assert History.read(retail).table("customers").num_rows == 4372
    assert (orders.num_rows, pc.sum(orders["is_return"]).as_py()) == (22_190, 3_654)
    assert pc.sum(orders["revenue"]).as_py() == pytest.approx(8_300_065.81, abs=0.01)
    found = {
        row["measure"]: row["value"]
        for row in History.read(retail).table("quality").to_pylist()
        if row["source"] == "invoices"
    }
    assert [found[k] for k in ("rows_in", "rows_kept", "quarantined")] == [541_909, 406_829, 135_080]


@needs_retail
@pytest.mark.data
def test_every_line_of_online_retail_is_read(tmp_path: Path) -> None:
    # Identified by their invoices, no line is without an identifier; stock lost has negative quantities.
    head, source, _ = (EXAMPLE / "nba.toml").read_text().split("[[sources]]")
    source = source.replace('n_items = "Quantity"', "")
    text = head + "[[sources]]" + source.replace('{ crm_id = "CustomerID" }', '{ crm_id = "InvoiceNo" }')
    (tmp_path / "nba.toml").write_text(text)
    ingest.ingest(tmp_path, data=RETAIL.parent)
    history = History.read(tmp_path)
    assert history.table("orders").num_rows == 25_900
    assert history.table("quarantine").num_rows == 0
    assert pc.sum(history.table("orders")["revenue"]).as_py() == pytest.approx(9_747_747.93, abs=0.01)


def test_the_example_has_a_catalog_that_fits() -> None:
    catalog = settings.read_catalog(EXAMPLE, settings.read(EXAMPLE))
    assert catalog.treatment_ids == ("none", "reorder_email")


# quality


def test_check_says_how_many_reasons_it_leaves_out(workspace: Path) -> None:
    found = ingest.staging.reasons
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ingest.staging, "reasons", lambda one: found(one) + [(f"why {i}", 1) for i in range(7)])
        rows = {row["source"]: row["findings"] for row in ingest.check(workspace).to_pylist()}
    assert rows["web"].endswith("why 4; and 2 more reasons")
    assert "more" not in ingest.check(workspace)["findings"].to_pylist()[2]


def test_thresholds_stop_a_run_before_anything_is_written(workspace: Path) -> None:
    ingest.ingest(workspace)
    before = files(workspace)
    page = (workspace / "quality.html").read_text()
    assert "Quality of test" in page
    (workspace / "nba.toml").write_text(TOML + "\n[quality]\nquarantined = { warn = 0.1, stop = 0.3 }\n")
    (workspace / "sources" / "shop_2.csv").write_text(SHOP.replace("O1", "O7").replace("O3", "O8"))
    with pytest.raises(NbaError, match=r"quarantined of shop is 0.3333; 0.3 stops"):
        ingest.ingest(workspace)
    assert files(workspace) == before
    assert (workspace / "quality.html").read_text() == page
    (workspace / "nba.toml").write_text(TOML + "\n[quality]\nquarantined = { warn = 0.3 }\n")
    found = ingest.ingest(workspace).findings
    assert found is not None
    statuses = {(row["check"], row["subject"]): row["status"] for row in found.to_pylist()}
    assert statuses["quarantined", "shop"] == "warning"
    assert statuses["quarantined", "web"] == "ok"


def test_sources_that_run_dry_are_noticed_though_nothing_is_new(workspace: Path) -> None:
    (workspace / "nba.toml").write_text(TOML + "\n[quality]\nstale = { warn = 5, stop = 30 }\n")
    ingest.ingest(workspace, at=datetime(2026, 1, 3, tzinfo=UTC))
    before = files(workspace)
    report = ingest.ingest(workspace, at=datetime(2026, 1, 9, tzinfo=UTC))
    assert not report.is_changed
    assert report.findings is not None
    stale = {
        row["subject"]: row["status"] for row in report.findings.to_pylist() if row["check"] == "stale days"
    }
    assert stale == {"orders": "warning", "events": "ok"}
    with pytest.raises(NbaError, match=r"stale days of orders is 38\.04; 30 stops"):
        ingest.ingest(workspace, at=datetime(2026, 2, 9, tzinfo=UTC))
    assert files(workspace) == before
