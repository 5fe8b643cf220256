"""One batch of any number of customers, part by part: memory does not grow with them.

1. *Score*: each part's features become belief and eligibility, kept on disk.
2. *Price*: a hashed sample is solved like a small batch; its limits are then corrected by what all customers
   would use at its prices, summed part by part.
3. *Draw*: each customer alone, from the cut that the limits leave (`nba.policy.streamed.Cut`).
4. *Write*: what a draw put over a limit is trimmed by hash, and rows, reasons and counts go out in order.

Everything that couples customers is a sum of whole numbers, so that parts of any size, in any order and on
any engine give the same rows.
"""

import os
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nba import draws, settings, tables
from nba.catalog import Catalog
from nba.errors import DataError
from nba.experiments import design
from nba.history import Snapshot
from nba.models import traverse
from nba.policy import arbitrate, eligibility, streamed
from nba.policy import limits as volumes
from nba.policy.eligibility import eligible
from nba.policy.explore import Estimate
from nba.policy.streamed import Cut, Totals
from nba.serving import delivery
from nba.serving.decide import (
    START,
    Limited,
    Rule,
    Scorer,
    Worth,
    believed,
    limits_of,
    rules_of,
    scaled,
    send_spans,
)
from nba.serving.parts import Parts

Array = NDArray[np.float64]
Whole = NDArray[np.int64]
T = TypeVar("T")
S = TypeVar("S")

ROWS = 32_768
SAMPLE = 20_000
ROUNDS = 2
_CERTAIN = 1.0
_ASSIGNED_ROWS = 250_000


