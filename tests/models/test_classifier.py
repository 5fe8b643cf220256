import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.utils.estimator_checks import check_estimator

from nba import metrics
from nba.errors import DataError, MissingError
from nba.models import calibration
from nba.models.classifier import ResponseClassifier
from nba.models.logistic import Columns
from nba.models.trial import LeakWarning, quiet


def table(seed, n=3000, base=-2.0):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "recency": rng.exponential(50, n),
            "orders": rng.poisson(3, n).astype(float),
            "segment": rng.choice(["new", "loyal", "lost"], n),
        }
    )
    frame.loc[rng.random(n) < 0.1, "recency"] = np.nan
    odds = base - 0.02 * frame.recency.fillna(60) + 0.4 * frame.orders + 1.0 * (frame.segment == "loyal")
    chance = expit(odds.to_numpy())
    return frame, (rng.random(n) < chance).astype(int), chance


@pytest.fixture(scope="module")
def fitted():
    X, y, _ = table(0)
    return ResponseClassifier(trees=200).fit(X, y)


# by hand


def test_bad_input_is_one_clear_error():
    X, y, _ = table(0, 200)
    with pytest.raises(DataError, match="one class only"):
        ResponseClassifier().fit(X, np.zeros(200))
    with pytest.raises(DataError, match="one class only, 0;"):
        ResponseClassifier().fit(X, np.zeros(200, dtype=np.int64))
    with pytest.raises(DataError, match="1 of 200 rows respond"):
        ResponseClassifier().fit(X, np.arange(200) == 0)
    for missing in (np.nan, None, pd.NA):
        unknown = pd.Series(y.astype(object))
        unknown[[3, 7]] = missing
        for answer in (unknown, unknown.tolist(), unknown.map({0: "no", 1: "yes"}).astype("category")):
            with pytest.raises(DataError, match="y: 2 of 200 values are missing"):
                ResponseClassifier().fit(X, answer)
    with pytest.raises(DataError, match=r"(?s)trees=0; expected.*, 1 or more.*seeds=0.*folds=2.5; .*, 2 or"):
        ResponseClassifier(trees=0, seeds=0, folds=2.5, leaves=2).fit(X, y)
    with pytest.raises(DataError, match="folds=1; expected a whole number, 2 or more"):
        ResponseClassifier(folds=1).fit(X, y)
    with pytest.raises(DataError, match=r"monotone is \[2, 0\]; expected numbers of -1, 0 or 1"):
        ResponseClassifier(monotone=[2, 0]).fit(X, y)
    with pytest.raises(DataError, match="monotone has 1 signs"):
        ResponseClassifier(monotone=[1], trees=20).fit(X, y)
    with pytest.raises(DataError, match=r"at has shape \(3,\)"):
        ResponseClassifier().fit(X, y, at=[1, 2, 3])
    with pytest.raises(ValueError, match=r"infinite values in columns \[0, 1\]"):
        ResponseClassifier().fit(np.full((20, 2), np.inf), np.arange(20) % 2)


def test_moments_of_rows_are_moments_and_known():
    X, y, _ = table(0, 200)
    model = ResponseClassifier(trees=20, seeds=1)
    days = pd.date_range("2026-01-01", periods=4, tz="UTC").repeat(50)
    for text in (["9", "10"] * 100, pd.Series(["1/2/2026", "10/1/2026"] * 100), np.array([b"9"] * 200)):
        with pytest.raises(DataError, match="at holds text; expected moments or numbers"):
            model.fit(X, y, at=text)
    numbers = np.arange(200.0) // 50
    numbers[[3, 5]] = np.nan
    gaps = days.where(~np.isnan(numbers))
    for unknown in (numbers, gaps, gaps.tz_localize(None), [None, None, *range(198)]):
        with pytest.raises(DataError, match="at: 2 of 200 values are missing"):
            model.fit(X, y, at=unknown)
    splits = [model.validation(X, y, at=at).splits for at in (days, days.tz_localize(None), days.asi8)]
    for found in splits[1:]:
        assert [new.tolist() for _, new in found] == [new.tolist() for _, new in splits[0]]


def test_columns_of_moments_are_no_categories():
    X, y, _ = table(0, 200)
    day = pd.Series(pd.date_range("2026-01-01", periods=200))
    wrong = X.assign(joined=day, seen=day.dt.date, age=day - day[0], month=day.dt.to_period("M"))
    with pytest.raises(DataError, match=r"columns \['joined', 'seen', 'age', 'month'\] hold moments"):
        ResponseClassifier().fit(wrong, y)
    coding = Columns.of(X.assign(month=day.dt.strftime("%b"), is_new=y > 0))
    assert set(coding.codes) == {"segment", "month"}


