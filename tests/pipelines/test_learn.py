"""Learn, shadow, promote, roll back and ask what if, on a copy of the small world."""

import shutil
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow.compute as pc
import pytest

from nba import settings, tables, tracking
from nba.errors import DataError, MissingError
from nba.history import History
from nba.models import belief
from pipelines import evaluate, learn, promote, replay, scenario, shadow, train, weekly

pytestmark = pytest.mark.xdist_group("mlflow")


@pytest.fixture(scope="module")
def end(small_demo):
    return pc.max(History.read(small_demo).table("outcomes")["closed_at"]).as_py() + timedelta(days=1)


@pytest.fixture(scope="module")
def workspace(small_demo, tmp_path_factory, end):
    """A champion that knows of averages only, and a challenger, both of the first closed batch."""
    folder = tmp_path_factory.mktemp("learnt") / "copy"
    shutil.copytree(small_demo, folder, ignore=shutil.ignore_patterns(".tracking-id"))
    toml = folder / "nba.toml"
    few = toml.read_text(encoding="utf-8")
    more = few.replace("folds = 2\ntrees = 15\n", "folds = 3\n")
    assert more != few  # so few trees may find averages only, which the champion has
    toml.write_text(more, encoding="utf-8")
    models = settings.read(folder).models.model_copy(update={"capacity": "constant"})
    train.train(folder, end - timedelta(days=15), models=models)
    learn.learn(folder, end - timedelta(days=15))
    return folder


def name_of(workspace):
    config = settings.read(workspace)
    tracking.setup(config, workspace)
    return tracking.policy_name(config)


def champion(workspace):
    return tracking.find(name_of(workspace), "champion")[0].version


# by hand


def test_learning_again_the_same_night_changes_nothing(workspace, end):
    at = end - timedelta(days=15)
    before = {x: History.read(workspace).table(x).num_rows for x in ("outcomes", "decisions")}
    again = learn.learn(workspace, at)
    assert not again.trained.is_new
    assert again.trained.alias == "challenger"
    assert {x: History.read(workspace).table(x).num_rows for x in before} == before
    rows = train.examples(History.read(workspace), at)
    closed = (
        History.read(workspace)
        .table("outcomes")
        .filter(pc.less_equal(History.read(workspace).table("outcomes")["closed_at"], at))
    )
    assert rows.num_rows == closed.num_rows  # closed outcomes only


def test_open_decisions_are_completed_by_their_age(workspace, end):
    history, config = History.read(workspace), settings.read(workspace)
    at = end - timedelta(days=8)
    closed = train.examples(history, at)
    catalog = settings.read_catalog(workspace, config)
    more = learn.open_examples(history, config, closed, at, catalog)
    tables.EXAMPLES.check(more)
    weights = more["weight"].to_numpy()
    n_open = len({x.removesuffix("+") for x in more["decision_id"].to_pylist()})
    assert 0 < weights.sum() < n_open  # each weighs what is known by its age
    assert not set(more["decision_id"].to_pylist()) & set(closed["decision_id"].to_pylist())
    assert (weights <= 1).all()


def test_a_week_feeds_back_asks_the_gate_learns_by_its_own_choice_and_evaluates(small_demo, end, tmp_path):
    folder = tmp_path / "week"
    shutil.copytree(small_demo, folder, ignore=shutil.ignore_patterns(".tracking-id"))
    # What learning chose last week holds for `validate_days`.
    chosen = {"learnt_at": end - timedelta(days=7), "capacity": "constant", "half_life_days": 45.0}
    more = {"loss": 0.1, "gain_se": 3.0, "is_chosen": True, "n": 1_000}
    History.read(folder).commit(append={"learning": tables.LEARNING.build([chosen | more])})
    record = weekly.weekly(folder, end, write=lambda _: None)
    assert record.status == "done"
    assert [name for name, step in record.steps.items() if step["status"] == "done"] == [
        "feedback", "promote", "train", "evaluate",
    ]  # fmt: skip
    numbers = record.steps["train"]["numbers"]
    assert (numbers["alias"], numbers["is_new"]) == ("champion", 1)
    assert numbers["settings"] == f"as chosen on {chosen['learnt_at']:%Y-%m-%d}"
    values = History.read(folder).table("policy_values")
    assert record.steps["evaluate"]["numbers"]["policies"] == values.num_rows > 0


def test_a_challenger_stands_until_a_later_decision_has_closed(workspace, end, monkeypatch):
    model = replay.Model.find(replay.Context.read(workspace, end), "champion")

    def waits(**of_it):
        monkeypatch.setattr(replay.Model, "find", lambda *_: replace(model, **of_it))
        return weekly._train(workspace, end, None) if weekly._waiting(workspace, end) else {}

    late, early = end - timedelta(days=2), end - timedelta(days=15)
    assert "no decision made since its training has closed" in waits(trained_at=late)["settings"]
    assert not waits(trained_at=early)
    assert not waits(trained_at=end)  # the same week again