@dataclass(frozen=True)
class Job:
    """What is the same for all customers of a batch.

    Attributes:
        nuisance: Price of a contact's risk, money, shape (k,).
        spent: Choices of each treatment earlier on the day, shape (k,); none if absent.
        corrects: The batch that this one takes the place of.
    """

    batch_id: str
    at: datetime
    catalog: Catalog
    config: settings.Settings
    models: Mapping[str, Scorer]
    nuisance: Array
    feature_as_of: datetime
    corrects: str | None = None
    spent: Array | None = None

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Who decides for each arm."""
        return rules_of(self.config, self.at, {alias: m.model_id for alias, m in self.models.items()})

    @property
    def valid_until(self) -> datetime:
        """When its decisions lapse."""
        return self.at + timedelta(days=self.config.policy.valid_days)

    @property
    def reasons(self) -> tuple[str, ...]:
        """The rules that can remove a candidate, by their number."""
        return tuple(name for name, _ in eligibility.reasons(self.config.engagement))

    @property
    def limited(self) -> Limited:
        """The limits of the batch."""
        return limits_of(self.catalog, self.config.limits, self.spent)


class Scored(NamedTuple):
    """A part of the customers after scoring: shapes (n,), then (n, k).

    Attributes:
        ids, external: Customer ids and the ids by which orchestration knows them.
        arm: Number of the arm in the order of the job's rules.
        experiment: Number of the experiment (0 the standing one, then the trials in their order).
        p_arm: Share of the arm.
        mean, se: Belief in money, of the arm's own model.
        zone: Number of the customer's zone in `nba.policy.windows.ZONES`.
        reason: Number of the rule that removed a candidate; 0 where eligible.
    """

    ids: pa.Array
    external: pa.Array
    arm: NDArray[np.int16]
    experiment: NDArray[np.int16]
    p_arm: Array
    zone: NDArray[np.int16]
    mean: Array
    se: Array
    reason: NDArray[np.int8]

    def take(self, rows: NDArray[Any]) -> "Scored":
        """Keep some customers."""
        index = pa.array(rows)
        return Scored(self.ids.take(index), self.external.take(index), *(part[rows] for part in self[2:]))


@dataclass(frozen=True)
class Drawn:
    """The cuts of all arms, and what the draws use.

    Attributes:
        cuts: By arm, in the order of the rules.
        used: Use of each limit, shape (arms, m), in millionths.
        customers: Customers by arm, shape (arms,).
        available: Limits by arm, shape (arms, m).
    """

    cuts: tuple[Cut, ...]
    used: Whole
    customers: Whole
    available: Array


@dataclass
class Result:
    """A batch that was staged, and the files of its log.

    Attributes:
        staged: Folder to publish.
        manifest: Its manifest.
        log: Table name to Parquet files, for the history.
        batches: The `batches` table.
        drawn: The cuts that its limits left.
    """

    staged: Path
    manifest: dict[str, Any]
    batches: pa.Table
    drawn: Drawn
    log: dict[str, list[Path]] = field(default_factory=dict)


def run(
    job: Job,
    snapshot: Snapshot,
    features: Sequence[Path],
    root: Path,
    *,
    engine: "Engine | None" = None,
    log: bool = True,
    advance: Callable[[str, int], None] | None = None,
) -> Result:
    """Decide a batch from files of features, and stage it below a folder.

    Args:
        job: What is the same for all customers.
        snapshot: What was known.
        features: Parquet files of the features table; customers do not repeat. Sorted by customer_id, rules
            are looked up fastest.
        root: Folder of all batches.
        engine: What does the work; this machine's cores if absent.
        log: Whether to write decisions, choices and assignments for the history.
        advance: Told the pass and the customers done.

    Raises:
        DataError: when there is no customer, a feature that the models need is missing, or there is no room.
    """
    total = sum(pq.ParquetFile(path).metadata.num_rows for path in features)
    if not total:
        raise DataError(f"no customer is known at {job.at}", "Ingest customers first.")
    tell = advance or (lambda _pass, _n: None)
    work = work_folder(root, job.batch_id)
    shutil.rmtree(work, ignore_errors=True)
    with delivery.full_disk(work):
        work.mkdir(parents=True)
        try:
            engine = engine or Local()
            sample, customers = _score(job, snapshot, features, engine, work, total, tell)
            # Models have done their part: what follows needs their names only.
            job = replace(job, models={alias: Named(m.model_id) for alias, m in job.models.items()})
            drawn = _price(job, engine, sample, customers, tell)
            drawn = _draw(job, engine, drawn, tell)
            return _write(job, engine, drawn, root, work, log, tell)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise


def work_folder(root: Path, batch_id: str) -> Path:
    """Give the folder of what a batch keeps on disk while it runs."""
    return root / f".work.batch_id={batch_id}"


def read_parts(files: Iterable[Path], rows: int = ROWS) -> Iterator[pa.Table]:
    """Read tables file by file, a few rows at a time.

    Without reading ahead: dataset scanners, and `pre_buffer`, outrun who consumes them.
    """
    for path in files:
        file = pq.ParquetFile(path, pre_buffer=False)
        for batch in file.iter_batches(rows, use_threads=False):
            yield pa.Table.from_batches([batch]).replace_schema_metadata(None)


class Engine(Protocol):
    """What does work on parts of the customers: this machine's cores, or a cluster."""

    def score(
        self,
        job: Job,
        snapshot: Snapshot,
        features: Sequence[Path],
        work: Path,
        then: Callable[[Scored], T],
    ) -> Iterator[T]:
        """Score all customers, keep the parts, and give what `then` makes of each."""
        ...

    def each(self, then: Callable[[Scored], T]) -> Iterator[T]:
        """Give what `then` makes of each part that was kept."""
        ...


@dataclass(frozen=True)
class Named:
    """A model of which only the name is needed."""

    model_id: str

    def scores(self, features: pa.Table, catalog: Catalog) -> Any:
        """Refuse to score."""
        raise NotImplementedError(self.model_id)


