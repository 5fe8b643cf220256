from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from nba.attribution import incremental, returns
from nba.attribution.incremental import Caused, combine, decided, held_out, observed
from nba.histories import simulated_paths as worlds
from nba.history import History
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


def test_contacts_without_a_chance_of_none_are_left_out() -> None:
    rng = np.random.default_rng(0)
    p_none = np.where(np.arange(300) < 100, 0.0, 0.5)
    channel = np.where(rng.random(300) < p_none, -1, 0)
    found = decided(rng.random(300), channel, 1 - p_none[:, None], p_none, np.arange(300))
    assert "100 contacts had too little chance of none" in found.reason[0]
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
