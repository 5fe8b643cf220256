"""The readout of a workspace: effects, looks, verdicts, effects of actions."""

from datetime import datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from nba import settings, tables
from nba.errors import DataError, MissingError
from nba.experiments import anytime, declared, effects, facts, readout, sequential
from nba.experiments.analyze import Effects
from nba.history import History
from nba.stats import sequence_p_value
from pipelines import cli
from pipelines.analyze import analyze
from pipelines.plan import plan
from tests.experiments.shop import START, TOML, copied, verdict


def known_only(effect, se):
    """Make effects of which nothing else matters."""
    blank = dict.fromkeys(Effects._fields, np.zeros(effect.shape))
    return Effects(**blank | {"effect": effect, "se": se})


# by hand


def test_a_workspace_without_assignments_is_told_what_to_do(tmp_path):
    (tmp_path / "nba.toml").write_text(TOML, encoding="utf-8")
    with pytest.raises(MissingError, match="no assignments yet"):
        analyze(tmp_path, START)


def test_before_a_window_has_closed_nothing_is_read(workspace):
    found = verdict(workspace, 3)
    assert {row["verdict"] for row in found.values()} == {"keep running"}
    assert "No reward window has closed yet" in found["cc"]["reason"]
    assert History.read(workspace).table("effects").num_rows == 0


def test_a_trial_that_begins_after_others_waits_for_its_own_window(workspace, tmp_path):
    history = History.read(workspace)
    people = history.table("assignments").to_pylist()
    for row in people:
        row["assigned_at"] += timedelta(days=35 if row["experiment_id"] == "cc" else 0)
    text = TOML.replace("starts_at = 2026-01-01T00:00:00Z", "starts_at = 2026-02-05T00:00:00Z").replace(
        "ends_at = 2026-02-12", 'segments = ["a_city"]\nends_at = 2026-03-12'
    )
    folder = copied(workspace, tmp_path / "w", text, assignments=tables.ASSIGNMENTS.build(people))
    found = verdict(folder, 36)
    assert found["policy"]["n_looks"] == 5
    assert "No reward window has closed yet" in found["cc"]["reason"]
    for name in ("effects", "looks", "cube"):
        assert set(History.read(folder).table(name)["experiment_id"].to_pylist()) == {"policy"}
    assert verdict(folder, 43)["cc"]["n_looks"] == 1


def test_looks_are_scheduled_by_the_declaration():
    experiment = settings.Experiment(starts_at=START, ends_at=START + timedelta(days=17), look_days=7)
    looks = facts.look_times(experiment, START, START + timedelta(days=100))
    assert [(at - START).days for at in looks] == [7, 14, 17]


@pytest.mark.parametrize("ends", ["2026-02-10T12:00:00Z", "2026-03-05T00:00:00Z"])
def test_the_planned_end_is_reached_whenever_batches_were(workspace, tmp_path, ends):
    text = TOML.replace("2026-02-12T00:00:00Z", ends).replace(
        "planned_effect = 5.0", "planned_effect = 0.001"
    )
    folder = copied(workspace, tmp_path / "w", text)
    end = datetime.fromisoformat(ends)
    before = verdict(folder, (end - START).days - 1)["cc"]
    assert before["verdict"] == "keep running"
    over = verdict(folder, 100)["cc"]
    assert over["verdict"] == "cannot be read"
    assert over["reason"].startswith("The planned end was reached")
    assert (over["matured_at"], over["days_left"]) == (end, 0.0)
    looks = History.read(folder).table("looks").to_pylist()
    assert max(row["looked_at"] for row in looks if row["experiment_id"] == "cc") == end


