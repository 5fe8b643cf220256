"""Text without what tells who somebody is: e-mails, numbers with a prefix, and the row's own identifiers."""

from collections.abc import Sequence

from nba.histories.sources import literal

# Also within the query of an address, where @ may stand as %40.
_MAIL = '[^\\s@"<>,;=?&/]+(@|%40)[^\\s@"<>,;&]+'
_CALL = "(\\+|\\b00)[1-9][\\d ().-]{6,}\\d"
_REMOVED = "(removed)"


def scrubbed(text: str, kinds: Sequence[str]) -> str:
    """Write the SQL of a text without personal data.

    What cannot hold any is left alone: regular expressions are slow.

    Args:
        text: SQL of the text.
        kinds: Of the identifiers of the row, whose texts stand in its columns `k_<kind>`.
    """
    out = text
    for kind in kinds:
        # Nothing is replaced of what is empty. A `case` around it would write all before it twice.
        is_told = f"contains({text}, k_{kind}) and (strlen(k_{kind}) > 3 or k_{kind} = {text})"
        out = f"replace({out}, case when {is_told} then k_{kind} else '' end, '{_REMOVED}')"
    for pattern, sign in (
        (_MAIL, f"(contains({text}, '@') or contains({text}, '%40'))"),
        (_CALL, f"{_many_digits(text)}"),
    ):
        replaced = f"regexp_replace({out}, {literal(pattern)}, '{_REMOVED}', 'g')"
        out = f"case when {sign} then {replaced} else {out} end"
    return out


def _many_digits(text: str) -> str:
    return f"(strlen({text}) > 8 and (contains({text}, '+') or contains({text}, '00')))"
