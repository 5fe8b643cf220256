"""From a played week to what the company's systems record of it: clean rows, person by number.

Rows carry the week of the file that they will stand in: that of their moment, or one later for the one
row in a hundred that arrives late. A purchase that is due later waits for its week.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from nba.histories import simulated_truth as t
from nba.histories.simulated_play import Orders, Played, time_in_week
from nba.histories.simulated_truth import WEEK, Floats, Ints, Truth, mix, poisson, uniform

LATE_SHARE = 0.01
EVENT_KINDS = ("visit", "view", "cart", "search")
TOUCH_KINDS = ("sent", "delivered", "failed", "seen", "clicked", "refused", "unsubscribed")
TICKET_KINDS = ("consulta", "reclamación")
PAGES = ("/", "/campaign", "/p/{}", "/cart", "/search?q=rebajas", "/search?q=vestido", "/search?q=zapatos")
_MINUTE = 60 * 1_000_000
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR
_SALE_SEARCH = np.array([0.15, 0.10, 0.10, 0.20, 0.10, 0.75])
Rows = Mapping[str, pa.Table]


def week_rows(truth: Truth, played: Played, decision_ids: Sequence[str | None] | None = None) -> Rows:
    """Record a week.

    Args:
        truth: The people.
        played: The week.
        decision_ids: Of each person's contact, n of them; None where there is none.

    Returns:
        Tables orders, web, touches, tickets, each with `person`, `at`, `key` (unique) and `file_week`.
    """
    seen, clicked = _reactions(truth, played)
    return {
        "orders": _orders(truth, played),
        "web": _web(truth, played, clicked),
        "touches": _touches(truth, played, seen, clicked, decision_ids),
        "tickets": _tickets(truth, played),
    }


def _table(truth: Truth, name: str, week: int, parts: list[dict[str, Any]]) -> pa.Table:
    # Join the parts, give every row a key and the week of its file.
    columns = {c: np.concatenate([np.asarray(p[c]) for p in parts]) for c in parts[0]}
    person, at = columns["person"], columns["at"]
    number = np.arange(len(person))
    turn = np.zeros(len(person), dtype=np.int64)
    order = np.argsort(person, kind="stable")
    fresh = np.flatnonzero(np.diff(person[order], prepend=-1))
    turn[order] = number - np.repeat(fresh, np.diff(np.append(fresh, len(person))))
    key = mix(truth.seed, f"{name} key", week, person.astype(np.int64) * 1024 + turn)
    late = uniform(truth.seed, f"{name} late", 0, key.astype(np.int64)) < LATE_SHARE
    columns["key"] = (key >> np.uint64(4)).astype(np.int64)
    columns["file_week"] = (at - truth.start) // WEEK + late
    return pa.table(columns)


def _orders(truth: Truth, played: Played) -> pa.Table:
    orders = played.orders
    who, week = orders.person, played.week
    gross = orders.margin / (0.35 + 0.1 * truth.uniform("margin rate", week, who))
    items = 1 + poisson(np.where(truth.kind[who] == 5, 1.8, 0.7), truth.uniform("items", week, who))
    bought = {
        "person": who,
        "at": orders.at,
        "revenue": np.round(gross, 2),
        "margin": orders.margin,
        "items": items,
        "is_return": np.zeros(len(who), dtype=bool),
    }
    back = np.flatnonzero(orders.returned)
    days = 3 + 11 * truth.uniform("return day", week, who[back])
    returned = {name: column[back] for name, column in bought.items()}
    returned |= {
        "at": orders.at[back] + (days * _DAY).astype(np.int64),
        "revenue": -bought["revenue"][back],
        "margin": -orders.margin[back],
        "is_return": np.ones(len(back), dtype=bool),
    }
    return _table(truth, "orders", week, [bought, returned])


def _reactions(truth: Truth, played: Played) -> tuple[Ints, Ints]:
    """Moments of seeing and clicking, shape (n,), 0 for never; who buys has always seen."""
    n, week = truth.n, played.week
    channel = t.COLUMN_CHANNEL[played.sent]
    p_seen = np.where(played.moment.gone, 0.3, 1.0) * t.SEEN[truth.kind, channel]
    p_seen = p_seen * np.exp(-0.15 * played.moment.n14)
    buys = played.delay > 0
    sees = played.arrived & (buys | played.opted_out | (truth.uniform("see", week) < p_seen))
    wait = -np.log(truth.uniform("see when", week)) * np.array([5.0, 1.0, 2.0, 0.1])[channel]
    wait = np.minimum(wait * _HOUR, 60 * _HOUR)
    wait = np.where(buys, np.minimum(wait, 0.4 * played.delay), wait).astype(np.int64) + _MINUTE
    p_click = np.minimum(t.CLICK[truth.kind] * truth.response, 0.9)
    p_click = np.where(played.sent >= t.N_COLUMNS, 0.8 * p_click, p_click)
    clicks = sees & (channel != 3) & (truth.uniform("click", week) < np.where(buys, 0.8, p_click))
    seen = np.where(sees, played.sent_at + wait, np.zeros(n, dtype=np.int64))
    return seen, np.where(clicks, seen + _MINUTE, np.zeros(n, dtype=np.int64))


def _touches(
    truth: Truth, played: Played, seen: Ints, clicked: Ints, decision_ids: Sequence[str | None] | None
) -> pa.Table:
    tried = played.sent > 0
    moments = [
        ("sent", tried & ~played.refused, played.sent_at),
        ("delivered", played.arrived, played.sent_at + _MINUTE // 2),
        ("failed", tried & ~played.refused & ~played.arrived, played.sent_at + _MINUTE // 2),
        ("seen", seen > 0, seen),
        ("clicked", clicked > 0, clicked),
        ("refused", played.refused, played.sent_at),
        ("unsubscribed", played.opted_out, seen + 2 * _MINUTE),
    ]
    parts = []
    for kind, happened, at in moments:
        who = np.flatnonzero(happened)
        parts.append(
            {
                "person": who,
                "at": at[who],
                "kind": np.full(len(who), TOUCH_KINDS.index(kind)),
                "column": played.sent[who],
                "cost": t.COLUMN_COST[played.sent[who]] * (kind == "delivered"),
            }
        )
    table = _table(truth, "touches", played.week, parts)
    person = table["person"].to_numpy()
    ids = pa.nulls(len(person), pa.string())
    if decision_ids is not None:
        ids = pa.array(decision_ids, pa.string()).take(pa.array(person))
    return table.append_column("decision_id", ids)


def _web(truth: Truth, played: Played, clicked: Ints) -> pa.Table:
    """Visits with their views, carts and searches: bursts, stray visits, clicks, and before purchases."""
    week = played.week
    here = (truth.joined_week < week).astype(np.float64)
    alive = here * np.where(played.moment.gone, 0.1, 1.0)
    mean = alive * np.where(played.hot, 1.3, 0.5 * truth.hot)
    n_visits = poisson(mean, truth.uniform("visits", week)) + (played.hot & (alive == 1.0))
    who = np.repeat(np.arange(truth.n), n_visits)
    turn = np.arange(len(who)) - np.repeat(np.cumsum(n_visits) - n_visits, n_visits)
    visit = who * 16 + turn
    at = truth.start + week * WEEK + _visit_time(truth, week, visit)
    landing = np.zeros(len(who), dtype=np.int64)
    by_click = np.flatnonzero(clicked)
    by_order = np.flatnonzero(uniform(truth.seed, "order visit", week, played.orders.person) < 0.6)
    who = np.concatenate([who, by_click, played.orders.person[by_order]])
    visit = np.concatenate([visit, by_click * 16 + 12, _order_visit(played.orders, by_order)])
    at = np.concatenate([at, clicked[by_click] + _MINUTE // 2, played.orders.at[by_order] - 20 * _MINUTE])
    landing = np.concatenate([landing, np.ones(len(by_click), dtype=np.int64), np.zeros(len(by_order), int)])
    buys = np.arange(len(who)) >= len(who) - len(by_order)
    return _table(truth, "web", week, _pages(truth, week, who, visit, at, landing, buys))


def _order_visit(orders: Orders, which: Ints) -> Ints:
    return orders.person[which] * 16 + 13 + orders.caused[which]


def _visit_time(truth: Truth, week: int, visit: Ints) -> Ints:
    return time_in_week(truth, "visit", week, visit)


def _pages(
    truth: Truth, week: int, who: Ints, visit: Ints, at: Ints, landing: Ints, buys: np.ndarray
) -> list[dict[str, Any]]:
    kind = truth.kind[who]

    def draw(purpose: str) -> Floats:
        return uniform(truth.seed, purpose, week, visit)

    n_views = poisson(t.VIEWS[kind], draw("views"), 4)
    searches = np.flatnonzero(draw("search") < t.SEARCH[kind])
    carts = np.flatnonzero(buys | (draw("cart") < t.CART[kind]))
    viewed = np.repeat(np.arange(len(who)), n_views)
    turn = np.arange(len(viewed)) - np.repeat(np.cumsum(n_views) - n_views, n_views)
    words = 4 + (1 + (draw("word") < 0.5)) * (draw("sale word") >= _SALE_SEARCH[kind])
    parts = [
        (np.arange(len(who)), 0, np.zeros(len(who), dtype=np.int64), landing),
        (searches, 3, np.full(len(searches), 20_000_000), words[searches]),
        (viewed, 1, 60_000_000 + turn * 47_000_000, np.full(len(viewed), 2)),
        (carts, 2, np.full(len(carts), 320_000_000), np.full(len(carts), 3)),
    ]
    return [
        {
            "person": who[index],
            "at": at[index] + after,
            "kind": np.full(len(index), kind_number),
            "page": page,
            "visit": visit[index],
            "visit_week": np.full(len(index), week),
        }
        for index, kind_number, after, page in parts
    ]


def _tickets(truth: Truth, played: Played) -> pa.Table:
    week = played.week
    alive = (truth.joined_week < week) * np.where(played.moment.gone, 0.05, 1.0)
    asks = np.flatnonzero(truth.uniform("ticket", week) < alive * t.TICKET[truth.kind])
    after = t.COMPLAINT_AFTER[truth.kind] * played.arrived
    chance = alive * (t.COMPLAINT[truth.kind] + after)
    complains = np.flatnonzero(truth.uniform("complaint", week) < chance)
    parts = []
    for number, who in enumerate((asks, complains)):
        at = truth.start + week * WEEK + time_in_week(truth, f"ticket {number}", week, who)
        at = np.where(played.arrived[who], np.maximum(at, played.sent_at[who] + _HOUR), at)
        parts.append({"person": who, "at": at, "kind": np.full(len(who), number)})
    return _table(truth, "tickets", week, parts)
