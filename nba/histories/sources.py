"""Raw source files: which there are, what columns they hold, and their rows with their numbers.

Every format becomes the same thing: a DuckDB `from` clause that gives `row_number` (from 1, without the
header; blank lines do not count), `is_row` (whether the line could be read as a row at all) and the wanted
columns as `c0`, `c1`, ... Text files and databases are read in chunks, each of which stands in turn under
the name `raw_input`, so that a source need not fit into memory; Parquet is streamed by DuckDB itself.
"""

import codecs
import contextlib
import difflib
import glob
import lzma
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nba.histories.rawfile import Fault, Raw, Text, packed
from nba.settings import Source

_BLOCK = 4 << 20
_HEAD = 1 << 20
_CHUNK = 128 << 20
INPUT = "raw_input"
_MOST_LINES = 100
_WIDE = {"iso8859-1", "iso8859-15", "cp1252"}
UNREADABLE = (
    duckdb.Error,
    pa.ArrowInvalid,
    UnicodeError,
    OSError,
    lzma.LZMAError,
    zipfile.BadZipFile,
    EOFError,
)


def find(source: Source, workspace: Path, data: Path | None = None) -> list[tuple[str, Path]]:
    """Find the files of a source.

    Args:
        source: The source.
        workspace: Folder that paths are relative to.
        data: What `{data}` stands for; a folder alone stands for its files of the source's format.

    Returns:
        Name as reports show it, and path; in order of name.

    Raises:
        Fault: when there is no such file and the source is not optional.
    """
    found = sorted(glob.glob(pattern(source, workspace, data), recursive=True))  # noqa: PTH207 (may be absolute)
    paths = [Path(name) for name in found if Path(name).is_file()]
    if not paths and not source.optional:
        raise Fault(
            f"no file {source.path!r}; mend the path, add the file, or set optional = true if it comes later"
        )
    return sorted((_shown(path, workspace.resolve(), data), path) for path in paths)


def pattern(source: Source, workspace: Path, data: Path | None = None) -> str:
    """Give the pattern by which a source's files are found.

    Raises:
        Fault: when it asks for the `{data}` that nobody named.
    """
    path = source.path
    if "{data}" in path:
        if data is None:
            raise Fault(f"its path is {path!r}, and no data folder or file was named; give it with --data")
        path = path.replace("{data}", glob.escape(str(data.resolve())))
        if source.path == "{data}" and data.is_dir():
            path += f"/*.{source.format}"
    return str(workspace.resolve() / path)


def open_file(
    connection: duckdb.DuckDBPyConnection, source: Source, path: Path, wanted: Sequence[str]
) -> Raw:
    """Open one file for reading its wanted columns.

    Raises:
        Fault: when it is empty, damaged, in another encoding or without a wanted column.
    """
    if not path.stat().st_size:
        raise Fault("is empty (0 bytes)")
    _refuse_other_format(source, path)
    if source.format == "parquet":
        return _open_parquet(path, wanted)
    try:
        codecs.lookup(source.encoding)
    except LookupError:
        raise Fault(f"encoding {source.encoding!r} is not known; utf-8 and latin-1 are usual") from None
    try:
        _refuse_utf8_as_latin(source, path, _HEAD)
        heard: list[str] = []
        with _hearing(heard):
            raw = (
                _open_csv(source, path, wanted)
                if source.format == "csv"
                else _open_jsonl(connection, source, path, wanted)
            )
        if raw.chunks is not None:
            raw.chunks = _each_heard(raw.chunks, heard)
        return raw
    except UNREADABLE as error:
        raise Fault(explain(error, source)) from None


def _refuse_other_format(source: Source, path: Path) -> None:
    # Whatever the file is called: what it holds shows by how it begins.
    with path.open("rb") as raw:
        is_parquet = raw.read(4) == b"PAR1"
    if is_parquet != (source.format == "parquet"):
        if is_parquet:
            raise Fault(f"is a Parquet file, not {source.format}; set format = 'parquet'")
        return  # what it is instead is told where it is opened
    if source.format == "csv":
        with contextlib.closing(Text(path)) as text:
            begins = text.read(64).removeprefix(codecs.BOM_UTF8).lstrip()
        if begins.startswith(b'{"'):
            raise Fault("holds JSON lines, not csv; set format = 'jsonl'")


