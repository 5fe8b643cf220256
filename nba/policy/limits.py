"""Limits over all customers: volumes per channel, action, group or day, minimum volumes, and a budget.

Each limit is a column of use: what one choice of each treatment takes of it. Which limits cannot hold
together is found by a small linear programme over the treatments' volumes, and said by name with the
nearest value that can be reached; nothing is dropped in silence.
"""

from datetime import datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from nba import settings
from nba.catalog import NONE, Catalog
from nba.errors import SettingsError
from nba.history import Snapshot

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
BUDGET = "budget"


class Limited(NamedTuple):
    """The limits of a batch in numbers.

    Attributes:
        names: Channels that have a capacity, `budget` where there is one, volumes by their names; m of them.
        use: What one choice of each treatment uses of each, shape (k, m).
        available: How much there is, shape (m,); infinite where a volume is only limited from below.
        least: How much is to be used at least, shape (m,); None where no limit asks for any.
    """

    names: tuple[str, ...]
    use: Array
    available: Array
    least: Array | None = None


class Finding(NamedTuple):
    """A limit that cannot be held as it was asked for.

    Attributes:
        limit: Its name; a treatment's id where its exploration floor is cut.
        kind: `minimum` or `floor`.
        asked: What was asked for, in the limit's unit (a floor: probability).
        feasible: The nearest value that can be held.
        words: The same, for people.
    """

    limit: str
    kind: str
    asked: float
    feasible: float
    words: str


def of(catalog: Catalog, limits: settings.Limits, spent: Array | None = None) -> Limited:
    """Put the limits of a batch into numbers.

    Args:
        catalog: Fixes the columns.
        limits: As the workspace declares them.
        spent: Choices of each treatment that earlier batches of the same day made, shape (k,); limits per
            day have that much less.

    Raises:
        SettingsError: naming every limit that names something unknown, or that contradicts another.

    Example:
        >>> from nba.catalog import Action, Treatment
        >>> sale = Action("sale", "s", "s", "Sale", 20.0)
        >>> shop = Catalog((sale,), (Treatment("mail", "sale", "email", 0.02),))
        >>> of(shop, settings.Limits(capacity={"email": 100}, budget=5.0)).available.tolist()
        [100.0, 5.0]
    """
    spent = np.zeros(len(catalog.treatment_ids)) if spent is None else spent
    rows: list[tuple[str, Array, float, float]] = []
    for channel in catalog.channels:
        if channel in limits.capacity:
            use = (catalog.channel == channel).astype(np.float64)
            rows.append((channel, use, float(limits.capacity[channel]), 0.0))
    if limits.budget is not None:
        rows.append((BUDGET, catalog.cost, limits.budget, 0.0))
    faults = []
    for volume in limits.volumes:
        use, odd = _use(catalog, volume)
        if odd:
            faults.append(odd)
        taken = float(use @ spent) if volume.per == "day" else 0.0
        most = np.inf if volume.most is None else max(volume.most - taken, 0.0)
        rows.append((volume.name, use, most, max(volume.least - taken, 0.0)))
    names = [row[0] for row in rows]
    faults += [f"{name!r} names two limits" for name in sorted({n for n in names if names.count(n) > 1})]
    if faults:
        raise SettingsError(
            "\n".join(["the limits cannot be used:", *(f"- {fault}" for fault in faults)]),
            "Mend [limits] in nba.toml.",
        )
    matrix = np.stack([row[1] for row in rows], axis=1) if rows else np.zeros((len(spent), 0))
    least = np.array([row[3] for row in rows])
    return Limited(tuple(names), matrix, np.array([row[2] for row in rows]), least if least.any() else None)


def scaled(limited: Limited, share: float, active: float = 1.0) -> Limited:
    """Give an arm's share of the limits; volumes are whole contacts, at most their share and none more.

    Args:
        limited: The limits of all customers.
        share: Part of the customers that are the arm's.
        active: Part of the customers whose arm may contact anybody; they share the limits from below, since a
            holdout adds nothing to these.
    """
    whole = np.array([name != BUDGET for name in limited.names], dtype=bool)
    part = limited.available * share
    least = None if limited.least is None else limited.least * (share / active)
    return limited._replace(available=np.where(whole, np.floor(part + 1e-9), part), least=least)


def spent_today(snapshot: Snapshot, catalog: Catalog, zone: str) -> Array:
    """Count the choices of each treatment since the workspace's last midnight, shape (k,)."""
    here = ZoneInfo(zone)
    local = snapshot.at.astimezone(here)
    midnight = datetime(local.year, local.month, local.day, tzinfo=here)
    rows = snapshot.sql(
        "select treatment_id, count(*) as n from decisions where decided_at >= $since group by 1",
        {"since": midnight},
    ).to_pylist()
    count = {row["treatment_id"]: float(row["n"]) for row in rows if row["treatment_id"] != NONE}
    return np.array([count.get(name, 0.0) for name in catalog.treatment_ids])


