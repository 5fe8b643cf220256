from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from nba.attribution import markov, shapley
from nba.attribution.markov import walks
from nba.errors import DataError, SettingsError
from pipelines import attribute, cli

# by hand


def test_removal_of_one_of_two_channels() -> None:
    # a -> b converts; b alone fails. Without a nothing converts, nor without b.
    chain = markov.fit(walks(pa.array(["a > b", "b"]), np.array([1.0, 0]), np.array([0.0, 1])))
    assert chain.p_conversion == pytest.approx(0.5)
    np.testing.assert_allclose(chain.removal, [0.5, 1.0])


def test_a_loop_changes_nothing() -> None:
    loop, plain = (
        markov.fit(walks(pa.array(paths), np.array([1.0, 1]), np.array([1.0, 0])))
        for paths in (["a > a > a > b", "b"], ["a > b", "b"])
    )
    np.testing.assert_allclose(loop.credit, plain.credit)


def test_a_channel_in_every_path_is_worth_everything_that_is_removed() -> None:
    chain = markov.fit(walks(pa.array(["a", "a > b"]), np.array([1.0, 2]), np.array([3.0, 1])))
    assert chain.removal[0] == pytest.approx(1.0)


def test_no_conversions_are_unknown_with_a_reason() -> None:
    chain = markov.fit(walks(pa.array(["a", "b"]), np.zeros(2), np.ones(2)))
    assert np.isnan(chain.credit).all()
    assert chain.reason == "no journey ends with an order"


def test_everybody_converts() -> None:
    chain = markov.fit(walks(pa.array(["a", "a > b"]), np.ones(2), np.zeros(2)))
    assert chain.p_conversion == pytest.approx(1.0)
    np.testing.assert_allclose(chain.removal, [1.0, 0.5])


def test_the_transition_table_can_be_inspected() -> None:
    table = markov.fit(walks(pa.array(["a > b", "b"]), np.array([1.0, 0]), np.array([0.0, 2])), 2).table()
    rows = {(r["from_state"], r["to_state"]): r["probability"] for r in table.to_pylist()}
    assert rows == {
        ("(start)", "a"): pytest.approx(1 / 3), ("(start)", "b"): pytest.approx(2 / 3), ("a", "a > b"): 1.0,
        ("a > b", "(conversion)"): 1.0, ("b", "(null)"): 1.0,
    }  # fmt: skip


def test_an_empty_history_of_paths() -> None:
    chain = markov.fit(walks(pa.array([], pa.list_(pa.string())), np.empty(0), np.empty(0)))
    assert chain.reason == "no journey ends with an order"


def test_shapley_by_hand() -> None:
    # v(a) = 0, v(b) = 1/2, v(ab) = 2/4
    member = np.array([[True, False], [False, True], [True, True]])
    won, lost = np.array([0.0, 1.0, 1.0]), np.array([0.0, 1.0, 1.0])
    game = shapley.fit(member, won, lost, "rate", sure=0)
    np.testing.assert_allclose(game.value, [0.0, 0.5])
    # Wilson's lower ends: 1 of 2 is 0.0945, 2 of 4 is 0.1500
    game = shapley.fit(member, won, lost, "rate")
    np.testing.assert_allclose(game.value, [(0.1500 - 0.0945) / 2, (0.1500 + 0.0945) / 2], atol=1e-4)


def test_a_channel_seen_once_is_not_worth_everything() -> None:
    member = np.array([[True, False], [False, True]])
    game = shapley.fit(member, np.array([1.0, 400.0]), np.array([0.0, 600.0]), "rate")
    assert game.credit[0] < game.credit[1]


# laws

journeys = st.lists(
    st.tuples(
        st.lists(st.sampled_from("abcd"), min_size=1, max_size=6), st.integers(0, 3), st.integers(0, 3)
    ),
    min_size=1,
    max_size=12,
)


