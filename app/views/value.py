"""Value finder: customers for whom the policy has nothing, or nothing worth much."""

from app import parts
from app.data import Reader


def draw(reader: Reader) -> None:
    """Show the page."""
    if not parts.filled(reader, "summary_removed"):
        return


parts.page("value", draw)
