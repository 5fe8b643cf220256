"""The `nba` command: every step of the flow, in the order in which they run."""

import os

# Spinning OpenMP threads collapse on busy machines; this must be set before LightGBM is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import sys

import typer
from rich.markup import escape

from nba.errors import NbaError
from pipelines.commands import batches, histories, pages, readers, training, tries
from pipelines.commands.shown import console

app = typer.Typer(
    name="nba",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help=(
        "Next-best-action experimentation platform.\n\n"
        "A *workspace* is a folder with `nba.toml`. In the order of the flow: `simulate` makes a world to "
        "try things on, `ingest` reads raw sources into one history, `decide` chooses and delivers a batch, "
        "`respond` lets the simulated world answer, `feedback` gathers outcomes, `train` builds models from "
        "them and registers the policy; `learn` is its nightly form, whose challengers pass `promote` (and "
        "`rollback`); `scenario` asks what if; `analyze`, `attribute`, `clv`, `evaluate` read what happened; "
        "`overview` gathers it for the `app`. `demo` runs all of it."
    ),
)
# Help lists the areas in this order, which is that of the flow.
for area in (tries, histories, batches, training, readers, pages):
    app.add_typer(area.app)
_INTERRUPTED = "Interrupted. Nothing is half-written; run the same command again to go on."


def main() -> None:
    """Run the command; the user's own mistakes end in one clear message, not a traceback."""
    try:
        # Typer turns Ctrl-C into the number 130, which it returns.
        if app(standalone_mode=False) == 130:
            raise KeyboardInterrupt
    except NbaError as error:
        console.print(f"[bold red]Error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(getattr(error, "exit_code", 1))
    except (KeyboardInterrupt, typer.Abort):
        console.print(_INTERRUPTED)
        sys.exit(130)
    except Exception as error:
        if type(error).__module__.startswith(("click", "typer")) and hasattr(error, "show"):
            error.show()
            sys.exit(getattr(error, "exit_code", 2))
        if str(error) == "Query interrupted":  # DuckDB's word for Ctrl-C
            console.print(_INTERRUPTED)
            sys.exit(130)
        raise


if __name__ == "__main__":
    main()
