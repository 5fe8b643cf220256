"""A simulated company with a known truth: it writes messy raw files, and answers decisions week by week.

The world is where the platform's claims are judged. It knows the exact expected value of every contact
and the best assignment within the limits; the platform sees only the raw files.
"""

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

from nba import stats
from nba.catalog import NONE
from nba.errors import DataError, MissingError
from nba.histories import simulated_truth as t
from nba.histories.simulated_oracle import Batch, allowed, choose_oracle, limit_matrix
from nba.histories.simulated_play import (
    State,
    begin,
    look,
    newsletter,
    own_rates,
    step,
    values,
)
from nba.histories.simulated_rows import Rows, week_rows
from nba.histories.simulated_settings import CONTACT_DAYS, MAX_CONTACTS, default_limits, settings_text
from nba.histories.simulated_sources import Directory, write_files
from nba.histories.simulated_truth import WEEK, Floats, Ints, Truth
from nba.history import replace_text

FOLDER = "world"
INDEX = "world.json"
START = datetime(2026, 1, 5, 6, tzinfo=UTC)
Choose = Callable[[Batch], Ints]


@dataclass(frozen=True)
class Options:
    """What a world is made from; the same options give the same world."""

    n_customers: int
    seed: int
    n_batches: int
    weeks_before: int
    start: str
    truth_factor: float
    noise: float = 1.0


@dataclass(frozen=True)
class Playthrough:
    """What a chooser was worth over all batches.

    Attributes:
        total: True incremental value per customer over all batches, money; its interval is over customers.
        per_customer: The same of each customer, shape (n,), money.
        by_batch: Per batch, money per customer.
        margin: Realised margin per customer, all purchases, net of returns, shape (n,), money.
        cost: Contact cost per customer, shape (n,), money.
        n_contacts, n_opt_outs: Contacts sent and opt-outs, per customer, shape (n,).
    """

    total: stats.Interval
    per_customer: Floats
    by_batch: tuple[float, ...]
    margin: Floats
    cost: Floats
    n_contacts: Ints
    n_opt_outs: Ints

    @property
    def value(self) -> float:
        """True incremental value per customer, money."""
        return self.total.value

    @property
    def lower(self) -> float:
        """Lower end of its 95 % interval."""
        return self.total.lower

    @property
    def upper(self) -> float:
        """Upper end of its 95 % interval."""
        return self.total.upper


