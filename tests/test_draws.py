import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nba import draws

KEYS = [f"c{i}" for i in range(20_000)]

# by hand: test vectors, so that another engine or language can prove that it draws alike

VECTORS = [("demo", "anna", 0.475929), ("demo", "ben", 0.389858), ("", "", None), ("ü", "ñ", None)]


@pytest.mark.parametrize(("salt", "key", "expected"), VECTORS)
def test_draws_follow_the_documented_hash(salt: str, key: str, expected: float | None) -> None:
    from hashlib import blake2b

    digest = blake2b(f"{salt}|{key}".encode(), digest_size=8).digest()
    by_hand = (int.from_bytes(digest, "big") >> 11) / 2**53
    assert draws.uniform([key], salt)[0] == by_hand
    if expected is not None:
        assert by_hand == pytest.approx(expected, abs=1e-6)


# laws


@given(st.lists(st.text(max_size=300), max_size=20), st.text(max_size=200))
def test_machine_code_hashes_as_the_standard_library(words: list[str], salt: str) -> None:
    words = [word.encode("utf-8", "ignore").decode() for word in words]
    salt = salt.encode("utf-8", "ignore").decode()
    plain = draws._one_by_one(words, salt.encode() + b"|")
    np.testing.assert_array_equal(draws.hashed(pa.array(words, pa.string()), salt), plain)
    np.testing.assert_array_equal(draws.hashed(pa.array(["", *words], pa.string())[1:], salt), plain)


def test_draws_are_uniform_and_salts_independent() -> None:
    one, two = draws.uniform(KEYS, "one"), draws.uniform(KEYS, "two")
    assert stats.kstest(one, "uniform").pvalue > 0.001
    assert abs(np.corrcoef(one, two)[0, 1]) < 4 / np.sqrt(len(KEYS))


@given(
    weights=st.lists(st.floats(0, 1), min_size=2, max_size=6).filter(lambda w: sum(w) > 0.1),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_pick_never_chooses_what_has_no_chance(weights: list[float], draw: float) -> None:
    p = np.array([weights]) / sum(weights)
    assert p[0, draws.pick(p, np.array([draw]))[0]] > 0


def test_pick_meets_its_probabilities() -> None:
    p = np.tile([0.2, 0.0, 0.5, 0.3], (len(KEYS), 1))
    counts = np.bincount(draws.pick(p, draws.uniform(KEYS, "pick")), minlength=4)
    assert counts[1] == 0
    assert stats.chisquare(counts[[0, 2, 3]], len(KEYS) * np.array([0.2, 0.5, 0.3])).pvalue > 0.001


def test_growing_the_last_share_moves_nobody_else() -> None:
    before = draws.bucket(KEYS, [0.1, 0.2], "grow")
    after = draws.bucket(KEYS, [0.1, 0.5], "grow")
    assert (after[before < 2] == before[before < 2]).all()
    assert abs((before == 0).mean() - 0.1) < 0.01
