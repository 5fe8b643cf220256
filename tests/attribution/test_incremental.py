from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nba import tables
from nba.attribution import incremental, report, returns
from nba.attribution.incremental import Caused, combine, decided, held_out, observed
from nba.errors import SettingsError
from nba.histories import simulated_paths as worlds
from nba.history import History, connect
from pipelines import attribute
from pipelines.progress import silent

ADS = len(worlds.ADS)


def watched(world: worlds.World) -> incremental.Days:
    who, day, channel = world.touch
    n = len(world.order_day)
    has = np.flatnonzero(np.isfinite(world.order_day))
    sold = world.order_day[has].astype(np.int64)
    last = np.full(n, worlds.DAYS - 1)
    last[has] = sold
    return incremental.Days(
        n, worlds.DAYS, (who, day.astype(np.int64), channel.astype(np.int64)), (has, sold, np.ones(len(has))),
        np.zeros(n, dtype=np.int64), last, np.arange(len(worlds.CHANNELS)) < ADS, True,
    )  # fmt: skip


# by hand


def test_holdout_of_one_channel_is_a_difference_of_means() -> None:
    served = np.repeat([True, False], 40)[:, None]
    outcome = np.concatenate([np.full(40, 3.0), np.full(40, 1.0)]) + np.tile([0.5, -0.5], 40)
    found = held_out(outcome, served)
    assert found.value[0] == pytest.approx(2 * 40)
    assert found.se[0] == pytest.approx(40 * np.sqrt(2 * 0.25 / 39))


def test_too_few_held_out_is_unknown_with_a_reason() -> None:
    served = np.ones((100, 2), dtype=bool)
    served[:50, 1] = False
    found = held_out(np.arange(100.0), served)
    assert np.isnan(found.value[0])
    assert "0 customers held out of 100" in found.reason[0]
    assert np.isfinite(found.value[1])


def test_a_customer_of_two_arms_is_held_out_as_first_assigned() -> None:
    # Of `a` and `b`, who turned out to be one, `b` was assigned later, to the holdout.
    with connect() as connection:
        connection.execute(
            """create table decisions as from (values
                ('d1', 'a', 'policy', date '2026-01-02'), ('d2', 'a', 'holdout', date '2026-01-01'),
                ('d3', 'c', 'holdout', date '2026-01-01')) t(decision_id, customer_id, arm, decided_at);
            create table decided_apart as select 'd2' as decision_id;
            create table conversions as
                select 'a' as customer_id, epoch_us(date '2026-01-05') as ordered, 4.0 as margin,
                    'o' as order_id
            """
        ).fetchall()
        found = connection.sql(f"from ({report._ARMS}) order by is_held").fetchall()
    assert found == [(False, 4.0, 1.0), (True, 0.0, 0.0)]


def test_contacts_without_a_chance_of_none_are_left_out() -> None:
    rng = np.random.default_rng(0)
    p_none = np.where(np.arange(300) < 100, 0.0, 0.5)
    channel = np.where(rng.random(300) < p_none, -1, 0)
    found = decided(rng.random(300), channel, 1 - p_none[:, None], p_none, np.arange(300))
    contacts = int((channel == 0).sum())
    assert f"100 of {contacts} contacts had too little chance of none" in found.reason[0]
    assert found.n[0] == 200
    nothing = decided(
        np.ones(50), np.zeros(50, dtype=np.int64), np.ones((50, 1)), np.zeros(50), np.arange(50)
    )
    assert np.isnan(nothing.value[0])


def test_without_an_experiment_the_observed_stands() -> None:
    nan = np.full(3, np.nan)
    none = Caused(nan, nan, np.zeros(3, dtype=np.int64), "randomised", ("never",) * 3)
    seen = Caused(np.arange(1.0, 4), np.ones(3), np.ones(3, dtype=np.int64), "observed", ("",) * 3)
    assert combine(none, seen).value.tolist() == [1, 2, 3]


