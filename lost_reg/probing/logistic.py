"""Logistic regression with an L2 penalty, by L-BFGS in float64, and the choice of its strength.

As DINOv2 is evaluated (its eval/log_regression.py): the inverse strength C is one of 45 values; the one with
the best score on validation images is chosen, and the model is fitted again on training and validation images
together. The objective is that of scikit-learn's LogisticRegression: C times the sum of the losses, plus half
the squared norm of the weights; the bias is free.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor

CS = np.logspace(-6, 5, 45)
MOST_ITERATIONS = 1000
_TOLERANCE = 1e-9  # of the largest part of the gradient of the mean loss


@dataclass(frozen=True)
class Logistic:
    """A fitted model.

    weights: (K, D) float64. bias: (K,) float64; minus infinity for a class without training images.
    """

    weights: Tensor
    bias: Tensor

    def scores(self, features: Tensor) -> np.ndarray:
        """(n, D) float64 to the logit of each class: (n, K) float64."""
        return (features @ self.weights.mT + self.bias).cpu().numpy()


def fit_logistic(features: Tensor, labels: Tensor, c: float, start: Logistic | None = None) -> Logistic:
    """Fit one model.

    Args:
        features: (n, D) float64.
        labels: (n, K) float64 of zeros and ones, on the same device. With one 1 in each row the model is
            multinomial. Otherwise it is one-versus-rest: K models side by side.
        c: the inverse of the penalty's strength.
        start: where the search starts; the minimum does not depend on it.
    """
    is_multinomial = bool((labels.sum(dim=1) == 1).all())
    seen = labels.any(dim=0)
    mean = features.mean(dim=0)
    centred = features - mean  # the bias takes up the mean, and the search is shorter
    scale = centred.norm() / len(features) ** 0.5 or centred.new_ones(())
    inputs, targets = centred / scale, labels[:, seen]
    penalty = 1 / (c * len(features) * float(scale) ** 2)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        both = torch.from_numpy(flat).to(inputs).view(-1, inputs.shape[1] + 1)
        weights, bias = both[:, :-1], both[:, -1]
        logits = inputs @ weights.mT + bias
        if is_multinomial:
            loss = -(logits.log_softmax(dim=1) * targets).sum()
            residuals = logits.softmax(dim=1) - targets
        else:
            loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
            residuals = logits.sigmoid() - targets
        residuals /= len(inputs)
        gradient = torch.cat(
            [residuals.mT @ inputs + penalty * weights, residuals.sum(dim=0)[:, None]], dim=1
        )
        value = loss / len(inputs) + penalty / 2 * weights.square().sum()
        return float(value), gradient.cpu().numpy().ravel()

    first = np.zeros((int(seen.sum()), inputs.shape[1] + 1))
    if start is not None:
        weights, bias = start.weights[seen], start.bias[seen]
        first[:] = torch.cat([weights * scale, (bias + weights @ mean)[:, None]], dim=1).cpu().numpy()
    options = {"maxiter": MOST_ITERATIONS, "maxfun": 2 * MOST_ITERATIONS, "gtol": _TOLERANCE, "ftol": 0.0}
    found = minimize(objective, first.ravel(), jac=True, method="L-BFGS-B", options=options).x
    both = torch.from_numpy(found).to(inputs).view(-1, inputs.shape[1] + 1)
    weights = features.new_zeros(len(seen), features.shape[1])
    bias = features.new_full((len(seen),), -torch.inf)
    weights[seen] = both[:, :-1] / scale
    bias[seen] = both[:, -1] - weights[seen] @ mean
    return Logistic(weights, bias)


def choose_c(
    train: tuple[Tensor, Tensor],
    val: tuple[Tensor, Tensor],
    score: Callable[[np.ndarray], float],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Logistic, float, float]:
    """Choose C on validation images, and fit a model on training and validation images with it.

    Args:
        train, val: features and labels as `fit_logistic` takes them.
        score: of the logits of the validation images, (n, K); higher is better. Of equal ones, the smallest
            C is chosen.

    Returns:
        The model, C, and its score on the validation images.
    """
    best: tuple[float, float, Logistic] | None = None
    model = None
    for index, c in enumerate(CS.tolist()):
        progress(index, len(CS) + 1)
        model = fit_logistic(*train, c, start=model)
        value = score(model.scores(val[0]))
        if best is None or value > best[0]:
            best = value, c, model
    value, c, model = best
    progress(len(CS), len(CS) + 1)
    features, labels = (torch.cat(pair) for pair in zip(train, val))
    fitted = fit_logistic(features, labels, c)
    progress(len(CS) + 1, len(CS) + 1)
    return fitted, c, value
