"""gpu.sh: every step runs at small size on the CPU; the limits fit; what fails or hangs stops no other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "evaluation" / "gpu.sh"
TITLES = [
    "Methods beside the backbone", "Tests that need CUDA", "Agreement of GPU and CPU", "What a sweep costs",
    "Test-time registers", "Too little memory", "Decoding alone",
]  # fmt: skip
BACKBONES = ["dino_vits16", "dinov2_vitb14_reg", "dinov2_vitl14_reg"]
END_TO_END = "End to end beside the backbone alone: "


def gpu(*arguments, **environment) -> subprocess.CompletedProcess:
    command = [str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def sections(path: Path) -> dict[str, str]:
    """The text of each step, by its title."""
    _, *parts = path.read_text().split("\n## ")
    return dict(part.split("\n", 1) for part in parts)


@pytest.fixture
def stand_ins(tmp_path):
    """A Python and a `timeout` that only say what they were asked to do; the agreement fails, sweeps hang."""
    scripts = {
        "python": '[ "$1" = -c ] && exit 0\necho "$@"\n'
        'case $1 in *agreement.py) echo reading >&2; echo "Error: no images" >&2; exit 3;; esac\n',
        "timeout": f'echo "$3" >>{tmp_path}/limits; shift 3\n'
        '"$@" || exit $?; case "$*" in *"costs.py sweep"*) exit 124;; esac\n',
    }
    for name, text in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}")
        (tmp_path / name).chmod(0o755)
    return {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": "python"}


def test_every_step_runs_on_the_cpu_at_small_size(tmp_path):
    out = tmp_path / "rehearsal.md"
    done = gpu("--rehearse", out, PYTHON=sys.executable)
    assert done.returncode == 0, out.read_text()
    found = sections(out)
    assert list(found) == [f"{END_TO_END}tiny", *TITLES]
    whole = found[f"{END_TO_END}tiny"]
    assert "### tiny, fp32" in whole and "| without the start | " in whole
    assert "| tokencut, dense eigh | " in found["Methods beside the backbone"]
    assert "2 passed" in found["Tests that need CUDA"]
    assert "| tiny | " in found["Agreement of GPU and CPU"]
    assert "85 settings take " in found["What a sweep costs"]
    assert "| one, rule of the paper | " in found["Test-time registers"]
    assert "lowered 1 times; 4 of 4 images have the same objects" in found["Too little memory"]
    assert "| 1 | " in found["Decoding alone"]


def test_on_a_gpu_all_limits_together_are_nine_minutes_at_most(tmp_path, stand_ins):
    out = tmp_path / "gpu.md"
    done = gpu(out, **stand_ins)
    assert list(sections(out)) == [*(END_TO_END + name for name in BACKBONES), *TITLES]
    limits = [int(line) for line in (tmp_path / "limits").read_text().splitlines()]
    assert len(limits) == 10 and sum(limits) <= 540
    assert "--precision bf16 --precision fp32" in sections(out)[f"{END_TO_END}dinov2_vitl14_reg"]
    assert done.returncode == 1  # because of the two below


def test_a_step_that_fails_or_hangs_says_so_and_the_next_one_runs(tmp_path, stand_ins):
    out = tmp_path / "gpu.md"
    gpu(out, **stand_ins)
    found = sections(out)
    assert (
        found["Agreement of GPU and CPU"]
        .rstrip()
        .endswith("**Failed (exit code 3):** reading\nError: no images")
    )
    sweep = found["What a sweep costs"]
    assert "costs.py sweep --device cuda" in sweep and sweep.rstrip().endswith("**Cut off after 45 s.**")
    assert "costs.py registers" in found["Test-time registers"] and "**" not in found["Test-time registers"]


def test_without_a_place_for_results_it_says_how_it_is_used():
    done = gpu()
    assert done.returncode == 2 and "evaluation/gpu.sh --rehearse OUT.md" in done.stdout


def test_without_a_gpu_it_says_so_in_one_line(tmp_path):
    done = gpu(tmp_path / "gpu.md", PYTHON=sys.executable, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2 and not (tmp_path / "gpu.md").exists()
    assert len(done.stderr.splitlines()) == 1 and "no torch that sees a CUDA device" in done.stderr
