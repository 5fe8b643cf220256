"""Commands that open pages in a browser."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.shown import WorkspaceArg

PANEL = "Pages"
app = typer.Typer()


@app.command(rich_help_panel=PANEL)
def mlflow(workspace: WorkspaceArg = Path("workspaces/demo"), port: int = 5000) -> None:
    """Open MLflow's pages on the store of a workspace."""
    from pipelines import app as step

    step.run_mlflow(workspace, port)


@app.command(rich_help_panel=PANEL, name="app")
def open_app(
    workspace: WorkspaceArg = Path("workspaces/demo"),
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 8501,
) -> None:
    """Open the app for marketers on a workspace."""
    from pipelines import app as step

    step.run(workspace, port)