class Local:
    """Work in threads of this machine, parts on disk between the passes.

    Args:
        threads: Parts that are worked on at once; all cores if absent.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or len(os.sched_getaffinity(0))
        self._folder = Path()
        self._parts = 0

    def score(
        self,
        job: Job,
        snapshot: Snapshot,
        features: Sequence[Path],
        work: Path,
        then: Callable[[Scored], T],
    ) -> Iterator[T]:
        """Score all customers, keep the parts, and give what `then` makes of each."""
        self._folder, self._parts = work, 0
        local, opened = threading.local(), []
        parts = Parts(snapshot, work)

        def score(item: tuple[int, pa.Table]) -> T:
            number, table = item
            if not hasattr(local, "connection"):
                local.connection = parts.connect()
                opened.append(local.connection)
            scored = score_part(job, parts.of(local.connection, table["customer_id"]), table)
            self._keep(number, scored)
            return then(scored)

        try:
            with traverse.one_thread():
                for found in ordered(score, enumerate(read_parts(features)), self._threads):
                    self._parts += 1
                    yield found
        finally:
            for connection in opened:
                connection.close()
            parts.clear()

    def each(self, then: Callable[[Scored], T]) -> Iterator[T]:
        """Give what `then` makes of each part that was kept."""
        return ordered(lambda number: then(self._kept(number)), range(self._parts), self._threads)

    def _keep(self, number: int, part: Scored) -> None:
        names = pa.table({"ids": part.ids, "external": part.external})
        path = str(self._folder / f"{number:06d}.names")
        with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, names.schema) as writer:
            writer.write_table(names)
        with (self._folder / f"{number:06d}.scored").open("wb") as file:
            for array in part[2:]:
                np.save(file, array, allow_pickle=False)

    def _kept(self, number: int) -> Scored:
        with pa.OSFile(str(self._folder / f"{number:06d}.names"), "rb") as source:
            names = pa.ipc.open_file(source).read_all().combine_chunks()
        ids, external = (names[name].combine_chunks() for name in ("ids", "external"))
        with (self._folder / f"{number:06d}.scored").open("rb") as file:
            arrays = [np.load(file, allow_pickle=False) for _ in range(len(Scored._fields) - 2)]
        return Scored(ids, external, *arrays)


def ordered(work: Callable[[T], S], items: Iterable[T], threads: int) -> Iterator[S]:
    """Do work on items, some at once, and give the results in order; few wait at any time."""
    if threads == 1:
        for item in items:
            yield work(item)
        return
    waiting: deque[Future[S]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def score_part(job: Job, snapshot: Snapshot, features: pa.Table) -> Scored:
    """Turn features of some customers into belief and eligibility.

    Args:
        job: What is the same for all customers.
        snapshot: What was known, of these customers at least.
        features: Their features.
    """
    ids = features["customer_id"].combine_chunks().cast(pa.string())
    found = eligible(
        snapshot,
        job.catalog,
        job.config.limits,
        ids,
        job.config.engagement,
        features,
        job.valid_until,
        job.config.workspace.timezone,
    )
    names = ids.to_pylist()
    placed = design.place(job.config, names, job.at, _attributes(job, snapshot, ids))
    rules = job.rules
    arm = _numbers(placed.arm, [rule.arm for rule in rules])
    experiments = [job.config.experiment.experiment_id, *(e.experiment_id for e in job.config.experiments)]
    wanted = {rules[i].alias for i in np.unique(arm)}
    scores = {
        alias: model.scores(features, job.catalog) for alias, model in job.models.items() if alias in wanted
    }
    n, k = found.is_eligible.shape
    mean, se = np.full((n, k), np.nan), np.full((n, k), np.nan)
    worth = Worth(job.nuisance, arbitrate.saved(snapshot, job.catalog, job.config.reward, ids))
    beliefs: dict[tuple[str, bool], Estimate] = {}
    for i in np.unique(arm):
        kind = rules[i].alias, rules[i].by_response
        if kind not in beliefs:
            beliefs[kind] = believed(rules[i], scores, job.catalog, worth, n)
        own, rows = beliefs[kind], arm == i
        mean[rows], se[rows] = own.mean[rows], own.se[rows]
    external = _external(snapshot, ids)
    experiment = _numbers(placed.experiment_id, experiments)
    return Scored(ids, external, arm, experiment, placed.p_arm, found.zone, mean, se, found.reason)


def probabilities_of(job: Job, part: Scored, cuts: Sequence[Cut]) -> Array:
    """Give each customer's probabilities to draw from, by the cut of its arm, shape (n, k)."""
    out = np.zeros(part.mean.shape)
    use = job.limited.use
    for i, rule in enumerate(job.rules):
        rows = np.flatnonzero(part.arm == i)
        if not len(rows):
            continue
        if rule.policy is None:
            out[rows, 0] = 1.0
        else:
            own = Estimate(part.mean[rows], part.se[rows])
            out[rows] = streamed.probabilities(rule.policy, own, part.reason[rows] == 0, use, cuts[i])
    return out


def _score(
    job: Job,
    snapshot: Snapshot,
    features: Sequence[Path],
    engine: Engine,
    work: Path,
    total: int,
    tell: Callable[[str, int], None],
) -> tuple[Scored, Whole]:
    # The sample that prices are solved on, in the order of the ids; and the customers by arm.
    below = min(1.0, SAMPLE / total) * 2.0**64
    salt = f"price|{job.batch_id}"

    def some(part: Scored) -> tuple[NDArray[np.int16], Scored]:
        hashed = draws.hashed(part.ids, salt)
        return part.arm, part.take(np.flatnonzero(hashed.astype(np.float64) < below))

    customers = np.zeros(len(job.rules), dtype=np.int64)
    sampled: list[Scored] = []
    for arm, few in engine.score(job, snapshot, features, work, some):
        customers += np.bincount(arm, minlength=len(customers))
        sampled.append(few)
        tell("scoring", len(arm))
    return _sorted(sampled), customers


