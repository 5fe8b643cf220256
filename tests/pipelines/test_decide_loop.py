"""Decide, feedback and evaluate on a small hand-made workspace."""

import shutil
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from nba import draws, tables
from nba.errors import DataError, MissingError, SettingsError
from nba.history import History
from nba.serving import delivery
from pipelines import candidates, decide, evaluate, feedback, replay, scenario, shadow

AT = datetime(2026, 3, 2, 6, tzinfo=UTC)
N = 600
TOML = """
[workspace]
name = "shop"
[limits]
capacity = {email = 200, sms = 60}
budget = 80.0
max_contacts = 10
[policy]
temperature = 0.3
floor = 0.2
[reward]
window_days = 7
[experiment]
experiment_id = "policy"
control = "holdout"
arms = [
    {name = "holdout", share = 0.1, policy = "none"},
    {name = "random", share = 0.3, policy = "random"},
    {name = "response", share = 0.1, policy = "response_greedy"},
    {name = "policy", share = 0.5, policy = "champion"},
]
"""
ACTIONS = "action_id,issue,group,name,margin,lever\nsale,s,s,Sale,20,1\nclub,s,s,Club,50,1\n"
TREATMENTS = """treatment_id,action_id,channel,cost,cooldown_days
sale_mail,sale,email,0.1,0
sale_sms,sale,sms,0.5,0
club_mail,club,email,0.1,0
"""


class Believer:
    """A model whose belief is a fixed function of the customer."""

    model_id = "believer"

    def scores(self, features, catalog):
        ids, k = features["customer_id"].to_pylist(), len(catalog.treatment_ids)
        uplift = np.column_stack([draws.uniform(ids, f"uplift {j}") * 0.1 for j in range(k)])
        uplift[:, 0] = 0
        return SimpleNamespace(
            p_response=0.1 + uplift,
            uplift=uplift,
            uplift_se=np.full_like(uplift, 0.01),
            margin_per_response=np.full(len(ids), 30.0),
        )


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    (tmp_path / "catalog").mkdir()
    (tmp_path / "nba.toml").write_text(TOML)
    (tmp_path / "catalog/actions.csv").write_text(ACTIONS)
    (tmp_path / "catalog/treatments.csv").write_text(TREATMENTS)
    ids = [f"c{i:04d}" for i in range(N)]
    customers = pa.table(
        {
            "customer_id": ids,
            "external_id": [f"x{i}" for i in range(N)],
            "joined_at": pa.array([AT - timedelta(days=90)] * N, tables.TIME),
            **{f"can_{channel}": [True] * N for channel in tables.CHANNELS},
        }
    )
    orders = tables.ORDERS.build(
        {"order_id": f"o{i}", "customer_id": ids[i], "ordered_at": AT + timedelta(days=i % 21 - 7)}
        | {"revenue": 20.0, "margin": 10.0 + i % 5, "n_items": 1, "is_return": False}
        for i in range(0, N, 2)
    )
    # Something is known of every day, so that no window waits for data.
    visit = {"customer_id": ids[0], "kind": "visit"}
    events = tables.EVENTS.build(
        visit | {"event_id": f"e{day}", "occurred_at": AT + timedelta(days=day)} for day in range(40)
    )
    History.read(tmp_path).commit(append={"customers": customers, "orders": orders, "events": events})
    registered = SimpleNamespace(model=None, trained_at=AT)

    def find(name, alias):
        assert name == "shop-policy"
        if registered.model is None or alias != "champion":
            raise MissingError("none is registered")
        return SimpleNamespace(version=1), {"at": registered.trained_at.isoformat()}

    for step in (decide, replay):
        monkeypatch.setattr(step.tracking, "setup", lambda *_: None)
        monkeypatch.setattr(step.tracking, "policy_name", lambda config: f"{config.workspace.name}-policy")
        monkeypatch.setattr(step.tracking, "find", find)
        monkeypatch.setattr(step.tracking, "load_policy", lambda *_: (tmp_path, 1))
        monkeypatch.setattr(step.Scorer, "load", lambda _folder: registered.model)
    return SimpleNamespace(root=tmp_path, registered=registered)


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


