"""Small raw files, read as a workspace would read them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nba.histories import identifiers, staging, unify
from nba.history import connect
from nba.settings import Engagement, Identity, Purpose, Settings, Source, Workspace

SALT = "a salt for tests, long enough"
ORDERS = {
    "name": "shop",
    "table": "orders",
    "identifiers": {"crm_id": "crm"},
    "columns": {"order_id": "order", "ordered_at": "placed", "revenue": "amount"},
    "margin_share": 0.5,
}
# What such files hold.
HEAD = "order,placed,amount,crm\n"
GOOD = HEAD + "O1,2026-01-05 10:00:00,12.50,C1\nO2,2026-01-06T09:00:00Z,3,C2\n"
EVENTS = {
    "name": "web",
    "table": "events",
    "path": "web.jsonl",
    "format": "jsonl",
    "identifiers": {"cookie": "cookie", "email": "user.email"},
    "columns": {"occurred_at": "ts", "kind": "type"},
    "margin_share": None,
}


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., tuple[list[staging.StagedSource], dict[str, list[str]]]]:
    """Write files (text, bytes or tables), and stage the sources that map them."""

    def run(files: dict[str, Any], *sources: dict[str, Any], zone: str = "UTC") -> Any:
        write(tmp_path, files)
        settings = make(*sources, zone=zone)
        with connect() as connection:
            identifiers.use_salt(connection, SALT)
            return staging.stage(connection, settings, tmp_path, cache=tmp_path / ".cache")

    return run


@pytest.fixture
def rows() -> Callable[[staging.StagedSource], list[dict[str, Any]]]:
    """Give the usable rows of a source, in order."""

    def give(staged: staging.StagedSource) -> list[dict[str, Any]]:
        tables = [file.rows for file in staged.files]
        return list(pa.concat_tables(tables).sort_by("row_number").to_pylist())

    return give


@pytest.fixture
def bad() -> Callable[[staging.StagedSource], dict[int, str]]:
    """Give the rows of a source in quarantine: row number to reason."""

    def give(staged: staging.StagedSource) -> dict[int, str]:
        found = [row for file in staged.files for row in file.quarantine.to_pylist()]
        return {row["row_number"]: row["reason"] for row in found}

    return give


@pytest.fixture
def unified(tmp_path: Path) -> Callable[..., dict[str, pa.Table]]:
    """Write files, and unify the sources that map them."""

    def run(
        files: dict[str, Any],
        *sources: dict[str, Any],
        known: dict[str, pa.Table] | None = None,
        most: int = 3,
        purposes: tuple[str, ...] = (),
    ) -> dict[str, pa.Table]:
        write(tmp_path, files)
        settings = make(*sources, most=most, purposes=purposes)
        with connect() as connection:
            identifiers.use_salt(connection, SALT)
            staged, faults = staging.stage(connection, settings, tmp_path, cache=tmp_path / ".cache")
            staging.refuse(faults)
            before = None
            if known:
                connection.register("before", known["identities"])
                before = unify.Known("before", known["quality"], known["aliases"])
            found = unify.unify(connection, staged, settings, tmp_path / ".new", before)
            return {name: pq.ParquetFile(path).read() for name, path in found.files.items()}

    return run


def make(
    *sources: dict[str, Any], zone: str = "UTC", most: int = 3, purposes: tuple[str, ...] = ()
) -> Settings:
    parsed = tuple(Source(**{**ORDERS, "path": "orders.csv", **source}) for source in sources or ({},))
    return Settings(
        workspace=Workspace(name="test", timezone=zone),
        sources=parsed,
        # Two CRM ids may be one customer, or else nothing could be told of how they are weighed.
        identity=Identity(max_customers=most, exclusive=("loyalty_card",)),
        engagement=Engagement(purposes=tuple(Purpose(name=one, column=one) for one in purposes)),
    )


def write(folder: Path, files: dict[str, Any]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, pa.Table):
            pq.write_table(content, path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
