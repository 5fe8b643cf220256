"""From belief to probabilities: how a policy explores. Nothing is drawn here.

A candidate is a treatment that is eligible and of which something is believed: where the mean is NaN (or
the standard error, for a policy that needs it) a treatment is only chosen by the even floor. A customer of
whom nothing is known is given `none` by belief. Every row is worked out alone, so that any order and any
partitioning of the customers gives the same probabilities.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from nba.errors import DataError, SettingsError
from nba.policy import kernels

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
# Nodes and weights of Gauss-Legendre on (0, 1).
_NODES = tuple((x + shift) / 2 for x, shift in zip(np.polynomial.legendre.leggauss(8), (1.0, 0.0)))


class Estimate(NamedTuple):
    """Belief in the value of every treatment for every customer, against no contact.

    Attributes:
        mean: Money, shape (n, k); column 0 is `none` and exactly 0. NaN where nothing is known.
        se: Standard error of the mean, money, shape (n, k).
    """

    mean: Array
    se: Array

    def net_of(self, price: Array) -> "Estimate":
        """Subtract a price per treatment, shape (k,)."""
        return Estimate(self.mean - price, self.se)


class Policy(Protocol):
    """Turns belief into probabilities of choice.

    Attributes:
        policy_id: Names the policy and its parameters.
        floor: Share of the probability that is spread evenly over what is eligible, whatever the belief.
    """

    @property
    def policy_id(self) -> str:
        """Name of the policy and its parameters."""

    @property
    def floor(self) -> float:
        """Share that does not depend on belief."""

    def probabilities(self, estimate: Estimate, is_eligible: Flags) -> Array:
        """Give each customer's probabilities, shape (n, k): rows sum to 1, 0 where not eligible."""


@dataclass(frozen=True)
class Softmax:
    """Better treatments are likelier: `(1 - floor) softmax(mean / temperature) + floor even`.

    Args:
        temperature: Money by which a worse treatment is e times less likely.
        floor: Share spread evenly over all eligible treatments.

    Example:
        >>> belief = Estimate(np.array([[0.0, 1.0, 1.0]]), np.zeros((1, 3)))
        >>> Softmax(1.0, 0.0).probabilities(belief, np.array([[True, True, False]])).round(3).tolist()
        [[0.269, 0.731, 0.0]]
    """

    temperature: float = 0.25
    floor: float = 0.05

    def __post_init__(self) -> None:
        _within("softmax temperature", self.temperature, above=0.0)
        _within("softmax floor", self.floor, most=1.0)

    @property
    def policy_id(self) -> str:
        """Name of the policy and its parameters."""
        return f"softmax-t{self.temperature:g}-f{self.floor:g}"

    def probabilities(self, estimate: Estimate, is_eligible: Flags) -> Array:
        """Give each customer's probabilities, shape (n, k)."""
        likely = softmax(estimate.mean, is_eligible, self.temperature)
        return _mixed(likely, self.floor, is_eligible)