def explain(error: BaseException, source: Source) -> str:
    """Say in the user's words what stopped the reading of a file."""
    text = str(error) or type(error).__name__
    if isinstance(error, UnicodeError) or "UTF8" in text or "UTF-8" in text:
        return f"is not in encoding {source.encoding}; set encoding (latin-1, cp1252, utf-16 are usual)"
    if "format specifier" in text:
        why = text.splitlines()[0].split(": ", 1)[-1]
        return f"cannot be read with time_format {source.time_format!r}: {why}"
    if "straddling" in text:
        return "holds a row that does not end: a quote is probably never closed"
    if "Empty CSV" in text:
        return "is empty"
    return f"cannot be read; it is damaged or truncated ({text.splitlines()[0][:120]})"


def is_truncated(raw: Raw, source: Source, path: Path, broken: set[int]) -> bool:
    """Say whether the file ends in the middle of a row: its last row is broken and has no line end.

    Args:
        raw: The file, read to its end.
        source: Its source.
        path: Where it is.
        broken: Row numbers that could not be read as rows.
    """
    if source.format == "parquet" or raw.n_rows not in broken or packed(path):
        return False
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) not in (b"\n", b"\r", b"\0")


def _shown(path: Path, workspace: Path, data: Path | None) -> str:
    folders = [workspace, *([data.resolve()] if data is not None else [])]
    for folder in folders:
        if path.is_relative_to(folder) and path != folder:
            return path.relative_to(folder).as_posix()
    return path.name


def _open_parquet(path: Path, wanted: Sequence[str]) -> Raw:
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise Fault(f"is not a whole Parquet file: {str(error).splitlines()[0][:120]}") from None
    _refuse_unknown(wanted, schema.names)
    columns = "".join(f", {quoted(name)} as c{i}" for i, name in enumerate(wanted))
    sql = (
        f"(select file_row_number + 1 as row_number, true as is_row{columns} "
        f"from read_parquet({literal(str(path))}, file_row_number = true))"
    )
    return Raw(sql, tuple(schema.field(name).type for name in wanted))


def _open_csv(source: Source, path: Path, wanted: Sequence[str]) -> Raw:
    read = csv.ReadOptions(use_threads=False, block_size=_BLOCK, encoding=source.encoding)
    parse = csv.ParseOptions(
        delimiter=source.delimiter, newlines_in_values=True, invalid_row_handler=lambda _: "skip"
    )
    with csv.open_csv(Text(path), read, parse) as head:
        header = [name.strip() for name in head.schema.names]
    delimiters = [d for d in ";,\t|" if d != source.delimiter and d in header[0]]
    hint = f" (delimiter is {source.delimiter!r}; the header holds {delimiters[0]!r})" if delimiters else ""
    _refuse_unknown(wanted, header, hint)
    repeated = sorted({name for name in wanted if header.count(name) > 1})
    if repeated:
        raise Fault(f"its header names {repeated} more than once; each mapped column must stand once")
    raw = Raw(INPUT, (pa.string(),) * len(wanted))
    names = [f"c{wanted.index(name)}" if name in wanted else f"x{i}" for i, name in enumerate(header)]
    chosen = [f"c{i}" for i in range(len(wanted))]

    def refuse(row: Any) -> str:
        lines = row.text.count("\n")
        if lines > _MOST_LINES or (lines and row.text.count('"') % 2):
            raw.endless = row.number - 1
        # Arrow counts the header as row 1.
        raw.malformed[row.number - 1] = f"{row.actual_columns} fields; the header has {row.expected_columns}"
        return "skip"

    def rows(columns: Sequence[str], handler: Callable[[Any], str], text: Text) -> csv.CSVStreamingReader:
        types = dict.fromkeys(names, pa.string())
        return csv.open_csv(
            text,
            csv.ReadOptions(
                use_threads=False, block_size=_BLOCK, encoding=source.encoding, column_names=names
            ),
            csv.ParseOptions(
                delimiter=source.delimiter, newlines_in_values=True, invalid_row_handler=handler
            ),
            csv.ConvertOptions(column_types=types, include_columns=list(columns), strings_can_be_null=False),
        )

    text = Text(path)
    reader = rows(chosen, refuse, text)
    schema = pa.schema(
        [("row_number", pa.int64()), ("is_row", pa.bool_()), *((c, pa.string()) for c in chosen)]
    )

    def batches() -> Iterator[pa.RecordBatch]:
        yield from _in_encoding(raw, source, path, _numbered(raw, reader, schema, n_header=1))
        # A quote that is never closed makes one field of all that follows, in whatever column.
        if text.n_quotes % 2:
            again = rows(names, lambda _: "skip", Text(path))
            if _ends_in_lines(again):
                raw.endless = raw.n_rows

    raw.chunks = chunked(batches(), schema)
    return raw


