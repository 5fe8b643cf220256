"""The hidden truth of the simulated world: who its people are and what contact does to them.

Nothing outside the simulator and its tests may read this. All randomness is hashed from (seed, purpose,
person, week), so that a run is repeatable and what is decided for one person changes nothing for another.
`nba.draws` hashes strings, which is right for decisions; the world draws tens of millions of numbers, so
it mixes integers instead.
"""

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from nba.catalog import NONE, Action, Catalog, Treatment

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

TYPES = (
    "persuadable_digital",
    "persuadable_human",
    "sure_thing",
    "lost_cause",
    "sleeping_dog",
    "price_seeker",
)
SHARES = np.array([0.20, 0.12, 0.20, 0.25, 0.11, 0.12])
CHANNELS = ("email", "sms", "push", "call")
ACQUISITION = ("search", "social", "store", "referral", "marketplace")
REGIONS = ("Madrid", "Cataluña", "Andalucía", "Valencia", "Galicia", "País Vasco")

COST = {"email": 0.05, "sms": 0.15, "push": 0.02, "call": 2.5}
_MARGIN_FACTOR = {"discount": 0.75, "collection": 1.0, "loyalty": 1.05, "advice": 1.1}
# Days, set between two weekly batches so that the hour of a delivery does not matter.
_COOLDOWN = {"discount": 17, "collection": 10, "loyalty": 10, "advice": 17}
_OFFERS = {
    "discount": ("email", "sms", "push"),
    "collection": ("email", "push"),
    "loyalty": ("email", "push", "call"),
    "advice": ("sms", "call"),
}
CATALOG = Catalog(
    (
        Action("discount", "sales", "promotion", "Voucher of 15 %", margin=22.0),
        Action("collection", "sales", "inspiration", "New collection", margin=30.0),
        Action("loyalty", "retention", "club", "Club points", margin=31.0),
        Action("advice", "service", "personal", "Personal advice", margin=33.0),
    ),
    tuple(
        Treatment(f"{action}_{channel}", action, channel, COST[channel], _COOLDOWN[action])
        for action, channels in _OFFERS.items()
        for channel in channels
    ),
)
# Columns of the world: those of the catalog, then the newsletters of the time before it.
NEWS = ("email", "sms", "push")
N_COLUMNS = len(CATALOG.treatment_ids)
_ACTION_IDS = [a.action_id for a in CATALOG.actions]
COLUMN_ACTION: Ints = np.array(
    [-1, *(_ACTION_IDS.index(t.action_id) for t in CATALOG.treatments), *[len(_ACTION_IDS)] * len(NEWS)]
)
COLUMN_CHANNEL: Ints = np.array(
    [-1, *(CHANNELS.index(t.channel) for t in CATALOG.treatments), *(CHANNELS.index(c) for c in NEWS)]
)
COLUMN_COST: Floats = np.array([0.0, *(t.cost for t in CATALOG.treatments), *(COST[c] for c in NEWS)])
COLUMN_MARGIN: Floats = np.array([*_MARGIN_FACTOR.values(), 1.0])[COLUMN_ACTION]
COLUMN_ID: tuple[str | None, ...] = (NONE, *(t.treatment_id for t in CATALOG.treatments), *[None] * len(NEWS))
COOLDOWN_WEEKS: Ints = CATALOG.cooldown_days // 7


def _by_type(*rows: float) -> Floats:
    return np.array(rows)


