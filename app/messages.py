"""All words of the app, from one catalogue per language, and numbers and days as people read them."""

import re
import tomllib
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from types import MappingProxyType

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

FOLDER = Path(__file__).parent / "words"
LANGUAGES: Mapping[str, str] = MappingProxyType({"en": "English", "es": "Español"})
LANGUAGE = "lang"
_MONTHS: Mapping[str, str] = MappingProxyType(
    {
        "en": "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec",
        "es": "ene feb mar abr may jun jul ago sep oct nov dic",
    }
)


@cache
def words(language: str) -> Mapping[str, str]:
    """Give the catalogue of a language: the same keys in every language."""
    text = (FOLDER / f"{language}.toml").read_text(encoding="utf-8")
    return MappingProxyType(tomllib.loads(text))


@cache
def phrases(language: str) -> tuple[tuple[str, str], ...]:
    """Give the translations of figures' and tables' own English phrases, longest first; none in English."""
    path = FOLDER / f"{language}.phrases.toml"
    if not path.is_file():
        return ()
    found = tomllib.loads(path.read_text(encoding="utf-8"))
    return tuple(sorted(found["phrases"].items(), key=lambda pair: -len(pair[0])))


@cache
def _sentences(language: str) -> tuple[tuple[re.Pattern[str], str], ...]:
    path = FOLDER / f"{language}.phrases.toml"
    if not path.is_file():
        return ()
    found = tomllib.loads(path.read_text(encoding="utf-8"))
    return tuple((re.compile(pattern), text) for pattern, text in found["sentences"].items())


def language() -> str:
    """Give the language of this session; English outside of one."""
    if get_script_run_ctx(suppress_warning=True) is None:
        return "en"
    chosen = st.session_state.get(LANGUAGE)
    return str(chosen) if chosen in LANGUAGES else "en"


def say(key: str, **values: object) -> str:
    """Give a text of the catalogue with its values filled in.

    Example:
        >>> say("overview.since", at="1 May")
        'since 1 May'
    """
    return words(language())[key].format(**values)


def knows(key: str) -> bool:
    """Say whether the catalogue has a text."""
    return key in words(language())


def label(prefix: str, name: str) -> str:
    """Give the text for a name of our own words, or the name itself where it is the company's."""
    return words(language()).get(f"{prefix}.{name}", name)


def phrase(text: str) -> str:
    """Give a whole phrase of a figure or of the data dictionary in the session's language."""
    return dict(phrases(language())).get(text, text)


def told(text: str) -> str:
    """Give a sentence that a table tells in English in the session's language, where it is known.

    Example:
        >>> told("held out")
        'held out'
    """
    for pattern, translated in _sentences(language()):
        found = pattern.fullmatch(text)
        if found:
            return translated.format(*(_retold(part) for part in found.groups()))
    return phrase(text)


def _retold(part: str | None) -> str:
    if not part:
        return ""
    return _local(part) if re.fullmatch(_NUMBER, part) else told(part)


@cache
def _features(language: str) -> tuple[tuple[re.Pattern[str], str], ...]:
    path = FOLDER / f"{language}.phrases.toml"
    found = tomllib.loads(path.read_text(encoding="utf-8"))["features"] if path.is_file() else {}
    return tuple((re.compile(pattern), text) for pattern, text in found.items())


def feature(name: str) -> str:
    """Give a feature's name as people read it.

    Example:
        >>> feature("f_orders_28"), feature("f_a_region_madrid")
        ('orders in 28 days', 'region madrid')
    """
    name = re.sub(r"^(.+) in (\d+) days$", r"\1 \2", name)
    stem = name.removeprefix("f_").removeprefix("a_").replace(" ", "_")
    for pattern, text in _features(language()):
        found = pattern.fullmatch(stem)
        if found:
            return text.format(*(label("channel", part).replace("_", " ") for part in found.groups()))
    return re.sub(r"^(.+) (\d+)$", r"\1 in \2 days", stem.replace("_", " "))


def conditions(text: str) -> str:
    """Give a segment in the session's language: an attribute and its value, or `feature: condition` each.

    Example:
        >>> conditions("orders in 28 days: at most 2, can email: no")
        'orders in 28 days: at most 2, can email: no'
        >>> conditions("a_acquisition=store")
        'Acquisition channel: store'
    """
    if re.fullmatch(r"\w+=.+", text):
        attribute, _, value = text.partition("=")
        return f"{label('attribute', attribute.removeprefix('a_'))}: {value}"
    if not phrases(language()):
        return text
    parts = [part.partition(": ") for part in text.split(", ")]
    return ", ".join(f"{feature(name)}: {told(rest)}" if rest else told(name) for name, _, rest in parts)


