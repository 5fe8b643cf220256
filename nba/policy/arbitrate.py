"""From scores to money: what each treatment is believed to be worth to each customer."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba.catalog import Catalog
from nba.errors import SettingsError
from nba.history import Snapshot
from nba.policy.explore import Estimate
from nba.settings import Reward

Array = NDArray[np.float64]
# Weight of the prior of a channel's opt-out rate, in contacts at the rate of all channels together.
_PRIOR_CONTACTS = 200.0


def estimate(
    uplift: Array,
    uplift_se: Array,
    margin_per_response: Array,
    catalog: Catalog,
    nuisance: Array | None = None,
    saved: Array | None = None,
) -> Estimate:
    """Value treatments by what contact changes: `lever * uplift * (margin + saved) - cost - nuisance`.

    Args:
        uplift: Change of the response probability against no contact, shape (n, k).
        uplift_se: Its standard error, shape (n, k).
        margin_per_response: Expected money of a response of each customer, shape (n,); NaN where it is
            not known, then the catalog's margin counts.
        catalog: Gives cost, margin and lever by column.
        nuisance: Money lost per contact by opt-outs, shape (k,); none if absent.
        saved: Lifetime value that a response saves beside its margin, shape (n, k); none if absent.

    Returns:
        Money, shape (n, k); `none` is worth exactly 0.

    Example:
        >>> from nba.catalog import Action, Treatment
        >>> sale, mail = Action("sale", "s", "s", "Sale", 20.0), Treatment("mail", "sale", "email", 0.02)
        >>> shop = Catalog((sale,), (mail,))
        >>> estimate(np.array([[0, 0.1]]), np.zeros((1, 2)), np.array([np.nan]), shop).mean.round(2).tolist()
        [[0.0, 1.98]]
    """
    worth = _worth(margin_per_response, catalog, saved)
    mean = worth * uplift - catalog.cost - (0.0 if nuisance is None else nuisance)
    se = worth * uplift_se
    mean[:, 0] = se[:, 0] = 0.0
    return Estimate(mean, se)


def by_response(p_response: Array, margin_per_response: Array, catalog: Catalog) -> Estimate:
    """Value treatments by the response itself, as response targeting does: a baseline, not a belief.

    Args:
        p_response: Chance of a response if treated, shape (n, k).
        margin_per_response: Money, shape (n,); NaN where not known.
        catalog: Gives cost, margin and lever by column.
    """
    mean = _worth(margin_per_response, catalog) * p_response - catalog.cost
    mean[:, 0] = 0.0
    return Estimate(mean, np.full_like(mean, np.nan))


def unknown(n: int, k: int) -> Estimate:
    """Make the belief of somebody who knows nothing but that `none` is worth 0."""
    mean = np.full((n, k), np.nan)
    mean[:, 0] = 0.0
    return Estimate(mean, mean.copy())


def nuisance(snapshot: Snapshot, catalog: Catalog, reward: Reward) -> Array:
    """Price the risk that a contact makes the customer opt out of its channel.

    The rate of a channel is its opt-outs per contact sent, shrunk towards the rate of all channels.

    Returns:
        Money per contact, shape (k,); 0 for `none`.
    """
    if reward.unsubscribe_cost == 0:
        return np.zeros(len(catalog.treatment_ids))
    rows = snapshot.sql(
        "select channel, count(*) filter (kind = 'sent') as sent,"
        " count(*) filter (kind = 'unsubscribed') as lost from touches group by channel"
    ).to_pylist()
    sent = sum(row["sent"] for row in rows)
    overall = sum(row["lost"] for row in rows) / sent if sent else 0.0
    rate = {
        row["channel"]: min((row["lost"] + _PRIOR_CONTACTS * overall) / (row["sent"] + _PRIOR_CONTACTS), 1.0)
        for row in rows
    }
    risk = np.array([rate.get(str(channel), overall) for channel in catalog.channel])
    risk[0] = 0.0
    return reward.unsubscribe_cost * risk


def saved(snapshot: Snapshot, catalog: Catalog, reward: Reward, customer_ids: pa.Array) -> Array | None:
    """Give the lifetime value that a response to each treatment saves, by the latest forecast.

    Returns:
        Money, shape (n, k): of actions named in `reward.clv_actions` the customer's value at risk, 0 where
        no forecast is known; None where no action is valued so.

    Raises:
        SettingsError: when `reward.clv_actions` names an action that the catalog lacks.
    """
    if not reward.clv_actions:
        return None
    known = {action.action_id for action in catalog.actions}
    if absent := sorted(set(reward.clv_actions) - known):
        raise SettingsError(
            f"reward.clv_actions names {absent}; the catalog has {sorted(known)}", "Name actions of it."
        )
    rows = snapshot.sql(
        "select customer_id, clv_at_risk from clv where clv_at_risk is not null"
        " qualify row_number() over (partition by customer_id order by as_of desc) = 1"
    )
    value = dict(zip(rows["customer_id"].to_pylist(), rows["clv_at_risk"].to_pylist()))
    risk = np.array([value.get(name, 0.0) for name in customer_ids.to_pylist()], dtype=np.float64)
    of = {t.treatment_id for t in catalog.treatments if t.action_id in reward.clv_actions}
    return risk[:, None] * np.array([name in of for name in catalog.treatment_ids], dtype=np.float64)


def _worth(margin_per_response: Array, catalog: Catalog, saved: Array | None = None) -> Array:
    own = np.asarray(margin_per_response, dtype=np.float64)[:, None]
    margin = np.where(np.isnan(own), catalog.margin, own)
    return (margin if saved is None else margin + saved) * catalog.lever
