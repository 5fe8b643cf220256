import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from nba.models import crossfit

# by hand


def test_no_row_is_predicted_by_a_model_that_saw_its_fold():
    fold = np.array([0, 1, 0, 2])
    seen = []

    def fit_predict(known, new):
        seen.append((known.tolist(), new.tolist()))
        return np.zeros((len(new), 2))

    assert crossfit.out_of_fold(fold, fit_predict).shape == (4, 2)
    assert seen == [([1, 3], [0, 2]), ([0, 2, 3], [1]), ([0, 1, 2], [3])]


def test_no_rows():
    assert len(crossfit.out_of_fold(np.empty(0, dtype=int), lambda known, new: np.zeros(len(new)))) == 0


# laws


@given(
    ids=st.lists(st.text("abc", min_size=1, max_size=2), min_size=1),
    n=st.integers(2, 10),
    seed=st.integers(0, 9),
)
def test_a_customer_has_one_fold_whatever_the_other_rows(ids, n, seed):
    fold = crossfit.folds(pa.array(ids), n, seed)
    alone = [int(crossfit.folds(pa.chunked_array([[name]]), n, seed)[0]) for name in ids]
    assert fold.tolist() == alone
    assert fold.min() >= 0
    assert fold.max() < n


# recovery


def test_folds_are_even():
    fold = crossfit.folds(pa.array([f"c{i}" for i in range(10_000)]), 5, seed=0)
    assert np.abs(np.bincount(fold) - 2000).max() < 3 * np.sqrt(10_000 * 0.2 * 0.8)
