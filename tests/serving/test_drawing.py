"""What the streamed passes log is what their draws do: few contacts, many salts."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from nba.policy import streamed
from nba.policy.explore import Softmax, SquareCB
from nba.policy.limits import Limited
from nba.serving import drawing, pricing
from nba.serving.deciders import Rule
from nba.serving.jobs import Scored

N = 24


class Memory:
    """Parts of the customers that are there already."""

    def __init__(self, *parts):
        self.parts = parts

    def each(self, then):
        return (then(part) for part in self.parts)


def world(policy, available, seed):
    """Give a job within two channels' caps, its customers, and what works on them."""
    rng = np.random.default_rng(seed)
    mean = np.column_stack([np.zeros(N), rng.normal(0.5, 1, (N, 4))])
    se = np.column_stack([np.zeros(N), rng.uniform(0.2, 0.8, (N, 4))])
    reason = (rng.random((N, 5)) > 0.8).astype(np.int8)
    reason[:, 0] = 0
    use = np.array([[0, 0], [1, 0], [1, 0], [0, 1], [0, 1]], dtype=float)
    zero, ids = np.zeros(N, dtype=np.int16), pa.array([f"c{i:02d}" for i in range(N)])
    everybody = Scored(ids, ids, zero, zero, np.ones(N), zero, mean, se, reason, zero.astype(np.int32))
    job = SimpleNamespace(
        limited=Limited(("email", "sms"), use, np.array(available)),
        rules=(Rule("policy", policy, "p"),),
        catalog=SimpleNamespace(treatment_ids=("none", "a", "b", "c", "d")),
        batch_id="",
    )
    return job, everybody, Memory(everybody)


# reference


@pytest.mark.parametrize(
    ("policy", "available"),
    [
        # Some are sure of a contact and others hardly ever ask for one: they lose unlike shares to a cap.
        (Softmax(0.1, 0.05), (2.0, 2.0)),
        (SquareCB(20.0, 0.02), (2.0, 2.0)),
    ],
)
def test_what_is_logged_is_what_many_salts_draw(policy, available, monkeypatch):
    monkeypatch.setattr(streamed, "TRIM_BITS", 16)  # few customers: short tables of trimming numbers
    salts = 300
    job, everybody, engine = world(policy, available, seed=5)
    prices = pricing.find_prices(job, engine, everybody, np.array([N]), lambda _pass, _n: None)
    count, every = np.zeros((N, 5)), np.arange(N)
    for salt in range(salts):
        job.batch_id = str(salt)
        cuts = drawing.draw_all(job, engine, prices, lambda _pass, _n: None).cuts
        p = pricing.probabilities_of(job, everybody, cuts)
        column = drawing.draw_of(job, everybody, p)
        final = np.where(drawing.dropped_of(job, everybody, column, cuts) >= 0, 0, column)
        assert (job.limited.use[final].sum(axis=0) <= available).all()
        count[every, final] += 1
    expected = salts * pricing.logged_of(job, everybody, p, cuts)
    random = (expected > 5) & (expected < salts - 5)
    square = float(((count - expected)[random] ** 2 / expected[random]).sum())
    freedom = int(random.sum() - random.any(axis=1).sum())
    assert freedom > 5
    assert stats.chi2.sf(square, freedom) > 1e-4
