"""Score all treatments of a customer in one walk of each tree.

Treatments of a joint model differ only in a few inputs (action and channel codes). A tree is walked
once per customer with the set of candidate treatments as a bit mask: a split on a customer's feature
sends all of them one way, a split on a code divides them by a mask known beforehand. Leaves are added in
the order of the trees, as LightGBM adds them, so that every sum is equal to its own, bit for bit.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightgbm as lgb
import numba
import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

Array = NDArray[np.float64]

_alone: list[bool] = []
_LEAF = np.uint32(1 << 31)
_ROWS = 128  # a block of customers and one tree together stay in the first cache
_BITS = 64
_DEFAULT_LEFT = 2
_ZERO = 1, 1e-35  # LightGBM's missing type "zero", and what counts as zero there
_FLOATING = "threshold", "leaf_value"
_WHOLE = "split_feature", "decision_type", "left_child", "right_child"


@dataclass(frozen=True)
class Forest:
    """Trees of a LightGBM model with numeric splits, flat: node arrays of all trees behind each other.

    Attributes:
        roots: First node of each tree, shape (trees,).
        feature: Input that a node splits on, shape (nodes,).
        threshold: Values up to it go left.
        child: Left and right child, shape (nodes, 2); numbers from 2**31 on are leaves.
        nan_left, zero_left: Whether an unknown value (a zero) goes left; `zero_left` is 2 where a zero is
            a value like any other.
        leaf: Values of all leaves.
    """

    roots: NDArray[np.uint32]
    feature: NDArray[np.uint32]
    threshold: Array
    child: NDArray[np.uint32]
    nan_left: NDArray[np.bool_]
    zero_left: NDArray[np.int8]
    leaf: Array

    @classmethod
    def of(cls, booster: lgb.Booster) -> "Forest | None":
        """Read a model; None where only LightGBM itself can score it.

        That is: categorical splits, linear leaves, averaged trees, several classes.
        """
        head, *parts = booster.model_to_string().split("\nTree=")
        lines = head.splitlines()
        if "average_output" in lines or booster.num_model_per_iteration() != 1:
            return None
        trees = [_tree(part) for part in parts]
        if any(tree is None for tree in trees):
            return None
        return _flat([tree for tree in trees if tree is not None])

    def scores(self, X: Array, codes: Array, threads: int | None = None) -> Array:
        """Sum the leaves of every row under every treatment.

        Args:
            X: Inputs of the customers, shape (n, p).
            codes: Inputs that follow them, by treatment, shape (k, m).
            threads: Cores to use; as `OMP_NUM_THREADS` says if absent, else all.

        Returns:
            Shape (n, k), equal to `Booster.predict(..., raw_score=True)` on the rows expanded.
        """
        X = np.ascontiguousarray(X, dtype=np.float64)
        out = np.empty((len(X), len(codes)))
        for begin in range(0, len(codes), _BITS):
            some = np.ascontiguousarray(codes[begin : begin + _BITS], dtype=np.float64)
            part = out if len(codes) <= _BITS else np.empty((len(X), len(some)))
            self._run(X, some, part, threads or allowed_threads())
            if part is not out:
                out[:, begin : begin + _BITS] = part
        return out

    def _run(self, X: Array, codes: Array, out: Array, threads: int) -> None:
        masks = self._masks(codes, X.shape[1])
        nodes = (self.roots, self.feature, self.threshold, self.child, self.nan_left, self.zero_left)
        more = (self.leaf, masks, bool((self.zero_left < 2).any()))
        if threads == 1 or len(X) < 2 * _ROWS:
            _walk(X, *nodes, *more, out)
            return
        step = -(-len(X) // (threads * _ROWS)) * _ROWS
        with ThreadPoolExecutor(threads) as pool:
            parts = [
                pool.submit(_walk, X[i : i + step], *nodes, *more, out[i : i + step])
                for i in range(0, len(X), step)
            ]
            for part in parts:
                part.result()

    def _masks(self, codes: Array, p: int) -> NDArray[np.uint64]:
        # For nodes that split on a code: which treatments go left, as bits.
        out = np.zeros(len(self.feature), dtype=np.uint64)
        nodes = np.flatnonzero(self.feature >= p)
        values = codes[:, self.feature[nodes] - p]
        unknown = np.isnan(values)
        with np.errstate(invalid="ignore"):
            goes = np.where(unknown, self.nan_left[nodes], values <= self.threshold[nodes])
            zero = ~unknown & (np.abs(values) <= _ZERO[1]) & (self.zero_left[nodes] < 2)
        goes = np.where(zero, self.zero_left[nodes] == 1, goes)
        bits = np.uint64(1) << np.arange(len(codes), dtype=np.uint64)
        out[nodes] = (goes * bits[:, None]).sum(axis=0, dtype=np.uint64)
        return out


def raw(booster: lgb.Booster, forest: Forest | None, X: Array, codes: Array) -> Array:
    """Sum the leaves of every row under every treatment, shape (n, k).

    Args:
        booster: The model.
        forest: `Forest.of(booster)`; where None, LightGBM scores the rows expanded.
        X: Inputs of the customers, shape (n, p).
        codes: Inputs that follow them, by treatment, shape (k, m).
    """
    if forest is not None:
        return forest.scores(X, codes)
    return expanded(booster, X, codes)


def expanded(booster: lgb.Booster, X: Array, codes: Array) -> Array:
    """Sum the leaves by LightGBM on the rows expanded, treatment by treatment, shape (n, k)."""
    out = np.empty((len(X), len(codes)))
    full = np.empty((len(X), X.shape[1] + codes.shape[1]))
    full[:, : X.shape[1]] = X
    for j, code in enumerate(codes):
        full[:, X.shape[1] :] = code
        out[:, j] = booster.predict(full, raw_score=True)
    return out


@contextmanager
def one_thread() -> Iterator[None]:
    """Walk in the caller's thread alone, for callers who run several of their own."""
    _alone.append(True)
    try:
        yield
    finally:
        _alone.pop()


