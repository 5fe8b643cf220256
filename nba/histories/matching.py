"""Records of persons that are alike: probabilistic links between identifiers, through Splink (an extra).

A source of customers may name columns by which its records are compared (names, a date of birth, a postcode).
They are read from the raw files into memory, and nothing of them is kept: what comes out are pairs of
salted hashes with a probability. Splink learns without labels how much each agreement tells (Fellegi and
Sunter's model, fitted by expectation maximisation); it runs on one thread with a fixed seed, so that the
same records give the same links. `identity` follows a link last, and never against a guard.
"""

import hashlib
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from nba.errors import DataError, SettingsError, listed
from nba.histories import database, mapping, sources, staging
from nba.histories.rawfile import Fault
from nba.histories.sources import quoted
from nba.histories.staging import StagedSource
from nba.settings import Matching, Settings, Source

SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("hash", pa.string()),
        ("other_kind", pa.string()),
        ("other_hash", pa.string()),
        ("p_same", pa.float64()),
    ]
)
_FILE = "links.parquet"
_MOST_PAIRS = 50_000_000
_SAMPLED_PAIRS = 2e6
# Of two records of one person, this share agrees on everything; it only sets the prior.
_EXACT = 0.6
_CODE = Path(__file__).read_bytes()


def is_wanted(settings: Settings) -> bool:
    """Say whether any source names columns to match by."""
    return any(source.matching for source in settings.sources)


def links(
    connection: duckdb.DuckDBPyConnection,
    staged: Sequence[StagedSource],
    settings: Settings,
    workspace: Path,
    cache: Path,
    data: Path | None = None,
) -> pa.Table:
    """Give the links between alike records: from the cache where nothing they rest on has changed.

    Args:
        connection: DuckDB with the salt in use, on which `staging.stage` has run.
        staged: All sources.
        settings: Of the workspace.
        workspace: Folder that paths are relative to.
        cache: Folder of staged files; the links are kept there as hashes.
        data: What `{data}` in a source's path stands for.

    Returns:
        Pairs of identifiers of at least the declared probability, strongest first; see `SCHEMA`.

    Raises:
        SettingsError: when Splink is not installed.
        DataError: when a source cannot be read, or too many pairs would be compared.
    """
    folder = cache / f"{staging.LINKS}{_key(connection, staged, settings)}"
    if not folder.is_dir():
        _require()
        found = find(records(connection, settings, workspace, data), settings.matching)
        forget(cache)
        new = cache / f".{uuid.uuid4().hex}"
        new.mkdir()
        pq.write_table(found, new / _FILE)
        new.rename(folder)
    return pq.ParquetFile(folder / _FILE).read()


def forget(cache: Path) -> None:
    """Remove the links that are kept; they are found again by the next ingestion."""
    for folder in cache.glob(f"{staging.LINKS}*"):
        shutil.rmtree(folder)


def _require() -> None:
    try:
        version("splink")
    except PackageNotFoundError:
        raise SettingsError(
            "sources map columns under `matching`, and Splink is not installed",
            "pip install 'nba[matching]', or remove `matching` from the sources of nba.toml.",
        ) from None


def _key(connection: duckdb.DuckDBPyConnection, staged: Sequence[StagedSource], settings: Settings) -> str:
    # The key of a staged file holds its bytes, its mapping and the salt.
    files = [file.key for one in staged if one.source.matching for file in one.files]
    gone = connection.execute(f"select tombstone from {staging.SUPPRESSED} order by 1").fetchall()
    told = [settings.matching.model_dump_json(), *files, *(stone for (stone,) in gone)]
    return hashlib.sha256("|".join(told).encode() + _CODE).hexdigest()[:32]


def records(
    connection: duckdb.DuckDBPyConnection, settings: Settings, workspace: Path, data: Path | None = None
) -> pa.Table:
    """Read the records that are compared: one per strongest identifier, the last that was read.

    Returns:
        `kind`, `hash`, and one text per field of `[matching]`, cleaned (case, accents, spaces), null where
        the source does not give it.

    Raises:
        DataError: naming what is wrong with each source.
    """
    parts, faults = read(connection, settings, workspace, data)
    if faults:
        told = [f"source {name!r}: {fault}" for name, fault in faults.items()]
        raise listed(told, "the records cannot be compared, and nothing was written", _HINT)
    names = list(settings.matching.fields)
    schema = pa.schema([(name, pa.string()) for name in ("kind", "hash", *names)])
    rows = pa.concat_tables([part.cast(schema) for part in parts]) if parts else schema.empty_table()
    with duckdb.connect(config={"threads": 1}) as own:
        own.register("told", rows.append_column("turn", pa.array(range(rows.num_rows), pa.int64())))
        last = ", ".join(f"arg_max({quoted(name)}, turn) as {quoted(name)}" for name in names)
        return own.sql(
            f"select kind, hash, {last} from told group by all order by kind, hash"
        ).to_arrow_table()


_HINT = "Mend the columns under `matching` of the [[sources]], or [matching], in nba.toml."