def test_the_named_cost_is_what_margin_is_net_of(workspace, tmp_path):
    folder, at = copied(workspace, tmp_path / "w"), START + timedelta(days=38)
    trial = settings.read(folder).experiments[0]
    plain = tuple(metric.model_copy(update={"is_adjusted": False}) for metric in trial.metrics)
    trial = trial.model_copy(update={"metrics": plain})  # means as they are, with which one may reckon
    own = [row for row in History.read(folder).table("assignments").to_pylist() if row["arm"] == "chall"]
    # Before the assignment, within, at the end of the last closed window, and after it.
    days = {-3: 7.0, 2: 0.5, 34: 0.25, 35: 11.0, 37: 13.0}
    sent = [
        {"touch_id": f"{row['customer_id']}-{day}", "customer_id": row["customer_id"], "channel": "sms",
         "kind": "sent", "treatment_id": None, "decision_id": None, "cost": cost,
         "touched_at": START + timedelta(days=day)}
        for i, row in enumerate(own) for day, cost in days.items() if i % 3 or day != 2
    ]  # fmt: skip
    found = []
    for touches in (None, sent):
        if touches:
            History.read(folder).commit(append={"touches": tables.TOUCHES.build(touches)})
        with History.read(folder).as_of(at) as snapshot:
            read = readout.read(snapshot, trial, 7)
        (row,) = read.readouts.to_pylist()
        (effect,) = [r for r in read.effects.to_pylist() if (r["metric"], r["segment"]) == ("margin", "all")]
        found.append((row, effect["mean"] * effect["n"]))
    (before, gross), (after, net) = found
    assert (before["cost"], after["matured_at"]) == (0.0, START + timedelta(days=35))
    assert after["cost"] == pytest.approx(gross - net)
    assert after["cost"] == 0.25 * len(own) + 0.5 * sum(1 for i in range(len(own)) if i % 3)


def test_shares_changed_without_a_phase_cannot_be_read(workspace):
    config = settings.read(workspace)
    other = config.experiment.model_copy(
        update={
            "arms": (
                settings.Arm(name="holdout", share=0.2, policy="none"),
                settings.Arm(name="policy", share=0.8, policy="champion"),
            )
        }
    )
    with History.read(workspace).as_of(START + timedelta(days=60)) as snapshot:
        found = readout.read(snapshot, other, 7)
    row = found.readouts.to_pylist()[0]
    assert row["verdict"] == "cannot be read"
    assert "Shares changed without a phase" in row["reason"]
    assert {r["effect"] for r in found.effects.to_pylist()} == {None}
    assert {r["p_value"] for r in found.effects.to_pylist()} == {None}
    assert all("without a phase" in r["reason"] for r in found.effects.to_pylist())
    assert found.looks.num_rows == 0


def test_customers_decided_in_two_arms_cannot_be_read(workspace, tmp_path):
    history = History.read(workspace)
    rows = history.table("decisions").to_pylist()
    for row in rows[::2]:
        if (row["batch_id"], row["arm"]) == ("b1", "champ"):
            row["arm"] = "chall"
    kept = {name: history.table(name) for name in ("assignments", "orders", "customers")}
    swapped = History.read(tmp_path).commit(append=kept | {"decisions": tables.DECISIONS.build(rows)})
    with swapped.as_of(START + timedelta(days=60)) as snapshot:
        found = readout.read(snapshot, settings.read(workspace).experiments[0], 7)
    assert "decided in two arms" in found.readouts.to_pylist()[0]["reason"]


def joined(workspace, folder, *, is_assigned, arm):
    """`gone`, in the challenger's arm, turns out to be `stays`, which is decided in an arm from then on."""
    history, since = History.read(workspace), START + timedelta(days=20)
    people = history.table("assignments").to_pylist()
    own = {row["customer_id"]: row["arm"] for row in people if row["experiment_id"] == "cc"}
    stays, gone = (next(c for c in own if own[c] == name) for name in ("champ", "chall"))
    people = [row for row in people if is_assigned or row["customer_id"] != stays]
    for row in people:
        row["assigned_at"] += timedelta(hours=row["customer_id"] == stays)
    decided = history.table("decisions").to_pylist()
    decided = [row for row in decided if row["customer_id"] != gone or row["decided_at"] < since]
    decided = [
        row for row in decided if is_assigned or row["customer_id"] != stays or row["decided_at"] > since
    ]
    for row in decided:
        if row["customer_id"] == stays and row["decided_at"] > since:
            row["arm"] = arm
    orders = history.table("orders").to_pylist()
    for row in orders:
        row["customer_id"] = stays if row["customer_id"] == gone else row["customer_id"]
    told = [{"alias_id": gone, "customer_id": stays, "joined_at": since, "is_pending": False}]
    merged = History.read(folder).commit(
        append={
            "assignments": tables.ASSIGNMENTS.build(people),
            "decisions": tables.DECISIONS.build(decided),
            "orders": tables.ORDERS.build(orders),
            "customers": history.table("customers"),
            "aliases": tables.ALIASES.build(told),
        }
    )
    trial = settings.read(workspace).experiments[0]
    with merged.as_of(START + timedelta(days=60)) as snapshot:
        who = facts.assigned(snapshot, trial)
        of = dict(zip(who["customer_id"].to_pylist(), who["arm"].to_pylist()))
        return of[stays], len(of) - len(own), readout.read(snapshot, trial, 7).readouts.to_pylist()[0]


