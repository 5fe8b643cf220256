"""What pages show is gathered truly from the big tables."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from nba import settings, stats, tables
from nba.errors import MissingError
from nba.history import History
from nba.models import explain
from pipelines import overview_alerts, overview_clv, overview_data, overview_models
from pipelines.overview import BINS, against_control, overview

START = datetime(2026, 3, 2, 6, tzinfo=UTC)
TOML = '[workspace]\nname = "w"\n[reward]\nwindow_days = 7\n'
ACTIONS = "action_id,issue,group,name,margin,lever,starts_at,ends_at\nx,i,g,X,10,1,,\n"
TREATMENTS = "treatment_id,action_id,channel,cost,cooldown_days\nx_sms,x,sms,0.5,7\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "catalog").mkdir()
    (tmp_path / "nba.toml").write_text(TOML, encoding="utf-8")
    (tmp_path / "catalog" / "actions.csv").write_text(ACTIONS, encoding="utf-8")
    (tmp_path / "catalog" / "treatments.csv").write_text(TREATMENTS, encoding="utf-8")
    return tmp_path


def decision(number: int, batch: int, arm: str, treatment: str = "none") -> dict[str, Any]:
    at = START + timedelta(weeks=batch)
    return {
        "decision_id": f"{batch}-{number}",
        "batch_id": f"b{batch}",
        "customer_id": f"c{number}",
        "treatment_id": treatment,
        "channel": "none" if treatment == "none" else "sms",
        "decided_at": at,
        "p_action": 0.5,
        "policy_id": "p",
        "experiment_id": "policy",
        "arm": arm,
        "p_arm": 0.5,
        "expected_value": 0.0 if treatment == "none" else 1.0,
        "reason": "",
        "config_hash": "0",
        "valid_until": at,
    }


def outcome(number: int, batch: int, reward: float, *, delivered: bool = True) -> dict[str, Any]:
    return {
        "decision_id": f"{batch}-{number}",
        "is_delivered": delivered,
        "is_response": reward > 0,
        "is_click": False,
        "is_unsubscribe": False,
        "reward": reward,
        "closed_at": START + timedelta(weeks=batch + 1),
        "window_days": 7,
    }


def sent(number: int, batch: int) -> dict[str, Any]:
    return {
        "touch_id": f"t{batch}-{number}",
        "customer_id": f"c{number}",
        "touched_at": START,
        "channel": "sms",
        "kind": "sent",
        "treatment_id": "x_sms",
        "decision_id": f"{batch}-{number}",
        "cost": 0.5,
    }


@pytest.fixture
def played(root: Path) -> History:
    """Two batches of two arms with two customers each; the second batch is still open."""
    decisions = [decision(i, b, "holdout") for b in (0, 1) for i in (0, 1)]
    decisions += [decision(i, b, "policy", "x_sms") for b in (0, 1) for i in (2, 3)]
    outcomes = [
        outcome(0, 0, 1.0),
        outcome(1, 0, 3.0),
        outcome(2, 0, 9.5),
        outcome(3, 0, 4.5, delivered=False),
    ]
    outcomes += [outcome(0, 1, 100.0)]
    History.read(root).commit(
        replace={
            "decisions": tables.DECISIONS.build(decisions),
            "outcomes": tables.OUTCOMES.build(outcomes),
            "touches": tables.TOUCHES.build([sent(2, 0), sent(3, 0), sent(2, 1)]),
        }
    )
    overview(root, START + timedelta(weeks=2))
    return History.read(root)


# by hand


def test_a_feature_of_few_values_has_a_bin_of_each() -> None:
    values = np.array([[0.0, 1.0], [1.0, 2.0], [1.0, np.nan], [0.0, 9.0]])
    shap = np.array([[-0.2, 0.1], [0.4, 0.1], [0.6, 0.1], [-0.4, 0.1]])
    nothing = np.empty((4, 0))
    told = explain.Explanation(("f_yes", "f_n"), values, shap, (), nothing, nothing, 0.0, 0.0)
    found = overview_models.dependence(told).to_pylist()
    yes = [(row["value"], row["contribution"], row["n"]) for row in found if row["feature"] == "f_yes"]
    assert yes == [(0.0, pytest.approx(-0.3), 2), (1.0, pytest.approx(0.5), 2)]
    assert [row["value"] for row in found if row["feature"] == "f_n"] == [1.0, 2.0, 9.0]


def test_scores_are_means_over_who_could_be_given_each_treatment_in_each_arm() -> None:
    eligible = np.array([[1, 1], [1, 0], [1, 1], [1, 0]], bool)
    response = np.array([[0.1, 0.2], [0.3, 0.9], [0.5, np.nan], [0.7, 0.9]])
    uplift = np.array([[0.0, 0.05], [0.0, 0.8], [0.0, 0.4], [0.0, 0.8]])
    names = ["none", "x_sms"]
    found = overview_models.averages(["a", "a", "a", "b"], names, eligible, response, uplift)
    rows = {(r["arm"], r["treatment_id"]): (r["p_response"], r["uplift"]) for r in found.to_pylist()}
    assert rows["a", "none"] == pytest.approx((0.3, 0.0))
    assert rows["a", "x_sms"] == pytest.approx((0.2, 0.225))  # the second could not be given it
    assert rows["b", "none"] == pytest.approx((0.7, 0.0))
    assert rows["b", "x_sms"] == (None, None)


def test_batches_count_and_compare_with_their_own_holdout(played: History) -> None:
    rows = {(r["batch_id"], r["arm"]): r for r in played.table("summary_batches").to_pylist()}
    first = rows["b0", "policy"]
    assert (first["n"], first["n_contacts"], first["n_delivered"], first["cost"]) == (2, 2, 1, 1.0)
    expected = stats.difference(np.array([9.5, 4.5]), np.array([1.0, 3.0]))
    assert first["effect"] == pytest.approx(5.0)
    assert (first["lower"], first["upper"]) == pytest.approx((expected.lower, expected.upper))
    assert rows["b0", "holdout"]["effect"] is None


def test_open_batches_have_no_value(played: History) -> None:
    rows = {(r["batch_id"], r["arm"]): r for r in played.table("summary_batches").to_pylist()}
    assert not rows["b1", "policy"]["is_matured"]
    assert rows["b1", "policy"]["effect"] is None
    assert "open" in rows["b1", "policy"]["reason"]


def test_mix_channels_and_numbers(played: History) -> None:
    (mix,) = [r for r in played.table("summary_mix").to_pylist() if r["treatment_id"] != "none" and r["n"] and
              r["batch_id"] == "b0"]  # fmt: skip
    assert (mix["action_id"], mix["channel"], mix["n"], mix["cost"], mix["expected_value"]) == (
        "x",
        "sms",
        2,
        1.0,
        2.0,
    )
    channels = {r["channel"]: r for r in played.table("summary_channels").to_pylist()}
    assert (channels["sms"]["n"], channels["sms"]["n_customers"], channels["sms"]["cost"]) == (4, 2, 1.5)
    numbers = {r["measure"]: r for r in played.table("summary_numbers").to_pylist()}
    assert numbers["batches"]["value"] == 2
    assert numbers["batches_matured"]["value"] == 1
    assert numbers["contacts"]["value"] == 4
    assert numbers["matured_until"]["at"] == START + timedelta(weeks=1)
    assert numbers["summarised"]["value"] == played.version - 1


def test_totals_scale_the_effect_and_leave_unknown_unknown(root: Path) -> None:
    row = {"experiment_id": "e", "metric": "margin", "arm": "a", "segment": "all", "control": "h", "n": 10,
           "n_control": 5, "level": 0.95, "method": "m", "estimand": "e", "reason": ""}  # fmt: skip
    known = row | {"effect": 2.0, "lower": 1.0, "upper": 3.0, "always_lower": 0.5, "always_upper": 3.5}
    History.read(root).commit(
        replace={"effects": tables.EFFECTS.build([known, row | {"arm": "b", "reason": "none"}])}
    )
    overview(root, START)
    a, b = History.read(root).table("summary_effects").to_pylist()
    assert (a["total"], a["total_lower"], a["total_upper"]) == (20.0, 10.0, 30.0)
    assert (a["always_total_lower"], a["always_total_upper"]) == (5.0, 35.0)
    assert (b["total"], b["total_lower"]) == (None, None)


def test_a_ratio_and_a_quantile_have_no_total(root: Path) -> None:
    metrics = (
        '{ name = "earned", numerator = "margin", role = "primary" }',
        '{ name = "basket", numerator = "revenue", denominator = "orders" }',
        '{ name = "most", numerator = "revenue", quantile = 0.9 }',
    )
    (root / "nba.toml").write_text(
        f"{TOML}[experiment]\nmetrics = [{', '.join(metrics)}]\n", encoding="utf-8"
    )
    row = {"experiment_id": "policy", "arm": "policy", "segment": "all", "control": "holdout", "n": 10,
           "n_control": 5, "level": 0.95, "method": "m", "estimand": "e", "reason": "", "effect": 2.0,
           "lower": 1.0, "upper": 3.0}  # fmt: skip
    rows = [row | {"metric": name} for name in ("earned", "basket", "most")]
    History.read(root).commit(replace={"effects": tables.EFFECTS.build(rows)})
    overview(root, START)
    found = {r["metric"]: r for r in History.read(root).table("summary_effects").to_pylist()}
    assert {name: found[name]["total"] for name in found} == {"earned": 20.0, "basket": None, "most": None}
    assert found["basket"]["total_upper"] is None


def test_clv_bins_hold_every_known_customer_and_all_value(root: Path) -> None:
    rng = np.random.default_rng(3)
    value = rng.gamma(0.5, 50.0, 500)
    rows = [
        {"customer_id": f"c{i}", "as_of": START, "n_repeat": 1, "recency_days": 1.0, "age_days": 2.0,
         "p_alive": 0.5, "clv": v, "horizon_days": 365, "model_id": "m", "reason": ""}
        for i, v in enumerate([None, *value.tolist()])
    ]  # fmt: skip
    History.read(root).commit(replace={"clv": tables.CLV.build(rows)})
    overview(root, START)
    history = History.read(root)
    bins = history.table("summary_clv").to_pandas()
    assert bins["n"].sum() == 500
    assert bins["total"].sum() == pytest.approx(value.sum())
    assert bins["bin"].max() == BINS
    assert bins["upper"].max() == pytest.approx(value.max())
    low = bins[bins["bin"] == 0]
    assert low["n"].item() == (value < low["upper"].item()).sum()
    numbers = {r["measure"]: r["value"] for r in history.table("summary_numbers").to_pylist()}
    assert (numbers["clv_customers"], numbers["clv_unknown"]) == (501, 1)


def test_those_at_risk_are_customers_of_now_with_what_the_last_batch_did(root: Path) -> None:
    # `c0` and `c1` turned out to be `c2` since; of the last batch's decisions for them one was a contact.
    names = ("as_of", "n_repeat", "recency_days", "age_days", "clv", "clv_at_risk", "horizon_days")
    rows = [
        dict(zip(names, (START, 1, 5.0, 9.0, 20.0, risk, 365))) | {"model_id": "m", "reason": ""}
        for risk in (3.0, 5.0, 4.0)
    ]
    forecast = [{**row, "customer_id": who} for who, row in zip(("c0", "c2", "c3"), rows)]
    into = [{"alias_id": who, "customer_id": "c2", "is_pending": False} for who in ("c0", "c1")]
    decided = [decision(0, 0, "policy"), decision(1, 0, "policy", "x_sms"), decision(3, 0, "policy")]
    history = History.read(root).commit(
        replace={
            "clv": tables.CLV.build(forecast),
            "aliases": tables.ALIASES.build(into),
            "decisions": tables.DECISIONS.build(decided),
        }
    )
    made = overview_clv.gather(history)
    found = [(r["customer_id"], r["treatment_id"]) for r in made["summary_at_risk"].to_pylist()]
    assert found == [("c2", "x_sms"), ("c3", "none")]
    assert sorted(made["summary_retained"]["channel"].to_pylist()) == ["none", "sms"]


def test_clv_of_customers_all_alike_and_worthless(root: Path) -> None:
    rows = [
        {"customer_id": f"c{i}", "as_of": START, "n_repeat": 0, "recency_days": 0.0, "age_days": 0.0,
         "clv": 0.0, "horizon_days": 365, "model_id": "m", "reason": ""}
        for i in range(3)
    ]  # fmt: skip
    History.read(root).commit(replace={"clv": tables.CLV.build(rows)})
    overview(root, START)
    assert History.read(root).table("summary_clv")["n"].to_pylist() == [3]


def test_the_time_of_the_last_batches_is_that_of_customers_who_were_there_before(root: Path) -> None:
    arms = dict(zip(range(5), ("holdout", "holdout", "policy", "policy", "policy")))
    late = START + timedelta(weeks=3)  # when customer 4 came
    bought = [(0, 2.0, 10.0), (2, 1.5, 20.0), (2, 0.5, 7.0), (3, 4.9, 5.0), (4, 4.0, 999.0), (3, 5.1, 999.0)]
    History.read(root).commit(
        replace={
            "decisions": tables.DECISIONS.build(
                decision(i, b, arm) for b in range(5) for i, arm in arms.items()
            ),
            "outcomes": tables.OUTCOMES.build(outcome(i, b, 1.0) for b in range(5) for i in arms),
            "touches": tables.TOUCHES.build(
                [sent(i, b) | {"touched_at": START + timedelta(weeks=b)} for i, b in ((2, 0), (2, 3), (4, 4))]
            ),
            "assignments": tables.ASSIGNMENTS.build(
                {"experiment_id": "policy", "customer_id": f"c{i}", "arm": arm, "p_arm": 0.5,
                 "assigned_at": late if i == 4 else START}
                for i, arm in arms.items()
            ),
            "orders": tables.ORDERS.build(
                {"order_id": f"o{k}", "customer_id": f"c{i}", "ordered_at": START + timedelta(weeks=week),
                 "revenue": 1.0, "margin": margin, "n_items": 1, "is_return": False}
                for k, (i, week, margin) in enumerate(bought)
            ),
        }
    )  # fmt: skip
    overview(root, START + timedelta(weeks=5))
    found = {row["arm"]: row for row in History.read(root).table("summary_periods").to_pylist()}
    row = found["policy"]
    assert (row["period"], row["since"]) == ("last_4", START + timedelta(weeks=1))
    assert (row["until"], row["n"], row["n_control"]) == (START + timedelta(weeks=5), 2, 2)
    known = stats_of([19.5, 5.0], [10.0, 0.0])
    assert [row[x] for x in ("effect", "lower", "upper")] == pytest.approx([7.25, *known])
    assert [row[x] for x in ("total", "total_lower", "cost")] == pytest.approx([14.5, 2 * known[0], 0.5])
    # Once shares have changed, customers of different phases are not compared as if they were alike.
    phase = (
        "[[experiment.phases]]\nstarts_at = 2026-03-20T00:00:00Z\nshares = { holdout = 0.2, policy = 0.8 }\n"
    )
    (root / "nba.toml").write_text(TOML + phase, encoding="utf-8")
    overview(root, START + timedelta(weeks=5))
    row = next(r for r in History.read(root).table("summary_periods").to_pylist() if r["arm"] == "policy")
    assert row["effect"] is None
    assert "shares of the arms changed" in row["reason"]


def stats_of(one: list[float], other: list[float]) -> list[float]:
    """The ends of Welch's interval, by scipy."""
    return [float(x) for x in scipy_stats.ttest_ind(one, other, equal_var=False).confidence_interval()]


