"""Decide, feedback and evaluate on a small hand-made workspace."""

import shutil
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from nba import tables
from nba.errors import DataError, MissingError, SettingsError
from nba.history import History
from nba.serving import delivery
from pipelines import decide, evaluate, feedback
from tests.believer import Believer
from tests.pipelines.shop import AT, TOML, N


def everything(root):
    return {str(path): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


# by hand


def test_a_batch_is_logged_delivered_and_closed(workspace):
    report = decide.decide(workspace.root, AT)
    assert report.batch_id == "20260302T060000"
    assert report.is_new
    assert any("no model is registered" in note for note in report.notes)
    manifest = delivery.verify(report.folder)
    history = History.read(workspace.root)
    assert history.table("decisions").num_rows == N == manifest["n_decisions"]
    assert history.table("assignments").num_rows == N
    assert feedback.feedback(workspace.root, AT + timedelta(days=6)).n_closed == 0
    closed = feedback.feedback(workspace.root, AT + timedelta(days=7))
    assert closed.n_closed == N == sum(row["closed"] for row in closed.rows)
    assert feedback.feedback(workspace.root, AT + timedelta(days=8)).n_closed == 0
    assert History.read(workspace.root).broken_laws() == []


def test_mistakes_are_named(workspace, tmp_path):
    decide.decide(workspace.root, AT, "first")
    with pytest.raises(DataError, match="'first' was decided at 2026-03-02T06:00:00"):
        decide.decide(workspace.root, AT + timedelta(days=1), "first")
    with pytest.raises(DataError, match="which is not later"):
        decide.decide(workspace.root, AT, "second")
    with pytest.raises(MissingError, match="no outcomes yet"):
        evaluate.evaluate(workspace.root, AT)
    shutil.rmtree(workspace.root / "tables")
    with pytest.raises(MissingError, match="has no customers yet"):
        decide.decide(workspace.root, AT)


@pytest.mark.parametrize("stream_above", [0, 1_000_000])
def test_an_audience_is_all_that_is_decided_for(workspace, stream_above):
    with (workspace.root / "nba.toml").open("a") as file:
        file.write(f"[delivery]\nstream_above = {stream_above}\n")
    report = decide.decide(workspace.root, AT, "few", audience="external_id in ('x1', 'x5') and can_email")
    assert "audience: external_id in ('x1', 'x5') and can_email" in report.notes
    assert delivery.verify(report.folder)["n_decisions"] == 2
    decided = History.read(workspace.root).table("decisions")["customer_id"].to_pylist()
    assert sorted(decided) == ["c0001", "c0005"]
    before = everything(workspace.root)
    with pytest.raises(SettingsError, match="a_country"):
        decide.decide(workspace.root, AT + timedelta(days=1), audience="a_country = 'ES'")
    with pytest.raises(SettingsError, match="not allowed"):
        decide.decide(workspace.root, AT + timedelta(days=1), audience="(select 1) = 1")
    with pytest.raises(MissingError, match="fulfils"):
        decide.decide(workspace.root, AT + timedelta(days=1), audience="external_id = 'nobody'")
    for odd in ("can_email = 'maybe'", "joined_at > 'soon'", "external_id + 1 > 2", "joined_at"):
        with pytest.raises(SettingsError, match="cannot be answered"):
            decide.decide(workspace.root, AT + timedelta(days=1), audience=odd)
    assert everything(workspace.root) == before
    noted = decide.decide(workspace.root, AT + timedelta(days=1), audience="can_email -- those who agreed")
    assert delivery.verify(noted.folder)["n_decisions"] == N


@pytest.mark.parametrize("stream_above", [0, 1_000_000])
def test_a_model_that_reads_other_features_leaves_nothing_behind(workspace, stream_above):
    with (workspace.root / "nba.toml").open("a") as file:
        file.write(f"[delivery]\nstream_above = {stream_above}\n")
    workspace.registered.model = Believer()
    workspace.registered.model.names = ("f_orders_28", "f_from_elsewhere")
    before = everything(workspace.root)
    with pytest.raises(DataError, match="f_from_elsewhere"):
        decide.decide(workspace.root, AT)
    (workspace.root / ".lock").unlink()
    assert everything(workspace.root) == before
    assert not any((workspace.root / "decisions").glob("**/manifest.json"))
    workspace.registered.model = None
    delivery.verify(decide.decide(workspace.root, AT).folder)


def test_batches_go_forward_through_the_hour_that_comes_twice(workspace):
    summer, winter = (datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Madrid"), fold=f) for f in (0, 1))
    first = decide.decide(workspace.root, summer)
    second = decide.decide(workspace.root, winter)
    assert (first.batch_id, second.batch_id) == ("20261025T003000", "20261025T013000")
    with pytest.raises(DataError, match="not later"):
        decide.decide(workspace.root, summer + timedelta(minutes=1))
    decided = History.read(workspace.root).table("decisions")["decided_at"].unique().to_pylist()
    assert sorted(decided) == [summer.astimezone(UTC), winter.astimezone(UTC)]


def test_what_an_experiment_rests_on_is_kept_at_its_first_batch(workspace):
    trial = TRIALS.replace("segments", "#")
    (workspace.root / "nba.toml").write_text(TOML + trial)
    workspace.registered.model = Believer()
    decide.decide(workspace.root, AT, "b0")
    kept = History.read(workspace.root).table("declarations").to_pylist()
    assert {row["experiment_id"] for row in kept} == {"policy", "one", "two", "site"}
    assert {row["declared_at"] for row in kept} == {AT}
    (workspace.root / "nba.toml").write_text(TOML.replace('"policy"\n', '"policy"\nlook_days = 3\n') + trial)
    decide.decide(workspace.root, AT + timedelta(days=7), "b1")
    assert History.read(workspace.root).table("declarations").to_pylist() == kept


def test_an_experiment_that_could_not_be_read_later_is_refused(workspace):
    wrong = TOML.replace("[experiment]", '[experiment]\nsegments = ["a_planet"]')
    (workspace.root / "nba.toml").write_text(wrong)
    with pytest.raises(DataError, match=r"segments \['a_planet'\] of experiment 'policy' do not exist"):
        decide.decide(workspace.root, AT)
    # Before there is a champion all arms explore; with one, a model that is not there is a mistake.
    unknown = TOML.replace('policy = "random"', 'policy = "challenger"')
    (workspace.root / "nba.toml").write_text(unknown)
    assert decide.decide(workspace.root, AT, "first").is_new
    workspace.registered.model = Believer()
    with pytest.raises(
        MissingError, match="arm 'random' runs 'challenger', and no model is registered as that"
    ):
        decide.decide(workspace.root, AT + timedelta(days=1), "second")
    assert not (workspace.root / "decisions/batch_id=second").exists()


# laws


def test_deciding_again_changes_not_one_byte(workspace):
    decide.decide(workspace.root, AT)
    before = everything(workspace.root)
    report = decide.decide(workspace.root, AT)
    assert not report.is_new
    assert everything(workspace.root) == before


@pytest.mark.parametrize("killed", ["commit", "publish"])
def test_a_killed_run_is_completed_by_the_next(workspace, tmp_path_factory, monkeypatch, killed):
    twin = tmp_path_factory.mktemp("twin") / "shop"
    shutil.copytree(workspace.root, twin)
    whole = decide.decide(twin, AT)

    def die(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*((History, "commit") if killed == "commit" else (delivery, "publish")), die)
        with pytest.raises(KeyboardInterrupt):
            decide.decide(workspace.root, AT)
    folder = delivery.folder_of(workspace.root / "decisions", whole.batch_id)
    assert not folder.exists()
    if killed == "publish":  # later news must not change what was logged
        late = tables.TOUCHES.build(
            {"touch_id": f"t{i}", "customer_id": f"c{i:04d}", "touched_at": AT - timedelta(days=1)}
            | {"channel": "email", "kind": "unsubscribed", "cost": 0.0}
            for i in range(N)
        )
        History.read(workspace.root).commit(append={"touches": late})
    report = decide.decide(workspace.root, AT)
    assert delivery.verify(report.folder) == delivery.verify(whole.folder)
    for path in whole.folder.iterdir():
        assert (report.folder / path.name).read_bytes() == path.read_bytes()
    logged = History.read(workspace.root).table("decisions")
    assert logged.equals(History.read(twin).table("decisions"))


def test_the_next_batch_knows_the_one_before(workspace):
    text = TOML.replace("max_contacts = 10", "max_contacts = 1")
    (workspace.root / "nba.toml").write_text(text)
    decide.decide(workspace.root, AT)
    decide.decide(workspace.root, AT + timedelta(weeks=1))
    history = History.read(workspace.root)
    assert history.table("assignments").num_rows == N
    contacts = history.table("decisions").filter(
        pc.not_equal(history.table("decisions")["treatment_id"], "none")
    )
    assert contacts.num_rows > 100
    assert len(pc.unique(contacts["customer_id"])) == contacts.num_rows


TRIALS = """
[[experiments]]
experiment_id = "one"
control = "one_old"
starts_at = 2026-03-02T00:00:00Z
ends_at = 2026-03-20T00:00:00Z
slots = [0.0, 0.6]
arms = [
  {name = "one_old", share = 0.7, policy = "champion"},
  {name = "one_new", share = 0.3, policy = "random"},
]
metrics = [{name = "margin", numerator = "margin", role = "primary"}]
phases = [{starts_at = 2026-03-08T00:00:00Z, shares = {one_old = 0.4, one_new = 0.6}}]
[[experiments]]
experiment_id = "two"
control = "two_old"
starts_at = 2026-03-02T00:00:00Z
slots = [0.6, 1.0]
arms = [
  {name = "two_old", share = 0.5, policy = "champion"},
  {name = "two_none", share = 0.5, policy = "outside"},
]
metrics = [{name = "margin", numerator = "margin", role = "primary"}]
[[experiments]]
experiment_id = "site"
control = "site_old"
layer = "site"
starts_at = 2026-03-02T00:00:00Z
arms = [
  {name = "site_old", share = 0.5, policy = "outside"},
  {name = "site_new", share = 0.5, policy = "outside"},
]
metrics = [{name = "margin", numerator = "margin", role = "primary"}]
"""


def test_holdout_layers_and_phases_are_enforced_in_every_batch(workspace):
    (workspace.root / "nba.toml").write_text(TOML + TRIALS)
    workspace.registered.model = Believer()
    for week in range(2):
        decide.decide(workspace.root, AT + timedelta(weeks=week), f"b{week}")
    joined = pa.table(
        {
            "customer_id": [f"new{i:04d}" for i in range(N)],
            "external_id": [f"n{i}" for i in range(N)],
            "joined_at": pa.array([AT + timedelta(days=10)] * N, tables.TIME),
            **{f"can_{channel}": [True] * N for channel in tables.CHANNELS},
        }
    )
    History.read(workspace.root).commit(append={"customers": joined})
    for week in (2, 3):
        decide.decide(workspace.root, AT + timedelta(weeks=week), f"b{week}")
    frame = History.read(workspace.root).table("decisions").to_pandas()
    arm = frame.pivot_table(index="customer_id", columns="batch_id", values="arm", aggfunc="first")
    # The holdout is for good, gets nothing from anybody, and takes newcomers at the same rate.
    held = (arm == "holdout").any(axis=1)
    assert (arm[held].isin(["holdout"]) | arm[held].isna()).all(axis=None)
    assert set(frame[frame.arm == "holdout"].treatment_id) == {"none"}
    is_new = arm.index.str.startswith("new")
    for rate in (held[is_new].mean(), held[~is_new].mean()):
        assert abs(rate - 0.1) < 3 * np.sqrt(0.1 * 0.9 / N)
    # One layer: nobody is in two trials at a time; each takes its slots of the champion's half.
    one, two = arm["b2"].isin(["one_old", "one_new"]), arm["b2"].isin(["two_old", "two_none"])
    assert not (one & two).any()
    assert abs(one.mean() - 0.5 * 0.6) < 0.06
    assert set(frame[frame.arm == "two_none"].treatment_id) == {"none"}
    # The phase grows one_new: nobody leaves it, and the other trial and the holdout do not notice.
    grown = arm["b0"] == "one_new"
    assert set(arm["b1"][grown]) == {"one_new"}
    assert (arm["b1"] == "one_new").sum() > 1.5 * grown.sum()
    others = ~arm["b0"].fillna("").str.startswith("one") & arm["b0"].notna()
    assert (arm["b0"] == arm["b1"])[others].all()
    # After its end a trial decides for nobody; its customers go back to the champion.
    assert not arm["b3"].str.startswith("one").any()
    # A layer that decides nothing assigns all the same, independently of the one that does.
    people = History.read(workspace.root).table("assignments").to_pandas()
    site = people[people.experiment_id == "site"].set_index("customer_id").arm
    assert not site.index.isin(held[held].index).any()
    assert abs((site == "site_new").mean() - 0.5) < 0.07
    assert History.read(workspace.root).broken_laws() == []
