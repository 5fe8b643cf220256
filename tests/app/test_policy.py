"""Policy: what was sent, how candidates rank, what limits are worth."""

import json

import pytest

from app.messages import say
from nba import tables
from nba.history import History
from tests.app.shop import START


def test_changing_channel_to_action_and_arm(show, workspace) -> None:
    app = show(workspace, "policy")
    assert set(app.dataframe[0].value["arm"]) == {"policy"}
    app.segmented_control(key="by").set_value("action_id").run()
    app.selectbox(key="arm").set_value("all").run()
    assert not app.exception
    assert len(set(app.dataframe[0].value["arm"])) == 3


def test_policy_tells_the_tables_numbers(show, workspace, words) -> None:
    history = History.read(workspace)
    app = show(workspace, "policy", view="arbitration")
    shown = app.dataframe[0].value.set_index("treatment_id")
    last = "batch_id = 'b3' and coalesce(arm, '') = 'policy'"
    chosen = history.sql(f"select treatment_id, count(*) as n from decisions where {last} group by 1")
    expected = {row["treatment_id"]: row["n"] for row in chosen.to_pylist()}
    assert shown["n_chosen"].to_dict() == {k: v for k, v in expected.items() if k != "none"}
    assert shown["value"].tolist() == pytest.approx([0.1] * 4)
    app.segmented_control(key="view").set_value("prices").run()
    assert "One more **SMS slot** for policy would have been worth about **0.40 EUR**" in words(app)
    app.segmented_control(key="view").set_value("values").run()
    shown, others = (frame.value for frame in app.dataframe[:2])
    assert dict(zip(shown["policy_id"], shown["value"])) == {"Champion (version 2)": 3.1, "Arm random": 2.2}
    assert others["value"].tolist() == [3.1, 2.2]  # by the other estimator


def test_what_an_arm_expects_that_ranks_by_response_is_not_called_incremental(show, fresh, words) -> None:
    root = fresh()
    path = root / "nba.toml"
    text = path.read_text(encoding="utf-8")
    assert "not incremental" not in words(show(root, "policy", view="arbitration", arm="policy"))
    path.write_text(text.replace('policy = "champion"', 'policy = "response_greedy"'), encoding="utf-8")
    assert "Of **policy**, value, price and priority are of" in words(
        show(root, "policy", view="arbitration", arm="policy")
    )
    told = words(show(root, "policy", view="prices", arm="policy"))
    assert "would have let in responses worth about **0.40 EUR**" in told
    assert "would have been worth" not in told
    spanish = words(show(root, "policy", view="prices", arm="policy", lang="es"))
    assert "no es dinero que ganaría más capacidad" in spanish


def test_parts_that_no_command_has_filled_name_it(show, fresh, words) -> None:
    root = fresh()
    views = (
        ("ablations", "candidates"),
        ("scenario", "scenario"),
        ("values", "evaluate"),
        ("values", "promote"),
    )
    row = {"versus": "random", "method": "off-policy", "policy_id": "p", "level": 0.95, "n": 0, "reason": "-"}
    History.read(root).commit(replace={"ablations": tables.ABLATIONS.build([row])})
    for view, command in views:
        assert f"Not here yet: `nba {command} {root}`" in words(show(root, "policy", view=view))
    History.read(root).commit(replace={"lever_costs": tables.LEVER_COSTS.build([])})
    shown = words(show(root, "policy", view="ablations"))
    assert say("policy.levers") in shown
    assert say("empty.none", command=f"nba candidates {root}") in shown


def test_limits_of_checks_say_on_which_side_to_lie_and_counts_are_whole(show, fresh) -> None:
    root = fresh()
    told = {  # value and limit, and how they read
        "effective sample size": (2501.2, 50.0, "2,501", "at least 50"),
        "support": (0.0, 0.01, "0", "at most 0.01"),
        "logged probabilities": (0.1017, 0.0001, "0.1", "at least 0.0001"),
        "largest weight": (86.5296, 200.0, "86.53", "at most 200"),
        "candidates": (3.0, 9960.0, "3", "below 9,960"),
    }
    logged = [
        {
            "policy_id": "p",
            "check": name,
            "status": "ok",
            "value": row[0],
            "limit": row[1],
            "note": "",
            "side": row[3].rpartition(" ")[0].replace(" ", "_"),
            "is_count": "," in row[2] or row[2] == "3",
        }
        for name, row in told.items()
    ]
    asked = [
        {"check": name, "status": status, "value": value, "limit": limit, "note": "", "champion": 1,
         "challenger": 2, "asked_at": START, "side": side, "is_count": is_count}
        for name, status, value, limit, side, is_count in (
            ("paired value, lower bound at any look", "fail", -0.0123, 0.0, "above", False),
            ("effective sample size of the champion", "pass", 180.4, 50.0, "at_least", True),
            ("log loss against the base rate", "unknown", None, None, "at_most", False),
            ("of an earlier version", "pass", 0.5, 1.0, None, None),
        )
    ]  # fmt: skip
    made = {
        "diagnostics": tables.DIAGNOSTICS.build(logged),
        "promotion_evidence": tables.PROMOTION_EVIDENCE.build(asked),
    }
    History.read(root).commit(replace=made)
    frames = (frame.value for frame in show(root, "policy", view="values").dataframe)
    log, gate = (frame for frame in frames if "bound" in frame.columns)
    assert {tuple(row) for row in log[["found", "bound"]].to_numpy()} == {row[2:] for row in told.values()}
    assert gate["found"].tolist()[:2] == ["−0.012", "180"]
    assert gate["bound"].tolist()[:2] == ["above 0", "at least 50"]
    assert gate[["found", "bound"]].isna().to_numpy()[2].all()
    assert gate["bound"].tolist()[3] == "1"  # on which side is not known


