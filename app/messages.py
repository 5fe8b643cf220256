"""All words of the app, from one catalogue, and numbers and days as people read them."""

import tomllib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType

EN: Mapping[str, str] = MappingProxyType(
    tomllib.loads((Path(__file__).parent / "words" / "en.toml").read_text(encoding="utf-8"))
)


def say(key: str, **values: object) -> str:
    """Give a text of the catalogue with its values filled in.

    Example:
        >>> say("overview.since", at="1 May")
        'since 1 May'
    """
    return EN[key].format(**values)


def label(prefix: str, name: str) -> str:
    """Give the text for a name of our own words, or the name itself where it is the company's."""
    return EN.get(f"{prefix}.{name}", name)


def plain(text: object) -> str:
    r"""Escape what comes from data, so that it shows as it is and never as markup.

    Example:
        >>> print(plain("a*b"))
        a\*b
    """
    return "".join(f"\\{c}" if c in "\\`*_{}[]()<>#+-.!|~$:&" else c for c in str(text))


def number(value: float | None, unit: str = "", *, signed: bool = False) -> str:
    """Write a number as people read it: two digits of small ones, none of large ones, its unit behind.

    Example:
        >>> number(12345.6, "EUR", signed=True), number(0.1234), number(None)
        ('+12,346 EUR', '0.123', 'unknown')
    """
    if value is None or value != value:
        return EN["unknown"]
    size = abs(value)
    if unit:
        digits = 0 if size >= 1000 else 4 if 0 < size < 0.01 else 2
    else:
        digits = 0 if size >= 1000 or value == round(value) else 2 if size >= 1 else 3
    text = f"{value:{'+' if signed else ''},.{digits}f}".replace("-", "−")
    return f"{text} {unit}" if unit else text


def percent(value: float | None, *, signed: bool = False, digits: int = 1) -> str:
    """Write a fraction as a percentage.

    Example:
        >>> percent(0.0512, signed=True)
        '+5.1%'
    """
    if value is None or value != value:
        return EN["unknown"]
    return f"{value:{'+' if signed else ''}.{digits}%}".replace("-", "−")


def day(moment: datetime | None) -> str:
    """Write a moment as a day.

    Example:
        >>> day(datetime(2026, 3, 2))
        '2 Mar 2026'
    """
    return f"{moment.day} {moment:%b %Y}" if moment else EN["unknown"]
