"""Graphs of identifiers: components, links that must not be followed, and since when nodes hang together."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

ALWAYS, NEVER = (int(limit) for limit in (np.iinfo(np.int64).min, np.iinfo(np.int64).max))
_STEPS = 8


def components(n: int, a: Ints, b: Ints) -> Ints:
    """Give the connected components of a graph.

    Args:
        n: Number of nodes.
        a: One end of each edge, shape (m,).
        b: The other end, shape (m,).

    Returns:
        Number of the component of each node, shape (n,).

    Example:
        >>> components(4, np.array([0, 1]), np.array([1, 2])).tolist()
        [0, 0, 0, 1]
    """
    if not n:
        return np.zeros(0, np.int64)
    graph = coo_array((np.ones(len(a), dtype=np.int8), (a, b)), shape=(n, n))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def settle(edges: tuple[Ints, Ints, Ints], weak: Bools, exclusive: Ints, external: int) -> tuple[Ints, int]:
    """Give the components of a graph in which some links must not be followed; older links come first.

    Args:
        edges: Two ends, and the time since which they were seen together, each of shape (m,).
        weak: Whether a node is of a weak kind, shape (n,). Links between strong nodes come first.
        exclusive: Kind of which a component may hold one node at most, shape (n,); -1 for none.
        external: The kind of which links with a weak node may not join two.

    Returns:
        Component of each node, shape (n,), and the number of links that were not followed.

    Example:
        A cookie (node 2) seen first with customer 0, and later with customer 1:

        >>> labels, refused = settle((np.array([0, 1]), np.array([2, 2]), np.array([5, 9])),
        ...     np.array([False, False, True]), np.array([0, 0, -1]), external=0)
        >>> labels.tolist(), refused
        ([0, 1, 0], 1)
    """
    a, b, since = edges
    n = len(weak)
    label = components(n, a, b)
    is_weak = weak[a] | weak[b]
    strong = components(n, a[~is_weak], b[~is_weak])
    doubtful = _several(label, strong, exclusive == external)
    for kind in np.unique(exclusive[(exclusive >= 0) & (exclusive != external)]).tolist():
        nodes = np.where(exclusive == kind, np.arange(n), -1)
        doubtful |= _several(label, nodes, exclusive == kind)
    at = np.flatnonzero(doubtful[label[a]] if n else np.zeros(0, bool))
    if not len(at):
        return label, 0
    at = at[np.lexsort((b[at], a[at], since[at], is_weak[at]))]
    forest, refused = _joined(a[at], b[at], is_weak[at], exclusive, external)
    out = label.copy()
    for node in np.flatnonzero(doubtful[label]).tolist():
        out[node] = n + forest.root(node)
    return np.unique(out, return_inverse=True)[1].astype(np.int64), refused


def liken(
    label: Ints, links: tuple[Ints, Ints], exclusive: Ints, external: int, joins_external: bool
) -> tuple[Ints, int, int]:
    """Join components whose records are alike, in order of the links, where no guard keeps them apart.

    Args:
        label: Component of each node, shape (n,), from the links that are certain.
        links: The two nodes of each link, each of shape (m,), the likeliest first.
        exclusive: Kind of which a component may hold one node at most, shape (n,); -1 for none.
        external: The kind of which two components that both hold one are joined only if `joins_external`.
        joins_external: See there.

    Returns:
        Component of each node, shape (n,), the number of joins, and of links that were refused.

    Example:
        Nodes 0 and 1 both hold an identifier of kind 7; node 2 is alike to both:

        >>> labels, joined, refused = liken(np.array([0, 1, 2]), (np.array([1, 0]), np.array([2, 2])),
        ...     np.array([7, 7, -1]), 0, False)
        >>> labels.tolist(), joined, refused
        ([0, 1, 1], 1, 1)
    """
    ends = [label[one] for one in links]
    touched = np.isin(label, np.concatenate(ends))
    first = np.full(int(label.max(initial=-1)) + 1, -1, np.int64)
    nodes = np.flatnonzero(touched)
    first[label[nodes[::-1]]] = nodes[::-1]
    # What is certain goes first: each node of a component with its first one.
    a = np.concatenate([first[label[nodes]], first[ends[0]]])
    b = np.concatenate([nodes, first[ends[1]]])
    doubtful = np.full(len(a), not joins_external)
    doubtful[: len(nodes)] = False
    forest, refused = _joined(a, b, doubtful, exclusive, external)
    out = label.copy()
    for node in nodes.tolist():
        out[node] = label[forest.root(node)]
    n_joined = len(np.unique(label[nodes])) - len(np.unique(out[nodes]))
    return np.unique(out, return_inverse=True)[1].astype(np.int64), n_joined, refused


def followed(
    label: Ints, links: tuple[Ints, Ints, Ints], is_weak: Bools, exclusive: Ints, external: int
) -> Ints:
    """Tell since when each link counts: since its ends are together by the guards and the links of then.

    A weak link between two who both have an external id was refused until strong links made them one.

    Args:
        label: Component of each node, shape (n,), as `settle` gives it.
        links: Two ends, both in one component, and the time of each link, each of shape (m,).
        is_weak: Whether a link is weak, shape (m,).
        exclusive: As in `settle`.
        external: As in `settle`.

    Returns:
        Time for each link, shape (m,), never before its own.

    Example:
        A cookie (node 2) was seen at 1 with customer 0 and at 3 with customer 1, who turn out to be one at 7:

        >>> followed(np.zeros(3, np.int64), (np.array([0, 1, 0]), np.array([2, 2, 1]), np.array([1, 3, 7])),
        ...     np.array([True, True, False]), np.array([0, 0, -1]), external=0).tolist()
        [1, 7, 7]
    """
    a, b, since = links
    is_external = exclusive == external
    several = np.bincount(label[is_external], minlength=int(label.max(initial=-1)) + 1) > 1
    at = np.flatnonzero(several[label[a]])
    if not len(at):
        return since
    # Renumbered, so that work is for these few.
    nodes = np.flatnonzero(several[label])
    number = np.zeros(len(label), np.int64)
    number[nodes] = np.arange(len(nodes))
    a, b, weak, part = number[a[at]], number[b[at]], is_weak[at], label[a[at]]
    ids = np.flatnonzero(is_external[nodes])
    first = np.unique(label[nodes[ids]], return_index=True)[1]
    strong = components(len(nodes), a[~weak], b[~weak])
    reached = joined(strong, (a[~weak], b[~weak], since[at][~weak]), ids[first])
    # Once strong links have made them one, nothing is refused.
    settled = np.full(len(several), ALWAYS)
    np.maximum.at(settled, label[nodes[ids]], reached[ids])
    doubtful = np.zeros(len(several), bool)
    doubtful[part[weak & (since[at] < settled[part])]] = True
    some = np.flatnonzero(doubtful[part])
    some = some[np.lexsort((b[some], a[some], weak[some], since[at[some]], part[some]))]
    out = since.copy()
    ends = np.flatnonzero(np.diff(part[some])) + 1
    for one in np.split(some, ends) if len(some) else ():
        out[at[one]] = _replayed((a[one], b[one], since[at[one]]), weak[one], exclusive[nodes], external)
    return out


def _replayed(links: tuple[Ints, Ints, Ints], is_weak: Bools, exclusive: Ints, external: int) -> Ints:
    # The links of one component, in order of time, strong ones first. A new link comes after all others
    # of its kind; only a strong one that the weak ones before it stand against changes what was followed.
    a, b, since = (one.tolist() for one in links)
    weak = is_weak.tolist()
    forest = _Forest(exclusive, external)
    out = links[2].copy()
    waiting: list[int] = []
    for i in range(len(a)):
        if not forest.link(a[i], b[i], True) and not weak[i]:
            order = np.argsort(is_weak[: i + 1], kind="stable")
            forest, _ = _joined(links[0][order], links[1][order], is_weak[order], exclusive, external)
        waiting.append(i)
        if i + 1 == len(a) or since[i + 1] > since[i]:
            together = [forest.root(a[k]) == forest.root(b[k]) for k in waiting]
            out[[k for k, is_so in zip(waiting, together) if is_so]] = since[i]
            waiting = [k for k, is_so in zip(waiting, together) if not is_so]
    out[waiting] = since[-1]
    return out


def joined(label: Ints, links: tuple[Ints, Ints, Ints], roots: Ints) -> Ints:
    """Tell since when each node hangs together with the root of its component, over links made by then.

    That is the least, over the paths that lead to the root, of the latest link on the path. It is read off
    a spanning tree of the oldest links, in which every path is the best there is.

    Args:
        label: Component of each node, shape (n,).
        links: Two ends, both in one component, and the time of each link, each of shape (m,).
        roots: Nodes that are roots, no two of them in one component.

    Returns:
        Time for each node, shape (n,): `ALWAYS` for a root, `NEVER` where no root is reached.

    Example:
        A CRM id (node 0, the root) met a cookie (node 2) at 9; but both had met the e-mail (node 1) before,
        at 1 and at 4. A second cookie (node 3) had been seen with the first one since 2:

        >>> links = np.array([0, 0, 1, 2]), np.array([2, 1, 2, 3]), np.array([9, 1, 4, 2])
        >>> joined(np.zeros(4, np.int64), links, np.array([0]))[1:].tolist()
        [1, 4, 4]
    """
    n_links = np.bincount(label[links[0]], minlength=int(label.max(initial=-1)) + 1)
    is_tree = n_links == np.bincount(label, minlength=len(n_links)) - 1
    in_tree = is_tree[label[links[0]]]
    spanning = _spanning(len(label), *(one[~in_tree] for one in links))
    tree = tuple(np.concatenate([one[in_tree], other]) for one, other in zip(links, spanning))
    out = np.full(len(label), NEVER)
    out[roots] = ALWAYS
    deep = _spread(out, (tree[0], tree[1], tree[2]))
    if len(deep):
        is_deep = np.zeros(len(n_links), bool)
        is_deep[label[tree[0][deep]]] = True
        some = np.flatnonzero(is_deep[label[tree[0]]])
        _climb(out, (tree[0][some], tree[1][some], tree[2][some]), roots[is_deep[label[roots]]])
    return out


def _spanning(n: int, a: Ints, b: Ints, since: Ints) -> tuple[Ints, Ints, Ints]:
    # The minimum spanning forest: scipy wants no weight of 0, and adds up links of the same two.
    is_end = np.zeros(n, bool)
    is_end[a], is_end[b] = True, True
    nodes, number = np.flatnonzero(is_end), np.cumsum(is_end) - 1
    moments, rank = np.unique(since, return_inverse=True)
    a, b, size = number[np.minimum(a, b)], number[np.maximum(a, b)], len(nodes)
    if not size:
        return a, b, since
    graph = coo_array((rank + 1.0, (a, b)), shape=(size, size)).tocsr()
    if graph.nnz < len(a):
        order = np.lexsort((rank, b, a))
        is_first = np.r_[True, (np.diff(a[order]) != 0) | (np.diff(b[order]) != 0)]
        some = order[is_first]
        graph = coo_array((rank[some] + 1.0, (a[some], b[some])), shape=(size, size)).tocsr()
    tree = minimum_spanning_tree(graph).tocoo()
    return nodes[tree.row], nodes[tree.col], moments[tree.data.astype(np.int64) - 1]


def _spread(out: Ints, tree: tuple[Ints, Ints, Ints]) -> Ints:
    # From the roots outwards, step by step: nearly all are a few steps away. Gives the links not come to.
    left = np.arange(len(tree[0]))
    for _ in range(_STEPS):
        a, b, since = (one[left] for one in tree)
        from_a, from_b = (out[a] < NEVER) & (out[b] == NEVER), (out[b] < NEVER) & (out[a] == NEVER)
        out[b[from_a]] = np.maximum(out[a[from_a]], since[from_a])
        out[a[from_b]] = np.maximum(out[b[from_b]], since[from_b])
        left = left[(out[a] == NEVER) | (out[b] == NEVER)]
        if not (from_a.any() or from_b.any()):
            break
    return left


def _climb(out: Ints, tree: tuple[Ints, Ints, Ints], roots: Ints) -> None:
    # Long paths: each node looks up its parent's parent, and so on, in steps that double. The roots hang
    # below one more node, the last.
    a, b, since = tree
    n = len(out)
    ends = np.concatenate([a, roots]), np.concatenate([b, np.full(len(roots), n)])
    graph = coo_array((np.ones(len(ends[0]), np.int8), ends), shape=(n + 1, n + 1)).tocsr()
    order, above = breadth_first_order(graph, n, directed=False)
    above = above.astype(np.int64)
    latest = np.full(n + 1, ALWAYS)
    latest[np.where(above[b] == a, b, a)] = since
    below = order[above[order] >= 0]
    left = below[above[below] != n]
    latest[roots] = ALWAYS
    while len(left):
        up = above[left]
        latest[left] = np.maximum(latest[left], latest[up])
        above[left] = above[up]
        left = left[above[left] != n]
    out[below] = latest[below]


def _several(label: Ints, part: Ints, where: Bools) -> Bools:
    # Whether a component holds more than one different part, among the nodes where it matters.
    pairs = np.unique(np.stack([label[where], part[where]]), axis=1)
    return np.bincount(pairs[0], minlength=int(label.max(initial=-1)) + 1) > 1


def _joined(a: Ints, b: Ints, is_weak: Bools, exclusive: Ints, external: int) -> tuple["_Forest", int]:
    # Kruskal's algorithm.
    forest = _Forest(exclusive, external)
    links = zip(a.tolist(), b.tolist(), is_weak.tolist())
    return forest, sum(not forest.link(one, other, weak) for one, other, weak in links)


class _Forest:
    # Sets of nodes that links join; each remembers a node of every exclusive kind that it holds.

    def __init__(self, exclusive: Ints, external: int) -> None:
        self._parent: dict[int, int] = {}
        self._holds: dict[int, dict[int, int]] = {}
        self._exclusive, self._external = exclusive, external

    def root(self, node: int) -> int:
        parent = self._parent
        root = node
        while parent.get(root, root) != root:
            root = parent[root]
        while parent.get(node, node) != root:
            parent[node], node = root, parent[node]
        return root

    def link(self, one: int, other: int, weak: bool) -> bool:
        """Join two nodes, unless a guard keeps them apart; tells whether they are together now."""
        for node in (one, other):
            if node not in self._parent:
                kind = int(self._exclusive[node])
                self._parent[node] = node
                self._holds[node] = {kind: node} if kind >= 0 else {}
        left, right = self.root(one), self.root(other)
        if left == right:
            return True
        holds = self._holds
        if any(kind in holds[right] and (weak or kind != self._external) for kind in holds[left]):
            return False
        left, right = min(left, right), max(left, right)
        self._parent[right] = left
        holds[left] = {**holds.pop(right), **holds[left]}
        return True
