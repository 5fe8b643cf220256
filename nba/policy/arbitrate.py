"""From scores to money: what each treatment is believed to be worth to each customer."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from nba.catalog import Catalog
from nba.errors import DataError, SettingsError
from nba.history import Snapshot
from nba.policy.explore import Estimate
from nba.settings import Reward

Array = NDArray[np.float64]
# Weight of the prior of a channel's opt-out rate, in contacts at the rate of all channels together.
_PRIOR_CONTACTS = 200.0
# Weight of the prior that tired customers opt out as others do, in opt-outs.
_PRIOR_OPT_OUTS = 10.0
# Recent contacts are counted up to LEVELS - 1, as the feature counts them.
RECENT, RECENT_DAYS, LEVELS = "f_contacts_28", 28, 5
_OPT_OUTS = f"""
with given as (
    select customer_id, channel, touched_at, least({LEVELS - 1}, count(*) over (
        partition by customer_id order by touched_at range between interval {RECENT_DAYS} days preceding
        and interval 1 microsecond preceding))::bigint as recent
    from touches where kind = 'sent'
), gone as (select customer_id, channel, touched_at from touches where kind = 'unsubscribed'),
after as (
    select g.channel, g.recent from gone u asof join given g
    on u.customer_id = g.customer_id and u.channel = g.channel and u.touched_at >= g.touched_at
)
select channel, recent, sum(sent) as sent, sum(lost) as lost from (
    select channel, recent, 1 as sent, 0 as lost from given
    union all select channel, recent, 0, 1 from after) group by all order by all
