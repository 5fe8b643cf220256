"""Uplift against response targeting, on the log of a workspace and on Hillstrom's e-mail test."""

from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd

from nba import metrics, settings, targeting, tracking
from nba.draws import uniform
from nba.histories import hillstrom as source
from nba.history import History
from nba.models import compare
from nba.models.classifier import ResponseClassifier
from nba.models.ensemble import UpliftEnsemble
from nba.models.gate import Gate
from nba.models.scorer import Scorer
from pipelines import train


def log(workspace: Path, at: datetime) -> compare.Comparison:
    """Hold a workspace's champion against the stack, on every decision that had closed by a moment.

    Raises:
        MissingError: when there is no champion, or no decision has closed.
    """
    config = settings.read(workspace)
    tracking.setup(config, workspace)
    folder, _ = tracking.load_policy(tracking.policy_name(config), tracking.CHAMPION)
    history = History.read(workspace)
    examples = train.examples(history, at)
    catalog = settings.read_catalog(workspace, config)
    logged = train.candidates(history)
    champion, seed = Scorer.load(folder), config.workspace.seed
    return compare.compare(champion, examples, catalog, config.models, seed, logged=logged)


def hillstrom(data: Path, share: float = 0.3) -> tuple[pd.DataFrame, Gate]:
    """Rank one half of the test by models of the other: by uplift, by response, and at random.

    Args:
        data: The public CSV file.
        share: Share of the customers that get the e-mail.

    Returns:
        One row per ranking: Qini (scikit-uplift's) with its 95% interval, uplift in the first `share`, and
        visits per customer when they alone get the women's e-mail; and what the gate recommends.
    """
    frame = source.read(data)
    frame = frame[frame["segment"] != "Mens E-Mail"].reset_index(drop=True)
    X = pd.get_dummies(frame.drop(columns=["segment", "visit", "conversion", "spend"])).to_numpy(dtype=float)
    y = frame["visit"].to_numpy(dtype=float)
    mailed = (frame["segment"] == "Womens E-Mail").to_numpy()
    arm = np.where(mailed, "email", "none")
    draw = uniform([str(i) for i in range(len(y))], "uplift-notebook")
    old, new = draw < 0.5, draw >= 0.5
    stack = UpliftEnsemble().fit(X[old], y[old], arm[old], {"none": 0.5, "email": 0.5})
    response = ResponseClassifier().fit(X[old], y[old])
    ranks = {
        "uplift": stack.predict(X[new]),
        "response": response.predict_proba(X[new])[:, 1],
        "random": draw[new],
    }
    rows = {}
    t = mailed[new].astype(int)
    for name, rank in ranks.items():
        found = metrics.qini_interval(y[new], rank, t, np.random.default_rng(0))
        chosen = metrics.first(rank, share)
        policy = np.column_stack([1 - chosen, chosen])
        rows[name] = {
            "qini": found.value,
            "qini from": found.lower,
            "qini to": found.upper,
            f"uplift at {share:.0%}": metrics.uplift_at(y[new], rank, t, share),
            "visits": targeting.policy_value(y[new], t, np.full(len(t), 0.5), policy, "sn"),
        }
    return pd.DataFrame(rows).T, stack.gate_