def reachable(limited: Limited, is_eligible: Flags) -> tuple[Limited, tuple[Finding, ...]]:
    """Lower the limits from below to what eligibility and the limits from above allow.

    Args:
        limited: The limits.
        is_eligible: Shape (n, k).

    Returns:
        Limits that can be held as far as volumes tell, and every limit that was lowered.
    """
    if limited.least is None:
        return limited, ()
    asked = np.flatnonzero(limited.least > 0)
    most = is_eligible.sum(axis=0).astype(np.float64)
    most[0] = 0.0
    k, n_asked = len(most), len(asked)
    # Volumes of the treatments and the shortfall of each minimum; as little shortfall as can be.
    above = np.isfinite(limited.available)
    use, n = limited.use, float(is_eligible[:, 1:].any(axis=1).sum())
    caps = np.hstack([use[:, above].T, np.zeros((int(above.sum()), n_asked))])
    everybody = np.append(np.append(0.0, np.ones(k - 1)), np.zeros(n_asked))
    minimums = np.hstack([-use[:, asked].T, -np.eye(n_asked)])
    found = linprog(
        np.append(np.zeros(k), 1 / limited.least[asked]),
        A_ub=np.vstack([caps, everybody, minimums]),
        b_ub=np.concatenate([limited.available[above], [n], -limited.least[asked]]),
        bounds=[(0.0, float(m)) for m in most] + [(0.0, None)] * n_asked,
        method="highs",
    )
    missing = np.asarray(found.x[k:])
    least, findings = limited.least.copy(), []
    for j, lacks in zip(asked, missing):
        if lacks > 1e-6 * limited.least[j]:
            least[j] = max(limited.least[j] - lacks, 0.0)
            findings.append(_short(limited.names[j], float(limited.least[j]), float(least[j])))
    return limited._replace(least=least), tuple(findings)


def short(limited: Limited, expected_use: Array) -> tuple[Finding, ...]:
    """Name the minimums that a batch does not reach.

    Args:
        limited: The limits as asked for, of the whole batch.
        expected_use: What all arms use of each, shape (m,).
    """
    if limited.least is None:
        return ()
    return tuple(
        _short(name, float(asked), float(got))
        for name, asked, got in zip(limited.names, limited.least, expected_use)
        if got < asked * (1 - 0.01) - 0.5
    )


def floors(floor: float, floor_kept: Array, treatment_ids: tuple[str, ...]) -> tuple[Finding, ...]:
    """Name the treatments whose exploration floor a limit cut.

    Args:
        floor: The policy's even floor.
        floor_kept: Share of it that each treatment kept, shape (k,).
        treatment_ids: Names of the columns.
    """
    out = []
    for name, kept in zip(treatment_ids, floor_kept):
        if floor > 0 and kept < 0.99:
            words = f"{name}: the limits leave an exploration floor of {floor * kept:.2g} of {floor:.2g}"
            out.append(Finding(name, "floor", floor, float(floor * kept), words))
    return tuple(out)


def price_words(limited: Limited, price: Array, used: Array) -> tuple[str, ...]:
    """Say what each limit costs: one sentence per limit.

    Example:
        >>> limited = Limited(("sms",), np.zeros((2, 1)), np.array([500.0]))
        >>> price_words(limited, np.array([0.312]), np.array([498.2]))
        ('sms: one more is worth 0.31 (498 of 500 used)',)
    """
    out = []
    for name, one, most, got in zip(limited.names, price, limited.available, used):
        unit = "one more unit of money" if name == BUDGET else "one more"
        bound = f"{got:.0f} of {most:.0f} used" if np.isfinite(most) else f"{got:.0f} used"
        if one < 0:
            out.append(f"{name}: the last one asked for costs {-one:.2f} ({got:.0f} used)")
        elif one > 0:
            out.append(f"{name}: {unit} is worth {one:.2f} ({bound})")
        else:
            out.append(f"{name}: more would be worth nothing ({bound})")
    return tuple(out)


def binding(limited: Limited, price: Array, used: Array) -> tuple[str, ...]:
    """Say what one more of each limit that has a price is worth."""
    words = price_words(limited, price, used)
    return tuple(text for text, one in zip(words, price) if abs(one) >= 0.005)


def bounded(available: float, use: Array, n: int) -> float:
    """Give a limit as a number for tables: what n customers can use at most where it has no upper end."""
    return float(available) if np.isfinite(available) else float(n * use.max(initial=0.0))


def _short(name: str, asked: float, got: float) -> Finding:
    words = f"{name}: at least {asked:.0f} were asked for, {got:.0f} can be reached"
    return Finding(name, "minimum", asked, got, words)


def _use(catalog: Catalog, volume: settings.Volume) -> tuple[Array, str]:
    levels = catalog.levels
    use, odd = np.ones(len(catalog.treatment_ids), dtype=bool), []
    use[0] = False
    for level, asked in (("channel", volume.channels), ("action", volume.actions), ("group", volume.groups)):
        if asked:
            known = set(levels[level].tolist()) - {NONE}
            odd += [f"{level} {name!r} (there are {sorted(known)})" for name in asked if name not in known]
            use &= np.isin(levels[level], asked)
    fault = f"volume {volume.name!r} names {', '.join(odd)}" if odd else ""
    if not odd and not use.any():
        fault = f"volume {volume.name!r} concerns no treatment: nothing has all that it names"
    return use.astype(np.float64), fault
