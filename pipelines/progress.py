"""Progress of long work: steps say what they do, the terminal shows it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

Advance = Callable[[float], None]

_MANY = 100  # amounts, and amounts per second, from which a rate says something


class Progress(Protocol):
    """What a step needs to report how far it is."""

    def step(self, text: str, total: float | None = None) -> Advance:
        """Begin a part of the work; the function returned is called with the amount done since."""
        ...


class _Silent:
    def step(self, text: str, total: float | None = None) -> Advance:  # noqa: ARG002
        return lambda _amount: None


class _Terminal:
    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._last: int | None = None

    def step(self, text: str, total: float | None = None) -> Advance:
        self._finish()
        task = self._bars.add_task(text, total=total, done=0.0)
        self._last = number = int(task)
        done = 0.0

        def advance(amount: float) -> None:
            nonlocal done
            if self._last == number:  # once another step began, this one counts as done
                done += amount
                self._bars.update(task, advance=amount, done=done)

        return advance

    def _finish(self) -> None:
        if self._last is not None:
            task = self._bars.tasks[self._last]
            total = task.total if task.total is not None else 1.0
            self._bars.update(task.id, total=total, completed=total)


class _Rate(ProgressColumn):
    # Amounts per second since the step began, where they are many: Rich's own speed is of the last moments,
    # and counts the leap to the end of a step that ended early.
    def render(self, task: Task) -> Text:
        done = float(task.fields.get("done", 0.0))
        taken = task.elapsed if task.finished_time is None else task.finished_time
        speed = done / taken if taken and done >= _MANY else 0.0
        return Text(f"{speed:,.0f}/s" if speed >= _MANY else "")


def silent() -> Progress:
    """Report nowhere (for tests and programs)."""
    return _Silent()


@contextmanager
def terminal(console: Console) -> Iterator[Progress]:
    """Show one line per step with a bar, its count, rate, and the time taken and left."""
    columns = (
        SpinnerColumn(finished_text="[green]✓[/]"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console) as bars:
        shown = _Terminal(bars)
        yield shown
        shown._finish()