def test_an_empty_workspace_gives_only_the_moment(root: Path) -> None:
    report = overview(root, START)
    assert report.rows == [{"table": "summary_numbers", "rows": 1}, {"table": "summary_alerts", "rows": 0}]


def test_no_workspace_is_one_clear_message(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"nba\.toml"):
        overview(tmp_path / "nowhere", START)


def readout(arm: str, **more: Any) -> dict[str, Any]:
    return {
        "experiment_id": "policy", "arm": arm, "control": "holdout", "unit": "customer", "metric": "margin",
        "verdict": "keep running", "reason": "", "is_early": False, "n_looks": 1, "rule": "", "estimand": "",
    } | more  # fmt: skip


def test_arms_of_every_experiment_stand_beside_what_its_shares_promise(root: Path) -> None:
    arms = [{"name": "b", "share": 0.25}, {"name": "a", "share": 0.25}, {"name": "holdout", "share": 0.5}]
    policies = {"a": "champion", "b": "random", "holdout": "none"}
    parts = [
        f'{{ name = "{a["name"]}", share = {a["share"]}, policy = "{policies[a["name"]]}" }}' for a in arms
    ]
    (root / "nba.toml").write_text(
        f"""{TOML}[experiment]
starts_at = 2026-03-01T00:00:00+00:00
arms = [{", ".join(parts)}]
phases = [{{ starts_at = 2026-03-08T00:00:00+00:00, shares = {{ a = 0.5, b = 0.0, holdout = 0.5 }} }}]
[[experiments]]
experiment_id = "trial"
layer = "standing"
control = "b"
starts_at = 2026-03-01T00:00:00+00:00
ends_at = 2026-03-07T00:00:00+00:00
arms = [
    {{ name = "a", share = 0.5, policy = "champion" }}, {{ name = "b", share = 0.5, policy = "random" }},
]
metrics = [{{ name = "margin", numerator = "margin", role = "primary" }}]
""",
        encoding="utf-8",
    )
    counts = {(0, "a"): 3, (0, "b"): 1, (0, "holdout"): 4, (1, "a"): 2}
    rows = [
        {"experiment_id": "policy", "customer_id": f"{day}{arm}{i}", "arm": arm, "p_arm": 0.5,
         "assigned_at": START + timedelta(weeks=day)}
        for (day, arm), n in counts.items() for i in range(n)
    ]  # fmt: skip
    History.read(root).commit(
        replace={
            "assignments": tables.ASSIGNMENTS.build(rows),
            "decisions": tables.DECISIONS.build([decision(1, 0, "a")]),
            "readouts": tables.READOUTS.build([readout("a", p_srm=0.4, p_traffic=0.2)]),
        }
    )
    overview(root, START + timedelta(weeks=2))
    found = History.read(root).table("summary_arms").to_pylist()
    shown = {
        (r["experiment_id"], r["arm"]): (r["n"], r["n_expected"], r["p_srm"], r["p_traffic"]) for r in found
    }
    # Eight entered under the first shares, two under the second.
    assert {key: row[:2] for key, row in shown.items() if key[0] == "policy"} == {
        ("policy", "a"): (5, 3.0), ("policy", "b"): (1, 2.0), ("policy", "holdout"): (4, 5.0)
    }  # fmt: skip
    assert shown["policy", "a"][2:] == (0.4, 0.2)
    assert shown["policy", "holdout"][2:] == (0.4, None)


