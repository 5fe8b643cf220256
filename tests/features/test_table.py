import copy
import math
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nba import tables
from nba.errors import NbaError
from nba.features import table
from nba.history import History

# The column by which each table is dated.
DATED = {
    "orders": "ordered_at",
    "events": "occurred_at",
    "touches": "touched_at",
    "decisions": "decided_at",
    "outcomes": "closed_at",
    "customers": "joined_at",
}


def built(history: History, at, customer_ids=None) -> dict[str, dict[str, float]]:
    with history.as_of(at) as snapshot:
        found = table.build(snapshot, customer_ids)
    tables.FEATURES.check(found)
    return {row["customer_id"]: row for row in found.to_pylist()}


# by hand


def test_values_worked_out_by_hand(history_of, small, at):
    anna = built(history_of(small), at)["anna"]
    expected = {
        "f_days_since_order": 20,
        "f_days_since_first_order": 100,
        "f_orders_7": 0,
        "f_orders_28": 1,
        "f_orders_365": 2,
        "f_order_gap_days": 80,
        "f_overdue": 0.25,
        "f_order_trend": 2 / 2,
        "f_margin_28": 10,
        "f_margin_365": 20,
        "f_revenue_365": 70,
        "f_margin_per_order": 15,
        "f_revenue_per_order": 50,
        "f_last_order_revenue": 60,
        "f_margin_share": 0.3,
        "f_items_per_order": 3,
        "f_return_share": 1 / 3,
        "f_visits_7": 1,
        "f_visits_28": 2,
        "f_days_since_visit": 3,
        "f_app_share": 0.5,
        "f_contacts_7": 1,
        "f_contacts_28": 1,
        "f_days_since_contact": 6,
        "f_days_since_click": 29,
        "f_days_since_engaged_email": 29,
        "f_click_rate_email": (1 + 0.12) / 5,
        "f_click_rate_sms": 0.03,
        "f_can_email": 1,
        "f_can_push": 0,
        "f_decided_90": 2,
        "f_decided_response_rate": (1 + 0.2) / 5,
        "f_tenure_days": 400,
        "f_a_age": 41,
        "f_a_tier_gold": 1,
        "f_a_tier_basic": 0,
    }
    assert {name: anna[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_customer_without_history_has_zeros_and_unknowns(history_of, small, at):
    ben = built(history_of(small), at)["ben"]
    assert ben["f_orders_365"] == ben["f_margin_365"] == ben["f_visits_90"] == ben["f_contacts_28"] == 0
    assert all(math.isnan(ben[name]) for name in ("f_days_since_order", "f_margin_per_order", "f_a_age"))
    assert ben["f_can_sms"] == 0
    assert ben["f_a_tier_basic"] == 1


def test_only_customers_known_then_sorted_and_restricted(history_of, small, at):
    history = history_of(small)
    assert list(built(history, at)) == ["anna", "ben"]
    assert list(built(history, at + timedelta(days=2))) == ["anna", "ben", "late"]
    assert list(built(history, at, pa.array(["ben", "nobody"]))) == ["ben"]


def test_text_of_many_values_becomes_a_share(history_of, small, at):
    rows = [dict(small["customers"][0], customer_id=f"c{i}", a_tier=f"zip{i // 2}") for i in range(24)]
    found = built(history_of({"customers": rows}), at)
    assert "f_a_tier_zip0" not in found["c0"]
    assert found["c0"]["f_a_tier_share"] == pytest.approx(2 / 24, abs=1e-6)
    # a share is of all customers, not of those asked for
    asked = built(history_of({"customers": rows}), at, pa.array(["c0"]))
    assert asked["c0"]["f_a_tier_share"] == found["c0"]["f_a_tier_share"]
    # and of those whose value is known: it is the same whether a visitor is somebody or not
    visitors = [dict(small["customers"][0], customer_id=f"v{i}", a_tier=None) for i in range(3)]
    more = built(history_of({"customers": rows + visitors}), at)
    assert more["c0"]["f_a_tier_share"] == found["c0"]["f_a_tier_share"]
    assert math.isnan(more["v0"]["f_a_tier_share"])


def test_values_that_read_alike_stay_apart(history_of, small, at):
    rows = [dict(small["customers"][0], customer_id=f"c{i}", a_tier=v) for i, v in enumerate(["A+", "A-"])]
    found = built(history_of({"customers": rows}), at)
    flags = [name for name in found["c0"] if name.startswith("f_a_tier")]
    assert len(flags) == 2
    assert all(found["c0"][name] + found["c1"][name] == 1 for name in flags)


def test_empty_history_of_other_tables(history_of, small, at):
    found = built(history_of({"customers": small["customers"]}), at)
    assert found["anna"]["f_orders_365"] == 0
    assert math.isnan(found["anna"]["f_days_since_order"])


OWN = """
[workspace]
name = "test"

[[features]]
name = "f_big_orders"
unit = "orders"
doc = "purchases above 50"
source = "orders"
sql = "count(*) filter (revenue > 50)"
absent = 0.0
"""


def test_features_of_ones_own_are_computed_with_the_others(history_of, small, at):
    history = history_of(small)
    (history.root / "nba.toml").write_text(OWN)
    found = built(history, at)
    assert (found["anna"]["f_big_orders"], found["ben"]["f_big_orders"]) == (1.0, 0.0)
    for text, told in (
        (OWN.replace("revenue", "revenu"), "feature 'f_big_orders' cannot be computed from orders"),
        (OWN.replace("f_big_orders", "f_orders_28"), "declared twice"),
        (OWN.replace("f_big_orders", "big"), "features.0.name"),
    ):
        (history.root / "nba.toml").write_text(text)
        with pytest.raises(NbaError, match=told):
            built(history, at)


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("(select count(*) from orders_all)", "holds a query of its own"),
        ("count(*) filter (order_id in (from orders_all select order_id))", "holds a query of its own"),
        ("max(revenue) + len(array(table orders_all))", "holds a query of its own"),
        ("count(*) from orders_all", "is no expression"),
        ("1) from orders_all group by customer_id), x as (select (2", "is no expression"),
        ("1), (2", "is more than one expression"),
        ("min(date_diff('day', ordered_at, Now()))", r"reads the clock, .*: now\(\)"),
        ("count(*) filter (ordered_at > current_timestamp - interval 7 day)", "reads .*: current_timestamp;"),
        ("date_diff('day', max(ordered_at)::date, CURRENT_DATE)", "reads .*: current_date;"),
        ("max(epoch(age(ordered_at)))", r"reads .*: age\(\) of one moment"),
        ("max(epoch(ordered_at.age()))", r"reads .*: age\(\) of one moment"),
        ("count(*) filter (ordered_at > ago('7 days'))", r"reads .*: ago\(\)"),
        ("max(revenue * system.main.random())", r"reads .*: random\(\)"),
        ("max(len(list_transform([1], lambda x: uuid())))", r"reads .*: uuid\(\)"),
        ("sum(case when today() > date '2026-01-01' then hash(user) end)", r"reads .*: today\(\), user;"),
    ],
)
def test_features_of_ones_own_see_only_what_was_known(history_of, small, at, sql, told):
    history = history_of(small)
    (history.root / "nba.toml").write_text(OWN.replace("count(*) filter (revenue > 50)", sql))
    with pytest.raises(NbaError, match=f"'f_big_orders' {told}"):
        built(history, at)


