"""Answers of orchestration: files or tables laid down in `docs/delivery.md`, from a consumer without nba."""

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jsonschema
import psycopg
import pyarrow.compute as pc
import pytest

from nba import tables
from nba.errors import DataError
from nba.history import History
from nba.serving import contract, delivery, sinks
from nba.settings import Sink, Source
from pipelines import feedback, ingest

AT = datetime(2026, 3, 2, 6, tzinfo=UTC)
N = 40
TOML = """
[workspace]
name = "shop"
[reward]
window_days = 7
[[sources]]
name = "crm"
table = "customers"
path = "crm.csv"
identifiers = { crm_id = "id" }
columns = { joined_at = "joined" }
[[sources]]
name = "web"
table = "events"
path = "web.csv"
identifiers = { crm_id = "id" }
columns = { occurred_at = "at" }
constants = { kind = "visit" }
"""
FILES = """
[[sources]]
name = "activations"
feedback = "activations"
path = "feedback/*/activations.jsonl"
format = "jsonl"
optional = true
[[sources]]
name = "engagements"
feedback = "engagements"
path = "feedback/*/engagements.jsonl"
format = "jsonl"
optional = true
[[sources]]
name = "conversions"
feedback = "conversions"
path = "feedback/*/conversions.csv"
margin_share = 0.5
optional = true
"""
# From docs/delivery.md: every contact is delivered but each fourth, each third is clicked, each fifth buys.
CONSUMER = """
import csv, hashlib, json, sys
from datetime import timedelta
from pathlib import Path
import pyarrow.parquet as pq

batch, out = Path(sys.argv[1]), Path(sys.argv[2])
manifest = json.loads((batch / "manifest.json").read_text())
activations, engagements, conversions = [], [], []
for name in sorted(manifest["files"]):
    contacts = [row for row in pq.read_table(batch / name).to_pylist() if row["treatment_id"] != "none"]
    for i, row in enumerate(contacts):
        about = {name: row[name] for name in ("external_id", "decision_id", "channel")}
        at = lambda hours: (row["decided_at"] + timedelta(hours=hours)).isoformat()
        kind = "failed" if i % 4 == 3 else "delivered"
        key = row["decision_id"]
        activations.append({"touch_id": f"{key}-a", "touched_at": at(1), "kind": kind, "cost": 0.3, **about})
        if kind == "delivered" and i % 3 == 0:
            engagements.append({"touch_id": f"{key}-e", "touched_at": at(2), "kind": "clicked", **about})
        if i % 5 == 0:
            order = {"order_id": f"o{i}", "external_id": row["external_id"], "ordered_at": at(30)}
            conversions.append(order | {"revenue": 20, "margin": "", "n_items": 1, "is_return": "false"})
out.mkdir(parents=True)
for name, rows in (("activations", activations), ("engagements", engagements)):
    (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
with (out / "conversions.csv").open("w", newline="") as file:
    writer = csv.DictWriter(file, conversions[0])
    writer.writeheader()
    writer.writerows(conversions)
counts = {"activations.jsonl": activations, "engagements.jsonl": engagements, "conversions.csv": conversions}
files = {name: {"rows": len(rows), "sha256": hashlib.sha256((out / name).read_bytes()).hexdigest()}
         for name, rows in counts.items()}
(out / "manifest.json").write_text(json.dumps({"schema": "nba.feedback/1", "files": files}))
"""


def day(days: float) -> datetime:
    return AT + timedelta(days=days)


