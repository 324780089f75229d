"""Logistic regression against scikit-learn's, and the choice of C."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from threadpoolctl import threadpool_info

from lost_reg.probing import logistic
from lost_reg.probing.logistic import CS, Sweep, choose_c, fit_logistic

PIXELS, DIGITS = load_digits(return_X_y=True)
FEATURES, LABELS = torch.from_numpy(PIXELS), torch.from_numpy(DIGITS)
FEW = slice(0, 150)


@pytest.mark.parametrize("c", [1e-6, 1e-3, 1.0])
def test_it_is_scikit_learns(c):
    ours = fit_logistic(FEATURES[FEW] + 100, LABELS[FEW], 10, c)  # a mean costs nothing: the bias is free
    theirs = LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(PIXELS[FEW], DIGITS[FEW])
    probabilities = torch.from_numpy(ours.scores(FEATURES[150:300] + 100)).softmax(dim=1)
    assert probabilities.numpy() == pytest.approx(theirs.predict_proba(PIXELS[150:300]), abs=1e-3)
    assert ours.weights.numpy() == pytest.approx(theirs.coef_, abs=1e-3 * np.abs(theirs.coef_).max())


def test_of_two_classes_half_the_c_is_scikit_learns():
    labels = (LABELS[FEW] > 4).long()
    scores = fit_logistic(FEATURES[FEW], labels, 2, 0.005).scores(FEATURES[150:300])
    theirs = LogisticRegression(C=0.01, tol=1e-10, max_iter=10_000).fit(PIXELS[FEW], labels.numpy())
    logits = theirs.decision_function(PIXELS[150:300])
    assert scores[:, 1] - scores[:, 0] == pytest.approx(logits, abs=2e-3)


def test_several_classes_of_an_image_are_models_side_by_side():
    several = np.stack([DIGITS % 2 == 0, DIGITS > 4, DIGITS == 0], axis=1)
    ours = fit_logistic(FEATURES[FEW], torch.from_numpy(several[FEW]), 3, 0.01)
    theirs = OneVsRestClassifier(LogisticRegression(C=0.01, tol=1e-10, max_iter=10_000))
    theirs.fit(PIXELS[FEW], several[FEW].astype(int))
    logits = np.stack([one.decision_function(PIXELS[150:300]) for one in theirs.estimators_], axis=1)
    assert ours.scores(FEATURES[150:300]) == pytest.approx(logits, abs=2e-3)


def test_the_rows_are_summed_part_by_part(monkeypatch):
    whole = fit_logistic(FEATURES[FEW], LABELS[FEW], 10, 0.01).weights
    monkeypatch.setattr(logistic, "_LOGITS", 70)  # seven rows at a time
    assert torch.allclose(fit_logistic(FEATURES[FEW], LABELS[FEW], 10, 0.01).weights, whole, atol=1e-8)


def test_a_class_that_was_never_seen_is_never_found():
    few = LABELS[FEW] != 3
    model = fit_logistic(FEATURES[FEW][few], LABELS[FEW][few], 10, 0.1)
    scores = model.scores(FEATURES)
    assert (scores[:, 3] == -np.inf).all() and np.isfinite(np.delete(scores, 3, axis=1)).all()
    # with several classes an image, one that all or none have says nothing, and stays finite for the mAP
    several = torch.stack([LABELS < 5, LABELS < 10, LABELS < 0], dim=1)
    scores = fit_logistic(FEATURES[FEW], several[FEW], 3, 0.1).scores(FEATURES)
    assert (scores[:, 1:] == 0).all() and scores[:, 0].std() > 0


def test_features_without_variance_give_the_shares_of_the_classes():
    labels = torch.tensor([0, 0, 0, 1])
    scores = fit_logistic(torch.ones(4, 2, dtype=torch.float64), labels, 2, 1.0).scores(
        torch.ones(1, 2).double()
    )
    assert torch.from_numpy(scores).softmax(dim=1).numpy() == pytest.approx(
        np.array([[0.75, 0.25]]), abs=1e-5
    )


def test_c_is_one_of_dinov2s():
    assert len(CS) == 45 and CS[[0, 4, -1]] == pytest.approx([1e-6, 1e-5, 1e5])
    assert np.diff(np.log10(CS)) == pytest.approx(0.25)


def test_c_is_chosen_on_validation_images_and_the_model_fitted_on_both(monkeypatch):
    monkeypatch.setattr(logistic, "CS", CS[8:24:4])
    train, val = (FEATURES[:60], LABELS[:60]), (FEATURES[60:90], LABELS[60:90])

    def accuracy(scores):
        return (scores.argmax(axis=1) == DIGITS[60:90]).mean()

    accuracies = {c: accuracy(fit_logistic(*train, 10, c).scores(val[0])) for c in logistic.CS.tolist()}
    steps: list[tuple[int, int]] = []
    model, c = choose_c(train, val, 10, accuracy, lambda *at: steps.append(at))
    best = max(accuracies.values())
    assert c == min(one for one, value in accuracies.items() if value == best)
    assert torch.allclose(model.weights, fit_logistic(FEATURES[:90], LABELS[:90], 10, c).weights)
    assert steps[0] == (0, 5) and steps[-1] == (5, 5)


def test_a_choice_that_is_continued_ends_the_same(monkeypatch):
    monkeypatch.setattr(logistic, "CS", CS[8:24:4])
    train, val, kept = (FEATURES[:60], LABELS[:60]), (FEATURES[60:90], LABELS[60:90]), []

    def accuracy(scores):
        return (scores.argmax(axis=1) == DIGITS[60:90]).mean()

    whole, c = choose_c(train, val, 10, accuracy, keep=kept.append)
    assert [one.tried for one in kept] == [1, 2, 3, 4]
    for sweep in kept:
        again: list[Sweep] = []
        model, same = choose_c(train, val, 10, accuracy, begun=sweep, keep=again.append)
        assert same == c and torch.equal(model.weights, whole.weights) and torch.equal(model.bias, whole.bias)
        assert len(again) == 4 - sweep.tried
        assert not again or torch.equal(again[-1].model.weights, kept[-1].model.weights)


@pytest.mark.parametrize("products, threads", [(1, 2), (10**9, 1)])
def test_short_fits_take_one_thread_and_give_the_others_back(monkeypatch, products, threads):
    """Also of scipy's BLAS, which would spin while torch works."""
    seen = []

    def minimize(*arguments, **options):
        blas = [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]
        seen.append((torch.get_num_threads(), {*blas}))
        return scipy.optimize.minimize(*arguments, **options)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(logistic, "_PRODUCTS_OF_THREADS", products)
    monkeypatch.setattr(logistic, "minimize", minimize)
    features = torch.from_numpy(load_digits().data[:50])
    fit_logistic(features, torch.arange(50) % 10, 10, 1.0)
    assert seen == [(threads, {1})] and torch.get_num_threads() == 2
    torch.set_num_threads(before)