def challengers(workspace):
    rows = History.read(workspace).table("challengers").to_pylist()
    return [(row["champion"], row["challenger"], row["nth"]) for row in rows]


def test_the_gate_shows_evidence_and_asks_for_a_name(workspace, end):
    found = promote.promote(workspace, end)
    names = {check.check for check in found.checks}
    assert {"decisions that neither has learnt from", "paired value, lower bound at any look"} <= names
    assert not found.is_moved
    shown = History.read(workspace).table("promotion_evidence").to_pylist()
    assert {row["check"] for row in shown} == names
    with pytest.raises(DataError, match="no name"):
        promote.promote(workspace, end, approver=" ")
    if not found.is_passed:
        with pytest.raises(DataError, match="the gate refuses the challenger"):
            promote.promote(workspace, end, approver="Ana")
        with pytest.raises(DataError, match="without a note"):
            promote.promote(workspace, end, approver="Ana", force=True)
    assert challengers(workspace) == [(1, 2, 1)]  # asked again it takes no second share of the level
    context = replay.Context.read(workspace, end)
    assert promote._nth(context, 1, 2) == (1, False)
    assert promote._nth(context, 1, 3) == (2, True)
    assert promote._nth(context, 2, 3) == (1, True)


def test_promotion_and_rollback_are_on_record_and_move_the_alias(workspace, end, monkeypatch):
    with pytest.raises(MissingError, match="no promotion of version 1"):
        promote.rollback(workspace, end, approver="Ben")
    moved = promote.promote(workspace, end, approver="Ana", force=True, note="a drill")
    assert (moved.is_moved, champion(workspace)) == (True, 2)
    with pytest.raises(MissingError, match="no challenger beside the champion"):
        promote.promote(workspace, end)
    first = History.read(workspace).table("promotions").to_pylist()
    assert promote.rollback(workspace, end, approver="Ben") == (2, 1)
    assert champion(workspace) == 1
    rows = History.read(workspace).table("promotions").to_pylist()
    assert rows[: len(first)] == first  # only ever added to
    own = [r for r in rows if r["policy"] == name_of(workspace)]  # the world's own are another policy's
    fields = ("what", "from_version", "to_version", "approver", "is_forced")
    assert [tuple(r[name] for name in fields) for r in own] == [
        ("promote", 1, 2, "Ana", not moved.is_passed), ("rollback", 2, 1, "Ben", False),
    ]  # fmt: skip
    with pytest.raises(MissingError, match="has no version 99"):
        promote.rollback(workspace, end, approver="Ben", version=99)

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(promote, "_move", die)
        with pytest.raises(KeyboardInterrupt):
            promote.promote(workspace, end, approver="Ana", force=True, note="again")
    assert champion(workspace) == 1
    with pytest.raises(MissingError, match="no challenger beside"):  # the killed run is completed first
        promote.promote(workspace, end)
    assert champion(workspace) == 2
    promote.rollback(workspace, end, approver="Ben")


def test_what_was_rolled_back_does_not_come_again_by_itself(workspace, end):
    # Version 2 was rolled back in the test before; training it again changes nothing.
    assert champion(workspace) == 1
    again = learn.learn(workspace, end - timedelta(days=15)).trained
    assert (again.alias, again.is_new, champion(workspace)) == ("challenger", False, 1)
    found = {check.check: check for check in promote.promote(workspace, end).checks}
    assert found["not rolled back before"].status == "fail"
    assert "Ben went back on it" in found["not rolled back before"].note
    with pytest.raises(DataError, match="overrules"):
        promote.overrule(workspace, end, approver="Ana", note="")


def test_records_go_forward_in_time_and_what_is_not_known_does_not_pass(workspace, end):
    before = History.read(workspace).table("promotions")
    with pytest.raises(DataError, match=r"the last record, a rollback, is of .*\n.*version 2 was trained at"):
        promote.promote(workspace, end - timedelta(days=1000))
    with pytest.raises(DataError, match="was trained at"):
        promote.overrule(workspace, end - timedelta(days=1000), approver="Ana", note="a drill")
    with pytest.raises(DataError, match="go forward in time"):
        promote.rollback(workspace, end - timedelta(minutes=1), approver="Ben", version=2)
    assert History.read(workspace).table("promotions").equals(before)
    fresh = promote._fresh(replay.Context.read(workspace, end - timedelta(days=5000)))
    assert {"data is fresh: orders", "data is fresh: touches"} <= {check.check for check in fresh}
    assert {check.status for check in fresh} == {"unknown"}


