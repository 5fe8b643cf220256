"""Online Retail through the chain: unify, features at several cut-offs, chance to buy, lifetime value."""

import shutil
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from nba import settings
from nba.errors import MissingError
from nba.history import History
from pipelines import clv, ingest, train_snapshots
from pipelines.example import make_example
from pipelines.progress import Progress, silent

EXAMPLE = Path(__file__).parent / "workspaces" / "online_retail"
HORIZON_DAYS, CUTOFFS = 30, 4


@dataclass(frozen=True)
class OnlineRetailResult:
    """What was found.

    Attributes:
        sources: What ingestion kept of each source.
        purchases: Quality of the chance to buy, on a cut-off later than all it was learnt from.
        lifetime: Summary of customer lifetime value.
    """

    sources: list[dict[str, Any]]
    purchases: list[dict[str, Any]]
    lifetime: list[dict[str, Any]]


def online_retail(workspace: Path, data: Path, *, progress: Progress | None = None) -> OnlineRetailResult:
    """Run the chain on the public file; running it again changes nothing that is done.

    Args:
        workspace: Folder to make, or one made by an earlier run.
        data: The public file, Parquet.
        progress: Where to report.

    Raises:
        MissingError, DataError: when the file is absent or is another; no table is written then.
    """
    progress = progress or silent()
    if not data.is_file():
        raise MissingError(
            f"{data} does not exist; expected the Online Retail file",
            "Fetch UCI's Online Retail set, save it as Parquet, and name it with --data.",
        )
    was_there = workspace.exists()
    make_example(EXAMPLE, workspace)
    try:
        report = ingest.ingest(workspace, data=data, progress=progress)
    except BaseException:
        if not was_there:  # a wrong file leaves nothing behind
            shutil.rmtree(workspace)
        raise
    asked = {"horizon_days": HORIZON_DAYS, "cutoffs": CUTOFFS}
    found = train_snapshots.train_snapshot(workspace, **asked, progress=progress)
    orders = History.read(workspace).sql("select max(ordered_at) as last from orders")
    end = orders["last"][0].as_py() + timedelta(seconds=1)
    values = clv.clv(workspace, end, progress=progress).to_pandas()
    lifetime = {
        "customers": len(values),
        "known": int(values["clv"].notna().sum()),
        "p_alive": float(values["p_alive"].mean()),
        "expected orders": float(values["expected_orders"].mean()),
        "mean value": float(values["clv"].mean()),
        "share of the top tenth": _top_tenth(values["clv"].dropna().sort_values(ascending=False)),
        "currency": settings.read(workspace).workspace.currency,
        "note": "; ".join(filter(None, dict.fromkeys(values.loc[values["clv"].notna(), "reason"]))),
    }
    purchases = [{"measure": name, "value": value} for name, value in found.metrics.items()]
    return OnlineRetailResult(report.rows, purchases, [lifetime])


def _top_tenth(ranked: Any) -> float:
    return float(ranked.head(max(len(ranked) // 10, 1)).sum() / ranked.sum()) if len(ranked) else float("nan")
