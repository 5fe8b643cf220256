"""How many customers and how many days an experiment needs, from the history's own variance.

Power is exact for two normal samples of equal variance (noncentral t); CUPED and ratios come in through
the standard deviation (`spread`), several arms through the shares and Bonferroni's division of alpha.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import optimize
from scipy import stats as _scipy

from nba.errors import DataError
from nba.experiments.analyze import compare, linearised
from nba.experiments.cube import Metric, Sums, columns_of
from nba.stats import Interval, wilson

Array = NDArray[np.float64]
_MOST = 1e12


class Spread(NamedTuple):
    """How much a metric varies between customers.

    Attributes:
        n: Customers it was measured on.
        mean: Its mean, in the metric's unit.
        sd: Standard deviation per customer, linearised for a ratio.
        sd_adjusted: What is left of it after CUPED; `sd` where there is no covariate.
    """

    n: int
    mean: float
    sd: float
    sd_adjusted: float


class Need(NamedTuple):
    """What it takes to see an effect, at the power asked for.

    Attributes:
        n, n_control: Customers needed in the arm and in the control, over the planned duration.
        n_there, n_control_there: Customers that the history has for them.
        power: Chance to see the effect with those, over the planned duration.
        days: Least duration tried at which the power is reached; NaN if none is.
    """

    n: float
    n_control: float
    n_there: float
    n_control_there: float
    power: float
    days: float


class Check(NamedTuple):
    """Result of A/A tests on past data, where nothing was done to anybody.

    Attributes:
        n: Splits tried.
        rejected: Share of splits in which the test saw a difference, with its interval.
        level: Share that it should be.
        is_fine: Whether the interval holds that share.
    """

    n: int
    rejected: Interval
    level: float
    is_fine: bool


class Outlook(NamedTuple):
    """What an experiment of one duration can see.

    Attributes:
        n, n_control: Customers in the arm and in the control.
        mde: Smallest effect seen with the chance asked for, with CUPED, in the metric's unit.
        chance: Chance to see the effect asked about; NaN for an effect of 0.
        needed: Customers that the control needs to see it with the chance asked for; NaN for 0.
        is_enough: Whether the experiment is large enough for it.
    """

    n: float
    n_control: float
    mde: float
    chance: float
    needed: float
    is_enough: bool


def outlook(spread: Spread, effect: float, share: float, goal: float = 0.8) -> Outlook:
    """Say what an experiment among the customers of a spread can see.

    Args:
        spread: Of the metric over the experiment's duration; its n customers take part.
        effect: The effect asked about, in the metric's unit.
        share: Share of the control.
        goal: Chance to see it.

    Example:
        >>> found = outlook(Spread(128, 1.0, 1.0, 1.0), 0.5, 0.5)
        >>> round(found.mde, 4), round(found.needed, 1), found.is_enough
        (0.4991, 63.8, True)
    """
    n, n_control = spread.n * (1 - share), spread.n * share
    mde = detectable(spread.sd_adjusted, n, n_control, goal)
    if effect == 0:
        return Outlook(n, n_control, mde, float("nan"), float("nan"), False)
    chance = power(effect, spread.sd_adjusted, n, n_control)
    needed = sample_size(effect, spread.sd_adjusted, goal, ratio=(1 - share) / share)
    return Outlook(n, n_control, mde, chance, needed, mde <= abs(effect))


def power(effect: float, sd: float, n: float, n_control: float, alpha: float = 0.05) -> float:
    """Give the chance that a two-sided test sees an effect.

    Args:
        effect: True difference of means per customer, in the unit of `sd`.
        sd: Standard deviation per customer.
        n: Customers in the arm.
        n_control: Customers in the control.
        alpha: Two-sided error.

    Example:
        >>> round(power(0.5, 1.0, 64, 64), 4)
        0.8015
    """
    _positive(sd=sd, alpha=alpha)
    freedom = n + n_control - 2
    if freedom < 1 or min(n, n_control) < 1:
        return float("nan")
    shift = abs(effect) / (sd * np.sqrt(1 / n + 1 / n_control))
    edge = _scipy.t.ppf(1 - alpha / 2, freedom)
    if shift > 10 * (edge + 1):
        return 1.0  # but for less than 1e-20, and too far out for the noncentral t to be computed
    upper = _scipy.nct.sf(edge, freedom, shift)
    lower = _scipy.nct.cdf(-edge, freedom, shift)
    return float(upper + (0.0 if np.isnan(lower) else lower))


def sample_size(
    effect: float, sd: float, goal: float = 0.8, alpha: float = 0.05, ratio: float = 1.0, arms: int = 1
) -> float:
    """Give the customers that the control needs for an effect to be seen with a given chance.

    Args:
        effect: Difference to be seen, in the unit of `sd`.
        sd: Standard deviation per customer.
        goal: Power.
        alpha: Two-sided error over all arms together.
        ratio: Customers of an arm for each of the control.
        arms: Arms compared with the control.

    Returns:
        Customers in the control, not rounded; each arm needs `ratio` times as many.

    Example:
        >>> round(sample_size(0.5, 1.0), 2)
        63.77
    """
    _positive(sd=sd, effect=abs(effect), ratio=ratio, alpha=alpha)

    def lacking(log_n: float) -> float:
        n = float(np.exp(log_n))
        return power(effect, sd, n * ratio, n, alpha / arms) - goal

    least = np.log(max(2.0, 2.0 / ratio))
    if lacking(least) >= 0:
        return float(np.exp(least))
    if lacking(np.log(_MOST)) < 0:
        return float("nan")
    return float(np.exp(optimize.brentq(lacking, least, np.log(_MOST), xtol=1e-13, rtol=1e-14)))


def detectable(
    sd: float, n: float, n_control: float, goal: float = 0.8, alpha: float = 0.05, arms: int = 1
) -> float:
    """Give the smallest effect that is seen with a given chance (MDE).

    Example:
        >>> round(detectable(1.0, 64, 64), 4)
        0.4991
    """
    _positive(sd=sd, alpha=alpha)
    unit = sd * np.sqrt(1 / n + 1 / n_control)

    def lacking(effect: float) -> float:
        return power(effect, sd, n, n_control, alpha / arms) - goal

    return float(optimize.brentq(lacking, 0.0, 60 * unit, xtol=1e-14 * unit, rtol=1e-14))


def spread(sums: Sums, metric: Metric, variables: tuple[str, ...]) -> Spread:
    """Measure a metric's variation from the sums of past customers (all cells together).

    Args:
        sums: Sums of the variables.
        metric: Its columns.
        variables: Names of the variables.
    """
    whole = sums.gather(np.zeros(len(sums.n), dtype=np.int64), 1)
    side = linearised(whole, columns_of((metric,), variables))
    variance, covariate, product = (float(x[0, 0]) for x in (side.yy, side.xx, side.xy))
    left = variance - product**2 / covariate if covariate > 0 else variance
    sd, adjusted = np.sqrt(variance), np.sqrt(max(left, 0.0))
    return Spread(int(whole.n[0]), float(side.y[0, 0]), float(sd), float(adjusted))


def within(spreads: dict[int, Spread], share: float) -> dict[int, Spread]:
    """Keep a share of the customers, whose spread is that of all."""
    return {days: found._replace(n=int(found.n * share)) for days, found in spreads.items()}


def curve(
    spreads: dict[int, Spread], shares: tuple[float, float], goal: float = 0.8, alpha: float = 0.05
) -> pa.Table:
    """Give the smallest visible effect by duration, as data for a plot.

    Customers and variation by duration come from the history, since neither grows in proportion to days.

    Args:
        spreads: Days of the experiment to the spread over that many days.
        shares: Shares of the arm and of the control.
        goal: Power.
        alpha: Two-sided error.

    Returns:
        Columns days, n, n_control, mde, mde_adjusted (with CUPED), mde_relative (adjusted, of the mean).
    """
    rows = []
    for days, found in sorted(spreads.items()):
        n, n_control = (found.n * share for share in shares)
        mde, adjusted = (detectable(sd, n, n_control, goal, alpha) for sd in (found.sd, found.sd_adjusted))
        relative = adjusted / found.mean if found.mean > 0 else None
        rows.append(
            {
                "days": days, "n": n, "n_control": n_control, "mde": mde,
                "mde_adjusted": adjusted, "mde_relative": relative,
            }
        )  # fmt: skip
    return pa.Table.from_pylist(rows)


def need(
    spreads: dict[int, Spread],
    effects: dict[int, float],
    planned: int,
    shares: tuple[float, float],
    goal: float = 0.8,
    alpha: float = 0.05,
) -> Need:
    """Say how many customers and days an effect takes, after CUPED.

    Args:
        spreads: Days of the experiment to the spread over that many days.
        effects: The same days to the effect over them, in the metric's unit.
        planned: The planned duration, one of these days.
        shares: Shares of the arm and of the control.
        goal: Power.
        alpha: Two-sided error.
    """
    reached = {
        days: power(effects[days], found.sd_adjusted, found.n * shares[0], found.n * shares[1], alpha)
        for days, found in sorted(spreads.items())
    }
    enough = [days for days, chance in reached.items() if chance >= goal]
    at = spreads[planned]
    control = sample_size(effects[planned], at.sd_adjusted, goal, alpha, shares[0] / shares[1])
    days = float(enough[0]) if enough else float("nan")
    arm = control * shares[0] / shares[1]
    return Need(arm, control, at.n * shares[0], at.n * shares[1], reached[planned], days)


def power_curve(
    effects: Array, sd: float, n: float, n_control: float, alpha: float = 0.05
) -> NDArray[np.float64]:
    """Give the power at each effect, as data for a plot, shape of `effects`."""
    return np.array([power(float(e), sd, n, n_control, alpha) for e in effects])


def powers(spread: Spread, found: Outlook, effect: float, points: int = 41) -> pa.Table:
    """Give the power at effects from 0 to twice the one asked about, with CUPED, as data for a plot.

    Returns:
        Columns effect (unit of the metric), power.
    """
    effects = np.linspace(0.0, 2 * max(effect, found.mde), points)
    chance = power_curve(effects, spread.sd_adjusted, found.n, found.n_control)
    return pa.table({"effect": effects, "power": chance})


def aa_check(
    values: Array,
    metric: Metric,
    variables: tuple[str, ...],
    split: Callable[[int], NDArray[np.integer]],
    n_splits: int = 200,
    level: float = 0.95,
) -> Check:
    """Test past customers against themselves, split by the product's own assignment.

    Args:
        values: Totals per customer, shape (n, m).
        metric: Its columns among the variables.
        variables: Names of the m variables.
        split: Gives the arm (0 or 1) of each customer in split number i, shape (n,).
        n_splits: Splits to try.
        level: Confidence level of each test.
    """
    columns = columns_of((metric,), variables)
    pair = np.array([1]), np.array([0])
    p_values = []
    for i in range(n_splits):
        found = compare(Sums.of(values, split(i), 2), columns, *pair, level)
        p_values.append(float(found.p_value[0, 0]))
    known = np.array([p for p in p_values if not np.isnan(p)])
    if len(known) == 0:
        return Check(0, Interval.unknown("no split could be tested"), 1 - level, False)
    rejected = wilson(float((known < 1 - level).sum()), len(known), 0.99)
    fine = rejected.lower <= 1 - level <= rejected.upper
    return Check(len(known), rejected, 1 - level, fine)


def _positive(**numbers: float) -> None:
    faults = [f"{name} is {value}; expected above 0" for name, value in numbers.items() if not value > 0]
    if faults:
        raise DataError("\n".join(faults), "A plan needs a spread, an effect and an error above 0.")
