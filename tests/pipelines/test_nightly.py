"""The night and the week as one command each: records, going on, one run at a time, exit codes, alerts."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.compute as pc
import pytest

from nba.errors import NbaError
from nba.history import History
from nba.serving import delivery
from pipelines import decide, nightly, runs, simulate, weekly
from pipelines.lock import BusyError, locked

ROOT = Path(__file__).parents[2]
IN_MEMORY = pytest.param(
    200_000,
    marks=pytest.mark.skipif("NBA_SLOW" not in os.environ, reason="takes half a minute: NBA_SLOW=1 runs it"),
)
AT = datetime(2026, 3, 2, 6, tzinfo=UTC)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A company of 300 customers before its first batch."""
    folder = tmp_path_factory.mktemp("night") / "shop"
    simulate.simulate(folder, 300, 5, 2)
    return folder


@pytest.fixture
def workspace(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "shop"))


def start(workspace):
    from nba.histories.simulated import World

    return World.load(workspace / simulate.FOLDER).start


def lines_of(text):
    return [json.loads(line) for line in text]


# by hand


def test_a_night_leaves_a_verified_batch_a_record_and_alerts(workspace):
    with (workspace / "nba.toml").open("a") as file:
        lake = workspace / "lake"
        file.write(f'\n[[delivery.sinks]]\nname = "lake"\nkind = "folder"\ntarget = "{lake}"\n')
    said: list[str] = []
    at = start(workspace)
    record = nightly.nightly(workspace, at, write=said.append)
    assert record.status == "done"
    names = ["ingest", "feedback", "decide", "verify", "deliver", "alerts", "reports"]
    assert [line["step"] for line in lines_of(said)] == names
    assert all(line["status"] == "done" for line in lines_of(said))
    n = record.steps["decide"]["numbers"]["decisions"]
    assert n == record.steps["verify"]["numbers"]["decisions"] == record.steps["deliver"]["numbers"]["lake"]
    delivery.verify(lake / f"batch_id={record.steps['decide']['numbers']['batch']}")
    saved = json.loads(runs.path_of(workspace, record.run_id).read_text())
    assert saved["status"] == "done"
    found = History.read(workspace).table("alerts")
    kinds = set(found["alert"].to_pylist())
    assert {"stale data", "empty batch", "silent batch", "drift"} <= kinds
    assert "warning" not in found.filter(pc.equal(found["alert"], "stale data"))["status"].to_pylist()

    said.clear()
    version = History.read(workspace).version
    nightly.nightly(workspace, at, write=said.append)
    assert {line["status"] for line in lines_of(said)} == {"skipped"}
    assert History.read(workspace).version == version


def test_a_source_that_did_not_arrive_stops_the_night_where_it_is_and_the_next_goes_on(workspace):
    at, said = start(workspace), []
    source = workspace / "sources" / "crm"
    aside = workspace / "aside"
    source.rename(aside)
    with pytest.raises(NbaError, match="crm"):
        nightly.nightly(workspace, at, write=said.append)
    (line,) = lines_of(said)
    assert line["step"] == "ingest"
    assert line["status"] == "failed"
    assert line["error"]
    assert not (workspace / "decisions").exists()
    aside.rename(source)
    said.clear()
    assert nightly.nightly(workspace, at, write=said.append).status == "done"


def test_a_step_that_fails_is_done_again_and_those_before_are_not(workspace, monkeypatch):
    at, said = start(workspace), []

    def broken(*_args):
        raise NbaError("the report cannot be made", "Mend it.")

    steps = [runs.Step(s.name, broken) if s.name == "reports" else s for s in nightly.STEPS]
    with pytest.raises(NbaError, match="cannot be made"):
        runs.run("nightly", steps, workspace, at, write=said.append)
    record = runs.read(workspace, lines_of(said)[0]["run"])
    assert record.status == "failed"
    assert record.steps["reports"]["hint"] == "Mend it."
    said.clear()
    nightly.nightly(workspace, at, write=said.append)
    found = {line["step"]: line["status"] for line in lines_of(said)}
    assert [name for name, status in found.items() if status == "done"] == ["reports"]


