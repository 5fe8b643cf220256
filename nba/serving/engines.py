"""What does work on parts of the customers: reading, scoring, and the cores of this machine."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nba.experiments import design
from nba.history import Snapshot
from nba.models import traverse
from nba.policy import arbitrate, levers
from nba.policy.eligibility import Terms, eligible
from nba.policy.explore import Estimate
from nba.serving.deciders import Worth, believed
from nba.serving.jobs import Job, Scored
from nba.serving.parts import Parts

T = TypeVar("T")
S = TypeVar("S")
ROWS = 32_768


class Source(NamedTuple):
    """What an engine scores.

    Attributes:
        job: What is the same for all customers.
        snapshot: What was known.
        features: Parquet files of the features table.
        work: Folder for what is kept between the passes.
    """

    job: Job
    snapshot: Snapshot
    features: Sequence[Path]
    work: Path


class Engine(Protocol):
    """What does work on parts of the customers: this machine's cores, or a cluster."""

    def score(self, source: Source, then: Callable[[Scored], T]) -> Iterator[T]:
        """Score all customers, keep the parts, and give what `then` makes of each."""
        ...

    def each(self, then: Callable[[Scored], T]) -> Iterator[T]:
        """Give what `then` makes of each part that was kept."""
        ...


class Local:
    """Work in threads of this machine, parts on disk between the passes.

    Args:
        threads: Parts that are worked on at once; all cores if absent.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or len(os.sched_getaffinity(0))
        self._folder = Path()
        self._parts = 0

    def score(self, source: Source, then: Callable[[Scored], T]) -> Iterator[T]:
        """Score all customers, keep the parts, and give what `then` makes of each."""
        job, snapshot, features, work = source
        self._folder, self._parts = work, 0
        local, opened = threading.local(), []
        parts = Parts(snapshot, work)

        def score(item: tuple[int, pa.Table]) -> T:
            number, table = item
            if not hasattr(local, "connection"):
                local.connection = parts.connect()
                opened.append(local.connection)
            scored = score_part(job, parts.of(local.connection, table["customer_id"]), table)
            keep(work, f"{number:06d}", scored)
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
        names = (f"{number:06d}" for number in range(self._parts))
        return ordered(lambda name: then(kept(self._folder, name)), names, self._threads)


def keep(folder: Path, name: str, part: Scored) -> None:
    """Keep a scored part on disk between the passes, whole or not at all."""
    names = pa.table({"ids": part.ids, "external": part.external})
    new = folder / f".{name}.{os.getpid()}"
    with pa.OSFile(f"{new}.names", "wb") as sink, pa.ipc.new_file(sink, names.schema) as writer:
        writer.write_table(names)
    with Path(f"{new}.scored").open("wb") as file:
        for array in part[2:]:
            np.save(file, array, allow_pickle=False)
    for suffix in ("names", "scored"):
        Path(f"{new}.{suffix}").replace(folder / f"{name}.{suffix}")


def kept(folder: Path, name: str) -> Scored:
    """Read a part that was kept."""
    with pa.OSFile(str(folder / f"{name}.names"), "rb") as source:
        names = pa.ipc.open_file(source).read_all().combine_chunks()
    ids, external = (names[column].combine_chunks() for column in ("ids", "external"))
    with (folder / f"{name}.scored").open("rb") as file:
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


def read_parts(files: Iterable[Path], rows: int = ROWS) -> Iterator[pa.Table]:
    """Read tables file by file, a few rows at a time.

    Without reading ahead: dataset scanners, and `pre_buffer`, outrun who consumes them.
    """
    for path in files:
        file = pq.ParquetFile(path, pre_buffer=False)
        for batch in file.iter_batches(rows, use_threads=False):
            yield pa.Table.from_batches([batch]).replace_schema_metadata(None)


def score_part(job: Job, snapshot: Snapshot, features: pa.Table) -> Scored:
    """Turn features of some customers into belief and eligibility.

    Args:
        job: What is the same for all customers.
        snapshot: What was known, of these customers at least.
        features: Their features.
    """
    ids = features["customer_id"].combine_chunks().cast(pa.string())
    config = job.config
    terms = Terms(job.valid_until, config.workspace.timezone, config.reward.window_days)
    found = eligible(snapshot, job.catalog, config.limits, ids, config.engagement, features, terms)
    placed = design.place(job.config, ids, job.at, attributes_of(job, snapshot, ids), job.units)
    rules = job.rules
    arm = _numbers(placed.arm, [rule.arm for rule in rules])
    experiments = [job.config.experiment.experiment_id, *(e.experiment_id for e in job.config.experiments)]
    wanted = {rules[i].alias for i in np.unique(arm)}
    scores = {
        alias: model.scores(features, job.catalog) for alias, model in job.models.items() if alias in wanted
    }
    n, k = found.is_eligible.shape
    mean, se = np.full((n, k), np.nan), np.full((n, k), np.nan)
    saved = arbitrate.saved(snapshot, job.catalog, job.config.reward, ids)
    chosen = job.config.policy.levers
    context = levers.contexts(features, chosen)
    weight = levers.weights(context, chosen, job.catalog)
    worth = Worth(arbitrate.fatigue(job.nuisance, features), saved, weight)
    beliefs: dict[tuple[str, bool], Estimate] = {}
    for i in np.unique(arm):
        kind = rules[i].alias, rules[i].by_response
        if kind not in beliefs:
            beliefs[kind] = believed(rules[i], scores, job.catalog, worth, n)
        own, rows = beliefs[kind], arm == i
        mean[rows], se[rows] = own.mean[rows], own.se[rows]
    external = external_ids(snapshot, ids)
    experiment = _numbers(placed.experiment_id, experiments)
    return Scored(ids, external, arm, experiment, placed.p_arm, found.zone, mean, se, found.reason, context)


def _numbers(names: NDArray[np.str_], order: Sequence[str]) -> NDArray[np.int16]:
    found = pc.index_in(pa.array(names.tolist(), pa.string()), pa.array(list(order), pa.string()))
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.int16)


def attributes_of(job: Job, snapshot: Snapshot, ids: pa.Array) -> dict[str, Sequence[object]]:
    """Look up the attributes of customers that audiences of trials ask for."""
    names = sorted({name for trial in job.config.experiments for name in trial.audience})
    if not names:
        return {}
    found = snapshot.table("customers")
    order = pc.index_in(ids, found["customer_id"].combine_chunks())
    return {name: found[name].take(order).to_pylist() for name in names if name in found.column_names}


def external_ids(snapshot: Snapshot, ids: pa.Array) -> pa.Array:
    """Look up the ids by which orchestration knows the customers."""
    known = snapshot.sql("select customer_id, external_id from customers")
    order = pc.index_in(ids, known["customer_id"].combine_chunks())
    return known["external_id"].take(order).combine_chunks().cast(pa.string())
