import numpy as np
import optuna
import pytest
from scipy.special import expit
from sklearn.base import clone

from nba import metrics
from nba.errors import DataError
from nba.models import candidates, tuning
from nba.models.classifier import ResponseClassifier
from nba.models.ensemble import UpliftEnsemble
from nba.models.tuning import Search, Study
from nba.settings import Models


def trials(database):
    name = optuna.get_all_study_names(f"sqlite:///{database}")[0]
    return optuna.load_study(study_name=name, storage=f"sqlite:///{database}").trials


# by hand


def test_off_by_default(varied, catalog, quick, tmp_path):
    settings, found = tuning.tuned(varied.examples, catalog, quick, 0, tmp_path / "tuning.db")
    assert settings is quick
    assert found == {}
    assert not list(tmp_path.iterdir())


def test_search_is_seeded_resumable_and_not_worse_than_the_settings(varied, catalog, quick, tmp_path):
    asked = quick.model_copy(update={"tune_trials": 3, "tune_rows": 2000})
    rows = varied.examples
    settings, found = tuning.tuned(rows, catalog, asked, 0, tmp_path / "tuning.db")
    first = trials(tmp_path / "tuning.db")
    assert len(first) == 3
    assert first[0].params["leaves"] == quick.leaves  # the settings' own capacity is tried first
    assert found["log_loss"] <= first[0].value
    assert settings.leaves == found["leaves"]
    more = asked.model_copy(update={"tune_trials": 4})
    _, again = tuning.tuned(rows, catalog, more, 0, tmp_path / "tuning.db")
    assert len(trials(tmp_path / "tuning.db")) == 4
    assert again["log_loss"] <= found["log_loss"]
    tuning.tuned(rows, catalog, asked, 0, tmp_path / "other.db")
    assert [t.params for t in trials(tmp_path / "other.db")] == [t.params for t in first]


def test_a_search_that_is_interrupted_is_that_of_one_piece(tmp_path):
    def losses(params):
        yield params["x"] ** 2 + 1
        if interrupt:
            raise KeyboardInterrupt
        yield params["x"] ** 2

    def search(name, trials):
        study = Study("x", tmp_path / name, trials, 0)
        study.minimise(lambda asked: {"x": asked.suggest_float("x", -1, 1)}, losses, {"x": 0.9})
        return study.finished()

    interrupt = False
    whole = search("whole.db", 4)
    params = [trial["params"]["x"] for trial in whole]
    assert (len(set(params)), params[0]) == (4, 0.9)
    interrupt = True
    with pytest.raises(KeyboardInterrupt):
        search("parts.db", 4)
    interrupt = False
    assert search("parts.db", 2) == whole[:2]
    assert search("parts.db", 4) == whole


def test_effects_are_searched_on_the_loss_of_the_stack_and_the_search_goes_on(tmp_path):
    n = 800
    rng = np.random.default_rng(0)
    X, arm = rng.normal(size=(n, 3)), rng.integers(0, 2, n)
    y = X[:, 1] + arm * np.sign(X[:, 0]) + rng.normal(size=n)
    rows = (X, y, arm, {0: 0.5, 1: 0.5})
    model = UpliftEnsemble(control=0, names=("x_trees",), folds=2)
    heard = []

    def searched(trials):
        search = Search(Models(tune_trials=trials), 0, tmp_path / "tuning.db", heard.append)
        return tuning.effects(model, *rows, search, groups=np.arange(n) // 2)

    found = searched(3)
    first = found.trials[0]
    assert first["params"] == candidates.TREES
    default = clone(model).fit(*rows, groups=np.arange(n) // 2)
    assert first["loss"] == pytest.approx(default.loss_)
    assert found.loss <= first["loss"] < 1  # 1 is the average effect for all
    assert heard == [0, 1, 1, 1]
    more = searched(4)
    assert more.trials[3]["params"] not in [trial["params"] for trial in found.trials]
    assert more.trials[:3] == found.trials
    assert (len(more.trials), heard[4:]) == (4, [3, 1])
    assert model.trees is None


def responses(n=240):
    rng = np.random.default_rng(0)
    X, at = rng.normal(size=(n, 3)), np.repeat(np.arange(4), n // 4)
    y = (rng.random(n) < 1 / (1 + np.exp(1 - X[:, 0] * X[:, 1]))).astype(int)
    return X, y, at


def test_responses_are_searched_on_the_loss_of_unseen_rows_and_the_search_goes_on(tmp_path):
    X, y, _ = responses()
    model = ResponseClassifier(trees=20, seeds=1, folds=3)
    heard = []

    def searched(trials):
        search = Search(Models(tune_trials=trials), 0, tmp_path / "tuning.db", heard.append)
        return tuning.responses(model, X, y, search)

    found = searched(3)
    default = clone(model).fit(X, y)
    own = {name: default.get_params()[name] for name in found.parameters}
    assert len(own) == 5
    assert found.trials[0]["params"] == own
    assert found.trials[0]["loss"] == pytest.approx(default.losses_["none"], abs=1e-12)
    assert found.loss == min(trial["loss"] for trial in found.trials) <= found.trials[0]["loss"]
    assert heard == [0, 1, 1, 1]
    more = searched(4)
    assert more.trials[:3] == found.trials
    assert len({str(trial["params"]) for trial in more.trials}) == 4
    assert heard[4:] == [3, 1]
    assert "trees_" not in vars(model)
    with pytest.raises(DataError, match="0 trials"):
        searched(0)


def test_responses_with_times_are_judged_part_by_part_on_later_rows():
    X, y, at = responses()
    model = ResponseClassifier(trees=20, seeds=1)
    rows = model.validation(X, y, at=at)
    assert [(at[known].max(), set(at[new])) for known, new in rows.splits] == [(0, {1}), (1, {2}), (2, {3})]
    losses = list(rows.losses({"leaves": 3}))
    assert len(losses) == 3
    _, new = rows.splits[0]
    assert losses[0] <= metrics.log_loss(y[new], expit(rows.linear[new]))  # a blend is no worse than its part
    changed = y.copy()
    changed[at == 3] = 1 - changed[at == 3]
    again = list(model.validation(X, changed, at=at).losses({"leaves": 3}))
    assert again[:2] == losses[:2]  # what came later changes no part before
    assert again[2] != losses[2]


def test_a_search_is_pruned_part_by_part(tmp_path):
    tried = []

    def losses(params):
        tried.append(0)
        for _ in range(3):
            tried[-1] += 1
            yield params["x"]

    study = Study("x", tmp_path / "tuning.db", 8, 0)
    study.minimise(lambda asked: {"x": asked.suggest_float("x", 0, 1)}, losses, {"x": 0.1})
    kept = [trial["loss"] is not None for trial in study.finished()]
    assert all(kept[:3])  # the first three tell what is usual
    assert tried == [3 if whole else 1 for whole in kept]
    assert not all(kept)