def test_words_that_read_like_a_query_are_none(history_of, small, at):
    history = history_of(small)
    sql = "count(*) filter (revenue > 50 and order_id <> '(select 1)')"
    (history.root / "nba.toml").write_text(OWN.replace("count(*) filter (revenue > 50)", sql))
    assert built(history, at)["anna"]["f_big_orders"] == 1.0


def test_a_feature_of_ones_own_may_use_the_moment_and_the_time_between_two(history_of, small, at):
    history = history_of(small)
    for sql, told in (
        ("min(date_diff('day', ordered_at, $at)) filter (not is_return)", 20),
        ("max(epoch($at - ordered_at) / 86400) filter (order_id = 'o2')", 20),
        ("max(datepart('day', age($at, ordered_at))) filter (order_id = 'o3')", 5),
        ("max(datepart('day', ordered_at.age($at))) filter (order_id = 'o3')", -5),
        ("count(*) filter (order_id <> 'now() current_date')", 3),
    ):
        (history.root / "nba.toml").write_text(OWN.replace("count(*) filter (revenue > 50)", sql))
        assert built(history, at)["anna"]["f_big_orders"] == told


def test_time_since_the_last_decision_by_action(history_of, small, at):
    treatments = [
        {"treatment_id": f"{action}_{channel}", "action_id": action, "channel": channel, "cost": 0.0,
         "cooldown_days": 0}
        for action in ("sale", "News!") for channel in ("email", "push")
    ]  # fmt: skip
    found = built(history_of({**small, "treatments": treatments}), at)
    assert found["anna"]["f_days_since_action_sale"] == 6
    assert math.isnan(found["anna"]["f_days_since_action_news"])