@pytest.fixture
def shop(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "shop"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A workspace whose forty customers got a batch of decisions: each second a mail, the others nothing."""
    root = tmp_path_factory.mktemp("answers") / "shop"
    (root / "catalog").mkdir(parents=True)
    (root / "nba.toml").write_text(TOML + FILES)
    (root / "catalog/actions.csv").write_text("action_id,issue,group,name,margin,lever\nsale,s,s,Sale,20,1\n")
    (root / "catalog/treatments.csv").write_text(
        "treatment_id,action_id,channel,cost,cooldown_days\nmail,sale,email,0.1,0\n"
    )
    (root / "crm.csv").write_text("id,joined\n" + "".join(f"x{i:02d},2026-01-01\n" for i in range(N)))
    # Something is known of later days, so that windows close.
    (root / "web.csv").write_text("id,at\n" + "".join(f"x00,{day(d):%Y-%m-%d}\n" for d in range(0, 31, 5)))
    ingest.ingest(root)
    known = History.read(root).table("customers").sort_by("external_id").to_pylist()
    decisions = tables.DECISIONS.build(
        {"decision_id": f"b1.{i:02d}", "batch_id": "b1", "customer_id": row["customer_id"]}
        | {"external_id": row["external_id"], "treatment_id": "none" if i % 2 else "mail"}
        | {"channel": "none" if i % 2 else "email", "decided_at": AT, "p_action": 0.5, "policy_id": "p"}
        | {"reason": "best", "config_hash": "c", "valid_until": day(7), "arm": "policy", "p_arm": 1.0}
        for i, row in enumerate(known)
    )
    History.read(root).commit(append={"decisions": decisions})
    writer = delivery.Writer(root / "decisions", "b1")
    writer.write(decisions)
    delivery.publish(writer.close(delivery.Head("b1", AT, AT, day(7), "c", {}, {}, [], {})))
    return root


def consume(root):
    code = f"import sys; sys.modules['nba'] = None\n{CONSUMER}"
    command = [sys.executable, "-c", code, str(root / "decisions/batch_id=b1"), str(root / "feedback/b1")]
    subprocess.run(command, check=True)
    return root / "feedback/b1"


def closed(root):
    return {row["decision_id"]: row for row in History.read(root).table("outcomes").to_pylist()}


# by hand


def test_a_consumer_of_forty_lines_answers_and_its_answers_become_outcomes(shop):
    assert len(CONSUMER.strip().splitlines()) <= 40
    folder = consume(shop)
    ingest.ingest(shop)
    report = feedback.feedback(shop, day(8))
    assert (report.n_closed, report.faults) == (N, [])
    found = closed(shop)
    mails = [found[f"b1.{2 * i:02d}"] for i in range(N // 2)]
    assert [row["is_delivered"] for row in mails] == [i % 4 != 3 for i in range(N // 2)]
    assert [row["is_click"] for row in mails] == [i % 4 != 3 and i % 3 == 0 for i in range(N // 2)]
    assert [row["is_response"] for row in mails] == [i % 5 == 0 for i in range(N // 2)]
    assert mails[0]["margin"] == pytest.approx(10.0)
    assert {row["cost"] for row in mails} == {0.3}
    schemas = contract.schemas()
    jsonschema.validate(json.loads((folder / "manifest.json").read_text()), schemas["feedback.v1.json"])
    for name in ("activations", "engagements"):
        for line in (folder / f"{name}.jsonl").read_text().splitlines():
            jsonschema.validate(json.loads(line), schemas[f"{name}.v1.json"])


def test_answers_that_come_again_late_or_of_nobody_do_no_harm(shop):
    folder = consume(shop)
    ingest.ingest(shop)
    feedback.feedback(shop, day(8))
    before = closed(shop)
    row = json.loads((folder / "activations.jsonl").read_text().splitlines()[0])
    late = {**row, "touch_id": "late", "decision_id": "b1.06", "external_id": "x06"}
    strange = {**row, "touch_id": "strange", "decision_id": "b7.00"}
    foreign = {**row, "touch_id": "foreign", "decision_id": "b1.02"}
    clicked = {**row, "touch_id": "wrong", "kind": "clicked"}
    click = {**late, "kind": "clicked", "touched_at": day(3).isoformat()}
    del click["cost"]
    more = shop / "feedback/b2"
    more.mkdir()
    lines = "".join(json.dumps(one) + "\n" for one in (row, strange, foreign, clicked))
    (more / "activations.jsonl").write_text(lines)
    (more / "engagements.jsonl").write_text(
        json.dumps({k: v for k, v in click.items() if k != "cost"}) + "\n"
    )
    ingest.ingest(shop)
    report = feedback.feedback(shop, day(9))
    assert (report.n_closed, report.n_corrected) == (0, 1)
    assert closed(shop) == before
    history = History.read(shop)
    assert history.table("corrections").select(["decision_id", "is_click"]).to_pylist() == [
        {"decision_id": "b1.06", "is_click": True}
    ]
    assert {row["touch_id"]: row["reason"] for row in history.table("feedback_faults").to_pylist()} == {
        "strange": "its decision is not known",
        "foreign": "its decision is another customer's",
    }
    assert history.table("quarantine").select(["source", "reason"]).to_pylist() == [
        {"source": "activations", "reason": "kind: not among sent, delivered, failed, refused"}
    ]
    assert pc.sum(pc.equal(history.table("touches")["touch_id"], row["touch_id"])).as_py() == 1
    assert not ingest.ingest(shop).is_changed
    assert feedback.feedback(shop, day(9)).n_corrected == 0


def test_half_a_delivery_is_refused_and_the_whole_is_taken(shop):
    folder = consume(shop)
    text = (folder / "activations.jsonl").read_text()
    version = History.read(shop).version

    def refused(match):
        with pytest.raises(DataError, match=match):
            ingest.ingest(shop)
        assert History.read(shop).version == version

    lines = text.splitlines(keepends=True)
    (folder / "activations.jsonl").write_text("".join(lines[:-1]))
    refused(r"source 'activations': feedback/b1/activations.jsonl has sha256 .*; its manifest.json says")
    (folder / "activations.jsonl").unlink()
    refused(r"b1/activations.jsonl is missing; its manifest.json lists it")
    (folder / "activations.jsonl").write_text(text)
    manifest = json.loads((folder / "manifest.json").read_text())
    said = manifest["files"]["activations.jsonl"]
    for wrong, match in (
        ({**manifest, "schema": "nba.feedback/9"}, "schema is 'nba.feedback/9'; expected 'nba.feedback/1'"),
        ({**manifest, "files": []}, r"'files' is \[\]"),
        ({**manifest, "files": {"activations.jsonl": {}}}, "needs 'rows' and 'sha256'"),
        ({**manifest, "files": {"activations.jsonl": {**said, "rows": 3}}}, "holds 20 rows; its .* says 3"),
    ):
        (folder / "manifest.json").write_text(json.dumps(wrong))
        refused(match)
    (folder / "manifest.json").write_text("{")
    refused("not valid JSON")
    # Without a manifest each file stands for itself.
    (folder / "manifest.json").unlink()
    assert ingest.ingest(shop).is_changed


def test_what_is_laid_down_fills_a_source():
    own = Source(name="a", feedback="engagements", path="x", columns={"known_at": "told_at"})
    assert (own.table, own.identifiers) == ("touches", {"crm_id": "external_id"})
    assert own.columns["kind"] == "kind"
    assert own.columns["known_at"] == "told_at"
    with pytest.raises(ValueError, match="conversions join the table 'orders', not 'touches'"):
        Source(name="a", feedback="conversions", path="x", table="touches")


# PostgreSQL


def test_answers_may_be_tables_of_a_database(shop, postgres):
    folder = shop / "decisions/batch_id=b1"
    sinks.send(folder, Sink(name="crm", kind="sql", target=postgres, table="answered"))
    toml = "".join(
        f'[[sources]]\nname = "{name}"\nfeedback = "{name}"\nformat = "sql"\nurl = "{postgres}"\n'
        f'query = "{name}"\n'
        for name in ("activations", "engagements", "conversions")
    )
    (shop / "nba.toml").write_text(TOML + toml)
    with psycopg.connect(postgres, autocommit=True) as there:
        # A consumer in SQL: it answers each contact of the table that the sink filled.
        there.execute(
            "create table activations as select decision_id || '-a' as touch_id, decision_id, external_id,"
            " decided_at + interval '1 hour' as touched_at, channel, 'delivered' as kind, 0.2 as cost"
            " from answered where treatment_id <> 'none';"
            "create table engagements as select touch_id || 'e' as touch_id, decision_id, external_id,"
            " touched_at, channel, 'clicked' as kind from activations where external_id < 'x10';"
            "create table conversions as select 'o' || decision_id as order_id, external_id,"
            " decided_at + interval '2 days' as ordered_at, 20.0 as revenue, 8.0 as margin, 1 as n_items,"
            " false as is_return from answered where external_id = 'x00'"
        )
        try:
            ingest.ingest(shop)
            assert feedback.feedback(shop, day(8)).n_closed == N
            found = closed(shop)
            assert sum(row["is_click"] for row in found.values()) == 5
            assert [name for name, row in found.items() if row["is_response"]] == ["b1.00"]
            assert found["b1.00"]["reward"] == pytest.approx(8.0 - 0.2)
            assert not ingest.ingest(shop).is_changed
            # A row that is added late is taken up; the others stay as they are.
            there.execute(
                "insert into engagements select 'new', 'b1.20', 'x20', %s, 'email', 'clicked'", (day(4),)
            )
            ingest.ingest(shop)
            assert feedback.feedback(shop, day(9)).n_corrected == 1
        finally:
            there.execute("drop table activations, engagements, conversions, answered, answered_batches")
