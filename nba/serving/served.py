"""The policy of one batch as something that MLflow can serve: the same decisions for the same customers.

What is kept: the models' own files (LightGBM text, JSON, arrays without pickles), the catalog as Parquet, the
settings and the cuts of the batch as JSON. What is asked: customer_id, the features, and which treatments
the customer may have, as bits (`eligible`, bit j for column j of the catalog). What is answered: the decision
that the batch makes for that customer.
"""

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nba.catalog import Catalog
from nba.errors import DataError, SettingsError
from nba.experiments import design
from nba.policy import arbitrate, levers, trimming
from nba.policy.explore import Estimate
from nba.policy.streamed import Cut
from nba.serving.deciders import Worth, believed
from nba.serving.jobs import Drawn, Job, Scored
from nba.serving.writing import finish_part
from nba.settings import Settings

LOADER = "nba.serving.served:Served"
ELIGIBLE = "eligible"
_ANSWER = ("decision_id", "treatment_id", "channel", "arm", "p_action", "expected_value")
_PLAN = "plan.json"


@dataclass(frozen=True)
class Served:
    """The policy of a batch.

    Attributes:
        job: What is the same for all customers.
        drawn: The cuts that the batch's limits left.
    """

    job: Job
    drawn: Drawn

    @classmethod
    def load(cls, folder: Path) -> "Served":
        """Read what `save` wrote; nothing is unpickled."""
        plan = json.loads((Path(folder) / _PLAN).read_text(encoding="utf-8"))
        actions, treatments = (
            pq.ParquetFile(Path(folder) / f"{n}.parquet").read() for n in ("actions", "treatments")
        )
        models = {
            alias: _class(loader).load(Path(folder) / f"model-{alias}")
            for alias, loader in plan["models"].items()
        }
        at = datetime.fromisoformat(plan["at"])
        catalog = Catalog.from_tables(*(t.replace_schema_metadata(None) for t in (actions, treatments)))
        job = Job(
            plan["batch_id"], at, catalog, Settings.model_validate(plan["settings"]), models,
            np.array(plan["nuisance"]), at, units=plan.get("units", {}),
        )  # fmt: skip
        m = len(job.limited.names)
        read = (Cut(*(np.array(cut[name]) for name in Cut._fields)) for cut in plan["cuts"])
        cuts = tuple(cut._replace(counts=cut.counts.reshape(m, trimming.BINS)) for cut in read)  # m may be 0
        drawn = Drawn(
            cuts, np.zeros((len(cuts), m), np.int64), np.zeros(len(cuts), np.int64), np.zeros((len(cuts), m))
        )
        return cls(job, drawn)

    def wide(self, asked: pa.Table) -> pa.Table:
        """Decide for customers.

        Args:
            asked: Columns customer_id, eligible (int64, bits) and f_*.

        Returns:
            Columns decision_id, treatment_id, channel, arm, p_action, expected_value (NaN where unknown).

        Raises:
            DataError: when a column is missing.
        """
        missing = [name for name in ("customer_id", ELIGIBLE) if name not in asked.column_names]
        if missing:
            raise DataError(f"columns {missing} are missing; found {asked.column_names}", "Send them too.")
        rows = finish_part(self.job, self._part(asked), self.drawn, log=False)
        found = rows.decisions.select(list(_ANSWER))
        value = np.asarray(found["expected_value"].to_numpy(), dtype=np.float64)
        return found.set_column(len(_ANSWER) - 1, "expected_value", pa.array(value))

    def _part(self, asked: pa.Table) -> Scored:
        job = self.job
        ids = asked["customer_id"].combine_chunks().cast(pa.string())
        names = ids.to_pylist()
        placed = design.place(job.config, names, job.at, units=job.units)
        arms = [rule.arm for rule in job.rules]
        arm = np.array([arms.index(name) for name in placed.arm], dtype=np.int16)
        n, k = len(names), len(job.catalog.treatment_ids)
        bits = asked[ELIGIBLE].to_numpy().astype(np.int64)[:, None] >> np.arange(k) & 1
        reason = np.where(bits > 0, 0, 1).astype(np.int8)
        reason[:, 0] = 0
        scores = {alias: model.scores(asked, job.catalog) for alias, model in job.models.items()}
        mean, se = np.full((n, k), np.nan), np.full((n, k), np.nan)
        chosen = job.config.policy.levers
        context = levers.contexts(asked, chosen)
        weight = levers.weights(context, chosen, job.catalog)
        worth = Worth(arbitrate.fatigue(job.nuisance, asked), None, weight)
        for i in np.unique(arm):
            own: Estimate = believed(job.rules[i], scores, job.catalog, worth, n)
            mean[arm == i], se[arm == i] = own.mean[arm == i], own.se[arm == i]
        zeros = np.zeros(n, dtype=np.int16)
        return Scored(
            ids, pa.nulls(n, pa.string()), arm, zeros, placed.p_arm, zeros, mean, se, reason, context
        )


def save(job: Job, drawn: Drawn, folder: Path, loaders: Mapping[str, str]) -> None:
    """Write the policy of a batch.

    Args:
        job: The batch, with its models.
        drawn: Its cuts.
        folder: Folder to make.
        loaders: Alias of a model to "module:Class", whose `load(folder)` reads what `model.save` wrote.

    Raises:
        SettingsError: when decisions rest on more than features and eligibility.
    """
    if any(trial.audience for trial in job.config.experiments) or job.config.reward.clv_actions:
        raise SettingsError(
            "audiences of trials and actions valued by lifetime value need more than features",
            "Serve batches, or take them out of nba.toml.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in zip(("actions", "treatments"), job.catalog.to_tables()):
        pq.write_table(table, folder / f"{name}.parquet")
    for alias, model in job.models.items():
        model.save(folder / f"model-{alias}")  # type: ignore[attr-defined]
    plan = {
        "batch_id": job.batch_id,
        "at": job.at.isoformat(),
        "settings": job.config.model_dump(mode="json"),
        "nuisance": job.nuisance.tolist(),
        "units": dict(job.units),
        "models": {alias: loaders[alias] for alias in job.models},
        "cuts": [
            {name: np.asarray(part).tolist() for name, part in zip(Cut._fields, cut)} for cut in drawn.cuts
        ],
    }
    (folder / _PLAN).write_text(json.dumps(plan), encoding="utf-8")


def _class(loader: str) -> Any:
    module, name = loader.split(":")
    return getattr(importlib.import_module(module), name)
