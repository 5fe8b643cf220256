"""Text that comes from data, made harmless: a page shows it, and nothing in it acts."""

import re

from app.messages import plain


def safe(text: str) -> str:
    """Escape what comes from data."""
    return plain(text)


def document(text: str) -> str:
    r"""Let a document's headings, lists and tables show, but nothing in it act: no link, picture or HTML.

    Example:
        >>> print(document("# A\n| [x](http://y) | <b> |"))
        #### A
        | \[x\](http://y) | &lt;b> |
    """
    out = []
    smaller = re.sub(r"^(#+) ", r"###\1 ", text, flags=re.MULTILINE)  # it stands within a page
    for i, piece in enumerate(smaller.split("`")):
        # What stands between backquotes shows as it is.
        out.append(piece if i % 2 else piece.translate(_INERT))
    return "`".join(out)


_INERT = str.maketrans({"[": "\\[", "]": "\\]", "<": "&lt;", "$": "\\$", "!": "\\!"})


_NAIVE = "response rate"


def without_naive(card: str) -> str:
    r"""Leave out the column of naive response rates, which cards of earlier versions have.

    A policy chose whom to treat, so rates of treatments do not compare.

    Example:
        >>> print(without_naive("| a | response rate | b |\n|---|---:|---:|\n| x | 0.1 | y |"))
        | a | b |
        |---|---:|
        | x | y |
    """
    out: list[str] = []
    naive: int | None = None
    for line in card.splitlines():
        cells = line.split("|")
        if not line.startswith("|"):
            naive = None
        elif naive is None:
            titles = [cell.strip() for cell in cells]  # of whatever space, unbreakable too
            naive = titles.index(_NAIVE) if _NAIVE in titles else len(titles)
        if naive is not None and naive < len(cells):
            del cells[naive]
        out.append("|".join(cells))
    return "\n".join(out)


def literal(text: str) -> str:
    """Escape a message of several lines, so that it shows as it is."""
    return "  \n".join(plain(line) for line in text.splitlines())
