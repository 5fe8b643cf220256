"""Batches in folders, in a real PostgreSQL, and through a hook of one's own."""

import json
import shutil
import threading
import time

import psycopg
import pyarrow.parquet as pq
import pytest

from nba.errors import DataError, NbaError, SettingsError
from nba.serving import delivery, sinks
from nba.settings import Sink

# A hook of one's own: 30 lines, of which a queue or a vendor's API takes the place of the file.
_HOOK = '''
import json
from pathlib import Path

import pyarrow.parquet as pq

OUT = Path(__file__).parent / "sent.jsonl"
SEEN = Path(__file__).parent / "seen.json"


def send(folder, manifest):
    """Append each contact of the batch once, whatever happens."""
    seen = set(json.loads(SEEN.read_text())) if SEEN.is_file() else set()
    there = 0
    with OUT.open("a") as out:
        for name in sorted(manifest["files"]):
            if not name.endswith(".parquet"):
                continue
            for batch in pq.ParquetFile(folder / name).iter_batches(10_000):
                for row in batch.to_pylist():
                    there += 1
                    key = row[manifest["idempotency_key"]]
                    if row["treatment_id"] == "none" or key in seen:
                        continue
                    out.write(json.dumps({"to": row["external_id"], "what": row["treatment_id"]}) + "\\n")
                    seen.add(key)
    SEEN.write_text(json.dumps(sorted(seen)))
    return there
'''


@pytest.fixture
def folder(batch, tmp_path):
    return delivery.deliver(batch, tmp_path / "batches")


# by hand


def test_a_folder_gets_the_batch_once_and_its_manifest_last(folder, tmp_path):
    sink = Sink(name="lake", kind="folder", target=f"file://{tmp_path}/lake")
    assert sinks.send(folder, sink) == 400
    there = tmp_path / "lake" / folder.name
    delivery.verify(there)
    before = {path.name: path.stat().st_mtime_ns for path in there.iterdir()}
    assert sinks.send(folder, sink) == 400
    assert {path.name: path.stat().st_mtime_ns for path in there.iterdir()} == before
    (there / "manifest.json").unlink()
    (there / "part-00000.parquet").write_bytes(b"half of it")
    sinks.send(folder, sink)
    delivery.verify(there)


def test_an_object_store_is_a_url(folder):
    import fsspec

    target = "memory://bucket/decisions"
    assert sinks.send(folder, Sink(name="store", kind="folder", target=target)) == 400
    system = fsspec.filesystem("memory")
    manifest = json.loads(system.cat_file(f"/bucket/decisions/{folder.name}/manifest.json"))
    assert manifest == delivery.read_manifest(folder)
    manifest["notes"] = ["another"]
    system.pipe_file(f"/bucket/decisions/{folder.name}/manifest.json", json.dumps(manifest).encode())
    with pytest.raises(DataError, match="holds another batch 'b1'"):
        sinks.send(folder, Sink(name="store", kind="folder", target=target))


def test_a_hook_of_ones_own(folder, tmp_path, monkeypatch):
    package = tmp_path / "modules"
    package.mkdir()
    (package / "hook_of_tests.py").write_text(_HOOK)
    monkeypatch.syspath_prepend(str(package))
    assert len(_HOOK.strip().splitlines()) <= 30
    sink = Sink(name="own", kind="hook", target="hook_of_tests:send")
    assert sinks.send(folder, sink) == sinks.send(folder, sink) == 400
    sent = (package / "sent.jsonl").read_text().splitlines()
    assert len(sent) == delivery.read_manifest(folder)["n_contacts"]
    with pytest.raises(SettingsError, match="cannot be found"):
        sinks.send(folder, sink.model_copy(update={"target": "hook_of_tests:absent"}))


def test_an_unsound_batch_is_not_sent(folder, tmp_path):
    (folder / "part-00000.parquet").write_bytes(b"")
    with pytest.raises(DataError, match="sha256"):
        sinks.send(folder, Sink(name="lake", kind="folder", target=str(tmp_path / "lake")))
    assert not (tmp_path / "lake").exists()


# PostgreSQL


@pytest.fixture
def database(postgres):
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("drop table if exists nba_decisions, nba_decisions_batches")
        yield connection


def counted(database, table="nba_decisions"):
    return database.execute(f"select count(*) from {table}").fetchone()[0]