def read(
    connection: duckdb.DuckDBPyConnection, settings: Settings, workspace: Path, data: Path | None = None
) -> tuple[list[pa.Table], dict[str, str]]:
    """Read the columns under `matching` of all sources: their rows, and what is wrong, by source."""
    parts: list[pa.Table] = []
    faults = {}
    for source in settings.sources:
        if source.matching:
            try:
                parts += _of_source(connection, source, settings, workspace, data)
            except Fault as fault:
                faults[source.name] = f"matching: {fault}"
    return parts, faults


def _of_source(
    connection: duckdb.DuckDBPyConnection,
    source: Source,
    settings: Settings,
    workspace: Path,
    data: Path | None,
) -> list[pa.Table]:
    plan = mapping.plan(source, source.timezone or settings.workspace.timezone, settings.identity)
    plan = replace(plan, wanted=tuple(dict.fromkeys([*plan.wanted, *source.matching.values()])))
    if source.format == "sql":
        raws = [database.open_query(source, workspace, plan.wanted)[0]]
    else:
        found = sources.find(source, workspace, data)
        raws = [sources.open_file(connection, source, path, plan.wanted) for _, path in found]
    out = []
    for raw in raws:

        def part(types: Sequence[pa.DataType], rows: str) -> None:
            query = mapping.records(plan, types, rows, settings.matching.fields)
            out.append(connection.sql(query).to_arrow_table())

        staging.each_part(connection, plan, raw, part)
    return out


def find(people: pa.Table, settings: Matching) -> pa.Table:
    """Find the pairs of records that are of one person, with at least the declared probability.

    Args:
        people: As `records` gives them.
        settings: Fields, on what two records must agree to be compared, and the probability.

    Returns:
        See `SCHEMA`; in order of probability, highest first, then of the hashes.

    Raises:
        DataError: when more pairs would be compared than can be.
    """
    people = people.append_column("unique_id", pa.array(range(people.num_rows), pa.int64()))
    with duckdb.connect(config={"threads": 1, "temp_directory": ""}) as connection:
        connection.register("people", people)
        pairs = {tuple(group): _n_pairs(connection, group) for group in settings.block_on}
        if not sum(pairs.values()):
            return SCHEMA.empty_table()
        _refuse_too_many(pairs)
        exact = _n_pairs(connection, tuple(settings.fields))
        prior = max(exact, 1) / _EXACT / max(people.num_rows * (people.num_rows - 1) / 2, 1)
        scored = _scored(connection, settings, [group for group, n in pairs.items() if n], min(prior, 0.5))
        connection.register("scored", scored)
        return connection.sql(
            """select l.kind, l.hash, r.kind as other_kind, r.hash as other_hash,
                round(match_probability, 6) as p_same
            from scored join people l on l.unique_id = unique_id_l join people r on r.unique_id = unique_id_r
            order by p_same desc, l.hash, r.hash"""
        ).to_arrow_table()


def _n_pairs(connection: duckdb.DuckDBPyConnection, group: Sequence[str]) -> int:
    columns = ", ".join(map(quoted, group))
    known = " and ".join(f"{quoted(name)} is not null" for name in group)
    found = connection.execute(
        f"select coalesce(sum(n * (n - 1) // 2), 0)::bigint from (select count(*) as n from people"
        f" where {known} group by {columns})"
    ).fetchall()
    return int(found[0][0])


def _refuse_too_many(pairs: Mapping[tuple[str, ...], int]) -> None:
    if sum(pairs.values()) > _MOST_PAIRS:
        told = "; ".join(f"{list(group)} gives {n:,} pairs" for group, n in pairs.items())
        raise DataError(
            f"matching.block_on would compare more than {_MOST_PAIRS:,} pairs of records: {told}",
            "Have records agree on more fields before they are compared.",
        )


def _scored(
    connection: duckdb.DuckDBPyConnection, settings: Matching, groups: Sequence[Sequence[str]], prior: float
) -> pa.Table:
    import splink.comparison_library as levels
    from splink import DuckDBAPI, Linker, SettingsCreator, block_on

    compare: dict[str, Callable[[str], Any]] = {
        "name": lambda field: levels.JaroWinklerAtThresholds(field, [0.92, 0.8]),
        "date": lambda field: levels.DateOfBirthComparison(field, input_is_string=True),
        "code": lambda field: levels.LevenshteinAtThresholds(field, 1),
    }
    rules: list[Any] = [block_on(*group) for group in groups]
    model = SettingsCreator(
        link_type="dedupe_only",
        comparisons=[compare[how](field) for field, how in settings.fields.items()],
        blocking_rules_to_generate_predictions=rules,
        probability_two_random_records_match=prior,
        retain_matching_columns=False,
    )
    linker = Linker(DuckDBAPI(connection).register("people"), model, log_level="ERROR")
    linker.training.estimate_u_using_random_sampling(max_pairs=_SAMPLED_PAIRS, seed=1)
    for rule in rules:
        linker.training.estimate_parameters_using_expectation_maximisation(rule)
    found = linker.inference.predict(threshold_match_probability=settings.probability, warning_mode="never")
    scored: pa.Table = found.as_pyarrow_table()
    return scored.select(["unique_id_l", "unique_id_r", "match_probability"])
