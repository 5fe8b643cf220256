import os
from pathlib import Path

import pyarrow as pa
import pytest

from nba import tracking
from nba.errors import MissingError, SettingsError
from nba.settings import Settings, Workspace

_DOUBLER = """
from pathlib import Path

import pyarrow as pa


class Doubler:
    def __init__(self, factor):
        self.factor = factor

    @classmethod
    def load(cls, folder):
        return cls(float((Path(folder) / "factor.txt").read_text()))

    def wide(self, features):
        return pa.table({"p_response:none": features["f_a"].to_numpy() * self.factor})
"""


@pytest.fixture
def doubler(tmp_path, monkeypatch):
    """A folder with a saved model, and the name of its loader in an importable module."""
    package = tmp_path / "modules"
    package.mkdir()
    (package / "doubler_of_tests.py").write_text(_DOUBLER)
    monkeypatch.syspath_prepend(str(package))
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "factor.txt").write_text("2.0")
    return tmp_path / "saved", "doubler_of_tests:Doubler"


@pytest.fixture
def workspace(tmp_path):
    folder = tmp_path / "shop"
    folder.mkdir()
    return folder


SETTINGS = Settings(workspace=Workspace(name="tracking-tests"))


def training(name, doubler, **more):
    folder, loader = doubler
    rows = pa.table({"customer_id": ["a", "b"], "f_a": [0.25, None], "is_response": [True, False]})
    return tracking.Training(
        name=name, run_name="a run", folder=folder, loader=loader, example=rows, examples=rows, **more
    )


# by hand


def test_which_store_wins():
    shop, checkout = Path("/shop"), tracking.CHECKOUT / "mlruns" / "mlflow.db"
    assert tracking.resolve("http://there", "sqlite:///x.db", shop) == "http://there"
    assert tracking.resolve(None, "sqlite:///x.db", shop) == "sqlite:////shop/x.db"
    assert tracking.resolve(None, "runs/x.db", shop) == "sqlite:////shop/runs/x.db"
    assert tracking.resolve(None, "sqlite:////else/x.db", shop) == "sqlite:////else/x.db"
    assert tracking.resolve("", "http://there", shop) == "http://there"
    assert tracking.resolve(None, None, shop) == f"sqlite:///{checkout}"


@pytest.mark.parametrize("setting", ["./mlruns", "file:///tmp/mlruns"])
def test_file_stores_are_refused(setting):
    with pytest.raises(SettingsError, match=r"expected a SQLite file \(\*.db\) or the URI of a server"):
        tracking.resolve(None, setting, Path("/shop"))


def test_no_store_yet_is_missing_and_makes_none(tmp_path, workspace, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'none' / 'mlflow.db'}")
    tracking.setup(SETTINGS, workspace)
    with pytest.raises(MissingError, match="Run `nba train`"):
        tracking.load_policy("x-policy", tracking.CHAMPION)
    assert not (tmp_path / "none").exists()


def test_workspaces_of_one_name_do_not_share_a_policy(tmp_path):
    names = []
    for part in ("one", "two"):
        (tmp_path / part).mkdir()
        tracking.setup(SETTINGS, tmp_path / part)
        assert tracking.policy_name(SETTINGS) == "tracking-tests-policy"
        tracking.claim(SETTINGS, tmp_path / part)
        names.append(tracking.policy_name(SETTINGS))
        tracking.claim(SETTINGS, tmp_path / part)
        assert tracking.policy_name(SETTINGS) == names[-1] == tracking.policy_name(SETTINGS, tmp_path / part)
    assert names[0] != names[1]


# laws


@pytest.mark.xdist_group("mlflow")
def test_log_register_promote_load_and_serve(doubler, workspace, capfd):
    tracking.claim(SETTINGS, workspace)
    name = tracking.policy_name(SETTINGS)
    assert not tracking.has_policy(name)
    first = tracking.log_training(
        training(name, doubler, params={"trees": 3}, metrics={"auc": 0.7, "nan": float("nan")})
    )
    tracking.promote(first, tracking.CHAMPION)
    (doubler[0] / "factor.txt").write_text("3.0")
    table = pa.table({"a": [1]})
    second = tracking.log_training(training(name, doubler, tags={"model_id": "abc"}, tables={"t": table}))
    tracking.promote(second, tracking.CHALLENGER)
    assert (first.version, second.version) == (1, 2)

    folder, version = tracking.load_policy(name, tracking.CHAMPION)
    assert (folder / "factor.txt").read_text() == "2.0"
    assert version == 1
    folder, version = tracking.load_policy(name, tracking.CHALLENGER)
    assert (folder / "factor.txt").read_text() == "3.0"
    assert version == 2
    assert tracking.find(name, tracking.CHALLENGER)[1]["model_id"] == "abc"
    assert tracking.load_model(name, "abc") == folder
    tracking.promote(second, tracking.CHAMPION)
    assert tracking.load_policy(name)[1] == 2
    with pytest.raises(MissingError, match="no version of model 'abd'"):
        tracking.load_model(name, "abd")
    with pytest.raises(MissingError, match="alias 'shadow'"):
        tracking.load_policy(name, "shadow")
    _served_by_mlflow_alone(name, first.run_id)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert shown.err == ""


def _served_by_mlflow_alone(name, run_id):
    with tracking.opened() as (mlflow, _):
        model = mlflow.pyfunc.load_model(f"models:/{name}@{tracking.CHAMPION}")
        frame = pa.table({"f_a": [0.25, 0.1]}).to_pandas()
        assert model.predict(frame)["p_response:none"].round(6).tolist() == [0.75, 0.3]
        run = mlflow.MlflowClient().get_run(run_id)
        assert run.data.params == {"trees": "3"}
        assert run.data.metrics == {"auc": 0.7}
        assert [d.dataset.name for d in run.inputs.dataset_inputs] == ["examples"]


@pytest.mark.xdist_group("mlflow")
def test_a_run_without_a_model(workspace):
    tracking.setup(SETTINGS, workspace)
    run_id = tracking.log_run("judged", params={"a": 1}, metrics={"b": 2.0}, tags={"c": "d"})
    with tracking.opened() as (mlflow, _):
        found = mlflow.MlflowClient().get_run(run_id).data
    assert found.params == {"a": "1"}
    assert found.metrics == {"b": 2.0}
    assert found.tags["c"] == "d"


@pytest.mark.xdist_group("mlflow")
def test_each_workspace_of_a_process_keeps_to_its_own_store(tmp_path, monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
    settings = Settings(workspace=Workspace(name="own", tracking="sqlite:///runs.db"))
    for part in ("one", "two"):
        (tmp_path / part).mkdir()
        tracking.setup(settings, tmp_path / part)
        tracking.log_run("judged", params={"in": part}, metrics={}, tags={})
        with tracking.opened() as (mlflow, store):
            assert store.database == tmp_path / part / "runs.db"
            runs = mlflow.search_runs(experiment_names=["own"], output_format="list")
        assert [run.data.params for run in runs] == [{"in": part}]
        assert not {"MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"} & set(os.environ)


def test_tests_do_not_touch_the_checkout(tracking_store):
    assert os.environ["MLFLOW_TRACKING_URI"] == tracking_store
    assert str(tracking.CHECKOUT) not in tracking_store