def changes(text: str) -> str:
    """Give the changes of a scenario in the session's language.

    Example:
        >>> changes("sms capacity 2000, loyalty stopped")
        'sms capacity 2000, loyalty stopped'
    """
    if not phrases(language()):
        return text
    return ", ".join(told(f"change: {part}").removeprefix("change: ") for part in text.split(", "))


_NUMBER = r"[+-]?\d+(?:[.,]\d+)*(?:e[+-]\d+)?"


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
        return say("unknown")
    size = abs(value)
    if unit:
        digits = 0 if size >= 1000 else 4 if 0 < size < 0.01 else 2
    else:
        digits = 0 if size >= 1000 or value == round(value) else 2 if size >= 1 else 3
    text = _local(f"{value:{'+' if signed else ''},.{digits}f}")
    return f"{text} {unit}" if unit else text


def count(value: float | None) -> str:
    """Write how many, rounded.

    Example:
        >>> count(1234.5)
        '1,234'
    """
    return say("unknown") if value is None or value != value else _local(f"{value:,.0f}")


def percent(value: float | None, *, signed: bool = False, digits: int = 1) -> str:
    """Write a fraction as a percentage.

    Example:
        >>> percent(0.0512, signed=True)
        '+5.1%'
    """
    if value is None or value != value:
        return say("unknown")
    return _local(f"{value:{'+' if signed else ''}.{digits}%}")


def decimals(value: float) -> str:
    """Write a number of a table with up to three decimals.

    Example:
        >>> decimals(12345.5), decimals(-0.25), decimals(3.0)
        ('12,345.5', '−0.25', '3')
    """
    return _local(_trimmed(f"{value:,.3f}"))


def share(value: float) -> str:
    """Write a fraction of a table as a percentage with up to two decimals.

    Example:
        >>> share(0.125), share(1.0)
        ('12.5%', '100%')
    """
    return _local(f"{_trimmed(f'{value * 100:,.2f}')}%")


def _trimmed(text: str) -> str:
    text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def difference(value: float | None) -> str:
    """Write a difference of fractions in points of a hundred, without their name.

    Example:
        >>> difference(-0.0026)
        '−0.26'
    """
    return say("unknown") if value is None or value != value else _local(f"{value * 100:.2f}")


def points(value: float | None, *, signed: bool = False) -> str:
    """Write a difference of fractions in points of a hundred.

    Example:
        >>> points(0.0172, signed=True), points(0.02)
        ('+1.72 points', '2 points')
    """
    if value is None or value != value:
        return say("unknown")
    text = f"{value * 100:{'+' if signed else ''}.2f}"
    return say("points", n=_local(text if signed else text.rstrip("0").rstrip(".")))


def chance(value: float | None, least: float = 0.0) -> str:
    """Write a small probability with two digits, or that it is below the least shown.

    Example:
        >>> chance(0.0123), chance(2e-7), chance(2e-7, 0.001)
        ('0.012', '2e−07', '< 0.001')
    """
    if value is None or value != value:
        return say("unknown")
    return _local(f"< {least:g}" if value < least else f"{value:.2g}")


def _local(text: str) -> str:
    text = text.replace("-", "−")
    if language() == "es":
        return text.translate(str.maketrans(",.", ".,")).replace("%", " %")
    return text


def age(days: float | None) -> str:
    """Write how old something is, in hours below two days.

    Example:
        >>> age(0.177), age(4.39)
        ('4 hours', '4 days')
    """
    if days is None or days != days:
        return say("unknown")
    return say("hours", n=count(days * 24)) if days < 2 else say("days", n=count(days))


def day(moment: datetime | None) -> str:
    """Write a moment as a day.

    Example:
        >>> day(datetime(2026, 3, 2))
        '2 Mar 2026'
    """
    if moment is None:
        return say("unknown")
    return f"{moment.day} {_MONTHS[language()].split()[moment.month - 1]} {moment.year}"


def clock(moment: datetime | None) -> str:
    """Write a moment as a day and time.

    Example:
        >>> clock(datetime(2026, 3, 2, 6, 5))
        '2 Mar 2026, 06:05'
    """
    return say("unknown") if moment is None else f"{day(moment)}, {moment:%H:%M}"


# Names in data that are our own words, not the company's.
OURS = ("none", "unknown", "order", "no order")


def named(text: str) -> str:
    """Give a channel, or a path over channels, as people read it; other names stay as they are."""
    return " > ".join(told(part) if part in OURS else label("channel", part) for part in text.split(" > "))