def test_what_is_no_number_at_scoring_is_named(fitted):
    X, _, _ = table(1, 50)
    day = pd.Series(pd.date_range("2026-01-01", periods=50))
    with pytest.raises(DataError, match=r"columns \['orders'\] hold moments"):
        fitted.predict_proba(X.assign(orders=day))
    with pytest.raises(DataError, match=r"recency holds .*; expected numbers"):
        fitted.predict_proba(X.assign(recency="long ago"))
    plain = ResponseClassifier(trees=20, seeds=1).fit(X[["orders", "recency"]], np.arange(50) % 2)
    with pytest.raises(DataError, match=r"orders holds datetime64.*; expected numbers"):
        plain.predict_proba(X.assign(orders=day)[["orders", "recency"]])


def test_columns_by_name_unseen_categories_are_unknown_missing_ones_are_named(fitted):
    X, _, _ = table(1, 50)
    p = fitted.predict_proba(X)[:, 1]
    np.testing.assert_array_equal(fitted.predict_proba(X[["segment", "orders", "recency"]])[:, 1], p)
    odd = fitted.predict_proba(X.assign(segment="martian"))[:, 1]
    np.testing.assert_array_equal(odd, fitted.predict_proba(X.assign(segment=None))[:, 1])
    assert np.isfinite(odd).all()
    with pytest.raises(DataError, match=r"columns \['orders'\] are missing"):
        fitted.predict_proba(X.drop(columns="orders"))


def test_ten_rows_and_useless_columns():
    X = np.column_stack([np.arange(10.0), np.full(10, 3.0), np.full(10, np.nan)])
    p = ResponseClassifier(trees=20).fit(X, np.arange(10) % 2).predict_proba(X)
    assert np.isfinite(p).all()
    assert (np.abs(p[:, 1] - 0.5) < 0.35).all()


def test_monotone_rises():
    X, y, _ = table(2, 1500)
    numbers = X[["recency", "orders"]].to_numpy()
    model = ResponseClassifier(trees=100, monotone=[-1, 1]).fit(numbers, y)
    line = np.column_stack([np.full(40, 20.0), np.linspace(0, 12, 40)])
    assert (np.diff(model.predict_proba(line)[:, 1]) >= -1e-12).all()
    assert model.blend_ == 1


# laws


def test_same_seed_same_model():
    X, y, _ = table(3, 400)
    first, second = (ResponseClassifier(trees=40).fit(X, y).predict_proba(X) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_saved_and_loaded_is_the_same(fitted, tmp_path):
    X, _, _ = table(4, 200)
    fitted.save(tmp_path / "model")
    loaded = ResponseClassifier.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict_proba(X), fitted.predict_proba(X))
    with pytest.raises(MissingError, match="expected a saved classifier"):
        ResponseClassifier.load(tmp_path)


def test_categories_that_are_no_text_survive_saving(tmp_path):
    rng = np.random.default_rng(0)
    k = rng.integers(1, 4, 300)
    y = (rng.random(300) < np.array([0, 0.1, 0.4, 0.8])[k]).astype(int)
    X = pd.DataFrame({"k": pd.Categorical(k), "is_old": pd.Series(k > 1, dtype=object), "w": rng.random(300)})
    model = ResponseClassifier(trees=20, seeds=1, folds=2).fit(X, y)
    model.save(tmp_path)
    loaded = ResponseClassifier.load(tmp_path)
    assert loaded._coding.codes == model._coding.codes
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    assert np.ptp(loaded.predict_proba(X.assign(w=0.5))[:, 1]) > 0.3
    X["k"] = pd.cut(X["w"], 3)
    with pytest.raises(DataError, match=r"categories of columns \['k'\] cannot be saved"):
        model.fit(X, y).save(tmp_path)
    plain = model.fit(X[["w"]], y)
    plain.save(tmp_path)
    loaded = ResponseClassifier.load(tmp_path)  # minds names: no warning
    np.testing.assert_array_equal(loaded.predict_proba(X[["w"]]), plain.predict_proba(X[["w"]]))


def test_customers_share_a_fold_and_a_half_of_the_calibration():
    rng = np.random.default_rng(0)
    customer = np.repeat(np.arange(150), 4)
    X, y = rng.normal(size=(150, 5))[customer], (rng.random(150) < 0.3).astype(int)[customer]
    model, names = ResponseClassifier(trees=60, seeds=1, min_leaf=5), [f"c{k}" for k in customer]
    splits = model.validation(X, y, groups=names).splits
    assert sorted(np.concatenate([new for _, new in splits]).tolist()) == list(range(600))
    assert all(not set(customer[known]) & set(customer[new]) for known, new in splits)
    # Nothing is to be found, but each customer's answer is known from the other rows.
    fresh = rng.normal(size=(2000, 5))
    told = [np.ptp(model.fit(X, y, groups=g).predict_proba(fresh)[:, 1]) for g in (None, names)]
    assert told[1] < told[0] / 2
    halves = [half for half, _ in calibration._halves(600, 0, customer)]
    assert all(len(np.unique(half[customer == k])) == 1 for half in halves for k in range(150))
    with pytest.raises(DataError, match="groups: 1 values are missing"):
        model.fit(X, y, groups=[None, *names[1:]])
    with pytest.raises(DataError, match=r"groups has shape \(3,\)"):
        model.fit(X, y, groups=names[:3])
    with pytest.raises(DataError, match="without one fold of customers fewer than 2 rows of a class"):
        model.fit(X, y, groups=y)