def _price(
    job: Job, engine: Engine, sample: Scored, customers: Whole, tell: Callable[[str, int], None]
) -> Drawn:
    limited, k = job.limited, len(job.catalog.treatment_ids)
    m = len(limited.names)
    total = int(customers.sum())
    available = np.stack([scaled(limited, n / total).available for n in customers])
    share = np.bincount(sample.arm, minlength=len(customers)) / np.maximum(customers, 1)
    scale = np.ones((len(customers), m))

    def cuts() -> tuple[Cut, ...]:
        out = []
        for i, rule in enumerate(job.rules):
            if rule.policy is None or share[i] == 0:
                out.append(Cut.none(k, m))
                continue
            own = sample.take(np.flatnonzero(sample.arm == i))
            least = None if limited.least is None else limited.least * (share[i] * customers[i] / total)
            out.append(_solved(rule, own, limited.use, available[i], share[i] * scale[i], least))
        return tuple(out)

    found = cuts()
    if m and len(sample.arm) < total:
        for _ in range(ROUNDS):
            sums = _totals(job, engine, found, tell)
            corrected = [
                streamed.corrected(scale[i], sums[i], limited.use, available[i])
                if rule.policy is not None and customers[i]
                else scale[i]
                for i, rule in enumerate(job.rules)
            ]
            done = np.allclose(corrected, scale, rtol=2e-3)
            scale = np.array(corrected)
            if done:
                break
            found = cuts()
        sums = _totals(job, engine, found, tell)
        found = tuple(
            streamed.fitted(cut, sums[i], limited.use, available[i])
            if job.rules[i].policy is not None
            else cut
            for i, cut in enumerate(found)
        )
    return Drawn(found, np.zeros((len(customers), m), dtype=np.int64), customers, available)


def _solved(rule: Rule, own: Scored, use: Array, available: Array, share: Array, least: Array | None) -> Cut:
    assert rule.policy is not None
    belief = Estimate(own.mean, own.se)
    return streamed.first_cut(rule.policy, belief, own.reason == 0, use, available, share, least)


def _totals(job: Job, engine: Engine, cuts: Sequence[Cut], tell: Callable[[str, int], None]) -> list[Totals]:
    use = job.limited.use

    def work(part: Scored) -> list[Totals]:
        return _part_totals(probabilities_of(job, part, cuts), part.arm, use, len(cuts))

    out: list[Totals] | None = None
    for found in engine.each(work):
        out = found if out is None else [a + b for a, b in zip(out, found)]
        tell("pricing", 0)
    assert out is not None
    return out


def _part_totals(p: Array, arm: NDArray[np.int16], use: Array, arms: int) -> list[Totals]:
    return [Totals.of(p[arm == i], use) for i in range(arms)]


def _draw(job: Job, engine: Engine, drawn: Drawn, tell: Callable[[str, int], None]) -> Drawn:
    limited = job.limited
    amounts = streamed.micro(limited.use)
    arms = len(job.rules)

    def work(part: Scored) -> tuple[list[Totals], Whole]:
        p = probabilities_of(job, part, drawn.cuts)
        column = draw_of(job, part, p)
        used = np.stack([amounts[column[part.arm == i]].sum(axis=0) for i in range(arms)])
        return _part_totals(p, part.arm, limited.use, arms), used

    sums: list[Totals] | None = None
    used = np.zeros_like(drawn.used)
    for found, part_used in engine.each(work):
        sums = found if sums is None else [a + b for a, b in zip(sums, found)]
        used += part_used
        tell("drawing", 0)
    assert sums is not None
    cuts = [
        cut._replace(after=streamed.after_trimming(sums[i], limited.use, drawn.available[i]))
        for i, cut in enumerate(drawn.cuts)
    ]
    for j in range(len(limited.names)):
        for i in range(arms):
            if used[i, j] > drawn.available[i, j] * 1e6 * (1 + 1e-12):
                last = cuts[i].last.copy()
                last[j] = _trim(job, engine, cuts, (i, j), drawn.available[i, j])
                cuts[i] = cuts[i]._replace(last=last)
                used = _used(job, engine, cuts)
    return Drawn(tuple(cuts), used, drawn.customers, drawn.available)