def test_two_in_two_arms_who_turn_out_to_be_one_count_as_first_assigned(workspace, tmp_path):
    arm, more, row = joined(workspace, tmp_path, is_assigned=True, arm="chall")
    assert (arm, more) == ("chall", -1)
    assert row["verdict"] != "cannot be read"


@pytest.mark.parametrize(("arm", "is_read"), [("chall", True), ("champ", False)])
def test_who_was_assigned_under_another_id_stays_in_that_arm(workspace, tmp_path, arm, is_read):
    own, more, row = joined(workspace, tmp_path, is_assigned=False, arm=arm)
    assert (own, more) == ("chall", -1)
    assert (row["verdict"] != "cannot be read") is is_read
    assert ("1 customers were decided in two arms" in row["reason"]) is not is_read


def test_a_lost_arm_is_a_sample_ratio_mismatch(workspace, tmp_path):
    history = History.read(workspace)
    people = history.table("assignments").to_pylist()
    people = [row for i, row in enumerate(people) if row["arm"] != "chall" or i % 3]
    kept = {name: history.table(name) for name in ("decisions", "orders", "customers")}
    less = History.read(tmp_path).commit(append=kept | {"assignments": tables.ASSIGNMENTS.build(people)})
    with less.as_of(START + timedelta(days=60)) as snapshot:
        found = readout.read(snapshot, settings.read(workspace).experiments[0], 7)
    row = found.readouts.to_pylist()[0]
    assert row["p_srm"] < 0.01
    assert "do not have the customers that their shares promise" in row["reason"]


def test_a_mismatch_once_seen_stays_seen(workspace):
    experiment = settings.read(workspace).experiment
    # 200 of the first 800 are held out; a day later 200 of all 2,000, just what was promised.
    is_held = np.arange(2000) < 200
    day = np.arange(2000) >= 800
    people = pa.table(
        {
            "customer_id": [f"p{i}" for i in range(2000)],
            "arm": np.where(is_held, "holdout", "policy").tolist(),
            "assigned_at": pa.array([START + timedelta(days=int(d)) for d in day], tables.TIME),
            "p_arm": np.where(is_held, 0.1, 0.9),
            "phase": [0] * 2000,
            "is_moved": [False] * 2000,
        }
    )
    with History.read(workspace).as_of(START + timedelta(days=60)) as snapshot:
        chance, fault = readout.mismatch(snapshot, experiment, people)
    assert chance < 0.01
    assert "do not have the customers that their shares promise" in fault


def test_a_segment_that_does_not_exist_is_named(workspace):
    experiment = settings.read(workspace).experiment.model_copy(update={"segments": ("a_planet",)})
    with (
        History.read(workspace).as_of(START + timedelta(days=60)) as snapshot,
        pytest.raises(DataError, match="a_planet"),
    ):
        readout.read(snapshot, experiment, 7)


def test_a_segment_that_does_not_exist_leaves_other_experiments_their_readout(workspace, tmp_path):
    folder = copied(workspace, tmp_path / "w", TOML.replace('"a_city"', '"a_planet"'))
    found = verdict(folder, 60)
    assert found["policy"]["verdict"] == "cannot be read"
    assert "Segments ['a_planet'] of experiment 'policy' do not exist" in found["policy"]["reason"]
    assert found["cc"]["verdict"] == verdict(workspace, 60)["cc"]["verdict"]
    assert set(History.read(folder).table("effects")["experiment_id"].to_pylist()) == {"cc"}


def test_consents_are_no_segments():
    with pytest.raises(ValueError, match=r"\['can_email'\] are consents"):
        settings.Experiment(segments=("can_email", "a_city"))


