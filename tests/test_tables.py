from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nba import tables
from nba.errors import DataError
from nba.tables.files import check_file

DICTIONARY = Path(__file__).parents[1] / "docs" / "data-dictionary.md"

# by hand


def test_all_faults_of_a_table_are_named_at_once() -> None:
    orders = tables.ORDERS.sample(10, np.random.default_rng(0))
    broken = orders.drop_columns(["margin"]).append_column("colour", pa.array(["red"] * 10))
    broken = pa.concat_tables([broken, broken.slice(0, 1)])
    message = "\n".join(tables.ORDERS.faults(broken))
    assert "missing columns ['margin']" in message
    assert "unexpected columns ['colour']" in message
    with pytest.raises(DataError, match="orders breaks its contract"):
        tables.ORDERS.check(broken)


def test_bounds_unknowns_and_closed_lists_are_checked() -> None:
    touch = {
        "touch_id": "t", "customer_id": "c", "touched_at": datetime(2026, 1, 1, tzinfo=UTC),
        "channel": "email", "kind": "teleported", "cost": -1.0,
    }  # fmt: skip
    with pytest.raises(DataError) as caught:
        tables.TOUCHES.build([touch, touch | {"kind": "sent", "cost": float("nan")}])
    text = str(caught.value)
    assert "cost: 1 values unknown" in text
    assert "cost: 1 values below 0" in text
    assert "teleported" in text
    assert "1 rows repeat the key" in text
    rows = [touch | {"touch_id": name, "kind": "sent", "cost": 0.0} for name in "abb"]
    with pytest.raises(DataError, match=r"1 rows repeat the key .*, such as b"):  # rising but for one
        tables.TOUCHES.build(rows)


@pytest.mark.parametrize("is_told", [True, False])
def test_a_file_is_held_to_its_contract_whatever_it_tells_of_itself(tmp_path: Path, is_told: bool) -> None:
    good = tables.TOUCHES.sample(10, np.random.default_rng(0))
    path = tmp_path / "touches.parquet"
    pq.write_table(good, path, write_statistics=is_told)
    check_file(tables.TOUCHES, path)
    row = good.slice(0, 1).to_pylist()[0] | {"customer_id": None, "kind": "teleported", "cost": float("nan")}
    broken = pa.concat_tables([good, pa.Table.from_pylist([row], good.schema)])
    pq.write_table(broken, path, row_group_size=4, write_statistics=is_told)
    with pytest.raises(DataError) as caught:
        check_file(tables.TOUCHES, path)
    text = str(caught.value)
    assert "customer_id unknown: 1 values" in text
    assert "cost unknown: 1 values" in text
    assert "kind not among" in text


def test_open_columns_are_allowed_only_with_their_prefix() -> None:
    row = {"customer_id": "c", "as_of": datetime(2026, 1, 1, tzinfo=UTC), "f_orders": 1.0}
    assert tables.FEATURES.build([row]).column_names == ["customer_id", "as_of", "f_orders"]
    with pytest.raises(DataError, match="unexpected"):
        tables.FEATURES.conform(tables.FEATURES.build([row]).append_column("orders", pa.array([1.0])))


def test_dictionary_is_in_step_with_the_contract() -> None:
    assert DICTIONARY.read_text(encoding="utf-8") == tables.dictionary(), "run `make docs`"


# laws


@given(name=st.sampled_from(sorted(tables.BY_NAME)), n=st.integers(0, 30), seed=st.integers(0, 99))
def test_samples_keep_the_contract(name: str, n: int, seed: int) -> None:
    table = tables.BY_NAME[name]
    sample = table.sample(n, np.random.default_rng(seed))
    assert table.faults(sample) == []
    assert table.conform(sample).schema.names == list(table.columns)


def test_names_and_docs_are_complete() -> None:
    for table in tables.ALL:
        assert set(table.key) <= set(table.columns)
        assert len(set(table.columns)) == len(table.columns)
        for field in table.fields:
            assert field.doc, (table.name, field.name)
            assert "propensity" not in field.name
            if field.name.startswith("p_"):
                assert field.unit == "probability 0-1"
                assert (field.low, field.high) == (0, 1)
            if field.kind == "number":
                assert field.unit, (table.name, field.name)