def test_precise_experiments_overrule_and_vague_ones_yield() -> None:
    seen = Caused(np.full(4, 100.0), np.full(4, 1.0), np.ones(4, dtype=np.int64), "observed", ("",) * 4)
    truth = np.array([50.0, 100, 150, 200])
    sure = Caused(truth, np.full(4, 0.5), np.ones(4, dtype=np.int64), "randomised", ("",) * 4)
    vague = Caused(truth, np.full(4, 500.0), np.ones(4, dtype=np.int64), "randomised", ("",) * 4)
    np.testing.assert_allclose(combine(sure, seen).value, truth, rtol=0.02)
    np.testing.assert_allclose(combine(vague, seen).value, 100, rtol=0.25)


def test_nothing_to_observe_is_unknown_with_a_reason() -> None:
    none = np.empty(0, dtype=np.int64)
    one = np.zeros(1, dtype=np.int64)
    is_ad = np.array([True])
    empty = incremental.Days(
        3, 5, (none, none, none), (one, one, np.ones(1)), one.repeat(3), one.repeat(3), is_ad
    )
    assert observed(empty).reason == ("no touches",)
    unsold = incremental.Days(
        3, 5, (one, one, one), (none, none, np.empty(0)), one.repeat(3), one.repeat(3) + 4, is_ad
    )
    assert observed(unsold).reason == ("no orders",)
    intent = incremental.Days(
        3, 5, (one, one, one), (one, one, np.ones(1)), one.repeat(3), one.repeat(3) + 4, np.array([False])
    )
    assert observed(intent).reason == ("no advertising channels",)
    few = incremental.Days(
        3, 5, (one, one, one), (one, one, np.ones(1)), one.repeat(3), one.repeat(3) + 4, is_ad
    )
    assert observed(few).reason == ("1 orders; 30 are needed to see what touches did",)


@pytest.mark.parametrize(("touched", "bought", "is_return"), [(1, 2, False), (3, 2, True)])
def test_without_an_order_after_a_touch_nothing_is_credited(
    tmp_path: Path, touched: int, bought: int, is_return: bool
) -> None:
    at = datetime(2026, 3, 5, tzinfo=UTC)
    touch = {"touch_id": "t", "customer_id": "a", "touched_at": at - timedelta(days=touched),
             "channel": "email", "kind": "clicked", "cost": 1.0}  # fmt: skip
    order = {"order_id": "o", "customer_id": "a", "ordered_at": at - timedelta(days=bought), "revenue": 5.0,
             "margin": 2.0, "n_items": 1, "is_return": is_return}  # fmt: skip
    methods = '["linear", "time_decay", "markov_1", "shapley_rate", "shapley_count_ads"]'
    (tmp_path / "nba.toml").write_text(f'[workspace]\nname = "t"\n[attribution]\nmethods = {methods}\n')
    made = {"touches": tables.TOUCHES.build([touch]), "orders": tables.ORDERS.build([order])}
    History.read(tmp_path).commit(append=made)
    assert attribute.attribute(tmp_path, at, progress=silent()).num_rows == 0
    (row,) = History.read(tmp_path).table("incremental").to_pylist()
    assert row["margin"] is None
    assert row["reason"]


def test_returns_on_a_known_cost_by_hand() -> None:
    caused = Caused(
        np.array([30.0]), np.array([10 / 1.959964]), np.ones(1, dtype=np.int64), "randomised", ("",)
    )
    none = Caused(np.array([1.0]), np.array([1.0]), np.ones(1, dtype=np.int64), "randomised", ("",))
    levels = {"channel": (("email",), {("all", "margin"): caused, ("all", "orders"): none,
                                       ("all", "marginal"): none})}  # fmt: skip
    spent = {("channel", "email", "all"): returns.Spent(10.0, 0.5)}
    (row,) = returns.table(levels, spent, 0.95).to_pylist()
    assert [row[f"roas{end}"] for end in ("", "_lower", "_upper")] == pytest.approx([3, 2, 4], abs=1e-6)
    assert row["cost_per_conversion"] == 10
    assert row["cost_per_conversion_lower"] == pytest.approx(10 / 2.959964)
    assert row["cost_per_conversion_upper"] is None  # orders may be none at all
    assert row["marginal_return"] == 2
    (free,) = returns.table(levels, {}, 0.95).to_pylist()
    assert (free["roas"], free["reason"]) == (None, "no cost is known: no return on it")


# recovery


