"""Commands that read raw sources into one history."""

from typing import Annotated

import typer

from nba.errors import NbaError
from pipelines.commands.shown import DataOption, WorkspaceArg, moment, out, run, show

PANEL = "Histories"
app = typer.Typer()


@app.command(rich_help_panel=PANEL)
def ingest(
    workspace: WorkspaceArg,
    data: DataOption = None,
    at: Annotated[
        str | None, typer.Option("--at", help="The moment by which freshness and clocks are judged.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only say what each source would give.")] = False,
) -> None:
    """Read the raw sources into one history: identities, consent, quarantine, quality (quality.html)."""
    from pipelines import ingest as step

    if check:
        rows = step.check(workspace, data=data).to_pylist()
        show("What each source would give", rows)
        if faulty := [row["source"] for row in rows if row["findings"].startswith(step.FAULT)]:
            raise NbaError(f"sources that cannot be used: {', '.join(faulty)}", "Mend what the table says.")
        return
    known_at = moment(at) if at is not None else None
    report = run(lambda progress: step.ingest(workspace, data=data, at=known_at, progress=progress))
    show("Ingested", report.rows)
    found = report.findings.to_pylist() if report.findings is not None else []
    if warned := [row for row in found if row["status"] != "ok"]:
        show(f"Worth a look ({workspace / step.REPORT} has all)", warned)
    if reasons := step.refused(workspace):
        show("In quarantine, and why (table quarantine has the rows)", reasons)


@app.command(rich_help_panel=PANEL)
def example(
    name: Annotated[str, typer.Argument(help="online_retail or complete_journey.", show_default=False)],
    workspace: WorkspaceArg,
) -> None:
    """Copy the settings and catalog of an example, to ingest a public data set or to change for your own."""
    from pipelines.example import EXAMPLES, make_example

    known = sorted(path.name for path in EXAMPLES.iterdir())
    if name not in known:
        raise NbaError(f"there is no example {name!r}", f"Name one of {known}.")
    make_example(EXAMPLES / name, workspace)
    out.print(f"Made {workspace}. Next: `nba ingest {workspace} --check --data FOLDER`.")


@app.command(rich_help_panel=PANEL)
def forget(
    workspace: WorkspaceArg,
    identifier: Annotated[str, typer.Argument(help="Any identifier of the person.", show_default=False)],
    kind: Annotated[str | None, typer.Option(help="Its kind, such as email; all if left out.")] = None,
) -> None:
    """Remove a person from every table, and keep it from coming back with the raw files."""
    from pipelines import forget as step

    report = step.forget(workspace, identifier, kind)
    if report.rows:
        show("Forgotten", [{"table": name, "rows removed": n} for name, n in report.rows.items()])
    else:
        out.print("The person stood in rows in quarantine only; they are gone.")
    out.print(f"{report.n_identifiers} identifiers; {report.n_staged} staged files will be read again.")
    if report.delivered:
        out.print(f"Delivered batches that still name the person: {', '.join(report.delivered)}")
    out.print("The raw files are yours to clean; until then their rows of this person are passed over.")
