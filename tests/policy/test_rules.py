from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nba.errors import SettingsError
from nba.policy.rules import check

COLUMNS = ["f_age_days", "f_n_orders", "a_segment", "can_email", "joined_at", "decided_at"]

# by hand


@pytest.mark.parametrize(
    ("condition", "read"),
    [
        ("f_age_days > 30 and lower(a_segment) = 'gold'", ("f_age_days", "a_segment")),
        ("A_SEGMENT in ('a', 'b') or not can_email", ("a_segment", "can_email")),
        ("f_n_orders is not null and f_n_orders between 1 and 3", ("f_n_orders",)),
        ("case when f_age_days > 3 then true else can_email end", ("f_age_days", "can_email")),
        ("cast(f_age_days as integer) % 7 = 0", ("f_age_days",)),
        ("joined_at < decided_at and joined_at >= timestamptz '2025-01-01'", ("joined_at", "decided_at")),
        ("date_diff('day', joined_at, decided_at) > 30 -- a month", ("joined_at", "decided_at")),
        ("coalesce(a_segment, 'x') like 'g%'", ("a_segment",)),
        ("true", ()),
    ],
)
def test_conditions_over_known_columns_pass(condition, read):
    assert check(condition, COLUMNS) == read


@pytest.mark.parametrize(
    ("condition", "fault"),
    [
        ("f_age > 3", r"column 'f_age' is not there; near to it are \['f_age_days'\]"),
        ("zzz > 3", "column 'zzz' is not there; there are f_age_days, f_n_orders, a_segment"),
        ("a_x7 = 1", "column 'a_x7' is not there; there are a_segment"),
        ("f_age_days >", "is not SQL"),
        ("1; drop table x", "is not SQL"),
        ("f_age_days) from customers where (1=1", "is not SQL"),
        ("1) as y, (2", "more than one expression"),
        ("(select max(f_age_days) from features) > 3", "subquery is not allowed"),
        ("a_segment in (select a from b)", "subquery is not allowed"),
        ("row_number() over () > 1", "window row number is not allowed"),
        ("read_text('/etc/passwd') = 'x'", "function 'read_text' is not allowed"),
        ("getenv('HOME') = 'x'", "function 'getenv' is not allowed"),
        ("sum(f_n_orders) > 3", "function 'sum' is not allowed"),
        ("joined_at > now()", "function 'now' is not allowed"),
        ("*", "star is not allowed"),
        ("$1 > 2", "parameter is not allowed"),
        ("len(list_filter([1], x -> x > 0)) = 1", "is not allowed"),
    ],
)
def test_whatever_reaches_beyond_the_row_is_refused(condition, fault):
    with pytest.raises(SettingsError, match=fault):
        check(condition, COLUMNS)


def test_all_faults_are_named_at_once():
    with pytest.raises(SettingsError) as error:
        check("f_age > 3 and sleep(3) and a_segmentt = 'x'", COLUMNS)
    for part in ("'f_age'", "'sleep'", "'a_segmentt'"):
        assert part in error.value.message


# laws


@settings(deadline=None, max_examples=20)
@given(text=st.text(max_size=40))
def test_any_text_is_a_condition_or_one_clear_error(text):
    with suppress(SettingsError):
        assert set(check(text, COLUMNS)) <= set(COLUMNS)