def _ends_in_lines(rows: Iterator[pa.RecordBatch]) -> bool:
    last = None
    for batch in rows:
        last = batch if batch.num_rows else last
    return last is not None and any("\n" in (column[-1].as_py() or "") for column in last.columns)


def _open_jsonl(
    connection: duckdb.DuckDBPyConnection, source: Source, path: Path, wanted: Sequence[str]
) -> Raw:
    # Lines are read as a CSV file of one column, cut at a character that JSON text cannot hold.
    def lines() -> csv.CSVStreamingReader:
        return csv.open_csv(
            Text(path),
            csv.ReadOptions(block_size=_BLOCK, encoding=source.encoding, column_names=["line"]),
            csv.ParseOptions(delimiter="\x01", quote_char=False, invalid_row_handler=refuse),
            csv.ConvertOptions(column_types={"line": pa.string()}, strings_can_be_null=False),
        )

    raw = Raw("", (pa.string(),) * len(wanted))

    def refuse(row: Any) -> str:
        raw.malformed[row.number] = "not a JSON object"
        return "skip"

    with lines() as reader:
        first = next(iter(reader), None)
    if first is None:
        raise Fault("is empty (no lines)")
    if first.num_rows and (first["line"][0].as_py() or "").lstrip("\ufeff ").startswith("["):
        raise Fault("is one JSON array; expected one object a line (`jq -c '.[]'` makes them)")
    top = list(dict.fromkeys(name.split(".")[0] for name in wanted))
    known = _json_keys(connection, pa.table([first["line"].slice(0, 10_000)], ["line"]))
    if not set(top) <= set(known):
        with lines() as reader:
            known = _json_keys(connection, reader)
    # A key may be absent from one file of many; from all of them, it is a mistake.
    raw.unknown = unknown(top, known)
    raw.malformed.clear()
    schema = pa.schema([("row_number", pa.int64()), ("line", pa.string())])
    numbered = _numbered(raw, lines(), schema, n_header=0)
    raw.chunks = chunked(_in_encoding(raw, source, path, numbered), schema)
    paths = ", ".join(literal("$" + "".join(f'."{part}"' for part in name.split("."))) for name in wanted)
    columns = "".join(f", j[{i + 1}] as c{i}" for i in range(len(wanted)))
    is_row = "case when json_valid(line) then json_type(line) = 'OBJECT' else false end"
    raw.sql = (
        f"(select row_number, is_row{columns} from (select row_number, is_row,"
        f" case when is_row then json_extract_string(line, [{paths}]) end as j"
        f" from (select row_number, line, {is_row} as is_row from {INPUT})))"
    )
    return raw


@contextlib.contextmanager
def _hearing(heard: list[str]) -> Iterator[None]:
    # That it cannot decode the row which a handler of ours is to refuse, Arrow tells Python's hook alone; it
    # does so a block ahead of the error.
    before = sys.unraisablehook

    def hook(told: Any) -> None:
        if isinstance(told.exc_value, UnicodeError) and getattr(told.object, "__module__", "") == __name__:
            heard.append(str(told.exc_value))
        else:
            before(told)

    sys.unraisablehook = hook
    try:
        yield
    except pa.ArrowInvalid:
        if heard:
            raise UnicodeError(heard[0]) from None
        raise
    finally:
        sys.unraisablehook = before


def _each_heard(chunks: Iterator[pa.Table], heard: list[str]) -> Iterator[pa.Table]:
    while True:
        with _hearing(heard):
            chunk = next(chunks, None)
        if chunk is None:
            return
        yield chunk