def test_answers_by_action_and_channel(history_of, small, at):
    treatments = [
        {"treatment_id": f"{action}_{channel}", "action_id": action, "channel": channel, "cost": 0.0,
         "cooldown_days": 0}
        for action, channel in (("sale", "email"), ("sale", "push"), ("Sale!", "email"))
    ]  # fmt: skip
    found = built(history_of({**small, "treatments": treatments}), at)["anna"]
    given = [d for d in small["decisions"] if d["treatment_id"] == "sale_email"]
    assert given
    closed = {o["decision_id"]: o["is_response"] for o in small["outcomes"] if o["closed_at"] < at}
    known = [closed[d["decision_id"]] for d in given if d["decision_id"] in closed]
    expected = (sum(known) + 0.2) / (len(known) + 2)
    assert found["f_response_rate_action_sale_1"] == pytest.approx(expected, abs=1e-6)
    assert found["f_response_rate_channel_email"] == pytest.approx(expected, abs=1e-6)
    assert found["f_response_rate_action_sale"] == found["f_response_rate_channel_push"] == 0.1


def test_journey_preferred_hour_and_trends(history_of, small, at):
    found = built(history_of(small), at)
    assert (found["anna"]["f_stage"], found["ben"]["f_stage"]) == (2, 0)
    assert (found["anna"]["f_hour_sin"], found["anna"]["f_hour_cos"]) == (0, 1)  # all at midnight
    assert found["anna"]["f_margin_trend"] == pytest.approx(2 / 3, abs=1e-6)
    assert found["anna"]["f_visit_trend"] == 3
    assert found["anna"]["f_days_since_decision"] == 6
    assert found["anna"]["f_contact_pressure"] == pytest.approx(2 / (2 * 28 / 365 + 1), abs=1e-6)
    assert found["anna"]["f_opt_outs"] == found["anna"]["f_returns_365"] == 1


def test_one_query_gives_what_is_built_source_by_source(history_of, small, at, monkeypatch):
    # Spark runs the one query; what is computed here, part by part, must be the same to the bit.
    rng, rows = np.random.default_rng(3), copy.deepcopy(small)
    for i in range(40):
        who = f"c{i:02d}"
        rows["customers"].append(dict(small["customers"][i % 2], customer_id=who, a_tier=f"zip{i // 3}"))
        for name in ("orders", "events", "touches", "decisions"):
            for k in range(rng.integers(0, 4)):
                row = dict(small[name][k % len(small[name])], customer_id=who)
                row[tables.BY_NAME[name].key[0]] = f"{name}-{i}-{k}"
                row[DATED[name]] = at - timedelta(days=float(rng.uniform(-5, 400)))
                if name == "orders":
                    row["revenue"], row["margin"] = rng.normal(50, 20, 2).tolist()
                rows[name].append(row)
    treatments = [
        {"treatment_id": f"sale_{channel}", "action_id": "sale", "channel": channel, "cost": 0.0,
         "cooldown_days": 0}
        for channel in ("email", "push")
    ]  # fmt: skip
    history = history_of({**rows, "treatments": treatments})
    (history.root / "nba.toml").write_text(OWN)
    with history.as_of(at) as snapshot:
        told = tables.FEATURES.conform(snapshot.sql(table.query(snapshot)))
        for most in (table.PART, 7):
            monkeypatch.setattr(table, "PART", most)
            found = table.build(snapshot)
            assert found.schema == told.schema
            assert found.num_rows == 42
            for name in told.schema.names:
                np.testing.assert_array_equal(found[name].to_numpy(), told[name].to_numpy(), name)


