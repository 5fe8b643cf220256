"""What happened: catalog, customers and their identities, orders, events, touches; how sound they are."""

from collections.abc import Mapping

from nba.tables import fields as f
from nba.tables.fields import Table

CHANNELS = ("email", "sms", "push", "call")

ACTIONS = Table(
    "actions",
    "What may be proposed.",
    ("action_id",),
    (
        f.identifier("action_id", "the action"),
        f.text("issue", "business purpose"),
        f.text("group", "theme under the issue"),
        f.text("name", "name as people know it"),
        f.money("margin", "earned per response where the customer's own margin is not known", low=0.0),
        f.number("lever", "business weight on the value; 1 changes nothing", "factor", low=0.1, high=10.0),
        f.time("starts_at", "first moment at which it may be proposed", nullable=True),
        f.time("ends_at", "first moment at which it may no longer be proposed", nullable=True),
    ),
)

TREATMENTS = Table(
    "treatments",
    "Actions on channels: what is sent.",
    ("treatment_id",),
    (
        f.TREATMENT,
        f.identifier("action_id", "the action carried"),
        f.text("channel", "the medium"),
        f.money("cost", "per delivery", low=0.0),
        f.count("cooldown_days", "days after a delivery without the same action", "days", low=0),
    ),
)

CUSTOMERS = Table(
    "customers",
    "One row per unified customer.",
    ("customer_id",),
    (
        f.CUSTOMER,
        f.identifier("external_id", "the id by which orchestration knows the customer", nullable=True),
        f.time("joined_at", "first seen in any source, under the identifier that the customer began with"),
        *(f.flag(f"can_{c}", f"consent to {c} in the CRM (later opt-outs are touches)") for c in CHANNELS),
        f.text("timezone", "IANA zone of the customer", nullable=True),
    ),
    open_prefix="a_",
)

STATES = Table(
    "states",
    "What sources told of a customer and since when, where they say so: a look back sees what held then.",
    ("customer_id", "since_at"),
    (
        f.CUSTOMER,
        f.time("since_at", "when it was changed to this; 1900 for what is not dated"),
        *(f.flag(f"can_{c}", f"consent to {c} from then on") for c in CHANNELS),
        f.text("timezone", "IANA zone of the customer", nullable=True),
    ),
    open_prefix="a_",
)

IDENTITIES = Table(
    "identities",
    "Which salted identifier belongs to which customer; no personal data in clear.",
    ("identifier_kind", "identifier_hash"),
    (
        f.text("identifier_kind", "crm_id, email, phone, cookie, device, loyalty_card, ..."),
        f.identifier("identifier_hash", "salted hash of the normalised identifier"),
        f.CUSTOMER,
        f.text("source", "where it was first seen"),
        f.time("first_seen_at", "when it was first seen, and that was known"),
        f.time("joined_at", "since when it is known to be the customer's: rows count for it from then on"),
    ),
)

ALIASES = Table(
    "aliases",
    "Customer ids that went into older ones when two customers turned out to be one person.",
    ("alias_id",),
    (
        f.identifier("alias_id", "the id that went"),
        f.CUSTOMER,
        f.time("joined_at", "since when it is known to be the other; unknown is always", nullable=True),
        f.identifier("next_id", "the id that it went into first, which may have gone too", nullable=True),
        f.time("next_at", "since when it is known to be that one", nullable=True),
        f.flag("is_pending", "whether rows of orders, events, touches and identities still carry it on disk"),
    ),
)

SUPPRESSED = Table(
    "suppressed",
    "Identifiers of persons who asked to be forgotten, hashed again: rows that carry one are passed over.",
    ("tombstone",),
    (f.identifier("tombstone", "hash of a salted hash"),),
)

INGESTED = Table(
    "ingested",
    "Which raw files the history was made of.",
    ("source", "file"),
    (
        f.text("source", "name of the source"),
        f.text("file", "file within the source, or the table of a database"),
        f.identifier("content_hash", "hash of its content and of all settings that its rows depend on"),
        f.count("n_rows", "rows in it", low=0),
        f.count("n_quarantined", "of these, rows that cannot be used", low=0),
    ),
)

