"""What the contract is made of: kinds of field, tables that check themselves, and ready-made fields."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nba.errors import DataError, listed

TIME = pa.timestamp("us", tz="UTC")

_TYPES: dict[str, pa.DataType] = {
    "id": pa.string(),
    "code": pa.string(),
    "text": pa.string(),
    "number": pa.float64(),
    "count": pa.int64(),
    "flag": pa.bool_(),
    "time": TIME,
}


@dataclass(frozen=True)
class Field:
    """One column of a table.

    Attributes:
        kind: id, code, text, number, count, flag or time.
        doc: What it means, in one phrase.
        unit: Unit of a number (money, days, probability 0-1); empty where the kind says it.
        nullable: Whether unknown is allowed; a number may be NaN only where nullable.
        low, high: Closed bounds of a number or count.
        values: The closed list of a code.
    """

    name: str
    kind: str
    doc: str
    unit: str = ""
    nullable: bool = False
    low: float | None = None
    high: float | None = None
    values: tuple[str, ...] = ()

    @property
    def type(self) -> pa.DataType:
        """The Arrow type of the column."""
        return _TYPES[self.kind]


@dataclass(frozen=True)
class Table:
    """One table of the contract: its key, fields and laws, one check, one printed page.

    Attributes:
        open_prefix: Further columns with this prefix are allowed (``f_``, ``a_``), or "" for none.
        laws: Sentences that hold beyond single fields; the executable ones stand in `LAWS`.
    """

    name: str
    doc: str
    key: tuple[str, ...]
    fields: tuple[Field, ...]
    open_prefix: str = ""
    laws: tuple[str, ...] = field(default=())

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema with unit and doc as field metadata (without the open columns)."""
        return pa.schema(
            [
                pa.field(f.name, f.type, f.nullable, metadata={"doc": f.doc, "unit": f.unit})
                for f in self.fields
            ]
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the declared columns, in order."""
        return tuple(f.name for f in self.fields)

    def faults(self, table: pa.Table) -> list[str]:
        """Name everything in which a table breaks this contract; empty if nothing."""
        found = table.column_names
        missing = [name for name in self.columns if name not in found]
        extra = [name for name in found if name not in self.columns and not self._is_open(name)]
        out = []
        if missing:
            out.append(f"missing columns {missing}; found {found}")
        if extra:
            out.append(f"unexpected columns {extra}")
        for spec in self.fields:
            if spec.name in found:
                out += _field_faults(spec, table[spec.name])
        if not missing and table.num_rows and not _rises(table[self.key[0]]):
            repeats = table.num_rows - table.group_by(list(self.key)).aggregate([]).num_rows
            if repeats:
                out.append(f"{repeats} rows repeat the key {self.key}, such as {self._repeated(table)}")
        return out

    def _repeated(self, table: pa.Table, most: int = 3) -> str:
        counted = table.group_by(list(self.key), use_threads=False).aggregate([([], "count_all")])
        found = (
            counted.filter(pc.greater(counted["count_all"], 1)).slice(0, most).select(self.key).to_pylist()
        )
        return ", ".join("/".join(str(value) for value in row.values()) for row in found)

    def check(self, table: pa.Table) -> pa.Table:
        """Return the table unchanged if it keeps the contract.

        Raises:
            DataError: naming every fault at once.

        Example:
            >>> from nba.tables import OUTCOMES
            >>> OUTCOMES.check(OUTCOMES.empty()).num_rows
            0
        """
        faults = self.faults(table)
        if faults:
            raise listed(
                faults,
                f"{self.name} breaks its contract",
                f"see the {self.name} table in docs/data-dictionary.md",
            )
        return table

    def empty(self) -> pa.Table:
        """Return the table without rows."""
        return self.schema.empty_table()

    def build(self, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
        """Make and check a table from rows; absent nullable fields become null."""
        rows = list(rows)
        opened = sorted({name for row in rows for name in row if self._is_open(name)})
        data = {f.name: pa.array([row.get(f.name) for row in rows], f.type) for f in self.fields}
        data |= {name: pa.array([row.get(name) for row in rows]) for name in opened}
        return self.conform(pa.table(data))

    def conform(self, table: pa.Table) -> pa.Table:
        """Order the columns, cast to the contract's types, add absent nullable columns, and check.

        Raises:
            DataError: when a cast fails or the contract is broken.
        """
        data: dict[str, Any] = {}
        faults = []
        for spec in self.fields:
            if spec.name in table.column_names:
                try:
                    data[spec.name] = table[spec.name].cast(spec.type)
                except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                    faults.append(f"{spec.name}: cannot be read as {spec.kind} ({error})")
            elif spec.nullable:
                data[spec.name] = pa.nulls(table.num_rows, spec.type)
        if faults:
            raise listed(faults, f"{self.name} breaks its contract")
        data |= {name: table[name] for name in table.column_names if self._is_open(name)}
        extra = [name for name in table.column_names if name not in data and name not in self.columns]
        if extra:
            raise DataError(f"{self.name} breaks its contract:\n- unexpected columns {extra}")
        return self.check(pa.table(data).replace_schema_metadata(None)) if data else self.check(table)

    def sample(self, n: int, rng: np.random.Generator) -> pa.Table:
        """Make n random rows that keep the contract (for tests)."""
        data = {f.name: _sample(f, n, rng, unique=f.name in self.key) for f in self.fields}
        return self.check(pa.table(data))

    def page(self) -> str:
        """Print the table as a section of the data dictionary, in Markdown."""
        head = f"## {self.name}\n\n{self.doc}\n\nKey: `{', '.join(self.key)}`\n\n"
        rows = ["| field | kind | unit | may be unknown | meaning |", "|---|---|---|---|---|"]
        for f in self.fields:
            meaning = f.doc + (f" One of: {', '.join(f.values)}." if f.values else "")
            rows.append(f"| `{f.name}` | {f.kind} | {f.unit} | {'yes' if f.nullable else ''} | {meaning} |")
        if self.open_prefix:
            rows.append(f"| `{self.open_prefix}*` | | | yes | further columns, as declared |")
        laws = "".join(f"\n- {law}" for law in self.laws)
        return head + "\n".join(rows) + (f"\n\nLaws:\n{laws}" if laws else "") + "\n"

    def _is_open(self, name: str) -> bool:
        return bool(self.open_prefix) and name.startswith(self.open_prefix)


def _rises(column: pa.ChunkedArray) -> bool:
    # Whether each value is above the one before: then none repeats, and none need be looked up.
    return pc.all(pc.less(column[:-1], column[1:]), skip_nulls=False).as_py() is True


def _field_faults(spec: Field, column: pa.ChunkedArray) -> list[str]:
    if column.type != spec.type:
        return [f"{spec.name}: type {column.type}; expected {spec.type}"]
    out = []
    nulls = column.null_count
    if pa.types.is_floating(column.type):
        nulls += pc.sum(pc.is_nan(column)).as_py() or 0
    if nulls and not spec.nullable:
        out.append(f"{spec.name}: {nulls} values unknown")
    if spec.low is not None and (n := pc.sum(pc.less(column, spec.low)).as_py()):
        out.append(f"{spec.name}: {n} values below {spec.low:g} (lowest {pc.min(column).as_py():g})")
    if spec.high is not None and (n := pc.sum(pc.greater(column, spec.high)).as_py()):
        out.append(f"{spec.name}: {n} values above {spec.high:g} (highest {pc.max(column).as_py():g})")
    if spec.values:
        odd = sorted(set(pc.unique(column).to_pylist()) - set(spec.values) - {None})
        if odd:
            out.append(f"{spec.name}: values {odd[:5]} are not among {list(spec.values)}")
    return out


def _sample(spec: Field, n: int, rng: np.random.Generator, *, unique: bool) -> pa.Array:
    if spec.kind == "time":
        start = datetime(2026, 1, 1, tzinfo=UTC)
        return pa.array([start + timedelta(seconds=int(s)) for s in rng.integers(0, 10**7, n)], TIME)
    if spec.kind == "flag":
        return pa.array(rng.random(n) < 0.5)
    if spec.kind in ("number", "count"):
        low = 0.0 if spec.low is None else spec.low
        high = low + 1.0 if spec.high is None else spec.high
        values = low + (high - low) * (0.01 + 0.98 * rng.random(n))
        counted = np.arange(n) + int(low) if unique and spec.kind == "count" else values
        return pa.array(counted).cast(spec.type, safe=False)
    if spec.values:
        return pa.array(rng.choice(spec.values, n).tolist(), pa.string())
    names = [f"{spec.name}_{i}" for i in (range(n) if unique else rng.integers(0, max(n // 3, 1), n))]
    return pa.array(names, pa.string())


def _f(kind: str) -> Any:
    def make(name: str, doc: str, unit: str = "", **more: Any) -> Field:
        return Field(name, kind, doc, unit, **more)

    return make


identifier, code, text = _f("id"), _f("code"), _f("text")


number, count, flag, time = _f("number"), _f("count"), _f("flag"), _f("time")


def interval(name: str, doc: str, unit: str) -> tuple[Field, Field, Field]:
    """Return an estimate and the ends of its interval, each unknown where it can't be had."""
    low = number(f"{name}_lower", "lower end of its interval", unit, nullable=True)
    high = number(f"{name}_upper", "upper end of its interval", unit, nullable=True)
    return number(name, doc, unit, nullable=True), low, high


def chance(name: str, doc: str, **more: Any) -> Field:
    """Return a field of probabilities."""
    return Field(name, "number", doc, "probability 0-1", low=0.0, high=1.0, **more)


def money(name: str, doc: str, **more: Any) -> Field:
    """Return a field in the workspace's currency."""
    return Field(name, "number", doc, "money", **more)


def is_yes(value: str) -> str:
    """Write in SQL whether a flag says yes, be it a flag, a number or a text; unknown is no."""
    words = "'true', 't', 'yes', 'y', '1', '1.0', 'si', 'sí'"
    return f"coalesce(lower(trim(({value})::varchar)) in ({words}), false)"


CUSTOMER = identifier("customer_id", "the unified customer")


TREATMENT = identifier("treatment_id", "what is sent; `none` is doing nothing")


KNOWN = time(
    "known_at", "when it became known to us, of this customer; unknown is when it happened", nullable=True
)