def test_what_needs_a_look_comes_worst_first(played: History) -> None:
    played.commit(replace={"readouts": tables.READOUTS.build([readout(a, p_srm=1e-9) for a in "ab"])})
    made = {
        "summary_numbers": tables.SUMMARY_NUMBERS.build(
            [{"measure": "batches", "value": 3.0, "note": ""}, {"measure": "batches_matured", "value": 1.0,
              "note": ""}]
        ),
    }  # fmt: skip
    rows = overview_alerts.gather(
        History.read(played.root), settings.read(played.root), START + timedelta(weeks=30), made
    ).to_pylist()
    assert rows[0] == {"kind": "uneven arms", "subject": "policy", "severity": "error", "value": 1e-9,
                       "limit": 0.01, "note": ""}  # fmt: skip
    assert {"stale data"} <= {row["kind"] for row in rows[1:-1]}
    assert (rows[-1]["kind"], rows[-1]["value"], rows[-1]["limit"]) == ("immature", 2, 3)


def test_what_cannot_be_read_is_urgent_and_an_open_answer_is_not(played: History) -> None:
    fault, late = "shares changed without a phase for 3 customers.", "margin rose, but x by the planned end."
    found = [
        readout("a", verdict="cannot be read", reason=fault),
        readout("b", verdict="cannot be read", reason=fault),
        readout("a", experiment_id="trial", verdict="cannot be read", reason=late),
    ]
    played.commit(replace={"readouts": tables.READOUTS.build(found)})
    rows = overview_alerts.gather(
        History.read(played.root), settings.read(played.root), START,
        {"summary_numbers": tables.SUMMARY_NUMBERS.empty()},
    ).to_pylist()  # fmt: skip
    shown = {(row["kind"], row["subject"], row["severity"]) for row in rows}
    assert {("unreadable", "policy", "error"), ("verdict", "trial: a", "info")} <= shown
    assert sum(row["kind"] == "unreadable" for row in rows) == 1


