"""From belief to probabilities: how a policy explores. Nothing is drawn here."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from nba.errors import SettingsError

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]


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
        return (1 - self.floor) * likely + self.floor * even(is_eligible)


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
        return (1 - self.epsilon) * _best(estimate, is_eligible) + self.epsilon * even(is_eligible)


@dataclass(frozen=True)
class Greedy:
    """The best eligible treatment; ties are shared evenly. It explores nothing."""

    policy_id: str = "greedy"
    floor: float = 0.0

    def probabilities(self, estimate: Estimate, is_eligible: Flags) -> Array:
        """Give each customer's probabilities, shape (n, k)."""
        return _best(estimate, is_eligible)


@dataclass(frozen=True)
class Uniform:
    """Every eligible treatment alike, `none` among them; belief does not matter."""

    policy_id: str = "random"
    floor: float = 1.0

    def probabilities(self, estimate: Estimate, is_eligible: Flags) -> Array:  # noqa: ARG002
        """Give each customer's probabilities, shape (n, k)."""
        return even(is_eligible)


def even(is_eligible: Flags) -> Array:
    """Spread each customer's probability evenly over what is eligible, shape (n, k)."""
    return np.asarray(is_eligible / is_eligible.sum(axis=1, keepdims=True), dtype=np.float64)


def softmax(mean: Array, is_eligible: Flags, temperature: float) -> Array:
    """Weigh treatments by exp(mean / temperature) over what is eligible, shape (n, k)."""
    scaled = np.where(is_eligible, mean, -np.inf) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    np.exp(scaled, out=scaled)
    scaled /= scaled.sum(axis=1, keepdims=True)
    return scaled


def _best(estimate: Estimate, is_eligible: Flags) -> Array:
    mean = np.where(is_eligible, estimate.mean, -np.inf)
    return even(mean == mean.max(axis=1, keepdims=True))


def _within(name: str, value: float, *, above: float | None = None, most: float | None = None) -> None:
    if above is not None and not value > above:
        raise SettingsError(f"{name} is {value:g}; expected above {above:g}")
    if most is not None and not 0 <= value <= most:
        raise SettingsError(f"{name} is {value:g}; expected 0 to {most:g}")
