"""Decide one batch for every customer, log it, and deliver it.

Order of what is written: the batch is staged under a name that no consumer reads, then logged in one
commit, then published by a rename. A run that is killed in between is completed by running it again: what
was logged is delivered, and what was not logged is decided anew, with the same result.
"""

import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nba import settings, tables, tracking
from nba.errors import DataError, MissingError, SettingsError
from nba.experiments import declared, design, facts
from nba.features import table as features
from nba.history import History, Snapshot
from nba.models.scorer import Scorer
from nba.policy import arbitrate, limits, rules
from nba.serving import decide as serving
from nba.serving import delivery, engines, jobs, spark, stream, writing
from pipelines.lock import locked
from pipelines.progress import Advance, Progress, silent

_FEATURE_ROWS = 250_000


@dataclass(frozen=True)
class DecideReport:
    """What a batch decided.

    Attributes:
        folder: Where it was delivered.
        is_new: False if it had been decided and delivered before: then nothing changed.
        rows: One per arm and limit: what there was, what was used, at which price.
        notes: What somebody should know.
    """

    batch_id: str
    folder: Path
    is_new: bool
    rows: list[dict[str, Any]]
    notes: tuple[str, ...]


def batch_name(at: datetime) -> str:
    """Name the batch of a moment.

    Example:
        >>> batch_name(datetime(2026, 3, 2, 6, tzinfo=UTC))
        '20260302T060000'
    """
    return f"{at.astimezone(UTC):%Y%m%dT%H%M%S}"


def decide(
    workspace: Path,
    at: datetime,
    batch_id: str | None = None,
    *,
    corrects: str | None = None,
    engine: str = "local",
    spark_features: bool = False,
    audience: str | None = None,
    progress: Progress | None = None,
) -> DecideReport:
    """Decide and deliver one batch; the same batch again changes nothing.

    Args:
        workspace: Folder of the workspace.
        at: The moment of decision.
        batch_id: Names the batch; from `at` if absent.
        corrects: A delivered batch that this one takes the place of.
        engine: local, spark, or the URL of a Spark master such as `local[2]`.
        spark_features: Whether Spark computes the features too; they are equal to 1e-9, so that a customer on
            the edge of a tree's split may be decided otherwise.
        audience: Condition over columns of `customers`, such as `a_country = 'ES' and can_email`; customers
            who do not fulfil it are not decided for. All are if absent.
        progress: Where to report.

    Raises:
        MissingError: when there are no customers yet.
        DataError: when the batch was decided at another moment, or `at` is not after the last batch.
        BusyError: when another run works on the workspace.
        SettingsError: when the audience names what is not there.
    """
    with locked(workspace, f"decide {batch_id or batch_name(at)}"):
        chosen = engines.Local() if engine == "local" else spark.Spark(spark.session(_master(engine)))
        if spark_features and not isinstance(chosen, spark.Spark):
            raise SettingsError(
                "features on Spark need Spark", "Add --engine spark, or a Spark master's URL."
            )
        asked = _Asked(corrects, audience, chosen, spark_features)
        return _decide(workspace, at, batch_id, asked, progress or silent())


def _master(engine: str) -> str | None:
    if engine != "spark" and not re.match(r"(spark|k8s|yarn|local)", engine):
        raise SettingsError(f"engine is {engine!r}; expected local, spark or the URL of a Spark master")
    return None if engine == "spark" else engine


class _Asked(NamedTuple):
    corrects: str | None
    audience: str | None
    engine: engines.Engine
    spark_features: bool


