"""One customer's history as rows to draw, in words; what is personal only for roles that may see it."""

from typing import Any

import pyarrow as pa

from app.data import Reader
from app.messages import label, number, say

LANES = ("decided", "contact", "visit", "service", "order")
SERVICE = ("ticket", "complaint")
MOST = 400  # rows of a kind that are drawn, the latest
_SCHEMA = pa.schema(
    [
        ("at", pa.timestamp("us", tz="UTC")),
        *((name, pa.string()) for name in ("lane", "kind", "channel", "text")),
    ]
)


def timeline(reader: Reader, customer: str, *, personal: bool) -> pa.Table:
    """Give what a customer did and was sent: columns at, lane, kind, channel, text; oldest first."""
    rows = [
        *_decisions(reader, customer),
        *_touches(reader, customer),
        *_events(reader, customer, personal=personal),
        *_orders(reader, customer),
    ]
    return pa.Table.from_pylist(rows, _SCHEMA).sort_by("at")


def lanes() -> list[str]:
    """Give the lanes from top to bottom in the session's language."""
    return [say(f"lane.{name}") for name in LANES]


def _latest(table: pa.Table, time: str) -> list[dict[str, Any]]:
    return table.sort_by([(time, "descending")]).slice(0, MOST).to_pylist()


def _row(at: object, lane: str, kind: str, channel: str, text: str) -> dict[str, Any]:
    # Plotly reads a little HTML in hover texts; what comes from data is text.
    safe = text.replace("<", "&lt;")
    return {"at": at, "lane": say(f"lane.{lane}"), "kind": kind, "channel": channel, "text": safe}


def _decisions(reader: Reader, customer: str) -> list[dict[str, Any]]:
    found = _latest(reader.lookup("decisions", "customer_id", customer), "decided_at")
    return [
        _row(
            row["decided_at"],
            "decided",
            say("kind.no_contact") if row["treatment_id"] == "none" else say("kind.decided"),
            row["channel"],
            say("story.decided", treatment=row["treatment_id"], arm=row["arm"] or ""),
        )
        for row in found
    ]


def _touches(reader: Reader, customer: str) -> list[dict[str, Any]]:
    found = _latest(reader.lookup("touches", "customer_id", customer), "touched_at")
    return [
        _row(
            row["touched_at"],
            "contact",
            label("kind", row["kind"]),
            row["channel"],
            f"{label('channel', row['channel'])}: {row['treatment_id'] or say('story.not_ours')}",
        )
        for row in found
    ]


def _events(reader: Reader, customer: str, *, personal: bool) -> list[dict[str, Any]]:
    found = _latest(reader.lookup("events", "customer_id", customer), "occurred_at")
    return [
        _row(
            row["occurred_at"],
            "service" if row["kind"] in SERVICE else "visit",
            label("kind", row["kind"]),
            "",
            (row["detail"] or "") if personal else label("kind", row["kind"]),
        )
        for row in found
    ]


def _orders(reader: Reader, customer: str) -> list[dict[str, Any]]:
    found = _latest(reader.lookup("orders", "customer_id", customer), "ordered_at")
    return [
        _row(
            row["ordered_at"],
            "order",
            say("kind.return") if row["is_return"] else say("kind.order"),
            "",
            say(
                "story.order",
                revenue=number(row["revenue"], reader.currency),
                margin=number(row["margin"], reader.currency),
            ),
        )
        for row in found
    ]
