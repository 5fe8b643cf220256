from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from nba.errors import SettingsError
from nba.policy import windows
from nba.settings import WEEKDAYS, SendWindow

DAY = SendWindow(opens="09:00", closes="20:00")


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)


# by hand


@pytest.mark.parametrize(
    ("at", "zone", "start", "end"),
    [
        (utc(2026, 3, 2, 6), "Europe/Madrid", utc(2026, 3, 2, 8), utc(2026, 3, 2, 19)),
        (utc(2026, 3, 2, 12), "Europe/Madrid", utc(2026, 3, 2, 12), utc(2026, 3, 2, 19)),
        (utc(2026, 3, 2, 19), "Europe/Madrid", utc(2026, 3, 3, 8), utc(2026, 3, 3, 19)),
        # clocks go forward on 29 March and back on 25 October
        (utc(2026, 3, 28, 22), "Europe/Madrid", utc(2026, 3, 29, 7), utc(2026, 3, 29, 18)),
        (utc(2026, 10, 24, 22), "Europe/Madrid", utc(2026, 10, 25, 8), utc(2026, 10, 25, 19)),
        (utc(2026, 3, 2, 6), "America/New_York", utc(2026, 3, 2, 14), utc(2026, 3, 3, 1)),
    ],
)
def test_the_first_span_by_the_customers_own_clock(at, zone, start, end):
    assert windows.span(at, at + timedelta(days=7), zone, DAY) == (start, end)


def test_allowed_days_and_the_moment_it_lapses():
    weekdays = SendWindow(days=("mon", "tue"), opens="10:00", closes="24:00")
    friday = utc(2026, 3, 6, 12)
    found = windows.span(friday, utc(2026, 3, 9, 11), "Europe/Madrid", weekdays)
    assert found == (utc(2026, 3, 9, 9), utc(2026, 3, 9, 11))
    assert windows.span(friday, utc(2026, 3, 9, 9), "Europe/Madrid", weekdays) is None
    assert windows.span(friday, friday, "UTC", None) is None


def test_a_reading_that_clocks_jump_over_is_the_moment_of_the_jump():
    night = SendWindow(opens="02:30", closes="06:00")
    found = windows.span(utc(2026, 3, 28, 20), utc(2026, 3, 30), "Europe/Madrid", night)
    assert found == (utc(2026, 3, 29, 1), utc(2026, 3, 29, 4))


def test_one_span_per_zone_and_channel():
    zone = windows.numbers(pa.array(["Europe/Madrid", None, "Mars/Base", "Asia/Tokyo"]), "UTC")
    assert [windows.ZONES[i] for i in zone] == ["Europe/Madrid", "UTC", "UTC", "Asia/Tokyo"]
    calls = SendWindow(channels=("call",), opens="10:00", closes="11:00")
    at = utc(2026, 3, 2, 6)
    start, end = windows.spans(at, at + timedelta(hours=6), zone, ("email", "call"), (calls, DAY))
    hours = (start - at.timestamp() * 1e6) / 3600e6
    np.testing.assert_allclose(hours, [[2, 3], [3, 4], [3, 4], [0, -1 / 3600e6 - at.timestamp() / 3600]])
    assert (end[:, 0] > start[:, 0]).all()
    with pytest.raises(SettingsError, match="zone 'Nowhere' is not known"):
        windows.numbers(pa.array([None], pa.string()), "Nowhere")


def test_a_window_that_never_opens_is_refused():
    for wrong in (
        {"opens": "20:00", "closes": "09:00"},
        {"days": ()},
        {"opens": "9:00"},
        {"closes": "25:00"},
    ):
        with pytest.raises(ValidationError):
            SendWindow(**wrong)


# laws


@settings(deadline=None, max_examples=60)
@given(
    day=st.dates(date(2025, 1, 1), date(2027, 12, 31)),
    minute=st.integers(0, 1439),
    zone=st.sampled_from(
        ["Europe/Madrid", "America/Sao_Paulo", "Australia/Lord_Howe", "Asia/Kolkata", "UTC"]
    ),
    opens=st.integers(0, 47),
    length=st.integers(1, 48),
    days=st.sets(st.sampled_from(WEEKDAYS), min_size=1),
)
@example(day=date(2026, 10, 25), minute=0, zone="Europe/Madrid", opens=5, length=20, days={"sun"})
@example(day=date(2026, 4, 5), minute=0, zone="Australia/Lord_Howe", opens=3, length=5, days={"sun"})
def test_every_moment_of_a_span_is_allowed_by_the_local_clock(day, minute, zone, opens, length, days):
    closes = min(opens + length, 48)
    window = SendWindow(days=tuple(days), opens=_clock(opens), closes=_clock(closes))
    at = datetime.combine(day, time(), UTC) + timedelta(minutes=minute)
    until = at + timedelta(days=8)
    found = windows.span(at, until, zone, window)
    if found is None:
        return
    assert at <= found.start < found.end <= until
    last = found.end - timedelta(microseconds=1)
    step = (last - found.start) / 37
    for moment in [min(found.start + i * step, last) for i in range(38)]:
        local = moment.astimezone(ZoneInfo(zone))
        assert WEEKDAYS[local.weekday()] in days
        half_hours = local.hour * 2 + local.minute / 30
        assert opens <= half_hours < closes


def _clock(half_hours: int) -> str:
    return f"{half_hours // 2:02d}:{half_hours % 2 * 30:02d}"
