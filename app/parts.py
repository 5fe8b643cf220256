"""Parts that pages share: the frame around a page, empty states, single numbers and choices."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from app import data
from app.access import NOBODY, Role
from app.data import Reader
from app.markup import literal
from app.messages import conditions, day, label, language, phrases, plain, say, told
from nba.errors import MissingError, NbaError

READER, ROLE, ALL = "reader", "role", "all"
CARD = 180  # pixels of a single number
WIDTH = 270  # pixels of a long text
LONG = 10  # characters that fit into it
HALF = 460  # pixels of a figure beside another
SEGMENTS = 7  # more options than these go into a list


def page(name: str, draw: Callable[[Reader], None]) -> None:
    """Show a page; whatever goes wrong with its data becomes a message in its place."""
    st.session_state[_STALE_TOLD] = False  # a run tells it once
    st.title(say(f"page.{name}"))
    st.caption(say(f"about.{name}"))
    try:
        draw(data.read(st.session_state[READER]))
    except MissingError as error:
        st.info(f"{say('empty.title')} {_fault(error.message)}", icon=":material/hourglass_empty:")
        _mend(error.hint)
    except NbaError as error:
        st.error(_fault(error.message), icon=":material/error:")
        _mend(error.hint)
    except Exception:
        logging.getLogger(__name__).exception("page %s failed", name)
        st.error(say("page.failed"), icon=":material/error:")


@contextmanager
def section() -> Iterator[None]:
    """Let a part of a page fail alone: whatever goes wrong with its data becomes a message in its place.

    Serves as a block, and as a decorator of a function that draws a part.
    """
    try:
        yield
    except NbaError as error:
        st.error(_fault(error.message), icon=":material/error:")
        _mend(error.hint)
    except Exception:
        logging.getLogger(__name__).exception("part of a page failed")
        st.error(say("page.part_failed"), icon=":material/error:")


def _fault(message: str) -> str:
    # A message that this language does not know is quoted, as the log has it.
    own = told(message)
    is_known = own != message or not phrases(language())
    return literal(own) if is_known else say("page.quoted", message=literal(message))


def _mend(hint: str) -> None:
    if hint:
        st.markdown(say("page.hint", hint=told(hint)))


def role() -> Role:
    """Give the role of whoever looks."""
    found = st.session_state.get(ROLE, NOBODY)
    assert isinstance(found, Role)
    return found


def filled(reader: Reader, *needs: str) -> bool:
    """Say whether all tables have rows; else show which command fills the first that has none."""
    for name in needs:
        if not reader.has(name):
            st.info(say("empty.title"), icon=":material/hourglass_empty:")
            st.markdown(say("empty.step", command=_filling(reader, name)))
            return False
    # Where the numbers are no more than the age of what is shown, without them it is shown all the same.
    with nullcontext() if NUMBERS in needs else section():
        _warn_if_stale(reader, needs)
    return True


def present(reader: Reader, name: str) -> bool:
    """Say whether the table of a part of a page has rows; else say below the part's title what fills it."""
    is_there = reader.has(name)
    if not is_there:
        missing = "empty.none" if reader.history.has(name) else "empty.part"
        st.caption(say(missing, command=_filling(reader, name)))
    return is_there


def _filling(reader: Reader, name: str) -> str:
    source = _SOURCE.get(name, name)
    return reader.command(name if reader.has(source) else source)


def numbers(*shown: tuple[str, str, str, str]) -> None:
    """Show single numbers side by side, wrapping where the window is narrow.

    Args:
        shown: Label, value, tooltip ("" for none) and a note below ("" for none) of each.
    """
    with st.container(horizontal=True, gap="small"):
        for title, value, meaning, note in shown:
            with st.container(width=CARD if len(value) <= LONG else WIDTH, gap=None):
                number(title, value, meaning)
                if note:
                    st.caption(note)


def number(title: str, value: str, meaning: str = "") -> None:
    """Show one number below its title.

    As text: Streamlit's own metric waits in the browser until the library of figures has been read, by which
    an answer would come a second later than it is known.

    Args:
        title: Label, as Markdown.
        value: The number with its unit, as it is to be read.
        meaning: Tooltip; "" for none.
    """
    st.markdown(f":small[{title}]", help=meaning or None)
    st.header(plain(value), anchor=False)


def halves() -> tuple[DeltaGenerator, DeltaGenerator]:
    """Give two places side by side, one below the other where the window is narrow."""
    row = st.container(horizontal=True, gap="medium")
    return row.container(width=HALF), row.container(width=HALF)


