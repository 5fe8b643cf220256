"""Cached reading of a workspace: which ones there are, and its small tables."""

import json
import os
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import streamlit as st

from nba import monitoring, settings, tables
from nba.errors import DataError, MissingError, NbaError
from nba.experiments import judged as judging
from nba.history import FOLDER, INDEX, History

VARIABLE = "NBA_WORKSPACE"
SCRIPT = "Home.py"
DEFAULT = Path("workspaces/demo")
# The step that fills each table that a page reads.
STEP = {
    "decisions": "decide",
    "batches": "decide",
    "effects": "analyze",
    "credits": "attribute",
    "attribution": "attribute",
    "attribution_parts": "attribute",
    "clv": "clv",
    "policy_values": "evaluate",
    "readouts": "analyze",
    "clv_groups": "clv",
    "clv_grid": "clv",
    "clv_deciles": "clv",
    "clv_scores": "clv",
    "incremental": "attribute",
    "value_finder": "evaluate",
    "ablations": "evaluate",
    "lever_costs": "candidates",
    "scenarios": "scenario",
    "promotion_evidence": "promote",
    "diagnostics": "evaluate",
    "models": "train",
    "looks": "analyze",
    "path_statistics": "attribute",
    "choices": "decide",
    "features": "decide",
    "quality": "ingest",
    "quarantine": "ingest",
    "customers": "ingest",
    "summary": "overview",
    "alerts": "nightly",
    "runs": "nightly",
}


@dataclass(frozen=True)
class Reader:
    """One workspace at one version, read table by table.

    Attributes:
        root: Its folder.
        history: Its tables.
        config: Its settings.
    """

    root: Path
    history: History
    config: settings.Settings

    @property
    def currency(self) -> str:
        """ISO code of all money."""
        return self.config.workspace.currency

    @property
    def headline_arm(self) -> str:
        """The arm decided by the champion, else the first that is not the control."""
        experiment = self.config.experiment
        arms = [arm for arm in experiment.arms if arm.name != experiment.control]
        champions = [arm.name for arm in arms if arm.policy == "champion"]
        return [*champions, *(arm.name for arm in arms), experiment.control][0]

    @property
    def arms(self) -> list[str]:
        """All arms that figures may draw, the headline's first: each has one colour everywhere."""
        declared = (self.config.experiment, *self.config.experiments)
        names = [self.headline_arm, *(arm.name for one in declared for arm in one.arms)]
        return [name for name in dict.fromkeys(names) if name != "holdout"]

    @property
    def response_arms(self) -> set[str]:
        """Arms that rank by the response alone: what they expect is not incremental."""
        declared = (self.config.experiment, *self.config.experiments)
        return {arm.name for one in declared for arm in one.arms if arm.policy == "response_greedy"}

    def names(self, by: str) -> list[str]:
        """All names of the catalog that figures by action or campaign may draw, for their colours."""
        try:
            actions = settings.read_catalog(self.root, self.config).actions
        except NbaError:
            return []  # what is wrong with it is told where the catalog is read
        named = {"action_id": [a.action_id for a in actions]}
        named["campaign"] = [f"{a.issue} / {a.group}" for a in actions]
        return sorted(set(named.get(by, [])) - {"none"})

    def has(self, name: str) -> bool:
        """Say whether a table has been written and has rows, without reading it."""
        if not self.history.has(name):
            return False
        try:
            return any(pq.ParquetFile(path).metadata.num_rows for path in self.history.paths(name))
        except (OSError, pa.ArrowInvalid):
            return self.table(name).num_rows > 0  # says which file is damaged

    def table(self, name: str) -> pa.Table:
        """Read a table that keeps its contract.

        Raises:
            MissingError: when no step has written it yet.
            DataError: when it is damaged.
        """
        return _table(self.history, str(self.root), self.history.version, name)

    def lookup(self, name: str, column: str, *values: str) -> pa.Table:
        """Read the rows of a table in which a column has one of the values; none where it is not there."""
        if not self.history.has(name) or not values:
            return tables.BY_NAME[name].empty()
        return _lookup(self.history, str(self.root), self.history.version, name, column, values)

    def rows(self, name: str, **equal: object) -> list[dict[str, Any]]:
        """Read the rows of a table in which the named columns have the given values."""
        return where(self.table(name), **equal).to_pylist()

    def number(self, measure: str) -> float | None:
        """Read one of the single numbers; None where it is unknown."""
        found = self.rows("summary_numbers", measure=measure)
        return found[0]["value"] if found else None

    def moment(self, measure: str) -> datetime | None:
        """Read one of the single moments; None where it is unknown."""
        found = self.rows("summary_numbers", measure=measure)
        return found[0]["at"] if found else None

    def declared(self, experiment_id: str) -> settings.Experiment | None:
        """Give the declaration of an experiment; None where the settings no longer have it."""
        known = (self.config.experiment, *self.config.experiments)
        return next((one for one in known if one.experiment_id == experiment_id), None)

    def metric(self, name: str, experiment_id: str) -> settings.Measured | None:
        """Give the declaration of an experiment's metric; None where nothing is known of it."""
        return (self.declared(experiment_id) or self.config.experiment).measured(name)

    def judged(self, effects: pa.Table, experiment_id: str) -> pa.Table:
        """Give effects over all customers with the interval that the verdict goes by.

        Args:
            effects: Rows of `summary_effects` of one experiment.
            experiment_id: The experiment.

        Returns:
            The `judged` table.
        """
        declared = self.declared(experiment_id)
        guards = [m.name for m in declared.metrics if m.role == "guardrail"] if declared else []
        looks, readouts = (
            self.table(name) if self.has(name) else tables.BY_NAME[name].empty()
            for name in ("looks", "readouts")
        )
        return judging.judged(effects, looks, readouts, guards)

    def runs(self) -> pa.Table:
        """Read the records of the newest nights and weeks."""
        return monitoring.runs(self.root)

    def command(self, table: str) -> str:
        """Give the command that fills a table."""
        name = "summary" if table.startswith("summary") else table
        return f"nba {STEP[name]} {self.root}"