def draw_of(job: Job, part: Scored, p: Array) -> Whole:
    """Draw each customer's column by its hash, shape (n,)."""
    return draws.pick(p, draws.uniform(part.ids, f"decision|{job.batch_id}"))


def dropped_of(job: Job, part: Scored, column: Whole, cuts: Sequence[Cut]) -> Whole:
    """Say for which limit each draw was dropped, -1 where it was kept, shape (n,)."""
    dropped = np.full(len(column), -1)
    use = job.limited.use
    for i, cut in enumerate(cuts):
        for j in np.flatnonzero(cut.last < 1 << streamed.TRIM_BITS):
            rows = np.flatnonzero((part.arm == i) & (use[column, j] > 0) & (dropped < 0))
            number = _trim_number(job, part.ids.take(pa.array(rows)), int(j))
            over = (number >> np.uint64(64 - streamed.TRIM_BITS)).astype(np.int64) >= cut.last[j]
            dropped[rows[over]] = j
    return dropped


def _trim(job: Job, engine: Engine, cuts: Sequence[Cut], where: tuple[int, int], limit: float) -> int:
    arm, j = where
    amounts = streamed.micro(job.limited.use)[:, j]

    def work(part: Scored) -> Whole:
        column = draw_of(job, part, probabilities_of(job, part, cuts))
        dropped = dropped_of(job, part, column, cuts)
        rows = np.flatnonzero((part.arm == arm) & (amounts[column] > 0) & (dropped < 0))
        return streamed.trim_counts(
            _trim_number(job, part.ids.take(pa.array(rows)), j), amounts[column[rows]]
        )

    counts = np.zeros(1 << streamed.TRIM_BITS, dtype=np.int64)
    for found in engine.each(work):
        counts += found
    return streamed.trim_from(counts, limit)


def _used(job: Job, engine: Engine, cuts: Sequence[Cut]) -> Whole:
    amounts = streamed.micro(job.limited.use)

    def work(part: Scored) -> Whole:
        column = draw_of(job, part, probabilities_of(job, part, cuts))
        final = np.where(dropped_of(job, part, column, cuts) >= 0, 0, column)
        return np.stack([amounts[final[part.arm == i]].sum(axis=0) for i in range(len(cuts))])

    return np.sum(list(engine.each(work)), axis=0)


def _trim_number(job: Job, ids: pa.Array, j: int) -> NDArray[np.uint64]:
    return draws.hashed(ids, f"decision|{job.batch_id}|trim|{j}")


class Rows(NamedTuple):
    """What a part gives to the delivery and to the log."""

    decisions: pa.Table
    choices: pa.Table | None
    counts: Whole
    removed: Whole


def finish_part(job: Job, part: Scored, drawn: Drawn, *, log: bool) -> Rows:
    """Turn the draws of a part into rows of the contract.

    Args:
        job: What is the same for all customers.
        part: The customers.
        drawn: Cuts and what was used.
        log: Whether candidates and assignments are wanted too.
    """
    n, k = part.mean.shape
    every = np.arange(n)
    p = probabilities_of(job, part, drawn.cuts)
    column = draw_of(job, part, p)
    after = np.stack([cut.after for cut in drawn.cuts])[part.arm]
    final_p = streamed.thinned(p, after)
    dropped = dropped_of(job, part, column, drawn.cuts)
    final = np.where(dropped >= 0, 0, column)
    price = np.stack([job.limited.use @ cut.price for cut in drawn.cuts])[part.arm]
    ids = decision_ids(job.batch_id, part.ids)
    channel = [str(name) for name in job.catalog.channel]
    experiments = [job.config.experiment.experiment_id, *(e.experiment_id for e in job.config.experiments)]
    decisions = pa.table(
        {
            "decision_id": ids,
            "batch_id": _named(np.zeros(n, np.int8), [job.batch_id]),
            "customer_id": part.ids,
            "external_id": part.external,
            "treatment_id": _named(final, job.catalog.treatment_ids),
            "channel": _named(final, channel),
            "decided_at": pa.array(np.full(n, _microseconds(job.at)), pa.int64()).cast(tables.TIME),
            "p_action": final_p[every, final],
            "policy_id": _named(part.arm, [rule.policy_id for rule in job.rules]),
            "experiment_id": _named(part.experiment, experiments),
            "arm": _named(part.arm, [rule.arm for rule in job.rules]),
            "p_arm": part.p_arm,
            "expected_value": pa.array(part.mean[every, final], from_pandas=True),
            "reason": reasons_of(job, part, part.mean - price, final, dropped),
            "config_hash": _named(np.zeros(n, np.int8), [job.config.config_hash]),
            "valid_until": pa.array(np.full(n, _microseconds(job.valid_until)), pa.int64()).cast(tables.TIME),
            **send_spans(job.config, job.at, job.catalog, part.zone, final),
        }
    )
    counts = np.zeros((len(job.rules), k), dtype=np.int64)
    np.add.at(counts, (part.arm, final), 1)
    removed = np.bincount(part.reason.ravel(), minlength=len(job.reasons))
    choices = _choices(job, part, ids, final_p, price) if log else None
    return Rows(decisions.select(list(tables.DECISIONS.columns)), choices, counts, removed)