def test_a_challenger_stands_beside_the_champion_with_its_gain(show, fresh, words) -> None:
    root = fresh()
    history = History.read(root)
    (champion,) = [row for row in history.table("summary_models").to_pylist() if row["alias"]]
    later = champion | {"version": 3, "alias": "challenger", "model_id": "other"}
    (value, *_) = history.table("policy_values").to_pylist()
    gain = {
        "policy_id": "softmax@other",
        "estimator": "dros",
        "gain": -0.12,
        "gain_lower": -0.5,
        "gain_upper": 0.26,
        "n": 1200,
    }
    models, values = (
        [*history.table(name).to_pylist(), row]
        for name, row in (("summary_models", later), ("policy_values", value | gain))
    )
    made = {"summary_models": tables.SUMMARY_MODELS.build(models)}
    history.commit(replace=made | {"policy_values": tables.POLICY_VALUES.build(values)})
    app = show(root, "policy", view="values")
    named = app.dataframe[0].value["policy_id"].tolist()
    assert named == ["Champion (version 2)", "Challenger (version 3)", "Arm random"]
    told = "on the same 1,200 decisions: **−0.12 EUR** a decision, −0.50 EUR to 0.26 EUR."
    assert f"**Challenger (version 3)** against the champion, {told}" in words(app).replace("\\", "")


def test_arms_are_compared_in_the_batches_that_the_champion_is_judged_on(show, fresh, words) -> None:
    root = fresh()
    history = History.read(root)
    rows = [row for row in history.table("policy_values").to_pylist() if row["estimator"] == "ips"]
    arm, champion = (next(row for row in rows if row["policy_id"].startswith(x)) for x in ("arm:", "soft"))
    alike = arm | {"batch_id": "judged", "value": 2.9, "n_batches": 1}
    for n, told in ((1, say("policy.same_batches", n=1)), (2, say("policy.other_batches"))):
        made = [arm | {"n_batches": 11}, champion | {"n_batches": n}, alike]
        history = history.commit(replace={"policy_values": tables.POLICY_VALUES.build(made)})
        app = show(root, "policy", view="values")
        shown = dict(zip(*(app.dataframe[0].value[name] for name in ("policy_id", "value"))))
        assert shown == {"Champion (version 2)": 3.1, "Arm random": 2.9}
        assert told in words(app)


def test_policy_and_attribution_lead_with_numbers(show, fresh, words, numbers) -> None:
    root = fresh()
    row = {"level": "all", "item": "all", "n": 9, "source": "combined", "roas": 2.5, "margin": 99.0}
    rows = [row | {"period": "all", "margin_lower": 50.0, "margin_upper": 148.0, "reason": ""}]
    history = History.read(root).commit(replace={"incremental": tables.INCREMENTAL.build(rows)})
    app = show(root, "attribution")
    assert numbers(app)["Margin all contact caused"] == "99.00 EUR"
    assert numbers(app)["Return on cost"] == "2.50"
    assert "50.00 EUR to 148.00 EUR" in words(app)
    app.selectbox(key="audience").set_value("acquisition=store").run()
    assert not numbers(app)  # what contact caused is known of all customers only
    (newest,) = history.sql("from summary_batches where arm = 'policy' and batch_id = 'b3'").to_pylist()
    shown = numbers(show(root, "policy"))
    assert shown["Contacts of the last batch"] == str(newest["n_contacts"])


def test_each_part_is_told_by_both_methods_and_where_they_disagree(show, workspace, words) -> None:
    app = show(workspace, "policy", view="ablations")
    shown = app.dataframe[0].value
    assert shown["versus"].tolist() == [
        f"Against {x}" for x in ("random choice", "response only") for _ in "ab"
    ]
    assert shown["method"].tolist() == ["Randomised", "Off-policy"] * 2
    assert set(shown["ess"]) == {80.0}
    (told,) = app.warning
    assert told.value.startswith("Against response only: the two methods disagree")
    assert "on the decisions made since its training" in words(app)


def test_ablations_say_what_decisions_they_rest_on(show, fresh, words) -> None:
    root = fresh()
    check = {"policy_id": "champion", "check": "made since training", "value": 0.0, "limit": 1.0,
             "status": "warning", "note": "", "side": "at_least", "is_count": False}  # fmt: skip
    History.read(root).commit(replace={"diagnostics": tables.DIAGNOSTICS.build([check])})
    shown = words(show(root, "policy", view="ablations"))
    assert "on decisions made before its training that closed later" in shown


def test_a_difference_that_a_few_decisions_carry_is_called_doubtful_and_why(show, fresh, words) -> None:
    root = fresh()
    assert "doubtful, do not act" not in words(show(root, "policy", view="ablations"))
    rows = History.read(root).table("ablations").to_pylist()
    doubt = "largest weight 350 (of one decision); weight tails (62% of the weight is on 1% of decisions)"
    rows[-1]["doubt"] = doubt
    History.read(root).commit(replace={"ablations": tables.ABLATIONS.build(rows)})
    app = show(root, "policy", view="ablations")
    (told,) = [one.value for one in app.warning if "doubtful" in one.value]
    assert told.startswith("Against response only (Off-policy): doubtful, do not act on it.")
    assert "62% of the weight is on 1% of decisions" in told.replace("\\", "")
    marks = [bar["marker"].get("symbol") for bar in json.loads(app.get("plotly_chart")[0].proto.spec)["data"]]
    assert marks[0] == "x-thin-open"
    assert set(marks[1:]) <= {None, "circle-open"}
    spanish = words(show(root, "policy", view="ablations", lang="es")).replace("\\", "")
    assert "mayor peso 350 (de una decisión); colas de los pesos (el 62 % del peso" in spanish
