"""Who may have what: the engagement policy, with the stage and rule that removed each candidate.

Stages in order: running (dates, reach), consent (channel and purpose), the rules' own (eligibility,
applicability, suitability), contact (cooldown, pauses, one action per issue, caps, quiet hours). The first
rule that removes a candidate is its reason.
"""

from datetime import datetime
from typing import NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba import tables
from nba.catalog import NONE, Catalog
from nba.errors import DataError, SettingsError
from nba.history import Snapshot
from nba.policy import rules, windows
from nba.policy.contacts import Contacts
from nba.settings import ASKED_ALWAYS, ContactPolicy, Engagement, FrequencyCap, Limits, Reward

Flags = NDArray[np.bool_]

# A workspace's own rules come after these.
BUILT_IN = (("", ""), *ASKED_ALWAYS)
REASONS = tuple(name for name, _ in BUILT_IN)
STAGES = tuple(stage for _, stage in BUILT_IN)
_STOPPED, _UNREACHABLE, _NO_CONSENT, _OPTED_OUT, _COOLDOWN, _FREQUENCY, _ISSUE, _QUIET = range(1, 9)
_RULE_STAGES = ("eligibility", "applicability", "suitability")


class Eligibility(NamedTuple):
    """Which treatments each customer may have.

    Attributes:
        customer_ids: Shape (n,).
        is_eligible: Shape (n, k); `none` (column 0) always.
        reason: Shape (n, k), number of the rule in `reasons` that removed it; 0 where eligible.
        reasons: The rules in words.
        stages: Stage of each rule.
        zone: Number of each customer's zone in `nba.policy.windows.ZONES`, shape (n,).
    """

    customer_ids: pa.Array
    is_eligible: Flags
    reason: NDArray[np.int8]
    zone: NDArray[np.int16]
    reasons: tuple[str, ...] = REASONS
    stages: tuple[str, ...] = STAGES


class Terms(NamedTuple):
    """What rules are asked by, beside the rules themselves.

    Attributes:
        until: When a decision lapses; without it send windows are not asked.
        zone: Zone of customers whose own is not known.
        window_days: Days after a decision in which a purchase is a response to it.
        without: Rules that are not asked, by name.
    """

    until: datetime | None = None
    zone: str = "UTC"
    window_days: int = Reward().window_days
    without: tuple[str, ...] = ()


def reasons(engagement: Engagement) -> tuple[tuple[str, str], ...]:
    """Give every rule that can remove a candidate and its stage, in the order of their numbers."""
    own: list[tuple[str, str]] = [(rule.name, rule.stage) for rule in engagement.rules]
    own += [(purpose.name, "consent") for purpose in engagement.purposes]
    own += [(policy.name, "contact") for policy in engagement.contact_policies]
    own += [(cap.name, "contact") for cap in engagement.frequency_caps]
    return (*BUILT_IN, *own)


def eligible(
    snapshot: Snapshot,
    catalog: Catalog,
    limits: Limits,
    customer_ids: pa.Array,
    engagement: Engagement | None = None,
    features: pa.Table | None = None,
    terms: Terms = Terms(),  # noqa: B008 it is immutable
) -> Eligibility:
    """Apply the rules to every customer and treatment, as known at the snapshot's moment.

    A contact counts once: as our decision (unless it was refused or failed), or as somebody else's touch.

    Args:
        snapshot: The history as it was known.
        catalog: Fixes the columns.
        limits: Frequency cap per customer.
        customer_ids: Shape (n,).
        engagement: The workspace's own rules, pauses, caps and send windows; none if absent.
        features: Of the customers, in their order; what rules may read beside the customers' columns.
        terms: How long a decision holds, and what else rules depend on.

    Raises:
        DataError: when a channel of the catalog has no consent column, or a customer is not known.
        SettingsError: when a rule cannot be used, naming every fault.
    """
    engagement = engagement or Engagement()
    _check_channels(snapshot, catalog)
    _check_names(engagement, catalog)
    customers = _customers(snapshot, catalog, customer_ids)
    every = reasons(engagement)
    number = {name: i for i, (name, _) in enumerate(every)}
    reason = np.zeros((len(customer_ids), len(catalog.treatment_ids)), dtype=np.int8)

    def remove(rule: int, which: Flags) -> None:
        if every[rule][0] not in terms.without:
            reason[(reason == 0) & which] = rule

    remove(_STOPPED, ~catalog.active(snapshot.at)[None, :])
    remove(_UNREACHABLE, _column(customers, "unreachable")[:, None])
    for channel in catalog.channels:
        here = (catalog.channel == channel)[None, :]
        remove(_NO_CONSENT, ~_column(customers, f"can_{channel}")[:, None] & here)
        remove(_OPTED_OUT, _column(customers, f"left_{channel}")[:, None] & here)
    for name, gone in _by_rules(snapshot, catalog, engagement, customer_ids, features):
        remove(number[name], gone)
    zones = windows.numbers(customers["timezone"], terms.zone)
    contacts = Contacts(snapshot, catalog, customer_ids, pa.array(windows.ZONES).take(pa.array(zones)))
    remove(_COOLDOWN, contacts.cooling())
    for policy in engagement.contact_policies:
        remove(number[policy.name], contacts.paused(policy, terms.window_days))
    if engagement.issue_days:
        remove(_ISSUE, contacts.kept_by_another(engagement.issue_days))
    remove(_FREQUENCY, contacts.tired(limits)[:, None])
    for cap in engagement.frequency_caps:
        remove(number[cap.name], contacts.capped(cap))
    if terms.until is not None:
        start, _ = windows.spans(snapshot.at, terms.until, zones, catalog.channels, engagement.send_windows)
        column = np.array([catalog.channels.index(name) for name in catalog.channel[1:]], dtype=np.int64)
        remove(_QUIET, np.insert(start[:, column] < 0, 0, values=False, axis=1))
    reason[:, 0] = 0
    return Eligibility(
        customer_ids,
        reason == 0,
        reason,
        zones,
        tuple(name for name, _ in every),
        tuple(stage for _, stage in every),
    )


