"""The history of a workspace: Parquet tables read through DuckDB, changed only by whole commits.

Tables live under `<workspace>/tables` as immutable Parquet files; `history.json` names the files that
count. A commit writes new files first and then replaces that one list, so that a step either happened
or did not: a process that is killed leaves the workspace as it was. `as_of(t)` is the only way for a
stage to look back, and it sees nothing that happened or closed later.
"""

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nba import merged, settings, tables
from nba.errors import DataError, MissingError, NbaError
from nba.spill import Spill
from nba.tables.files import check_file

FOLDER = "tables"
INDEX = "history.json"

# What was known at a moment: rows that had happened and arrived before it, as they stood then; identifiers
# that were known to be the customer's; outcomes that had closed by then.
_ARRIVING = ("orders", "events", "touches")
_ARRIVED = {
    "identities": ("joined_at", "joined_at < $at"),
    **dict.fromkeys(_ARRIVING, ("known_at", "(known_at is null or known_at < $at)")),
}
# Tables of ingestion, whose rows follow a customer that went into another; and where they stand before that.
_FOLLOWING = ("identities", *_ARRIVING)
_HELD = {tables.BEFORE[name]: name for name in _FOLLOWING}
FOLLOWING = ("aliases", *_FOLLOWING, *_HELD)
# Columns that aliases of earlier versions do not have.
_ALIAS = {"joined_at": "timestamptz", "next_id": "varchar", "next_at": "timestamptz"}
_VISIBLE = {
    "customers": "joined_at < $at",
    "identities": "first_seen_at < $at",
    "orders": "ordered_at < $at",
    "events": "occurred_at < $at",
    "touches": "touched_at < $at",
    "decisions": "decided_at < $at",
    "outcomes": "closed_at <= $at",
    "assignments": "assigned_at < $at",
    "declarations": "declared_at < $at",
    "clv": "as_of <= $at",
    "choices": "decision_id in (select decision_id from decisions_all where decided_at < $at)",
}


def connect(
    threads: int = 2, memory_gb: float | None = None, spill: Path | None = None
) -> duckdb.DuckDBPyConnection:
    """Open an in-memory DuckDB connection in UTC.

    Args:
        threads: Threads it may use.
        memory_gb: Memory it may use; beyond it, it spills.
        spill: Folder to spill to; DuckDB removes what it wrote there.
    """
    config: dict[str, Any] = {"threads": threads}
    if memory_gb is not None:
        config["memory_limit"] = f"{memory_gb}GB"
    if spill is not None:
        spill.parent.mkdir(parents=True, exist_ok=True)  # DuckDB makes the folder itself, not those above it
        config["temp_directory"] = str(spill)
    connection = duckdb.connect(config=config)
    connection.execute("set TimeZone = 'UTC'").fetchall()
    return connection


