"""How one week of the simulated world goes, and the exact expected value of every contact in it.

Time runs in weeks; week 0 begins at the first decision. Purchases without contact are independent of
contact, so that the value of a whole series of decisions is the exact sum of the values of its steps.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit, ndtri

from nba.histories import simulated_truth as t
from nba.histories.simulated_truth import WEEK, Bools, Floats, Ints, Truth

UNSUBSCRIBE_COST = 2.0
REACH = np.array([0.98, 0.97, 0.95, 0.85])  # chance that a contact arrives, by channel
_HOUR = 3600 * 1_000_000
_STAY_HOT = 0.5
_HOT_RATE, _COLD_RATE, _GONE_RATE, _GONE_EFFECT = 2.2, 0.75, 0.05, 0.3
_MOST = 0.8
_DELAY_SHAPE, _DELAY_DAYS = 0.9, 4.5
_WEEKDAY = np.cumsum([0.13, 0.12, 0.12, 0.13, 0.16, 0.19, 0.15])
_NEVER = 32_000


@dataclass(frozen=True)
class State:
    """What has happened so far; every past week can be looked at again.

    Attributes:
        first: Week number of the first column; the next week to play is `first + len(chosen)`.
        hot: By week, whether the person browsed much in the week before, (n,) each, one more than weeks.
        chosen: By week, the world's column that reached the person, 0 for none, (n,) each.
        spoil: By week, the share of own purchases that this contact spoils, (n,) each.
        last_order: By week, week number of the last purchase before it, (n,) each, one more than weeks.
        opted_out: Week of the opt-out by channel, shape (n, 4).
        due_person, due_week: Purchases that contact has caused and that are still to come.
    """

    first: int
    hot: tuple[Bools, ...]
    chosen: tuple[Ints, ...]
    spoil: tuple[Floats, ...]
    last_order: tuple[Ints, ...]
    opted_out: Ints
    due_person: Ints
    due_week: Ints

    @property
    def week(self) -> int:
        """Number of the next week to play."""
        return self.first + len(self.chosen)


@dataclass(frozen=True)
class Moment:
    """What bears on a decision at the beginning of a week; arrays over people.

    Attributes:
        week: Week number.
        joined: Whether the person was a customer before the week.
        gone: Whether they have ceased to be one.
        hot: Whether they browsed much in the week before.
        since_order: Weeks since the last purchase (1 is last week).
        n14, n28: Contacts that arrived in the last 2 and 4 weeks.
        action_week: Week in which each action last arrived, shape (n, actions + newsletter).
        spoil: Share of this week's own purchases that last week's contact spoils.
        consent: Shape (n, 4), by channel, opt-outs respected; none before joining.
    """

    week: int
    joined: Bools
    gone: Bools
    hot: Bools
    since_order: Ints
    n14: Ints
    n28: Ints
    action_week: Ints
    spoil: Floats
    consent: Bools


@dataclass(frozen=True)
class Orders:
    """Purchases that came about in a week (some happen later); arrays over orders.

    Attributes:
        person, at: Who, and when in microseconds since 1970.
        margin: Money, before a return.
        returned: Whether the goods come back.
        caused: Whether a contact caused it.
    """

    person: Ints
    at: Ints
    margin: Floats
    returned: Bools
    caused: Bools

    @property
    def net(self) -> Floats:
        """Margin that stays, money."""
        return np.where(self.returned, 0.0, self.margin)


@dataclass(frozen=True)
class Played:
    """What a week brought; contact arrays are over people.

    Attributes:
        week: Week number.
        moment: What it began with.
        hot: Whether the person browsed much in the week.
        sent: World's column sent or refused, 0 for none.
        sent_at: Microseconds since 1970.
        refused: Sent without consent: nothing happens.
        arrived, opted_out: What came of the contact.
        delay: Microseconds from contact to the purchase that it causes; 0 if it causes none.
        orders: Purchases that came about.
    """

    week: int
    moment: Moment
    hot: Bools
    sent: Ints
    sent_at: Ints
    refused: Bools
    arrived: Bools
    opted_out: Bools
    delay: Ints
    orders: Orders

    @property
    def cost(self) -> Floats:
        """Money spent on each person: contacts that arrived."""
        return np.where(self.arrived, t.COLUMN_COST[self.sent], 0.0)


def begin(truth: Truth, first: int) -> State:
    """Put the world at the beginning of its pre-history."""
    hot = truth.uniform("hot first", first) < truth.hot
    ago = np.floor(np.log(truth.uniform("order first", first)) / np.log1p(-np.minimum(truth.rate, 0.5)))
    last = np.maximum(first - 1 - ago, -10_000).astype(np.int64)
    nothing = np.zeros(0, dtype=np.int64)
    never = np.full((truth.n, len(t.CHANNELS)), _NEVER)
    return State(first, (hot,), (), (), (last,), never, nothing, nothing)


def look(truth: Truth, state: State, week: int) -> Moment:
    """See the world at the beginning of a week that has been played or is the next."""
    i = week - state.first
    zeros = np.zeros(truth.n, dtype=np.int64)
    recent = [state.chosen[i - k] if i >= k else zeros for k in (1, 2, 3, 4)]
    action_week = np.full((truth.n, t.ACTION_TASTE.shape[1]), -_NEVER)
    for k, column in reversed(list(enumerate(recent, 1))):
        who = np.flatnonzero(column)
        action_week[who, t.COLUMN_ACTION[column[who]]] = week - k
    contacts = np.stack([column > 0 for column in recent])
    return Moment(
        week=week,
        joined=truth.joined_week < week,
        gone=truth.gone_week <= week,
        hot=state.hot[i],
        since_order=week - state.last_order[i],
        n14=contacts[:2].sum(axis=0),
        n28=contacts.sum(axis=0),
        action_week=action_week,
        spoil=state.spoil[i - 1] if i else np.zeros(truth.n),
        consent=truth.consent & (state.opted_out >= week) & (truth.joined_week < week)[:, None],
    )


def season(truth: Truth, week: int) -> float:
    """Yearly season: a sine of 15 % and a peak in late November and December."""
    days = (truth.start // (24 * _HOUR) + 7 * week) % 365.2425
    return float(1 + 0.15 * np.sin(2 * np.pi * (days - 60) / 365.2425) + 0.25 * (325 <= days < 358))


def _own_rate(truth: Truth, week: int, hot: Floats | Bools, alive: Floats) -> Floats:
    # Chance of a purchase without contact; linear in `hot` and `alive`, so it takes chances for them.
    level = truth.rate * season(truth, week)
    hot = np.asarray(hot, dtype=np.float64)
    p = hot * np.minimum(level * _HOT_RATE, _MOST) + (1 - hot) * np.minimum(level * _COLD_RATE, _MOST)
    return p * (alive + (1 - alive) * _GONE_RATE)


def own_rates(truth: Truth, moment: Moment) -> tuple[Floats, Floats]:
    """Chance of a purchase without any contact, in this week and in the next, each shape (n,)."""
    alive = (~moment.gone).astype(np.float64)
    stay, stay2 = _STAY_HOT, _STAY_HOT**2
    hot = moment.hot.astype(np.float64)
    now = _own_rate(truth, moment.week, stay * hot + (1 - stay) * truth.hot, alive)
    later = alive * (1 - truth.gone_hazard)
    return now, _own_rate(truth, moment.week + 1, stay2 * hot + (1 - stay2) * truth.hot, later)


def tastes(truth: Truth, week: int) -> Floats:
    """Action tastes by type in a week: after the drift each lies nearer to that for the action before."""
    base = t.ACTION_TASTE
    if week < truth.drift_week:
        return base
    moved = base.copy()
    moved[:, :-1] = (1 - t.DRIFT) * base[:, :-1] + t.DRIFT * np.roll(base[:, :-1], 1, axis=1)
    return moved


def effects(truth: Truth, moment: Moment, who: Ints, column: Ints) -> tuple[Floats, Floats, Floats]:
    """What a contact that arrives does.

    Args:
        truth: The people.
        moment: The week's beginning.
        who: People, shape (m,).
        column: Column of the world for each, shape (m,), none of them 0.

    Returns:
        Chance of one more purchase; share of the own purchases of this and the next week that it spoils;
        chance of an opt-out. Each shape (m,).
    """
    kind, action, channel = truth.kind[who], t.COLUMN_ACTION[column], t.COLUMN_CHANNEL[column]
    lean = (
        tastes(truth, moment.week)[kind, action] + t.CHANNEL_TASTE[kind, channel] + truth.taste[who, action]
    )
    since, hot = moment.since_order[who], moment.hot[who]
    discount, collection, advice = action == 0, action == 1, action == 3
    lean = lean + hot * (0.2 + 0.4 * collection) + (since <= 2) * (0.5 * collection - 0.5 * discount)
    lean = lean + (since >= 9) * (0.4 * discount + 0.3 * advice)
    tired = np.exp(-0.30 * moment.n14[who] - 0.08 * (moment.n28[who] - moment.n14[who]))
    tired = tired * np.where(moment.week - moment.action_week[who, action] <= 4, 0.7, 1.0)
    alive = np.where(moment.gone[who], _GONE_EFFECT, 1.0)
    convert = t.PEAK[kind] * truth.response[who] * expit(lean) * tired * alive * season(truth, moment.week)
    spoil = t.DOG_TYPE[kind] * t.DOG_CHANNEL[channel] * t.DOG_ACTION[action]
    opt_out = 0.002 * t.OPT_OUT[kind] * (1.0 + moment.n28[who]) ** 1.5
    if moment.week >= 0 and truth.factor != 1.0:
        convert, spoil = _distort(convert, spoil, truth.factor)
    return np.minimum(convert, _MOST), spoil, np.minimum(opt_out, 0.5)


def _distort(convert: Floats, spoil: Floats, factor: float) -> tuple[Floats, Floats]:
    # A negative factor makes gain of harm and harm of gain.
    if factor >= 0:
        return factor * convert, np.minimum(factor * spoil, 0.95)
    return -factor * 0.01 * spoil, np.minimum(-factor * convert, 0.95)


def values(truth: Truth, moment: Moment) -> tuple[Floats, Floats]:
    """Exact expected incremental value of every treatment for every person.

    Returns:
        Value in money and extra chance of a purchase (own purchases spoilt subtracted), both of shape
        (n, k) in the catalog's column order; 0 for none and where consent is missing.
    """
    people = np.arange(truth.n)
    now, later = own_rates(truth, moment)
    own = now * (1 - moment.spoil) + later
    value, extra = np.zeros((truth.n, t.N_COLUMNS)), np.zeros((truth.n, t.N_COLUMNS))
    for j in range(1, t.N_COLUMNS):
        channel = t.COLUMN_CHANNEL[j]
        convert, spoil, opt_out = effects(truth, moment, people, np.full(truth.n, j))
        reach = REACH[channel] * moment.consent[:, channel]
        gain = truth.margin * (convert * t.COLUMN_MARGIN[j] - spoil * own)
        value[:, j] = reach * (gain - opt_out * UNSUBSCRIBE_COST - t.COLUMN_COST[j])
        extra[:, j] = reach * (convert - spoil * own)
    return value, extra


def newsletter(truth: Truth, moment: Moment) -> Ints:
    """Choose the newsletters of a week before the platform: rather to recent buyers; shape (n,)."""
    wanted = truth.uniform("news", moment.week) < 0.05 + 0.07 * (moment.since_order <= 8)
    which = np.searchsorted([0.6, 0.85], truth.uniform("news channel", moment.week))
    column = t.N_COLUMNS + which
    may = moment.consent[np.arange(truth.n), t.COLUMN_CHANNEL[column]]
    return np.where(wanted & may & moment.joined, column, 0)


def step(truth: Truth, state: State, sent: Ints, at: int) -> tuple[State, Played]:
    """Play the next week.

    Args:
        truth: The people.
        state: The world before the week.
        sent: World's column to send to each person, 0 for none, shape (n,).
        at: When it was decided, microseconds since 1970.

    Returns:
        The state after the week, and what it brought.
    """
    week, n = state.week, truth.n
    moment = look(truth, state, week)
    channel = t.COLUMN_CHANNEL[sent]
    refused = (sent > 0) & ~moment.consent[np.arange(n), channel]
    arrived = (sent > 0) & ~refused & (truth.uniform("arrive", week) < REACH[channel])
    who = np.flatnonzero(arrived)
    convert, spoil_who, opt_out = effects(truth, moment, who, sent[who])
    spoil, opted_out, delay = np.zeros(n), np.zeros(n, dtype=bool), np.zeros(n, dtype=np.int64)
    spoil[who] = spoil_who
    opted_out[who] = truth.uniform("opt out", week, who) < opt_out
    buys = who[truth.uniform("convert", week, who) < convert]
    days = _DELAY_DAYS * (-np.log(truth.uniform("delay", week, buys))) ** (1 / _DELAY_SHAPE)
    delay[buys] = _HOUR + (days * 24 * _HOUR).astype(np.int64)
    sent_at = at + _send_delay(truth, week, channel)

    hot = _next_hot(truth, week, moment.hot)
    own = _own_orders(truth, moment, hot, spoil)
    orders = _join(own, _caused_orders(truth, week, buys, sent_at[buys] + delay[buys], sent[buys]))
    played = Played(week, moment, hot, sent, sent_at, refused, arrived, opted_out, delay, orders)
    return _after(truth, state, played, spoil), played


def _next_hot(truth: Truth, week: int, hot: Bools) -> Bools:
    stays = truth.uniform("stay", week) < _STAY_HOT
    return np.where(stays, hot, truth.uniform("hot", week) < truth.hot)


def _send_delay(truth: Truth, week: int, channel: Ints) -> Ints:
    # Email in the morning, push in the evening, calls over the first days.
    hours = np.array([3.0, 6.0, 11.0, 4.0])[channel] + np.array([2.0, 2.0, 2.0, 60.0])[
        channel
    ] * truth.uniform("send", week)
    return (hours * _HOUR).astype(np.int64)


def _own_orders(truth: Truth, moment: Moment, hot: Bools, spoil: Floats) -> Orders:
    week = moment.week
    chance = _own_rate(truth, week, hot, (~moment.gone).astype(np.float64))
    buys = moment.joined & (truth.uniform("own", week) < chance)
    buys &= truth.uniform("spoil", week) >= 1 - (1 - spoil) * (1 - moment.spoil)
    first = (truth.joined_week == week) & (truth.uniform("first order", week) < 0.6)
    who = np.flatnonzero(buys | first)
    at = truth.start + week * WEEK + time_in_week(truth, "own at", week, who)
    at = np.where(first[who], truth.joined_at[who] + 10 * 60 * 1_000_000, at)
    return _priced(truth, "own", week, who, at, np.ones(len(who)), caused=False)


def _caused_orders(truth: Truth, week: int, who: Ints, at: Ints, column: Ints) -> Orders:
    return _priced(truth, "caused", week, who, at, t.COLUMN_MARGIN[column], caused=True)


def _priced(
    truth: Truth, why: str, week: int, who: Ints, at: Ints, factor: Floats, *, caused: bool
) -> Orders:
    size = np.exp(0.35 * ndtri(truth.uniform(f"{why} size", week, who)) - 0.35**2 / 2)
    margin = np.round(truth.spend[who] * factor * size, 2)
    returned = truth.uniform(f"{why} return", week, who) < truth.returns[who]
    return Orders(who, at, margin, returned, np.full(len(who), caused))


def _join(a: Orders, b: Orders) -> Orders:
    return Orders(*(np.concatenate([x, y]) for x, y in zip(vars(a).values(), vars(b).values())))


def time_in_week(truth: Truth, purpose: str, week: int, who: Ints) -> Ints:
    """Draw moments within a week, by weekday and by hour of waking, microseconds from its beginning."""
    day = np.searchsorted(_WEEKDAY[:-1], truth.uniform(f"{purpose} day", week, who))
    hour = np.clip(7.5 + 4.0 * ndtri(truth.uniform(f"{purpose} hour", week, who)), 0.5, 17.5)
    return ((day * 24 + hour) * _HOUR).astype(np.int64)


def _after(truth: Truth, state: State, played: Played, spoil: Floats) -> State:
    week, orders = played.week, played.orders
    due_week = (orders.at - truth.start) // WEEK
    person = np.concatenate([state.due_person, orders.person])
    due = np.concatenate([state.due_week, due_week])
    last = state.last_order[-1].copy()
    last[person[due <= week]] = week
    opted_out, column = state.opted_out.copy(), t.COLUMN_CHANNEL[played.sent]
    out = np.flatnonzero(played.opted_out)
    opted_out[out, column[out]] = np.minimum(opted_out[out, column[out]], week)
    return replace(
        state,
        hot=(*state.hot, played.hot),
        chosen=(*state.chosen, np.where(played.arrived, played.sent, 0)),
        spoil=(*state.spoil, spoil),
        last_order=(*state.last_order, last),
        opted_out=opted_out,
        due_person=person[due > week],
        due_week=due[due > week],
    )
