"""What has come of contacts so far: pauses after outcomes, and caps on how often a customer is contacted.

A contact counts once: as our decision (unless it was refused or failed), with the touches it led to, or as
somebody else's touch. Rolling windows are of whole 24 hours and half open: what lies exactly so long ago no
longer counts. Calendar windows begin at midnight (of the day, the Monday or the first of the month) by the
customer's own clock.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba import tables
from nba.catalog import NONE, Catalog
from nba.history import Snapshot
from nba.settings import ContactPolicy, FrequencyCap, Limits

Flags = NDArray[np.bool_]
_LEVELS = ("treatment", "action", "group", "issue", "channel")

# Contacts given: our decisions (save the refused and the failed) and touches sent, with their age. A touch
# without a decision's id belongs to the last decision on its channel while that is valid, as in feedback,
# unless it names another treatment or that decision has touches of its own id. `offer` holds the catalog and
# what it no longer offers, `asked` the customers with their row and zone.
_CONTACTS = """
fed as (select distinct decision_id from touches where decision_id is not null),
told as (
    select t.customer_id, t.treatment_id, t.channel, t.kind, t.touched_at, case
        when t.decision_id is not null then t.decision_id
        when t.touched_at < d.valid_until and coalesce(t.treatment_id, d.treatment_id) = d.treatment_id
            and d.decision_id not in (from fed) then d.decision_id end as decision_id
    from (from touches where kind in ('sent', 'delivered', 'refused', 'failed')) t
    asof left join (from decisions where treatment_id <> 'none') d
        on t.customer_id = d.customer_id and t.channel = d.channel and t.touched_at >= d.decided_at
),
lost as (
    select distinct decision_id from told where kind in ('refused', 'failed') and decision_id is not null
),
given as (
    select customer_id, decision_id, treatment_id, channel, 'decided' as kind, decided_at as given_at
    from decisions where treatment_id <> 'none'
    union all
    select customer_id, decision_id, treatment_id, channel, kind, touched_at
    from told where kind in ('sent', 'delivered')
),
contacts as (
    select a.row, a.zone, g.decision_id, g.kind, g.given_at, o.treatment, o.action, o."group", o.issue,
        coalesce(o.channel, g.channel) as channel, 'all' as everything,
        (epoch_us(m.moment) - epoch_us(g.given_at)) / 86400e6 as days, m.moment
    from given g join asked a using (customer_id) left join offer o on o.treatment = g.treatment_id
    anti join lost on lost.decision_id = g.decision_id, asked_at m
)
"""
# One contact may be a decision and the touches it led to, or touches of others, sent and then delivered.
_NUMBER = """count(distinct decision_id) + greatest(
    count(*) filter (decision_id is null and kind = 'sent'),
    count(*) filter (decision_id is null and kind = 'delivered'))"""


class Contacts:
    """The contacts of some customers as known at a snapshot's moment.

    Args:
        snapshot: The history as it was known.
        catalog: Fixes the columns. What was given of treatments that it no longer holds counts by the action,
            group and issue that the history knows of them.
        customer_ids: Shape (n,).
        zones: IANA zone of each customer, n of them.
    """

    def __init__(
        self, snapshot: Snapshot, catalog: Catalog, customer_ids: pa.Array, zones: pa.Array | None = None
    ) -> None:
        self._snapshot, self._n = snapshot, len(customer_ids)
        self._ids = customer_ids
        self._zones = pa.repeat("UTC", self._n) if zones is None else zones
        self._keys = _keys(catalog)
        self._offer = _offer(self._keys, snapshot)
        self._cooldown = catalog.cooldown_days

    def cooling(self) -> Flags:
        """Say where the column's action was given fewer days ago than the treatment's cooldown, (n, k)."""
        rows = self._ask(
            f"with {_CONTACTS} select row, action, min(days) as days from contacts"
            f" where action is not null and days < {int(self._cooldown.max())} group by 1, 2"
        )
        return self._spread(rows, "action", rows["days"].to_numpy(), np.inf) < self._cooldown

    def tired(self, limits: Limits) -> Flags:
        """Say who has had as many contacts as the limits allow, shape (n,)."""
        cap = FrequencyCap(name="frequency cap", most=limits.max_contacts, days=limits.contact_days)
        return np.asarray(self.capped(cap)[:, 1:].any(axis=1))

    def capped(self, cap: FrequencyCap) -> Flags:
        """Say which columns a frequency cap removes, shape (n, k)."""
        if cap.most == 0:
            return np.broadcast_to(self._concerned(cap.level, cap.only), (self._n, len(self._cooldown)))
        if cap.days is not None:
            inside = f"days < {cap.days}"
        else:
            here = "timezone(zone, given_at)", "timezone(zone, moment)"
            start, now = (f"date_trunc('{cap.calendar}', {one})" for one in here)
            inside = f"days < 32 and {start} = {now}"
        rows = self._ask(
            f'with {_CONTACTS} select row, "{cap.level}" from contacts'
            f' where "{cap.level}" is not null and {inside} group by 1, 2 having {_NUMBER} >= {cap.most}'
        )
        return self._flags(rows, cap.level) & self._concerned(cap.level, cap.only)

    def paused(self, policy: ContactPolicy, window_days: int) -> Flags:
        """Say which columns a contact policy pauses, shape (n, k).

        Args:
            policy: What pauses what.
            window_days: Days after a decision in which a purchase is a response to it.
        """
        within = policy.within_days if policy.within_days is not None else policy.pause_days
        before = f"to_microseconds({int(within * 86400e6) - 1})"
        rows = self._ask(
            f"with {_CONTACTS}, {_happened(policy, window_days)},"
            f' counted as (select row, "{policy.level}", happened_at, count(*) over (partition by row,'
            f' "{policy.level}" order by happened_at range between {before}'
            f' preceding and current row) as times from happened where "{policy.level}" is not null)'
            f' select distinct row, "{policy.level}" from counted, asked_at where times >= {policy.times}'
            f" and epoch_us(moment) - epoch_us(happened_at) < {int(policy.pause_days * 86400e6)}"
        )
        return self._flags(rows, policy.level) & self._concerned(policy.level, policy.only)

    def kept_by_another(self, days: float) -> Flags:
        """Say which columns wait because another action of their issue was the last given, shape (n, k)."""
        rows = self._ask(
            f"with {_CONTACTS} select row, issue, arg_max(action, given_at) as action from contacts"
            f" where issue is not null and days < {days} group by 1, 2"
        )
        issues, number = np.unique(self._keys["issue"], return_inverse=True)
        actions, own = np.unique(self._keys["action"], return_inverse=True)
        holder = np.full((self._n, len(issues)), -1)
        issue, action = _index(issues, rows["issue"]), _index(actions, rows["action"])
        known = issue >= 0
        # An action that is no longer offered holds its issue too: a number that is no column's own.
        holder[rows["row"].to_numpy()[known], issue[known]] = np.where(action < 0, len(actions), action)[
            known
        ]
        held = holder[:, number]
        return (held >= 0) & (held != own)

    def _spread(
        self, rows: pa.Table, level: str, value: NDArray[np.float64], empty: float
    ) -> NDArray[np.float64]:
        # Values by row and key to the columns that carry the key, shape (n, k).
        names, column = np.unique(self._keys[level], return_inverse=True)
        found = np.full((self._n, len(names)), empty)
        number = _index(names, rows[level])
        known = number >= 0
        found[rows["row"].to_numpy()[known], number[known]] = value[known]
        return found[:, column]

    def _flags(self, rows: pa.Table, level: str) -> Flags:
        return self._spread(rows, level, np.ones(rows.num_rows), 0.0) > 0

    def _concerned(self, level: str, only: tuple[str, ...]) -> Flags:
        keys = self._keys[level]
        return np.isin(keys, only) if only else np.ones(len(keys), dtype=bool)

    def _ask(self, query: str) -> pa.Table:
        connection = self._snapshot.connection
        row = pa.array(np.arange(self._n))
        connection.register("asked", pa.table({"customer_id": self._ids, "row": row, "zone": self._zones}))
        connection.register("asked_at", pa.table({"moment": pa.array([self._snapshot.at], tables.TIME)}))
        connection.register("offer", self._offer)
        try:
            return self._snapshot.sql(query)
        finally:
            for name in ("asked", "asked_at", "offer"):
                connection.unregister(name)


def _keys(catalog: Catalog) -> dict[str, NDArray[np.str_]]:
    # The name of each column at each level, shapes (k,).
    return {**catalog.levels, "everything": np.where(catalog.channel == NONE, NONE, "all")}


def _offer(keys: dict[str, NDArray[np.str_]], snapshot: Snapshot) -> pa.Table:
    # Levels of every treatment: the catalog wins, the history tells of what it no longer offers.
    current = pa.table({name: pa.array(keys[name][1:].tolist(), pa.string()) for name in _LEVELS})
    kept = {
        name: snapshot.history.table(name) for name in ("treatments", "actions") if snapshot.history.has(name)
    }
    if len(kept) < 2:
        return current
    kept_rows = kept["treatments"].select(["treatment_id", "action_id", "channel"])
    retired = kept_rows.join(kept["actions"].select(["action_id", "group", "issue"]), "action_id")
    retired = retired.rename_columns({"treatment_id": "treatment", "action_id": "action"}).select(_LEVELS)
    gone = retired.join(current.select(["treatment"]), "treatment", join_type="left anti")
    return pa.concat_tables([current, gone.cast(current.schema)])


def _happened(policy: ContactPolicy, window_days: int) -> str:
    # What a policy counts, once per decision: happened(row, happened_at, levels).
    levels = 'o.treatment, o.action, o."group", o.issue'
    rest = f"{levels}, coalesce(o.channel, d.channel) as channel, 'all' as everything"
    if policy.after == "sent":
        keys = ", ".join(f'any_value("{level}") as "{level}"' for level in (*_LEVELS, "everything"))
        once = "coalesce(decision_id, 'touch' || cast(epoch_us(given_at) as varchar))"
        return (
            f"happened as (select row, min(given_at) as happened_at, {keys} from contacts"
            f" where decision_id is not null or kind = 'sent' group by row, {once})"
        )
    if policy.after == "bought":
        # As feedback defines a response, from the purchase on and not only when the window has closed; of
        # decisions that are not so old that none of their purchases could count.
        oldest = window_days + policy.pause_days + (policy.within_days or policy.pause_days)
        return (
            "bought as (select decision_id, min(ordered_at) as happened_at from decisions join asked"
            " using (customer_id) join orders using (customer_id), asked_at where treatment_id <> 'none'"
            " and revenue > 0 and not is_return and ordered_at >= decided_at"
            f" and epoch_us(moment) - epoch_us(decided_at) < {int(oldest * 86400e6)}"
            f" and ordered_at < decided_at + to_days({int(window_days)}) group by 1),"
            f" happened as (select a.row, b.happened_at, {rest} from bought b"
            " join decisions d using (decision_id) join asked a using (customer_id)"
            " left join offer o on o.treatment = d.treatment_id)"
        )
    return (
        "raised as (select t.customer_id, min(t.touched_at) as happened_at, any_value(t.channel) as channel,"
        " any_value(coalesce(t.treatment_id, e.treatment_id)) as treatment_id from touches t"
        f" left join decisions e using (decision_id) where t.kind = '{policy.after}'"
        " group by t.customer_id, coalesce(t.decision_id, t.touch_id)),"
        f" happened as (select a.row, d.happened_at, {rest} from raised d join asked a using (customer_id)"
        " left join offer o on o.treatment = d.treatment_id)"
    )


def _index(names: NDArray[np.str_], column: pa.ChunkedArray) -> NDArray[np.int64]:
    number = {name: i for i, name in enumerate(names.tolist())}
    return np.array([number.get(name, -1) for name in column.to_pylist()], dtype=np.int64)