def _decide(
    workspace: Path, at: datetime, batch_id: str | None, asked: _Asked, progress: Progress
) -> DecideReport:
    corrects, audience, engine, _ = asked
    config = settings.read(workspace)
    history = History.read(workspace)
    batch_id = batch_id or batch_name(at)
    delivery.check_name(batch_id)
    root = workspace / config.delivery.path
    if not history.has("customers"):
        raise MissingError(f"{workspace} has no customers yet", "Run `nba ingest` first.")
    if _is_logged(history, batch_id, at):
        return _report(history, batch_id, _complete(root, batch_id), (), is_new=False)
    catalog = settings.read_catalog(workspace, config)
    models = _models(workspace, config)
    with history.as_of(at) as snapshot:
        # A column that is not there now would leave an experiment without its readout at the end.
        facts.check_segments(snapshot, *_open(config, at))
        ids = _reachable(snapshot, audience)
        if len(ids) > config.delivery.stream_above or isinstance(engine, spark.Spark):
            nuisance = arbitrate.nuisance(snapshot, catalog, config.reward)
            spent = limits.spent_today(snapshot, catalog, config.workspace.timezone)
            moment = snapshot.at
            job = jobs.Job(
                *(batch_id, moment, catalog, config, models, nuisance, moment, corrects, spent, audience),
                design.units(snapshot),
            )
            try:
                staged, logged, notes = _part_by_part(job, snapshot, ids, root, asked, progress)
            except BaseException:
                shutil.rmtree(_feature_folder(root, batch_id), ignore_errors=True)
                raise
        else:
            step = progress.step(f"deciding {batch_id}", total=3)
            seen = features.build(snapshot, ids)
            step(1)
            batch = serving.decide(snapshot, seen, catalog, config, models, batch_id)
            if audience is not None:
                batch = replace(batch, notes=(*batch.notes, f"audience: {audience}"))
            step(1)
            staged = delivery.stage(batch, root, formats=config.delivery.formats, corrects=corrects)
            logged, notes = _logged(batch), batch.notes
            step(1)
    current = dict(zip(("actions", "treatments"), catalog.to_tables()))
    begun = declared.declarations(config, at, _begun(history))
    if begun.num_rows:
        logged["declarations"] = begun
    offered = {name: _with_retired(history, name, table) for name, table in current.items()}
    history = history.commit(append=logged, replace=offered)
    folder = delivery.publish(staged)
    for leftover in (stream.work_folder(root, batch_id), _feature_folder(root, batch_id)):
        shutil.rmtree(leftover, ignore_errors=True)
    return _report(history, batch_id, folder, notes, is_new=True)


def _open(config: settings.Settings, at: datetime) -> list[settings.Experiment]:
    return [e for e in (config.experiment, *config.experiments) if not (e.ends_at and e.ends_at <= at)]


def _begun(history: History) -> set[str]:
    known = history.table("declarations") if history.has("declarations") else tables.DECLARATIONS.empty()
    return set(known["experiment_id"].to_pylist())


def _logged(batch: serving.Batch) -> dict[str, pa.Table | Path]:
    out: dict[str, pa.Table | Path] = {
        "decisions": batch.decisions,
        "choices": batch.choices,
        "batches": batch.batches,
        "removals": batch.removals,
        "features": batch.features,
    }
    if batch.assignments.num_rows:
        out["assignments"] = batch.assignments
    return out


def _part_by_part(
    job: jobs.Job,
    snapshot: Snapshot,
    ids: pa.Array,
    root: Path,
    asked: _Asked,
    progress: Progress,
) -> tuple[Path, dict[str, pa.Table | Path], tuple[str, ...]]:
    # Features go to disk first, in the order of the ids; what is logged goes from disk into the history.
    step = progress.step(f"features of {len(ids):,} customers", total=len(ids))
    folder = _feature_folder(root, job.batch_id)
    shutil.rmtree(folder, ignore_errors=True)
    with delivery.full_disk(folder):
        folder.mkdir(parents=True)
        made = _features(snapshot, ids, folder)
        if asked.spark_features and isinstance(asked.engine, spark.Spark):
            made = asked.engine.features(snapshot, ids, folder, _FEATURE_ROWS)
        files = []
        for path in made:
            files.append(path)
            step(pq.ParquetFile(path).metadata.num_rows)
    shown: dict[str, Advance] = {}

    def advance(name: str, n: int) -> None:
        if name not in shown:
            shown[name] = progress.step(f"{name} {job.batch_id}", total=len(ids) if n else None)
        shown[name](n)

    found = stream.run(job, snapshot, files, root, engine=asked.engine, advance=advance)
    known = snapshot.sql("select experiment_id, customer_id from assignments")
    logged: dict[str, pa.Table | Path] = {name: paths[0] for name, paths in found.log.items()}
    one = folder / "features.parquet"
    with delivery.full_disk(folder), pq.ParquetWriter(one, pq.ParquetFile(files[0]).schema_arrow) as writer:
        for table in engines.read_parts(files):
            writer.write_table(table.cast(writer.schema))
    logged |= {"batches": found.batches, "removals": found.removals, "features": one}
    assigned = writing.assignments_of(job, snapshot, ids, known)
    if assigned.num_rows:
        logged["assignments"] = assigned
    return found.staged, logged, tuple(found.manifest["notes"])


