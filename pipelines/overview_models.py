"""Gather for pages: what the champion believes on average, from a sample of the last batch."""

import numpy as np
import pyarrow as pa

from nba import settings, tracking
from nba.catalog import Catalog
from nba.errors import NbaError
from nba.history import History
from nba.models.scorer import Scorer

SAMPLE = 5_000
_MEANS = pa.schema([("treatment_id", pa.string()), ("p_response", pa.float64()), ("uplift", pa.float64())])
_ROWS = """
    select * from features where as_of = (select max(as_of) from features)
    order by hash(customer_id) limit {n}
"""


def means(history: History, config: settings.Settings, catalog: Catalog) -> pa.Table:
    """Score a sample of the last batch with the champion and average by treatment.

    Returns:
        Columns treatment_id, p_response, uplift; no rows where there is no model yet.
    """
    if not history.has("features"):
        return _MEANS.empty_table()
    tracking.setup(config, history.root)
    try:
        folder, _version = tracking.load_policy(tracking.policy_name(config))
    except NbaError:
        return _MEANS.empty_table()
    scores = Scorer.load(folder).scores(history.sql(_ROWS.format(n=SAMPLE)), catalog)
    found = [np.nanmean(part, axis=0) for part in (scores.p_response, scores.uplift)]
    return pa.table([pa.array(catalog.treatment_ids), *found], schema=_MEANS)