"""


def estimate(
    uplift: Array,
    uplift_se: Array,
    margin_per_response: Array,
    catalog: Catalog,
    nuisance: Array | None = None,
    saved: Array | None = None,
    weight: Array | None = None,
) -> Estimate:
    """Value treatments by what contact changes: `weight * uplift * (margin + saved) - cost - nuisance`.

    Args:
        uplift: Change of the response probability against no contact, shape (n, k).
        uplift_se: Its standard error, shape (n, k).
        margin_per_response: Expected money of a response of each customer, shape (n,), or of each customer to
            each treatment, shape (n, k); NaN where it is not known, then the catalog's margin counts.
        catalog: Gives cost, margin and lever by column.
        nuisance: Money lost per contact by opt-outs, shape (k,) or (n, k); none if absent.
        saved: Lifetime value that a response saves beside its margin, shape (n, k); none if absent.
        weight: Business weights (`nba.policy.levers.weights`), shape (n, k); the actions' own if absent.

    Returns:
        Money, shape (n, k); `none` is worth exactly 0.

    Example:
        >>> from nba.catalog import Action, Treatment
        >>> sale, mail = Action("sale", "s", "s", "Sale", 20.0), Treatment("mail", "sale", "email", 0.02)
        >>> shop = Catalog((sale,), (mail,))
        >>> estimate(np.array([[0, 0.1]]), np.zeros((1, 2)), np.array([np.nan]), shop).mean.round(2).tolist()
        [[0.0, 1.98]]
    """
    worth = _worth(margin_per_response, catalog, saved, weight)
    mean = worth * uplift - catalog.cost - (0.0 if nuisance is None else nuisance)
    se = worth * uplift_se
    mean[:, 0] = se[:, 0] = 0.0
    return Estimate(mean, se)


def by_response(
    p_response: Array, margin_per_response: Array, catalog: Catalog, weight: Array | None = None
) -> Estimate:
    """Value treatments by the response itself, as response targeting does: a baseline, not a belief.

    Args:
        p_response: Chance of a response if treated, shape (n, k).
        margin_per_response: Money, shape (n,) or (n, k); NaN where not known.
        catalog: Gives cost, margin and lever by column.
        weight: Business weights, shape (n, k); the actions' own if absent.
    """
    mean = _worth(margin_per_response, catalog, None, weight) * p_response - catalog.cost
    mean[:, 0] = 0.0
    return Estimate(mean, np.full_like(mean, np.nan))


def unknown(n: int, k: int) -> Estimate:
    """Make the belief of somebody who knows nothing but that `none` is worth 0."""
    mean = np.full((n, k), np.nan)
    mean[:, 0] = 0.0
    return Estimate(mean, mean.copy())


def nuisance(snapshot: Snapshot, catalog: Catalog, reward: Reward) -> Array:
    """Price the risk that a contact makes the customer opt out of its channel, by how tired the customer is.

    The rate of a channel is its opt-outs per contact sent, shrunk towards the rate of all channels. It is
    multiplied by how much likelier opt-outs were after contacts that came on top of as many in the 28 days
    before, all channels together: opt-outs over those that the rates expect, shrunk towards 1, and never
    falling with the number of contacts (isotonic regression). An opt-out is of the last contact before it on
    its channel; one without any is nobody's.

    Returns:
        Money per contact by number of recent contacts (the last row is that many and more), shape
        (levels, k); 0 for `none`.
    """
    k = len(catalog.treatment_ids)
    if reward.unsubscribe_cost == 0:
        return np.zeros((LEVELS, k))
    rows = snapshot.sql(_OPT_OUTS).to_pylist()
    channels = sorted({row["channel"] for row in rows})
    sent, lost = np.zeros((LEVELS, len(channels))), np.zeros((LEVELS, len(channels)))
    for row in rows:
        cell = row["recent"], channels.index(row["channel"])
        sent[cell], lost[cell] = row["sent"], row["lost"]
    overall = lost.sum() / sent.sum() if rows else 0.0
    rate = (lost.sum(axis=0) + _PRIOR_CONTACTS * overall) / (sent.sum(axis=0) + _PRIOR_CONTACTS)
    risk = np.append(rate, overall)[[channels.index(c) if c in channels else -1 for c in catalog.channel]]
    price = reward.unsubscribe_cost * np.minimum(np.outer(_tiredness(lost, sent * rate), risk), 1.0)
    price[:, 0] = 0.0
    return np.asarray(price)


def fatigue(nuisance: Array, features: pa.Table) -> Array:
    """Give each customer's price of a contact, shape (n, k), by the contacts of the 28 days before.

    Args:
        nuisance: Price by number of recent contacts, shape (levels, k).
        features: Of the customers.

    Raises:
        DataError: when the price depends on recent contacts and the features do not tell them.

    Example:
        >>> seen = pa.table({"f_contacts_28": [0.0, 7.0]})
        >>> fatigue(np.array([[0.0, 0.1], [0.0, 0.3]]), seen).tolist()
        [[0.0, 0.1], [0.0, 0.3]]
    """
    if (nuisance == nuisance[0]).all():
        return np.broadcast_to(nuisance[0], (features.num_rows, nuisance.shape[1]))
    if RECENT not in features.column_names:
        raise DataError(
            f"the price of a contact rises with recent contacts, and the features lack {RECENT}",
            "Send it with the features, or set reward.unsubscribe_cost to 0.",
        )
    recent = np.nan_to_num(np.asarray(features[RECENT].cast(pa.float64()).to_numpy(), dtype=np.float64))
    return np.asarray(nuisance[np.clip(recent, 0, len(nuisance) - 1).astype(np.int64)])


def _tiredness(lost: Array, expected: Array) -> Array:
    # Opt-outs by number of recent contacts over those expected, shapes (levels, channels), to (levels,).
    found, due = lost.sum(axis=1), expected.sum(axis=1)
    if due.sum() == 0:
        return np.ones(len(found))
    ratio = (found + _PRIOR_OPT_OUTS) / (due + _PRIOR_OPT_OUTS)
    return np.asarray(isotonic_regression(ratio, weights=due + _PRIOR_OPT_OUTS).x)


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


def _worth(margin_per_response: Array, catalog: Catalog, saved: Array | None, weight: Array | None) -> Array:
    own = np.asarray(margin_per_response, dtype=np.float64)
    own = own[:, None] if own.ndim == 1 else own
    margin = np.where(np.isnan(own), catalog.margin, own)
    gain = margin if saved is None else margin + saved
    return np.asarray(gain * (catalog.lever if weight is None else weight))
