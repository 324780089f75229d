"""Votes of neighbours: by hand, and against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lost_reg.probing import neighbours
from lost_reg.probing.neighbours import neighbour_scores


def test_votes_by_hand():
    bank = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])  # cosines to (5, 0): 1, 0, -1
    votes = neighbour_scores(bank, torch.tensor([0, 1, 1]), torch.tensor([[5.0, 0.0]]), 3, k=2)
    weights = [math.exp(1 / 0.07), math.exp(0 / 0.07)]
    assert votes.tolist() == [pytest.approx([weights[0] / sum(weights), weights[1] / sum(weights), 0])]
    several = torch.tensor([[True, True, False], [False, True, False], [False, False, True]])
    votes = neighbour_scores(bank, several, torch.tensor([[5.0, 0.0]]), 3, k=2)
    assert votes.tolist() == [pytest.approx([weights[0] / sum(weights), 1, 0])]


@pytest.mark.parametrize("at_a_time", [2**26, 50])
def test_votes_are_those_of_plain_loops(monkeypatch, at_a_time):
    monkeypatch.setattr(neighbours, "_SIMILARITIES", at_a_time)
    random = np.random.default_rng(0)
    bank, labels, features = (
        random.normal(size=(50, 4)),
        random.integers(3, size=50),
        random.normal(size=(9, 4)),
    )
    votes = neighbour_scores(*map(torch.from_numpy, (bank, labels, features)), 3)
    for feature, row in zip(features, votes):
        cosines = bank @ feature / np.linalg.norm(bank, axis=1) / np.linalg.norm(feature)
        expected = np.zeros(3)
        for index in np.argsort(-cosines)[:20]:
            expected[labels[index]] += math.exp(cosines[index] / 0.07)
        assert row == pytest.approx(expected / expected.sum())


def test_a_small_bank_votes_as_a_whole():
    votes = neighbour_scores(torch.eye(2), torch.tensor([0, 1]), torch.ones(1, 2), 2)
    assert votes.tolist() == [[0.5, 0.5]]