def removed(reason: NDArray[np.int8], n_rules: int) -> NDArray[np.int64]:
    """Count customers by treatment and rule that removed it, from reasons (n, k) to shape (k, rules)."""
    counts = [np.bincount(column, minlength=n_rules) for column in reason.T]
    return np.stack(counts) if counts else np.zeros((0, n_rules), dtype=np.int64)


def removals(batch_id: str, counts: NDArray[np.int64], engagement: Engagement, catalog: Catalog) -> pa.Table:
    """Make the `removals` rows of a batch: how many customers each rule kept each treatment from.

    Args:
        batch_id: The batch.
        counts: Customers by treatment and rule, of `removed`, shape (k, rules).
        engagement: Names the workspace's own rules.
        catalog: Names the columns.
    """
    rows = [
        {"batch_id": batch_id, "treatment_id": treatment, "stage": stage or "kept", "rule": rule,
         "n_customers": int(n)}
        for treatment, of in zip(catalog.treatment_ids, counts)
        if treatment != NONE
        for i, ((rule, stage), n) in enumerate(zip(reasons(engagement), of))
        if n or i == 0
    ]  # fmt: skip
    return tables.REMOVALS.build(rows)


def _by_rules(
    snapshot: Snapshot,
    catalog: Catalog,
    engagement: Engagement,
    customer_ids: pa.Array,
    features: pa.Table | None,
) -> list[tuple[str, Flags]]:
    # What the workspace's own conditions and purposes remove, in order of the stages.
    if not engagement.rules and not engagement.purposes:
        return []
    known = [name for name in snapshot.sql("from customers limit 0").column_names if name != "customer_id"]
    extra = [] if features is None else [n for n in features.column_names if n.startswith("f_")]
    columns = ["decided_at", *known, *extra]
    faults = [
        fault
        for rule in engagement.rules
        if (fault := rules.fault(f"rule {rule.name!r}", rule.keep, columns))
    ]
    faults += [
        f"purpose {one.name!r}: column {one.column!r} is not among {known}"
        for one in engagement.purposes
        if one.column not in known
    ]
    if faults:
        raise SettingsError(
            "\n".join(["the engagement policy cannot be used:", *(f"- {fault}" for fault in faults)]),
            "Mend [engagement] in nba.toml; docs/features.md lists the features.",
        )
    ordered = sorted(engagement.rules, key=lambda rule: _RULE_STAGES.index(rule.stage))
    asked = [(one.name, tables.is_yes(f'"{one.column}"')) for one in engagement.purposes]
    asked += [(rule.name, f"coalesce(({rule.keep}\n)::boolean, false)") for rule in ordered]
    kept = _conditions(snapshot, customer_ids, features, extra, asked)
    concerned = [_selected(one, catalog) for one in (*engagement.purposes, *ordered)]
    return [(name, ~kept[:, [i]] & concerned[i]) for i, (name, _) in enumerate(asked)]