def test_one_more_contact_causes_less_where_the_open_choices_respond_less() -> None:
    rng = np.random.default_rng(9)
    z = []
    for _ in range(60):
        n = 3_000
        x = rng.standard_normal(n)
        p = 1 / (1 + np.exp(-2 * x))
        chosen, effect = rng.random(n) < p, 1 + x**2
        y = x + rng.standard_normal(n) + effect * chosen
        found = decided(
            y, np.where(chosen, 0, -1), p[:, None], 1 - p, np.arange(n), x[:, None], marginal=True
        )
        weight = p * (1 - p)
        z.append((found.value[0] - (weight * effect).sum() / weight.sum()) / found.se[0])
    assert abs(np.mean(z)) < 3 / np.sqrt(60)
    assert 0.7 < np.std(z) < 1.3


def test_logged_decisions_give_the_effect_and_honest_intervals() -> None:
    rng = np.random.default_rng(5)
    z = []
    for _ in range(60):
        n = 3_000
        x = rng.standard_normal(n)
        p = 1 / (1 + np.exp(-0.8 * x))
        chosen = rng.random(n) < p
        y = 1 + 2 * x + rng.standard_normal(n) + 0.5 * chosen
        found = decided(y, np.where(chosen, 0, -1), p[:, None], 1 - p, np.arange(n), x[:, None])
        z.append((found.value[0] - 0.5 * p.sum()) / found.se[0])
    assert abs(np.mean(z)) < 3 / np.sqrt(60)
    assert 0.7 < np.std(z) < 1.3


def test_the_observed_hazard_finds_no_effect_where_there_is_none() -> None:
    world = worlds.simulate("real", 12_000, 3)
    n, rng = len(world.order_day), np.random.default_rng(0)
    # The same touches, but orders that come at random: nothing was caused.
    has = np.flatnonzero(rng.random(n) < 0.12)
    sold = rng.integers(0, worlds.DAYS, len(has)).astype(np.int64)
    who, day, channel = world.touch
    days = incremental.Days(
        n, worlds.DAYS, (who, day.astype(np.int64), channel.astype(np.int64)), (has, sold, np.ones(len(has))),
        np.zeros(n, dtype=np.int64), np.full(n, worlds.DAYS - 1), np.arange(len(worlds.CHANNELS)) < ADS,
    )  # fmt: skip
    found = observed(days)
    z = found.value[:ADS] / found.se[:ADS]
    assert (np.abs(z) < 3.5).all()
    assert np.isnan(found.value[ADS:]).all()


def test_the_observed_hazard_is_nearer_the_truth_than_last_touch() -> None:
    caused, _, _ = worlds.truth("real", 30_000)
    world = worlds.simulate("real", 30_000, 3)
    found = np.maximum(observed(watched(world)).value[:ADS], 0)
    distance = 0.5 * np.abs(found / found.sum() - caused / caused.sum()).sum()
    assert distance < 0.25
    assert 0.6 < found.sum() / (caused.sum() * 30_000) < 1.4


def test_channel_holdouts_reach_the_tables(tmp_path: Path) -> None:
    world = worlds.simulate("real", 3_000, 4, holdout=0.3)
    (tmp_path / "nba.toml").write_text(
        '[workspace]\nname = "t"\n[attribution]\nmethods = ["last", "linear"]\nlookback_days = 60\n'
        "[attribution.holdouts]\n" + "".join(f'{ad.name} = "holdout_{ad.name}"\n' for ad in worlds.ADS)
    )
    History.read(tmp_path).commit(append=world.to_tables())
    made = attribute.attribute(tmp_path, datetime(2026, 3, 5, tzinfo=UTC), progress=silent())
    history = History.read(tmp_path)
    assert history.broken_laws() == []
    rows = history.table("attribution").to_pylist()
    mine = {r["channel"]: r for r in rows if r["method"] == "linear" and r["period"] == "all"}
    assert {mine[ad.name]["source"] for ad in worlds.ADS} == {"combined"}
    assert mine["direct"]["incremental"] is None
    assert mine["direct"]["reason"] == "only follows intent"
    one = mine["video"]
    assert one["lower"] < one["incremental"] < one["upper"]
    assert one["ratio"] == pytest.approx(one["credited"] / one["incremental"])
    calibrated = made.filter([m == "linear_calibrated" for m in made["method"].to_pylist()])
    total = sum(
        c for c, k in zip(calibrated["credit"].to_pylist(), calibrated["channel"].to_pylist()) if k == "video"
    )
    assert total == pytest.approx(one["incremental"])