def test_segments_removed_and_examples_count_decisions(played: History) -> None:
    choices = [
        {"decision_id": f"1-{i}", "treatment_id": name, "is_eligible": ok,
         "reason": "" if ok else "no consent",
         "p_action": p, "mean": mean, "se": 0.1, "price": 0.2}
        for i, ok in ((2, True), (3, False))
        for name, p, mean in (("none", 0.5 if ok else 1.0, 0.0), ("x_sms", 0.5 if ok else 0.0, 1.0))
    ]  # fmt: skip
    for row in choices:
        row["is_eligible"] = row["is_eligible"] or row["treatment_id"] == "none"
    people = [
        {
            "customer_id": f"c{i}",
            "joined_at": START,
            "a_town": "AB"[i % 2],
            "timezone": None,
            "external_id": None if i == 3 else f"CRM-{i}",
        }
        | {f"can_{c}": True for c in tables.CHANNELS}
        for i in range(4)
    ]
    played.commit(
        replace={"choices": tables.CHOICES.build(choices), "customers": tables.CUSTOMERS.build(people)}
    )
    overview(played.root, START + timedelta(weeks=2))
    after = History.read(played.root)
    (sms,) = [r for r in after.table("summary_arbitration").to_pylist() if r["treatment_id"] == "x_sms"]
    assert (sms["n"], sms["n_eligible"], sms["n_chosen"]) == (2, 1, 2)
    assert (sms["value"], sms["price"], sms["priority"]) == pytest.approx((1.0, 0.2, 0.8))
    gone = {(r["treatment_id"], r["reason"]): r["n"] for r in after.table("summary_removed").to_pylist()}
    assert gone == {("x_sms", ""): 1, ("x_sms", "no consent"): 1}
    assert after.table("summary_examples").num_rows == 4
    towns = after.sql("select segment, sum(n) as n from summary_segments group by 1 order by 1").to_pylist()
    assert towns == [{"segment": "A", "n": 4}, {"segment": "B", "n": 4}]
    reach = {r["channel"]: r for r in after.table("summary_consent").to_pylist()}
    # Orchestration does not know the fourth: whom channels reach is told of those it knows.
    assert [reach["sms"][k] for k in ("n", "n_consent", "n_reachable", "share", "n_unknown")] == [
        3,
        3,
        3,
        1,
        1,
    ]


