"""Send delivered batches to the sinks of a workspace."""

from pathlib import Path
from typing import Any

from nba import settings
from nba.serving import delivery, sinks
from pipelines.progress import Progress, silent


def deliver(workspace: Path, batch_id: str, *, progress: Progress | None = None) -> list[dict[str, Any]]:
    """Send a delivered batch to every sink; sending it again changes nothing.

    Args:
        workspace: Folder of the workspace.
        batch_id: The batch.
        progress: Where to report.

    Returns:
        One row per sink: its name, kind, and the decisions that are now there.

    Raises:
        MissingError: when the batch has not been delivered, or a library is not installed.
        DataError: when the batch is unsound, or a sink holds another of that name.
    """
    progress = progress or silent()
    config = settings.read(workspace)
    delivery.check_name(batch_id)
    folder = delivery.folder_of(workspace / config.delivery.path, batch_id)
    delivery.read_manifest(folder)
    rows = []
    for sink in config.delivery.sinks:
        step = progress.step(f"delivering to {sink.name}", total=1)
        rows.append({"sink": sink.name, "kind": sink.kind, "decisions": sinks.send(folder, sink)})
        step(1)
    return rows