# One row or number per type, in the order of TYPES.
PEAK = _by_type(0.18, 0.18, 0.012, 0.004, 0.0, 0.17)
ACTION_TASTE = np.array(  # discount, collection, loyalty, advice, newsletter
    [
        [-1.2, 1.1, -0.1, -1.8, -2.2],
        [-1.8, -1.0, 0.2, 1.2, -2.5],
        [0.2, 0.2, 0.3, 0.0, -1.0],
        [0.0, 0.0, 0.0, 0.0, -1.0],
        [0.0, 0.0, 0.0, 0.0, -1.0],
        [1.4, -1.8, -0.9, -1.8, -2.0],
    ]
)
CHANNEL_TASTE = np.array(  # email, sms, push, call
    [
        [0.0, -0.6, 0.5, -1.8],
        [-2.2, 0.0, -2.4, 1.0],
        [0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0],
        [0.1, 0.5, -0.3, -1.5],
    ]
)
DRIFT = 0.45  # how far every taste moves towards that for the action before it
DOG_CHANNEL = np.array([0.50, 0.60, 0.55, 0.75])  # share of own purchases that a contact spoils
DOG_TYPE = _by_type(0.0, 0.0, 0.02, 0.0, 1.0, 0.0)
DOG_ACTION = np.array([1.0, 1.0, 1.0, 1.0, 0.4])
RATE = _by_type(0.018, 0.014, 0.092, 0.005, 0.075, 0.016)  # own purchases per week
SPEND = _by_type(30.0, 34.0, 31.0, 26.0, 31.0, 27.0)  # margin per order
RETURNS = _by_type(0.04, 0.03, 0.03, 0.05, 0.04, 0.13)
GONE_HAZARD = _by_type(0.004, 0.003, 0.002, 0.010, 0.004, 0.006)  # per week
HOT = _by_type(0.13, 0.05, 0.15, 0.03, 0.08, 0.15)  # share of weeks with a burst of browsing
OPT_OUT = _by_type(0.7, 1.0, 1.0, 1.2, 3.0, 0.7)
SEEN = np.array(  # email, sms, push, call
    [
        [0.60, 0.85, 0.55, 0.35],
        [0.25, 0.85, 0.15, 0.75],
        [0.45, 0.85, 0.35, 0.55],
        [0.12, 0.70, 0.10, 0.30],
        [0.20, 0.80, 0.15, 0.40],
        [0.50, 0.88, 0.40, 0.40],
    ]
)
CLICK = _by_type(0.24, 0.06, 0.14, 0.03, 0.04, 0.22)  # of those seen
CART = _by_type(0.30, 0.10, 0.35, 0.05, 0.15, 0.55)  # per visit
SEARCH = _by_type(0.30, 0.15, 0.20, 0.10, 0.20, 0.80)
VIEWS = _by_type(1.8, 1.0, 1.1, 0.6, 0.9, 1.4)
TICKET = _by_type(0.004, 0.030, 0.006, 0.002, 0.010, 0.006)  # per week
COMPLAINT = _by_type(0.001, 0.001, 0.001, 0.002, 0.010, 0.003)
COMPLAINT_AFTER = _by_type(0.002, 0.002, 0.002, 0.005, 0.10, 0.002)  # per contact
CONSENT = np.array(
    [
        [0.85, 0.55, 0.65, 0.35],
        [0.65, 0.65, 0.25, 0.70],
        [0.75, 0.55, 0.45, 0.40],
        [0.65, 0.50, 0.25, 0.35],
        [0.65, 0.50, 0.35, 0.35],
        [0.85, 0.65, 0.55, 0.30],
    ]
)
ACQUIRED = np.array(
    [
        [0.35, 0.40, 0.08, 0.07, 0.10],
        [0.10, 0.05, 0.50, 0.30, 0.05],
        [0.25, 0.10, 0.30, 0.25, 0.10],
        [0.25, 0.25, 0.10, 0.05, 0.35],
        [0.35, 0.10, 0.25, 0.20, 0.10],
        [0.20, 0.30, 0.05, 0.05, 0.40],
    ]
)
STORE_SHARE = _by_type(0.15, 0.70, 0.35, 0.25, 0.35, 0.10)


@dataclass(frozen=True)
class Truth:
    """What nobody in the company knows: the people and the parameters behind them.

    Attributes:
        seed: Of all hashed draws.
        kind: Type number of each person, shape (n,), into TYPES.
        rate: Purchases per week without contact, before season and browsing, shape (n,).
        spend: Expected margin of an order, before returns, shape (n,), money.
        returns: Chance that an order comes back, shape (n,).
        response: How strongly contact works, 1 on average, shape (n,).
        taste: Leaning to each action and the newsletter, shape (n, 5), log odds.
        hot: Long-run share of weeks with a burst of browsing, shape (n,).
        gone_hazard: Chance per week of ceasing to be a customer, shape (n,).
        gone_week: Week from which the person is gone, shape (n,).
        joined_week, joined_at: When they joined: week number, and microseconds since 1970, shape (n,).
        consent: Opt-ins at joining, shape (n, 4), in the order of CHANNELS.
        acquisition, region: Codes into ACQUISITION and REGIONS, shape (n,).
        drift_week: Week from which tastes have moved.
        factor: Multiplies all effects from week 0 on (1; tests use others).
        start: Week 0, microseconds since 1970.
    """

    seed: int
    kind: Ints
    rate: Floats
    spend: Floats
    returns: Floats
    response: Floats
    taste: Floats
    hot: Floats
    gone_hazard: Floats
    gone_week: Ints
    joined_week: Ints
    joined_at: Ints
    consent: Bools
    acquisition: Ints
    region: Ints
    drift_week: int
    factor: float
    start: int

    @property
    def n(self) -> int:
        """Number of people, those who join later included."""
        return len(self.kind)

    @property
    def margin(self) -> Floats:
        """Expected margin of an order after returns, shape (n,), money."""
        return self.spend * (1 - self.returns)

    def uniform(self, purpose: str, week: int, person: Ints | None = None) -> Floats:
        """Draw one number in [0, 1) per person for a purpose in a week."""
        return uniform(self.seed, purpose, week, np.arange(self.n) if person is None else person)


