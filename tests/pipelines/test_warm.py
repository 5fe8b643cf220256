"""The belief begins from an earlier experiment: here the small world, from which others begin."""

import shutil
from datetime import timedelta

import numpy as np
import pyarrow.compute as pc
import pytest

from nba import settings
from nba.errors import DataError, SettingsError
from nba.history import History
from nba.models import warm
from pipelines import decide, learn, train

pytestmark = pytest.mark.xdist_group("mlflow")


@pytest.fixture(scope="module")
def end(small_demo):
    return pc.max(History.read(small_demo).table("outcomes")["closed_at"]).as_py() + timedelta(days=1)


@pytest.fixture
def begin(small_demo, tmp_path):
    """Make a workspace beside the small world's settings and catalog; `models` are lines of its section."""

    def made(models: str, kept: tuple[str, ...] = (), replaced: tuple[str, str] = ("", "")):
        folder = tmp_path / f"new{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        shutil.copytree(small_demo / "catalog", folder / "catalog")
        text = (small_demo / "nba.toml").read_text(encoding="utf-8").replace(*replaced)
        more = f'[models]\nwarm_start = "{small_demo.as_posix()}"\n{models}\n'
        (folder / "nba.toml").write_text(text.replace("[models]\n", more, 1), encoding="utf-8")
        known = History.read(small_demo)
        names = ("customers", "orders", "events", "touches", *kept)
        History.read(folder).commit(append={name: known.table(name) for name in names if known.has(name)})
        return folder

    return made


def test_the_first_batch_is_decided_by_what_an_earlier_experiment_taught(begin, small_demo, end):
    workspace = begin("")
    report = train.train(workspace, end)
    assert (report.alias, report.is_new) == ("champion", True)
    assert not History.read(workspace).has("decisions")
    assert not train.train(workspace, end).is_new
    decide.decide(workspace, end, "first")
    decided = History.read(workspace).table("decisions")
    own = decided.filter(pc.match_substring(decided["policy_id"], f"softmax-t0.03-f0.01@{report.model_id}"))
    assert own.num_rows > 100
    assert np.ptp(own["p_action"].to_numpy()) > 0.3  # not drawn evenly
    assert len(train.examples(History.read(small_demo), end)) == report.report.metrics["n"]


def test_learning_pools_at_the_share_that_is_set_or_chosen_last(begin, small_demo, end, monkeypatch):
    asked = {}
    monkeypatch.setattr(learn.train, "train", lambda *_, **more: asked.update(more))
    monkeypatch.setattr(learn, "_chosen", lambda *of: (of[3].models, "as told", []))
    own = ("decisions", "outcomes", "features")
    workspace = begin("warm_share = 0.3\nvalidate_days = 0", own)
    found = learn.learn(workspace, end)
    n = train.examples(History.read(small_demo), end).num_rows
    assert asked["rows"].num_rows == 2 * n
    assert warm.counted(asked["rows"]) == (n, 0.3)
    assert f"{n:,} decisions of an earlier experiment, each weighing 0.3 (as set)" in found.warm
    chosen = begin("validate_days = 28", own)
    monkeypatch.setattr(warm, "choose", lambda *_: choice)
    choice = warm.Choice(0.1, tuple(warm.Candidate(s, 0.1, 0.0, 9) for s in warm.SHARES), "told so")
    assert "each weighing 0.1 (told so)" in learn.learn(chosen, end).warm
    choice = warm.Choice(1.0, (), "not asked")
    assert (
        f"each weighing 0.1 (as chosen on {end:%Y-%m-%d})"
        in learn.learn(chosen, end + timedelta(days=9)).warm
    )
    config = settings.read(chosen)
    assert train.warm_share(History.read(chosen), config, end - timedelta(days=1), None) == (None, "")
    assert "each weighing 1 (not asked)" in learn.learn(chosen, end + timedelta(days=40)).warm


def test_an_earlier_experiment_that_means_something_else_is_refused(begin, small_demo, end):
    window = settings.read(begin("")).reward.window_days
    other = begin("", replaced=(f"window_days = {window}", "window_days = 9"))
    with pytest.raises(DataError) as caught:
        train.train(other, end)
    assert f"a reward window of {window} days; this workspace has a reward window of 9 days" in str(
        caught.value
    )
    itself = begin("") / "nba.toml"
    named = itself.read_text(encoding="utf-8").replace(small_demo.as_posix(), ".")
    itself.write_text(named, encoding="utf-8")
    with pytest.raises(DataError, match="warm_start names this workspace"):
        train.train(itself.parent, end)
    plain = begin("warm_share = 0.5") / "nba.toml"
    kept = [x for x in plain.read_text(encoding="utf-8").splitlines() if "warm_start" not in x]
    plain.write_text("\n".join(kept), encoding="utf-8")
    with pytest.raises(SettingsError, match="need warm_start"):
        settings.read(plain.parent)
