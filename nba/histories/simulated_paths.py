"""Worlds of advertising with known truth, for judging attribution.

Every customer has a hidden inclination to buy; advertising adds to the hazard of an order while its memory
lasts (adstock); intent channels do nothing by themselves, they follow the hazard. What a channel caused is
the orders lost when it is never served, with the same draws. Three difficulties: in `easy` nothing
follows and exposure is blind; in `real` intent channels follow and inclined customers see more ads; in
`hard` they do so strongly, and the ads are weak.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba import tables

Array = NDArray[np.float64]
Difficulty = Literal["easy", "real", "hard"]
DAYS = 60
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Ad:
    """An advertising channel.

    Attributes:
        rate: Exposures per day of an average customer.
        tau: Days after which the memory of an exposure has faded to 1/e.
        effect: Hazard added per day by one fresh exposure, before scaling.
        targeting: How strongly inclination drives exposure, 0 is blind.
        trigger: `demand` shows it in proportion to the hazard, `visit` after a visit of an intent channel.
    """

    name: str
    rate: float
    tau: float
    effect: float
    targeting: float
    trigger: str = ""


ADS = (
    Ad("display", 0.050, 3.0, 0.6, 0.3),
    Ad("paid_social", 0.040, 4.0, 1.0, 0.3),
    Ad("video", 0.020, 6.0, 1.6, 0.0),
    Ad("email", 0.045, 2.0, 1.2, 0.9),
    Ad("affiliate", 0.015, 3.0, 1.0, 0.6),
    Ad("generic_search", 0.025, 2.0, 1.6, 0.6, "demand"),
    Ad("retargeting", 0.060, 2.0, 0.4, 0.6, "visit"),
)
INTENT = (("brand_search", 0.015), ("direct", 0.025), ("organic", 0.020))
CHANNELS = (*(ad.name for ad in ADS), *(name for name, _ in INTENT))


@dataclass(frozen=True)
class _Level:
    base: float
    scale: float
    sigma: float
    targeting: float
    follow: float
    triggered: float


LEVELS: dict[str, _Level] = {
    "easy": _Level(base=0.0010, scale=0.00180, sigma=0.7, targeting=0.0, follow=0.0, triggered=0.0),
    "real": _Level(base=0.00065, scale=0.00146, sigma=0.7, targeting=1.0, follow=1.0, triggered=1.0),
    "hard": _Level(base=0.0012, scale=0.00108, sigma=0.9, targeting=1.5, follow=2.0, triggered=1.0),
}


@dataclass(frozen=True)
class World:
    """What happened in one world; a customer orders at most once, and is not watched afterwards.

    Attributes:
        touch: Customer, moment (days) and channel number of every touch, three arrays of shape (m,).
        order_day: Moment of the order, days, NaN without one, shape (n,).
        served: Whether a customer may be served an ad channel, shape (n, ads).
        holdout: Share of customers held out of each ad channel.
    """

    touch: tuple[NDArray[np.int64], Array, NDArray[np.int64]]
    order_day: Array
    served: NDArray[np.bool_]
    holdout: float

    def to_tables(self) -> dict[str, pa.Table]:
        """Give customers, touches, orders and assignments of the contract; an order earns a margin of 1."""
        n = len(self.order_day)
        ids = np.array([f"c{i:07d}" for i in range(n)])
        who, day, channel = self.touch
        has = np.flatnonzero(np.isfinite(self.order_day))
        one = np.ones(len(has))
        touches = {
            "touch_id": [f"t{i:08d}" for i in range(len(who))],
            "customer_id": ids[who],
            "touched_at": _times(day),
            "channel": np.array(CHANNELS)[channel],
            "kind": ["clicked"] * len(who),
            "cost": np.zeros(len(who)),
        }
        orders = {
            "order_id": [f"o{i:07d}" for i in has],
            "customer_id": ids[has],
            "ordered_at": _times(self.order_day[has]),
            "revenue": one,
            "margin": one,
            "n_items": one.astype(np.int64),
            "is_return": one < 0,
        }
        customers = {"customer_id": ids, "joined_at": _times(np.zeros(n))}
        customers |= {f"can_{c}": np.ones(n, dtype=bool) for c in tables.CHANNELS}
        out = {
            "customers": tables.CUSTOMERS.conform(pa.table(customers)),
            "touches": tables.TOUCHES.conform(pa.table(touches)),
            "orders": tables.ORDERS.conform(pa.table(orders)),
        }
        if self.holdout:
            arms = [
                pa.table(
                    {
                        "experiment_id": [f"holdout_{ad.name}"] * n,
                        "customer_id": ids,
                        "arm": np.where(self.served[:, j], "served", "holdout"),
                        "assigned_at": _times(np.zeros(n)),
                        "p_arm": np.where(self.served[:, j], 1 - self.holdout, self.holdout),
                    }
                )
                for j, ad in enumerate(ADS)
            ]
            out["assignments"] = tables.ASSIGNMENTS.conform(pa.concat_tables(arms))
        return out


def simulate(
    difficulty: Difficulty, n: int, seed: int, *, holdout: float = 0.0, without: str | None = None
) -> World:
    """Play a world.

    Args:
        difficulty: easy, real or hard.
        n: Customers.
        seed: Worlds of one seed share their draws, whatever is served.
        holdout: Share of customers held out of each ad channel, independently.
        without: A channel (or `all`) that is never served.
    """
    level = LEVELS[difficulty]
    rng = np.random.default_rng([seed, 1])
    inclination = rng.standard_normal(n).astype(np.float32) * level.sigma
    served = rng.random((n, len(ADS))) >= holdout
    for j, ad in enumerate(ADS):
        if without in (ad.name, "all"):
            served[:, j] = False
    base = level.base * np.exp(inclination - level.sigma**2 / 2)
    memory = np.zeros((len(ADS), n), dtype=np.float32)
    visited = np.full(n, -99.0, dtype=np.float32)
    order_day = np.full(n, np.nan)
    keep_rate = [
        ad.rate * np.exp(ad.targeting * level.targeting * inclination).astype(np.float32)
        / np.float32(np.exp((ad.targeting * level.targeting * level.sigma) ** 2 / 2)) for ad in ADS
    ]  # fmt: skip
    touches: list[tuple[NDArray[np.int64], Array, int]] = []
    for day in range(DAYS):
        draw = np.random.default_rng([seed, 2, day])
        alive = np.isnan(order_day)
        hazard = base + level.scale * sum(ad.effect * memory[j] for j, ad in enumerate(ADS))
        for j, ad in enumerate(ADS):
            chance = keep_rate[j]
            if ad.trigger == "demand":
                chance = chance * (1 + level.triggered * (np.minimum(hazard / level.base, 6.0) / 2 - 0.5))
            if ad.trigger == "visit" and level.triggered:
                chance = chance * np.where(day - visited <= 7, 2.5, 0.1)
            shown = (draw.random(n, dtype=np.float32) < chance) & served[:, j]
            memory[j] = memory[j] * np.float32(np.exp(-1 / ad.tau)) + shown
            touches.append(_seen(shown & alive, day, j, draw, n))
        wish = np.minimum(hazard / level.base, 10.0)
        for j, (_, rate) in enumerate(INTENT):
            shown = draw.random(n, dtype=np.float32) < rate * (1 + level.follow * (wish - 1).clip(-0.9))
            visited[shown] = day
            touches.append(_seen(shown & alive, day, len(ADS) + j, draw, n))
        hazard = base + level.scale * sum(ad.effect * memory[j] for j, ad in enumerate(ADS))
        bought = (draw.random(n) < -np.expm1(-hazard)) & alive
        order_day[bought] = day + 0.999
    who = np.concatenate([t[0] for t in touches])
    moment = np.concatenate([t[1] for t in touches])
    channel = np.concatenate([np.full(len(t[0]), t[2]) for t in touches])
    return World((who, moment, channel), order_day, served, holdout)


def truth(difficulty: Difficulty, n: int = 300_000, seed: int = 99) -> tuple[Array, float, float]:
    """Measure what each ad channel causes.

    Returns:
        Orders per customer lost when a channel is never served, shape (ads,); orders per customer; and
        orders per customer lost without any advertising.
    """
    rate = float(np.isfinite(simulate(difficulty, n, seed).order_day).mean())
    lost = [
        rate - float(np.isfinite(simulate(difficulty, n, seed, without=name).order_day).mean())
        for name in (*(ad.name for ad in ADS), "all")
    ]
    return np.array(lost[:-1]), rate, lost[-1]


def _seen(
    shown: NDArray[np.bool_], day: int, channel: int, draw: np.random.Generator, n: int
) -> tuple[NDArray[np.int64], Array, int]:
    hour = draw.random(n, dtype=np.float32)
    who = np.flatnonzero(shown)
    return who, day + 0.99 * hour[who].astype(float), channel


def _times(days: Array) -> pa.Array:
    base = np.datetime64(round(START.timestamp() * 1e6), "us")
    return pa.array(base + (days * 86_400e6).astype("timedelta64[us]")).cast(tables.TIME)
