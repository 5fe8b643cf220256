"""Commands to try the platform: the demo, a simulated world, two public sets of data."""

from pathlib import Path
from typing import Annotated

import typer

from nba.errors import NbaError
from pipelines.commands.shown import WorkspaceArg, out, run, show, with_interval

PANEL = "Try it"
app = typer.Typer()


@app.command(rich_help_panel=PANEL)
def demo(
    workspace: WorkspaceArg = Path("workspaces/demo"),
    customers: Annotated[int, typer.Option(help="Customers of the simulated world.", min=500)] = 20_000,
    batches: Annotated[int, typer.Option(help="Weekly batches.", min=3)] = 12,
    seed: Annotated[int, typer.Option(help="Seed of the world.")] = 7,
) -> None:
    """Run the whole loop on a simulated world and print what it was worth; goes on where it stopped."""
    from pipelines import demo as step

    result = run(lambda progress: step.demo(workspace, customers, batches, seed, progress=progress))
    rows = [with_interval(row, "measured", "true") for row in result.rows]
    show(f"Incremental value per customer after {batches} weekly batches ({result.currency})", rows)
    out.print(result.note)
    out.print(f"\nOpen the app:      [bold]make app[/]  (or `nba app {workspace}`)")
    out.print(f"Look at the models: `nba mlflow {workspace}`")


@app.command(rich_help_panel=PANEL)
def simulate(
    workspace: WorkspaceArg,
    customers: Annotated[int, typer.Option(help="Customers of the world.", min=100)] = 20_000,
    batches: Annotated[int, typer.Option(help="Weekly batches it can answer.", min=1)] = 12,
    seed: Annotated[int, typer.Option(help="Seed of the world.")] = 7,
) -> None:
    """Make a workspace with the raw source files of a simulated company whose truth is known."""
    from pipelines import simulate as step

    run(lambda progress: step.simulate(workspace, customers, seed, batches, progress=progress))
    out.print(f"Made {workspace}. Next: `nba ingest {workspace}`.")


@app.command(rich_help_panel=PANEL)
def respond(
    workspace: WorkspaceArg,
    batch_id: Annotated[str, typer.Option("--batch", help="Batch to answer.", show_default=False)],
) -> None:
    """Let the simulated world read a delivered batch and write the raw files of the following week."""
    from pipelines import simulate as step

    run(lambda progress: step.respond(workspace, batch_id, progress=progress))
    out.print(f"The week after {batch_id} is in {workspace / 'sources'}. Next: `nba ingest {workspace}`.")


@app.command(rich_help_panel=PANEL)
def hillstrom(
    workspace: Annotated[Path, typer.Argument(help="Folder to make.")] = Path("workspaces/hillstrom"),
    data: Annotated[
        Path | None, typer.Option("--data", help="The public CSV file.", show_default=False)
    ] = None,
) -> None:
    """Run Hillstrom's public e-mail test: learn on one half, judge on the other, decide for everyone."""
    from pipelines import hillstrom as step

    given = _given(
        data, "the MineThatData e-mail challenge file (Kevin Hillstrom, 2008), a CSV of 64,000 rows"
    )
    result = run(lambda progress: step.hillstrom(workspace, given, progress=progress))
    rows = [with_interval(row, "visits", "spend") for row in result.rows]
    show("Per customer of the half that was not learnt from, with 95% intervals", rows)
    show(f"Decided for everyone: batch {result.batch.batch_id}", result.batch.rows)
    out.print(f"Delivered to {result.batch.folder}")


@app.command(rich_help_panel=PANEL, name="online-retail")
def online_retail(
    workspace: Annotated[Path, typer.Argument(help="Folder to make.")] = Path("workspaces/online_retail"),
    data: Annotated[
        Path | None, typer.Option("--data", help="The public file, Parquet.", show_default=False)
    ] = None,
) -> None:
    """Run UCI's Online Retail: unify, features at several cut-offs, chance to buy in 30 days, CLV."""
    from pipelines import online_retail as step

    given = _given(data, "UCI's Online Retail set, saved as Parquet (541,909 rows)")
    result = run(lambda progress: step.online_retail(workspace, given, progress=progress))
    show("Ingested", result.sources)
    show(f"Chance to buy within {step.HORIZON_DAYS} days, judged on the last cut-off", result.purchases)
    show("Customer lifetime value", result.lifetime)


def _given(data: Path | None, what: str) -> Path:
    if data is None:
        raise NbaError(
            f"--data is missing; expected the path of {what}", "Fetch the file and name it with --data."
        )
    return data
