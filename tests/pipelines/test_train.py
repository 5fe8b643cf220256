import shutil
from datetime import timedelta
from pathlib import Path

import nbformat
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from nba import settings, tables, tracking
from nba.errors import DataError, MissingError
from nba.history import History
from nba.models.scorer import Scorer
from pipelines import models, promote, train, train_snapshots

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "10_uplift.ipynb"
pytestmark = pytest.mark.xdist_group("mlflow")


@pytest.fixture
def workspace(small_demo, tmp_path):
    """A copy of the small world in which nothing has been trained yet."""
    folder = tmp_path / "copy"
    shutil.copytree(small_demo, folder, ignore=shutil.ignore_patterns(".tracking-id"))
    return folder


@pytest.fixture
def end(small_demo):
    """The moment by which every outcome of the small world has closed."""
    return pc.max(History.read(small_demo).table("outcomes")["closed_at"]).as_py() + timedelta(days=1)


# by hand


def test_examples_are_closed_decisions_with_features_of_their_moment(small_demo, end):
    history = History.read(small_demo)
    rows = train.examples(history, end)
    tables.EXAMPLES.check(rows)
    assert rows.num_rows == history.table("outcomes").num_rows
    logged = history.table("features").to_pandas().set_index(["customer_id", "as_of"])
    given = history.table("decisions").to_pandas().set_index("decision_id")
    frame = rows.to_pandas()
    assert (frame["as_of"].array == given.loc[frame["decision_id"], "decided_at"].array).all()
    assert (frame["treatment_id"].array == given.loc[frame["decision_id"], "treatment_id"].array).all()
    names = [name for name in rows.column_names if name.startswith("f_")]
    then = logged.loc[list(zip(frame["customer_id"], frame["as_of"])), names]
    np.testing.assert_array_equal(frame[names].to_numpy(), then.to_numpy())


def test_only_outcomes_closed_by_then_are_examples(small_demo, end):
    history = History.read(small_demo)
    closed = history.table("outcomes")["closed_at"]
    middle = pc.min(closed).as_py()
    rows = train.examples(history, middle)
    assert rows.num_rows == pc.sum(pc.less_equal(closed, middle)).as_py() < closed.length()


def test_nothing_closed_yet_is_a_clear_error(tmp_path, end):
    with pytest.raises(MissingError, match="has no table 'decisions'"):
        train.examples(History.read(tmp_path), end)


# laws


def test_train_registers_once_and_names_champion_and_challenger(workspace, end):
    first = train.train(workspace, end)
    config = settings.read(workspace)
    tracking.setup(config, workspace)
    name = tracking.policy_name(config)
    assert (first.policy_id, first.alias, first.is_new) == (f"{name}@1", "champion", True)
    again = train.train(workspace, end)
    assert (again.policy_id, again.is_new, again.model_id) == (first.policy_id, False, first.model_id)
    toml = workspace / settings.FILE
    toml.write_text(toml.read_text() + "\n" * 2)
    earlier = end - timedelta(days=8)
    second = train.train(workspace, earlier)
    assert (second.alias, second.policy_id) == ("challenger", f"{name}@2")
    assert tracking.find(name, "champion")[0].version == 1
    assert tracking.find(name, "challenger")[0].version == 2
    n = [f"{row['n_examples']:,.0f}" for row in reversed(models.listed(workspace))]
    assert models.compared(workspace, 1, 2).note.startswith(
        f"Measured on different examples ({n[0]} until {end:%Y-%m-%d} and {n[1]} until {earlier:%Y-%m-%d})"
    )
    third = train.train(workspace, earlier)
    assert (third.policy_id, third.alias, third.is_new) == (f"{name}@2", "challenger", False)
    assert tracking.find(name, "champion")[0].version == 1  # training never promotes
    # A training that was stopped before its version was named is completed.
    tracking.promote(tracking.version(name, 1), "challenger")
    stopped = train._same(name, second.model_id)
    assert (stopped.registered.version, stopped.alias) == (2, "challenger")
    # An earlier version that nothing names any more is still the same model, and keeps its place.
    tracking.promote(tracking.version(name, 2), "champion")
    old = train._same(name, first.model_id)
    assert (old.registered.version, old.alias, old.tags["model_id"]) == (1, "", first.model_id)
    assert [tracking.find(name, alias)[0].version for alias in ("champion", "challenger")] == [2, 2]
    # Gone back on, the second stays the challenger, whom promotion refuses, and the first is the champion.
    promote.rollback(workspace, end, approver="Ana", version=1)
    assert [train._same(name, one.model_id).alias for one in (first, second)] == ["champion", "challenger"]
    again = train.train(workspace, end)
    assert (again.policy_id, again.alias, again.is_new) == (f"{name}@1", "champion", False)
    assert [tracking.find(name, alias)[0].version for alias in ("champion", "challenger")] == [1, 2]
    assert {row["measure"] for row in third.rows} >= {"examples", "AUC", "Qini coefficient"}


