"""The models of lifetime value in scikit-learn's form: `fit`, `predict`, parameters that can be cloned."""

from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_array, check_is_fitted

from nba.models import clv, clv_choice, clv_counts, clv_spend
from nba.models.clv_ml import Log, look

Array = NDArray[np.float64]


class Purchases(RegressorMixin, BaseEstimator):
    """Purchases over a horizon from repeats, recency and age, by a buy-till-you-die model.

    Parameters:
        kind: bg_nbd, mbg_nbd, pareto_nbd or nbd.
        horizon: Length of the forecast, in the data's unit of time.

    Attributes:
        model_: The fitted model: parameters, standard errors, likelihood, convergence, reason.

    Example:
        >>> X = np.array([[0, 0, 30], [1, 10, 30], [3, 25, 30]] * 40, dtype=float)
        >>> model = Purchases(horizon=30.0).fit(X)
        >>> bool((model.predict(X)[:3] > 0).all()), model.p_alive(X[:1]).shape
        (True, (1,))
    """

    def __init__(self, kind: clv_counts.Kind = "pareto_nbd", horizon: float = 365.0) -> None:
        self.kind = kind
        self.horizon = horizon

    def fit(self, X: Any, y: Any = None) -> "Purchases":  # noqa: ARG002
        """Fit by maximum likelihood; columns of X are repeats, recency and age, shape (n, 3)."""
        X = check_array(X, dtype=np.float64)
        self.model_ = clv_counts.fit(clv_counts.compress(*X.T[:3]), self.kind)
        self.n_features_in_ = X.shape[1]
        return self

    def predict(self, X: Any) -> Array:
        """Expect purchases over the horizon, shape (n,)."""
        check_is_fitted(self, "model_")
        n_repeat, recency, age = check_array(X, dtype=np.float64).T[:3]
        return self.model_.expected(n_repeat, recency, age, self.horizon)

    def p_alive(self, X: Any) -> Array:
        """Give the chance of still being a customer, shape (n,)."""
        check_is_fitted(self, "model_")
        n_repeat, recency, age = check_array(X, dtype=np.float64).T[:3]
        return self.model_.p_alive(n_repeat, recency, age)


class Spend(RegressorMixin, BaseEstimator):
    """Margin of a purchase from the number of purchases and their mean margin, by Gamma-Gamma.

    Attributes:
        model_: The fitted model, or the shrunk mean that stands in for it, with its reason.
    """

    def fit(self, X: Any, y: Any = None) -> "Spend":  # noqa: ARG002
        """Fit by maximum likelihood; columns of X are purchases and mean margin, shape (n, 2)."""
        X = check_array(X, dtype=np.float64)
        self.model_ = clv_spend.fit(X[:, 0], X[:, 1])
        self.n_features_in_ = X.shape[1]
        return self

    def predict(self, X: Any) -> Array:
        """Expect the margin of one purchase, money, shape (n,)."""
        check_is_fitted(self, "model_")
        X = check_array(X, dtype=np.float64)
        return self.model_.expected(X[:, 0], X[:, 1])


class LifetimeValue(BaseEstimator):
    """Lifetime value from purchase days: candidates are chosen by backtest, then fitted.

    Parameters:
        at: The moment of the forecast; later purchases are not read.
        horizon_days: Length of the forecast.
        annual_discount: Yearly rate at which future margin is discounted.
        seed: Of the draws behind prediction intervals.

    Attributes:
        chosen_: Choice, backtest, scores and calibration at rolling origins.
        model_: The fitted `Forecaster`.
    """

    def __init__(
        self, at: datetime, horizon_days: int = 365, annual_discount: float = 0.1, seed: int = 0
    ) -> None:
        self.at = at
        self.horizon_days = horizon_days
        self.annual_discount = annual_discount
        self.seed = seed

    def fit(self, X: Log, y: Any = None) -> "LifetimeValue":  # noqa: ARG002
        """Choose and fit.

        Args:
            X: Purchase days of all customers (`nba.models.clv_ml.Log`; `nba.models.clv.read` gives it).
            y: Not used.
        """
        day = self.at.timestamp() / 86400
        self.chosen_ = clv_choice.choose(X, day, float(self.horizon_days))
        self.model_ = clv.fit(X, day, float(self.horizon_days), self.chosen_.choice)
        return self

    def predict(self, X: Log) -> Array:
        """Expect discounted margin over the horizon, shape (X.n,); NaN for who has not bought."""
        return np.asarray(self.forecast(X)["clv"].to_numpy(), dtype=np.float64)

    def forecast(self, X: Log, ids: pa.Array | pa.ChunkedArray | None = None) -> pa.Table:
        """Forecast every customer: the `clv` table.

        Args:
            X: Purchase days.
            ids: Names of the customers, in the order of their numbers; the numbers if absent.
        """
        check_is_fitted(self, "model_")
        names = pa.array([str(i) for i in range(X.n)]) if ids is None else ids
        return clv.forecast(
            names, X, self.at, self.model_, horizon_days=self.horizon_days,
            annual_discount=self.annual_discount, seed=self.seed,
        )  # fmt: skip

    def purchases(self, X: Log) -> Array:
        """Expect purchases over the horizon of everybody who has bought, shape (u,)."""
        check_is_fitted(self, "model_")
        return self.model_.orders(look(X, self.at.timestamp() / 86400), float(self.horizon_days))