def test_a_replay_has_of_a_days_limit_what_earlier_batches_left(workspace):
    toml = workspace.root / "nba.toml"
    volume = '[[limits.volumes]]\nname = "letters"\nchannels = ["email"]\nper = "day"\nmost = 150\n'
    toml.write_text(toml.read_text() + volume)
    first, second = decide.decide(workspace.root, AT), decide.decide(workspace.root, AT + timedelta(hours=1))
    feedback.feedback(workspace.root, AT + timedelta(days=8))
    context = replay.Context.read(workspace.root, AT + timedelta(days=8))
    query = "select count(*) as n from decisions where channel = 'email' and batch_id = $batch"
    sent = context.history.sql(query, {"batch": first.batch_id})["n"][0].as_py()
    assert 0 < sent <= 150
    daily = {name: context.limited(name).available[-1] for name in (first.batch_id, second.batch_id)}
    assert daily == {first.batch_id: 150, second.batch_id: 150 - sent}


@pytest.mark.parametrize("other", ["response_greedy", "outside"])
def test_the_policy_that_decided_replays_what_it_decided_and_the_holdout_gets_nothing(workspace, other):
    toml = workspace.root / "nba.toml"
    asked = toml.read_text().replace('policy = "response_greedy"', f'policy = "{other}"')
    toml.write_text(asked.replace("window_days = 7\n", "window_days = 7\nunsubscribe_cost = 20.0\n"))
    workspace.registered.model = Believer()
    batch_id = decide.decide(workspace.root, AT).batch_id
    # What they opt out of later does not change what contacts were thought to cost then.
    gone = {"channel": "sms", "kind": "unsubscribed", "touched_at": AT + timedelta(days=2), "cost": 0.0}
    touches = tables.TOUCHES.build(
        gone | {"touch_id": f"t{i}", "customer_id": f"c{i:04d}"} for i in range(0, N, 4)
    )
    History.read(workspace.root).commit(append={"touches": touches})
    feedback.feedback(workspace.root, AT + timedelta(days=8))
    rows, n_left_out = shadow.shadow(workspace.root, AT + timedelta(days=8), batch_id, "champion")
    assert n_left_out == 0
    history = History.read(workspace.root)
    decided = {row["decision_id"]: row for row in history.table("decisions").to_pylist()}
    pairs = [(row, decided[row["decision_id"]]) for row in rows.to_pylist()]
    own = [(a, b) for a, b in pairs if b["arm"] == "policy"]
    held = [(a, b) for a, b in pairs if b["arm"] == "holdout"]
    assert own
    assert held
    for row, logged in own:
        assert row["treatment_id"] == logged["treatment_id"]
        assert row["p_action"] == pytest.approx(logged["p_action"], rel=1e-9)
    assert {(row["treatment_id"], row["p_action"]) for row, _ in held} == {("none", 1.0)}
    assert 0 < sum(row["treatment_id"] == "sale_sms" for row, _ in pairs) <= 60
    context = replay.Context.read(workspace.root, AT + timedelta(days=8))
    part = replay.read(context, batch_id)
    player = replay.champion_player(context, replay.Model.find(context, "champion"))
    mine = part.arm == "policy"
    assert "holdout" not in part.arm
    p = player.play(part).final
    np.testing.assert_allclose(p[mine], part.p_logged[mine][:, : p.shape[1]], atol=1e-9)


