"""A batch as files: decisions, and a manifest that says what they are and lets a consumer check them.

The folder `batch_id=<id>` appears whole or not at all: it is written under a temporary name (`stage`) and
renamed (`publish`). Delivering the same batch again changes nothing.
"""

import hashlib
import json
import os
import re
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv as pa_csv

from nba import tables
from nba.errors import DataError, MissingError, listed
from nba.serving.decide import Batch

SCHEMA = "nba.decisions/1"
MANIFEST = "manifest.json"
PART = "part-00000"


def check_name(batch_id: str) -> None:
    """Check that a batch's name can be part of a folder's name.

    Raises:
        DataError: when it holds other than letters, digits, dots, dashes and underscores.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", batch_id):
        raise DataError(
            f"batch {batch_id!r} cannot name a folder; expected letters, digits, dots, dashes, underscores",
            "Name it for example week-12.",
        )


def folder_of(root: Path, batch_id: str) -> Path:
    """Give the folder in which a batch is delivered."""
    return root / f"batch_id={batch_id}"


def deliver(batch: Batch, root: Path, *, csv: bool = False) -> Path:
    """Write a batch below a folder; the same batch again changes nothing.

    Args:
        batch: What was decided.
        root: Folder of all batches.
        csv: Whether to write CSV beside Parquet.

    Returns:
        The batch's folder.

    Raises:
        DataError: when another batch of that name has been delivered.
    """
    return publish(stage(batch, root, csv=csv))


def stage(batch: Batch, root: Path, *, csv: bool = False) -> Path:
    """Write a batch under a name that no consumer reads; `publish` makes it count.

    Raises:
        DataError: when another batch of that name has been delivered.
    """
    staged = _staged(root, batch.batch_id)
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    pq.write_table(batch.decisions, staged / f"{PART}.parquet", compression="zstd")
    if csv:
        pa_csv.write_csv(batch.decisions, staged / f"{PART}.csv")
    files = sorted(path for path in staged.iterdir())
    for path in files:
        _sync(path)
    text = json.dumps(_manifest(batch, files), indent=1, allow_nan=False)
    (staged / MANIFEST).write_text(text, encoding="utf-8")
    _sync(staged / MANIFEST)
    _refuse_another(staged, folder_of(root, batch.batch_id))
    return staged


def find_staged(root: Path, batch_id: str) -> Path | None:
    """Give the staged folder of a batch that was not published, or None."""
    staged = _staged(root, batch_id)
    return staged if (staged / MANIFEST).is_file() else None


def publish(staged: Path) -> Path:
    """Make a staged batch count, at once; if it is delivered already, only clear up.

    Raises:
        DataError: when another batch of that name has been delivered.
    """
    final = staged.with_name(staged.name.removeprefix(".staged."))
    if final.exists():
        _refuse_another(staged, final)
        shutil.rmtree(staged)
    else:
        staged.rename(final)
        _sync(final.parent)
    return final


def verify(folder: Path) -> dict[str, Any]:
    """Check a delivered batch as a consumer would: manifest, hashes, rows, contract.

    Returns:
        The manifest.

    Raises:
        MissingError: when there is no manifest: the batch was not delivered.
        DataError: naming every fault.
    """
    manifest = read_manifest(folder)
    faults = _head_faults(manifest, folder)
    for name, entry in manifest.get("files", {}).items():
        path = folder / name
        if not path.is_file():
            faults.append(f"{name}: missing; the manifest lists it")
        elif (found := _sha256(path)) != entry["sha256"]:
            faults.append(f"{name}: sha256 is {found}; the manifest says {entry['sha256']}")
        elif path.suffix == ".parquet":
            faults += _table_faults(name, path, entry["rows"], manifest)
    listed_files = {*manifest.get("files", {}), MANIFEST}
    extra = sorted(path.name for path in folder.iterdir() if path.name not in listed_files)
    faults += [f"{name}: not in the manifest" for name in extra]
    if faults:
        raise listed(faults, f"{folder} is not a sound batch", "Do not send it; have it delivered again.")
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a delivered batch.

    Raises:
        MissingError: when there is none.
        DataError: when it is not JSON.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise MissingError(
            f"{path} does not exist; a batch without manifest has not been delivered",
            "Name a folder such as decisions/batch_id=...; or run `nba decide` again.",
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not valid JSON: {error}", "Have the batch delivered again.") from None
    if not isinstance(found, dict):
        raise DataError(f"{path} holds {type(found).__name__}; expected an object")
    return found


def _staged(root: Path, batch_id: str) -> Path:
    final = folder_of(root, batch_id)
    return final.with_name(f".staged.{final.name}")


def _manifest(batch: Batch, files: list[Path]) -> dict[str, Any]:
    n = batch.decisions.num_rows
    limits = batch.batches.select(["arm", "limit", "available", "used", "price", "n_customers"])
    return {
        "schema": SCHEMA,
        "batch_id": batch.batch_id,
        "created": _iso(batch.decided_at),
        "as_of": _iso(batch.decided_at),
        "valid_until": _iso(batch.valid_until),
        "config_hash": batch.config_hash,
        "policies": dict(batch.policies),
        "models": dict(batch.models),
        "n_decisions": n,
        "n_contacts": int(pc.sum(pc.not_equal(batch.decisions["treatment_id"], "none")).as_py() or 0),
        "by_treatment": _counts(batch.decisions, "treatment_id"),
        "by_arm": _counts(batch.decisions, "arm"),
        "removed_by": _removed(batch.choices),
        "limits": limits.to_pylist(),
        "notes": list(batch.notes),
        "files": {path.name: {"rows": n, "sha256": _sha256(path)} for path in files},
    }


def _counts(table: pa.Table, column: str) -> dict[str, int]:
    found = {row["values"]: row["counts"] for row in pc.value_counts(table[column]).to_pylist()}
    return dict(sorted(found.items()))


def _removed(choices: pa.Table) -> dict[str, int]:
    removed = choices.filter(pc.invert(choices["is_eligible"]))
    return _counts(removed, "reason")


def _refuse_another(staged: Path, final: Path) -> None:
    if not final.exists():
        return
    old, new = read_manifest(final), read_manifest(staged)
    if old != new:
        differing = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
        shutil.rmtree(staged)
        raise DataError(
            f"{final} was delivered with other content; it differs in {differing}",
            "A delivered batch never changes: decide under another batch name.",
        )


def _head_faults(manifest: dict[str, Any], folder: Path) -> list[str]:
    needed = (
        "schema",
        "batch_id",
        "created",
        "valid_until",
        "n_decisions",
        "by_treatment",
        "by_arm",
        "files",
    )
    faults = [f"manifest: {key!r} is missing" for key in needed if key not in manifest]
    if manifest.get("schema", SCHEMA) != SCHEMA:
        faults.append(f"manifest: schema is {manifest['schema']!r}; expected {SCHEMA!r}")
    if "batch_id" in manifest and folder.resolve().name != f"batch_id={manifest['batch_id']}":
        faults.append(f"manifest: batch_id is {manifest['batch_id']!r}; the folder is {folder.name!r}")
    return faults


def _table_faults(name: str, path: Path, rows: int, manifest: dict[str, Any]) -> list[str]:
    try:
        table = pq.ParquetFile(path).read().replace_schema_metadata(None)
    except (OSError, pa.ArrowInvalid) as error:
        return [f"{name}: cannot be read ({error})"]
    faults = [f"{name}: {fault}" for fault in tables.DECISIONS.faults(table)]
    if table.num_rows != rows:
        faults.append(f"{name}: {table.num_rows} rows; the manifest says {rows}")
    if faults:
        return faults
    for column, key in (("treatment_id", "by_treatment"), ("arm", "by_arm")):
        if key in manifest and _counts(table, column) != manifest[key]:
            faults.append(f"{name}: counts by {column} differ from the manifest's {key}")
    if set(pc.unique(table["batch_id"]).to_pylist()) - {manifest.get("batch_id")}:
        faults.append(f"{name}: holds rows of other batches")
    return faults


def _iso(moment: datetime) -> str:
    return moment.isoformat()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