def decision_ids(batch_id: str, ids: pa.Array) -> pa.Array:
    """Name decisions: the batch, and the hash of batch and customer in hexadecimal digits."""
    hashed = draws.hashed(ids, batch_id).astype(">u8")
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    raw = hashed.view(np.uint8).reshape(len(ids), 8)
    prefix = np.frombuffer(f"{batch_id}.".encode(), np.uint8)
    out = np.empty((len(ids), len(prefix) + 16), np.uint8)
    out[:, : len(prefix)] = prefix
    out[:, len(prefix) :: 2], out[:, len(prefix) + 1 :: 2] = digits[raw >> 4], digits[raw & 15]
    offsets = np.arange(len(ids) + 1, dtype=np.int32) * out.shape[1]
    return pa.StringArray.from_buffers(len(ids), pa.py_buffer(offsets.tobytes()), pa.py_buffer(out.tobytes()))


def reasons_of(job: Job, part: Scored, worth: Array, final: Whole, dropped: Whole) -> pa.Array:
    """Say in words why each customer was given what it was given, shape (n,)."""
    is_eligible = part.reason == 0
    n, k = is_eligible.shape
    among = is_eligible.sum(axis=1)
    known = np.where(is_eligible, np.nan_to_num(worth, nan=-np.inf), -np.inf)
    is_best = worth[np.arange(n), final] >= known.max(axis=1)
    rules = job.rules
    held = np.array([rule.policy is None for rule in rules])[part.arm]
    outside = np.array([rule.policy_id == "outside" for rule in rules])[part.arm]
    start = np.array([rule.policy_id == START for rule in rules])[part.arm]
    by_belief = (
        ~start & ~np.array([rule.policy is not None and rule.policy.floor >= 1 for rule in rules])[part.arm]
    )
    most = _most_common(part.reason, len(job.reasons))
    names = job.limited.names
    kinds = [
        (held & outside, ["decided outside"], None),
        (held, ["held out"], None),
        (dropped >= 0, [f"drawn, but beyond the limit of {name}" for name in names], dropped),
        (among == 1, [f"nothing eligible: {text or 'none'}" for text in job.reasons], most),
        (start, [f"no model yet: drawn evenly among {i} eligible" for i in range(k + 1)], among),
        (~by_belief, [f"drawn evenly among {i} eligible" for i in range(k + 1)], among),
        (~is_best, [f"explored among {i} eligible" for i in range(k + 1)], among),
        (final == 0, [f"no contact is best among {i} eligible" for i in range(k + 1)], among),
        (np.ones(n, bool), [f"best by expected value among {i} eligible" for i in range(k + 1)], among),
    ]
    words: list[str] = []
    code = np.full(n, -1, dtype=np.int64)
    for which, texts, index in kinds:
        open_rows = (code < 0) & which
        code[open_rows] = len(words) + (0 if index is None else index[open_rows])
        words += texts
    return _named(code, words)


def _most_common(reason: NDArray[np.int8], n_reasons: int) -> Whole:
    # The rule that removed most candidates of each customer, the first of equals.
    if reason.shape[1] < 2:
        return np.zeros(len(reason), dtype=np.int64)
    counts = np.stack([(reason[:, 1:] == code).sum(axis=1) for code in range(n_reasons)], axis=1)
    return np.asarray(counts.argmax(axis=1))


