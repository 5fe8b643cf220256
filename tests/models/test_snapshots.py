from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import expit

from nba import metrics
from nba.errors import DataError, MissingError
from nba.models import card
from nba.models import snapshots as model
from nba.models.classifier import ResponseClassifier
from nba.models.snapshots import Snapshots
from nba.models.tuning import Search
from nba.settings import Models


def snapshots(n, seed, drift=0.0):
    rng = np.random.default_rng(seed)
    parts = []
    for month in (1, 2, 3, 4):
        x = rng.normal(size=(n, 3))
        y = rng.random(n) < expit(-1 + x[:, 0] + drift * (month == 4))
        at = pa.array([datetime(2026, month, 1, tzinfo=UTC)] * n, pa.timestamp("us", tz="UTC"))
        data = {f"f_{j}": x[:, j] for j in range(3)}
        ids = [f"c{i}" for i in range(n)]
        parts.append(pa.table({"customer_id": ids, "as_of": at, "is_response": y, **data}))
    return pa.concat_tables(parts)


def test_snapshot_model_is_judged_on_the_last_cutoff_by_a_model_of_the_earlier():
    usual = model.fit(snapshots(1000, 0), seed=0)
    assert usual.metrics["n"] == 1000
    assert usual.metrics["auc"] > 0.7
    assert usual.metrics["ece"] < 0.05
    moved = model.fit(snapshots(1000, 0, drift=2.0), seed=0)
    assert moved.metrics["ece"] > 0.2  # a change in the last month must show: it was not fitted on
    rows = snapshots(500, 1)
    y = rows["is_response"].to_numpy().astype(float)
    assert metrics.auc(y, usual.scores(rows)) > 0.7


def test_two_cutoffs_suffice():
    rows = snapshots(1000, 2)
    rows = rows.slice(2000)
    assert model.fit(rows, seed=0).metrics["auc"] > 0.65


def test_a_sign_that_is_asked_for_is_kept_and_must_name_a_feature():
    rows = snapshots(300, 4)
    found = model.fit(rows, 0, Models(monotone={"f_0": -1}))
    grid = np.zeros((9, 3))
    grid[:, 0] = np.linspace(-2, 2, 9)
    assert np.diff(found.model.predict_proba(grid)[:, 1]).max() <= 1e-12
    with pytest.raises(DataError, match="f_absent"):
        model.fit(rows, 0, Models(monotone={"f_absent": 1}))


def test_saved_and_loaded_is_the_same(tmp_path):
    rows = snapshots(300, 3)
    found = model.fit(rows, seed=0)
    assert found.model_id == model.fit(rows, seed=0).model_id
    found.save(tmp_path / "model")
    loaded = Snapshots.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.scores(rows), found.scores(rows))
    text = card.snapshots(found, rows, {"cutoffs": 3}, ["No feature nearly tells the response."])
    low, high = card.auc_interval(found.metrics)
    assert f": {found.metrics['auc']:.4f}, 95% {low:.4f} to {high:.4f}" in text
    assert "## Checks\n- No feature nearly" in text
    assert card.auc_interval({"auc": 0.5}) is None
    assert loaded.wide(rows).column_names == ["p_response"]
    assert loaded.metrics == found.metrics
    with pytest.raises(MissingError, match="expected a saved model of purchases"):
        Snapshots.load(tmp_path)


def test_a_search_reads_the_earlier_snapshots_only_and_gives_the_model_its_capacity(tmp_path):
    rows = snapshots(150, 5)
    moved = snapshots(150, 5, drift=3.0)  # another outcome in the last month
    search = Search(Models(tune_trials=2), 0, tmp_path / "tuning.db")
    found = model.fit(rows, 0, search=search)
    parameters = found.tuned.parameters
    assert {name: found.model.get_params()[name] for name in parameters} == parameters
    assert found.tuned.trials[0]["params"]["leaves"] == ResponseClassifier().leaves
    again = model.fit(moved, 0, search=search)
    assert again.tuned == found.tuned
    assert again.metrics["log_loss"] != found.metrics["log_loss"]
