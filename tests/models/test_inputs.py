import numpy as np
import pyarrow as pa
import pytest

from nba.errors import DataError
from nba.models.inputs import Coding, feature_names, matrix

# by hand


def test_codes_share_actions_and_channels(catalog):
    coding = Coding.of(catalog)
    assert coding.names == (
        "is_treated",
        "action=sale",
        "action=advice",
        "channel=email",
        "channel=sms",
        "channel=call",
    )
    assert coding.codes().astype(int).tolist() == [
        [0, 0, 0, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 0, 1, 1, 0, 0],
        [1, 0, 1, 0, 0, 1],
    ]
    assert coding.columns(["none", "advice_call", "gone"]).tolist() == [0, 4, -1]


def test_parts_that_were_never_seen_are_zeros(catalog):
    new = Coding(("x_email",), ("x",), ("email",))
    assert Coding.of(catalog).codes(new)[1].astype(int).tolist() == [1, 0, 0, 1, 0, 0]


def test_matrix_by_name():
    table = pa.table({"f_b": [1, 2], "f_a": [0.5, None], "other": ["x", "y"]})
    assert feature_names(table) == ("f_b", "f_a")
    np.testing.assert_array_equal(
        matrix(table, ["f_a", "f_b", "f_c"]), [[0.5, 1, np.nan], [np.nan, 2, np.nan]]
    )
    endless = pa.table({"f_a": [np.inf, 1.0, -np.inf]})
    np.testing.assert_array_equal(matrix(endless, ["f_a"]), [[np.nan], [1], [np.nan]])


def test_features_that_are_no_numbers_are_all_named():
    table = pa.table({"f_a": ["x", "y"], "f_b": [1, 2], "f_c": [[1], [2]], "f_d": [True, False]})
    with pytest.raises(DataError, match=r"f_a holds string(.|\n)*f_c holds list") as error:
        matrix(table, ["f_a", "f_b", "f_c", "f_d"])
    assert "f_b" not in str(error.value)
    assert matrix(table, ["f_d"]).tolist() == [[1], [0]]
