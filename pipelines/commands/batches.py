"""Commands of the nightly batch: decide, verify, deliver, gather outcomes."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.shown import AtOption, WorkspaceArg, line, moment, out, run, show, waiting

PANEL = "Batches"
app = typer.Typer()


@app.command(rich_help_panel=PANEL)
def decide(
    workspace: WorkspaceArg,
    at: AtOption = None,
    batch_id: Annotated[
        str | None, typer.Option("--batch", help="Name of the batch; from --at if left out.")
    ] = None,
    corrects: Annotated[
        str | None, typer.Option("--corrects", help="A delivered batch that this one takes the place of.")
    ] = None,
    audience: Annotated[
        str | None,
        typer.Option(help="Only customers of whom this holds, such as: a_country = 'ES' and can_email."),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="local, spark (as spark-submit says), or a Spark master's URL.")
    ] = "local",
    spark_features: Annotated[
        bool, typer.Option("--spark-features", help="Spark computes the features too.")
    ] = False,
) -> None:
    """Decide one batch, for every customer or an audience, and deliver it as files with a manifest."""
    from pipelines import decide as step

    report = run(
        lambda progress: step.decide(
            workspace,
            moment(at),
            batch_id,
            corrects=corrects,
            engine=engine,
            spark_features=spark_features,
            audience=audience,
            progress=progress,
        )
    )
    show(f"Batch {report.batch_id}", report.rows)
    out.print(f"Delivered to {report.folder}")


@app.command(rich_help_panel=PANEL)
def verify(
    folder: Annotated[Path, typer.Argument(help="Folder of a delivered batch.", show_default=False)],
) -> None:
    """Check a delivered batch as a consumer would: manifest, counts, hashes, contract."""
    from nba.serving import delivery

    delivery.verify(folder)
    out.print(f"{folder} keeps its contract.")


@app.command(rich_help_panel=PANEL)
def deliver(
    workspace: WorkspaceArg,
    batch_id: Annotated[str, typer.Option("--batch", help="Batch to send.", show_default=False)],
) -> None:
    """Send a delivered batch to every sink of the workspace; sending it again changes nothing."""
    from pipelines import deliver as step

    show(f"Batch {batch_id}", run(lambda progress: step.deliver(workspace, batch_id, progress=progress)))


@app.command(rich_help_panel=PANEL)
def nightly(workspace: WorkspaceArg, at: AtOption = None) -> None:
    """Ingest, close outcomes, decide, verify, deliver, raise alerts, report; goes on where it failed."""
    from pipelines import nightly as step

    run(lambda progress: step.nightly(workspace, moment(at), progress=progress, write=line))


@app.command(rich_help_panel=PANEL)
def weekly(workspace: WorkspaceArg, at: AtOption = None) -> None:
    """Judge the challenger, train the next on what has closed, evaluate; goes on where it failed."""
    from pipelines import weekly as step

    run(lambda progress: step.weekly(workspace, moment(at), progress=progress, write=line))


@app.command(rich_help_panel=PANEL)
def feedback(workspace: WorkspaceArg, at: AtOption = None) -> None:
    """Turn orders and touches into outcomes of decisions whose reward window has closed."""
    from pipelines import feedback as step

    report = run(lambda progress: step.feedback(workspace, moment(at), progress=progress))
    show("Outcomes", report.rows)
    if report.n_waiting:
        out.print(waiting(report.n_waiting))
    if report.n_corrected:
        out.print(f"{report.n_corrected} earlier outcomes were corrected by what arrived late.")
    if report.faults:
        show(
            "Touches that do not count for the decision they name (table feedback_faults)",
            report.faults,
        )