def test_customers_whose_candidates_were_not_stored_are_left_out_not_made_up(workspace):
    customers = History.read(workspace.root).table("customers")
    mailed = customers.set_column(
        customers.column_names.index("can_sms"), "can_sms", pa.array([i % 2 == 0 for i in range(N)])
    )
    History.read(workspace.root).commit(replace={"customers": mailed})
    workspace.registered.model = Believer()
    batch_id, bare = (decide.decide(workspace.root, AT + timedelta(days=d)).batch_id for d in (0, 1))
    # Of two in five of one batch, by hash, and of nobody of the other, as `log_choices` says of large ones.
    some = History.read(workspace.root).sql(
        "select c.* from choices c join decisions d using (decision_id)"
        " where batch_id = $batch and hash(customer_id) % 5 < 2",
        {"batch": batch_id},
    )
    History.read(workspace.root).commit(replace={"choices": tables.CHOICES.conform(some)})
    late = AT + timedelta(days=9)
    feedback.feedback(workspace.root, late)
    context = replay.Context.read(workspace.root, late)
    stored = context.history.sql(
        "select d.customer_id, c.* from choices c join decisions d using (decision_id) where arm <> 'holdout'"
    ).to_pandas()
    part = replay.read(context, batch_id)
    assert part.ids == sorted(stored["customer_id"].unique())
    assert part.share == len(part.ids) / N
    for name, wide in (("is_eligible", part.is_eligible), ("p_action", part.p_logged)):
        table = stored.pivot(index="customer_id", columns="treatment_id", values=name)
        assert (table[list(part.names)].to_numpy() == wide).all()
    assert not part.is_eligible.all()  # some may not get SMS
    assert replay.read(context, bare) is None
    decided = context.history.sql("select count(*) as n from decisions where arm <> 'holdout'")["n"][
        0
    ].as_py()
    assert replay.left_out(context, replay.Unseen()) == (decided, 0, decided - len(part.ids))
    rows, n_left_out = shadow.shadow(workspace.root, late, batch_id, "champion")
    assert set(part.ids) < set(rows["customer_id"].to_pylist())  # and the holdout
    assert rows.num_rows + n_left_out == N
    with pytest.raises(DataError, match=f"'{bare}' has no stored candidates"):
        shadow.shadow(workspace.root, late, bare, "champion")
    evaluate.evaluate(workspace.root, late)
    checks = {row["check"]: row for row in History.read(workspace.root).table("diagnostics").to_pylist()}
    assert (
        checks["candidates"]["note"]
        == f"{decided - len(part.ids)} decisions without stored candidates are left out"
    )
    assert checks["candidates"]["status"] == "ok"
    nothing = evaluate._readable(replay.LeftOut(5, 0, 5), "p")
    assert [row["status"] for row in nothing] == ["ok", "refused"]


