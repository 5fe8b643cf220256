import dataclasses
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nba.errors import DataError, MissingError
from nba.serving import delivery

# by hand


def test_a_delivered_batch_holds_its_decisions_and_a_manifest_that_fits(batch, tmp_path):
    folder = delivery.deliver(batch, tmp_path, formats=("csv", "jsonl"))
    assert folder.name == "batch_id=b1"
    assert sorted(path.name for path in folder.iterdir()) == [
        "manifest.json",
        "part-00000.csv",
        "part-00000.jsonl",
        "part-00000.parquet",
    ]
    manifest = delivery.verify(folder)
    assert pq.ParquetFile(folder / "part-00000.parquet").read().equals(batch.decisions)
    assert manifest["n_decisions"] == 400 == sum(manifest["by_arm"].values())
    contacts = sum(n for name, n in manifest["by_treatment"].items() if name != "none")
    assert manifest["n_contacts"] == contacts > 0
    assert manifest["models"] == {"champion": "believer-1"}
    assert manifest["created"] == "2026-03-02T06:00:00+00:00"
    assert {row["limit"] for row in manifest["limits"]} == {"email", "sms", "call", "budget"}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".staged")] == []


def test_verify_names_every_fault(batch, tmp_path):
    folder = delivery.deliver(batch, tmp_path)
    part = folder / "part-00000.parquet"
    pq.write_table(batch.decisions.slice(1), part)
    (folder / "extra.txt").write_text("x")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["batch_id"] = "b9"
    del manifest["by_arm"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError) as error:
        delivery.verify(folder)
    for fault in ("'by_arm' is missing", "batch_id is 'b9'", "sha256", "extra.txt: not in the manifest"):
        assert fault in str(error.value)
    part.unlink()
    with pytest.raises(DataError, match=r"part-00000.parquet: missing"):
        delivery.verify(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="is not valid JSON"):
        delivery.verify(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(MissingError, match="has not been delivered"):
        delivery.verify(folder)


def test_rows_and_contract_are_checked_even_where_the_hash_fits(batch, tmp_path):
    folder = delivery.deliver(batch, tmp_path)
    part = folder / "part-00000.parquet"
    wrong = batch.decisions.set_column(7, "p_action", pa.array([1.5] * 400)).slice(3)
    pq.write_table(wrong, part)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][part.name]["sha256"] = delivery._sha256(part)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError) as error:
        delivery.verify(folder)
    assert "397 rows; the manifest says 400" in str(error.value)
    assert "p_action: 397 values above 1" in str(error.value)


# laws


def test_delivering_again_changes_nothing_and_another_batch_of_that_name_is_refused(batch, tmp_path):
    folder = delivery.deliver(batch, tmp_path)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    assert delivery.deliver(batch, tmp_path) == folder
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before
    other = dataclasses.replace(batch, decisions=batch.decisions.slice(1))
    with pytest.raises(DataError, match="was delivered with other content; it differs in"):
        delivery.deliver(other, tmp_path)
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()].count(".staged.batch_id=b1") == 0


def test_what_is_staged_is_not_delivered_until_it_is_published(batch, tmp_path):
    staged = delivery.stage(batch, tmp_path)
    assert not delivery.folder_of(tmp_path, "b1").exists()
    assert delivery.find_staged(tmp_path, "b1") == staged
    (staged / "half-written").write_text("from a run that was killed")
    delivery.stage(batch, tmp_path)
    folder = delivery.publish(staged)
    delivery.verify(folder)
    assert delivery.find_staged(tmp_path, "b1") is None