def test_traffic_astray_in_the_arm_or_its_control_cannot_be_read(workspace, tmp_path):
    history = History.read(workspace)
    decisions = history.table("decisions").to_pylist()
    rng = np.random.default_rng(5)
    for astray in ("chall", "champ", ""):
        choices = []
        for row in decisions:
            p = 0.9 if row["arm"] == astray else 0.6
            row["treatment_id"] = "none" if rng.random() < 0.6 else "mail"
            row["p_action"] = p if row["treatment_id"] == "none" else 1 - p
            choices += [
                {"decision_id": row["decision_id"], "treatment_id": name, "p_action": chance}
                | {"is_eligible": True, "reason": "", "price": 0.0}
                for name, chance in (("none", p), ("mail", 1 - p))
            ]
        kept = {name: history.table(name) for name in ("assignments", "orders", "customers")}
        kept |= {"decisions": tables.DECISIONS.build(decisions), "choices": tables.CHOICES.build(choices)}
        with (
            History.read(tmp_path / astray).commit(append=kept).as_of(START + timedelta(days=60)) as snapshot
        ):
            found = readout.read(snapshot, settings.read(workspace).experiments[0], 7)
        (row,) = found.readouts.to_pylist()
        said = f"logged probabilities say in {astray} (p = " in row["reason"]
        assert (row["verdict"] == "cannot be read" and said) == bool(astray)
        assert (row["p_traffic"] < 0.001) == (astray == "chall")
        assert {r["effect"] is None for r in found.effects.to_pylist()} == {bool(astray)}


def test_a_rule_changed_after_the_start_cannot_be_read(workspace, tmp_path):
    config = settings.read(workspace)
    trial = config.experiments[0]
    known = tables.DECLARATIONS.empty()
    assert declared.declarations(config, START - timedelta(days=1), ())["experiment_id"].to_pylist() == [
        "policy"
    ]
    known = declared.declarations(config, START, ["policy"])
    assert known["experiment_id"].to_pylist() == ["cc"]
    assert declared.declarations(config, START, ["policy", "cc"]).num_rows == 0
    assert declared.declarations(config, trial.ends_at, ["policy"]).num_rows == 0
    folder = copied(workspace, tmp_path / "w")
    history = History.read(folder).commit(append={"declarations": known})
    # More to look at beside the rule changes nothing of it.
    more = settings.Measured(name="orders", numerator="orders")
    with history.as_of(START + timedelta(days=60)) as snapshot:
        assert declared.changed(snapshot, trial) == ""
        elsewhere = trial.starts_at.astimezone(timezone(timedelta(hours=2)))
        assert declared.changed(snapshot, trial.model_copy(update={"starts_at": elsewhere})) == ""
        assert declared.changed(snapshot, trial.model_copy(update={"metrics": (*trial.metrics, more)})) == ""
    later = TOML.replace("2026-02-12", "2026-02-19").replace("planned_effect = 5.0", "planned_effect = 1.0")
    (folder / "nba.toml").write_text(later, encoding="utf-8")
    found = verdict(folder, 60)["cc"]
    assert found["verdict"] == "cannot be read"
    for words in (
        "changed after the start of 2026-01-01 00:00",
        'ends_at was "2026-02-12 00:00+00:00", is "2026-02-19 00:00+00:00"',
        "margin.planned_effect was 5.0, is 1.0",
        "put it back, or declare another experiment",
    ):
        assert words in found["reason"]
    rows = History.read(folder).table("effects").to_pylist()
    assert {r["effect"] for r in rows if r["experiment_id"] == "cc"} == {None}


def test_between_looks_the_interval_goes_by_its_own_clock(workspace):
    experiment = settings.read(workspace).experiments[0]
    n = np.full((3, 1), 1000.0)
    # The variance of the score doubles, and grows by half once more after the second look.
    of = np.sqrt(np.array([1.0, 2.0, 3.0])) * np.ones((3, 1)) / 500
    ratio = effects.ratios(experiment)
    score = [anytime.score(se[:, None], n, n, ratio) for se in of.T]
    found = known_only(np.ones((3, 1)), of[:, 2:])
    planned = effects.planned_looks(experiment)
    watched = anytime.watch(found, score[2], np.dstack(score[:2]), planned, 0.05)
    bounds = sequential.sequence_bound(np.array([2.0, 4.0, 6.0]), 2 * planned)
    for i in np.flatnonzero(~ratio):
        half = (watched.upper - watched.lower)[i, 0] / 2
        assert half == pytest.approx(bounds[2] * of[i, 2])
        assert half != pytest.approx(bounds[1] * of[i, 2])