@dataclass(frozen=True)
class History:
    """All tables of a workspace at one version.

    Attributes:
        root: The workspace folder.
        version: Number of commits so far.
        files: Table name to its Parquet files, relative to `<root>/tables`.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> history = History.read(folder).commit(append={"outcomes": tables.OUTCOMES.empty()})
        >>> history.version, history.table("outcomes").num_rows
        (1, 0)
    """

    root: Path
    version: int
    files: Mapping[str, tuple[str, ...]]

    @classmethod
    def read(cls, root: Path) -> "History":
        """Read the current version of a workspace; an empty history if it has none."""
        path = root / FOLDER / INDEX
        if not path.is_file():
            return cls(root, 0, {})
        try:
            index = json.loads(path.read_text(encoding="utf-8"))
            return cls(root, index["version"], {k: tuple(v) for k, v in index["tables"].items()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path} cannot be read: {error}",
                "The list of tables is damaged: restore it, or remove the tables folder and ingest again.",
            ) from None

    def has(self, name: str) -> bool:
        """Say whether a table has been written."""
        return name in self.files

    def paths(self, name: str) -> list[str]:
        """Give the Parquet files of a table.

        Raises:
            MissingError: when no step has written it yet.
        """
        if name not in self.files:
            raise MissingError(
                f"the workspace {self.root} has no table {name!r} yet; it has {sorted(self.files)}",
                f"Run the step that writes {name} first; `nba --help` lists the steps in order.",
            )
        return [str(self.root / FOLDER / file) for file in self.files[name]]

    def table(self, name: str) -> pa.Table:
        """Read a whole table into memory.

        Raises:
            MissingError: when no step has written it yet.
        """
        parts = []
        if (name in _FOLLOWING or name in _HELD) and self.has_pending_aliases:
            return self.sql(f'from "{name}"')
        for path in self.paths(name):
            try:
                parts.append(pq.ParquetFile(path).read().replace_schema_metadata(None))
            except (OSError, pa.ArrowInvalid) as error:
                raise DataError(
                    f"{path} cannot be read: {error}",
                    f"The file is damaged: run the step that writes {name} again, or restore the file.",
                ) from None
        return pa.concat_tables(parts, promote_options="permissive")

    def scan(self, name: str, *, as_written: bool = False) -> str:
        """Give what stands after `from` in DuckDB for a whole table, as readers see it.

        Args:
            name: The table.
            as_written: Whether as it stands on disk, where rows may carry ids that went into others.

        Raises:
            MissingError: when no step has written it yet.
        """
        return _written(self, name) if as_written else _scan(self, name)

    def last_written(self, *names: str) -> int:
        """Give the version at which one of some tables was last written; 0 where none has been."""
        found = (
            int(Path(file).name.partition("-")[0]) for name in names for file in self.files.get(name, ())
        )
        return max(found, default=0)

    def n_rows(self, name: str) -> int:
        """Count the rows of a table, from its files' metadata."""
        return sum(pq.ParquetFile(path).metadata.num_rows for path in self.paths(name))

    @cached_property
    def has_pending_aliases(self) -> bool:
        """Whether rows on disk still carry customer ids that went into others; readers see the others."""
        return self.has("aliases") and any(
            pc.any(pq.ParquetFile(path).read(["is_pending"])["is_pending"]).as_py()
            for path in self.paths("aliases")
        )

    def check_before(self, name: str, column: str, at: datetime) -> None:
        """Check that not all of a table lies at a moment or later, so that no result is made of nothing.

        Raises:
            MissingError: when no step has written the table yet.
            DataError: when all of it lies at the moment or later.
        """
        self.paths(name)
        first = self.sql(f'select min("{column}") as first from "{name}"')["first"][0].as_py()
        if first is not None and first >= at:
            found = f"the first is of {first.isoformat()}"
            raise DataError(f"nothing in {name} lies before {at.isoformat()}: {found}", "Name a later --at.")

    def commit(
        self,
        *,
        append: Mapping[str, pa.Table | Path] | None = None,
        replace: Mapping[str, pa.Table | Path] | None = None,
    ) -> "History":
        """Write tables and make them count, all or none.

        Args:
            append: Tables whose rows are added; a path is a Parquet file, which is moved into the history.
            replace: Tables that take the place of what was there.

        Returns:
            The history after the commit.

        Raises:
            DataError: when a table breaks its contract or another run committed meanwhile.
        """
        append, replace = append or {}, replace or {}
        folder = self.root / FOLDER
        written: dict[str, str] = {}
        for name, table in (*append.items(), *replace.items()):
            contract = tables.BY_NAME.get(name)
            written[name] = f"{name}/{self.version + 1:06d}-{uuid.uuid4().hex[:8]}.parquet"
            if isinstance(table, Path):
                if contract:
                    check_file(contract, table)
                (folder / written[name]).parent.mkdir(parents=True, exist_ok=True)
                table.replace(folder / written[name])
            else:
                _write(contract.conform(table) if contract else table, folder / written[name])
        files = dict(self.files)
        for name in append:
            files[name] = (*files.get(name, ()), written[name])
        for name in replace:
            files[name] = (written[name],)
        if History.read(self.root).version != self.version:
            raise DataError(
                f"another run changed {self.root} meanwhile",
                "Run this step again; nothing was changed by it.",
            )
        after = History(self.root, self.version + 1, files)
        index = {"version": after.version, "tables": {k: list(v) for k, v in sorted(files.items())}}
        replace_text(folder / INDEX, json.dumps(index, indent=1))
        _sweep(folder, keep={name for group in (*files.values(), *self.files.values()) for name in group})
        return after

    def purge(self) -> None:
        """Remove the files of earlier versions, which a commit leaves for open readers."""
        _sweep(self.root / FOLDER, keep={name for group in self.files.values() for name in group})

    def as_of(self, at: datetime, memory_gb: float | None = None) -> "Snapshot":
        """Look back from a moment: nothing that happened, arrived or closed later is visible.

        Args:
            at: The moment.
            memory_gb: Memory that DuckDB may use; beyond it, it spills to disk. The workspace's own if None.

        Raises:
            DataError: when `at` has no time zone.
        """
        if at.tzinfo is None:
            raise DataError(f"{at} has no time zone; expected one, such as {at}Z", "Add the offset or Z.")
        return Snapshot(self, at, self._memory_gb() if memory_gb is None else memory_gb)

    def _memory_gb(self) -> float | None:
        # Faults of the settings are for those to tell who need the rest of them.
        try:
            return settings.read(self.root).workspace.memory_gb
        except NbaError:
            return None

    def connection(self, *, follows: bool = False) -> duckdb.DuckDBPyConnection:
        """Open DuckDB with one view per table, whole: for readers of what happened, not for features.

        Args:
            follows: Whether to add `decisions_all` and `assignments_all`, which carry the customers of now:
                the tables themselves carry those of then.
        """
        connection = connect()
        for name in self.files:
            _view(connection, name, self, name)
        if not follows:
            return connection
        if self.has("aliases"):
            connection.execute("create view aliases_then as from aliases").fetchall()
        followed = _follow(connection, self, "'infinity'::timestamptz")
        for name in set(merged.DECIDED) & set(self.files) - followed:
            connection.execute(f"create view {name}_all as from {name}").fetchall()
        return connection

    def sql(self, query: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        """Query whole tables (for readers of what happened, not for features)."""
        with self.connection() as connection:
            return connection.sql(query, params=parameters).to_arrow_table()

    def lookup(self, name: str, column: str, values: Sequence[str]) -> pa.Table:
        """Read the rows of a table in which a text column has one of the values, without the other rows.

        Decisions of a customer are also those made for ids that went into it; they keep those ids.
        Files and row groups that cannot hold them are left out by their bounds, so that a customer of a table
        sorted by customer is found in milliseconds.

        Raises:
            MissingError: when no step has written the table yet.
            DataError: when a file is damaged.
        """
        if name in merged.DECIDED and column == "customer_id" and self.has("aliases"):
            known = self.table("aliases")
            gone = known.filter(pc.is_in(known["customer_id"], value_set=pa.array(values, pa.string())))
            values = [*values, *gone["alias_id"].to_pylist()]
        with connect() as connection:
            _view(connection, "looked_up", self, name)
            query = f'from looked_up where "{column}" in (select unnest($values))'
            if len(values) == 1:  # a constant prunes; a list does not
                query = f'from looked_up where "{column}" = $values[1]'
            return connection.sql(query, params={"values": list(values)}).to_arrow_table()

    def broken_laws(self) -> list[str]:
        """Name the laws across tables that this history breaks, with the number of rows."""
        out = []
        with self.connection() as connection:
            for law in tables.LAWS:
                if all(self.has(name) for name in law.needs):
                    n = connection.execute(f"select count(*) from ({law.sql})").fetchall()[0][0]
                    out += [f"{law.name}: {n} rows break it"] if n else []
        return out


class Snapshot:
    """What was known at a moment, as DuckDB views under the tables' names.

    Tables that no step has written yet are there without rows. Use it as a context manager or call
    `close`; `connection` gives the views, `sql` runs one query on them.
    """

    def __init__(self, history: History, at: datetime, memory_gb: float | None = None) -> None:
        self.history = history
        self.at = at.astimezone(UTC)
        # Each looks back with a folder of its own.
        folder = history.root / FOLDER
        self._spill = Spill(folder) if memory_gb is not None and folder.is_dir() else None
        self.connection = connect(memory_gb=memory_gb, spill=self._spill.path if self._spill else None)
        moment = f"timestamptz '{self.at:%Y-%m-%d %H:%M:%S.%f}+00'"
        if history.has("aliases"):
            then = merged.then(_scan(history, "aliases"), moment)
            self.connection.execute(f"create table aliases_then as {then}").fetchall()
        followed = _follow(self.connection, history, moment)
        for name, visible in _VISIBLE.items():
            if name in followed:
                pass  # made above
            elif name == "customers" and all(_has_rows(history, n) for n in (name, "states")):
                _view(self.connection, "states_all", history, "states")
                _as_told(self.connection, history, name, moment)
            elif history.has(name):
                _view(self.connection, f"{name}_all", history, name)
            else:
                self.connection.register(f"{name}_all", tables.BY_NAME[name].empty())
            if name in _ARRIVED:
                visible = _with_arrival(self.connection, name, visible)
            condition = visible.replace("$at", moment)
            view = f"from {name}_all where {condition}"
            if name in tables.BEFORE and _has_earlier(history, name):
                view = _with_earlier(self.connection, history, name, condition, moment)
            self.connection.execute(f"create view {name} as {view}").fetchall()

    def sql(self, query: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        """Run one query over what was known."""
        return self.connection.sql(query, params=parameters).to_arrow_table()

    def table(self, name: str) -> pa.Table:
        """Read one table as it was known."""
        return self.sql(f"from {name}")

    def close(self) -> None:
        """Free the connection, and what it spilled."""
        self.connection.close()
        if self._spill is not None:
            self._spill.close()

    def __enter__(self) -> "Snapshot":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _follow(connection: duckdb.DuckDBPyConnection, history: History, moment: str) -> set[str]:
    # Views of what was decided for customers of then, beside `aliases_then`; gives the tables that have them.
    decided = {name for name in merged.DECIDED if history.has("aliases") and history.has(name)}
    for name in decided:
        _view(connection, f"{name}_raw", history, name)
    for view, query in merged.views(decided, moment).items():
        connection.execute(f"create view {view} as {query}").fetchall()
    return decided


def _as_told(connection: duckdb.DuckDBPyConnection, history: History, name: str, moment: str) -> None:
    # Consent and attributes as they were; unknown, and not allowed, before anything was told of a customer of
    # whom all that is told is dated.
    fields = [c for c in connection.sql("from states_all limit 0").columns if c not in tables.STATES.key]
    packed = ", ".join(f'"{name}"' for name in fields)
    was = ", ".join(
        f'case when since_id is null then "{name}" else {_then(name)} end as "{name}"' for name in fields
    )
    connection.execute(
        f"""create view {name}_all as
        select * exclude (since_id, was) replace ({was}) from {_scan(history, name)} left join (
            select customer_id as since_id,
                arg_max(struct_pack({packed}), since_at) filter (since_at < {moment}) as was
            from states_all group by 1) on since_id = customer_id"""
    ).fetchall()


def _then(name: str) -> str:
    return f'coalesce(was."{name}", false)' if name.startswith("can_") else f'was."{name}"'


def _has_rows(history: History, name: str) -> bool:
    return history.has(name) and history.n_rows(name) > 0


def _with_earlier(
    connection: duckdb.DuckDBPyConnection, history: History, name: str, condition: str, moment: str
) -> str:
    # Rows as they stood, until what took their place was known.
    before = tables.BEFORE[name]
    if name == "customers" and _has_rows(history, "states"):
        _as_told(connection, history, before, moment)
    else:
        _view(connection, f"{before}_all", history, before)
    columns = ", ".join(f'"{c}"' for c in connection.sql(f"select * from {name}_all limit 0").columns)
    return (
        f"select {columns} from {name}_all where {condition} union all"
        f" select {columns} from {before}_all where {condition} and superseded_at >= {moment}"
    )


def _with_arrival(connection: duckdb.DuckDBPyConnection, name: str, visible: str) -> str:
    # Tables of earlier versions have no such column.
    columns = connection.sql(f"select * from {name}_all limit 0").columns
    column, arrived = _ARRIVED[name]
    return f"{visible} and {arrived}" if column in columns else visible


def replace_text(path: Path, text: str) -> None:
    """Write a small file so that readers see the old or the new text, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _view(connection: duckdb.DuckDBPyConnection, view: str, history: History, name: str) -> None:
    try:
        connection.execute(f'create view "{view}" as from {_scan(history, name)}').fetchall()
    except duckdb.Error as error:
        raise DataError(
            f"the table {name} cannot be read: {str(error).splitlines()[0]}",
            f"A file is damaged: run the step that writes {name} again, or restore the file.",
        ) from None


def _scan(history: History, name: str) -> str:
    if name == "aliases":
        columns = ", ".join(f"null::{kind} as {column}" for column, kind in _ALIAS.items())
        return f"(from {_written(history, name)} union all by name (select {columns} where false))"
    if name in _FOLLOWING and history.has_pending_aliases:
        rows, aliases = _written(history, name), _scan(history, "aliases")
        return merged.moved(name, rows, aliases, is_dated=_is_dated(history))
    if not _is_held(history, name):
        return _written(history, name)
    own = merged.held(_HELD[name], _written(history, _HELD[name]), _scan(history, "aliases"))
    return f"(from {_written(history, name)} union all by name from {own})" if history.has(name) else own


def _written(history: History, name: str) -> str:
    files = ", ".join("'" + path.replace("'", "''") + "'" for path in history.paths(name))
    return f"read_parquet([{files}], union_by_name = true)"


def _is_held(history: History, name: str) -> bool:
    # Whether there are rows in a table of what was before that stand in another on disk.
    of = _HELD.get(name, "")
    return history.has(of) and history.has_pending_aliases and _is_dated(history)


def _has_earlier(history: History, name: str) -> bool:
    return _has_rows(history, tables.BEFORE[name]) or _is_held(history, tables.BEFORE[name])


def _is_dated(history: History) -> bool:
    # Aliases of earlier versions do not tell since when.
    return any("joined_at" in pq.read_schema(path).names for path in history.paths("aliases"))


def _write(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")


def _sweep(folder: Path, keep: set[str]) -> None:
    # Files of interrupted or replaced writes; the version before this one stays for open readers.
    for path in folder.glob("*/*.parquet"):
        if f"{path.parent.name}/{path.name}" not in keep:
            path.unlink(missing_ok=True)
