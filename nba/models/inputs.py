"""What every model reads: a matrix of features by name, and treatments coded by action and channel."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba.catalog import NONE, Catalog
from nba.errors import listed

Array = NDArray[np.float64]
Whole = NDArray[np.int64]


def feature_names(table: pa.Table) -> tuple[str, ...]:
    """Name the feature columns of a table, in its order."""
    return tuple(name for name in table.column_names if name.startswith("f_"))


def matrix(table: pa.Table, names: Sequence[str]) -> Array:
    """Read features by name; a feature that the table lacks, and an infinite value, is unknown (NaN).

    Args:
        table: n rows with columns `f_*`.
        names: p feature names.

    Returns:
        Shape (n, p), C order.

    Raises:
        DataError: when features are not numbers, all of them named.

    Example:
        >>> matrix(pa.table({"f_a": [1.0, None]}), ["f_a", "f_b"]).tolist()
        [[1.0, nan], [nan, nan]]
    """
    out = np.full((table.num_rows, len(names)), np.nan)
    faults = []
    for j, name in enumerate(names):
        if name in table.column_names:
            try:
                values = table[name].cast(pa.float64()).to_numpy()
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                faults.append(f"{name} holds {table.schema.field(name).type}; expected numbers")
                continue
            out[:, j] = np.where(np.isinf(values), np.nan, values) if np.isinf(values).any() else values
    if faults:
        hint = "Make a 0/1 feature of each category, or leave them out."
        raise listed(faults, "features are not numbers", hint)
    return out


@dataclass(frozen=True)
class Coding:
    """Treatments as numbers: each is an action on a channel, so that both can be learnt across.

    Attributes:
        treatment_ids: T treatments without `none`.
        action_ids: Action of each treatment, shape (T,).
        channels: Channel of each treatment, shape (T,).
    """

    treatment_ids: tuple[str, ...]
    action_ids: tuple[str, ...]
    channels: tuple[str, ...]

    @classmethod
    def of(cls, catalog: Catalog) -> "Coding":
        """Code the treatments of a catalog, in its column order."""
        return cls(
            catalog.treatment_ids[1:],
            tuple(str(name) for name in catalog.action[1:]),
            tuple(str(name) for name in catalog.channel[1:]),
        )

    @cached_property
    def action_names(self) -> tuple[str, ...]:
        """The A different actions, in order of first appearance."""
        return tuple(dict.fromkeys(self.action_ids))

    @cached_property
    def channel_names(self) -> tuple[str, ...]:
        """The C different channels, in order of first appearance."""
        return tuple(dict.fromkeys(self.channels))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns of `codes`."""
        actions = (f"action={name}" for name in self.action_names)
        return ("is_treated", *actions, *(f"channel={name}" for name in self.channel_names))

    def codes(self, other: "Coding | None" = None) -> Array:
        """Give the 0/1 codes of `none` and of treatments, of this coding or of a later one.

        Args:
            other: Treatments to code; an action or channel that this coding lacks is all zeros.

        Returns:
            Shape (1 + T, 1 + A + C); row 0 is `none`, all zeros.
        """
        other = other or self
        out = np.zeros((1 + len(other.treatment_ids), len(self.names)))
        out[1:, 0] = 1
        for row, (action, channel) in enumerate(zip(other.action_ids, other.channels), start=1):
            if action in self.action_names:
                out[row, 1 + self.action_names.index(action)] = 1
            if channel in self.channel_names:
                out[row, 1 + len(self.action_names) + self.channel_names.index(channel)] = 1
        return out

    def columns(self, treatment_ids: Sequence[str]) -> Whole:
        """Give the row of `codes()` of each treatment id; -1 where unknown."""
        number = {NONE: 0, **{name: i for i, name in enumerate(self.treatment_ids, start=1)}}
        return np.array([number.get(name, -1) for name in treatment_ids], dtype=np.int64)


def customers(rows: pa.Table) -> Whole:
    """Give the code of each row's customer, from 0, shape (n,)."""
    ids = rows["customer_id"]
    ids = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    return np.asarray(ids.dictionary_encode().indices, dtype=np.int64)