def _choices(job: Job, part: Scored, ids: pa.Array, p: Array, price: Array) -> pa.Table | None:
    share = job.config.delivery.log_choices
    logged = draws.uniform(part.ids, f"choices|{job.batch_id}") < share
    rows = np.flatnonzero(logged)
    if not len(rows):
        return None
    k = p.shape[1]
    table = {
        "decision_id": ids.take(pa.array(np.repeat(rows, k))),
        "treatment_id": _named(np.tile(np.arange(k), len(rows)), job.catalog.treatment_ids),
        "is_eligible": (part.reason[rows] == 0).ravel(),
        "reason": _named(part.reason[rows].ravel(), job.reasons),
        "p_action": p[rows].ravel(),
        "mean": pa.array(part.mean[rows].ravel(), from_pandas=True),
        "se": pa.array(part.se[rows].ravel(), from_pandas=True),
        "price": price[rows].ravel(),
    }
    return pa.table(table)


def _write(
    job: Job,
    engine: Engine,
    drawn: Drawn,
    root: Path,
    work_in: Path,
    log: bool,
    tell: Callable[[str, int], None],
) -> Result:
    writer = delivery.Writer(root, job.batch_id, job.config.delivery.formats)
    logs = _Logs(work_in) if log else None
    counts = np.zeros((len(job.rules), len(job.catalog.treatment_ids)), dtype=np.int64)
    removed = np.zeros(len(job.reasons), dtype=np.int64)

    def work(part: Scored) -> Rows:
        return finish_part(job, part, drawn, log=log)

    try:
        for rows in engine.each(work):
            writer.write(rows.decisions)
            if logs is not None:
                logs.write("decisions", rows.decisions)
                logs.write("choices", rows.choices)
            counts += rows.counts
            removed += rows.removed
            tell("writing", rows.decisions.num_rows)
        batches = batch_rows(job, drawn, counts)
        limits = batches.select(["arm", "limit", "available", "used", "price", "n_customers"])
        head = delivery.Head(
            job.batch_id,
            job.at,
            job.feature_as_of,
            job.valid_until,
            job.config.config_hash,
            {rule.arm: rule.policy_id for rule in job.rules},
            {alias: model.model_id for alias, model in job.models.items()},
            limits.to_pylist(),
            {name: int(n) for name, n in zip(job.reasons, removed) if name and n},
            _notes(job, drawn),
            job.corrects,
            prices_of(job, drawn),
        )
        staged = writer.close(head)
    except BaseException:
        writer.discard()
        raise
    files = logs.close() if logs is not None else {}
    return Result(staged, delivery.read_manifest(staged), batches, drawn, files)


class _Logs:
    # Parquet files for the history, one per table.
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, pq.ParquetWriter] = {}

    def write(self, name: str, table: pa.Table | None) -> None:
        if table is None:
            return
        if name not in self._open:
            path = self._folder / f"{name}.parquet"
            self._open[name] = pq.ParquetWriter(path, table.schema, compression="zstd")
        self._open[name].write_table(table)

    def close(self) -> dict[str, list[Path]]:
        for writer in self._open.values():
            writer.close()
        return {name: [self._folder / f"{name}.parquet"] for name in self._open}


def batch_rows(job: Job, drawn: Drawn, counts: Whole) -> pa.Table:
    """Make the `batches` rows: what each arm had of each limit, what it used, at which price.

    Args:
        job: The batch.
        drawn: Its cuts.
        counts: Decisions by arm and treatment, shape (arms, k).
    """
    rows = []
    limited = job.limited
    for i, rule in enumerate(job.rules):
        for limit in dict.fromkeys((*job.catalog.channels, *limited.names)):
            j = limited.names.index(limit) if limit in limited.names else -1
            use = limited.use[:, j] if j >= 0 else (job.catalog.channel == limit).astype(np.float64)
            rows.append(
                {
                    "batch_id": job.batch_id,
                    "arm": rule.arm,
                    "limit": limit,
                    "decided_at": job.at,
                    "available": volumes.bounded(drawn.available[i, j], use, int(drawn.customers[i]))
                    if j >= 0
                    else float(drawn.customers[i]),
                    "used": round(float(counts[i] @ use), 6),
                    "price": float(drawn.cuts[i].price[j]) if j >= 0 else 0.0,
                    "n_customers": int(drawn.customers[i]),
                }
            )
    return tables.BATCHES.build(rows)