def test_every_feature_is_listed_once_with_unit_and_meaning():
    names = [f.name for f in table.FEATURES]
    assert len(set(names)) == len(names)
    assert all(
        f.name.startswith("f_") and f.unit and f.doc and f.source in table.SOURCES for f in table.FEATURES
    )
    assert all(f"`{name}`" in table.describe() for name in names)


def test_printed_list_is_in_step():
    page = Path(__file__).parents[2] / "docs" / "features.md"
    assert page.read_text(encoding="utf-8") == table.describe(), "run `make docs`"


# laws


@st.composite
def futures(draw):
    """Choose what happens at or after as_of: rows added, changed or left out."""
    name = draw(st.sampled_from(sorted(DATED)))
    days = draw(st.floats(0, 60))
    number = draw(st.floats(-1e6, 1e6))
    return name, days, number, draw(st.sampled_from(["add", "drop", "change"]))


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plans=st.lists(futures(), min_size=2, max_size=8))
def test_nothing_at_or_after_as_of_changes_a_feature(history_of, small, at, plans):
    before = built(history_of(small), at)
    rows = copy.deepcopy(small)
    for i, (name, days, number, what) in enumerate(plans):
        _play(rows, at, name, days, number, what, i)
    after = built(history_of({k: v for k, v in rows.items() if v}), at)
    assert list(after) == list(before)
    for customer, row in before.items():
        np.testing.assert_equal(after[customer], row)


_DAYS = st.lists(st.floats(0, 90), min_size=1, max_size=2)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(late=st.fixed_dictionaries(dict.fromkeys(("orders", "events", "touches"), _DAYS)))
def test_rows_that_arrive_at_or_after_as_of_change_no_feature(history_of, small, at, late):
    # They happened before, but nobody knew: a look back from then must not see them.
    before = built(history_of(small), at)
    rows = copy.deepcopy(small)
    for name, ages in late.items():
        for i, days in enumerate(ages):
            row = dict(small[name][0], **{tables.BY_NAME[name].key[0]: f"late{i}", "known_at": at})
            rows[name].append(row | {DATED[name]: at - timedelta(days=days, seconds=1)})
    history = history_of(rows)
    after = built(history, at)
    for customer, row in before.items():
        np.testing.assert_equal(after[customer], row)
    soon = at + timedelta(microseconds=1)
    seen = built(history, soon)["anna"]["f_orders_total"]
    assert seen == before["anna"]["f_orders_total"] + len(late["orders"])
    with history.as_of(soon) as snapshot:
        for name, ages in late.items():
            found = snapshot.table(name)[tables.BY_NAME[name].key[0]].to_pylist()
            assert {f"late{i}" for i in range(len(ages))} < set(found), name


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    later=st.lists(st.tuples(st.floats(0, 60), st.booleans(), st.sampled_from(["gold", "new"])), max_size=3)
)
def test_what_is_told_of_a_customer_later_changes_no_feature(history_of, small, at, later):
    can = {f"can_{c}": True for c in tables.CHANNELS}
    told = [
        {
            "customer_id": "anna",
            "since_at": at - timedelta(days=days),
            **can,
            "a_tier": "silver",
            "a_age": age,
        }
        for days, age in ((9, 40.0), (3, 41.0))
    ]
    told[1]["can_sms"] = False
    before = built(history_of({**small, "states": told}), at)
    assert (before["anna"]["f_a_tier_silver"], before["anna"]["f_a_age"]) == (1, 41)
    assert (before["anna"]["f_can_email"], before["anna"]["f_can_sms"]) == (1, 0)
    assert before["ben"]["f_a_tier_basic"] == 1  # nothing of him is dated
    for i, (days, yes, tier) in enumerate(later):
        since = at + timedelta(days=days, microseconds=i)
        told.append({"customer_id": "anna", "since_at": since, **dict.fromkeys(can, yes), "a_tier": tier})
    rows = {**small, "customers": [dict(small["customers"][0], a_tier="now"), *small["customers"][1:]]}
    after = built(history_of({**rows, "states": told}), at)
    for customer, row in before.items():
        np.testing.assert_equal(after[customer], row)
    # Before anything was told nothing is known, and nothing is allowed.
    first = built(history_of({**small, "states": told}), at - timedelta(days=9))["anna"]
    assert (first["f_can_email"], first.get("f_a_tier_silver", 0)) == (0, 0)
    assert math.isnan(first["f_a_age"])


