import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from nba.errors import NbaError
from nba.histories.simulated import World
from nba.history import History
from nba.serving import delivery
from pipelines import (
    analyze,
    attribute,
    clv,
    decide,
    demo,
    evaluate,
    feedback,
    ingest,
    overview,
    simulate,
    train,
)
from pipelines.progress import silent
from tests.conftest import quickly

# by hand


def test_the_loop_leaves_every_table_and_breaks_no_law(small_demo: Path) -> None:
    history = History.read(small_demo)
    for name in ("decisions", "choices", "outcomes", "effects", "credits", "clv", "policy_values", "batches"):
        assert history.table(name).num_rows > 0, name
    assert history.broken_laws() == []


def test_a_challenger_stands_beside_the_champion_and_has_decided_nothing(small_demo: Path) -> None:
    history = History.read(small_demo)
    asked = history.table("promotion_evidence").to_pylist()
    (pair,) = {(row["champion"], row["challenger"]) for row in asked}
    assert pair[0] < pair[1]
    found = history.sql("select * from summary_models where alias <> ''").to_pylist()
    of = {row["alias"]: row for row in found}
    assert {alias: row["version"] for alias, row in of.items()} == dict(zip(("champion", "challenger"), pair))
    decided = set(history.sql("select distinct policy_id from decisions")["policy_id"].to_pylist())
    assert not any(name.endswith(of["challenger"]["model_id"]) for name in decided)
    values = history.sql(
        "select * from policy_values where estimator = 'dros' and batch_id = 'all'"
    ).to_pylist()
    gains = {row["policy_id"].partition("@")[2]: row["gain"] for row in values}
    assert gains[of["challenger"]["model_id"]] is not None
    assert history.has("lever_costs")


def test_a_model_decides_once_outcomes_have_closed(small_demo: Path) -> None:
    decisions = History.read(small_demo).table("decisions").to_pandas()
    of_policy = decisions[decisions["arm"] == "policy"].groupby("batch_id")["policy_id"].unique()
    assert "uniform-start" in of_policy.iloc[0][0]
    assert of_policy.iloc[-1][0].startswith("softmax")


def test_delivered_batches_verify(small_demo: Path) -> None:
    folders = sorted((small_demo / "decisions").glob("batch_id=*"))
    assert len(folders) == 4
    for folder in folders:
        delivery.verify(folder)


def test_the_result_sets_measured_beside_true(small_demo: Path) -> None:
    rows = {row["who decides"]: row for row in json.loads((small_demo / "result.json").read_text())}
    assert list(rows) == [
        "the policy",
        "random eligible",
        "response-greedy",
        "the oracle (knows every effect)",
    ]
    true = demo.true_values(small_demo)
    assert rows["the policy"]["true"] == pytest.approx(true["policy"].value, rel=1e-9)
    assert true["holdout"].value == 0
    assert rows["the oracle (knows every effect)"]["true"] > max(
        true[a].value for a in ("random", "response")
    )
    for name in ("the policy", "random eligible", "response-greedy"):
        assert rows[name]["measured from"] < rows[name]["measured"] < rows[name]["measured to"]


# laws


def test_the_hidden_truth_changes_no_decision(small_demo: Path, tmp_path: Path) -> None:
    """Multiply all hidden effects by -10 after the past has been written: the next batch is the same."""
    at = World.load(small_demo / simulate.FOLDER).start + timedelta(weeks=4)
    found = []
    for factor in (1.0, -10.0):
        workspace = tmp_path / f"truth{factor:g}"
        shutil.copytree(small_demo, workspace)
        folder = workspace / simulate.FOLDER
        World.load(folder).with_truth(factor).save(folder)
        ingest.ingest(workspace)
        feedback.feedback(workspace, at)
        train.train(workspace, at)
        decide.decide(workspace, at, "next")
        decisions = History.read(workspace).table("decisions")
        found.append(decisions.filter(pc.equal(decisions["batch_id"], "next")).sort_by("decision_id"))
    assert found[0].num_rows > 1000
    assert found[0].equals(found[1])
    assert any(name != "none" for name in found[0]["treatment_id"].to_pylist())