def _features(snapshot: Snapshot, ids: pa.Array, folder: Path) -> Iterator[Path]:
    for number, begin in enumerate(range(0, len(ids), _FEATURE_ROWS)):
        path = folder / f"{number:05d}.parquet"
        table = features.build(snapshot, ids[begin : begin + _FEATURE_ROWS])
        pq.write_table(table, path, compression="zstd", row_group_size=engines.ROWS)
        yield path


def _feature_folder(root: Path, batch_id: str) -> Path:
    return root / f".features.batch_id={batch_id}"


def _with_retired(history: History, name: str, current: pa.Table) -> pa.Table:
    # What was ever decided stays explained, also when the catalog no longer offers it.
    if not history.has(name):
        return current
    key = tables.BY_NAME[name].key[0]
    return pa.concat_tables(
        [current, history.table(name).join(current.select([key]), key, join_type="left anti")]
    )


def _reachable(snapshot: Snapshot, audience: str | None = None) -> pa.Array:
    # Visitors whom orchestration cannot name are nobody's to decide for, and would only dilute every mean.
    wanted = ""
    if audience is not None:
        rules.check(audience, snapshot.sql("from customers limit 0").column_names)
        wanted = f"and ({audience}\n)::boolean"  # a comment at its end must not swallow the bracket
    query = f"select customer_id from customers where external_id is not null {wanted} order by 1"
    try:
        known = snapshot.sql(query)
    except duckdb.Error as error:
        if not wanted:
            raise
        raise SettingsError(
            f"the audience {audience!r} cannot be answered: {str(error).splitlines()[0]}",
            "Compare columns with values of their own type; a condition is true or false.",
        ) from None
    if not known.num_rows and wanted:
        raise MissingError(
            f"no customer known at {snapshot.at.isoformat()} fulfils {audience!r}", "Widen the audience."
        )
    if not known.num_rows:
        raise MissingError(
            f"no customer known at {snapshot.at.isoformat()} has an id that orchestration knows",
            "Map the identifier that [identity] external names, or decide at a later moment.",
        )
    return known["customer_id"].combine_chunks()


def _models(workspace: Path, config: settings.Settings) -> Mapping[str, Scorer]:
    # Aliases that the experiments' arms need; without a registered champion the batch explores evenly.
    needed = {
        arm.policy for experiment in (config.experiment, *config.experiments) for arm in experiment.arms
    }
    others = sorted(policy for policy in needed if policy == "challenger" or policy.startswith("alias:"))
    aliases = ["champion", *others]
    tracking.setup(config, workspace)
    name = tracking.policy_name(config)
    out = {}
    for alias in aliases:
        try:
            tracking.find(name, alias.removeprefix("alias:"))
        except MissingError:
            continue
        folder, _version = tracking.load_policy(name, alias.removeprefix("alias:"))
        out[alias] = Scorer.load(folder)
    return out


def _is_logged(history: History, batch_id: str, at: datetime) -> bool:
    if not history.has("decisions"):
        return False
    query = "select batch_id, min(decided_at) as decided_at from decisions group by 1"
    known = {row["batch_id"]: row["decided_at"] for row in history.sql(query).to_pylist()}
    if batch_id in known:
        if known[batch_id] != at.astimezone(UTC):
            raise DataError(
                f"batch {batch_id!r} was decided at {known[batch_id].isoformat()}; asked is {at.isoformat()}",
                "Name another batch, or leave the name out.",
            )
        return True
    last = max(known.values(), default=None)
    if last is not None and at <= last:
        raise DataError(
            f"a batch was decided at {last.isoformat()}; asked is {at.isoformat()}, which is not later",
            "Batches go forward in time, so that contact limits see the one before.",
        )
    return False


def _complete(root: Path, batch_id: str) -> Path:
    staged = delivery.find_staged(root, batch_id)
    if staged is not None:
        return delivery.publish(staged)
    folder = delivery.folder_of(root, batch_id)
    delivery.read_manifest(folder)
    return folder


def _report(
    history: History, batch_id: str, folder: Path, notes: tuple[str, ...], *, is_new: bool
) -> DecideReport:
    batches = history.table("batches")
    found = batches.filter(pc.equal(batches["batch_id"], batch_id))
    shown = found.select(["arm", "limit", "n_customers", "available", "used", "price"])
    return DecideReport(batch_id, folder, is_new, shown.to_pylist(), notes)