def test_a_shadow_decides_and_delivers_nothing(workspace, end):
    history = History.read(workspace)
    decisions = history.table("decisions")
    batch_id = decisions["batch_id"][-1].as_py()
    folders = sorted((workspace / "decisions").iterdir())
    rows = shadow.shadow(workspace, end, batch_id).rows
    assert rows.equals(shadow.shadow(workspace, end, batch_id).rows)
    assert History.read(workspace).table("shadows").equals(rows)
    assert sorted((workspace / "decisions").iterdir()) == folders
    assert History.read(workspace).table("decisions").equals(decisions)
    assert set(rows["decision_id"].to_pylist()) <= set(decisions["decision_id"].to_pylist())
    in_batch = pc.equal(decisions["batch_id"], batch_id)
    assert rows.num_rows == decisions.filter(in_batch).num_rows  # everybody
    assert (rows["p_action"].to_numpy() > 0).all()
    with pytest.raises(MissingError, match="no version is called 'ghost'"):
        shadow.shadow(workspace, end, batch_id, "ghost")


def test_scenarios_move_as_they_must(workspace):
    def total(name, **changes):
        made = scenario.scenario(workspace, name, scenario.Changes({}, **changes)).to_pylist()
        rows = {(r["scenario"], r["item"]): r for r in made}
        return rows[name, "total"], rows[scenario.AS_DECIDED, "total"], rows

    same, base, rows = total("nothing changed")
    assert (same["value"], same["contacts"]) == pytest.approx((base["value"], base["contacts"]))
    poorer, _, _ = total("no money", budget=0.0)
    assert (poorer["contacts"], poorer["cost"], poorer["value"]) == pytest.approx((0, 0, 0), abs=1e-6)
    fewer, _, _ = total("no discount", stopped=("discount",))
    assert fewer["value"] <= base["value"] + 1e-6
    valued, _, _ = total("loyalty counts double", levers={"loyalty": 2.0})
    assert valued["value"] < base["value"] + 0.01 * abs(base["value"])  # a lever adds no money
    assert valued["value"] != base["value"]
    reason = History.read(workspace).table("choices").filter(pc.field("reason") == "no consent")
    if reason.num_rows:
        wider, _, _ = total("everybody agrees", without_rules=("no consent",))
        assert wider["value"] > base["value"]
    as_then, _, _ = total("the same rules", rules_as_set=True)
    assert as_then["value"] == pytest.approx(base["value"], rel=0.01)  # some touches came late
    assert all(r["used"] <= r["available"] + 1e-6 for (_, item), r in rows.items() if item != "total")
    assert len(History.read(workspace).table("scenarios")) > len(rows)
    with pytest.raises(DataError) as error:
        total("wrong", levers={"nonsense": 1.0}, stopped=("ghost",))
    assert "'nonsense' is not known" in str(error.value)
    assert "'ghost' is not known" in str(error.value)
    with pytest.raises(DataError, match="expected name=number"):
        scenario.parse(["email", "sms=-3"], "--capacity")
    with pytest.raises(DataError) as error:
        scenario.parse(["email=0.9", "sms=1", "sms=2"], "--capacity", whole=True)
    assert "--capacity 'email=0.9'; expected a whole number" in str(error.value)
    assert "--capacity 'sms=2'; 'sms' was given before" in str(error.value)
    assert scenario.parse(["email=0.9"], "--lever") == {"email": 0.9}
    with pytest.raises(DataError, match="batch 'x' is not known"):
        scenario.scenario(workspace, "a", scenario.Changes({}), "x")


def test_evaluation_writes_what_pages_show(workspace, end):
    evaluate.evaluate(workspace, end)
    history = History.read(workspace)
    for name in ("diagnostics", "ablations", "value_finder"):
        tables.BY_NAME[name].check(history.table(name))
    assert history.table("value_finder").num_rows > 0
    # The challenger beside the champion, its gain on the decisions that the gate looks at.
    context = replay.Context.read(workspace, end)
    models = [replay.Model.find(context, alias) for alias in ("champion", "challenger")]
    ids = [replay.champion_player(context, model).policy_id for model in models]
    of = {row["policy_id"]: row for row in history.table("policy_values").to_pylist()
          if (row["estimator"], row["batch_id"]) == ("dros", "all")}  # fmt: skip
    assert list(of) == ids
    told = {check.check: check for check in promote.evidence(context, *models)}
    asked = told["paired value, lower bound at any look"]
    assert (of[ids[0]]["gain"], of[ids[1]]["n"]) == (
        None,
        told["decisions that neither has learnt from"].value,
    )
    assert asked.note.startswith(f"{of[ids[1]]['gain']:+.4f} per decision")
    assert of[ids[1]]["gain_lower"] < of[ids[1]]["gain"] < of[ids[1]]["gain_upper"]
    assert set(history.table("diagnostics")["policy_id"].to_pylist()) == set(ids)