def dense(
    paths: list[list[str]], won: np.ndarray, lost: np.ndarray, order: int, channel: str | None
) -> float:
    steps: dict[tuple[str, ...], dict[object, float]] = {}
    for path, yes, no in zip(paths, won, lost):
        here: tuple[str, ...] = ()
        for i in range(len(path)):
            there = tuple(path[max(0, i + 1 - order) : i + 1])
            steps.setdefault(here, {})[there] = steps.get(here, {}).get(there, 0) + yes + no
            here = there
        for end, weight in (("won", yes), ("lost", no)):
            steps.setdefault(here, {})[end] = steps.get(here, {}).get(end, 0) + weight
    states = [s for s, out in steps.items() if sum(out.values()) > 0 and (not s or s[-1] != channel)]
    place = {s: i for i, s in enumerate(states)}
    matrix, end = np.eye(len(states)), np.zeros(len(states))
    for s in states:
        total = sum(steps[s].values())
        for target, weight in steps[s].items():
            if target == "won":
                end[place[s]] += weight / total
            elif target in place:
                matrix[place[s], place[target]] -= weight / total
    return float(np.linalg.solve(matrix, end)[place[()]]) if () in place else 0.0


@settings(max_examples=60, deadline=None)
@given(journeys, st.sampled_from([1, 2, 3]))
def test_chains_equal_dense_algebra(rows: list[tuple[list[str], int, int]], order: int) -> None:
    paths = [r[0] for r in rows]
    won, lost = (np.array([float(r[i]) for r in rows]) for i in (1, 2))
    given_ = walks(pa.array(paths), won, lost)
    chain = markov.fit(given_, order)
    if won.sum() == 0:
        assert np.isnan(chain.credit).all()
        return
    whole = dense(paths, won, lost, order, None)
    assert chain.p_conversion == pytest.approx(whole, abs=1e-10)
    for i, name in enumerate(given_.channels):
        cut = dense(paths, won, lost, order, name)
        assert chain.removal[i] == pytest.approx(1 - cut / whole, abs=1e-8)
    assert (chain.removal > -1e-9).all()
    assert chain.credit.sum() == pytest.approx(1)


@settings(max_examples=40, deadline=None)
@given(journeys, st.sampled_from(["count", "rate"]))
def test_shapley_is_never_negative_and_efficient(rows: list[tuple[list[str], int, int]], game: str) -> None:
    member = np.array([[c in r[0] for c in "abcd"] for r in rows])
    won, lost = (np.array([float(r[i]) for r in rows]) for i in (1, 2))
    found = shapley.fit(member, won, lost, game)  # type: ignore[arg-type]
    if won.sum() == 0:
        assert found.reason
        return
    assert (found.value >= -1e-12).all()
    assert found.credit.sum() == pytest.approx(1)
    if game == "count":
        assert found.value.sum() == pytest.approx(won.sum())


def test_drawn_shapley_agrees_with_exact() -> None:
    rng = np.random.default_rng(3)
    member = rng.random((400, 6)) < 0.4
    won = rng.poisson(0.3 + member @ np.arange(6) / 6).astype(float)
    exact = shapley.fit(member, won, np.full(400, 2.0), "rate")
    value, se = shapley._drawn(*shapley._rates(member, won, np.full(400, 2.0), shapley.SURE), 4_000, 0)
    assert np.abs(value - exact.value).max() < 4 * se.max()
    assert value.sum() == pytest.approx(exact.value.sum())


def test_many_channels_are_drawn_with_their_error() -> None:
    rng = np.random.default_rng(4)
    member = rng.random((3_000, shapley.MOST_EXACT + 4)) < 0.15
    won = (rng.random(3_000) < 0.1 + 0.4 * member[:, 0]).astype(float)
    found = shapley.fit(member, won, 1 - won, "rate", permutations=300)
    assert found.credit.sum() == pytest.approx(1)
    assert (found.value >= 0).all()
    assert found.se[0] > 0
    assert int(found.credit.argmax()) == 0


# reference


@pytest.mark.data
def test_public_paths_conserve_conversions_and_match_dense_credit(data: object) -> None:
    import pyarrow.csv as pa_csv

    table = pa_csv.read_csv(str(data) + "/attribution_paths/paths.csv.gz")
    won, lost = (table[n].to_numpy().astype(float) for n in ("total_conversions", "total_null"))
    assert (won.sum(), lost.sum()) == (19_785, 68_602)
    given_ = walks(table["path"], won, lost)
    chain = markov.fit(given_, 1)
    assert len(given_.channels) == 12
    paths = [p.split(" > ") for p in table["path"].to_pylist()]
    whole = dense(paths, won, lost, 1, None)
    removal = [1 - dense(paths, won, lost, 1, c) / whole for c in given_.channels]
    np.testing.assert_allclose(chain.removal, removal, atol=1e-8)


