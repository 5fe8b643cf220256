"""Models: which were trained, how good they are, and what they rest on."""

from app import parts
from app.data import Reader


def draw(reader: Reader) -> None:
    """Show the page."""
    if not parts.filled(reader, "summary_removed"):
        return


parts.page("models", draw)