def test_policies_are_judged_from_the_log(workspace, monkeypatch):
    for week in range(3):
        decide.decide(workspace.root, AT + timedelta(weeks=week))
    workspace.registered.model = Believer()
    decide.decide(workspace.root, AT + timedelta(weeks=3))
    feedback.feedback(workspace.root, AT + timedelta(weeks=4))
    values = evaluate.evaluate(workspace.root, AT + timedelta(weeks=4))
    frame = values.to_pandas().set_index(["policy_id", "estimator", "batch_id"])
    outcomes = History.read(workspace.root).sql(
        "select arm, avg(reward) as reward from outcomes join decisions using (decision_id) group by 1"
    )
    for row in outcomes.to_pylist():
        assert frame.loc[(f"arm:{row['arm']}", "on_policy", "all"), "value"] == pytest.approx(row["reward"])
    champion = frame.loc["softmax-t0.3-f0.2@believer"]
    pooled = champion.loc[("sndr", "all")]
    # The greedy baseline's arm and the holdout cannot judge; the even arms of the first weeks can.
    assert pooled["n"] > 0.7 * 3 * N
    assert pooled["lower"] < pooled["value"] < pooled["upper"]
    assert ("sndr@random", "all") in champion.index
    assert pooled["lower"] <= champion.loc[("dros", "all"), "value"] <= pooled["upper"]
    written = History.read(workspace.root)
    found = {row["check"]: row["status"] for row in written.table("diagnostics").to_pylist()}
    assert found["support"] == "ok"
    assert found["logged probabilities"] == "ok"
    ablated = {(row["versus"], row["method"]): row for row in written.table("ablations").to_pylist()}
    assert ablated["no levers", "off-policy"]["value"] == 0.0
    assert ablated["no levers", "off-policy"]["reason"] == "all levers are 1"
    # The three batches before there was a model, in which all arms drew evenly, say nothing of the champion.
    arms = frame["value"].xs("20260323T060000", level="batch_id")
    measured = ablated["random", "randomised arms"]
    by_arms = arms["arm:policy", "on_policy"] - arms["arm:random", "on_policy"]
    assert measured["value"] == pytest.approx(by_arms)
    assert measured["n"] == sum(
        frame["n"].xs("20260323T060000", level="batch_id")[["arm:policy", "arm:random"]]
    )
    assert measured["policy_id"] == "softmax-t0.3-f0.2@believer"
    assert ablated["response only", "randomised arms"]["value"] == pytest.approx(
        arms["arm:policy", "on_policy"] - arms["arm:response", "on_policy"]
    )
    assert {versus for versus, method in ablated if method == "off-policy"} == {
        "random", "response only", "no levers", "eligibility only", "random scores"
    }  # fmt: skip
    segments = written.table("value_finder").to_pylist()
    (last,) = {row["batch_id"] for row in segments}
    counted = "select count(*) as n from decisions where arm <> 'holdout' and batch_id = $batch"
    n_decided = written.sql(counted, {"batch": last})["n"][0].as_py()
    assert sum(row["n"] for row in segments) == n_decided < N
    monkeypatch.setattr(replay, "MAX_CUSTOMERS", 200)  # a sample stands for everybody
    context = replay.Context.read(workspace.root, AT + timedelta(weeks=4))
    sample = evaluate._value_finder(context, replay.Model.find(context, "champion")).to_pylist()
    assert abs(sum(row["n"] for row in sample) - n_decided) <= len(sample)
    monkeypatch.setattr(replay, "MAX_CUSTOMERS", 10_000)
    again = evaluate.evaluate(workspace.root, AT + timedelta(weeks=4))
    assert again.to_pandas().equals(values.to_pandas())


def test_the_value_finder_names_the_rule_that_removed_what_would_add_most():
    # Of two removed treatments the second would add more; the third customer lacks nothing.
    ids, names = ["a", "b", "c"], ("none", "x", "y", "z")
    mean = np.array([[0.0, 1.0, 2.0, -1.0]] * 3)
    may = np.array([[True, False, False, True], [True, False, True, True], [True, True, True, False]])
    rows = [("a", "x", "cap"), ("a", "y", "no consent"), ("b", "x", "cap"), ("c", "z", "cap")]
    found = pa.table(dict(zip(("customer_id", "treatment_id", "reason"), map(list, zip(*rows)))))
    context = SimpleNamespace(history=SimpleNamespace(sql=lambda *_: found))
    part = SimpleNamespace(batch_id="x", ids=ids, is_eligible=may, names=names)
    _, _, blocked = evaluate.segments.nothing_good(mean, may)
    assert evaluate._reasons(context, part, mean, blocked) == ["no consent", "", ""]