WEEK = 7 * 24 * 3600 * 1_000_000  # microseconds


def mix(seed: int, purpose: str, week: int | Ints, person: Ints) -> NDArray[np.uint64]:
    """Hash (seed, purpose, week, person) to 64 bits by two rounds of SplitMix64 (Steele et al. 2014).

    Returns:
        Shape of `person`.
    """
    with np.errstate(over="ignore"):
        x = np.asarray(person).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x = x + np.uint64((seed * 0xD1B54A32D192ED03 + zlib.crc32(purpose.encode())) & 0xFFFFFFFFFFFFFFFF)
        x = _finish(x) + (np.asarray(week).astype(np.int64).astype(np.uint64) * np.uint64(0x8CB92BA72F3D8DD7))
        return _finish(x)


def _finish(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniform(seed: int, purpose: str, week: int | Ints, person: Ints) -> Floats:
    """Draw one number in (0, 1) per person.

    Example:
        >>> bool(abs(uniform(1, "demo", 0, np.arange(10_000)).mean() - 0.5) < 0.01)
        True
    """
    return ((mix(seed, purpose, week, person) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def poisson(mean: Floats, draw: Floats, most: int = 6) -> Ints:
    """Turn uniform draws into Poisson counts, cut at `most`."""
    term = np.exp(-mean)
    total, count = term.copy(), np.zeros(len(mean), dtype=np.int64)
    for i in range(1, most + 1):
        count += draw >= total
        term = term * mean / i
        total += term
    return count


def draw_truth(n: int, seed: int, *, n_batches: int, weeks_before: int, start: int, factor: float) -> Truth:
    """Draw the people: types, habits, tastes, consents, and when they join.

    About 55 % are customers since before the pre-history, 10 % join during the batches.

    Args:
        n: People, those who join later included.
        seed: Of all hashed draws.
        n_batches: Weeks over which people join later; the drift lies half way.
        weeks_before: Weeks of pre-history.
        start: Week 0, microseconds since 1970.
        factor: Multiplies all effects from week 0 on.
    """
    people = np.arange(n)

    def draw(purpose: str) -> Floats:
        return uniform(seed, purpose, 0, people)

    def spread(purpose: str, sigma: float) -> Floats:
        # Lognormal with mean 1.
        return np.exp(sigma * ndtri(draw(purpose)) - sigma**2 / 2)

    kind = np.minimum(np.searchsorted(np.cumsum(SHARES), draw("type")), len(TYPES) - 1)
    hazard = GONE_HAZARD[kind] * spread("gone rate", 0.5)
    joined_at, joined_week = _joining(draw("join"), draw("join when"), n_batches, weeks_before, start)
    life = np.floor(np.log(draw("life")) / np.log1p(-hazard)).astype(np.int64)
    gone = np.maximum(joined_week, -weeks_before) + 1 + life
    consent = np.stack([draw(f"consent {c}") for c in CHANNELS], axis=1) < CONSENT[kind]
    acquired = (draw("acquired")[:, None] > np.cumsum(ACQUIRED[kind], axis=1)).sum(axis=1)
    taste = np.stack([0.35 * ndtri(draw(f"taste {a}")) for a in range(ACTION_TASTE.shape[1])], axis=1)
    return Truth(
        seed=seed,
        kind=kind,
        rate=RATE[kind] * spread("rate", 0.5),
        spend=SPEND[kind] * spread("spend", 0.4),
        returns=RETURNS[kind],
        response=spread("response", 0.35),
        taste=taste,
        hot=np.minimum(HOT[kind] * spread("hot", 0.4), 0.6),
        gone_hazard=hazard,
        gone_week=gone,
        joined_week=joined_week,
        joined_at=joined_at,
        consent=consent,
        acquisition=np.minimum(acquired, len(ACQUISITION) - 1),
        region=(draw("region") * len(REGIONS)).astype(np.int64),
        drift_week=n_batches // 2,
        factor=factor,
        start=start,
    )


def _joining(which: Floats, when: Floats, n_batches: int, weeks_before: int, start: int) -> tuple[Ints, Ints]:
    # Weeks from start: long ago (up to 4 years), in the pre-history, or during the batches.
    long_ago = -weeks_before - 1 - 168 * when
    lately = -weeks_before + (weeks_before - 0.01) * when
    later = max(n_batches - 1, 1) * when
    weeks = np.select([which < 0.55, which < 0.90], [long_ago, lately], later)
    at = start + (weeks * WEEK).astype(np.int64)
    return at, np.floor((at - start) / WEEK).astype(np.int64)
