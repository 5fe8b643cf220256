"""Example workspaces: settings and catalog to copy."""

import shutil
from pathlib import Path

from nba import settings
from nba.errors import DataError

EXAMPLES = Path(__file__).parent / "workspaces"


def make_example(example: Path, workspace: Path) -> None:
    """Copy the settings and catalog of an example into a workspace that has none yet.

    Raises:
        DataError: when the folder holds something else.
    """
    if (workspace / settings.FILE).is_file():
        if settings.read(workspace).workspace.name != settings.read(example).workspace.name:
            raise DataError(f"{workspace} is another workspace", "Name another folder.")
        return
    if workspace.exists() and any(workspace.iterdir()):
        raise DataError(f"{workspace} exists and is not empty", "Name another folder, or remove it.")
    shutil.copytree(example, workspace, dirs_exist_ok=True)