def _conditions(
    snapshot: Snapshot,
    customer_ids: pa.Array,
    features: pa.Table | None,
    extra: list[str],
    asked: list[tuple[str, str]],
) -> Flags:
    connection = snapshot.connection
    own = {"customer_id": customer_ids, "row": pa.array(np.arange(len(customer_ids)))}
    if features is not None:
        own |= {name: features[name] for name in extra}
    connection.register("asked", pa.table(own))
    moment = f"timestamptz '{snapshot.at:%Y-%m-%d %H:%M:%S.%f}+00'"
    shown = ", ".join(f"{sql} as kept_{i}" for i, (_, sql) in enumerate(asked))
    source = f"(select *, {moment} as decided_at from asked) a join customers using (customer_id)"
    try:
        found = snapshot.sql(f"select {shown} from {source} order by a.row")
    except duckdb.Error as error:
        named = [(f"rule {name!r}", sql) for name, sql in asked]
        raise rules.unanswered(named, source, snapshot.sql, error) from None
    finally:
        connection.unregister("asked")
    return np.column_stack([_column(found, f"kept_{i}") for i in range(len(asked))])


def _selected(one: object, catalog: Catalog) -> Flags:
    # Columns that a rule or purpose concerns, shape (k,).
    out = np.ones(len(catalog.treatment_ids), dtype=bool)
    for names, of in _names_asked(one, catalog):
        if names:
            out &= np.isin(of, names)
    return out


def _names_asked(one: object, catalog: Catalog) -> list[tuple[tuple[str, ...], NDArray[np.str_]]]:
    levels = {f"{level}s": names for level, names in catalog.levels.items()}
    return [(getattr(one, level, ()), names) for level, names in levels.items()]


def _check_names(engagement: Engagement, catalog: Catalog) -> None:
    faults = []
    for one in (*engagement.rules, *engagement.purposes, *engagement.send_windows):
        for names, of in _names_asked(one, catalog):
            if odd := sorted(set(names) - set(of.tolist())):
                called = repr(getattr(one, "name", "send window"))
                faults.append(f"{called} names {odd}; the catalog has {sorted(set(of.tolist()) - {NONE})}")
    levels = catalog.levels
    limits: list[ContactPolicy | FrequencyCap] = [*engagement.contact_policies, *engagement.frequency_caps]
    for limit in limits:
        of = levels.get(limit.level, np.array(["all"]))
        if odd := sorted(set(limit.only) - set(of.tolist())):
            there = sorted(set(of.tolist()) - {NONE})
            faults.append(f"{limit.name!r} names {odd}; at level {limit.level} there are {there}")
    if faults:
        raise SettingsError(
            "\n".join(["the engagement policy does not fit the catalog:", *(f"- {f}" for f in faults)]),
            "Mend the names in [engagement] of nba.toml, or the catalog.",
        )


def _check_channels(snapshot: Snapshot, catalog: Catalog) -> None:
    found = snapshot.sql("from customers limit 0").column_names
    missing = [channel for channel in catalog.channels if f"can_{channel}" not in found]
    if missing:
        known = sorted(name.removeprefix("can_") for name in found if name.startswith("can_"))
        raise DataError(
            f"the catalog sends on {missing}; customers hold consent for {known}",
            "Use a channel that has a consent column, or take the treatment out of the catalog.",
        )


def _customers(snapshot: Snapshot, catalog: Catalog, customer_ids: pa.Array) -> pa.Table:
    consent = "".join(f', c."can_{channel}"' for channel in catalog.channels)
    left = "".join(
        f", coalesce(list_contains(u.channels, '{channel}'), false) as \"left_{channel}\""
        for channel in catalog.channels
    )
    table = _ask(
        snapshot,
        customer_ids,
        "select a.row, c.customer_id is null as absent, c.external_id is null as unreachable,"
        f" c.timezone{consent}{left}"
        " from asked a left join customers c using (customer_id) left join ("
        "  select customer_id, list(distinct channel) as channels from touches"
        "  where kind = 'unsubscribed' group by 1) u using (customer_id) order by a.row",
    )
    absent = _column(table, "absent")
    if absent.any():
        raise DataError(
            f"{int(absent.sum())} of {len(customer_ids)} customers are not known at {snapshot.at}",
            "Decide only for customers of the history.",
        )
    return table


def _ask(snapshot: Snapshot, customer_ids: pa.Array, query: str) -> pa.Table:
    # `asked` holds the customers with their row number.
    connection = snapshot.connection
    row = pa.array(np.arange(len(customer_ids)))
    connection.register("asked", pa.table({"customer_id": customer_ids, "row": row}))
    try:
        return snapshot.sql(query)
    finally:
        connection.unregister("asked")


def _column(table: pa.Table, name: str) -> Flags:
    return np.asarray(table[name].to_numpy(), dtype=bool)
