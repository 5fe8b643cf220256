"""Replayed batches together: the rows on which policies are judged and compared."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nba.evaluation import offpolicy
from nba.evaluation.offpolicy import Log
from pipelines import replay
from pipelines.replay import Array, Context, Part, Player, Unseen, Whole, numbers


class Pooled(NamedTuple):
    """Parts together, on the columns of all of them.

    Attributes:
        log: Rows of arms that could have chosen what is judged.
        unsubscribed: Shape (n,).
        X: Features, shape (n, d).
        batch: Number of the batch, not decreasing, shape (n,).
        target: Probabilities by player, each of shape (n, k).
        arm: Shape (n,).
    """

    log: Log
    unsubscribed: Array
    X: Array
    batch: Whole
    target: Mapping[str, Array]
    arm: NDArray[np.object_]

    def only(self, rows: NDArray[np.bool_]) -> "Pooled":
        """Keep some rows; customers are numbered anew."""
        log = self.log
        unit = np.unique(log.unit[rows], return_inverse=True)[1]
        kept = Log(log.column[rows], log.reward[rows], log.p_logged[rows], unit)
        target = {name: p[rows] for name, p in self.target.items()}
        return Pooled(kept, self.unsubscribed[rows], self.X[rows], self.batch[rows], target, self.arm[rows])


def replayed(
    context: Context,
    players: Mapping[str, Player],
    unseen: Unseen,
    batches: Sequence[str],
    step: Callable[[int], None] = lambda _: None,
) -> Pooled | None:
    """Let players play what has closed.

    Args:
        context: The workspace.
        players: By name.
        unseen: Decisions that count.
        batches: Batches to read, in the order of their decisions.
        step: Told of each batch.

    Returns:
        The rows of all batches, or None where none of them can be replayed.
    """
    parts: list[Part] = []
    played: dict[str, list[Array]] = {name: [] for name in players}
    for batch_id in batches:
        if part := replay.read(context, batch_id, unseen=unseen):
            parts.append(part)
            for name, player in players.items():
                played[name].append(player.play(part).final)
        step(1)
    return pool(parts, played) if parts else None


def pool(parts: Sequence[Part], played: Mapping[str, Sequence[Array]]) -> Pooled:
    """Put parts together.

    Args:
        parts: In the order of their batches.
        played: Player to its probabilities on each part, columns of the catalog.
    """
    names = tuple(dict.fromkeys(name for part in parts for name in part.names))
    number = {name: i for i, name in enumerate(names)}

    def widened(part: Part, p: Array) -> Array:
        wide = np.zeros((len(part.ids), len(names)))
        wide[:, [number[name] for name in part.names[: p.shape[1]]]] = p
        return wide

    ids = np.array([name for part in parts for name in part.ids])
    column = np.concatenate([np.array([number[x] for x in part.names])[part.column] for part in parts])
    log = Log(
        column,
        np.concatenate([part.reward for part in parts]),
        np.vstack([widened(part, part.p_logged) for part in parts]),
        np.unique(ids, return_inverse=True)[1],
    )
    batch = np.concatenate([np.full(len(part.ids), i) for i, part in enumerate(parts)])
    target = {
        name: np.vstack([widened(part, p) for part, p in zip(parts, found, strict=True)])
        for name, found in played.items()
    }
    unsubscribed = np.concatenate([part.unsubscribed for part in parts])
    arm = np.concatenate([part.arm for part in parts])
    return Pooled(log, unsubscribed, _features(parts), batch, target, arm)


def supported(pooled: Pooled, names: Sequence[str]) -> Pooled:
    """Keep the arms that could have chosen whatever the players named would choose."""
    able = []
    for arm in np.unique(pooled.arm):
        rows = pooled.arm == arm
        p = pooled.log.p_logged[rows]
        missing = max(
            float(np.where(p > 0, 0.0, pooled.target[name][rows]).sum(axis=1).mean()) for name in names
        )
        if missing <= offpolicy.MAX_UNSUPPORTED:
            able.append(arm)
    return pooled.only(np.isin(pooled.arm, able))


def _features(parts: Sequence[Part]) -> Array:
    # Batches logged before a feature existed have fewer: it is unknown there.
    names = sorted({x for part in parts for x in part.features.column_names if x.startswith("f_")})
    blocks = []
    for part in parts:
        block = np.full((len(part.ids), len(names)), np.nan)
        for j, name in enumerate(names):
            if name in part.features.column_names:
                block[:, j] = numbers(part.features[name])
        blocks.append(block)
    return np.vstack(blocks)