@pytest.mark.data
def test_public_paths_are_credited_in_full_by_every_method(data: Path, tmp_path: Path) -> None:
    table = attribute.attribute_paths(data / "attribution_paths" / "paths.csv.gz", tmp_path / "out.parquet")
    sums = table.group_by("method").aggregate([("conversions", "sum"), ("value", "sum")]).to_pylist()
    assert len(sums) == 9
    for row in sums:
        assert row["conversions_sum"] == pytest.approx(19_785)
        assert row["value_sum"] == pytest.approx(74_802.97, abs=0.01)


def test_a_file_of_paths_runs_by_a_command(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("path,total_conversions,total_null\na > b,3,1\nb,0,4\n")
    done = CliRunner().invoke(
        cli.app, ["attribute-paths", str(tmp_path / "x.csv"), "--out", str(tmp_path / "y.parquet")]
    )
    assert done.exit_code == 0, done.output
    steps = pq.read_table(tmp_path / "y_transitions.parquet").to_pylist()
    (first,) = [s for s in steps if (s["order"], s["from_state"], s["to_state"]) == (1, "(start)", "a")]
    assert first["probability"] == 0.5
    (tmp_path / "x.csv").write_text("path,total_conversions\na,-1\n")
    with pytest.raises(DataError, match="total_conversions holds 1 numbers that are unknown or negative"):
        attribute.attribute_paths(tmp_path / "x.csv", tmp_path / "y.parquet")


def test_a_file_of_paths_is_also_credited_without_intent_channels(tmp_path: Path) -> None:
    source, target = tmp_path / "x.csv", tmp_path / "y.parquet"
    source.write_text("path,total_conversions,total_conversion_value\na > direct,3,30\ndirect,2,20\nb,1,5\n")
    done = CliRunner().invoke(
        cli.app, ["attribute-paths", str(source), "--out", str(target), "--intent", "direct"]
    )
    assert done.exit_code == 0, done.output
    rows = pq.read_table(target).to_pylist()
    got = {(r["method"], r["channel"]): (r["conversions"], r["value"]) for r in rows}
    assert got["last", "direct"] == (5, 50)
    for method in ("last_ads", "linear_ads", "shapley_count_ads"):
        assert (got[method, "a"][0], got[method, "b"][0]) == (3, 1)
        assert (method, "direct") not in got
    assert got["last_ads", "a"] == (3, 30)
    alone = markov.walks(pa.array(["a", "b"]), np.array([3.0, 1.0]), np.zeros(2))
    assert got["markov_1_ads", "a"][0] == pytest.approx(4 * markov.fit(alone, 1).credit[0])
    with pytest.raises(SettingsError, match="no channel is called"):
        attribute.attribute_paths(source, target, ("direkt",))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "is no table of path counts"),
        ("path,total_conversions\n", "it holds no paths"),
        ("path,total_conversions\na,x\n", "total_conversions is not a number"),
        ("path,total_conversions\na > > b,1\n,2\n", "path holds 2 rows with an empty channel"),
        ("path,total_conversions,total_conversion_value\na,1,\n", "total_conversion_value holds 1 numbers"),
    ],
)
def test_a_bad_file_of_paths_is_one_clear_error_and_writes_nothing(
    tmp_path: Path, text: str, found: str
) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(DataError, match=found):
        attribute.attribute_paths(tmp_path / "x.csv", tmp_path / "y.parquet")
    assert [p.name for p in tmp_path.iterdir()] == ["x.csv"]


def test_channels_may_be_numbers_and_stand_close(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("path,total_conversions\n1>2,1\n 2 > 1 ,1\n3,1\n")
    made = attribute.attribute_paths(tmp_path / "x.csv", tmp_path / "y.parquet")
    assert set(made["channel"].to_pylist()) == {"1", "2", "3"}


def test_a_file_without_paths_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("route,n\na,1\n")
    with pytest.raises(DataError, match=r"lacks \['path', 'total_conversions'\]"):
        attribute.attribute_paths(tmp_path / "x.csv", tmp_path / "y.parquet")
