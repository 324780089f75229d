"""The scripts that measure speed and memory run, and compute what they print as they should."""

from __future__ import annotations

import contextlib

import benchmark
import costs
import how_long
import pytest
import scale
import score_speed
import torch
import trials


@pytest.mark.parametrize(
    ("precision", "plain_rows"), [("fp32", ["plain"]), ("bf16", ["plain, bf16", "plain, fp32"])]
)
def test_the_benchmark_prints_its_table(precision, plain_rows, small_photos, monkeypatch, printed):
    monkeypatch.setitem(benchmark.BATCH_SIZES, "cpu", (1, 2))
    monkeypatch.setitem(benchmark.MATRIX_SIDE, "cpu", 64)
    arguments = "--device cpu --backbone tiny --images 3 --plain-images 1 --rounds 2 --batch-size 2"
    output = printed(benchmark, *arguments.split(), "--precision", precision)
    assert "| end to end, batch 2 |" in output and "LOST is " in output
    names = [line.split("|")[1].strip() for line in output.splitlines() if line.startswith("| plain")]
    assert names == plain_rows


def test_the_cost_of_a_sweep_is_a_ratio_to_one_setting(small_photos, monkeypatch, printed):
    times = iter([2.0, 3.0, 4.0, 10.0])  # of one setting and of all, in two rounds
    monkeypatch.setattr(costs, "seconds", lambda work, device: work() and next(times))
    arguments = "sweep --device cpu --backbone tiny --images 2 --rounds 2"
    output = printed(costs, *arguments.split())
    assert "85 settings take 2.00 (1.50 to 2.50) times as long as one; one takes 1500.0 ms an image" in output


def test_the_rate_without_the_start_is_that_of_whole_batches_after_it(monkeypatch):
    run = benchmark.EndToEnd(None)
    batches = [100 + 4.0 * (index // 4) for index in range(36)]  # of four images, one image a second
    monkeypatch.setattr(benchmark.time, "perf_counter", iter([0, 90, 90, 90, *batches]).__next__)
    for done in range(41):  # none is done at first
        run._note(done, 0, 40)
    assert run.steady() == 1.0


def test_the_start_is_timed_in_processes(monkeypatch, printed):
    monkeypatch.setattr(benchmark, "STARTS", 2)
    commands = []
    monkeypatch.setattr(benchmark.subprocess, "run", lambda command, **options: commands.append(command))
    output = printed(benchmark, "--startup", "--device", "cpu")
    assert "| lost-reg run on one image, tiny | 0.00 |" in output
    *others, first, second = commands
    assert len(others) == 8 and first[2:4] == second[2:4] == ["lost_reg", "run"]
    assert first[-1] != second[-1]  # each run has its own folder


def test_trials_are_set_beside_what_is_used(monkeypatch, printed):
    @contextlib.contextmanager
    def processes(options, precision):
        yield {"as used": iter([1.0, 1.0, 3.0]).__next__, "kept memory": iter([0.5, 1.0, 1.0]).__next__}

    monkeypatch.setattr(trials, "SIZE_HW", (32, 48))
    monkeypatch.setattr(torch, "compile", lambda function: function)  # it takes half a minute
    monkeypatch.setattr(trials, "in_own_processes", processes)
    arguments = "--device cpu --backbone tiny --precision fp32 --rounds 3 --batch-size 2"
    output = printed(trials, *arguments.split())
    assert "| compiled | " in output and "| kept memory | 2.00 (1.00 to 3.00) |" in output
    assert "matrix products" in output.splitlines()[-1]


def test_attention_head_by_head_is_attention(monkeypatch):
    monkeypatch.setattr(trials, "ROWS", 3)
    queries, keys, values = torch.randn(3, 2, 4, 10, 8, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.scaled_dot_product_attention(queries, keys, values)
    with trials.HeadByHead():
        found = torch.nn.functional.scaled_dot_product_attention(queries, keys, values)
    assert torch.allclose(found, expected, atol=1e-6) and not torch.equal(found, expected)


def test_hours_are_what_the_measured_rates_make(small_photos, monkeypatch, printed):
    # two files in half a second: 4 images a second
    monkeypatch.setattr(how_long, "seconds", lambda work, device: work() and 0.5)
    output = printed(how_long, *["--device", "cpu", "--images", "2", "--backbones", "tiny", "tiny+test-time"])
    lines = output.splitlines()
    assert "tiny: 4.00 images/s" in lines
    hours = [count / 4 / 3600 for count in (5011, 11540, 19817)]
    row = "".join(f" {one:.2f} |" for one in [*hours, sum(hours)])
    assert f"| tiny |{row}" in lines and f"| tiny+test-time |{row}" in lines
    assert lines[-1] == "| all |" + "".join(f" {2 * one:.2f} |" for one in [*hours, sum(hours)])


def test_memory_is_measured_on_the_way(printed):
    sizes = ["--photos", 20, "--files", 1500, "--entries", 1100, "--shard-images", 1100]
    lines = printed(scale, *sizes).splitlines()
    assert [line for line in lines if line.startswith("Listing a folder of 1,500 files: ")]
    assert sum(line.startswith("`--resume` with all done: ") for line in lines) == 3
    last_rows = [line.split(" | ")[0] for line in lines if line.startswith(("| 20 |", "| 1,100 |"))]
    assert last_rows == ["| 20", "| 1,100", "| 1,100"]


def test_scoring_is_measured_with_the_code_of_two_checkouts(printed):
    output = printed(
        score_speed, "--images", 9, "--objects", 9, "--commands", "corloc", "--before", score_speed.HERE
    )
    header, _, *rows = [line.split(" | ") for line in output.splitlines() if line.startswith("|")]
    assert [cell.strip("| ") for cell in header[1:3]] == ["seconds, before", "seconds, after"]
    assert [row[0].strip("| ") for row in rows] == ["corloc", "corloc of VOC"]
    assert all(float(cell.strip(" |")) > 0 for row in rows for cell in row[1:])


def test_a_command_that_fails_is_said(tmp_path):
    with pytest.raises(OSError, match="lost-reg corloc nowhere: Error: "):
        score_speed.run_once(["corloc", "nowhere"], score_speed.HERE, tmp_path, score_speed.Taken())
