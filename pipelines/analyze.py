"""Read the experiments of a workspace: what each arm changed against its control, and the verdicts."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from nba import settings, tables
from nba.errors import DataError, MissingError
from nba.experiments import readout, store
from nba.experiments.actions import action_effects
from nba.history import History
from pipelines.progress import Progress, silent


def analyze(workspace: Path, at: datetime, *, progress: Progress | None = None) -> pa.Table:
    """Compare the arms of every experiment with their control; keep effects, looks and verdicts.

    A customer counts from its assignment, whatever it then received (intention to treat), up to the last
    matured moment: the last one at or before `at` at which a reward window closed. Customers whose first
    window has not closed by then do not count yet.

    Args:
        workspace: The workspace folder.
        at: Moment of the readout; nothing later is seen.
        progress: Where to report.

    Returns:
        The `effects` table; `readouts`, `looks`, `action_effects` and the cube are kept beside it.

    Raises:
        MissingError: when no batch was decided yet.
    """
    progress = progress or silent()
    config = settings.read(workspace)
    history = History.read(workspace)
    if not history.has("assignments"):
        raise MissingError(f"{workspace} has no assignments yet", "Run `nba decide` first.")
    history.check_before("assignments", "assigned_at", at)
    experiments = (config.experiment, *config.experiments)
    advance = progress.step("comparing the arms", total=len(experiments) + 1)
    found = []
    with history.as_of(at) as snapshot:
        for experiment in experiments:
            stored = _stored(history, experiment.experiment_id)
            window = config.reward.window_days
            try:
                found.append(readout.read(snapshot, experiment, window, config.experiment, stored))
            except DataError as error:
                # One declaration that cannot be read leaves the others their readout.
                found.append(readout.unreadable(experiment, "; ".join(error.message.splitlines())))
            advance(1)
        actions = action_effects(snapshot, config.experiment.level)
        advance(1)
    kept = {name: _together(name, found) for name in ("effects", "readouts", "looks")}
    kept["action_effects"] = actions
    for name in store.Stored._fields:
        kept[name] = _together(name, [part.stored for part in found])
    history.commit(replace=kept)
    return kept["effects"]


def _together(name: str, parts: Sequence[object]) -> pa.Table:
    # Some experiments have rows and others none yet, whose schemas differ in what may be null.
    return pa.concat_tables([tables.BY_NAME[name].conform(getattr(part, name)) for part in parts])


def _stored(history: History, experiment_id: str) -> store.Stored:
    # What an earlier run kept of this experiment.
    parts = []
    for name in store.Stored._fields:
        empty = tables.BY_NAME[name].empty().replace_schema_metadata(None)
        table = history.table(name) if history.has(name) else empty
        parts.append(table.filter(pc.equal(table["experiment_id"], experiment_id)))
    return store.Stored(*parts)
