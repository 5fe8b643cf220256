"""Replays, evaluation, shadows and scenarios of what a small hand-made workspace decided."""

from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from nba import tables
from nba.errors import DataError
from nba.evaluation import offpolicy
from nba.history import History
from pipelines import candidates, cli, decide, evaluate, feedback, replay, scenario, shadow
from pipelines import pooled as pooling
from tests.believer import Believer
from tests.pipelines.shop import AT, TOML, N

# by hand


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


def test_a_difference_is_doubtful_where_either_policy_fails_a_check_of_the_log():
    # Of 2,000 decisions one was nearly impossible, and is sure of the second policy.
    logged = np.tile([0.5, 0.5], (2000, 1))
    logged[0] = 0.999, 0.001
    column = np.arange(2000) % 2
    column[0] = 1
    sure = logged.copy()
    sure[0] = 0.0, 1.0
    log = offpolicy.Log(column, np.ones(2000), logged, np.arange(2000))
    target = {"a": logged, "b": sure}
    pooled = pooling.Pooled(log, log.reward, logged, column * 0, target, column.astype(object))
    assert evaluate._doubt(pooled, "a") == ""
    told = evaluate._doubt(pooled, "a", "b")
    assert "largest weight 1e+03 (of one decision)" in told
    assert evaluate._doubt(pooled, "b") == told
    # Four of five got the second: a policy that likes it looks likelier than it can be.
    column = (np.arange(2000) % 5 > 0).astype(np.int64)
    log = offpolicy.Log(column, np.ones(2000), np.full((2000, 2), 0.5), np.arange(2000))
    target = {"c": np.tile([0.1, 0.9], (2000, 1))}
    pooled = pooling.Pooled(log, log.reward, logged, column * 0, target, column.astype(object))
    assert "mean weight (the weights average 1.480, expected 1)" in evaluate._doubt(pooled, "c")


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
    # Beside it stand the arms of the batches that it is judged on.
    judged = frame.loc[("arm:random", "on_policy", "judged")]
    assert judged["n_batches"] == champion.loc[("dros", "all"), "n_batches"] <= 4
    assert frame.loc[("arm:random", "on_policy", "all"), "n_batches"] == 4
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
    assert "decided before its training" not in nothing["reason"]
    assert np.isnan(nothing["value"])
    # Nothing made since has closed: what was made before and closed later is told with a remark, everywhere.
    overlapping = judged(1.5)
    assert np.isfinite(overlapping["value"])
    assert overlapping["reason"].startswith("decided before its training and closed later")

    def shown():
        at = (AT + timedelta(weeks=2)).isoformat()
        done = CliRunner().invoke(cli.app, ["evaluate", str(workspace.root), "--at", at])
        assert done.exit_code == 0, done.output
        tabled = History.read(workspace.root).table("ablations").to_pylist()
        return " ".join(done.output.split()), [row for row in tabled if row["method"] == "off-policy"]

    said, ablations = shown()
    assert all("decided before its training" in row["reason"] for row in ablations)
    assert len(ablations) == 5
    assert "made since training" in said
    assert "arm:holdout" in said
    assert "The full policy against itself without a part" in said
    workspace.registered.model = None
    said, ablations = shown()
    assert "No model is champion yet" in said
    assert not ablations