def allowed_threads() -> int:
    """Count what may run at once: 1 within `one_thread`, what OMP_NUM_THREADS says, else all cores."""
    if _alone:
        return 1
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) > 0 else len(os.sched_getaffinity(0))


def _tree(text: str) -> dict[str, Any] | None:
    found = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    if int(found.get("num_cat", 0)) or found.get("is_linear", "0") != "0":
        return None
    out: dict[str, Any] = {name: np.array(found[name].split(), dtype=np.float64) for name in _FLOATING[1:]}
    if int(found["num_leaves"]) == 1:
        # A single leaf: as a split of which both sides end in it.
        return {
            "threshold": np.zeros(1),
            "split_feature": np.zeros(1, np.int32),
            "decision_type": np.zeros(1, np.int32),
            "left_child": np.full(1, -1, np.int32),
            "right_child": np.full(1, -1, np.int32),
            "leaf_value": out["leaf_value"][:1],
        }
    out["threshold"] = np.array(found["threshold"].split(), dtype=np.float64)
    return out | {name: np.array(found[name].split(), dtype=np.int32) for name in _WHOLE}


def _flat(trees: list[dict[str, Any]]) -> Forest:
    def joined(name: str, dtype: Any) -> Any:
        return np.concatenate([np.zeros(0, dtype), *(tree[name] for tree in trees)]).astype(dtype)

    def starts(name: str) -> NDArray[np.int64]:
        sizes = [len(tree[name]) for tree in trees]
        return np.concatenate([[0], np.cumsum(sizes)])[:-1].astype(np.int64)

    kind = joined("decision_type", np.int64)
    threshold = joined("threshold", np.float64)
    default, missing = (kind & _DEFAULT_LEFT) > 0, (kind >> 2) & 3
    sizes = [len(tree["threshold"]) for tree in trees]
    node0, leaf0 = (np.repeat(starts(name), sizes) for name in ("threshold", "leaf_value"))
    sides = [joined(name, np.int64) for name in ("left_child", "right_child")]
    child = np.stack([np.where(s >= 0, s + node0, ~s + leaf0 + int(_LEAF)) for s in sides], axis=1)
    # An unknown value is a zero, except where the split was learnt with unknown values.
    nan_left = np.where(missing == 0, threshold >= 0, default)
    zero_left = np.where(missing == _ZERO[0], default.astype(np.int8), 2).astype(np.int8)
    return Forest(
        starts("threshold").astype(np.uint32),
        joined("split_feature", np.uint32),
        threshold,
        child.astype(np.uint32),
        nan_left,
        zero_left,
        joined("leaf_value", np.float64),
    )


@intrinsic
def _lowest_bit(_context: Any, _value: Any) -> Any:
    # Number of the lowest bit that is set: one instruction of the processor.
    def generate(context: Any, builder: Any, _signature: Any, given: Any) -> Any:
        return builder.cttz(given[0], context.get_constant(types.boolean, 1))

    return types.uint64(types.uint64), generate


lowest_bit: Any = _lowest_bit  # called with one argument: numba gives it the other


@numba.njit(nogil=True, cache=True)
def _walk(  # noqa: C901
    X: Any, roots: Any, feature: Any, threshold: Any, child: Any, nan_left: Any, zero_left: Any,
    leaf: Any, masks: Any, has_zeros: Any, out: Any,
) -> None:  # fmt: skip
    # Unsigned numbers throughout: numba then needs no check for negative indices.
    n, p = X.shape
    k = out.shape[1]
    every = np.uint64(0xFFFFFFFFFFFFFFFF) if k == 64 else (np.uint64(1) << np.uint64(k)) - np.uint64(1)
    nothing, one = np.uint64(0), np.uint64(1)
    todo, todo_mask = np.empty(len(feature) + 1, np.uint32), np.empty(len(feature) + 1, np.uint64)
    total: Any = np.empty((_ROWS, k))
    for begin in range(0, n, _ROWS):
        size = min(_ROWS, n - begin)
        total[:size] = 0.0
        for t in range(len(roots)):
            for r in range(size):
                node, mask, depth = roots[t], every, 0
                while True:
                    while node < _LEAF:
                        f = feature[node]
                        if f < p:
                            v = X[begin + r, f]
                            if v != v:
                                side = np.uint32(0) if nan_left[node] else np.uint32(1)
                            elif has_zeros and zero_left[node] != 2 and abs(v) <= 1e-35:
                                side = np.uint32(1 - zero_left[node])
                            else:
                                side = np.uint32(v > threshold[node])
                            node = child[node, side]
                        else:
                            to_left = mask & masks[node]
                            if to_left == nothing:
                                node = child[node, 1]
                            elif to_left == mask:
                                node = child[node, 0]
                            else:
                                todo[depth], todo_mask[depth] = child[node, 1], mask ^ to_left
                                depth += 1
                                node, mask = child[node, 0], to_left
                    value = leaf[node - _LEAF]
                    if mask == every:
                        for j in range(k):
                            total[r, j] += value
                    else:
                        while mask != nothing:
                            total[r, np.int64(lowest_bit(mask))] += value
                            mask &= mask - one
                    if depth == 0:
                        break
                    depth -= 1
                    node, mask = todo[depth], todo_mask[depth]
        out[begin : begin + size] = total[:size]