def choose(
    title: str,
    options: Sequence[str],
    key: str,
    prefix: str = "",
    *,
    where: Any = None,
    help: str = "",  # noqa: A002
) -> str:
    """Let the user choose one of a few; the choice stands in the URL, so that a link repeats it.

    Args:
        title: Label.
        options: Our own names; the first is chosen at first, and then not in the URL.
        key: Name in the URL.
        prefix: Section of the catalogue that words the options; "" shows them as they are.
        where: Container to draw in.
        help: Tooltip.
    """
    asked, stands = st.query_params.get(key), st.session_state.get(key)
    # Always set: what another page left under the same name is not the choice of this page's widget.
    st.session_state[key] = next((name for name in (stands, asked) if name in options), options[0])
    is_short = bool(prefix) and len(options) <= SEGMENTS
    draw = (where or st).segmented_control if is_short else (where or st).selectbox
    more = {"required": True} if is_short else {}

    def word(name: str) -> str:
        text = _option(prefix, name)
        return plain(text) if is_short and text == name else text  # buttons read Markdown, lists do not

    shown = draw(title, options, key=key, format_func=word, help=help or None, **more)
    if shown == options[0]:
        st.query_params.pop(key, None)
    else:
        st.query_params[key] = str(shown)
    return str(shown)


def kept(key: str, usual: Any, read: Callable[[list[str]], Any | None], draw_it: Callable[[], Any]) -> Any:
    """Draw a widget whose changed value stands in the URL, so that a link repeats it.

    Args:
        key: The widget's key, and its name in the URL.
        usual: Its value at first, which does not stand in the URL; where it moves, a value that was left at
            it moves with it.
        read: Gives the value of what the URL says; None where that is no value of the widget.
        draw_it: Draws the widget under that key, without a value of its own.

    Returns:
        The widget's value.
    """
    before = f"usual_{key}"
    if key not in st.session_state:
        asked = read(st.query_params.get_all(key))
        st.session_state[key] = usual if asked is None else asked
    elif st.session_state[key] == st.session_state.get(before, usual):
        st.session_state[key] = usual
    st.session_state[before] = usual
    value = draw_it()
    if value == usual:
        st.query_params.pop(key, None)
    elif isinstance(value, list):
        st.query_params[key] = [str(one) for one in value]
    else:
        st.query_params[key] = str(int(value)) if isinstance(value, bool) else str(value)
    return value


def between(low: float, high: float) -> Callable[[list[str]], Any | None]:
    """Give what reads a number between two ends from the URL: whole where the ends are.

    Example:
        >>> between(1, 50)(["70"]), between(0.1, 3.0)(["0.5"]), between(1, 50)(["many"])
        (50, 0.5, None)
    """

    def read(texts: list[str]) -> float | None:
        try:
            found = type(low)(texts[0])
        except (IndexError, ValueError):
            return None
        return None if found != found else min(max(found, low), high)

    return read


def among(options: Sequence[str]) -> Callable[[list[str]], Any | None]:
    """Give what reads one of the options from the URL."""
    return lambda texts: next((text for text in texts if text in options), None)


def several(options: Sequence[str]) -> Callable[[list[str]], Any | None]:
    """Give what reads some of the options from the URL."""
    return lambda texts: [text for text in texts if text in options]


def _option(prefix: str, name: str) -> str:
    if "=" in name:  # an attribute and its value
        return conditions(name)
    own = label(prefix, name) if prefix else name
    return say("all") if name == ALL and own == ALL else own


_SOURCE = {
    "summary_effects": "effects",
    "summary_batches": "decisions",
    "summary_mix": "decisions",
    "summary_arms": "decisions",
    "summary_channels": "decisions",
    "summary_segments": "decisions",
    "summary_arbitration": "decisions",
    "summary_removed": "decisions",
    "summary_examples": "decisions",
    "summary_candidates": "decisions",
    "summary_credits": "credits",
    "summary_credit_parts": "credits",
    "summary_clv": "clv",
    "summary_at_risk": "clv",
    "summary_retained": "clv",
    "summary_models": "models",
    "summary_importance": "models",
    "summary_drift": "models",
    "summary_tables": "customers",
    "summary_sources": "quality",
    "summary_consent": "customers",
    "summary_identities": "quality",
    "summary_spreads": "customers",
}


# What summaries are made from; other tables, such as scenarios and promotions, leave them as they are.
_SUMMARISED = (
    *("customers", "identities", "orders", "events", "touches", "decisions", "outcomes", "features"),
    *("choices", "assignments", "actions", "treatments", "aliases", "states", "quality", "quarantine"),
    *("effects", "readouts", "credits", "attribution", "clv"),
)
_STALE_TOLD = "is_stale_told"
NUMBERS = "summary_numbers"


def _warn_if_stale(reader: Reader, needs: Sequence[str]) -> None:
    if not any(name.startswith("summary") for name in needs) or not reader.has(NUMBERS):
        return
    version, at = reader.number("summarised"), reader.moment("summarised")
    is_told = st.session_state.get(_STALE_TOLD, False)
    if version is not None and not is_told and reader.history.last_written(*_SUMMARISED) > version:
        st.session_state[_STALE_TOLD] = True
        st.warning(say("stale", at=day(at), command=reader.command("summary")), icon=":material/update:")
