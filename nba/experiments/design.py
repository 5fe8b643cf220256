"""Who is in which arm: a salted hash of the customer id, so that nothing need be stored to know it.

The draw is `nba.draws.uniform(customer_ids, salt="arm|" + experiment.salt)`; arms take the unit interval
in their declared order. It depends on nothing but the words, so that any engine, order or re-run gives
the same arms, and other salts give independent ones. The unit of randomisation is the customer.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nba import draws
from nba.settings import Experiment


class Assigned(NamedTuple):
    """The arm of each customer.

    Attributes:
        arm: Name of the arm, shape (n,).
        p_arm: Share of that arm, a probability in 0-1, shape (n,).
    """

    arm: NDArray[np.str_]
    p_arm: NDArray[np.float64]


def assign(experiment: Experiment, customer_ids: Sequence[str]) -> Assigned:
    """Put each customer into an arm by the hash of its id.

    Args:
        experiment: Arms and shares.
        customer_ids: n customer ids.

    Example:
        >>> assign(Experiment(), ["anna", "ben", "carla"]).arm.tolist()
        ['holdout', 'policy', 'policy']
    """
    shares = np.array([arm.share for arm in experiment.arms])
    names = np.array([arm.name for arm in experiment.arms])
    column = draws.bucket(customer_ids, shares, salt=f"arm|{experiment.salt}")
    column = np.minimum(column, len(names) - 1)
    return Assigned(names[column], shares[column])
