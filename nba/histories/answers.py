"""The manifest that orchestration may lay beside its answers: which files a whole delivery holds.

A folder without one is read file by file, as any source. Where there is one, the files that it lists must be
there, with its hash and number of rows, so that half a delivery is never taken for the whole.
"""

import fnmatch
import glob
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nba.histories import sources
from nba.histories.rawfile import Fault
from nba.settings import Source

MANIFEST = "manifest.json"
SCHEMA = "nba.feedback/1"


class Entry(NamedTuple):
    """What a manifest says of a file."""

    rows: int
    sha256: str

    def check(self, rows: int, sha256: str) -> None:
        """Compare it with the file.

        Raises:
            Fault: naming what differs.
        """
        if sha256 != self.sha256:
            raise Fault(f"has sha256 {sha256}; its {MANIFEST} says {self.sha256}")
        if rows != self.rows:
            raise Fault(f"holds {rows} rows; its {MANIFEST} says {self.rows}")


def listed(source: Source, workspace: Path, data: Path | None = None) -> Mapping[Path, Entry]:
    """Read the manifests beside a source's files; there are some for answers of orchestration only.

    Returns:
        Path to what its manifest says, of all files of the source that a manifest lists.

    Raises:
        Fault: when a manifest cannot be read, or a file that it lists is not there.
    """
    if source.feedback is None:
        return {}
    pattern = Path(sources.pattern(source, workspace, data))
    out = {}
    for name in sorted(glob.glob(str(pattern.parent / MANIFEST), recursive=True)):  # noqa: PTH207 (may be absolute)
        path = Path(name)
        for file, told in _files(path).items():
            if fnmatch.fnmatch(file, pattern.name):
                there = path.parent / file
                if not there.is_file():
                    raise Fault(f"{there.parent.name}/{file} is missing; its {MANIFEST} lists it")
                out[there] = _entry(path, file, told)
    return out


def _files(path: Path) -> Mapping[str, Any]:
    shown = f"{path.parent.name}/{path.name}"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise Fault(f"{shown} is not valid JSON: {error}") from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        schema = found.get("schema") if isinstance(found, dict) else None
        raise Fault(f"{shown}: schema is {schema!r}; expected {SCHEMA!r}")
    files = found.get("files")
    if not isinstance(files, dict):
        raise Fault(f"{shown}: 'files' is {files!r}; expected the rows and sha256 of each file by its name")
    return files


def _entry(path: Path, file: str, told: Any) -> Entry:
    try:
        return Entry(int(told["rows"]), str(told["sha256"]))
    except (KeyError, TypeError, ValueError):
        raise Fault(
            f"{path.parent.name}/{path.name}: {file} needs 'rows' and 'sha256'; found {told!r}"
        ) from None