def _interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_stopped_anywhere_the_loop_goes_on_to_the_same_decisions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C at several steps of a small loop: running it again ends where an undisturbed run ends."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"

    class Stops:
        def __init__(self, after: int) -> None:
            self.left = after

        def step(self, text: str, total: float | None = None) -> object:
            return self._count

        def _count(self, amount: float) -> None:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt

    for reader in (analyze, attribute, clv, evaluate, overview):  # what reads decisions changes none
        monkeypatch.setattr(reader, reader.__name__.split(".")[-1], lambda *_, **__: None)
    for folder in (whole, stopped):
        simulate.simulate(folder, 500, 5, 3)
        quickly(folder)
    demo.run_loop(whole, 500, 3, 5, progress=silent())
    # After feedback has closed windows, before training.
    with monkeypatch.context() as patch:
        patch.setattr(train, "train", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            demo.run_loop(stopped, 500, 3, 5, progress=silent())
    for after in (3, 5):
        with pytest.raises(KeyboardInterrupt):
            demo.run_loop(stopped, 500, 3, 5, progress=Stops(after))
    for _ in range(2):  # and once more, when all has been played
        demo.run_loop(stopped, 500, 3, 5, progress=silent())
    columns = ["decision_id", "treatment_id", "p_action", "reason"]
    one, two = (
        History.read(folder).table("decisions").select(columns).sort_by("decision_id")
        for folder in (whole, stopped)
    )
    assert one.equals(two)


# the command


def _nba(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("nba")), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **env})


def test_mistakes_end_in_one_message_and_a_code(tmp_path: Path) -> None:
    found = _nba("ingest", str(tmp_path))
    assert found.returncode == 1
    assert "nba.toml does not exist" in found.stderr
    assert "Traceback" not in found.stderr
    assert _nba("decide", str(tmp_path), "--at", "yesterday").returncode == 1
    assert _nba("bogus").returncode == 2


def test_ctrl_c_ends_in_one_message_and_130(tmp_path: Path) -> None:
    for customers in (20_000, 60_000, 120_000):  # a busy machine may end before the signal comes
        folder = tmp_path / str(customers)
        folder.mkdir()
        command = [str(Path(sys.executable).with_name("nba")), "simulate", str(folder / "w")]
        running = subprocess.Popen(
            [*command, "--customers", str(customers)],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            # Shells start background jobs, such as a run of these tests, with the signal ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        deadline = time.monotonic() + 60
        while not list(folder.glob(".w.*")) and time.monotonic() < deadline and running.poll() is None:
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        _, shown = running.communicate(timeout=60)
        if running.returncode != 0:
            break
    assert running.returncode == 130
    assert "Interrupted" in shown
    assert "Traceback" not in shown
    assert list(folder.iterdir()) == []


def test_damaged_tables_and_moments_without_data_are_named(small_demo: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "w"
    shutil.copytree(small_demo, workspace)
    before = History.read(workspace).version
    early = datetime(2019, 1, 1, tzinfo=UTC)
    for step in (analyze.analyze, clv.clv, evaluate.evaluate, attribute.attribute):
        with pytest.raises(NbaError, match="lies before 2019"):
            step(workspace, early, progress=silent())
    assert History.read(workspace).version == before
    assert _nba("decide", str(workspace), "--batch", "../out").returncode == 1
    (workspace / "tables" / "history.json").write_text('{"version": 1, "tab')
    found = _nba("analyze", str(workspace))
    assert found.returncode == 1
    assert "history.json cannot be read" in found.stderr
    assert "Traceback" not in found.stderr


def test_help_names_the_steps_in_order() -> None:
    text = _nba("--help").stdout
    places = [
        text.index(f"│ {name} ") for name in ("simulate", "ingest", "decide", "feedback", "train", "analyze")
    ]
    assert places == sorted(places)


# recovery


def test_measured_effects_cover_the_truth(small_demo: Path) -> None:
    """Every arm's measured effect lies within 3 standard errors of its true value."""
    effects = History.read(small_demo).table("effects").to_pylist()
    true = demo.true_values(small_demo)
    checked = 0
    for row in effects:
        if row["metric"] == "margin" and row["segment"] == "all" and row["arm"] in true:
            se = (row["upper"] - row["lower"]) / (2 * 1.96)
            assert abs(row["effect"] - true[row["arm"]].value) < 3 * se + 1e-9
            checked += 1
    assert checked >= 2
    assert np.isfinite([value.value for value in true.values()]).all()