def test_credit_and_cost_are_compared_on_the_contacts_that_the_estimate_speaks_of(tmp_path: Path) -> None:
    # Of 300 decisions every other is e-mail; a third had next to no chance of none, a tenth is still open.
    at = datetime(2026, 3, 5, tzinfo=UTC)
    (tmp_path / "catalog").mkdir()
    (tmp_path / "catalog" / "actions.csv").write_text(
        "action_id,issue,group,name,margin,lever\npromo,i,g,P,10,1\n"
    )
    offer = "treatment_id,action_id,channel,cost,cooldown_days\nmail,promo,email,2,7\n"
    (tmp_path / "catalog" / "treatments.csv").write_text(offer)

    def region(i: int) -> str:
        return "north" if i % 4 < 2 else "south"

    made: dict[str, list[dict[str, Any]]] = {n: [] for n in ("decisions", "choices", "outcomes", "touches")}
    people, orders = [], []
    orders.append({"order_id": "back", "customer_id": "002", "ordered_at": at - timedelta(days=1),
                   "revenue": -8.0, "margin": -4.0, "n_items": 1, "is_return": True})  # fmt: skip
    for i in range(300):
        key, decided = f"{i:03}", at - timedelta(days=30)
        is_mail, p_none, is_open = i % 2 == 0, 0.005 if i % 3 == 0 else 0.5, i % 10 == 0
        chosen = "mail" if is_mail else "none"
        made["decisions"].append(
            {"decision_id": key, "batch_id": "b", "customer_id": key, "treatment_id": chosen,
             "channel": "email" if is_mail else "none", "decided_at": decided, "reason": "", "policy_id": "p",
             "p_action": 1 - p_none if is_mail else p_none, "config_hash": "x", "valid_until": at}
        )  # fmt: skip
        made["choices"] += [
            {"decision_id": key, "treatment_id": t, "is_eligible": True, "reason": "", "p_action": p,
             "price": 0.0} for t, p in (("mail", 1 - p_none), ("none", p_none))
        ]  # fmt: skip
        if not is_open:
            made["outcomes"].append(
                {"decision_id": key, "is_delivered": True, "is_response": True, "is_unsubscribe": False,
                 "reward": 1.0, "closed_at": at - timedelta(days=15), "window_days": 14}
            )  # fmt: skip
        can = dict.fromkeys(("can_email", "can_sms", "can_push", "can_call"), True)
        people.append(
            {"customer_id": key, "joined_at": at - timedelta(days=200), "a_region": region(i)} | can
        )
        own = {
            "touch_id": f"e{key}",
            "channel": "email",
            "decision_id": key,
            "treatment_id": "mail",
            "cost": 2.0,
        }
        shown = {"touch_id": f"d{key}", "channel": "display", "cost": 1.0}
        for touch in [own] * is_mail + [shown] * (i % 4 == 1):
            made["touches"].append(
                touch | {"customer_id": key, "kind": "sent", "touched_at": decided + timedelta(hours=1)}
            )
        orders.append({"order_id": key, "customer_id": key, "ordered_at": decided + timedelta(days=1 + i % 5),
                       "revenue": 20.0, "margin": 10.0 + 5 * is_mail + i % 3, "n_items": 1,
                       "is_return": False})  # fmt: skip
    (tmp_path / "nba.toml").write_text('[workspace]\nname = "t"\n[attribution]\nmethods = ["linear"]\n')
    built = {name: getattr(tables, name.upper()).build(rows) for name, rows in made.items()}
    whole = built | {"customers": tables.CUSTOMERS.build(people), "orders": tables.ORDERS.build(orders)}
    History.read(tmp_path).commit(append=whole)
    credits = attribute.attribute(tmp_path, at, progress=silent()).to_pylist()  # noqa: A001
    rows = History.read(tmp_path).table("attribution").to_pylist()
    found = {r["channel"]: r for r in rows if r["method"] == "linear" and r["period"] == "all"}
    spoken = [i for i in range(300) if i % 2 == 0 and i % 3 and i % 10]
    mail, display = found["email"], found["display"]
    # Net of what came back, on both sides, though it came back after the window of the decision.
    assert mail["compared"] == pytest.approx(sum(15 + i % 3 for i in spoken) - 4)
    alone = [i for i in range(1, 300, 2) if i % 3 and i % 10]
    without = np.mean([10 + i % 3 for i in alone])
    caused = sum(15 + i % 3 for i in spoken) - 4 - len(spoken) * without
    month = next(r for r in rows if r["source"] == "randomised" and r["channel"] == "email")
    assert month["incremental"] == pytest.approx(caused, rel=0.03)
    assert mail["credited"] > mail["compared"]
    assert mail["cost"] == 2.0 * len(spoken)
    assert display["compared"] == display["credited"]  # never decided on: all of it is compared
    assert display["source"] == "none" or display["se"] > 0
    assert display["cost"] == 75.0
    found = History.read(tmp_path).table("attribution_parts").to_pylist()
    parts = {(r["level"], r["item"], r["period"], r["audience"]): r for r in found if r["method"] == "linear"}
    # By action and campaign as by channel, there being one of each; what was not ours has no number.
    promo = parts["action", "promo", "all", "all"]
    assert promo["compared"] == pytest.approx(mail["compared"])
    assert promo["incremental"] == pytest.approx(caused, rel=0.03)
    assert promo["incremental_share"] == pytest.approx(promo["incremental"] / promo["compared"])
    same = ("credited", "compared", "incremental", "lower", "upper", "source")
    assert [parts["campaign", "i / g", "all", "all"][n] for n in same] == [promo[n] for n in same]
    assert [parts["channel", "email", "all", "all"][n] for n in same] == [mail[n] for n in same]
    other = parts["action", "unknown", "all", "all"]
    assert (other["incremental"], other["reason"]) == (None, "not sent by a decision: never randomised")
    # Parts of the customers: each has its own, and together they are credited with the whole.
    for name in ("north", "south"):
        own_part = [i for i in spoken if region(i) == name]
        of_part = parts["action", "promo", "all", f"region={name}"]
        back = 4 if name == region(2) else 0
        assert of_part["compared"] == pytest.approx(sum(15 + i % 3 for i in own_part) - back)
        least = np.mean([10 + i % 3 for i in alone if region(i) == name])
        expected = sum(15 + i % 3 for i in own_part) - back - len(own_part) * least
        assert of_part["incremental"] == pytest.approx(expected, rel=0.05)
    calibrated = [r for r in credits if r["method"] == "linear_calibrated" and r["channel"] == "email"]
    assert sum(r["credit"] for r in calibrated) == pytest.approx(mail["incremental"])
    assert {r["share"] for r in calibrated} == {1.0}
    # A holdout that holds nobody yet changes nothing; one that nobody knows is a mistake.
    arms = '{name = "holdout", share = 0.5, policy = "none"}, {name = "a", share = 0.5, policy = "champion"}'
    soon = (
        '[[experiments]]\nexperiment_id = "soon"\ncontrol = "holdout"\nstarts_at = 2026-03-01T00:00:00Z\n'
        f'arms = [{arms}]\nmetrics = [{{name = "m", numerator = "margin", role = "primary"}}]\n'
    )
    with (tmp_path / "nba.toml").open("a") as file:
        file.write('holdouts = {email = "soon"}\n' + soon)
    attribute.attribute(tmp_path, at, progress=silent())
    rows = History.read(tmp_path).table("attribution").to_pylist()
    again = next(r for r in rows if (r["method"], r["channel"], r["period"]) == ("linear", "email", "all"))
    assert (again["compared"], again["cost"]) == (mail["compared"], mail["cost"])
    text = (tmp_path / "nba.toml").read_text()
    (tmp_path / "nba.toml").write_text(text.replace('email = "soon"', 'email = "never"'))
    with pytest.raises(SettingsError, match=r"names \{'email': 'never'\}; expected experiments among"):
        attribute.attribute(tmp_path, at, progress=silent())