def test_a_log_without_probabilities_is_left_out(workspace, end):
    context = replay.Context.read(workspace, end)
    batch_id = replay.closed_batches(context)[0]
    decisions = context.history.table("decisions")
    old = pc.equal(decisions["batch_id"], batch_id)
    unknown = pc.if_else(old, 0.0, decisions["p_action"])
    at = decisions.column_names.index("p_action")
    copy = workspace.with_name("old-log")
    shutil.copytree(workspace, copy)
    History.read(copy).commit(replace={"decisions": decisions.set_column(at, "p_action", unknown)})
    other = replay.Context.read(copy, end)
    assert replay.read(other, batch_id) is None
    part = replay.read(context, batch_id)
    assert replay.left_out(context, replay.Unseen())[1:] == (0, 0)
    assert replay.left_out(other, replay.Unseen()).n_unlogged == len(part.ids) > 0


def test_a_version_is_not_judged_on_decisions_that_it_may_have_read_open(workspace, end, monkeypatch):
    copy = workspace.with_name("open-windows")
    shutil.copytree(workspace, copy, ignore=shutil.ignore_patterns(".tracking-id"))
    text = (copy / "nba.toml").read_text()
    opened = text.replace("[models]\n", "[models]\nuse_open = true\nvalidate_days = 0\n", 1)
    assert opened != text
    (copy / "nba.toml").write_text(opened)
    trained = {}
    monkeypatch.setattr(learn.train, "train", lambda *_, **asked: trained.update(asked))
    at = end - timedelta(days=15)  # of three batches one has closed, one is open, and one is of this moment
    assert learn.learn(copy, at).n_open > 0
    learnt = {name.removesuffix("+") for name in trained["rows"]["decision_id"].to_pylist()}
    model = replay.Model.find(replay.Context.read(workspace, end), "champion")
    assert model.trained_at == at
    assert trained["has_open"]
    context = replay.Context.read(copy, end)
    ids = context.history.sql("select batch_id, customer_id, decision_id from decisions").to_pylist()
    number = {(row["batch_id"], row["customer_id"]): row["decision_id"] for row in ids}

    def judged_on(unseen):
        parts = [replay.read(context, b, unseen=unseen) for b in replay.closed_batches(context, unseen)]
        return {number[part.batch_id, name] for part in parts for name in part.ids}

    assert judged_on(replay.Unseen.by(model))
    assert not judged_on(replay.Unseen.by(model)) & learnt
    assert judged_on(replay.Unseen(closed_after=at)) & learnt  # closing later is not enough
    older = replace(model, trained_at=end - timedelta(days=20))
    assert replay.Unseen.by(older, model) == replay.Unseen.by(model) == (at, at)
    # Once judged on decisions made since, while none has closed on those closed later, if it read none open.
    asked = evaluate._unseen(context, model)
    assert (asked[0], len(asked[1])) == (replay.Unseen.by(model), 1)
    late = replace(model, trained_at=end - timedelta(days=8))
    assert evaluate._unseen(context, late)[0] == replay.Unseen(closed_after=late.trained_at)
    assert evaluate._unseen(context, late)[1]
    assert not evaluate._unseen(context, replace(late, has_open=True))[1]


# recovery


def test_validation_prefers_the_recent_where_tastes_have_turned():
    rng = np.random.default_rng(0)
    from datetime import UTC, datetime

    from nba.catalog import Action, Catalog, Treatment
    from nba.settings import Models

    shop = Catalog((Action("sale", "s", "s", "Sale", 20.0),), (Treatment("mail", "sale", "email", 0.1),))
    start = datetime(2026, 1, 5, tzinfo=UTC)
    rows = []
    for week in range(20):
        for i in range(500):
            x, treated = float(rng.normal()), rng.random() < 0.5
            sign = 1 if week < 8 else -1
            p = 0.2 + treated * 0.18 * np.tanh(2 * sign * x)
            rows.append(
                {"decision_id": f"{week}-{i}", "customer_id": f"c{i}", "as_of": start + timedelta(weeks=week),
                 "treatment_id": "mail" if treated else "none", "p_action": 0.5,
                 "is_response": bool(rng.random() < p), "reward": 0.0, "f_x": x, "f_margin_per_order": 20.0,
                 "f_orders_total": 1.0}
            )  # fmt: skip
    examples = tables.EXAMPLES.build(rows)
    found = belief.choose(examples, shop, Models(trees=20, folds=2), 0, 14)
    assert found.settings.half_life_days is not None
    assert found.settings.capacity != "constant"
    early = examples.slice(0, 1000)
    stays = belief.choose(early, shop, Models(trees=20, folds=2), 0, 14)
    assert (stays.settings, stays.candidates) == (Models(trees=20, folds=2), ())