@dataclass(frozen=True)
class SquareCB:
    """Inverse-gap weighting: a treatment is less likely the further it is behind, in standard errors.

    The probabilities maximise `p @ mean + sum(log p) / gamma`, so that `p = 1 / (gamma (nu - mean))`
    (Foster and Rakhlin 2020, in the log-barrier form of Foster et al. 2020, which is continuous where two
    treatments tie and whose dual prices limits exactly). Gamma follows the data, customer by customer:
    `scale sqrt(candidates) / rms(se)`, the rate at which the regret of the choice and of the regression
    are even; as belief narrows, exploration ends by itself.

    Args:
        scale: Factor of gamma; above 1 is greedier.
        floor: Share spread evenly over all eligible treatments.

    Example:
        >>> belief = Estimate(np.array([[0.0, 1.0, 1.0]]), np.array([[0.0, 0.5, 0.5]]))
        >>> SquareCB(1.0, 0.0).probabilities(belief, np.array([[True, True, False]])).round(3).tolist()
        [[0.241, 0.759, 0.0]]
    """

    scale: float = 1.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        _within("squarecb scale", self.scale, above=0.0)
        _within("squarecb floor", self.floor, most=1.0)

    @property
    def policy_id(self) -> str:
        """Name of the policy and its parameters."""
        return f"squarecb-{self.scale:g}-f{self.floor:g}"

    def gamma(self, estimate: Estimate, is_eligible: Flags) -> Array:
        """Give each customer's gamma, per money, shape (n,); infinite where belief is certain."""
        believed = is_eligible & ~np.isnan(estimate.mean) & ~np.isnan(estimate.se)
        n = believed.sum(axis=1)  # `none` among them, which is certain
        square = np.where(believed, estimate.se, 0.0) ** 2
        with np.errstate(divide="ignore"):
            rms = np.sqrt(square.sum(axis=1) / np.maximum(n - 1, 1))
            return np.asarray(self.scale * np.sqrt(np.maximum(n, 1)) / rms, dtype=np.float64)

    def probabilities(self, estimate: Estimate, is_eligible: Flags) -> Array:
        """Give each customer's probabilities, shape (n, k)."""
        likely = kernels.barrier_rows(
            estimate.mean, is_eligible, np.zeros(is_eligible.shape[1]), self.gamma(estimate, is_eligible)
        )
        return _mixed(likely, self.floor, is_eligible)


@dataclass(frozen=True)
class Thompson:
    """Every treatment is as likely as it is to be the best one, belief being independent normals.

    The probabilities are integrals (Gauss-Legendre, error below 1e-6), not shares of random draws, so that
    what is logged is what is drawn from.

    Args:
        scale: Factor of the standard errors; below 1 is greedier.
        floor: Share spread evenly over all eligible treatments.

    Example:
        >>> belief = Estimate(np.array([[0.0, 1.0]]), np.array([[0.0, 1.0]]))
        >>> Thompson(1.0, 0.0).probabilities(belief, np.array([[True, True]])).round(4).tolist()
        [[0.1587, 0.8413]]
    """

    scale: float = 1.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        _within("thompson scale", self.scale, above=0.0)
        _within("thompson floor", self.floor, most=1.0)

    @property
    def policy_id(self) -> str:
        """Name of the policy and its parameters."""
        return f"thompson-{self.scale:g}-f{self.floor:g}"

    def probabilities(self, estimate: Estimate, is_eligible: Flags) -> Array:
        """Give each customer's probabilities, shape (n, k)."""
        se = self.scale * estimate.se
        charge = np.zeros(is_eligible.shape[1])
        likely, _ = kernels.thompson_rows(estimate.mean, se, is_eligible, charge, *_NODES)
        return _mixed(likely, self.floor, is_eligible)


@dataclass(frozen=True)
class EpsilonGreedy:
    """The best eligible treatment (ties shared), save a share `epsilon` spread evenly."""

    epsilon: float = 0.1

    def __post_init__(self) -> None:
        _within("epsilon", self.epsilon, most=1.0)

    @property
    def policy_id(self) -> str:
        """Name of the policy and its parameters."""
        return f"epsilon_greedy-{self.epsilon:g}"

    @property
    def floor(self) -> float:
        """Share that does not depend on belief."""
        return self.epsilon

    def probabilities(self, estimate: Estimate, is_eligible: Flags) -> Array:
        """Give each customer's probabilities, shape (n, k)."""
        return _mixed(softmax(estimate.mean, is_eligible, 0.0), self.epsilon, is_eligible)


@dataclass(frozen=True)
class Greedy:
    """The best eligible treatment; ties are shared evenly. It explores nothing."""

    policy_id: str = "greedy"
    floor: float = 0.0

    def probabilities(self, estimate: Estimate, is_eligible: Flags) -> Array:
        """Give each customer's probabilities, shape (n, k)."""
        return softmax(estimate.mean, is_eligible, 0.0)