def test_snapshot_model_scores_everyone_and_is_judged_on_the_last_month(workspace):
    toml = workspace / settings.FILE
    assert "[models]\n" in toml.read_text()
    toml.write_text(toml.read_text().replace("[models]\n", "[models]\ntune_trials = 2\n", 1))
    found = train_snapshots.train_snapshot(workspace, horizon_days=21, cutoffs=3)
    again = train_snapshots.train_snapshot(workspace, horizon_days=21, cutoffs=3)
    assert (found.is_new, again.is_new, again.model) == (True, False, found.model)
    with tracking.opened() as (mlflow, _):
        client = mlflow.MlflowClient()
        params = client.get_run(found.run_id).data.params
        searched = f"tags.mlflow.parentRunId = '{found.run_id}'"
        tried = client.search_runs([client.get_run(found.run_id).info.experiment_id], searched)
    assert {"tuned_leaves", "tuned_penalty", "tuned_log_loss"} <= set(params)
    assert {run.info.run_name for run in tried} == {"trial 0", "trial 1"}
    (listed,) = models.listed(workspace)  # there is no policy yet
    assert f"{listed['name']}@1" == found.model
    assert listed["alias"] == "champion"
    assert listed["n_examples"] > 0
    assert len(found.cutoffs) == 3
    assert found.metrics["auc"] > 0.6
    # Another horizon is another model; back to the first, its version stands.
    other = train_snapshots.train_snapshot(workspace, horizon_days=14, cutoffs=2)
    back = train_snapshots.train_snapshot(workspace, horizon_days=21, cutoffs=3)
    assert (other.is_new, back.is_new, back.model) == (True, False, found.model)
    assert [row["alias"] for row in models.listed(workspace)] == ["", "champion"]
    written = History.read(workspace).table("purchase_scores")
    assert written.equals(found.scores)
    with History.read(workspace).as_of(written["as_of"][0].as_py()) as then:
        assert written.num_rows <= then.table("customers").num_rows  # two may since be known to be one
    assert pa.types.is_floating(written["p_response"].type)
    assert 0 <= pc.min(written["p_response"]).as_py() <= pc.max(written["p_response"]).as_py() <= 1


def test_the_card_says_where_memory_was_chosen_on_the_latest_decisions():
    none = tables.EXAMPLES.empty()
    standing = settings.Models(half_life_days=120.0)
    assert train._limits(standing.model_copy(update={"leaves": 9}), standing, none) == ()
    (said,) = train._limits(standing.model_copy(update={"half_life_days": 45.0}), standing, none)
    assert said.startswith("A memory of 45 days half-life was chosen on the latest decisions")
    (said,) = train._limits(standing.model_copy(update={"half_life_days": None}), standing, none)
    assert said.startswith("A memory without end was chosen")
    ids = pa.table({"decision_id": ["earlier/a", "b"], "weight": [0.3, 1.0]})
    (said,) = train._limits(standing, standing, ids)
    assert said.startswith("1 of the 2 examples are of an earlier experiment and weigh 0.3 of an own")


def test_too_short_a_history_says_what_it_needs(workspace):
    with pytest.raises(DataError, match="4 snapshots of 300 days need"):
        train_snapshots.train_snapshot(workspace, horizon_days=300)