def test_a_segment_is_watched_from_its_first_look_on():
    # Not there at the first look, or at none; errors fall, the clock never goes back.
    found = known_only(np.array([[3.0, 3.0, 3.0]]), np.ones((1, 3)))
    at_looks = np.array([[[1.0, 2.0, 4.0], [np.nan, 2.0, 4.0], [np.nan, np.nan, 0.0]]])
    watched = anytime.watch(found, np.array([[3.0, 4.0, 4.0]]), at_looks, 10, 0.05)
    bound = sequential.sequence_bound(np.array([8.0, 4.0]), 20)
    assert watched.lower[0] == pytest.approx([*(3 - bound), np.nan], nan_ok=True)
    assert watched.p_value[0, 0] == pytest.approx(sequence_p_value(3.0, 8.0, 20))
    assert np.isnan(watched.p_value[0, 2])
    none = anytime.watch(found, np.ones((1, 3)), np.full((1, 3, 0), np.nan), 10, 0.05)
    assert np.isnan(none).all()


def test_nothing_sold_says_nothing_of_money():
    counted, money = (
        settings.Experiment(metrics=(settings.Measured(name="m", numerator=name, role="primary"),))
        for name in ("unsubscribes", "revenue")
    )
    looks = [START + timedelta(days=7)]
    still = [np.ones((1, 1)), *np.zeros((2, 1, 1)), *np.full((2, 1, 1), 400.0), np.zeros((1, 1))]
    path = readout._path(counted, looks, *still)
    assert path.upper[0, 0] == pytest.approx(np.log(2 / 0.05) / 400)
    path = readout._path(money, looks, *still)
    assert (path.lower[0, 0], path.upper[0, 0]) == (-np.inf, np.inf)


def test_a_segment_that_does_not_exist_is_named_before_the_start(workspace, tmp_path):
    folder = copied(workspace, tmp_path / "w", TOML.replace('"a_city"', '"a_planet"'))
    with pytest.raises(DataError, match="a_planet"):
        plan(folder, START)


# laws


def test_nothing_later_changes_a_readout(workspace, tmp_path):
    at = START + timedelta(days=20)
    history = History.read(workspace)
    before = analyze(workspace, at)
    kept = {name: history.table(name) for name in ("assignments", "decisions", "customers")}
    orders = history.table("orders")
    early = orders.filter(pa.compute.less(orders["ordered_at"], pa.scalar(at, tables.TIME)))
    (tmp_path / "nba.toml").write_text(TOML, encoding="utf-8")
    History.read(tmp_path).commit(append=kept | {"orders": early})
    assert analyze(tmp_path, at).equals(before)


def test_the_tables_keep_their_contracts(workspace):
    effects = analyze(workspace, START + timedelta(days=60))
    history = History.read(workspace)
    for name in ("effects", "readouts", "looks", "action_effects"):
        tables.BY_NAME[name].check(history.table(name))
    assert set(effects["segment"].to_pylist()) == {"all", "a_city=Oslo", "a_city=Rome"}
    assert set(history.table("readouts")["unit"].to_pylist()) == {"customer"}
    always = [r for r in effects.to_pylist() if r["always_lower"] is not None]
    assert all(r["always_lower"] < r["lower"] and r["upper"] < r["always_upper"] for r in always)


def test_whether_segments_differ_is_corrected_once_for_each_question():
    experiment = settings.Experiment(segments=("a_city", "timezone"))
    raw = {("margin", "a_city"): 0.03, ("margin", "timezone"): 0.5, ("orders", "a_city"): 0.01}
    rows = [
        {"metric": m, "arm": "policy", "segment": f"{s}={v}", "p_value": 0.5, "p_heterogeneity": p}
        for (m, s), p in raw.items()
        for v in "xyz"
    ]
    whole = {"metric": "margin", "arm": "policy", "segment": "all", "p_value": 0.5, "p_heterogeneity": None}
    found = effects.corrected(experiment, [whole, *rows])
    assert found[0]["p_heterogeneity"] is None
    # Three questions, whatever the number of their segments: Holm takes 3 x 0.01, 2 x 0.03, 0.5.
    assert [r["p_heterogeneity"] for r in found[1::3]] == pytest.approx([0.06, 0.5, 0.03])


def test_a_look_before_anybody_counted_is_left_out_of_what_holds_at_every_look(workspace, tmp_path):
    slow = TOML.replace("window_days = 7", "window_days = 14")
    assert slow != TOML
    folder = copied(workspace, tmp_path / "w", slow)
    rows = analyze(folder, START + timedelta(days=60)).to_pylist()
    assert [r for r in rows if r["segment"] != "all" and r["p_always"] is not None]


