"""Customers that went into others: what was whose, and until when."""

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nba.histories.former import spans
from nba.histories.linking import ALWAYS, components, joined

# laws

_N = 7
_LINKS = st.lists(
    st.tuples(st.integers(0, _N - 1), st.integers(0, _N - 1), st.integers(1, 6)), min_size=1, max_size=12
)


@settings(max_examples=60, deadline=None)
@given(_LINKS, st.lists(st.integers(0, _N - 1), min_size=2, unique=True), st.integers(0, 3))
def test_a_node_is_at_each_moment_of_the_first_root_that_links_of_then_lead_to(
    links: list[Any], roots: list[int], n_now: int
) -> None:
    a, b, since = (np.array(one, np.int64) for one in zip(*links))
    label = components(_N, a, b)
    # Of each component one root is that of the customer of now; the others went.
    now, gone = [], []
    for root in roots:
        (gone if label[root] in label[now] or len(now) > n_now else now).append(root)
    if not set(label[gone]) <= set(label[now]) or not gone:
        return
    reached = joined(label, (a, b, since), np.array(now))
    reached[reached == ALWAYS] = 0
    told = spans(label, (a, b, since), reached, np.array(gone), np.zeros(len(gone), np.int64))
    for moment in range(8):  # what is of a moment counts after it
        made = since < moment
        then = components(_N, a[made], b[made])
        first = [next((r for r in (*now, *gone) if then[r] == then[node]), None) for node in range(_N)]
        held = {
            int(node): gone[who]
            for node, who, begins in zip(told.node, told.who, told.begins)
            if begins < moment <= told.ends[who]
        }
        assert held == {n: r for n, r in enumerate(first) if r in gone and moment > 0}
        for i, root in enumerate(gone):
            if told.ends[i] == moment - 1:  # it went to whoever had it then
                assert first[root] == (now[list(label[now]).index(label[root])], *gone)[told.into[i] + 1]