def test_card_comparison_versions_bin_and_signature(workspace, end, monkeypatch):
    from pipelines.commands import training

    first = train.train(workspace, end)
    listed = tracking.versions(tracking.policy_name(settings.read(workspace)))
    assert "## Does personalising pay?" not in listed[0]["card"]
    assert "Logged probabilities reach from" in listed[0]["card"]
    # A comparison that ended in an error is told and made again.
    with monkeypatch.context() as patch:
        patch.setattr(train.compare, "LEAST", 10**9)
        failed = train.train(workspace, end, compared=True)
    assert (failed.is_new, failed.comparison.gate) == (False, None)
    # The same model, now held against the stack: no new version, but a card that tells it.
    report = train.train(workspace, end, compared=True)
    assert (report.is_new, report.model_id, report.alias) == (False, first.model_id, "champion")
    assert report.comparison.findings
    assert report.comparison.gate is not None
    assert -1 <= report.comparison.agreement <= 1
    # Three lines of Python, those of the notebook, give the same model, and so does the command: nothing new
    # is registered.
    (lines,) = (cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.id == "served")
    told = {"settings": settings, "train": train, "History": History, "Scorer": Scorer}
    told |= {"workspace": workspace, "now": end}
    exec(lines, told)
    assert told["scorer"].model_id == report.model_id
    training.train(workspace, end.isoformat())
    assert len(models.listed(workspace)) == 1
    train.train(workspace, end, models=settings.read(workspace).models.model_copy(update={"trees": 20}))
    rows = models.listed(workspace)
    assert [row["version"] for row in rows] == [2, 1]
    assert [row["alias"] for row in rows] == ["challenger", "champion"]
    promote.overrule(workspace, end, approver="Ana", note="a drill")
    found = models.compared(workspace, 1, 2)
    assert found.note == ""  # of the same decisions
    side = {row["measure"]: row for row in found.rows}
    assert side["log_loss"]["change"] == pytest.approx(side["log_loss"]["2"] - side["log_loss"]["1"])
    assert side["gate"]["1"] in ("personalise", "none", *report.comparison.averages["treatment"].to_pylist())
    assert side["gate"]["2"] is None  # not held against the stack
    assert side["latest_log_loss"]["1"] > 0
    with pytest.raises(MissingError, match=r"no version \[9\]"):
        models.compared(workspace, 1, 9)
    with pytest.raises(DataError, match="version 1 twice"):
        models.compared(workspace, 1, 1)
    with pytest.raises(DataError, match="one of --compare, --delete and --restore"):
        training.models(workspace, (1, 2), 2, None)
    with pytest.raises(DataError, match="version 2 is challenger, champion"):
        models.bin_version(workspace, 2)
    models.bin_version(workspace, 1)
    assert "in the bin" in models.listed(workspace)[1]["alias"]
    with pytest.raises(DataError, match="version 1 is in the bin already"):
        models.bin_version(workspace, 1)
    models.bin_version(workspace, 1, restore=True)
    with pytest.raises(DataError, match="version 1 is not in the bin"):
        models.bin_version(workspace, 1, restore=True)
    assert "in the bin" not in models.listed(workspace)[1]["alias"]

    name = tracking.policy_name(settings.read(workspace))
    folder, _ = tracking.load_policy(name)
    saved = (folder / "scorer.json").read_text()
    (folder / "scorer.json").write_text(saved.replace('"f_orders_total"', '"f_from_elsewhere"'))
    with pytest.raises(DataError, match="reads 'f_from_elsewhere', which the signature lacks"):
        tracking.load_policy(name)
    (folder / "scorer.json").write_text(saved)
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(MissingError, match="moved or deleted: run `nba train` again"):
        tracking.load_policy(name)
    folder.with_name("elsewhere").rename(folder)
    with tracking.opened() as (mlflow, _):
        version = mlflow.MlflowClient().get_model_version(name, "1")
    for heading in ("## Data", "## Measures", "## Checks", "## Does personalising pay?", "## Limits"):
        assert heading in version.description