def test_segments_are_claimed_by_what_holds_at_every_look_until_the_end(workspace):
    rows = analyze(workspace, START + timedelta(days=60)).to_pylist()
    ended, open_ended = (
        [r for r in rows if r["experiment_id"] == name and r["metric"] != "unsubscribes"]
        for name in ("cc", "policy")
    )
    parts = [r for r in open_ended if r["segment"] != "all" and r["always_lower"] is not None]
    assert parts
    for row in parts:
        leaves_zero = row["always_lower"] > 0 or row["always_upper"] < 0
        arms = len({r["arm"] for r in open_ended})
        assert leaves_zero == (row["p_always"] < 0.05 / arms)
        assert row["p_value"] - 1e-9 <= row["p_always"] <= row["p_corrected"]
    # The planned end is behind: one reading is all.
    assert all(r["p_corrected"] >= r["p_value"] for r in ended if r["p_corrected"] is not None)
    assert any(r["p_corrected"] < r["p_always"] for r in ended if r["p_corrected"] is not None)


def test_the_command_prints_every_verdict_with_its_unit_and_estimand(workspace):
    done = CliRunner().invoke(cli.app, ["analyze", str(workspace), "--at", "2026-03-10"])
    assert done.exit_code == 0, done.output
    flat = " ".join(done.output.split())
    for words in (
        "Experiment policy: effects per customer, randomised by customer",
        "Experiment cc: effects per customer, randomised by customer",
        "Segments whose effect holds after correction",
        "valid at every look",
        "relative, %",
    ):
        assert words in flat
    assert flat.count("not which algorithm is better in general") == 2
    verdicts = History.read(workspace).table("readouts").to_pylist()
    assert {row["experiment_id"] for row in verdicts} == {"policy", "cc"}
    assert all(row["verdict"].split()[0] in flat for row in verdicts)


# recovery


def test_the_policy_ships_and_two_equal_policies_do_not(workspace):
    found = verdict(workspace, 60)
    assert found["policy"]["verdict"] == "ship"
    assert found["policy"]["is_early"]
    assert "likely too high" in found["policy"]["reason"]
    assert found["cc"]["verdict"] in {"stop: no difference worth having", "cannot be read"}
    margin = next(
        r
        for r in History.read(workspace).table("effects").to_pylist()
        if (r["experiment_id"], r["metric"], r["segment"]) == ("policy", "margin", "all")
    )
    # Orders double: three more of them, at a margin of 5 each.
    se = (margin["upper"] - margin["lower"]) / (2 * 1.96)
    assert abs(margin["effect"] - 15.0) < 3 * se


def test_a_quantile_is_compared_and_says_how(workspace, tmp_path):
    more = '  { name = "median", numerator = "revenue", quantile = 0.5 },\n]\n'
    folder = copied(workspace, tmp_path / "w", TOML.rstrip()[:-1] + more)
    effects = analyze(folder, START + timedelta(days=60)).to_pylist()
    (row,) = [r for r in effects if r["metric"] == "median"]
    assert row["method"].startswith("quantile 0.5")
    assert row["lower"] <= row["effect"] <= row["upper"]
    assert row["effect"] == pytest.approx(row["mean"] - row["mean_control"])
    assert row["p_value"] is None
    with pytest.raises(ValueError, match="expected a secondary metric"):
        settings.Measured(name="m", numerator="margin", role="primary", quantile=0.5)


def test_arms_of_the_standing_experiment_may_have_another_control(workspace, tmp_path):
    history = History.read(workspace)
    text = (
        TOML.split("[[experiments]]", maxsplit=1)[0]
        + """
[[experiments]]
experiment_id = "other_way"
layer = "standing"
control = "policy"
starts_at = 2026-01-01T00:00:00Z
arms = [
  { name = "holdout", share = 0.1, policy = "none" },
  { name = "policy", share = 0.9, policy = "champion" },
]
"""
    )
    (tmp_path / "nba.toml").write_text(text, encoding="utf-8")
    kept = {name: history.table(name) for name in ("assignments", "decisions", "orders", "customers")}
    History.read(tmp_path).commit(append=kept)
    effects = analyze(tmp_path, START + timedelta(days=60)).to_pylist()
    found = {
        r["experiment_id"]: r["effect"] for r in effects if r["metric"] == "margin" and r["segment"] == "all"
    }
    assert found["other_way"] == pytest.approx(-found["policy"])
