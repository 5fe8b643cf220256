"""What the commands share: the command itself, its common options, and how tables are shown."""

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from nba.errors import NbaError
from pipelines.progress import Progress, terminal

T = TypeVar("T")
WorkspaceArg = Annotated[Path, typer.Argument(help="Folder of the workspace.", show_default=False)]
AtOption = Annotated[
    str | None,
    typer.Option("--at", help="The moment to look back from, such as 2026-03-02T06:00Z; now if left out."),
]
DataOption = Annotated[
    Path | None, typer.Option("--data", help="File or folder that `{data}` in the sources stands for.")
]
console = Console(stderr=True)
# Tables in a file or a pipe are not squeezed into the 80 columns of a terminal that is not there.
out = Console(width=None if sys.stdout.isatty() else 140)


def run(work: Callable[[Progress], T]) -> T:
    """Run one step with progress bars on the terminal."""
    with terminal(console) as progress:
        return work(progress)


def moment(at: str | None) -> datetime:
    """Read the moment of `--at`; now where it was left out. Raises NbaError where it is no date or time."""
    if at is None:
        return datetime.now(UTC).replace(microsecond=0)
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        hint = "Write it as 2026-03-02, 2026-03-02T06:00Z or 2026-03-02T06:00+01:00."
        raise NbaError(f"--at is {at!r}; expected a date or time in ISO 8601", hint) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Print rows as a table whose columns are the keys of the first."""
    if not rows:
        out.print(f"{title}: nothing to show")
        return
    shown = Table(title=title, title_justify="left")
    for name in rows[0]:
        shown.add_column(name, justify="right" if isinstance(rows[0][name], int | float) else "left")
    for row in rows:
        shown.add_row(*(cell(value) for value in row.values()))
    out.print(shown)


def with_interval(row: dict[str, Any], *names: str) -> dict[str, Any]:
    """Put `name`, `name from` and `name to` of a row into one cell each."""
    ends = {f"{name} {end}" for name in names for end in ("from", "to")}
    out = {key: value for key, value in row.items() if key not in ends}
    for name in names:
        low, high = row[f"{name} from"], row[f"{name} to"]
        if low is not None:
            out[name] = f"{row[name]:.3g} ({low:.3g} to {high:.3g})"
    return out


def cell(value: Any) -> str:
    """Write one value as a reader wants it; unknown is a dash."""
    if value is None or (isinstance(value, float) and value != value):
        return "–"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    return str(value)


def waiting(n: int) -> str:
    """Say that windows wait for data."""
    return f"{n:,} decisions wait: their window has ended, but what was ingested does not reach its end yet."


def between(value: float | None, lower: float | None, upper: float | None) -> str:
    """Write an estimate with the ends of its interval."""
    if value is None:
        return "–"
    low, high = ("…" if end is None else cell(end) for end in (lower, upper))
    return cell(value) if lower is None and upper is None else f"{cell(value)} ({low} to {high})"


def line(text: str) -> None:
    """Write one line of JSON per step, never wrapped: programs read it."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