def chunked(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """Gather batches into tables of some hundred megabytes; without a batch, one empty table."""
    held: list[pa.RecordBatch] = []
    size, n = 0, 0
    for batch in batches:
        held.append(batch)
        size += batch.nbytes
        if size >= _CHUNK:
            yield pa.Table.from_batches(held, schema)
            held, size, n = [], 0, n + 1
    if held or not n:
        yield pa.Table.from_batches(held, schema)


def _numbered(
    raw: Raw, reader: csv.CSVStreamingReader, schema: pa.Schema, n_header: int
) -> Iterator[pa.RecordBatch]:
    # Malformed rows are reported before the batch that follows them, so their numbers can be left out.
    n, skip = 1, n_header
    for found in reader:
        batch = found.slice(skip)
        skip = max(0, skip - found.num_rows)
        refused = np.fromiter(raw.malformed, np.int64, len(raw.malformed))
        numbers = np.arange(n, n + batch.num_rows + int((refused >= n).sum()))
        numbers = numbers[~np.isin(numbers, refused)][: batch.num_rows]
        if not batch.num_rows:
            continue
        n = int(numbers[-1]) + 1
        data: dict[str, Any] = {name: batch[name] for name in batch.schema.names}
        data |= {"row_number": pa.array(numbers), "is_row": pa.repeat(True, batch.num_rows)}
        yield pa.record_batch([data[name] for name in schema.names], schema)
    raw.n_rows = max([n - 1, *raw.malformed])


def _json_keys(connection: duckdb.DuckDBPyConnection, lines: Any) -> list[str]:
    connection.register("raw_lines", lines)
    keys = connection.execute(
        "select distinct unnest(case when json_valid(line) and json_type(line) = 'OBJECT'"
        " then json_keys(line) end) from raw_lines order by 1"
    ).fetchall()
    connection.unregister("raw_lines")
    return [key for (key,) in keys]


def _refuse_unknown(wanted: Sequence[str], found: Sequence[str], hint: str = "") -> None:
    if told := unknown(wanted, found):
        raise Fault(told + hint)


def unknown(wanted: Sequence[str], found: Sequence[str]) -> str:
    """Say which wanted columns are not among those found; nothing if all are."""
    out = []
    for name in wanted:
        if name not in found:
            same = [other for other in found if other.lower() == name.lower()]
            near = same or difflib.get_close_matches(name, found, n=1)
            out.append(f"{name!r} (did you mean {near[0]!r}?)" if near else repr(name))
    return f"has no column {', '.join(out)}; found {list(found)}" if out else ""


def _refuse_utf8_as_latin(source: Source, path: Path, most: int = -1) -> None:
    # Any bytes are valid latin-1, so UTF-8 read as latin-1 would silently garble every accent.
    if codecs.lookup(source.encoding).name not in _WIDE:
        return
    decoder, is_ascii = codecs.getincrementaldecoder("utf-8")(), True
    with Text(path) as file:
        while most and (block := file.read(_BLOCK if most < 0 else most)):
            most = min(most, 0)
            try:
                is_ascii = decoder.decode(block).isascii() and is_ascii
            except UnicodeDecodeError:
                return
    if not is_ascii:
        raise Fault(f"is in utf-8, not in {source.encoding}; set encoding = 'utf-8'")


def _in_encoding(
    raw: Raw, source: Source, path: Path, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    # Single rows in UTF-8 within a file of another encoding are left out by their number.
    if codecs.lookup(source.encoding).name not in _WIDE:
        yield from batches
        return
    for batch in batches:
        bad = np.zeros(batch.num_rows, dtype=bool)
        for column in batch.columns:
            if pa.types.is_string(column.type):
                bad |= _is_garbled(column, source.encoding)
        if bad.any():
            if not raw.garbled:
                _refuse_utf8_as_latin(source, path)
            raw.garbled.update(batch["row_number"].filter(pa.array(bad)).to_pylist())
            batch = batch.filter(pa.array(~bad))
        yield batch


def _is_garbled(texts: pa.Array, encoding: str) -> NDArray[np.bool_]:
    # Text whose accents, written back, are well-formed UTF-8: hardly ever by chance.
    plain = pc.fill_null(pc.string_is_ascii(texts), True)
    if pc.all(plain).as_py():
        return np.zeros(len(texts), dtype=bool)
    found = []
    for text in pc.unique(texts.filter(pc.invert(plain))).to_pylist():
        with contextlib.suppress(UnicodeError):
            text.encode(encoding).decode("utf-8")
            found.append(text)
    return np.asarray(pc.is_in(texts, value_set=pa.array(found, texts.type)).to_numpy(zero_copy_only=False))


def quoted(name: str) -> str:
    """Write a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Write a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def among(value: str, words: Sequence[str]) -> str:
    """Write `value in (words)`, false for null; DuckDB would make a join of every longer `in`."""
    return f"case {value} {' '.join(f'when {literal(word)} then true' for word in words)} else false end"