def test_a_week_without_outcomes_says_so(workspace):
    at = start(workspace)
    nightly.nightly(workspace, at, write=lambda _: None)
    with pytest.raises(NbaError, match="no outcome has closed yet"):
        weekly.weekly(workspace, at + timedelta(seconds=1), write=lambda _: None)


def test_one_run_at_a_time(workspace):
    code = (
        "import sys, time; from pathlib import Path; from pipelines.lock import locked\n"
        "with locked(Path(sys.argv[1]), 'another night'):\n    print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(workspace)], stdout=subprocess.PIPE, cwd=ROOT, text=True
    )
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BusyError, match="another night"):
            nightly.nightly(workspace, AT)
        command = [sys.executable, "-m", "pipelines.cli", "nightly", str(workspace), "--at", "2026-03-02"]
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert found.returncode == 4
        assert "is in use" in found.stderr
        assert "Traceback" not in found.stderr
    finally:
        other.kill()
        other.communicate()
    with locked(workspace, "free again"):
        pass


def test_a_damaged_record_is_named(workspace):
    path = runs.path_of(workspace, f"nightly-{AT:%Y%m%dT%H%M%S}")
    path.parent.mkdir()
    path.write_text("{")
    with pytest.raises(NbaError, match="cannot be read"):
        nightly.nightly(workspace, AT, write=lambda _: None)


# faults


_DECIDE = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from pipelines import decide
decide.decide(Path(sys.argv[1]), datetime.fromisoformat(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def decided():
    """Start a process that decides; all are forked off one that has loaded what they need, and no more."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipelines.decide"])

    def run(target, *given):
        process = context.Process(target=target, args=given)
        process.start()
        return process

    run(int).join()  # when one has run, all is loaded
    return lambda workspace, at: run(decide.decide, workspace, at)


def ended(process):
    process.join()
    return process.exitcode


@pytest.mark.parametrize("stream_above", [0, IN_MEMORY])
def test_a_batch_killed_at_any_moment_is_the_same_in_the_end(workspace, tmp_path, decided, stream_above):
    import random
    import time

    from pipelines import ingest

    with (workspace / "nba.toml").open("a") as file:
        file.write(f"\n[delivery]\nstream_above = {stream_above}\n")
    ingest.ingest(workspace)
    at = start(workspace)
    twin = Path(shutil.copytree(workspace, tmp_path / "twin"))
    begun = time.monotonic()
    assert ended(decided(twin, at)) == 0
    whole = time.monotonic() - begun
    chance = random.Random(stream_above)
    for _ in range(2):
        run = decided(workspace, at)
        time.sleep(whole * chance.uniform(0.3, 0.95))
        run.kill()
        run.join()
        folders = list((workspace / "decisions").glob("batch_id=*"))
        assert all((folder / "manifest.json").is_file() for folder in folders)
    assert ended(decided(workspace, at)) == 0
    (one,), (other,) = ((w / "decisions").glob("batch_id=*") for w in (workspace, twin))
    assert delivery.verify(one) == delivery.verify(other)
    for path in other.iterdir():
        assert (one / path.name).read_bytes() == path.read_bytes()
    assert sorted(p.name for p in (workspace / "decisions").iterdir()) == [one.name]
    logs = [History.read(w).table("decisions") for w in (workspace, twin)]
    assert logs[0].equals(logs[1])
    assert History.read(workspace).broken_laws() == []


@pytest.mark.parametrize("stream_above", [0, IN_MEMORY])
def test_a_full_disk_leaves_no_manifest_and_says_what_to_do(workspace, decided, stream_above):
    from pipelines import ingest

    with (workspace / "nba.toml").open("a") as file:
        file.write(f"\n[delivery]\nstream_above = {stream_above}\n")
    ingest.ingest(workspace)
    at = start(workspace)
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))\n" + _DECIDE
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(workspace), at.isoformat()],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode != 0
    assert "there is no room" in run.stderr
    assert "make room and run the same command again" in run.stderr
    assert list((workspace / "decisions").glob("batch_id=*")) == []
    assert not History.read(workspace).has("decisions")
    assert ended(decided(workspace, at)) == 0
    (folder,) = (workspace / "decisions").glob("batch_id=*")
    delivery.verify(folder)