@dataclass(frozen=True)
class Uniform:
    """Every eligible treatment alike, `none` among them; belief does not matter."""

    policy_id: str = "random"
    floor: float = 1.0

    def probabilities(self, estimate: Estimate, is_eligible: Flags) -> Array:  # noqa: ARG002
        """Give each customer's probabilities, shape (n, k)."""
        return even(is_eligible)


def choose(
    policy: Softmax | SquareCB | Greedy | EpsilonGreedy,
    estimate: Estimate,
    is_eligible: Flags,
    price: Array,
    draw: Array,
) -> tuple[NDArray[np.int64], Array]:
    """Draw every customer's treatment in one pass, without the matrix of probabilities.

    It gives what `probabilities` at the prices and `nba.draws.pick` give.

    Args:
        policy: Whose probabilities have a closed form.
        estimate: Belief, shapes (n, k).
        is_eligible: Shape (n, k).
        price: What each treatment is charged, money, shape (k,).
        draw: In [0, 1), shape (n,).

    Returns:
        Columns and the chance of each, shapes (n,).

    Example:
        >>> belief = Estimate(np.array([[0.0, 1.0]]), np.zeros((1, 2)))
        >>> choose(Greedy(), belief, np.array([[True, True]]), np.array([0.0, 2.0]), np.array([0.4]))
        (array([0]), array([1.]))
    """
    if isinstance(policy, SquareCB):
        gamma = policy.gamma(estimate, is_eligible)
        return kernels.barrier_choose(estimate.mean, is_eligible, price, gamma, policy.floor, draw)
    temperature = policy.temperature if isinstance(policy, Softmax) else 0.0
    return kernels.softmax_choose(estimate.mean, is_eligible, price, temperature, policy.floor, draw)


def check(policy: Policy, estimate: Estimate, is_eligible: Flags) -> None:
    """See that a policy has something to believe.

    Raises:
        DataError: when every score is unknown, a score is infinite, or a policy that explores by standard
            errors finds none.
    """
    faults = []
    asked, unknown, infinite, _ = kernels.survey(estimate.mean, is_eligible)[2]
    if policy.floor < 1 and asked:
        if unknown == asked:
            faults.append(f"all {asked} scores of eligible treatments are unknown (NaN)")
        if infinite:
            faults.append(f"{infinite} of {asked} scores are infinite")
        if isinstance(policy, SquareCB | Thompson):
            _, no_error, endless, negative = kernels.survey(estimate.se, is_eligible)[2]
            if unknown < asked and no_error == asked:
                faults.append(f"{policy.policy_id} explores by standard errors; all {asked} are unknown")
            if endless + negative:
                faults.append(f"{endless + negative} of {asked} standard errors are negative or infinite")
    if faults:
        raise DataError(
            "\n".join([f"{policy.policy_id} cannot decide:", *(f"- {fault}" for fault in faults)]),
            "Look at the model's health and its features, train again, or decide with the random policy.",
        )


def even(is_eligible: Flags) -> Array:
    """Spread each customer's probability evenly over what is eligible, shape (n, k)."""
    return np.asarray(is_eligible / is_eligible.sum(axis=1, keepdims=True), dtype=np.float64)


def softmax(mean: Array, is_eligible: Flags, temperature: float) -> Array:
    """Weigh candidates by exp(mean / temperature), shape (n, k); temperature 0 shares the best."""
    return kernels.softmax_rows(mean, is_eligible, np.zeros(mean.shape[1]), temperature)


def _mixed(likely: Array, floor: float, is_eligible: Flags) -> Array:
    if floor == 0:
        return likely
    likely *= 1 - floor
    likely += floor * even(is_eligible)
    return likely


def _within(name: str, value: float, *, above: float | None = None, most: float | None = None) -> None:
    if above is not None and not value > above:
        raise SettingsError(f"{name} is {value:g}; expected above {above:g}")
    if most is not None and not 0 <= value <= most:
        raise SettingsError(f"{name} is {value:g}; expected 0 to {most:g}")
