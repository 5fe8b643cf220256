"""Who may have what: consent, reach, cooldown and frequency, with the rule that removed each candidate."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba import tables
from nba.catalog import Catalog
from nba.errors import DataError
from nba.history import Snapshot
from nba.settings import Limits

# Rules in order; the first that removes a candidate is its reason. 0 is eligible.
REASONS = (
    "",
    "action not running",
    "no external id",
    "no consent",
    "opted out",
    "cooldown",
    "frequency cap",
)
_STOPPED, _UNREACHABLE, _NO_CONSENT, _OPTED_OUT, _COOLDOWN, _FREQUENCY = range(1, 7)


class Eligibility(NamedTuple):
    """Which treatments each customer may have.

    Attributes:
        customer_ids: Shape (n,).
        is_eligible: Shape (n, k); `none` (column 0) always.
        reason: Shape (n, k), number of the rule in `reasons` that removed it; 0 where eligible.
        reasons: The rules in words.
    """

    customer_ids: pa.Array
    is_eligible: NDArray[np.bool_]
    reason: NDArray[np.int8]
    reasons: tuple[str, ...] = REASONS


def eligible(snapshot: Snapshot, catalog: Catalog, limits: Limits, customer_ids: pa.Array) -> Eligibility:
    """Apply the rules to every customer and treatment, as known at the snapshot's moment.

    A contact counts once: as our decision (unless it was refused or failed), or as somebody else's touch.

    Args:
        snapshot: The history as it was known.
        catalog: Fixes the columns.
        limits: Frequency cap per customer.
        customer_ids: Shape (n,).

    Raises:
        DataError: when a channel of the catalog has no consent column, or a customer is not known.
    """
    _check_channels(snapshot, catalog)
    customers = _customers(snapshot, catalog, customer_ids)
    reason = np.zeros((len(customer_ids), len(catalog.treatment_ids)), dtype=np.int8)

    def remove(rule: int, which: NDArray[np.bool_]) -> None:
        reason[(reason == 0) & which] = rule

    remove(_STOPPED, ~catalog.active(snapshot.at)[None, :])
    remove(_UNREACHABLE, _column(customers, "unreachable")[:, None])
    for channel in catalog.channels:
        here = (catalog.channel == channel)[None, :]
        remove(_NO_CONSENT, ~_column(customers, f"can_{channel}")[:, None] & here)
        remove(_OPTED_OUT, _column(customers, f"left_{channel}")[:, None] & here)
    remove(_COOLDOWN, _cooling(snapshot, catalog, customer_ids))
    remove(_FREQUENCY, _tired(snapshot, limits, customer_ids)[:, None])
    reason[:, 0] = 0
    return Eligibility(customer_ids, reason == 0, reason)


def _check_channels(snapshot: Snapshot, catalog: Catalog) -> None:
    found = snapshot.sql("from customers limit 0").column_names
    missing = [channel for channel in catalog.channels if f"can_{channel}" not in found]
    if missing:
        known = sorted(name.removeprefix("can_") for name in found if name.startswith("can_"))
        raise DataError(
            f"the catalog sends on {missing}; customers hold consent for {known}",
            "Use a channel that has a consent column, or take the treatment out of the catalog.",
        )


def _customers(snapshot: Snapshot, catalog: Catalog, customer_ids: pa.Array) -> pa.Table:
    consent = "".join(f', c."can_{channel}"' for channel in catalog.channels)
    left = "".join(
        f", coalesce(list_contains(u.channels, '{channel}'), false) as \"left_{channel}\""
        for channel in catalog.channels
    )
    table = _ask(
        snapshot,
        customer_ids,
        f"select a.row, c.customer_id is null as absent, c.external_id is null as unreachable{consent}{left}"
        " from asked a left join customers c using (customer_id) left join ("
        "  select customer_id, list(distinct channel) as channels from touches"
        "  where kind = 'unsubscribed' group by 1) u using (customer_id) order by a.row",
    )
    absent = _column(table, "absent")
    if absent.any():
        raise DataError(
            f"{int(absent.sum())} of {len(customer_ids)} customers are not known at {snapshot.at}",
            "Decide only for customers of the history.",
        )
    return table


def _cooling(snapshot: Snapshot, catalog: Catalog, customer_ids: pa.Array) -> NDArray[np.bool_]:
    # Shape (n, k): the column's action was given fewer days ago than the treatment's cooldown.
    n, k = len(customer_ids), len(catalog.treatment_ids)
    actions, column = np.unique(catalog.action, return_inverse=True)
    rows = _ask(
        snapshot,
        customer_ids,
        f"with {_CONTACTS} select row, treatment_id, min(days) as days from contacts"
        f" join asked using (customer_id) where days < {int(catalog.cooldown_days.max())} group by 1, 2",
    )
    given = catalog.columns(rows["treatment_id"].to_pylist())
    known = given > 0
    since = np.full((n, len(actions)), np.inf)
    where = (rows["row"].to_numpy()[known], column[given[known]])
    np.minimum.at(since, where, rows["days"].to_numpy()[known])
    return np.asarray(since[:, column] < catalog.cooldown_days).reshape(n, k)


def _tired(snapshot: Snapshot, limits: Limits, customer_ids: pa.Array) -> NDArray[np.bool_]:
    rows = _ask(
        snapshot,
        customer_ids,
        f"with {_CONTACTS} select row, count(distinct decision_id) + greatest("
        "  count(*) filter (decision_id is null and kind = 'sent'),"
        "  count(*) filter (decision_id is null and kind = 'delivered')) as n"
        f" from contacts join asked using (customer_id) where days < {limits.contact_days}"
        f" group by 1 having n >= {limits.max_contacts}",
    )
    out = np.zeros(len(customer_ids), dtype=bool)
    out[rows["row"].to_numpy()] = True
    return out


# Contacts given: our decisions (save the refused and the failed) and touches sent, with their age.
_CONTACTS = """
lost as (
    select distinct decision_id from touches where kind in ('refused', 'failed') and decision_id is not null
),
given as (
    select customer_id, decision_id, treatment_id, 'decided' as kind, decided_at as given_at
    from decisions where treatment_id <> 'none'
    union all
    select customer_id, decision_id, treatment_id, kind, touched_at
    from touches where kind in ('sent', 'delivered')
),
contacts as (
    select customer_id, decision_id, treatment_id, kind,
        (epoch_us(moment) - epoch_us(given_at)) / 86400e6 as days
    from given anti join lost using (decision_id), (select moment from asked_at)
)
"""


def _ask(snapshot: Snapshot, customer_ids: pa.Array, query: str) -> pa.Table:
    # `asked` holds the customers with their row number, `asked_at` the moment.
    connection = snapshot.connection
    row = pa.array(np.arange(len(customer_ids)))
    connection.register("asked", pa.table({"customer_id": customer_ids, "row": row}))
    connection.register("asked_at", pa.table({"moment": pa.array([snapshot.at], tables.TIME)}))
    try:
        return snapshot.sql(query)
    finally:
        connection.unregister("asked")
        connection.unregister("asked_at")


def _column(table: pa.Table, name: str) -> NDArray[np.bool_]:
    return np.asarray(table[name].to_numpy(), dtype=bool)
