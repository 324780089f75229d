"""Logistic regression with an L2 penalty, by L-BFGS in float64, and the choice of its strength.

As DINOv2 is evaluated (its eval/log_regression.py): the inverse strength C is one of 45 values; the one with
the best score on validation images is chosen, and the model is fitted again on training and validation images
together. The objective is that of scikit-learn's LogisticRegression: C times the sum of the losses, plus half
the squared norm of the weights; the bias is free. (For two classes, scikit-learn has one vector of weights;
with two, as here, half as large a C gives the same model.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits
from torch import Tensor

CS = np.logspace(-6, 5, 45)
MOST_ITERATIONS = 1000
_GRADIENT = 1e-7  # the largest part of the gradient of the mean loss at which a fit has converged,
_GAIN = 1e-10  # and what a step must gain of it
_LOGITS = 2**24  # at a time
_PRODUCTS_OF_THREADS = 10**7  # in an evaluation, from which on several threads of a CPU are used


@dataclass(frozen=True)
class Logistic:
    """A fitted model.

    weights: (K, D) float64. bias: (K,) float64; minus infinity for a class that was never seen.
    """

    weights: Tensor
    bias: Tensor

    def scores(self, features: Tensor) -> np.ndarray:
        """(n, D) float64 to the logit of each class: (n, K) float64."""
        return (features @ self.weights.mT + self.bias).cpu().numpy()


@dataclass(frozen=True)
class Sweep:
    """How far the choice of C has come: how many were tried, the best score, its C, and the last model."""

    tried: int = 0
    best: float = -math.inf
    c: float = 0.0
    model: Logistic | None = None

    def after(self, model: Logistic, score: float, c: float) -> Sweep:
        """With one more; of equal scores, the earlier one is the best."""
        is_best = score > self.best
        return Sweep(self.tried + 1, *((score, c) if is_best else (self.best, self.c)), model)


def fit_logistic(
    features: Tensor, labels: Tensor, classes: int, c: float, start: Logistic | None = None
) -> Logistic:
    """Fit one model.

    Args:
        features: (n, D) float64.
        labels: (n,) int64, and the model is multinomial; or (n, K) bool, and it is one-versus-rest: K models
            side by side. On the device of the features.
        classes: K, not all of which need to be among the labels.
        c: the inverse of the penalty's strength.
        start: where the search starts; the minimum does not depend on it.
    """
    seen, targets = _targets(labels, classes)
    mean = features.mean(dim=0)
    inputs = features - mean  # the bias takes up the mean, and the search is shorter
    scale = float(inputs.square().mean().sqrt()) or 1.0
    inputs /= scale
    objective = _Objective(inputs, targets, penalty=1 / (c * len(inputs) * scale**2))
    first = inputs.new_zeros(int(seen.sum()), inputs.shape[1] + 1)
    if start is not None:
        first[:, :-1] = start.weights[seen] * scale
        first[:, -1] = start.bias[seen] + start.weights[seen] @ mean
    options = {"maxiter": MOST_ITERATIONS, "maxfun": 2 * MOST_ITERATIONS, "gtol": _GRADIENT, "ftol": _GAIN}
    flat = first.cpu().numpy().ravel()
    with _threads_for(inputs.numel() * len(first)):
        found = minimize(objective, flat, jac=True, method="L-BFGS-B", options=options).x
    both = torch.from_numpy(found).to(inputs).view_as(first)
    weights = features.new_zeros(classes, features.shape[1])
    bias = features.new_full((classes,), -torch.inf if labels.ndim == 1 else 0.0)
    weights[seen] = both[:, :-1] / scale
    bias[seen] = both[:, -1] - weights[seen] @ mean
    return Logistic(weights, bias)


@contextmanager
def _threads_for(products: int) -> Iterator[None]:
    """One thread for scipy, and for torch on a CPU, too, if an evaluation has few products of numbers.

    Threads of the two would spin while those of the other work, and those of short evaluations while they
    wait for each other: many times the work, above all where other programs use the CPU.
    """
    threads = torch.get_num_threads()
    with threadpool_limits(limits=1, user_api="blas"):
        if products < _PRODUCTS_OF_THREADS:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _targets(labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Which classes can be fitted, (K,) bool, and the labels among these alone."""
    if labels.ndim == 2:
        seen = labels.any(dim=0) & ~labels.all(dim=0)  # else the bias would be infinite
        return seen, labels[:, seen].double()
    seen = labels.bincount(minlength=classes) > 0
    return seen, (seen.cumsum(dim=0) - 1)[labels]


class _Objective:
    """The mean loss and the penalty, with their gradient, for scipy; a part of the rows at a time.

    inputs: (n, D). targets: (n,) int64, or (n, K) float64. penalty: half of it times the squared weights.
    """

    def __init__(self, inputs: Tensor, targets: Tensor, penalty: float):
        self._inputs, self._targets, self._penalty = inputs, targets, penalty

    def __call__(self, flat: np.ndarray) -> tuple[float, np.ndarray]:
        """At weights and biases, (K * (D + 1),) float64."""
        both = torch.from_numpy(flat).to(self._inputs).view(-1, self._inputs.shape[1] + 1)
        weights, bias = both[:, :-1], both[:, -1]
        gradient = torch.zeros_like(both)
        loss, rows = 0.0, max(1, _LOGITS // len(both))
        for inputs, targets in zip(self._inputs.split(rows), self._targets.split(rows)):
            of_rows, residuals = _loss(inputs @ weights.mT + bias, targets)
            loss += of_rows
            gradient[:, :-1] += residuals.mT @ inputs
            gradient[:, -1] += residuals.sum(dim=0)
        gradient /= len(self._inputs)
        gradient[:, :-1] += self._penalty * weights
        value = loss / len(self._inputs) + self._penalty / 2 * float(weights.square().sum())
        return value, gradient.cpu().numpy().ravel()


def _loss(logits: Tensor, targets: Tensor) -> tuple[float, Tensor]:
    """The sum of the losses, and its derivative by the logits, (n, K)."""
    if targets.ndim == 1:
        loss = F.cross_entropy(logits, targets, reduction="sum")
        residuals = logits.softmax(dim=1)
        residuals[torch.arange(len(targets)), targets] -= 1
    else:
        loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
        residuals = logits.sigmoid() - targets
    return float(loss), residuals


def choose_c(
    train: tuple[Tensor, Tensor],
    val: tuple[Tensor, Tensor],
    classes: int,
    score: Callable[[np.ndarray], float],
    progress: Callable[[int, int], None] = lambda done, total: None,
    begun: Sweep = Sweep(),
    keep: Callable[[Sweep], None] = lambda sweep: None,
) -> tuple[Logistic, float]:
    """Choose C on validation images, and fit a model on training and validation images with it.

    Args:
        train, val: features and labels as `fit_logistic` takes them.
        score: of the logits of the validation images, (n, K); higher is better. Of equal ones, the smallest
            C is chosen.
        begun: what an earlier call with the same data kept; the outcome does not depend on it.
        keep: takes what is done after each C.

    Returns:
        The model and C.
    """
    sweep = begun
    for c in CS[begun.tried :].tolist():
        progress(sweep.tried, len(CS) + 1)
        model = fit_logistic(*train, classes, c, start=sweep.model)
        sweep = sweep.after(model, score(model.scores(val[0])), c)
        keep(sweep)
    progress(len(CS), len(CS) + 1)
    features, labels = (torch.cat(pair) for pair in zip(train, val))
    fitted = fit_logistic(features, labels, classes, sweep.c)
    progress(len(CS) + 1, len(CS) + 1)
    return fitted, sweep.c
