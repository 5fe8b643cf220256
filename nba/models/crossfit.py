"""Cross-fitting: predictions for each row from models that have not seen its customer."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba import draws

Array = NDArray[np.float64]
Whole = NDArray[np.int64]


def folds(customer_ids: pa.Array | pa.ChunkedArray, n_folds: int, seed: int) -> Whole:
    """Put customers into folds by hash: all rows of a customer share one, whatever the other rows.

    Args:
        customer_ids: Shape (n,), one id per row.
        n_folds: Number of folds.
        seed: Names the split.

    Returns:
        Shape (n,), fold numbers from 0.

    Example:
        >>> fold = folds(pa.array(["anna", "ben", "anna"]), 5, seed=0)
        >>> bool(fold[0] == fold[2])
        True
    """
    if isinstance(customer_ids, pa.ChunkedArray):
        customer_ids = customer_ids.combine_chunks()
    coded = customer_ids.dictionary_encode()
    by_customer = draws.bucket(
        coded.dictionary.to_pylist(), np.full(n_folds, 1 / n_folds), f"cross-fitting|{seed}"
    )
    return by_customer[coded.indices.to_numpy()]


def out_of_fold(fold: Whole, fit_predict: Callable[[Whole, Whole], Array], *, threads: int = 1) -> Array:
    """Predict each row by a model that was fitted on the other folds.

    Args:
        fold: Shape (n,), fold numbers.
        fit_predict: Given row numbers to fit on and to predict, returns the predictions of the latter,
            shape (rows, ...).
        threads: Folds that are worked on at once.

    Returns:
        Shape (n, ...), NaN for no row.

    Example:
        >>> y = np.array([0.0, 2.0, 4.0])
        >>> out_of_fold(np.array([0, 1, 1]), lambda fit, new: np.full(len(new), y[fit].mean())).tolist()
        [3.0, 0.0, 0.0]
    """
    numbers = np.unique(fold)

    def predict(number: int) -> Array:
        found = fit_predict(np.flatnonzero(fold != number), np.flatnonzero(fold == number))
        return np.asarray(found, dtype=np.float64)

    out: Array | None = None
    with ThreadPoolExecutor(threads) as pool:
        for number, predicted in zip(
            numbers, pool.map(predict, numbers) if threads > 1 else map(predict, numbers)
        ):
            if out is None:
                out = np.full((len(fold), *predicted.shape[1:]), np.nan)
            out[fold == number] = predicted
    return out if out is not None else np.empty(0)