def leading(judged: pa.Table) -> pa.Table:
    """Put what the verdict goes by in the place of what one reading gives, for figures and sentences.

    A relative interval and a total are of one reading, or of another moment than an older look: unknown then.
    """
    out = []
    for row in judged.to_pylist():
        changed = {"effect": row["judged_effect"]}
        for end in ("lower", "upper"):
            changed |= {end: row[f"judged_{end}"], f"total_{end}": row[f"judged_total_{end}"]}
            if row["basis"] != judging.READING:
                changed[f"relative_{end}"] = None
        out.append(row | changed)
    return tables.JUDGED.build(out)


def where(table: pa.Table, **equal: object) -> pa.Table:
    """Keep the rows in which the named columns have the given values."""
    for name, value in equal.items():
        table = table.filter(pc.equal(table[name], pa.scalar(value, table[name].type)))
    return table


def workspaces() -> dict[str, Path]:
    """Find the workspace the app was started with, and those beside it; that one comes first.

    Only these can be named in the URL, so that a link cannot make the app read another folder.

    Raises:
        MissingError: when there is none.
    """
    # Other programs that run the script, such as tests, have arguments of their own.
    own = sys.argv[1:] if Path(sys.argv[0]).name == SCRIPT else []
    given = own[0] if own else os.environ.get(VARIABLE, "")
    start = Path(given).expanduser() if given else DEFAULT
    start = start.absolute()
    beside = sorted(start.parent.iterdir()) if start.parent.is_dir() else []
    found = [path for path in beside if (path / settings.FILE).is_file()]
    ordered = [path for path in found if path == start] + [path for path in found if path != start]
    if not (start / settings.FILE).is_file():
        raise MissingError(f"{start} has no {settings.FILE}")
    return {path.name: path for path in ordered}


def read(root: Path) -> Reader:
    """Read a workspace as it stands now.

    Raises:
        NbaError: when its settings or the list of its tables cannot be used.
    """
    config = settings.read(root)
    try:
        history = History.read(root)
    except (json.JSONDecodeError, KeyError, AttributeError, TypeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{root / FOLDER / INDEX} cannot be read: {error}",
            "Restore this file from a copy of the workspace.",
        ) from None
    return Reader(root, history, config)


@st.cache_resource(max_entries=200, show_spinner=False)
def _table(_history: History, root: str, version: int, name: str) -> pa.Table:  # noqa: ARG001
    found = _history.table(name)
    contract = tables.BY_NAME.get(name)
    # Its columns are as old as itself: one that is not there was lost, not added later.
    lost = [f for f in tables.SUMMARY_NUMBERS.columns if f not in found.column_names]
    if name == "summary_numbers" and lost:
        raise DataError(f"the table {name} lacks {lost}", f"Run `nba overview {root}`.")
    return contract.conform(found) if contract else found


@st.cache_data(max_entries=500, show_spinner=False)
def _lookup(
    _history: History,
    root: str,  # noqa: ARG001
    version: int,  # noqa: ARG001
    name: str,
    column: str,
    values: tuple[str, ...],
) -> pa.Table:
    return tables.BY_NAME[name].conform(_history.lookup(name, column, values))