class World:
    """People with hidden types, who buy without contact and are helped or harmed by it.

    The **true incremental value** of a contact is exact: the expected margin of everything that follows
    if it is sent and nobody is contacted afterwards, less the same had it not been sent either; less
    the cost of delivery, less `UNSUBSCRIBE_COST` times the chance of an opt-out. Margin is net of
    returns. It is conditional on the state at the decision: earlier contacts (fatigue), the week's
    browsing, the last purchase. Because later contacts are left out, the values of a series of decisions
    add up to the expected value of the whole series against no contact at all.

    Use `create`, then `write_workspace`; `respond` plays a delivered batch; `save` and `load` let
    separate commands go on.
    """

    def __init__(self, options: Options, state: State, rows: Rows, digests: Mapping[int, str]) -> None:
        self.options = options
        self._state = state
        self._rows = dict(rows)
        self._digests = dict(digests)
        self._truth = _truth(options)
        self._book = Directory(self._truth, options.noise)
        self._people: dict[str, dict[str, int]] | None = None

    @classmethod
    def create(
        cls,
        n_customers: int,
        seed: int,
        *,
        n_batches: int = 12,
        weeks_before: int = 40,
        start: datetime = START,
        truth_factor: float = 1.0,
        noise: float = 1.0,
    ) -> "World":
        """Draw the people and live through the weeks before the first batch.

        Args:
            n_customers: People, about 10 % of whom join during the batches.
            seed: Of everything that is drawn.
            n_batches: Weekly batches; joining and drift are spread over them, more may be played.
            weeks_before: Weeks of pre-history.
            start: When batch 0 is decided; has a time zone.
            truth_factor: For tests: multiplies all effects of contact from batch 0 on.
            noise: Factor on the errors of the raw files: broken rows, duplicates, junk, shared browsers.
        """
        options = Options(n_customers, seed, n_batches, weeks_before, start.isoformat(), truth_factor, noise)
        parts: list[Rows] = []
        state = _live(_truth(options), weeks_before, parts)
        return cls(options, state, _concat(parts), {})

    @property
    def start(self) -> datetime:
        """When batch 0 is decided."""
        return datetime.fromisoformat(self.options.start)

    @property
    def next_batch(self) -> int:
        """Number of the batch that has not been played yet."""
        return self._state.week

    def decided_at(self, batch: int) -> datetime:
        """When a batch is decided."""
        return self.start + timedelta(weeks=batch)

    def with_truth(self, factor: float) -> "World":
        """Return a copy in which the effects of contact are multiplied from now on (for tests)."""
        options = replace(self.options, truth_factor=factor)
        return World(options, self._state, self._rows, self._digests)

    # Raw files

    def write_workspace(self, workspace: Path) -> None:
        """Write settings, catalog, raw files of the pre-history and the world's state, all or nothing.

        Raises:
            DataError: when the folder exists, or the world has gone on already.
        """
        if workspace.exists() and any(workspace.iterdir()):
            raise DataError(f"{workspace} exists and is not empty", "Name another folder, or remove it.")
        if self._state.week != 0:
            raise DataError("this world has gone on already; expected one that was just created")
        made = workspace.with_name(f".{workspace.name}.{uuid.uuid4().hex[:8]}")
        try:
            (made / "catalog").mkdir(parents=True)
            # Nobody's data: a salt from the seed, so that the same world gives the same customer ids.
            secret = hashlib.sha256(f"simulated|{self.options.seed}".encode()).hexdigest()
            (made / ".salt").write_text(secret, encoding="utf-8")
            (made / "nba.toml").write_text(
                settings_text(self.options.n_customers, self.options.seed, self.start), encoding="utf-8"
            )
            for name, table in zip(("actions", "treatments"), t.CATALOG.to_tables()):
                csv.write_csv(table, made / "catalog" / f"{name}.csv")
            first = int(self._truth.joined_week.min())
            due = self._due(before=0)
            write_files(made / "sources", "history", due, self._book, range(first, 0))
            self.save(made / FOLDER)
            if workspace.exists():
                workspace.rmdir()
            made.replace(workspace)
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def respond(self, decisions: pa.Table, workspace: Path) -> None:
        """Play the week after one batch of decisions and write its raw files.

        One contact per person and week is sent, the first by decision id. Weeks without a batch pass
        without contact. The same batch again changes nothing. Save the world afterwards.

        Args:
            decisions: Columns decision_id, external_id, treatment_id, decided_at; of one batch. Contacts
                of people who are not customers yet are not sent.
            workspace: Folder whose `sources` get the files.

        Raises:
            DataError: when the batch lies before the world's time, or differs from what was played.
        """
        week = self._one_week(decisions)
        digest = _digest(decisions)
        if week < self._state.week:
            if self._digests.get(week) != digest:
                raise DataError(
                    f"week {week} has been played with other decisions; the next is {self._state.week}",
                    "Deliver batches in the order of their time, each once.",
                )
            return
        while self._state.week < week:
            self._play_week(workspace, np.zeros(self._truth.n, dtype=np.int64), None)
        rows, person, column = self._contacts(decisions)
        sent = np.zeros(self._truth.n, dtype=np.int64)
        sent[person] = column
        ids = np.full(self._truth.n, None, dtype=object)
        ids[person] = np.array(decisions["decision_id"].to_pylist(), dtype=object)[rows]
        at = pc.min(decisions["decided_at"]).as_py() if decisions.num_rows else self.decided_at(week)
        self._play_week(workspace, sent, ids.tolist(), _micros(at))
        self._digests[week] = digest

    def has_played(self, decisions: pa.Table) -> bool:
        """Say whether this very batch has been played."""
        return self._digests.get(self._one_week(decisions)) == _digest(decisions)

    def rest(self, workspace: Path) -> None:
        """Let one week pass without contact and write its raw files."""
        self._play_week(workspace, np.zeros(self._truth.n, dtype=np.int64), None)

    def _play_week(
        self, workspace: Path, sent: Ints, ids: Sequence[str | None] | None, at: int | None = None
    ) -> None:
        week = self._state.week
        at = self._truth.start + week * WEEK if at is None else at
        self._state, played = step(self._truth, self._state, sent, at)
        self._rows = _concat([self._rows, week_rows(self._truth, played, ids)])
        label = f"{self.decided_at(week):%Y%m%d}"
        weeks = range(week, week + 1)
        write_files(workspace / "sources", label, self._due(before=week + 1), self._book, weeks)

    def _due(self, before: int) -> Rows:
        # Take the rows of files before a week out of those that wait.
        due = {}
        for name, table in self._rows.items():
            is_due = pc.less(table["file_week"], before)
            due[name] = table.filter(is_due).sort_by([("at", "ascending"), ("key", "ascending")])
            self._rows[name] = table.filter(pc.invert(is_due))
        return due

    # State

    def save(self, folder: Path) -> None:
        """Write the state, so that readers find the old or the new one whole."""
        name = f"week-{self._state.week}-{uuid.uuid4().hex[:8]}"
        part = folder / name
        part.mkdir(parents=True)
        state = self._state
        np.savez_compressed(
            part / "state.npz",
            first=state.first,
            hot=np.stack(state.hot),
            chosen=np.stack(state.chosen).astype(np.int8),
            spoil=np.stack(state.spoil).astype(np.float64),
            last_order=np.stack(state.last_order).astype(np.int16),
            opted_out=state.opted_out,
            due_person=state.due_person,
            due_week=state.due_week,
        )
        for source, table in self._rows.items():
            pq.write_table(table, part / f"{source}.parquet", compression="zstd")
        index = {"options": asdict(self.options), "state": name, "digests": self._digests}
        replace_text(folder / INDEX, json.dumps(index, indent=1))
        for old in folder.glob("week-*"):
            if old.name != name:
                shutil.rmtree(old, ignore_errors=True)

    @classmethod
    def load(cls, folder: Path) -> "World":
        """Read a saved world.

        Raises:
            MissingError: when there is none.
        """
        path = folder / INDEX
        if not path.is_file():
            raise MissingError(f"{path} does not exist; expected a saved world", "Run `nba simulate` first.")
        try:
            index = json.loads(path.read_text(encoding="utf-8"))
            part = folder / index["state"]
        except (ValueError, KeyError) as error:
            raise DataError(f"{path} cannot be read: {error}", "Simulate the world again.") from None
        with np.load(part / "state.npz") as saved:
            state = State(
                first=int(saved["first"]),
                hot=tuple(saved["hot"]),
                chosen=tuple(saved["chosen"].astype(np.int64)),
                spoil=tuple(saved["spoil"]),
                last_order=tuple(saved["last_order"].astype(np.int64)),
                opted_out=saved["opted_out"],
                due_person=saved["due_person"],
                due_week=saved["due_week"],
            )
        rows = {file.stem: pq.ParquetFile(file).read() for file in sorted(part.glob("*.parquet"))}
        digests = {int(week): digest for week, digest in index["digests"].items()}
        return cls(Options(**index["options"]), state, rows, digests)

    # Truth, for tests and yardsticks

    def true_person(self, identifier_kind: str, identifier: str) -> int | None:
        """Say whose identifier this is (clean form: lower case, nine digits), or None if nobody's."""
        if self._people is None:
            self._people = self._book.people()
        return self._people.get(identifier_kind, {}).get(identifier)

    def people(self) -> dict[str, dict[str, int]]:
        """Give everybody's identifiers: kind to clean form to the person's number."""
        return self._book.people()

    def true_value(self, decisions: pa.Table) -> Floats:
        """Exact expected incremental value of each decision, given the state in which it was made.

        Args:
            decisions: Columns decision_id, external_id, treatment_id, decided_at; of any batches up to
                the next one.

        Returns:
            Shape (rows,), money; 0 for none, for a contact refused for want of consent, and for the
            second contact of a person in a week; NaN where the person is unknown.
        """
        out = np.zeros(decisions.num_rows)
        week = self._weeks(decisions)
        unknown = self._persons(decisions) < 0
        out[unknown & (np.array(decisions["treatment_id"].to_pylist()) != NONE)] = np.nan
        for number in np.unique(week):
            if not 0 <= number <= self._state.week:
                raise DataError(f"batch {number} is not known yet; the next is {self._state.week}")
            index = np.flatnonzero(week == number)
            rows, person, column = self._contacts(decisions.take(pa.array(index)))
            moment = look(self._truth, self._state, int(number))
            out[index[rows]] = values(self._truth, moment)[0][person, column]
        return out

    def oracle(
        self,
        batch: int,
        *,
        capacity: Mapping[str, int] | None = None,
        budget: float | None = None,
        contact_days: int = CONTACT_DAYS,
        max_contacts: int | None = MAX_CONTACTS,
    ) -> pa.Table:
        """Give the best treatment of every customer by true value, within limits if any are given.

        Args:
            batch: A batch that has been played, or the next.
            capacity: Contacts by channel; a channel without one is unlimited.
            budget: Money; None is unlimited.
            contact_days: Days of the contact cap.
            max_contacts: Contacts in so many days; None for no cap.

        Returns:
            Columns external_id, treatment_id, true_value; customers who had joined by then.
        """
        seen = self._batch(self._state, batch, capacity or {}, budget, contact_days, max_contacts)
        column = choose_oracle(seen)
        who = np.flatnonzero(self._truth.joined_week < batch)
        return pa.table(
            {
                "external_id": self._book.crm_id.take(pa.array(who)),
                "treatment_id": pa.array(np.array(t.CATALOG.treatment_ids)[column[who]]),
                "true_value": seen.value[who, column[who]],
            }
        )

    def play_oracle(
        self,
        capacity: Mapping[str, int] | None = None,
        budget: float | None = None,
        *,
        contact_days: int = CONTACT_DAYS,
        max_contacts: int | None = MAX_CONTACTS,
        choose: Choose | None = None,
    ) -> Playthrough:
        """Play all batches from batch 0 in a copy of the world; this world and its files do not change.

        The oracle looks one batch ahead: it makes the value of each batch largest, not of the whole.

        Args:
            capacity: Contacts by channel and batch.
            budget: Money per batch; `default_limits` hold where neither is given.
            contact_days: Days of the contact cap.
            max_contacts: Contacts in so many days; None for no cap.
            choose: Another chooser, given a `Batch`; it must keep the limits itself.
        """
        if capacity is None and budget is None:
            capacity, budget = default_limits(self.options.n_customers)
        truth, state = self._truth, _live(self._truth, self.options.weeks_before, None)
        value, margin, cost = np.zeros(truth.n), np.zeros(truth.n), np.zeros(truth.n)
        contacts, opt_outs = np.zeros(truth.n, dtype=np.int64), np.zeros(truth.n, dtype=np.int64)
        by_batch = []
        for batch in range(self.options.n_batches):
            seen = self._batch(state, batch, capacity or {}, budget, contact_days, max_contacts)
            column = (choose or choose_oracle)(seen)
            worth = seen.value[np.arange(truth.n), column]
            state, played = step(truth, state, column, truth.start + batch * WEEK)
            value += worth
            by_batch.append(float(worth.mean()))
            margin += np.bincount(played.orders.person, played.orders.net, truth.n)
            cost += played.cost
            contacts += played.sent > 0
            opt_outs += played.opted_out
        return Playthrough(stats.mean(value), value, tuple(by_batch), margin, cost, contacts, opt_outs)

    def _batch(
        self,
        state: State,
        batch: int,
        capacity: Mapping[str, int],
        budget: float | None,
        contact_days: int,
        max_contacts: int | None,
    ) -> Batch:
        moment = look(self._truth, state, batch)
        value, extra = values(self._truth, moment)
        now, later = own_rates(self._truth, moment)
        p_response = (now * (1 - moment.spoil) + later)[:, None] + extra
        may = allowed(moment, state, contact_days, max_contacts)
        use, available = limit_matrix(capacity, budget)
        return Batch(batch, value, p_response, may, use, available)

    # Decisions to people

    def _persons(self, decisions: pa.Table) -> Ints:
        ids = pa.chunked_array([self._book.crm_id, self._book.twin_id]).combine_chunks()
        found = pc.index_in(decisions["external_id"].cast(pa.string()), value_set=ids)
        number = pc.fill_null(found, -1).to_numpy().astype(np.int64)
        return np.where(number >= 0, number % self._truth.n, -1)

    def _contacts(self, decisions: pa.Table) -> tuple[Ints, Ints, Ints]:
        # Row, person and column of the contacts of one batch: the first of each person by decision id.
        person = self._persons(decisions)
        column = t.CATALOG.columns(decisions["treatment_id"].to_pylist())
        if (column < 0).any():
            odd = sorted(set(np.array(decisions["treatment_id"].to_pylist())[column < 0].tolist()))
            raise DataError(f"treatments {odd} are not in the catalog of the simulated world")
        order = pc.sort_indices(decisions["decision_id"]).to_numpy()
        joined = self._truth.joined_week[person] < self._weeks(decisions)
        order = order[((person >= 0) & (column > 0) & joined)[order]]
        _, first = np.unique(person[order], return_index=True)
        rows = order[first].astype(np.int64)
        return rows, person[rows], column[rows]

    def _weeks(self, decisions: pa.Table) -> Ints:
        at = decisions["decided_at"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
        return (at - self._truth.start) // WEEK

    def _one_week(self, decisions: pa.Table) -> int:
        weeks = np.unique(self._weeks(decisions)).tolist()
        if len(weeks) != 1 or weeks[0] < 0:
            raise DataError(
                f"decisions are of weeks {weeks} from {self.start}; expected one batch at or after it",
                "Decide a batch with --at the start of its week.",
            )
        return int(weeks[0])


def _live(truth: Truth, weeks: int, parts: list[Rows] | None) -> State:
    # The weeks before batch 0, with a light newsletter; their rows go to `parts`.
    state = begin(truth, -weeks)
    while state.week < 0:
        chosen = newsletter(truth, look(truth, state, state.week))
        state, played = step(truth, state, chosen, truth.start + state.week * WEEK)
        if parts is not None:
            parts.append(week_rows(truth, played))
    return state


def _truth(options: Options) -> Truth:
    return t.draw_truth(
        options.n_customers,
        options.seed,
        n_batches=options.n_batches,
        weeks_before=options.weeks_before,
        start=_micros(datetime.fromisoformat(options.start)),
        factor=options.truth_factor,
    )


def _micros(at: datetime) -> int:
    if at.tzinfo is None:
        raise DataError(f"{at} has no time zone; expected one, such as {at}Z", "Add the offset or Z.")
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _digest(decisions: pa.Table) -> str:
    ids = zip(*(decisions[c].to_pylist() for c in ("decision_id", "external_id", "treatment_id")))
    text = "\n".join(sorted(f"{a}|{b}|{c}" for a, b, c in ids if c != NONE))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _concat(parts: Sequence[Rows]) -> dict[str, pa.Table]:
    return {name: pa.concat_tables([part[name] for part in parts]) for name in parts[0]}
