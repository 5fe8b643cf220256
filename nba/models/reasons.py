"""Why a score is what it is, for every customer of a batch: contributions of the inputs to the trees' sum.

Path-dependent TreeSHAP (Lundberg et al. 2020), as LightGBM's `pred_contrib` gives it. The package
woodelf-explainer (Nadel, Wettenstein 2026) computes the same many times faster; it is young, so it is pinned,
held against `pred_contrib` on rows of every call, and left alone where it is not installed or differs.
"""

import warnings
from importlib import metadata
from importlib.util import find_spec

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

PINNED = "0.4.8"
TOLERANCE = 1e-4
_ROWS = 100_000
_CHECKED = 16


def contributions(booster: lgb.Booster, X: Array) -> Array:
    """Give what each input adds to the sum of the leaves, against the mean prediction.

    Args:
        booster: The model.
        X: Inputs, shape (n, p).

    Returns:
        Shape (n, p), in the unit of the trees (log-odds for a classifier).
    """
    if not is_fast() or len(X) < 20 * _CHECKED:
        return _exact(booster, X)
    rows = np.linspace(0, len(X) - 1, _CHECKED).astype(np.int64)
    try:
        found = _fast(booster, X)
    except Exception:  # whatever a young package raises: the slow way is there
        return _exact(booster, X)
    if not np.abs(found[rows] - _exact(booster, X[rows])).max() <= TOLERANCE:
        return _exact(booster, X)
    return found


def top(values: Array, most: int = 3) -> tuple[NDArray[np.int64], Array]:
    """Give the inputs that moved each row most, and by how much; shapes (n, most), largest first.

    Example:
        >>> where, size = top(np.array([[0.1, -0.5, 0.2]]), 2)
        >>> where.tolist(), size.tolist()
        ([[1, 2]], [[-0.5, 0.2]])
    """
    order = np.argsort(-np.abs(values), axis=1, kind="stable")[:, :most]
    return order, np.take_along_axis(values, order, axis=1)


def is_fast() -> bool:
    """Say whether the pinned version of the fast package is installed."""
    return find_spec("woodelf") is not None and metadata.version("woodelf-explainer") == PINNED


def _exact(booster: lgb.Booster, X: Array) -> Array:
    found = np.asarray(booster.predict(X, pred_contrib=True), dtype=np.float64)
    return np.asarray(found[:, :-1])


def _fast(booster: lgb.Booster, X: Array) -> Array:
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from woodelf import WoodelfExplainer

        explainer = WoodelfExplainer(booster, feature_perturbation="tree_path_dependent")
        names = booster.feature_name()
        parts = [
            explainer.shap_values(pd.DataFrame(X[i : i + _ROWS], columns=names), verbose=False)
            for i in range(0, len(X), _ROWS)
        ]
    return np.concatenate([np.asarray(part, dtype=np.float64) for part in parts])
