"""How wide the hierarchy's error has to be: what its posterior takes for known, a jackknife checks.

The posterior takes the rows of a customer for independent, and the variances of its priors, which the same
data chose, for known: both make it too sure of itself (Laird, Louis 1987 on the second). The fits without
each fold of customers, which cross-fitting has made anyway, tell how far the effects move when customers are
left out, prior variances chosen anew: that counts what a customer's rows share, and the choice.
"""

import numpy as np
from numpy.typing import NDArray

from nba.models.hierarchy import Crossed

Array = NDArray[np.float64]
Whole = NDArray[np.int64]

MOST = 15.0  # a guard: errors at most quadruple


def excess(crossed: Crossed, x: Array, column: Whole, fold: Whole) -> float:
    """Give the jackknife's variance of the effects as a part of the posterior's.

    Both are averaged over the contacts that were made: three folds tell one number, not one by customer. The
    folds may differ in size (delete-m jackknife; Busing, Meijer, van der Leeden 1999), about the fit to all.

    Args:
        crossed: The fit to all rows, and those without each fold.
        x: Inputs of the rows, shape (n, q).
        column: Treatment of each row, 0 is `none`, shape (n,).
        fold: Shape (n,).

    Returns:
        0 to 15; 0 where there are no contacts or fewer than two folds. The posterior's variance is to be
        multiplied by one more than it: the posterior's own part is what shrinking may have hidden, which no
        jackknife sees, as all fits shrink alike.
    """
    model, coding = crossed.model, crossed.model.layout.coding
    if len(crossed.others) < 2:
        return 0.0
    whole = model.coefficients(coding)
    less = {number: len(fold) / np.count_nonzero(fold == number) - 1 for number in crossed.others}
    moved, believed = 0.0, 0.0
    names = zip(coding.treatment_ids, coding.action_ids, coding.channels)
    left_out = {number: other.coefficients(coding) for number, other in crossed.others.items()}
    for t, name in enumerate(names):
        rows = x[column == t + 1]
        gram = rows.T @ rows
        believed += float((gram * model.of(*name)[1]).sum())
        for number, others in left_out.items():
            apart = others[t] - whole[t]
            moved += float(apart @ gram @ apart) * less[number] / len(left_out)
    return min(moved / believed, MOST) if believed > 0 else 0.0
