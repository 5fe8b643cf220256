"""The simulated company: make its workspace, and let its world answer a delivered batch."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nba import settings
from nba.errors import DataError, MissingError
from nba.histories.simulated import FOLDER, World
from nba.serving import delivery
from pipelines.progress import Progress, silent

MANIFEST = "manifest.json"
_NEEDED = ["decision_id", "external_id", "treatment_id", "channel", "decided_at"]


@dataclass(frozen=True)
class Simulated:
    """What was made or played.

    Attributes:
        workspace: The folder.
        n_customers: People of the world, those who join later included.
        next_batch: Number of the batch that the world waits for.
        n_contacts: Contacts of the batch that was answered; 0 when the workspace was made.
    """

    workspace: Path
    n_customers: int
    next_batch: int
    n_contacts: int = 0


def simulate(
    workspace: Path,
    n_customers: int = 20_000,
    seed: int = 7,
    n_batches: int = 12,
    *,
    progress: Progress | None = None,
) -> Simulated:
    """Make a workspace of a simulated company: settings, catalog, raw files and the world behind them.

    A workspace that was made from the same options stays as it is.

    Args:
        workspace: Folder to make.
        n_customers: People, about 10 % of whom join during the batches.
        seed: Of the world.
        n_batches: Weekly batches over which people join and tastes drift.
        progress: Where to report.

    Raises:
        DataError: when the folder holds something else.
    """
    progress = progress or silent()
    if (workspace / FOLDER).is_dir():
        return _same(workspace, n_customers, seed, n_batches)
    advance = progress.step(f"living {n_customers:,} customers' 40 weeks before the first batch", total=2)
    world = World.create(n_customers, seed, n_batches=n_batches)
    advance(1)
    world.write_workspace(workspace)
    advance(1)
    return Simulated(workspace, n_customers, world.next_batch)


def _same(workspace: Path, n_customers: int, seed: int, n_batches: int) -> Simulated:
    world = World.load(workspace / FOLDER)
    made = world.options
    if (made.n_customers, made.seed, made.n_batches) != (n_customers, seed, n_batches):
        raise DataError(
            f"{workspace} holds a world of {made.n_customers} customers, seed {made.seed}, "
            f"{made.n_batches} batches; asked for {n_customers}, {seed}, {n_batches}",
            "Name another folder, or remove this one.",
        )
    return Simulated(workspace, n_customers, world.next_batch)


def has_responded(workspace: Path, batch_id: str) -> bool:
    """Say whether the world has answered a batch; False while it is not delivered."""
    folder = _folder(workspace, batch_id)
    return (folder / MANIFEST).is_file() and World.load(workspace / FOLDER).has_played(_delivered(folder))


def _folder(workspace: Path, batch_id: str) -> Path:
    return workspace / settings.read(workspace).delivery.path / f"batch_id={batch_id}"


def respond(workspace: Path, batch_id: str, *, progress: Progress | None = None) -> Simulated:
    """Let the world answer a delivered batch: play the week after it and write its raw files.

    A second call for the same batch changes nothing.

    Args:
        workspace: Folder of the workspace.
        batch_id: The delivered batch.
        progress: Where to report.

    Raises:
        MissingError: when there is no world, or the batch has not been delivered whole.
        DataError: when its files cannot be read, or it is not of the world's next week.
    """
    progress = progress or silent()
    delivery.check_name(batch_id)
    advance = progress.step(f"the world answers batch {batch_id}", total=3)
    world = World.load(workspace / FOLDER)
    decisions = _delivered(_folder(workspace, batch_id))
    advance(1)
    world.respond(decisions, workspace)
    advance(1)
    world.save(workspace / FOLDER)
    advance(1)
    n_contacts = sum(treatment != "none" for treatment in decisions["treatment_id"].to_pylist())
    return Simulated(workspace, world.options.n_customers, world.next_batch, n_contacts)


def _delivered(folder: Path) -> pa.Table:
    if not (folder / MANIFEST).is_file():
        raise MissingError(
            f"{folder / MANIFEST} does not exist; expected a batch that was delivered whole",
            "Run `nba decide` first, or wait until its manifest is there.",
        )
    parts = []
    for path in sorted(folder.glob("*.parquet")):
        try:
            parts.append(pq.ParquetFile(path).read(columns=_NEEDED))
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{path} cannot be read: {error}", "Deliver the batch again.") from None
    if not parts:
        raise MissingError(f"{folder} holds no Parquet files; expected the parts of a batch")
    return pa.concat_tables(parts)
