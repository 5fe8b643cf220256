from datetime import UTC, datetime

import pytest

from nba.catalog import Action, Catalog, Treatment
from nba.errors import DataError

# by hand


def _shop() -> Catalog:
    later = datetime(2026, 2, 1, tzinfo=UTC)
    return Catalog(
        (Action("a", "i", "g", "A", 10.0, lever=2.0), Action("b", "i", "g", "B", 20.0, starts_at=later)),
        (Treatment("a_sms", "a", "sms", 0.1, 7), Treatment("b_email", "b", "email", 0.02)),
    )


def test_columns_start_with_none() -> None:
    shop = _shop()
    assert shop.treatment_ids == ("none", "a_sms", "b_email")
    assert shop.margin.tolist() == [0, 10, 20]
    assert shop.lever.tolist() == [1, 2, 1]
    assert shop.channel.tolist() == ["none", "sms", "email"]
    assert shop.channels == ("sms", "email")
    assert shop.cooldown_days.tolist() == [0, 7, 0]
    assert shop.columns(["b_email", "?"]).tolist() == [2, -1]


def test_an_action_runs_from_its_start_to_its_end() -> None:
    assert _shop().active(datetime(2026, 1, 1, tzinfo=UTC)).tolist() == [True, True, False]
    assert _shop().active(datetime(2026, 2, 1, tzinfo=UTC)).tolist() == [True, True, True]


def test_tables_and_back() -> None:
    shop = _shop()
    assert Catalog.from_tables(*shop.to_tables()) == shop


def test_all_faults_at_once() -> None:
    with pytest.raises(DataError) as caught:
        Catalog(
            (Action("a", "i", "g", "A", 1.0), Action("a", "i", "g", "A", 1.0)),
            (Treatment("none", "a", "sms", 0.0), Treatment("t", "zzz", "sms", -1.0)),
        )
    for text in ("'a' stands twice", "'none' is reserved", "names action 'zzz'", "costs -1"):
        assert text in str(caught.value)
