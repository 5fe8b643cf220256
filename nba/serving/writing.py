"""Pass 4 of a batch: decisions, choices, reasons and counts, in order, and the manifest's numbers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nba import draws, tables
from nba.experiments import design
from nba.history import Snapshot
from nba.policy import eligibility, levers, streamed
from nba.policy import limits as volumes
from nba.serving import delivery
from nba.serving.decide import cut_words, send_spans
from nba.serving.deciders import START
from nba.serving.drawing import draw_of, dropped_of
from nba.serving.engines import Engine, attributes_of
from nba.serving.jobs import Array, Drawn, Job, Scored, Whole
from nba.serving.pricing import logged_of, probabilities_of

_CERTAIN = 1.0
_ASSIGNED_ROWS = 250_000


@dataclass
class Result:
    """A batch that was staged, and the files of its log.

    Attributes:
        staged: Folder to publish.
        manifest: Its manifest.
        log: Table name to Parquet files, for the history.
        batches: The `batches` table.
        removals: The `removals` table.
        drawn: The cuts that its limits left.
    """

    staged: Path
    manifest: dict[str, Any]
    batches: pa.Table
    removals: pa.Table
    drawn: Drawn
    log: dict[str, list[Path]] = field(default_factory=dict)


class Rows(NamedTuple):
    """What a part gives to the delivery and to the log.

    Attributes:
        counts: Decisions by arm and treatment, shape (arms, k).
        removed: Customers by treatment and rule, shape (k, rules).
    """

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
    final_p = logged_of(job, part, p, drawn.cuts)
    dropped = dropped_of(job, part, column, drawn.cuts)
    final = np.where(dropped >= 0, 0, column)
    price = np.stack([job.limited.use @ cut.price for cut in drawn.cuts])[part.arm]
    ids = decision_ids(job.batch_id, part.ids)
    channel = [str(name) for name in job.catalog.channel]
    experiments = [job.config.experiment.experiment_id, *(e.experiment_id for e in job.config.experiments)]
    decisions = pa.table(
        {
            "decision_id": ids,
            "batch_id": names_of(np.zeros(n, np.int8), [job.batch_id]),
            "customer_id": part.ids,
            "external_id": part.external,
            "treatment_id": names_of(final, job.catalog.treatment_ids),
            "channel": names_of(final, channel),
            "decided_at": pa.array(np.full(n, _microseconds(job.at)), pa.int64()).cast(tables.TIME),
            "p_action": final_p[every, final],
            "policy_id": names_of(part.arm, [rule.policy_id for rule in job.rules]),
            "experiment_id": names_of(part.experiment, experiments),
            "arm": names_of(part.arm, [rule.arm for rule in job.rules]),
            "p_arm": part.p_arm,
            "expected_value": pa.array(part.mean[every, final], from_pandas=True),
            "reason": reasons_of(job, part, part.mean - price, final, dropped),
            "config_hash": names_of(np.zeros(n, np.int8), [job.config.config_hash]),
            "valid_until": pa.array(np.full(n, _microseconds(job.valid_until)), pa.int64()).cast(tables.TIME),
            **send_spans(job.config, job.at, job.catalog, part.zone, final),
        }
    )
    counts = np.zeros((len(job.rules), k), dtype=np.int64)
    np.add.at(counts, (part.arm, final), 1)
    removed = eligibility.removed(part.reason, len(job.reasons))
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
        (
            start,
            [f"no model yet: drawn evenly among {i} eligible, before limits" for i in range(k + 1)],
            among,
        ),
        (~by_belief, [f"drawn evenly among {i} eligible, before limits" for i in range(k + 1)], among),
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
    return names_of(code, words)


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
    weight = levers.weights(part.context[rows], job.config.policy.levers, job.catalog)
    table = {
        "decision_id": ids.take(pa.array(np.repeat(rows, k))),
        "treatment_id": names_of(np.tile(np.arange(k), len(rows)), job.catalog.treatment_ids),
        "is_eligible": (part.reason[rows] == 0).ravel(),
        "reason": names_of(part.reason[rows].ravel(), job.reasons),
        "p_action": p[rows].ravel(),
        "mean": pa.array(part.mean[rows].ravel(), from_pandas=True),
        "se": pa.array(part.se[rows].ravel(), from_pandas=True),
        "price": price[rows].ravel(),
        "weight": weight.ravel(),
    }
    return pa.table(table)


def write_all(
    job: Job,
    engine: Engine,
    drawn: Drawn,
    root: Path,
    work_in: Path,
    log: bool,
    tell: Callable[[str, int], None],
) -> Result:
    """Finish every part in order and stage the batch: decisions to deliver, the log, the manifest."""
    writer = delivery.Writer(root, job.batch_id, job.config.delivery.formats)
    logs = _Logs(work_in) if log else None
    counts = np.zeros((len(job.rules), len(job.catalog.treatment_ids)), dtype=np.int64)
    removed = np.zeros((len(job.catalog.treatment_ids), len(job.reasons)), dtype=np.int64)

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
            {name: int(n) for name, n in zip(job.reasons, removed.sum(axis=0)) if name and n},
            _notes(job, drawn),
            job.corrects,
            prices_of(job, drawn),
        )
        staged = writer.close(head)
    except BaseException:
        writer.discard()
        raise
    files = logs.close() if logs is not None else {}
    told = eligibility.removals(job.batch_id, removed, job.config.engagement, job.catalog)
    return Result(staged, delivery.read_manifest(staged), batches, told, drawn, files)


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
        attributes = attributes_of(job, snapshot, some)
        found.append(design.assignments(job.config, some.to_pylist(), job.at, by, attributes, job.units))
    return pa.concat_tables(found)


def _less_than_all(names: Sequence[str], share: Array) -> dict[str, float]:
    return {name: float(part) for name, part in zip(names, share) if part != _CERTAIN}


def _notes(job: Job, drawn: Drawn) -> tuple[str, ...]:
    out = [lack.words for lack in volumes.short(job.limited, drawn.used.sum(axis=0) / 1e6)]
    for i, (rule, cut) in enumerate(zip(job.rules, drawn.cuts)):
        if rule.policy_id == START:
            out.append(
                f"arm {rule.arm}: no model is registered yet; it explores evenly to gather the first data"
            )
        limited = job.limited._replace(available=drawn.available[i])
        words = volumes.binding(limited, cut.price, drawn.used[i] / 1e6)
        out += [f"arm {rule.arm}: {text}" for text in words]
        if rule.policy is None:
            continue
        out += [f"arm {rule.arm}: {text}" for text in cut_words(job.catalog, rule.policy.floor, cut)]
    if job.audience is not None:
        out.append(f"audience: {job.audience}")
    return tuple(out)


def names_of(number: NDArray[np.integer[Any]], names: Sequence[str]) -> pa.Array:
    """Turn numbers into names; strings are kept once."""
    index = pa.array(np.asarray(number, dtype=np.int32))
    return pa.DictionaryArray.from_arrays(index, pa.array(list(names), pa.string())).cast(pa.string())


def _microseconds(at: datetime) -> int:
    return int(
        np.datetime64(at.replace(tzinfo=None) - (at.utcoffset() or timedelta()), "us").astype(np.int64)
    )
