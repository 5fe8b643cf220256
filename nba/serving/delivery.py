"""A batch as files: decisions, and a manifest that says what they are and lets a consumer check them.

The folder `batch_id=<id>` appears whole or not at all: it is written under a temporary name (`Writer`) and
renamed (`publish`), its manifest last. Delivering the same batch again changes nothing; a batch never changes
once its manifest stands. `docs/delivery.md` is the contract in words, `docs/schemas/` as JSON Schemas.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv as pa_csv

from nba import draws, tables
from nba.errors import DataError, MissingError, listed
from nba.serving.contract import MANIFEST_KEYS, SCHEMA
from nba.serving.decide import Batch

MANIFEST = "manifest.json"
FORMATS = ("parquet", "csv", "jsonl")
ROWS_PER_PART = 1_000_000
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Head:
    """What the manifest says of a batch beyond its rows.

    Attributes:
        feature_as_of: Moment whose knowledge the features hold.
        policies: Arm to the policy that decided it.
        models: Alias to the model's id and version.
        limits: One per arm and limit: available, used, price, n_customers.
        removed_by: Rule to the number of candidates that it removed.
        corrects: The batch that this one takes the place of, or None.
        prices: Arm to what its probabilities were cut by; empty where the whole batch was solved at once.
    """

    batch_id: str
    created: datetime
    feature_as_of: datetime
    valid_until: datetime
    config_hash: str
    policies: Mapping[str, str]
    models: Mapping[str, str]
    limits: Sequence[Mapping[str, Any]]
    removed_by: Mapping[str, int]
    notes: Sequence[str] = ()
    corrects: str | None = None
    prices: Mapping[str, Any] = field(default_factory=dict)


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


def deliver(batch: Batch, root: Path, *, formats: Sequence[str] = ("parquet",)) -> Path:
    """Write a batch below a folder; the same batch again changes nothing.

    Args:
        batch: What was decided.
        root: Folder of all batches.
        formats: What to write: parquet, csv, jsonl.

    Returns:
        The batch's folder.

    Raises:
        DataError: when another batch of that name has been delivered.
    """
    return publish(stage(batch, root, formats=formats))


def stage(
    batch: Batch, root: Path, *, formats: Sequence[str] = ("parquet",), corrects: str | None = None
) -> Path:
    """Write a batch under a name that no consumer reads; `publish` makes it count.

    Raises:
        DataError: when another batch of that name has been delivered, the batch it corrects has not been
            delivered, or the disk is full.
    """
    limits = batch.batches.select(["arm", "limit", "available", "used", "price", "n_customers"])
    removed = batch.choices.filter(pc.invert(batch.choices["is_eligible"]))
    head = Head(
        batch.batch_id,
        batch.decided_at,
        batch.decided_at,
        batch.valid_until,
        batch.config_hash,
        batch.policies,
        batch.models,
        limits.to_pylist(),
        _counts(removed, "reason"),
        batch.notes,
        corrects,
    )
    writer = Writer(root, batch.batch_id, formats)
    writer.write(batch.decisions)
    return writer.close(head)


class Writer:
    """Writes the rows of a batch as they come, in parts, under a name that no consumer reads.

    Args:
        root: Folder of all batches.
        batch_id: The batch; what an interrupted run staged of it is removed.
        formats: What to write: parquet, csv, jsonl; Parquet always.
        rows_per_part: Rows after which the next part begins.
    """

    def __init__(
        self,
        root: Path,
        batch_id: str,
        formats: Sequence[str] = ("parquet",),
        rows_per_part: int = ROWS_PER_PART,
    ) -> None:
        check_name(batch_id)
        self._root, self._batch_id = root, batch_id
        self._formats = dict.fromkeys(["parquet", *formats])
        self._rows_per_part = rows_per_part
        self.folder = _staged(root, batch_id)
        self._counted = {name: Counter[str]() for name in ("treatment_id", "arm")}
        self._files: dict[str, int] = {}
        self._part, self._rows = -1, 0
        self._parquet: pq.ParquetWriter | None = None
        shutil.rmtree(self.folder, ignore_errors=True)
        with full_disk(self.folder):
            self.folder.mkdir(parents=True)

    def write(self, decisions: pa.Table) -> None:
        """Append rows of the decisions table.

        Raises:
            DataError: when the disk is full.
        """
        with full_disk(self.folder):
            if self._parquet is None or self._rows >= self._rows_per_part:
                self._next_part(decisions.schema)
            assert self._parquet is not None
            self._parquet.write_table(decisions)
            stem = f"part-{self._part:05d}"
            for suffix in self._formats:
                self._files[f"{stem}.{suffix}"] = self._rows + decisions.num_rows
            if "csv" in self._formats:
                self._append_csv(decisions, self.folder / f"{stem}.csv")
            if "jsonl" in self._formats:
                _append_jsonl(decisions, self.folder / f"{stem}.jsonl")
        self._rows += decisions.num_rows
        for name, counter in self._counted.items():
            counter.update(_counts(decisions, name))

    def close(self, head: Head) -> Path:
        """Write the manifest and return the staged folder.

        Raises:
            DataError: as in `stage`.
        """
        with full_disk(self.folder):
            if self._parquet is not None:
                self._parquet.close()
                self._parquet = None
            paths = [self.folder / name for name in self._files]
            for path in paths:
                _sync(path)
            files = {
                path.name: {
                    "rows": self._files[path.name],
                    "bytes": path.stat().st_size,
                    "sha256": _sha256(path),
                }
                for path in sorted(paths)
            }
            text = json.dumps(self._manifest(head, files), indent=1, allow_nan=False)
            (self.folder / MANIFEST).write_text(text, encoding="utf-8")
            _sync(self.folder / MANIFEST)
        if head.corrects is not None:
            self._check_corrected(head.corrects)
        _refuse_another(self.folder, folder_of(self._root, self._batch_id))
        return self.folder

    def discard(self) -> None:
        """Remove what was staged."""
        if self._parquet is not None:
            self._parquet.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _next_part(self, schema: pa.Schema) -> None:
        if self._parquet is not None:
            self._parquet.close()
        self._part, self._rows = self._part + 1, 0
        path = self.folder / f"part-{self._part:05d}.parquet"
        self._parquet = pq.ParquetWriter(path, schema, compression="zstd")

    def _append_csv(self, decisions: pa.Table, path: Path) -> None:
        options = pa_csv.WriteOptions(include_header=not path.exists())
        with path.open("ab") as file:
            pa_csv.write_csv(decisions, file, write_options=options)

    def _check_corrected(self, old: str) -> None:
        if old == self._batch_id or not (folder_of(self._root, old) / MANIFEST).is_file():
            shutil.rmtree(self.folder)
            raise DataError(
                f"batch {self._batch_id!r} corrects {old!r}, which has not been delivered",
                "Name a delivered batch, and give the correction a name of its own.",
            )

    def _manifest(self, head: Head, files: Mapping[str, Any]) -> dict[str, Any]:
        by_treatment, by_arm = (dict(sorted(c.items())) for c in self._counted.values())
        n = sum(by_arm.values())
        return {
            "schema": SCHEMA,
            "batch_id": self._batch_id,
            "corrects": head.corrects,
            "idempotency_key": "decision_id",
            "created": head.created.isoformat(),
            "as_of": head.created.isoformat(),
            "feature_as_of": head.feature_as_of.isoformat(),
            "valid_until": head.valid_until.isoformat(),
            "config_hash": head.config_hash,
            "policies": dict(head.policies),
            "models": dict(head.models),
            "n_decisions": n,
            "n_contacts": n - by_treatment.get("none", 0),
            "by_treatment": by_treatment,
            "by_arm": by_arm,
            "removed_by": dict(head.removed_by),
            "limits": [dict(row) for row in head.limits],
            "prices": dict(head.prices),
            "notes": list(head.notes),
            "files": dict(files),
        }


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
        _sync(staged)
        staged.rename(final)
        _sync(final.parent)
    return final


def verify(folder: Path) -> dict[str, Any]:
    """Check a delivered batch as a consumer would: manifest, hashes, rows, contract.

    Memory does not grow with the rows, but for eight bytes each.

    Returns:
        The manifest.

    Raises:
        MissingError: when there is no manifest: the batch was not delivered.
        DataError: naming every fault.
    """
    manifest = read_manifest(folder)
    faults = _head_faults(manifest, folder)
    files = manifest.get("files", {})
    found = _Found()
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            faults.append(f"{name}: missing; the manifest lists it")
        elif (digest := _sha256(path)) != entry.get("sha256"):
            faults.append(f"{name}: sha256 is {digest}; the manifest says {entry.get('sha256')}")
        elif path.suffix == ".parquet":
            faults += found.read(path, entry.get("rows"))
    listed_files = {*files, MANIFEST}
    extra = sorted(path.name for path in folder.iterdir() if path.name not in listed_files)
    faults += [f"{name}: not in the manifest" for name in extra]
    if not faults:
        faults += found.faults(manifest)
    if faults:
        raise listed(faults, f"{folder} is not a sound batch", "Do not send it; have it delivered again.")
    return manifest


class _Found:
    # What the Parquet parts of a batch hold together.
    def __init__(self) -> None:
        self._counted = {name: Counter[str]() for name in ("treatment_id", "arm", "batch_id")}
        self._keys: list[np.ndarray] = []

    def read(self, path: Path, rows: int | None) -> list[str]:
        found = 0
        faults: list[str] = []
        try:
            file = pq.ParquetFile(path, pre_buffer=False)
            for batch in file.iter_batches(131_072):
                table = pa.Table.from_batches([batch]).replace_schema_metadata(None)
                faults = faults or [f"{path.name}: {fault}" for fault in tables.DECISIONS.faults(table)]
                found += table.num_rows
                if not faults:
                    for name, counter in self._counted.items():
                        counter.update(_counts(table, name))
                    self._keys.append(draws.hashed(table["decision_id"].combine_chunks(), "key"))
        except (OSError, pa.ArrowInvalid) as error:
            return [f"{path.name}: cannot be read ({error})"]
        if found != rows:
            faults.append(f"{path.name}: {found} rows; the manifest says {rows}")
        return faults

    def faults(self, manifest: Mapping[str, Any]) -> list[str]:
        out = []
        for column, key in (("treatment_id", "by_treatment"), ("arm", "by_arm")):
            if dict(sorted(self._counted[column].items())) != manifest.get(key):
                out.append(f"counts by {column} differ from the manifest's {key}")
        n = sum(self._counted["arm"].values())
        if n != manifest.get("n_decisions"):
            out.append(f"{n} decisions; the manifest says {manifest.get('n_decisions')}")
        if set(self._counted["batch_id"]) - {manifest.get("batch_id")}:
            out.append("holds rows of other batches")
        keys = np.concatenate(self._keys) if self._keys else np.zeros(0, np.uint64)
        keys.sort()  # counting by a hash table takes longer than all the rest
        if repeats := int((keys[1:] == keys[:-1]).sum()):
            out.append(f"decision_id: {repeats} repeat")
        return out


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


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Tell a full disk in words; what was staged stays under its temporary name, without a manifest.

    Raises:
        DataError: where the system refuses to write for want of room.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL or "No space left" in str(error) or "File too large" in str(error):
            (folder / MANIFEST).unlink(missing_ok=True)
            raise DataError(
                f"there is no room to write {folder}: {error}",
                "Nothing was delivered: make room and run the same command again.",
            ) from None
        raise


def _staged(root: Path, batch_id: str) -> Path:
    final = folder_of(root, batch_id)
    return final.with_name(f".staged.{final.name}")


def _append_jsonl(decisions: pa.Table, path: Path) -> None:
    frame = decisions.to_pandas()
    with path.open("a", encoding="utf-8") as file:
        frame.to_json(
            file, orient="records", lines=True, date_format="iso", date_unit="us", double_precision=15
        )


def _counts(table: pa.Table, column: str) -> dict[str, int]:
    found = {row["values"]: row["counts"] for row in pc.value_counts(table[column]).to_pylist()}
    return dict(sorted(found.items()))


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
    faults = [f"manifest: {key!r} is missing" for key in MANIFEST_KEYS if key not in manifest]
    if manifest.get("schema", SCHEMA) != SCHEMA:
        faults.append(f"manifest: schema is {manifest['schema']!r}; expected {SCHEMA!r}")
    if "batch_id" in manifest and folder.resolve().name != f"batch_id={manifest['batch_id']}":
        faults.append(f"manifest: batch_id is {manifest['batch_id']!r}; the folder is {folder.name!r}")
    return faults


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
