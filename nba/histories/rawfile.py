"""A raw file that is opened: its text, unpacked, and what is found wrong while it is read."""

import io
import lzma
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

# How files begin that are compressed, whatever they are called; Arrow reads the first four by itself.
_PACKED = {
    b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4",
    b"\xfd7zXZ\0": "xz", b"PK\x03\x04": "zip",
}  # fmt: skip


class Fault(Exception):  # noqa: N818 (it is gathered with others, and then one error is raised)
    """What is wrong with one source or file, in one phrase."""


@dataclass
class Raw:
    """One opened file.

    Attributes:
        sql: What stands after `from`.
        types: Arrow types of the wanted columns c0, c1, ...
        chunks: Tables that stand in turn under the name `raw_input`; None where `sql` reads by itself.
        malformed: Rows that do not have the header's number of fields, and what is wrong; complete once
            the rows have been read.
        garbled: Rows that hold text in UTF-8 though the encoding is another; complete likewise.
        n_rows: Rows in the file, once they have been read (where they come in chunks).
        unknown: Which wanted keys stand in no row of a JSON lines file, in words.
        endless: A malformed row that swallows many lines, if there is one.
    """

    sql: str
    types: tuple[pa.DataType, ...]
    chunks: Iterator[pa.Table] | None = None
    malformed: dict[int, str] = field(default_factory=dict)
    garbled: set[int] = field(default_factory=set)
    n_rows: int = 0
    endless: int | None = None
    unknown: str = ""


class Text(io.RawIOBase):
    """The text of a file, unpacked, that counts its quotes while it is read."""

    def __init__(self, path: Path) -> None:
        self.n_quotes = 0
        kind = packed(path)
        self._inner: Any = None
        if kind == "zip":
            self._inner = _only_member(path)
        elif kind == "xz":
            self._inner = lzma.LZMAFile(path)  # noqa: SIM115 (closed with this one)
        elif kind:
            self._inner = pa.CompressedInputStream(pa.OSFile(str(path)), kind)
        else:
            self._inner = path.open("rb")

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Read so many bytes, or all that are left."""
        data: bytes = self._inner.read(size) if size >= 0 else self._inner.read()
        self.n_quotes += data.count(b'"')
        return data

    def close(self) -> None:
        """Close the file too."""
        if self._inner is not None:
            self._inner.close()
        super().close()


def packed(path: Path) -> str:
    """Say how a file is compressed, by how it begins; nothing if it is not."""
    with path.open("rb") as file:
        head = file.read(6)
    return next((kind for begin, kind in _PACKED.items() if head.startswith(begin)), "")


def _only_member(path: Path) -> Any:
    try:
        archive = zipfile.ZipFile(path)
        names = [name for name in archive.namelist() if not name.endswith("/")]
        if "[Content_Types].xml" in names:
            raise Fault("is an Excel workbook; save the sheet as CSV")
        if len(names) != 1:
            raise Fault(f"is a zip archive of {len(names)} files; expected one, or unpack it")
        return archive.open(names[0])
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise Fault(f"is a zip archive that cannot be read: {error}") from None
