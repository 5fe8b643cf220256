import optuna

from nba.models import tuning


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