def test_running_again_gives_the_same(played: History) -> None:
    overview(played.root, START + timedelta(weeks=2))
    again = History.read(played.root)
    for name in ("summary_batches", "summary_mix", "summary_channels", "summary_arms"):
        assert again.table(name).equals(played.table(name))


# laws


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3), st.sampled_from(["holdout", "a", "b"]), st.booleans(), st.integers(0, 50)
        ),
        max_size=12,
        unique_by=lambda row: row[:2],
    )
)
def test_a_value_is_known_or_has_a_reason(found: list[tuple[int, str, bool, int]]) -> None:
    rows = [
        {"batch_id": f"b{b}", "arm": arm, "is_matured": matured, "n": n,
         "mean": float(n) if n else None, "variance": 1.0 if n > 1 else None}
        for b, arm, matured, n in found
    ]  # fmt: skip
    shape = {"batch_id": pa.string(), "arm": pa.string(), "is_matured": pa.bool_(), "n": pa.int64()}
    shape |= {"mean": pa.float64(), "variance": pa.float64()}
    for row in against_control(pa.Table.from_pylist(rows, pa.schema(shape)), "holdout").to_pylist():
        assert (row["effect"] is None) == bool(row["reason"])
        if row["effect"] is not None:
            assert row["arm"] != "holdout"
            assert row["lower"] <= row["effect"] <= row["upper"]


def test_merge_rates_by_kind_count_identifiers_that_do_not_stand_alone():
    # c1 has two addresses and a phone, c2 a phone alone.
    rows = "('email', 'c1'), ('email', 'c1'), ('phone', 'c1'), ('phone', 'c2')"
    with duckdb.connect() as connection:
        connection.execute(f"create table identities as from (values {rows}) t(identifier_kind, customer_id)")
        found = connection.sql(f"from ({overview_data._JOINED}) order by 1").fetchall()
    assert found == [("email", 1.0, 2.0), ("phone", 0.5, 1.0)]
