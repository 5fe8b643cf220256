"""Ingest: raw sources to one history, in one commit."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from nba import settings
from nba.errors import SettingsError
from nba.histories import identity, quality, staging, unify
from nba.history import FOLDER, History, connect
from pipelines.progress import Progress, silent

CACHE = ".cache"
_CHECK_SALT = "only for a look, never stored"


@dataclass(frozen=True)
class IngestReport:
    """What an ingestion found.

    Attributes:
        version: Version of the history after it.
        is_changed: Whether it wrote anything; the same files over again change nothing.
        quality: The quality table.
        seconds: Part of the work to the seconds that it took.
    """

    version: int
    is_changed: bool
    quality: pa.Table
    seconds: dict[str, float]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row per source: what came in and what became of it."""
        wanted = ("files", "rows_in", "rows_kept", "quarantined", "duplicates", "days_behind")
        found: dict[str, dict[str, Any]] = {}
        for row in self.quality.to_pylist():
            if row["measure"] in wanted:
                found.setdefault(row["source"], {"source": row["source"]})[row["measure"]] = row["value"]
        return list(found.values())


def ingest(workspace: Path, *, data: Path | None = None, progress: Progress | None = None) -> IngestReport:
    """Read all sources of a workspace, and commit what they tell as one version of its history.

    Args:
        workspace: Folder with `nba.toml`.
        data: What `{data}` in a source's path stands for.
        progress: Where to report.

    Raises:
        NbaError: naming all that is wrong with settings and sources; then nothing was written.
    """
    progress = progress or silent()
    config = settings.read(workspace)
    history = History.read(workspace)
    secret = identity.salt(workspace)
    known = unify.Known(
        *(history.table(name) if history.has(name) else None for name in ("identities", "quality"))
    )
    _refuse_other_salt(known, secret)
    seconds: dict[str, float] = {}
    cache = workspace / FOLDER / CACHE
    with _ctrl_c(), connect() as connection:
        identity.use_salt(connection, secret)
        with _timed(seconds, "read"):
            advance = progress.step("reading sources", total=len(config.sources))
            staged, faults = staging.stage(
                connection, config, workspace, data=data, cache=cache, advance=advance
            )
            staging.refuse(faults)
        with _timed(seconds, "unify"):
            step = progress.step("unifying customers", total=len(unify.NAMES))
            found = unify.unify(connection, staged, config, known, advance=lambda _: step(1))
    with _timed(seconds, "write"):
        progress.step("writing the history")
        is_changed = not _is_same(history, found)
        if is_changed:
            history = history.commit(replace=found)
        staging.sweep(cache, staged)
    return IngestReport(history.version, is_changed, found["quality"], seconds)


def check(workspace: Path, *, data: Path | None = None) -> pa.Table:
    """Say what each source would give, without writing anything.

    Returns:
        One row per source: source, table, files, rows, quarantined, and findings in words (faults and
        the most frequent reasons for quarantine).
    """
    config = settings.read(workspace)
    with connect() as connection:
        identity.use_salt(connection, _CHECK_SALT)
        staged, faults = staging.stage(connection, config, workspace, data=data)
    rows = []
    for one in staged:
        wrong = faults.get(one.source.name, [])
        why = [f"{n} rows: {reason}" for reason, n in staging.reasons(one)[:5]]
        rows.append(
            {
                "source": one.source.name,
                "table": one.source.table,
                "files": len(one.files),
                "rows": one.n_rows,
                "quarantined": one.n_bad,
                "findings": "; ".join([*(f"FAULT: {fault}" for fault in wrong), *why]) or "fine",
            }
        )
    return pa.Table.from_pylist(rows, schema=_CHECKED)


_CHECKED = pa.schema(
    [
        ("source", pa.string()),
        ("table", pa.string()),
        ("files", pa.int64()),
        ("rows", pa.int64()),
        ("quarantined", pa.int64()),
        ("findings", pa.string()),
    ]
)


def _refuse_other_salt(known: unify.Known, secret: str) -> None:
    if known.quality is None or known.identities is None or not known.identities.num_rows:
        return
    rows = {
        row["measure"]: row["note"] for row in known.quality.to_pylist() if row["source"] == quality.IDENTITY
    }
    if rows.get(quality.SALT, identity.fingerprint(secret)) != identity.fingerprint(secret):
        raise SettingsError(
            "the salt is another one than that of the workspace's identities, so nobody would be recognised",
            f"Restore {identity.SALT_FILE} or {identity.SALT_VARIABLE}; to begin anew, remove tables/.",
        )


def _is_same(history: History, found: dict[str, pa.Table]) -> bool:
    if not all(history.has(name) for name in found):
        return False
    return all(history.table(name).equals(table) for name, table in found.items())


@contextmanager
def _ctrl_c() -> Iterator[None]:
    # DuckDB tells Ctrl-C within a query as an error of its own.
    try:
        yield
    except RuntimeError as error:
        if str(error) == "Query interrupted":
            raise KeyboardInterrupt from None
        raise


@contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[part] = time.perf_counter() - start


def refused(workspace: Path, most: int = 10) -> list[dict[str, Any]]:
    """Count the rows in quarantine by source and reason, most frequent first.

    Args:
        workspace: Folder of the workspace.
        most: Reasons to give at most.
    """
    history = History.read(workspace)
    if not history.has("quarantine"):
        return []
    counted = "select source, reason, count(*) as rows from quarantine group by 1, 2"
    return list(history.sql(f"{counted} order by 3 desc, 1, 2 limit $most", {"most": most}).to_pylist())
