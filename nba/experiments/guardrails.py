"""How each guardrail of an experiment stands at the newest look, on the scale that its rule compares."""

import pyarrow as pa
import pyarrow.compute as pc

from nba import tables
from nba.experiments import decision
from nba.experiments.readout import horizon_days
from nba.settings import Experiment


def standing(experiment: Experiment, looks: pa.Table) -> pa.Table:
    """Say of each guardrail and arm whether it held at the newest look, by the rule of the verdict.

    Args:
        experiment: Its declaration.
        looks: The table of that name.

    Returns:
        The `guardrails` table: effect, interval and limit over the days for which limits are declared, those
        of the plan or 28; what a ratio of totals compares has no days.
    """
    out = []
    for metric in experiment.metrics:
        if metric.role != "guardrail":
            continue
        ours = pc.and_(
            pc.equal(looks["experiment_id"], experiment.experiment_id), pc.equal(looks["metric"], metric.name)
        )
        newest = {row["arm"]: row for row in looks.filter(ours).sort_by("looked_at").to_pylist()}
        for arm, row in newest.items():
            lower, upper = row["scale"] * row["lower"], row["scale"] * row["upper"]
            limit = -metric.margin if metric.is_good else metric.margin
            oriented = (lower, upper) if metric.is_good else (-upper, -lower)
            shown = decision.Shown(metric.name, *oriented, metric.margin)
            out.append(
                {
                    "experiment_id": experiment.experiment_id, "metric": metric.name, "arm": arm,
                    "looked_at": row["looked_at"], "limit": limit,
                    "effect": None if row["effect"] is None else row["scale"] * row["effect"],
                    "always_lower": lower, "always_upper": upper,
                    "days": None if metric.denominator else horizon_days(experiment),
                    "standing": decision.standing(shown),
                }
            )  # fmt: skip
    return tables.GUARDRAILS.build(out)