def test_folds_are_fewer_where_a_class_or_customers_do_not_suffice():
    X, y = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) % 2
    model = ResponseClassifier(trees=20, seeds=1)

    def folds(answer, **more):
        splits = model.validation(X, answer, **more).splits
        return len(splits), min(np.bincount(answer[known], minlength=2).min() for known, _ in splits)

    assert folds(y) == (5, 24)
    assert folds((np.arange(60) < 3).astype(int)) == (3, 2)  # three rows respond
    counts = {n: folds(y, groups=np.arange(60) % n) for n in (60, 4, 3)}
    assert all(2 <= found <= min(n, 5) and left >= 2 for n, (found, left) in counts.items())
    # Two customers respond: five folds would leave none of the two in one of them, fewer may.
    found, left = folds((np.arange(60) % 15 < 2).astype(int), groups=np.arange(60) % 15)
    assert 2 <= found <= 5
    assert left >= 2


def test_the_choice_of_a_calibration_counts_customers(monkeypatch):
    # A customer's rows answer alike: the curve that suits one half of them suits it by chance.
    rng, asked = np.random.default_rng(1), []
    choose = calibration.choose
    monkeypatch.setattr(calibration, "choose", lambda *a, **k: asked.append((a, k)) or choose(*a, **k))
    customer = np.repeat(np.arange(100), 5)
    X, y = rng.normal(size=(500, 2)), (rng.random(100) < 0.4).astype(int)[customer]
    ResponseClassifier(trees=20, seeds=1).fit(X, y, groups=customer)
    ((judged,), more) = asked[0]
    assert all(len(found) == len(more["customer"]) for found in judged.values())
    assert sorted(more["customer"].tolist()) == sorted(customer.tolist())


def test_scikit_learns_own_checks():
    with quiet():  # a feature of the checks' toy data tells the class
        results = check_estimator(ResponseClassifier(trees=20, seeds=1, folds=2), on_skip=None, on_fail=None)
    failed = {r["check_name"]: str(r["exception"])[-300:] for r in results if r["status"] == "failed"}
    assert failed == {}
    assert len(results) > 40


def test_infinite_values_and_the_answer_as_a_feature_are_named():
    X, y, _ = table(0, 300)
    wrong = X.copy()
    wrong.loc[3, "recency"] = np.inf
    plain = ["recency", "orders"]
    for columns in (list(X.columns), plain):
        with pytest.raises(DataError, match=r"infinite values in columns \['recency'\]"):
            ResponseClassifier(trees=10, seeds=1, folds=2).fit(wrong[columns], y)
        model = ResponseClassifier(trees=10, seeds=1, folds=2).fit(X[columns], y)
        with pytest.raises(DataError, match=r"infinite values in columns \['recency'\]"):
            model.predict_proba(wrong[columns])
    with pytest.warns(LeakWarning, match="feature bought tells the outcome"):
        ResponseClassifier(trees=10, seeds=1, folds=2).fit(X.assign(bought=y), y)


# recovery


def test_chances_are_found_and_calibrated(fitted):
    X, y, chance = table(9, 6000)
    p = fitted.predict_proba(X)[:, 1]
    assert metrics.log_loss(y, p) < metrics.log_loss(y, chance) + 0.01
    assert metrics.ece(y, p) < 0.02 + 3 * np.sqrt(0.2 * 0.8 / 600) / 2
    assert metrics.calibration_slope(y, p) == pytest.approx(1, abs=0.15)


def test_times_keep_the_future_out():
    # The effect of the feature turns round at the end: only a look at later rows tells.
    rng = np.random.default_rng(0)
    x, at = rng.normal(size=(3000, 1)), np.repeat(np.arange(6), 500)
    y = (rng.random(3000) < expit(-1 + np.where(at < 5, 1, 0.2) * x[:, 0])).astype(int)
    timed = ResponseClassifier(trees=60, seeds=1).fit(x, y, at=at)
    mixed = ResponseClassifier(trees=60, seeds=1).fit(x, y)
    late = x[at == 5]
    assert np.ptp(timed.decision_function(late)) < np.ptp(mixed.decision_function(late))