def prices_of(job: Job, drawn: Drawn) -> dict[str, Any]:
    """Give what each arm's probabilities were cut by, for the manifest."""
    names, treatments = job.limited.names, job.catalog.treatment_ids
    return {
        rule.arm: {
            "price": dict(zip(names, cut.price.tolist())),
            "floor_kept": _less_than_all(treatments, cut.floor_kept),
            "kept": _less_than_all(treatments, cut.kept),
            "after_trimming": _less_than_all(treatments, cut.after),
            "trimmed_from": {
                name: int(last) for name, last in zip(names, cut.last) if last < 1 << streamed.TRIM_BITS
            },
        }
        for rule, cut in zip(job.rules, drawn.cuts)
        if rule.policy is not None
    }


def assignments_of(job: Job, snapshot: Snapshot, ids: pa.Array, known: pa.Table) -> pa.Table:
    """Make the `assignments` rows of customers who come under an experiment for the first time.

    Args:
        job: The batch.
        snapshot: What was known.
        ids: All customers of the batch.
        known: experiment_id and customer_id of those who are assigned already.
    """
    found = []
    for begin in range(0, len(ids), _ASSIGNED_ROWS):
        some = ids[begin : begin + _ASSIGNED_ROWS]
        old = known.filter(pc.is_in(known["customer_id"], value_set=some))
        by = {
            name: old.filter(pc.equal(old["experiment_id"], name))["customer_id"].to_pylist()
            for name in pc.unique(old["experiment_id"]).to_pylist()
        }
        attributes = _attributes(job, snapshot, some)
        found.append(design.assignments(job.config, some.to_pylist(), job.at, by, attributes))
    return pa.concat_tables(found)


def _less_than_all(names: Sequence[str], share: Array) -> dict[str, float]:
    return {name: float(part) for name, part in zip(names, share) if part != _CERTAIN}


def _notes(job: Job, drawn: Drawn) -> tuple[str, ...]:
    out = []
    for i, (rule, cut) in enumerate(zip(job.rules, drawn.cuts)):
        if rule.policy_id == START:
            out.append(
                f"arm {rule.arm}: no model is registered yet; it explores evenly to gather the first data"
            )
        limited = job.limited._replace(available=drawn.available[i])
        words = volumes.binding(limited, cut.price, drawn.used[i] / 1e6)
        out += [f"arm {rule.arm}: {text}" for text in words]
        for what, kept in (("its exploration floor", cut.floor_kept), ("its choices", cut.kept)):
            share = {name: float(kept[job.catalog.channel == name].min()) for name in job.catalog.channels}
            lost = [f"{channel} {part:.0%}" for channel, part in share.items() if part < 0.99]
            if lost:
                out.append(f"arm {rule.arm}: limits leave of {what}: {', '.join(lost)}")
    return tuple(out)


def _sorted(parts: Sequence[Scored]) -> Scored:
    ids = pa.concat_arrays([part.ids for part in parts])
    joined = Scored(
        ids,
        pa.concat_arrays([part.external for part in parts]),
        *(np.concatenate(arrays) for arrays in zip(*(part[2:] for part in parts))),
    )
    return joined.take(pc.sort_indices(ids).to_numpy())


def _numbers(names: NDArray[np.str_], order: Sequence[str]) -> NDArray[np.int16]:
    found = pc.index_in(pa.array(names.tolist(), pa.string()), pa.array(list(order), pa.string()))
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.int16)


def _attributes(job: Job, snapshot: Snapshot, ids: pa.Array) -> dict[str, Sequence[object]]:
    names = sorted({name for trial in job.config.experiments for name in trial.audience})
    if not names:
        return {}
    found = snapshot.table("customers")
    order = pc.index_in(ids, found["customer_id"].combine_chunks())
    return {name: found[name].take(order).to_pylist() for name in names if name in found.column_names}


def _external(snapshot: Snapshot, ids: pa.Array) -> pa.Array:
    known = snapshot.sql("select customer_id, external_id from customers")
    order = pc.index_in(ids, known["customer_id"].combine_chunks())
    return known["external_id"].take(order).combine_chunks().cast(pa.string())


def _named(number: NDArray[np.integer[Any]], names: Sequence[str]) -> pa.Array:
    index = pa.array(np.asarray(number, dtype=np.int32))
    return pa.DictionaryArray.from_arrays(index, pa.array(list(names), pa.string())).cast(pa.string())


def _microseconds(at: datetime) -> int:
    return int(
        np.datetime64(at.replace(tzinfo=None) - (at.utcoffset() or timedelta()), "us").astype(np.int64)
    )
