"""Judge attribution methods on worlds in which the truth is known."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pandas as pd

from nba.histories import simulated_paths as worlds
from nba.history import History
from pipelines import attribute
from pipelines.progress import silent

AT = datetime(2026, 3, 2, tzinfo=UTC)
Difficulty = Literal["easy", "real", "hard"]
CAUSED = "caused (holdout and timing)"


@dataclass(frozen=True)
class Judged:
    """How far each method is from the truth in one world.

    Attributes:
        wrong: By method, the part of the credit on the wrong channel (total variation), 0 to 1.
        table: The `attribution` table over the whole period, one row per method and channel.
    """

    wrong: pd.Series
    table: pd.DataFrame


def judge(difficulty: Difficulty, methods: Sequence[str], n: int = 20_000, seed: int = 1) -> Judged:
    """Attribute one simulated world by every method and set the shares against what was caused.

    Args:
        difficulty: easy, real or hard: how strongly intent channels follow demand.
        methods: Names as in the `[attribution]` settings.
        n: Customers of the world.
        seed: Of the world.
    """
    ads = [ad.name for ad in worlds.ADS]
    caused, _, _ = worlds.truth(difficulty, 30_000)
    world = worlds.simulate(difficulty, n, seed=seed, holdout=0.2)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        holdouts = "".join(f'{name} = "holdout_{name}"\n' for name in ads)
        text = (
            f'[workspace]\nname = "{difficulty}"\n[attribution]\nlookback_days = 60\n'
            f"methods = {json.dumps(list(methods))}\n[attribution.holdouts]\n{holdouts}"
        )
        (root / "nba.toml").write_text(text, encoding="utf-8")
        History.read(root).commit(append=world.to_tables())
        attribute.attribute(root, AT, progress=silent())
        table = History.read(root).table("attribution").to_pandas()
    table = table[(table["period"] == "all") & (table["channel"] != "all")]
    truth = pd.Series(caused / caused.sum(), index=ads)
    wrong = {}
    for method, rows in table.groupby("method"):
        share = rows.set_index("channel")["credited"] / rows["credited"].sum()
        wrong[str(method)] = float(share.sub(truth, fill_value=0).abs().sum()) / 2
    linear = table[table["method"] == "linear"].set_index("channel")
    own = linear["incremental"].reindex(ads).clip(lower=0)
    wrong[CAUSED] = float((own / own.sum() - truth).abs().sum()) / 2
    return Judged(pd.Series(wrong), table)
