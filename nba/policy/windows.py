"""When a decision may be sent: quiet hours and allowed days by the customer's own clock.

A window is a span of the zone's wall clock; where the clock is put forward a time that does not exist counts
as the moment of the change, and where it is put back the span holds only moments at which every clock reading
lies within it. Lengths are thus exact over both changes.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo, available_timezones

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nba.errors import SettingsError
from nba.settings import WEEKDAYS, SendWindow

# Zones by number, so that a customer's fits two bytes.
ZONES = tuple(sorted(available_timezones()))


class Span(NamedTuple):
    """From and until when something may be sent, UTC; the end is not part of it."""

    start: datetime
    end: datetime


def of_channel(windows: Sequence[SendWindow], channel: str) -> SendWindow | None:
    """Give the first window that concerns a channel; None where it may always be sent."""
    return next((one for one in windows if not one.channels or channel in one.channels), None)


def span(at: datetime, until: datetime, zone: str, window: SendWindow | None) -> Span | None:
    """Give the first span from a moment on in which something may be sent, cut at the moment it lapses.

    Args:
        at: The moment of the decision.
        until: The moment it lapses.
        zone: IANA zone of the customer.
        window: Allowed days and hours; None is always.

    Returns:
        None where there is no allowed moment before it lapses.

    Example:
        >>> day = SendWindow(opens="09:00", closes="20:00")
        >>> at = datetime(2026, 3, 28, 22, tzinfo=UTC)  # the night in which clocks go forward
        >>> span(at, at + timedelta(days=2), "Europe/Madrid", day).start.isoformat()
        '2026-03-29T07:00:00+00:00'
    """
    if window is None:
        return Span(at, until) if at < until else None
    here = _zone(zone)
    day = at.astimezone(here).date() - timedelta(days=1)
    last = until.astimezone(here).date()
    while day <= last:
        if WEEKDAYS[day.weekday()] in window.days:
            start = max(_moment(day, window.opens, here, fold=1), at)
            end = min(_moment(day, window.closes, here, fold=0), until)
            if start < end:
                return Span(start, end)
        day += timedelta(days=1)
    return None


def numbers(zones: pa.Array | pa.ChunkedArray, default: str) -> NDArray[np.int16]:
    """Give the number in `ZONES` of each zone, that of the default where it is not known, shape (n,).

    Raises:
        SettingsError: when the default is no IANA zone.
    """
    if default not in ZONES:
        raise SettingsError(f"zone {default!r} is not known", "Name an IANA zone, such as Europe/Madrid.")
    found = pc.fill_null(pc.index_in(zones.cast(pa.string()), pa.array(ZONES)), ZONES.index(default))
    return np.asarray(found.to_numpy(), dtype=np.int16)


def spans(
    at: datetime,
    until: datetime,
    zone: NDArray[np.int16],
    channels: Sequence[str],
    windows: Sequence[SendWindow],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give from and until when each channel may be sent to each customer.

    Returns:
        Microseconds since 1970, shapes (n, channels); -1 where it may not be sent before it lapses.
    """
    present, row = np.unique(zone, return_inverse=True)
    found = np.full((2, len(present), len(channels)), -1, dtype=np.int64)
    for i, number in enumerate(present.tolist()):
        for j, channel in enumerate(channels):
            if one := span(at, until, ZONES[number], of_channel(windows, channel)):
                found[:, i, j] = [round(moment.timestamp() * 1e6) for moment in one]
    return found[0][row], found[1][row]


def _moment(day: date, clock: str, zone: ZoneInfo, fold: int) -> datetime:
    hour, minute = (int(part) for part in clock.split(":"))
    if hour == 24:
        day, hour = day + timedelta(days=1), 0
    local = datetime.combine(day, time(hour, minute, fold=fold), zone)
    moment = local.astimezone(UTC)
    if moment.astimezone(zone).replace(tzinfo=None) == local.replace(tzinfo=None):
        return moment
    # The clock jumps over this reading: the moment of the jump, found between its two readings.
    early, late = (local.replace(fold=f).astimezone(UTC) for f in (1, 0))
    before = early.astimezone(zone).utcoffset()
    while late - early > timedelta(seconds=1):
        middle = early + (late - early) / 2
        if middle.astimezone(zone).utcoffset() == before:
            early = middle
        else:
            late = middle
    return late.replace(microsecond=0)


@lru_cache(maxsize=1024)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)
