"""Graphs of identifiers: components, and components in which some links must not be followed."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


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
    parent, refused = _joined(a[at], b[at], is_weak[at], exclusive, external)
    out = label.copy()
    for node in np.flatnonzero(doubtful[label]).tolist():
        out[node] = n + _root(parent, node)
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
    parent, refused = _joined(a, b, doubtful, exclusive, external)
    out = label.copy()
    for node in nodes.tolist():
        out[node] = label[_root(parent, node)]
    n_joined = len(np.unique(label[nodes])) - len(np.unique(out[nodes]))
    return np.unique(out, return_inverse=True)[1].astype(np.int64), n_joined, refused


def _several(label: Ints, part: Ints, where: Bools) -> Bools:
    # Whether a component holds more than one different part, among the nodes where it matters.
    pairs = np.unique(np.stack([label[where], part[where]]), axis=1)
    return np.bincount(pairs[0], minlength=int(label.max(initial=-1)) + 1) > 1


def _root(parent: dict[int, int], node: int) -> int:
    root = node
    while parent.get(root, root) != root:
        root = parent[root]
    while parent.get(node, node) != root:
        parent[node], node = root, parent[node]
    return root


def _joined(a: Ints, b: Ints, is_weak: Bools, exclusive: Ints, external: int) -> tuple[dict[int, int], int]:
    # Kruskal's algorithm; a component remembers its one node of each exclusive kind.
    parent: dict[int, int] = {}
    holds: dict[int, dict[int, int]] = {}
    refused = 0
    for one, other, weak in zip(a.tolist(), b.tolist(), is_weak.tolist()):
        for node in (one, other):
            if node not in parent:
                parent[node] = node
                holds[node] = {int(exclusive[node]): node} if exclusive[node] >= 0 else {}
        left, right = _root(parent, one), _root(parent, other)
        if left == right:
            continue
        both = [kind for kind in holds[left] if kind in holds[right] and (weak or kind != external)]
        if both:
            refused += 1
            continue
        left, right = min(left, right), max(left, right)
        parent[right] = left
        holds[left] = {**holds.pop(right), **holds[left]}
    return parent, refused
