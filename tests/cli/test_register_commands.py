"""Test-time registers on the command line: find neurons, run with them, resume, score; what is refused."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from helpers import names, run_settings

from lost_reg.backbones.registers import AddedRegisters, RegisterNeurons, read_neurons
from lost_reg.runs import discovery
from lost_reg.scoring.published import comparable_number, published_rows

MODEL = "timm:vit_tiny_patch16_224"
RANDOM = ("--backbone", MODEL, "--weights", "random", "--device", "cpu")


@pytest.fixture
def photos(tmp_path, save_scene):
    save_scene(tmp_path / "photos" / "a.jpg")
    save_scene(tmp_path / "photos" / "b.png", seed=1)
    return tmp_path / "photos"


@pytest.fixture
def neurons_file(tmp_path):
    path = tmp_path / "given.json"
    path.write_text(json.dumps({"neurons": [[3, 1], [2, 700]]}))
    return path


def test_neurons_are_found_and_used(lost_reg, photos, tmp_path):
    (photos / "broken.jpg").write_text("no image")
    file, out = tmp_path / "found" / "neurons.json", tmp_path / "out"
    options = ("--top-k", 4, "--top-layer", 3, "--detect-layer", 5, "--threshold", 1e-3, "--max-side", 64)
    result = lost_reg("register-neurons", photos, *RANDOM, *options, "--out", file)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("4 neurons of layers 0 to 3, from 2 images: 100.00 % of the patches")
    assert "1 of 3 images could not be used: broken.jpg" in result.stderr
    warning = (
        f"Warning: nothing stands out in {MODEL}: after no layer do these patches have more than 1.0 times"
    )
    assert warning in result.stderr  # all are above the threshold
    found = read_neurons(file)
    assert len(found.neurons) == 4 and all(layer <= 3 for layer, _ in found.neurons)
    assert found.backbone == MODEL and found.found["max_side"] == 64 and found.found["threshold"] == 1e-3

    given = ("run", photos, *RANDOM, "--out", out, "--test-time-registers", 2, "--register-neurons", file)
    result = lost_reg(*given)
    assert result.exit_code == 0, result.output
    settings = json.loads((out / "run.json").read_text())["settings"]
    assert settings["test_time_registers"] == {
        "count": 2,
        "rule": "paper",
        "neurons": sorted(map(list, found.neurons)),
    }
    assert lost_reg(*given, "--resume").exit_code == 0
    assert "Note: nothing stood out when the register neurons were searched for" in result.stderr


def test_a_model_in_which_nothing_stands_out_has_no_register_neurons(lost_reg, refused, photos, tmp_path):
    file = tmp_path / "n.json"
    result = lost_reg("register-neurons", photos, *RANDOM, "--max-side", 64, "--out", file)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"nothing stands out in {MODEL}: after no layer do these patches have")
    assert (
        result.stdout.endswith(f"{file} says so, and has no neurons\n") and "neurons of" not in result.stdout
    )
    content = json.loads(file.read_text())
    assert content["neurons"] == [] and content["found"]["stands_out"] is False
    assert "top_layer" not in content["found"] and content["found"]["outlier_share"] == 0
    added = ("--test-time-registers", 1, "--register-neurons", file)
    for command in ("run", "artifacts"):
        line = refused(command, photos, *RANDOM, *added, "--out", tmp_path / "out")
        assert f"nothing stood out in {MODEL} when register neurons were searched for" in line
    assert not (tmp_path / "out").exists()


def test_by_the_rule_of_the_code_class_tokens_are_told_of(lost_reg, photos, tmp_path):
    options = ("--register-rule", "code", "--threshold", 1e-3, "--top-k", 4, "--max-side", 64)
    result = lost_reg("register-neurons", photos, *RANDOM, *options, "--out", tmp_path / "n.json")
    assert "100.00 % of the patches and 2 class tokens have a norm above 0.001" in result.stdout
    found = json.loads((tmp_path / "n.json").read_text())["found"]
    assert found["rule"] == "code" and found["class_tokens"] == 2 and not found["stands_out"]


def test_the_default_file_is_named_after_the_backbone_and_never_overwritten(
    lost_reg, refused, photos, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    arguments = ("register-neurons", photos, *RANDOM, "--threshold", 1e-3, "--top-k", 1, "--limit", 1)
    assert lost_reg(*arguments).exit_code == 0
    assert "register-neurons-timm-vit_tiny_patch16_224.json" in names(tmp_path)
    assert "exists already: choose another --out" in refused(*arguments)


def test_the_backbone_of_the_run_has_them(lost_reg, photos, neurons_file, tmp_path, monkeypatch):
    seen = []
    discover_in_batches = discovery.discover_in_batches
    monkeypatch.setattr(
        discovery,
        "discover_in_batches",
        lambda *args, **options: seen.append(args[1]) or discover_in_batches(*args, **options),
    )
    added = ("--test-time-registers", 3, "--register-neurons", neurons_file)
    assert lost_reg("run", photos, *RANDOM, *added, "--out", tmp_path / "out").exit_code == 0
    (backbone,) = seen
    assert backbone.registers.count == 3 and backbone.num_prefix_tokens == 1 + 3
    assert backbone.model.blocks[2].mlp.fc2._forward_pre_hooks


def test_registers_are_part_of_the_settings(lost_reg, refused, photos, neurons_file, tmp_path):
    out = tmp_path / "out"
    command = ("run", photos, *RANDOM, "--out", out)
    added = ("--register-neurons", neurons_file, "--test-time-registers")
    assert lost_reg(*command, *added, 1).exit_code == 0
    for other in ((), (*added, 2), (*added, 1, "--register-rule", "code")):
        assert (
            "run with other settings (test_time_registers)" in lost_reg(*command, "--resume", *other).stderr
        )
    neurons_file.write_text("[[2, 700], [3, 1]]")  # the same in another order and form
    assert lost_reg(*command, *added, 1, "--resume").exit_code == 0
    plain = tmp_path / "plain"
    assert lost_reg("run", photos, *RANDOM, "--out", plain).exit_code == 0
    assert "test_time_registers" not in json.loads((plain / "run.json").read_text())["settings"]


def test_the_table_says_so(lost_reg, make_voc, neurons_file, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    make_voc(tmp_path / "root" / "VOCdevkit" / "VOC2007", {"000001": [("thing", 33, 17, 96, 64)]})
    data = ("--dataset", "voc07", "--data-root", tmp_path / "root")
    added = ("--register-neurons", neurons_file, "--test-time-registers", 1, "--register-rule", "code")
    assert lost_reg("run", *data, *RANDOM, *added, "--out", tmp_path / "out").exit_code == 0
    table = lost_reg("corloc", tmp_path / "out").stdout
    assert f"{MODEL} (RANDOM WEIGHTS, 1 test-time register at 2 neurons by the code rule)" in table


def test_no_published_number_stands_beside_registers():
    added, compared = AddedRegisters(RegisterNeurons(((1, 2),))).settings, 0
    for row in published_rows():
        for weights in row["weights"] or ():
            settings = run_settings(weights={"source": "hub", "name": weights, "sha256": None})
            compared += comparable_number(settings, "voc12", is_full_split=True) is not None
            settings["test_time_registers"] = added
            assert comparable_number(settings, "voc12", is_full_split=True) is None
    assert compared


def test_both_options_are_needed(refused, photos, neurons_file):
    line = "need both --test-time-registers and --register-neurons"
    rule = ("--register-rule", "code")
    for given in (("--test-time-registers", 1), ("--register-neurons", neurons_file), rule):
        assert line in refused("run", photos, *given, exit_code=2)


def test_bad_registers_are_refused(refused, photos, neurons_file, tmp_path):
    added = ("--test-time-registers", 1, "--register-neurons")
    assert "tiny was trained with 4 registers" in refused("run", photos, *added, neurons_file)
    line = refused("run", photos, "-b", "dinov2_reg", *added, neurons_file)
    assert "dinov2_vitl14_reg was trained with 4 registers" in line
    assert "No such file" in refused("run", photos, *RANDOM, *added, tmp_path / "none.json")
    neurons_file.write_text('{"neurons": "all"}')
    assert "is not a neurons file" in refused("run", photos, *RANDOM, *added, neurons_file)
    neurons_file.write_text('{"neurons": [[1, 2]], "backbone": "dinov2_vitl14"}')
    line = refused("run", photos, "-b", "dino", *added, neurons_file)
    assert "those of dinov2_vitl14, and the backbone is dino_vits16" in line
    neurons_file.write_text('{"neurons": [[12, 2]]}')
    line = refused("run", photos, *RANDOM, *added, neurons_file, "--out", tmp_path / "out")
    assert "no register neuron can be in layer 12" in line and not (tmp_path / "out").exists()


def test_neurons_of_other_weights_are_noted(lost_reg, photos, neurons_file, tmp_path):
    neurons_file.write_text('{"neurons": [[1, 2]], "weights": {"name": "timm/other", "sha256": "aa"}}')
    added = ("--test-time-registers", 1, "--register-neurons", neurons_file)
    result = lost_reg("run", photos, *RANDOM, *added, "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert "Note: the register neurons were found in other weights than random" in result.stderr


def test_searches_that_cannot_be_are_refused(refused, photos, tmp_path):
    out = ("--out", tmp_path / "n.json")
    assert "give images (files, " in refused("register-neurons", *RANDOM, *out, exit_code=2)
    assert "was trained with 4 registers" in refused("register-neurons", photos, "-b", "tiny", *out)
    assert "unknown backbone 'dnio'" in refused("register-neurons", photos, "-b", "dnio", *out)
    assert "no such file or folder" in refused("register-neurons", "nowhere", *RANDOM, *out)
    assert "threshold above 0" in refused("register-neurons", photos, *RANDOM, *out, "--threshold", -1)
    assert "has no layer 12" in refused("register-neurons", photos, *RANDOM, *out, "--top-layer", 12)
    assert "has a norm above 1e+09" in refused("register-neurons", photos, *RANDOM, *out, "--threshold", 1e9)
    assert not (tmp_path / "n.json").exists()


def test_what_can_be_wrong_is_checked_without_torch(photos, neurons_file):
    code = (
        "import sys\n"
        "from lost_reg.cli.app import main\n"
        f"try: main(['run', {str(photos)!r}, '-b', 'dinov2_reg', '--test-time-registers', '1', "
        f"'--register-neurons', {str(neurons_file)!r}])\n"
        "finally: print(sorted({'torch', 'timm', 'matplotlib'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "[]" and "was trained with 4 registers" in result.stderr
