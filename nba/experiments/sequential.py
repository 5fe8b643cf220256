"""Looking early without being fooled: planned looks with spending, and intervals valid at every look.

Two tools, both two-sided:

- `spending_bounds`: group-sequential bounds with O'Brien-Fleming spending (Lan and DeMets 1983) for a test
  with a planned end, at any look times; alpha / 2 is spent on each side, so that the familiar values of
  gsDesign's sfLDOF at 0.025 come out.
- `sequence_bound`: the asymptotic confidence sequence (Waudby-Smith et al. 2024, eq. 11; the same curve as
  GAVI and as the mixture SPRT), for guardrails, open-ended monitoring and overrun.

Both give a critical value of |estimate| / se at each look; the interval is estimate -+ bound * se.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from nba.errors import DataError
from nba.stats import sequence_bound as sequence_bound

Array = NDArray[np.float64]
_NEVER = 40.0  # a bound in standard errors that nothing reaches


def spent(fraction: Array, alpha: float = 0.05) -> Array:
    """Give the alpha spent on one side by a fraction of the plan (O'Brien-Fleming type).

    Args:
        fraction: Part of the planned time or information, in 0-1.
        alpha: Two-sided error of the whole test.

    Example:
        >>> spent(np.array([0.5, 1.0]), 0.05).round(6).tolist()
        [0.001525, 0.025]
    """
    with np.errstate(divide="ignore"):
        z = -special.ndtri(alpha / 4) / np.sqrt(np.clip(fraction, 0.0, 1.0))
    return np.asarray(2 * special.ndtr(-z), dtype=np.float64)


def spending_bounds(fraction: Array, alpha: float = 0.05, information: Array | None = None) -> Array:
    """Give the critical values of planned looks.

    Args:
        fraction: Part of the plan that has passed at each look, increasing, in (0, 1], shape (k,). It must
            not depend on the results.
        alpha: Two-sided error of the whole test.
        information: Variance-like amount of data at each look, increasing, shape (k,); `fraction` if absent.

    Returns:
        Critical values of |estimate| / se, shape (k,).

    Raises:
        DataError: when the looks do not increase or leave (0, 1].

    Example:
        >>> spending_bounds(np.array([0.5, 1.0])).round(3).tolist()
        [2.963, 1.969]
    """
    fraction = np.asarray(fraction, dtype=np.float64)
    information = fraction if information is None else np.asarray(information, dtype=np.float64)
    _check_looks(fraction, information)
    amount = information / information[-1]
    goal = np.diff(spent(fraction, alpha), prepend=0.0)
    out = np.empty(len(fraction))
    nodes, weights = np.zeros(1), np.ones(1)
    before = 0.0
    for k, now in enumerate(amount):
        spread = np.sqrt(now - before)
        bound = _solve(nodes, weights, spread, goal[k]) / np.sqrt(now)
        out[k] = bound
        if k + 1 < len(amount):
            least = np.sqrt(np.diff(amount)[k:].min())
            nodes, weights = _continue(nodes, weights, spread, bound * np.sqrt(now), np.sqrt(now), least)
        before = now
    return out


def zero_events(n: Array, n_control: Array, alpha: float = 0.05) -> tuple[Array, Array]:
    """Bound the difference of two rates when nothing has happened in either arm, at any look.

    A rate above ``log(2 / alpha) / n`` would have shown an event among n units with chance 1 - alpha / 2,
    whenever one looks.

    Args:
        n: Units in the arm.
        n_control: Units in the control.
        alpha: Two-sided error over all looks together.

    Returns:
        Lower and upper end.
    """
    with np.errstate(divide="ignore"):
        return -np.log(2 / alpha) / n_control, np.log(2 / alpha) / n


def _check_looks(fraction: Array, information: Array) -> None:
    faults = []
    if len(fraction) == 0 or fraction[0] <= 0 or fraction[-1] > 1 + 1e-12:
        faults.append(f"fractions are {fraction.tolist()}; expected looks in (0, 1]")
    if len(information) != len(fraction) or not (information > 0).all():
        faults.append("information must be above 0, one number for each look")
    elif (np.diff(fraction) < 0).any() or (np.diff(information) <= 0).any():
        faults.append("looks must increase")
    if faults:
        raise DataError("\n".join(faults), "Give each look once, in order of time.")


def _solve(nodes: Array, weights: Array, spread: float, goal: float) -> float:
    # The crossing value of the score such that the chance of first crossing there is `goal`.
    def excess(score: float) -> float:
        chance = float(weights @ special.ndtr((nodes - score) / spread))
        return np.log(max(chance, 1e-320)) - np.log(goal)

    reach = float(nodes[-1]) + _NEVER * spread
    if goal < 1e-300 or excess(reach) > 0:
        return reach
    return float(optimize.brentq(excess, -reach, reach, xtol=1e-12))


def _continue(
    nodes: Array, weights: Array, spread: float, edge: float, sd: float, least: float
) -> tuple[Array, Array]:
    # Density of the score among tests that go on, at Gauss-Legendre nodes (Armitage et al. 1969).
    edge = min(edge, 9.0 * sd)
    order = int(np.clip(np.ceil(6 * edge / least), 48, 1500))
    unit, unit_weights = np.polynomial.legendre.leggauss(order)
    at = unit * edge
    apart = (at[:, None] - nodes[None, :]) / spread
    density = np.exp(-0.5 * apart**2) @ weights / (spread * np.sqrt(2 * np.pi))
    return at, density * unit_weights * edge