def test_a_database_gets_every_row_as_it_is(folder, batch, database, postgres):
    sink = Sink(name="crm", kind="sql", target=postgres)
    assert sinks.send(folder, sink) == sinks.send(folder, sink) == 400 == counted(database)
    names = ", ".join(batch.decisions.column_names)
    there = database.execute(f"select {names} from nba_decisions order by decision_id").fetchall()
    own = batch.decisions.sort_by("decision_id").to_pylist()
    assert [list(row) for row in there] == [list(row.values()) for row in own]
    manifest = database.execute("select manifest from nba_decisions_batches").fetchall()
    assert manifest == [(delivery.read_manifest(folder),)]


def test_rows_that_are_there_without_a_manifest_are_left_and_the_others_come(
    folder, database, postgres, monkeypatch
):
    sink = Sink(name="crm", kind="sql", target=postgres)
    sinks.send(folder, sink)
    database.execute("delete from nba_decisions_batches")
    database.execute("update nba_decisions set reason = 'kept' where arm = 'holdout'")
    database.execute("delete from nba_decisions where arm = 'policy'")
    kept = database.execute("select count(*) from nba_decisions where reason = 'kept'").fetchone()
    assert kept[0] > 10
    assert sinks.send(folder, sink) == 400 == counted(database)
    assert database.execute("select count(*) from nba_decisions where reason = 'kept'").fetchone() == kept
    # What a consumer takes out of the table after the batch has come does not come back.
    database.execute("delete from nba_decisions where arm = 'policy'")
    left = counted(database)
    monkeypatch.setattr(sinks, "_copied", None)
    assert sinks.send(folder, sink) == 400
    assert counted(database) == left


def test_another_batch_of_the_same_name_is_refused_whole(folder, batch, database, postgres, tmp_path):
    import dataclasses

    sink = Sink(name="crm", kind="sql", target=postgres)
    sinks.send(folder, sink)
    other = dataclasses.replace(batch, decisions=batch.decisions.slice(1))
    with pytest.raises(DataError, match="holds another batch"):
        sinks.send(delivery.deliver(other, tmp_path / "other"), sink)
    assert counted(database) == 400


def test_odd_texts_arrive_unchanged(batch, database, postgres, tmp_path):
    import dataclasses

    import pyarrow as pa

    odd = ["tab\there", "line\nbreak", "back\\slash", "\\N", "ü€🙂", "", '"quoted"', "cr\rhere"]
    reasons = pa.array([odd[i % len(odd)] for i in range(400)])
    at = batch.decisions.column_names.index("reason")
    own = dataclasses.replace(batch, decisions=batch.decisions.set_column(at, "reason", reasons))
    sinks.send(delivery.deliver(own, tmp_path / "odd"), Sink(name="crm", kind="sql", target=postgres))
    there = database.execute("select decision_id, reason from nba_decisions").fetchall()
    keys = own.decisions["decision_id"].to_pylist()
    assert dict(there) == dict(zip(keys, reasons.to_pylist()))


# faults


def test_a_database_that_goes_in_the_middle_keeps_nothing(folder, database, postgres, monkeypatch):
    import psycopg

    sink = Sink(name="crm", kind="sql", target=postgres)
    ready, going = threading.Event(), threading.Event()
    plain = sinks._copied

    def slow(*args):
        for text in plain(*args):
            yield text[: len(text) // 2]
            ready.set()
            going.wait(10)
            yield text[len(text) // 2 :]

    def cut():
        ready.wait(10)
        with psycopg.connect(postgres, autocommit=True) as other:
            other.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where pid <> pg_backend_pid() and query ilike 'copy %'"
            )
        time.sleep(0.2)
        going.set()

    breaker = threading.Thread(target=cut)
    breaker.start()
    with monkeypatch.context() as patch:
        patch.setattr(sinks, "_copied", slow)
        with pytest.raises(NbaError, match="did not take batch 'b1'") as error:
            sinks.send(folder, sink)
    breaker.join()
    assert "run the same command again" in error.value.hint
    assert database.execute("select to_regclass('nba_decisions')").fetchone() == (None,)
    assert sinks.send(folder, sink) == 400 == counted(database)


def test_a_database_that_is_not_there_is_named(folder):
    sink = Sink(name="crm", kind="sql", target="postgresql://nba@127.0.0.1:1/nothing")
    with pytest.raises(NbaError, match="the database did not take"):
        sinks.send(folder, sink)
    with pytest.raises(SettingsError, match="expected postgresql://"):
        sinks.send(folder, sink.model_copy(update={"target": "mysql://x"}))


def test_parts_of_all_files_are_copied(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "two" / folder.name)
    manifest = delivery.read_manifest(copied)
    text = b"".join(sinks._copied(copied, manifest)).decode()
    assert text.count("\n") == pq.ParquetFile(copied / "part-00000.parquet").metadata.num_rows
