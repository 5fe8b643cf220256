"""How well identity resolution finds the simulated people again."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nba.histories import identifiers
from nba.settings import Identity

COUNTRY = "ES"


@dataclass(frozen=True)
class Judged:
    """Pairs of identifiers that were seen, taken as of one person or not.

    Attributes:
        precision: Share of the pairs within a customer that are of one person.
        recall: Share of the pairs of one person that are within a customer, among identifiers that stood
            beside another one at least once. A cookie that never logged in can be linked by nobody.
        recall_all: The same among all identifiers, those that never stood beside another included.
        n_identifiers: Identifiers judged.
        n_alone: Of these, identifiers that never stood beside another.
    """

    precision: float
    recall: float
    recall_all: float
    n_identifiers: int
    n_alone: int


def judge(identities: pa.Table, people: Mapping[str, Mapping[str, int]], secret: str, cache: Path) -> Judged:
    """Compare the identities table with the truth.

    Args:
        identities: The contract's table.
        people: As the world gives them: kind to clean identifier to the person's number.
        secret: The salt of the hashes.
        cache: Folder of the staged files, which tells what stood beside what.
    """
    hashes, person = _hashed(people, secret)
    with duckdb.connect() as connection:
        connection.register("truth", pa.table({"identifier_hash": hashes, "person": person}))
        connection.register("found", identities)
        rows = connection.sql(
            f"""with linked as ({_linked(cache)})
            select identifier_hash in (from linked) as is_linked, person,
                dense_rank() over (order by customer_id) as customer
            from found join truth using (identifier_hash)"""
        ).to_arrow_table()
    whose, customer = rows["person"].to_numpy().astype(np.int64), rows["customer"].to_numpy()
    linked = rows["is_linked"].to_numpy(zero_copy_only=False)
    together = whose * (int(customer.max(initial=0)) + 1) + customer
    return Judged(
        _pairs(together) / max(_pairs(customer), 1),
        _pairs(together[linked]) / max(_pairs(whose[linked]), 1),
        _pairs(together) / max(_pairs(whose), 1),
        len(whose),
        int((~linked).sum()),
    )


def _linked(cache: Path) -> str:
    # Identifiers of combinations of two or more.
    parts = []
    for path in sorted(cache.glob("*/combos-*.parquet")):
        kinds = [name for name in pq.read_schema(path).names if name.startswith("i_")]
        several = " + ".join(f"({kind} is not null)::int" for kind in kinds)
        parts += [
            f"select replace({kind}::varchar, '-', '') from read_parquet('{path}')"
            f" where {several} > 1 and {kind} is not null"
            for kind in kinds
        ]
    return " union ".join(parts)


def _pairs(label: NDArray[np.int64]) -> int:
    n = np.unique(label, return_counts=True)[1]
    return int((n * (n - 1) // 2).sum())


def _hashed(people: Mapping[str, Mapping[str, int]], secret: str) -> tuple[pa.Array, pa.Array]:
    hashes: list[str] = []
    person: list[int] = []
    with duckdb.connect() as connection:
        identifiers.use_salt(connection, secret)
        for kind, of in people.items():
            texts = list(of)
            if kind == "phone":
                texts = [number or "" for number in identifiers.phones(texts, COUNTRY)]
            connection.register("clean", pa.table({"t": texts, "person": list(of.values())}))
            value = "t" if kind == "phone" else identifiers.normalised(kind, "t", Identity())
            rows = connection.sql(
                f"select replace({identifiers.hashed(kind, value)}::varchar, '-', '') as h, person from clean"
                f" where {value} is not null"
            ).to_arrow_table()
            connection.unregister("clean")
            hashes += rows["h"].to_pylist()
            person += rows["person"].to_pylist()
    return pa.array(hashes, pa.string()), pa.array(person, pa.int64())