def test_levers_are_logged_with_candidates_and_their_cost_is_told(workspace):
    levers = """[[policy.levers]]
name = "little contacted"
when = "f_contacts_28 < 1"
weight = 4.0
actions = ["club"]
[reward]"""
    toml = workspace.root / "nba.toml"
    workspace.registered.model = Believer()
    decide.decide(workspace.root, AT, "plain")
    assert candidates.candidates(workspace.root).costs == []
    toml.write_text(TOML.replace("[reward]", levers))
    decide.decide(workspace.root, AT + timedelta(days=1), "weighed")
    history = History.read(workspace.root)
    logged = history.sql(
        "select c.treatment_id, weight, count(*) as n from choices c join decisions using (decision_id)"
        " where batch_id = 'weighed' group by all order by all"
    ).to_pylist()
    assert {row["treatment_id"] for row in logged if row["weight"] == 4} == {"club_mail"}
    assert sum(row["n"] for row in logged if row["weight"] == 1) > 2 * N
    found = candidates.candidates(workspace.root)
    assert found.batch_id == "weighed"
    assert {(row["stage"], row["rule"]) for row in found.removed} == {("kept", "")}
    assert sum(row["n_customers"] for row in found.removed) == 3 * N
    one, whole = found.costs
    assert (one["lever"], one["weight"], whole["lever"]) == ("little contacted", 4.0, "all")
    assert one["cost"] == pytest.approx(whole["cost"])
    assert one["cost"] == pytest.approx(one["without"] - one["value"])
    assert one["cost"] > 0
    assert one["moved"] > 0
    assert History.read(workspace.root).table("lever_costs").to_pylist() == found.costs
    # Without the lever, the scenario solves what the cost is told against.
    rows = scenario.scenario(
        workspace.root, "no lever", scenario.Changes({}, levers={"little contacted": 1.0})
    )
    total = {row["scenario"]: row["value"] for row in rows.to_pylist() if row["item"] == "total"}
    assert total["no lever"] == pytest.approx(one["without"])
    assert total["as decided"] == pytest.approx(one["value"])
    with pytest.raises(DataError, match=r"lever 'little contacted' is 11; expected 0.1 to 10"):
        scenario.scenario(workspace.root, "x", scenario.Changes({}, levers={"little contacted": 11.0}))


def test_scenarios_move_volumes_by_name_and_keep_minimums(workspace):
    volume = """[[limits.volumes]]
name = "club"
actions = ["club"]
most = 150
least = 120
[policy]"""
    (workspace.root / "nba.toml").write_text(TOML.replace("[policy]", volume))
    workspace.registered.model = Believer()
    decide.decide(workspace.root, AT)
    found = scenario.scenario(workspace.root, "less club", scenario.Changes({"club": 30})).to_pylist()
    used = {row["scenario"]: row["used"] for row in found if row["item"] == "club"}
    share = 0.9  # without the holdout
    assert used["as decided"] >= 120 * 0.93
    assert used["less club"] <= 30 * share + 1
    assert History.read(workspace.root).broken_laws() == []


def test_scenarios_have_what_earlier_batches_of_the_day_left(workspace):
    volume = '[[limits.volumes]]\nname = "daily"\nactions = ["club"]\nmost = 150\nper = "day"\n[policy]'
    (workspace.root / "nba.toml").write_text(TOML.replace("[policy]", volume))
    workspace.registered.model = Believer()
    for hour in range(2):
        decide.decide(workspace.root, AT + timedelta(hours=hour), f"b{hour}")
    history = History.read(workspace.root)
    taken = history.sql("from decisions where batch_id = 'b0' and treatment_id like 'club%'").num_rows
    assert taken > 50
    for batch_id, left in (("b0", 150), ("b1", 150 - taken)):
        rows = scenario.scenario(workspace.root, batch_id, scenario.Changes({}), batch_id).to_pylist()
        (there,) = {row["available"] for row in rows if row["item"] == "daily"}
        share = history.sql(
            "select avg((arm <> 'holdout')::int) as x from decisions where batch_id = $b", {"b": batch_id}
        )
        assert there == pytest.approx(left * share["x"][0].as_py(), abs=1)  # whole contacts


def test_a_champion_is_not_judged_on_what_it_learnt_from(workspace):
    for week in range(2):
        decide.decide(workspace.root, AT + timedelta(weeks=week))
    feedback.feedback(workspace.root, AT + timedelta(weeks=2))
    workspace.registered.model = Believer()

    def judged(trained_weeks):
        workspace.registered.trained_at = AT + timedelta(weeks=trained_weeks)
        values = evaluate.evaluate(workspace.root, AT + timedelta(weeks=2)).to_pandas()
        return values[(values.policy_id == "softmax-t0.3-f0.2@believer") & (values.estimator == "dros")].iloc[
            0
        ]

    assert judged(0)["n"] > judged(1)["n"] > 0.8 * N
    nothing = judged(2)
    assert "were in its training" in nothing["reason"]
    assert np.isnan(nothing["value"])


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
