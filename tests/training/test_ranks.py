"""The processes of a training: who is who, as torchrun says it."""

from __future__ import annotations

import pytest
from helpers import refusal

from lost_reg.training.ranks import ALONE, Ranks, ranks_of_environment


@pytest.mark.parametrize(
    "variables, expected",
    [
        ({}, ALONE),
        ({"WORLD_SIZE": "4"}, ALONE),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, Ranks(3, 4, 1)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, ALONE),
    ],
)
def test_torchrun_says_who_is_who(monkeypatch, variables, expected):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert ranks_of_environment() == expected


@pytest.mark.parametrize("rank, count", [("4", "4"), ("-1", "4"), ("one", "4"), ("0", "0")])
def test_variables_that_make_no_sense_are_refused(monkeypatch, rank, count):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", count)
    assert f"RANK={rank}" in refusal(ranks_of_environment)


def test_each_rank_of_a_machine_has_a_gpu_of_its_own(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [Ranks(9 + local, 16, local).device("auto") for local in (0, 3, 5)] == [
        "cuda:0",
        "cuda:3",
        "cuda:1",
    ]
    assert (Ranks(1, 2, 1).device("cpu"), ALONE.device("auto")) == ("cpu", "auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Ranks(1, 2, 1).device("auto") == "auto"
