import numpy as np
import optuna
import pyarrow as pa
import pytest
from scipy.special import expit
from sklearn.base import clone
from sklearn.linear_model import Ridge

from nba import metrics
from nba.errors import DataError
from nba.models import candidates, latest, tuning
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


def test_a_capacity_outside_of_the_ranges_is_tried_first(varied, catalog, quick, tmp_path):
    asked = quick.model_copy(update={"tune_trials": 1, "tune_rows": 1000, "leaves": 80, "min_leaf": 5})
    settings, _ = tuning.tuned(varied.examples, catalog, asked, 0, tmp_path / "tuning.db")
    assert (settings.leaves, settings.min_leaf) == (80, 5)
    X, y, _ = responses()
    search = Search(Models(tune_trials=1), 0, tmp_path / "other.db")
    model = ResponseClassifier(trees=20, seeds=1, folds=2, leaves=2, penalty=0)
    assert tuning.responses(model, X, y, search).parameters["penalty"] == 0


def test_another_problem_is_another_search(varied, catalog, quick, tmp_path):
    asked = quick.model_copy(update={"tune_trials": 1, "tune_rows": 600})
    database = tmp_path / "tuning.db"
    names = set()
    for change in ({}, {"monotone": {"f_x0": 1}}, {"monotone": {"f_x0": -1}}, {"leaves": 9}, {"trees": 20}):
        other = asked.model_copy(update=change)
        problem = tuning._problem(varied.examples, catalog, 600, 0, 0.0)
        names.add(tuning._response_study(problem, other, 0, database).name)
    assert len(names) == 5
    tuning.tuned(varied.examples, catalog, asked, 0, database)
    other = asked.model_copy(update={"leaves": 9})
    settings, _ = tuning.tuned(varied.examples, catalog, other, 0, database)
    assert settings.leaves == 9
    (told,) = tuning.trials(varied.examples, catalog, other, 0, database)
    assert told["params"]["leaves"] == 9


def test_effects_of_another_problem_are_another_search(tmp_path, monkeypatch):
    n = 200
    rng = np.random.default_rng(0)
    X, y, arm = rng.normal(size=(n, 2)), rng.normal(size=n), rng.integers(0, 2, n)
    model = UpliftEnsemble(control=0, names=("dr_ridge",), folds=2)
    half = {0: 0.5, 1: 0.5}
    names = []
    monkeypatch.setattr(Study, "minimise", lambda study, *_: (names.append(study.name), ({}, 0.0))[1])

    def asked(p=half, more=None, **parameters):
        search = Search(Models(tune_trials=1), 0, tmp_path / "tuning.db")
        tuning.effects(clone(model).set_params(**parameters), X, y, arm, p, search, **(more or {}))

    asked()
    asked({1: 0.5, 0: 0.5})
    assert names[0] == names.pop()
    asked(np.full(n, 0.5))
    asked({0: 0.49, 1: 0.51})
    asked(more={"groups": np.arange(n) // 2})
    asked(more={"groups": np.arange(n) // 4})
    asked(more={"sample_weight": np.repeat([1.0, 2.0], n // 2)})
    asked(folds=3)
    asked(monotone=[1, 0])
    asked(names=("dr_ridge", "response"))
    asked(outcome=Ridge(alpha=3.0))
    asked(outcome=Ridge(alpha=30.0))
    asked(value={(1, "a"): 2.0})
    assert len(set(names)) == len(names) == 12
    asked(trees={"num_leaves": 3})  # what is searched for is no part of the problem
    assert names[-1] == names[0]


def test_what_the_latest_decisions_brought_is_no_part_of_the_search(varied, catalog, quick, tmp_path):
    rows = varied.examples
    day = latest.days(rows)
    responds = rows["is_response"].to_numpy() ^ (day == day.max())  # another outcome in the last week
    at = rows.schema.get_field_index("is_response")
    changed = rows.set_column(at, "is_response", pa.array(responds))
    asked = quick.model_copy(update={"tune_trials": 1, "tune_rows": 2000})
    found = tuning.tuned(rows, catalog, asked, 0, tmp_path / "tuning.db", window_days=7.0)
    assert tuning.tuned(changed, catalog, asked, 0, tmp_path / "tuning.db", window_days=7.0) == found
    assert len(optuna.get_all_study_names(f"sqlite:///{tmp_path / 'tuning.db'}")) == 1
    problem = tuning._problem(rows, catalog, 2000, 0, 7.0)
    ((known, new),) = problem.splits  # the first week tells the second
    assert len(problem.y) == 2000 == len(known) + len(new)


def test_rows_without_a_past_are_judged_on_other_customers(varied, catalog):
    day = latest.days(varied.examples)
    one = varied.examples.filter(pa.array(day == day.min())).slice(0, 900)
    problem = tuning._problem(one, catalog, 900, 0, 7.0)
    assert len(problem.splits) == 3
    for known, new in problem.splits:
        assert sorted([*known, *new]) == list(range(900))


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
    search = Search(Models(tune_trials=1), 0, tmp_path / "tuning.db")
    with pytest.raises(DataError, match=r"at has shape \(3,\); expected \(240,\)"):
        tuning.responses(model, X, y, search, at=[1, 2, 3])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        tuning.responses(model, X[:5], y, search)


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