ORDERS = Table(
    "orders",
    "Purchases and returns.",
    ("order_id",),
    (
        f.identifier("order_id", "the order"),
        f.CUSTOMER,
        f.time("ordered_at", "when it was placed"),
        f.money("revenue", "net revenue; negative for a return"),
        f.money("margin", "revenue less cost of goods; negative for a return"),
        f.count("n_items", "pieces in the order", low=0),
        f.flag("is_return", "whether goods came back"),
        f.KNOWN,
    ),
)

EVENTS = Table(
    "events",
    "What customers did: web and app events, service tickets.",
    ("event_id",),
    (
        f.identifier("event_id", "the event"),
        f.CUSTOMER,
        f.time("occurred_at", "when it happened"),
        f.text("kind", "visit, view, cart, search, ticket, complaint, ..."),
        f.text("channel", "web, app, store, service, ...", nullable=True),
        f.text("detail", "free detail, as the source gives it", nullable=True),
        f.KNOWN,
    ),
)

TOUCHES = Table(
    "touches",
    "Contacts and what came of them.",
    ("touch_id",),
    (
        f.identifier("touch_id", "the touch"),
        f.CUSTOMER,
        f.time("touched_at", "when it happened"),
        f.text("channel", "the medium"),
        f.code(
            "kind",
            "what happened; failed: the channel could not deliver it; refused: the customer or their provider"
            " did not take it (a blocked number, a call not accepted), so that neither counts as a contact",
            values=("sent", "delivered", "failed", "seen", "clicked", "refused", "unsubscribed"),
        ),
        f.identifier("treatment_id", "what was sent; unknown where it was not ours", nullable=True),
        f.identifier("decision_id", "the decision that caused it, where known", nullable=True),
        f.money("cost", "spent on it", low=0.0),
        f.KNOWN,
    ),
)


def _earlier(of: Table, rows: str) -> Table:
    return Table(
        f"{of.name}_earlier",
        f"What was known of {rows} until it was corrected, grew or was another customer's: a look back sees"
        " what was known then.",
        (of.key[0], "superseded_at"),
        (*of.fields, f.time("superseded_at", "when the row that took its place became known")),
    )


ORDERS_EARLIER = _earlier(ORDERS, "an order")
EVENTS_EARLIER = _earlier(EVENTS, "an event")
TOUCHES_EARLIER = _earlier(TOUCHES, "a touch")
# Table to the one of what was known before of its rows.
EARLIER: Mapping[str, str] = {
    "orders": ORDERS_EARLIER.name,
    "events": EVENTS_EARLIER.name,
    "touches": TOUCHES_EARLIER.name,
}

CUSTOMERS_EARLIER = Table(
    "customers_earlier",
    "Customers who went into others, as they were until then: a look back sees them apart.",
    ("customer_id",),
    (*CUSTOMERS.fields, f.time("superseded_at", "since when it is known to be another")),
    open_prefix="a_",
)
IDENTITIES_EARLIER = Table(
    "identities_earlier",
    "Which identifier was whose, until that customer went into another.",
    ("identifier_kind", "identifier_hash", "superseded_at"),
    (*IDENTITIES.fields, f.time("superseded_at", "since when it is known to be another's")),
)
# Table to the one of what was known before of it, where customers are concerned too.
BEFORE: Mapping[str, str] = {
    **EARLIER,
    "customers": CUSTOMERS_EARLIER.name,
    "identities": IDENTITIES_EARLIER.name,
}

QUARANTINE = Table(
    "quarantine",
    "Rows that could not be used, with the reason: nothing is silently dropped.",
    ("source", "file", "row_number", "reason"),
    (
        f.text("source", "name of the source"),
        f.text("file", "file within the source"),
        f.count("row_number", "row in the file, from 1 without its header", low=0),
        f.text("reason", "what was wrong"),
        f.text("raw", "the row as it stood, identifiers removed"),
    ),
)

QUALITY = Table(
    "quality",
    "What ingestion found in each source.",
    ("source", "measure"),
    (
        f.text("source", "name of the source, or `identity`"),
        f.text("measure", "what was measured: rows_in, rows_kept, quarantined, duplicates, ..."),
        f.number("value", "the finding", "as the measure says"),
        f.text("note", "in words, where that helps"),
    ),
)
