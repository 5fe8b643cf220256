"""Data frames as numbers, and the penalised logistic regression that stands beside the trees."""

from collections.abc import Iterable
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from nba.errors import DataError
from nba.models import trial

Array = NDArray[np.float64]


class Columns:
    """Which columns of a data frame are categories, and their codes."""

    def __init__(self, names: list[str], codes: dict[str, dict[Any, int]]) -> None:
        self.names, self.codes = names, codes

    @classmethod
    def of(cls, X: Any) -> "Columns":
        """Read the columns; an array, or a frame of numbers, has no categories.

        Raises:
            DataError: when columns hold moments or durations, which are neither.
        """
        if not isinstance(X, pd.DataFrame):
            return cls([], {})
        _refuse_moments(X, X.columns)
        codes = {}
        for name in X.columns:
            if not (pd.api.types.is_numeric_dtype(X[name]) or pd.api.types.is_bool_dtype(X[name])):
                counts = X[name].astype(object).value_counts()
                ordered = sorted(counts.index, key=lambda value: (-counts[value], str(value)))
                codes[str(name)] = {value: code for code, value in enumerate(ordered)}
        return cls([str(name) for name in X.columns], codes)

    def saved(self) -> dict[str, list[list[Any]]]:
        """Give the codes as pairs of category and code: a key of JSON is text, whatever the category was.

        Raises:
            DataError: when columns hold categories that are neither text nor numbers nor yes and no.
        """
        odd = [
            name
            for name, codes in self.codes.items()
            if not all(isinstance(value, str | bool | np.bool_ | Real) for value in codes)
        ]
        if odd:
            raise DataError(
                f"the categories of columns {odd} cannot be saved; expected text, numbers, or yes and no",
                "Fit with them as text: .astype(str).",
            )
        return {name: [[value, code] for value, code in codes.items()] for name, codes in self.codes.items()}

    @classmethod
    def restored(cls, names: list[str], saved: dict[str, list[list[Any]]]) -> "Columns":
        """Make it of its names and of what `saved` gave."""
        return cls(names, {name: dict(pairs) for name, pairs in saved.items()})

    @property
    def is_plain(self) -> bool:
        """Whether all columns are numbers."""
        return not self.codes

    @property
    def positions(self) -> dict[int, int]:
        """Number of categories by column position."""
        return {self.names.index(name): len(codes) for name, codes in self.codes.items()}

    def numbers(self, X: Any) -> Array:
        """Give the frame as numbers by name: other orders are fine, unseen categories are unknown.

        Raises:
            DataError: when columns are missing, hold moments, or hold text where the fit had numbers.
        """
        absent = [name for name in self.names if name not in getattr(X, "columns", [])]
        if absent:
            raise DataError(f"columns {absent} are missing; expected {self.names}", "Pass a data frame.")
        _refuse_moments(X, self.names)
        plain = X[[name for name in self.names if name not in self.codes]]
        trial.check_numbers(plain)
        parts = []
        for name in self.names:
            if name in self.codes:
                parts.append(X[name].astype(object).map(self.codes[name]).to_numpy(dtype=np.float64))
            else:
                parts.append(X[name].to_numpy(dtype=np.float64, na_value=np.nan))
        return np.column_stack(parts)


def _refuse_moments(X: pd.DataFrame, names: Iterable[Any]) -> None:
    moments = [str(name) for name in names if _holds_moments(X[name])]
    if moments:
        hint = "Make a number of each, such as days before the decision."
        raise DataError(f"columns {moments} hold moments; expected numbers or categories", hint)


def _holds_moments(column: "pd.Series[Any]") -> bool:
    found = pd.api.types.infer_dtype(column, skipna=True)
    return found in {"datetime64", "datetime", "date", "timedelta64", "timedelta", "time", "period"}


class Logistic:
    """Logistic regression over standardised signed logarithms, flags of unknown, and one-hot categories."""

    def __init__(self, columns: Columns, X: Array, y: Array) -> None:
        self._levels = columns.positions
        self._numeric = np.array([j for j in range(X.shape[1]) if j not in self._levels], dtype=int)
        values = self._log(X)
        known = np.isfinite(values)
        n = np.maximum(known.sum(axis=0), 1)
        self._center = np.where(known, values, 0).sum(axis=0) / n
        scale = np.sqrt((np.where(known, values - self._center, 0) ** 2).sum(axis=0) / n)
        self._scale = np.where(scale > 1e-9, scale, np.inf)
        self._has_gaps = (~known).any(axis=0) & known.any(axis=0)
        inputs = self._inputs(X)
        strength = 0.3 if len(y) < 50 * max(inputs.shape[1], 1) else 1.0
        model = LogisticRegression(C=strength, max_iter=300).fit(inputs, y)
        self._coef, self._intercept = model.coef_[0], float(model.intercept_[0])

    def _log(self, X: Array) -> Array:
        part = X[:, self._numeric]
        return np.asarray(np.sign(part) * np.log1p(np.abs(part)))

    def _inputs(self, X: Array) -> Array:
        values = self._log(X)
        gaps = np.isnan(values[:, self._has_gaps]).astype(np.float64)
        parts = [np.clip(np.nan_to_num((values - self._center) / self._scale), -4, 4), gaps]
        for j, levels in self._levels.items():
            parts.append((X[:, [j]] == np.arange(levels)).astype(np.float64))
        return np.hstack([*parts, np.zeros((len(X), 1))])

    def __call__(self, X: Array) -> Array:
        """Give the log-odds, shape (n,)."""
        return np.asarray(self._inputs(X) @ self._coef + self._intercept)