def _play(rows, at, name, days, number, what, i):
    dated, key = DATED[name], tables.BY_NAME[name].key[0]
    later = [row for row in rows[name] if row[dated] > at or (row[dated] == at and name != "outcomes")]
    if what == "drop":
        rows[name] = [row for row in rows[name] if row not in later]
    elif what == "change":
        for row in later:
            row.update({k: number for k in ("revenue", "margin", "reward") if k in row})
            row.update({"kind": "sent", "cost": abs(number)} if name == "touches" else {})
            row.update({"a_tier": f"tier{i}"} if name == "customers" else {})
    else:
        # an outcome that closes exactly then is known then; all else must have happened before
        shift = timedelta(days=days, microseconds=1 if name == "outcomes" else 0)
        new = dict(
            rows[name][0] if rows[name] else rows_template(name), **{key: f"new{i}", dated: at + shift}
        )
        if name == "outcomes":
            new["decision_id"] = "d2" if all(r["decision_id"] != "d2" for r in rows[name]) else f"new{i}"
        rows[name].append(new)


def rows_template(name):
    return tables.BY_NAME[name].sample(1, np.random.default_rng(0)).to_pylist()[0]


@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(4)))
def test_order_of_rows_does_not_matter(history_of, small, at, order):
    before = built(history_of(small), at)
    rows = dict(
        small, orders=[small["orders"][i] for i in order], touches=[small["touches"][i] for i in order]
    )
    after = built(history_of(rows), at)
    for customer, row in before.items():
        np.testing.assert_equal(after[customer], row)


def test_the_order_in_which_money_is_added_does_not_show(history_of, small, at):
    rng = np.random.default_rng(3)
    order = next(row for row in small["orders"] if row["customer_id"] == "anna")
    many = [
        order | {"order_id": f"o{i}", "revenue": money, "margin": money / 3, "is_return": False}
        for i, money in enumerate(rng.lognormal(3, 2, 300))
    ]
    assert sum(row["margin"] for row in many) != sum(row["margin"] for row in many[::-1])
    found = [built(history_of(dict(small, orders=rows)), at)["anna"] for rows in (many, many[::-1])]
    np.testing.assert_equal(*found)
    assert found[0]["f_margin_365"] > 0


@pytest.mark.parametrize("size", [1, 5])
def test_customers_in_parts_are_as_all_at_once(history_of, at, size, monkeypatch):
    rng = np.random.default_rng(1)
    who = [f"c'{i}" for i in range(11)]
    rows = {
        name: tables.BY_NAME[name].sample(40, rng).to_pylist() for name in ("orders", "events", "touches")
    }
    for each in (row for found in rows.values() for row in found):
        each["customer_id"] = str(rng.choice(who))
    people = tables.CUSTOMERS.sample(1, rng).to_pylist()[0] | {"joined_at": at - timedelta(days=9)}
    rows["customers"] = [people | {"customer_id": name, "a_zip": name} for name in who]
    history = history_of(rows)
    whole, some = built(history, at), built(history, at, pa.array(who[3:9]))
    monkeypatch.setattr(table, "PART", size)
    np.testing.assert_equal(built(history, at), whole)
    np.testing.assert_equal(built(history, at, pa.array(who[3:9])), some)
    assert len(whole) == 11
    assert len(some) == 6
