"""The workspace of the simulated company: its limits, and the mapping of its raw files."""

from datetime import datetime

from nba.histories.simulated_play import UNSUBSCRIBE_COST

CAPACITY_SHARE = {"email": 0.12, "push": 0.08, "sms": 0.05, "call": 0.012}
BUDGET_EACH = 0.03
CONTACT_DAYS, MAX_CONTACTS = 28, 3


def default_limits(n_customers: int) -> tuple[dict[str, int], float]:
    """Give the capacity by channel and the budget of a weekly batch, as the workspace states them."""
    capacity = {channel: round(share * n_customers) for channel, share in CAPACITY_SHARE.items()}
    return capacity, round(BUDGET_EACH * n_customers, 2)


def settings_text(n_customers: int, seed: int, start: datetime) -> str:
    """Write the workspace's `nba.toml`: sources and their mapping, limits, reward and experiment."""
    capacity, budget = default_limits(n_customers)
    limits = "\n".join(f"{channel} = {n}" for channel, n in capacity.items())
    return _SETTINGS.format(
        seed=seed,
        limits=limits,
        budget=budget,
        contact_days=CONTACT_DAYS,
        max_contacts=MAX_CONTACTS,
        unsubscribe_cost=UNSUBSCRIBE_COST,
        start=start.isoformat(),
    )


_SETTINGS = """\
# A simulated company: what its raw files look like, and the rules its decisions keep.

[workspace]
name = "simulated"
currency = "EUR"
timezone = "Europe/Madrid"
seed = {seed}

[[sources]]
name = "crm"
table = "customers"
path = "sources/crm/*.csv"
identifiers = {{ crm_id = "crm_id", email = "email", phone = "phone", loyalty_card = "card" }}
timezone = "Europe/Madrid"

[sources.columns]
joined_at = "created"
can_email = "optin_email"
can_sms = "optin_sms"
can_push = "optin_push"
can_call = "optin_call"
a_acquisition = "acquisition"
a_region = "region"

[sources.constants]
timezone = "Europe/Madrid"

[sources.values]
can_email = {{ S = true, N = false }}
can_sms = {{ S = true, N = false }}
can_push = {{ S = true, N = false }}
can_call = {{ S = true, N = false }}

[[sources]]
name = "shop"
table = "orders"
path = "sources/orders/*.csv"
delimiter = ";"
decimal = ","
identifiers = {{ email = "email", loyalty_card = "card", crm_id = "crm_id" }}
timezone = "Europe/Madrid"

[sources.columns]
order_id = "order_id"
ordered_at = "placed"
revenue = "amount"
margin = "margin"
n_items = "items"

[[sources]]
name = "web"
table = "events"
path = "sources/web/*.jsonl"
format = "jsonl"
identifiers = {{ cookie = "cookie", email = "email", crm_id = "crm_id" }}

[sources.columns]
occurred_at = "ts"
kind = "type"
detail = "page"

[sources.constants]
channel = "web"

[sources.values]
kind = {{ visit = "visit", pageview = "view", add_to_cart = "cart", search = "search" }}

[[sources]]
name = "marketing"
table = "touches"
path = "sources/touchpoints/*.parquet"
format = "parquet"
identifiers = {{ crm_id = "crm_id", device = "device" }}

[sources.columns]
touch_id = "touch_id"
touched_at = "at"
channel = "channel"
kind = "status"
treatment_id = "treatment_id"
decision_id = "decision_id"
cost = "cost"

[sources.values.kind]
sent = "sent"
delivered = "delivered"
bounced = "failed"
opened = "seen"
clicked = "clicked"
rejected = "refused"
optout = "unsubscribed"

[[sources]]
name = "service"
table = "events"
path = "sources/tickets/*.csv"
encoding = "latin-1"
identifiers = {{ phone = "phone", email = "email" }}
timezone = "Europe/Madrid"

[sources.columns]
event_id = "ticket_id"
occurred_at = "opened"
kind = "kind"
detail = "subject"

[sources.constants]
channel = "service"

[sources.values]
kind = {{ consulta = "ticket", "reclamación" = "complaint" }}

[reward]
window_days = 14
unsubscribe_cost = {unsubscribe_cost}

[limits]
budget = {budget}
contact_days = {contact_days}
max_contacts = {max_contacts}

[limits.capacity]
{limits}

[policy]
strategy = "softmax"
temperature = 0.03
floor = 0.01

[models]
folds = 3

# Where a customer came from was settled before any contact, so effects can be told by it.
[experiment]
segments = ["a_acquisition"]

[[experiment.arms]]
name = "holdout"
share = 0.10
policy = "none"

[[experiment.arms]]
name = "policy"
share = 0.70
policy = "champion"

[[experiment.arms]]
name = "random"
share = 0.10
policy = "random"

[[experiment.arms]]
name = "response"
share = 0.10
policy = "response_greedy"

[[experiment.metrics]]
name = "margin"
numerator = "margin"
role = "primary"
planned_effect = 0.1

[[experiment.metrics]]
name = "orders"
numerator = "orders"

[[experiment.metrics]]
name = "unsubscribes"
numerator = "unsubscribes"
role = "guardrail"
is_good = false
margin = 0.02
is_adjusted = false

# Is choosing by effect better than choosing by chance of response? The same customers, another control.
[[experiments]]
experiment_id = "effect_or_response"
layer = "standing"
control = "response"
starts_at = {start}
arms = [
    {{ name = "policy", share = 0.875, policy = "champion" }},
    {{ name = "response", share = 0.125, policy = "response_greedy" }},
]
metrics = [
    {{ name = "margin", numerator = "margin", role = "primary", planned_effect = 0.1 }},
    {{ name = "basket", numerator = "revenue", denominator = "orders" }},
    {{ name = "opt_outs", numerator = "unsubscribes", role = "guardrail", is_good = false, margin = 0.02 }},
]
"""
