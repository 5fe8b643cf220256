"""Where nothing good can be proposed: customers in segments that can be read, with what they are worth."""

import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.tree import DecisionTreeClassifier

Array = NDArray[np.float64]
_DEPTH, _LEAST = 3, 0.02


class Segment(NamedTuple):
    """Customers of a leaf.

    Attributes:
        rule: Conditions on features, in words; `everybody` where nothing tells customers apart.
        n: Customers.
        n_nothing: Of these, customers for whom nothing has a positive value.
        best: Mean value of the best candidate, money.
        blocked: Mean value that the best treatment removed by a rule would add, money.
    """

    rule: str
    n: int
    n_nothing: int
    best: float
    blocked: float


def nothing_good(mean: Array, is_eligible: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], Array, Array]:
    """Say for whom nothing good can be proposed.

    Args:
        mean: Believed net value, money, shape (n, k); column 0 is `none`.
        is_eligible: Shape (n, k).

    Returns:
        Whether nothing eligible is worth more than 0; the value of the best eligible one (0 for `none`); and
        what the best treatment removed by a rule would add to it; each of shape (n,).

    Example:
        >>> mean = np.array([[0.0, 2.0, 3.0], [0.0, -1.0, -2.0]])
        >>> flags, best, blocked = nothing_good(mean, np.array([[True, True, False]] * 2))
        >>> flags.tolist(), best.tolist(), blocked.tolist()
        ([False, True], [2.0, 0.0], [1.0, 0.0])
    """
    known = np.nan_to_num(mean, nan=-np.inf)
    best = np.where(is_eligible, known, -np.inf)[:, 1:].max(axis=1, initial=0.0)
    other = np.where(is_eligible, -np.inf, known)[:, 1:].max(axis=1, initial=0.0)
    return best <= 0, best, np.maximum(other - best, 0.0)


def find(
    X: Array, names: list[str], flags: NDArray[np.bool_], best: Array, blocked: Array
) -> list[tuple[Segment, NDArray[np.bool_]]]:
    """Split customers into readable segments by whether nothing good can be proposed.

    A shallow tree (three questions at most, no segment below 2% of the customers) on features; unknown counts
    as below everything.

    Args:
        X: Features, shape (n, d); NaN where unknown.
        names: Features, in the order of the columns.
        flags: Whether nothing good can be proposed, shape (n,).
        best: Value of the best eligible treatment, money, shape (n,).
        blocked: What the best treatment removed by a rule would add, money, shape (n,).

    Returns:
        Segments with who is in them, shape (n,); most customers with nothing good first.
    """
    if not len(X):
        return []
    floor = np.where(np.isfinite(X), X, np.inf).min(axis=0, initial=0.0) - 1.0
    filled = np.where(np.isfinite(X), X, np.where(np.isfinite(floor), floor, -1.0))
    if not X.shape[1] or flags.all() or not flags.any():
        everybody = np.ones(len(X), dtype=bool)
        return [(_segment("everybody", everybody, flags, best, blocked), everybody)]
    least = max(int(_LEAST * len(X)), 1)
    tree = DecisionTreeClassifier(max_depth=_DEPTH, min_samples_leaf=least, random_state=0)
    leaf = tree.fit(filled, flags).apply(filled)
    rules = _rules(tree, names, filled)
    inside = {number: leaf == number for number in np.unique(leaf)}
    found = [(_segment(rules[i], rows, flags, best, blocked), rows) for i, rows in inside.items()]
    return sorted(found, key=lambda pair: (-pair[0].n_nothing, pair[0].rule))


def _segment(
    rule: str, rows: NDArray[np.bool_], flags: NDArray[np.bool_], best: Array, blocked: Array
) -> Segment:
    return Segment(
        rule, int(rows.sum()), int(flags[rows].sum()), float(best[rows].mean()), float(blocked[rows].mean())
    )


def _rules(fitted: DecisionTreeClassifier, names: list[str], X: Array) -> dict[int, str]:
    tree, out = fitted.tree_, {}

    def walk(node: int, low: dict[int, float], high: dict[int, float]) -> None:
        if tree.children_left[node] < 0:
            out[node] = _words(low, high, names, X)
            return
        j, cut = int(tree.feature[node]), float(tree.threshold[node])
        walk(int(tree.children_left[node]), low, {**high, j: cut})
        walk(int(tree.children_right[node]), {**low, j: cut}, high)

    walk(0, {}, {})
    return out


def _words(low: dict[int, float], high: dict[int, float], names: list[str], X: Array) -> str:
    parts = [
        f"{_named(names[j])}: {_condition(low.get(j, -np.inf), high.get(j, np.inf), np.unique(X[:, j]))}"
        for j in sorted({*low, *high})
    ]
    return ", ".join(parts) or "everybody"


def _named(feature: str) -> str:
    name = feature.removeprefix("f_").removeprefix("a_").replace("_", " ")
    return re.sub(r"^(.+) (\d+)$", r"\1 in \2 days", name)


def _condition(low: float, high: float, values: Array) -> str:
    # Cuts lie between values: yes or no of a flag, whole numbers of a count.
    if values.max() == 1 and set(values) <= {-1.0, 0.0, 1.0}:
        if high < 0 or (low < 0 and np.isinf(high)):
            return "unknown" if high < 0 else "known"
        return "no" if high < 1 else "yes"
    if np.equal(values, np.round(values)).all():
        least, most = np.floor(low) + 1, np.floor(high)
        if least == most:
            return f"{most:,.0f}"
        if np.isinf(least):
            return f"at most {most:,.0f}"
        return f"at least {least:,.0f}" if np.isinf(most) else f"{least:,.0f} to {most:,.0f}"
    if np.isinf(low):
        return f"at most {_short(high, values)}"
    return f"above {_short(low, values)}" + ("" if np.isinf(high) else f" and at most {_short(high, values)}")


def _short(cut: float, values: Array) -> str:
    # The fewest digits that part the same customers.
    place = int(np.searchsorted(values, cut, side="right"))
    rounded = [float(f"{cut:.{digits}g}") for digits in (1, 2, 3)]
    shortest = next((x for x in rounded if np.searchsorted(values, x, side="right") == place), rounded[-1])
    return f"{shortest:,g}"
