"""A consumer written from `docs/delivery.md` alone: it uses nothing of nba."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from nba.serving import contract, delivery

CONSUMER = """
import hashlib, json, sys
from datetime import datetime
from pathlib import Path
import pyarrow.parquet as pq

root, out, now = Path(sys.argv[1]), Path(sys.argv[2]), datetime.fromisoformat(sys.argv[3])
seen = set(out.read_text().split()) if out.is_file() else set()


def sound(folder, manifest):
    for name, entry in manifest["files"].items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != entry["sha256"]:
            return False
    return True


def batches():
    found = {}
    for path in root.glob("batch_id=*/manifest.json"):
        manifest = json.loads(path.read_text())
        if manifest["schema"] == "nba.decisions/1" and sound(path.parent, manifest):
            found[manifest["batch_id"]] = (path.parent, manifest)
    corrected = {manifest["corrects"] for _, manifest in found.values()}
    return [one for name, one in sorted(found.items()) if name not in corrected]


with out.open("a") as sent:
    for folder, manifest in batches():
        if datetime.fromisoformat(manifest["valid_until"]) < now:
            continue
        for name in manifest["files"]:
            if not name.endswith(".parquet"):
                continue
            for batch in pq.ParquetFile(folder / name).iter_batches(10_000):
                for row in batch.to_pylist():
                    if row["treatment_id"] == "none" or row["decision_id"] in seen:
                        continue
                    seen.add(row["decision_id"])
                    sent.write(row["decision_id"] + "\\n")
"""


def consume(root, out, now="2026-03-03T06:00:00+00:00"):
    code = f"import sys; sys.modules['nba'] = None\n{CONSUMER}"
    subprocess.run([sys.executable, "-c", code, str(root), str(out), now], check=True)
    return out.read_text().split()


# by hand


def test_a_consumer_of_forty_lines_sends_each_contact_once(batch, tmp_path):
    import dataclasses

    assert len(CONSUMER.strip().splitlines()) <= 40
    root, out = tmp_path / "decisions", tmp_path / "sent"
    folder = delivery.deliver(batch, root)
    half = delivery.stage(dataclasses.replace(batch, batch_id="b2"), root)
    contacts = delivery.read_manifest(folder)["n_contacts"]
    sent = consume(root, out)
    assert len(sent) == len(set(sent)) == contacts
    assert consume(root, out) == sent
    # A batch whose files were damaged on the way, and one that has lapsed, are left alone.
    later = delivery.publish(half)
    (later / "part-00000.parquet").write_bytes(b"")
    assert consume(root, out) == sent
    out.unlink()
    assert consume(root, out, "2026-04-01T00:00:00+00:00") == []


def test_a_correction_takes_the_place_of_the_old_batch(batch, tmp_path):
    import dataclasses

    root, out = tmp_path / "decisions", tmp_path / "sent"
    delivery.deliver(batch, root)
    names = [f"b2.{i}" for i in range(400)]
    decisions = batch.decisions.set_column(0, "decision_id", [names]).set_column(
        1, "batch_id", [["b2"] * 400]
    )
    own = dataclasses.replace(batch, batch_id="b2", decisions=decisions)
    delivery.publish(delivery.stage(own, root, corrects="b1"))
    assert {name[:3] for name in consume(root, out)} == {"b2."}
    with pytest.raises(delivery.DataError, match="corrects 'b9', which has not been delivered"):
        delivery.stage(dataclasses.replace(own, batch_id="b3"), root, corrects="b9")


# laws


def test_the_schemas_in_docs_are_those_of_the_code():
    folder = Path(__file__).parents[2] / "docs" / "schemas"
    for name, schema in contract.schemas().items():
        text = json.dumps(schema, indent=1) + "\n"
        assert (folder / name).read_text(encoding="utf-8") == text, "run `make docs`"


def test_a_delivered_batch_keeps_the_json_schemas(batch, tmp_path):
    folder = delivery.deliver(batch, tmp_path, formats=("jsonl",))
    schemas = contract.schemas()
    manifest = json.loads((folder / "manifest.json").read_text())
    jsonschema.validate(manifest, schemas["manifest.v1.json"])
    check = jsonschema.Draft202012Validator(schemas["decision.v1.json"])
    rows = [json.loads(line) for line in (folder / "part-00000.jsonl").read_text().splitlines()]
    assert len(rows) == 400
    for row in rows:
        check.validate(row)
    digest = hashlib.sha256((folder / "part-00000.jsonl").read_bytes()).hexdigest()
    assert manifest["files"]["part-00000.jsonl"]["sha256"] == digest
