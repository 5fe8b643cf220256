from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from nba import metrics
from nba.models import latest


def timed(log, weeks):
    # The log's rows of three weeks, moved to the given ones.
    at = log.examples["as_of"].to_pylist()
    moved = [day + timedelta(weeks=weeks[i % 3] - i % 3) for i, day in enumerate(at)]
    kept = log.examples.drop_columns(["as_of"])
    return kept.append_column("as_of", pa.array(moved, pa.timestamp("us", tz="UTC")))


# by hand


def test_nothing_is_said_where_nothing_came_before(varied, catalog, quick):
    some = varied.examples.slice(0, 3000)
    assert latest.judge(some, catalog, quick, 0, window_days=30.0) == {}
    assert latest.judge(timed(varied, (0, 0, 0)).slice(0, 3000), catalog, quick, 0, window_days=0.0) == {}
    assert latest.judge(some.slice(0, 0), catalog, quick, 0, window_days=7.0) == {}


def test_nothing_is_said_where_no_customer_is_left_to_calibrate_on(varied, catalog, quick):
    some = varied.examples.slice(0, 3000)
    for customer in ("c0", "c1", "c4"):  # of one fold, whichever it is
        at = some.schema.get_field_index("customer_id")
        one = some.set_column(at, "customer_id", pa.array([customer] * some.num_rows))
        assert latest.judge(one, catalog, quick, 0, window_days=7.0) == {}


# recovery


def test_a_world_that_stays_is_calibrated_and_one_that_changes_is_not(varied, catalog, quick):
    stays = latest.judge(varied.examples, catalog, quick, 0, window_days=7.0)
    assert stays["latest_n"] == 8000
    assert stays["latest_ece"] < 2 * stays["latest_ece_of_noise"]
    assert stays["latest_calibration_slope"] == pytest.approx(1, abs=0.15)
    # The best that is possible: the true chances of the rows that it was judged on.
    late = np.arange(2, 24_000, 3)
    column = catalog.columns(varied.examples["treatment_id"].to_pylist())[late]
    y = varied.examples["is_response"].to_numpy().astype(float)[late]
    best = metrics.log_loss(y, varied.chance[late, column])
    assert best < stays["latest_log_loss"] < best + 0.35 * (stays["latest_log_loss_constant"] - best)
    # Where half of the latest responses never come, a model of the past promises too much.
    responds = varied.examples["is_response"].to_numpy().copy()
    responds[late[::2]] = False
    at = varied.examples.schema.get_field_index("is_response")
    changed = varied.examples.set_column(at, "is_response", pa.array(responds))
    changes = latest.judge(changed, catalog, quick, 0, window_days=7.0)
    assert changes["latest_ece"] > 4 * stays["latest_ece"]
