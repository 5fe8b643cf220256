"""Parquet files held to the contract, without reading them into memory."""

from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from nba.errors import listed
from nba.tables.fields import Field, Table


def check_file(contract: Table, path: Path) -> None:
    """Check the columns and values of a Parquet file in one pass, without reading it into memory.

    Whether its key is unique is the writer's to warrant.

    Raises:
        DataError: naming every fault.
    """
    with pq.ParquetFile(path) as file:
        types, metadata = {field.name: field.type for field in file.schema_arrow}, file.metadata
    faults = [
        f"{spec.name}: type {types.get(spec.name)}; expected {spec.type}"
        for spec in contract.fields
        if types.get(spec.name) != spec.type
    ]
    extra = [
        name
        for name in types
        if name not in contract.columns
        and not (contract.open_prefix and name.startswith(contract.open_prefix))
    ]
    if extra:
        faults.append(f"unexpected columns {extra}")
    whole = _without_null(metadata)
    rules = [] if faults else [rule for spec in contract.fields for rule in _rules(spec, spec.name in whole)]
    if rules and metadata.num_rows:
        counted = ", ".join(f"count(*) filter ({broken})" for _, broken in rules)
        with duckdb.connect(config={"threads": 2}) as connection:
            source = "'" + str(path).replace("'", "''") + "'"
            row = connection.execute(f"select {counted} from read_parquet({source})").fetchall()[0]
        faults += [f"{what}: {n} values" for (what, _), n in zip(rules, row) if n]
    if faults:
        raise listed(faults, f"{contract.name} breaks its contract")


def _without_null(metadata: pq.FileMetaData) -> set[str]:
    # Columns of which the file itself tells that no value is null: they need not be read for it.
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    out = set(metadata.schema.names)
    for group in groups:
        for i in range(group.num_columns):
            told = group.column(i).statistics
            if told is None or not told.has_null_count or told.null_count:
                out.discard(group.column(i).path_in_schema)
    return out


def _rules(spec: Field, is_whole: bool) -> list[tuple[str, str]]:
    name, out = f'"{spec.name}"', []
    if not spec.nullable and (spec.kind == "number" or not is_whole):
        unknown = f"{name} is null" + (f" or isnan({name})" if spec.kind == "number" else "")
        out.append((f"{spec.name} unknown", unknown))
    if spec.low is not None:
        out.append((f"{spec.name} below {spec.low:g}", f"{name} < {spec.low}"))
    if spec.high is not None:
        out.append((f"{spec.name} above {spec.high:g}", f"{name} > {spec.high}"))
    if spec.values:
        known = ", ".join("'" + value.replace("'", "''") + "'" for value in spec.values)
        out.append((f"{spec.name} not among {list(spec.values)}", f"{name} not in ({known})"))
    return out
