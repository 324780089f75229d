"""Files of maps: what is written comes back, nothing in them is executed, and damage is one line."""

from __future__ import annotations

import io
import os
import tracemalloc
import zipfile

import numpy as np
import pytest
from helpers import names, refusal

from lost_reg.discovery.maps import Maps
from lost_reg.errors import LostRegError
from lost_reg.runs import map_files
from lost_reg.runs.map_files import maps_path, read_maps, write_maps


def some_maps(rows=5, columns=7, **changed) -> Maps:
    """Maps of LOST; arrays of `values`, or another field, can be replaced by their names."""
    random = np.random.default_rng(0)
    values = {
        "norms": random.uniform(20, 300, (rows, columns)).astype(np.float32),
        "degrees": random.integers(0, rows * columns, (rows, columns)).astype(np.float32),
        "affinities": random.uniform(-1, 1, (rows, columns)).clip(min=0).astype(np.float32),
    }
    values |= {name: changed.pop(name) for name in values if name in changed}
    others = {"mask": random.uniform(size=(rows, columns)) > 0.5, "seed": (2, 3), "covered_hw": (0.9, 1.0)}
    others["attention"] = {
        token: random.dirichlet(np.ones(rows * columns), 4).reshape(4, rows, columns).astype(np.float32)
        for token in ("class", "register 1", "test-time register")
    }
    return Maps(values, **{**others, **changed})


def test_maps_come_back_within_half_a_level(tmp_path):
    maps = some_maps()
    write_maps(tmp_path / "sub" / "a.jpg.npz", maps)
    assert names(tmp_path) == ["sub", "sub/a.jpg.npz"]  # nothing half-written is left
    back = read_maps(tmp_path / "sub" / "a.jpg.npz")
    assert list(back.values) == ["norms", "degrees", "affinities"]
    for name, values in maps.values.items():
        read = back.values[name]
        assert np.abs(values - read).max() <= (values.max() - values.min()) / 510 * 1.001
        assert read.dtype == np.float32
    assert list(back.attention) == ["class", "register 1", "test-time register"]
    for token, weights in maps.attention.items():
        read = back.attention[token]
        assert read.shape == (4, 5, 7) and read.dtype == np.float32
        levels = np.ptp(weights, axis=(1, 2)) / 255  # every head has its own range
        assert (np.abs(weights - read).max(axis=(1, 2)) <= levels / 2 * 1.001).all()
    assert (back.mask == maps.mask).all() and back.seed == (2, 3)
    assert back.covered_hw == pytest.approx((0.9, 1.0))


def test_a_small_positive_affinity_stays_positive(tmp_path):
    affinities = np.array([[0, 1e-6, 1000.0]], np.float32)
    maps = some_maps(1, 3, affinities=affinities, seed=(0, 2))
    write_maps(tmp_path / "a.npz", maps)
    assert (read_maps(tmp_path / "a.npz").values["affinities"] > 0).tolist() == [[False, True, True]]


def test_constant_maps_come_back(tmp_path):
    write_maps(tmp_path / "a.npz", some_maps(norms=np.full((5, 7), 3.5, np.float32)))
    assert (read_maps(tmp_path / "a.npz").values["norms"] == 3.5).all()


def test_files_are_small(tmp_path):
    """A byte for each patch in each map: here of noise, which cannot be compressed."""
    write_maps(tmp_path / "a.npz", some_maps(37, 50, attention={}))
    assert (tmp_path / "a.npz").stat().st_size < 8000
    write_maps(tmp_path / "a.npz", some_maps(37, 50))
    assert (tmp_path / "a.npz").stat().st_size < 8000 + 3 * 4 * 37 * 50


def test_files_without_attention_can_be_read(tmp_path):
    """As versions wrote them that did not keep it."""
    levels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    others = {"mask": np.ones((2, 3), np.uint8), "seed": np.array([1, 2]), "covered_hw": np.array([1.0, 0.5])}
    np.savez(tmp_path / "a.npz", norms=levels, degrees=levels, ranges=[[0, 255], [0, 510]], **others)
    maps = read_maps(tmp_path / "a.npz")
    assert maps.attention == {} and maps.seed == (1, 2) and maps.covered_hw == (1, 0.5)
    assert maps.values["norms"].tolist() == levels.tolist()
    assert maps.values["degrees"].tolist() == (2.0 * levels).tolist()


def test_images_of_one_stem_have_files_of_their_own(tmp_path):
    assert len({maps_path(tmp_path, name) for name in ("a.png", "a.jpg", "sub/a.jpg")}) == 3


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": (5, 0)},
        {"seed": (0, -1)},
        {"mask": np.ones((7, 5), bool)},
        {"covered_hw": (0.0, 1.0)},
        {"attention": {"class": np.zeros((2, 7, 5), np.float32)}},
    ],
    ids=str,
)
def test_maps_that_cannot_be_are_refused(changed):
    with pytest.raises(ValueError, match="expected"):
        some_maps(**changed)


def test_a_missing_file_and_a_damaged_one_are_different_errors(tmp_path):
    assert "--save-maps" in refusal(read_maps, tmp_path / "none.npz")
    write_maps(tmp_path / "a.npz", some_maps())
    content = (tmp_path / "a.npz").read_bytes()
    for damaged in (
        b"",
        b"no archive",
        content[:100],
        content[:-30],
        content[:60] + b"\xff" * 60 + content[120:],
    ):
        (tmp_path / "b.npz").write_bytes(damaged)
        assert "does not hold maps" in refusal(read_maps, tmp_path / "b.npz")


def test_any_damage_is_one_line_or_gives_maps(tmp_path):
    path, random = tmp_path / "a.npz", np.random.default_rng(0)
    write_maps(path, some_maps())
    whole, refused = np.frombuffer(path.read_bytes(), np.uint8), 0
    for _ in range(1000):
        damaged = whole.copy()
        places = random.integers(0, len(whole), random.integers(1, 5))
        damaged[places] = random.integers(0, 256, len(places))
        path.write_bytes(damaged.tobytes())
        try:
            assert isinstance(read_maps(path), Maps)
        except LostRegError as error:
            refused += 1
            assert "does not hold maps" in str(error) and "\n" not in str(error)
    assert refused > 500


def test_an_array_that_is_no_archive_is_refused(tmp_path):
    with (tmp_path / "a.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    assert "does not hold maps" in refusal(read_maps, tmp_path / "a.npz")


@pytest.mark.parametrize("names_of_maps", [[], ["eigenvector"], ["b", "a", "c"]], ids=str)
def test_maps_of_any_method_come_back_under_their_names(tmp_path, names_of_maps):
    values = {name: np.full((2, 3), index, np.float32) for index, name in enumerate(names_of_maps)}
    write_maps(tmp_path / "a.npz", Maps(values, np.zeros((2, 3), bool), (0, 0)))
    back = read_maps(tmp_path / "a.npz").values
    assert list(back) == names_of_maps
    assert all((back[name] == values[name]).all() for name in names_of_maps)


def test_a_file_of_very_many_maps_is_refused(tmp_path):
    values = {f"map{index}": np.zeros((2, 3), np.float32) for index in range(65)}
    write_maps(tmp_path / "a.npz", Maps(values, np.zeros((2, 3), bool), (0, 0)))
    assert "at most 64 arrays of maps" in refusal(read_maps, tmp_path / "a.npz")


def test_a_file_with_a_pickle_in_it_is_refused_and_not_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "executed").touch, ()

    write_maps(tmp_path / "a.npz", some_maps())
    with np.load(tmp_path / "a.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "a.npz", **{**arrays, "norms": np.array([[Trap()]], dtype=object)})
    assert "does not hold maps" in refusal(read_maps, tmp_path / "a.npz")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "name, value",
    [
        ("norms", np.zeros((5, 7), np.float32)),
        ("norms", np.zeros((4, 7), np.uint8)),
        ("norms", np.zeros((1, 5, 7), np.uint8)),
        ("attention_class", np.zeros((4, 7, 5), np.uint8)),
        ("attention_class", np.zeros((3, 5, 7), np.uint8)),
        ("attention_class", np.zeros((4, 5, 7), np.float32)),
        ("attention_class", np.zeros((1, 4, 5, 7), np.uint8)),
        ("ranges", np.full((15, 2), np.nan, np.float32)),
        ("ranges", np.zeros(5, np.float32)),
        ("seed", np.array([9, 9])),
        ("seed", np.array([1])),
        ("mask", np.zeros((2, 5, 7), np.uint8)),
        ("mask", np.zeros((5, 7), "U4")),
        ("mask", np.zeros((5, 7), [("a", np.uint8)])),
        ("attention_class", np.zeros((0, 5, 7), np.uint8)),
        ("ranges", np.full((15, 2), 3e38, np.float32) * [-1, 1]),
        ("seed", np.array([1.0, 2.0])),
        ("seed", np.array(1)),
        ("covered_hw", np.array([np.nan, 1])),
        ("covered_hw", np.array([1.0])),
    ],
)
def test_a_file_with_other_arrays_is_refused(tmp_path, name, value):
    write_maps(tmp_path / "a.npz", some_maps())
    with np.load(tmp_path / "a.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "a.npz", **{**arrays, name: value})
    assert "does not hold maps" in refusal(read_maps, tmp_path / "a.npz")


def archive(path, header: dict, data: bytes, *, compression=zipfile.ZIP_DEFLATED) -> None:
    """An archive of maps whose norms have this header, and these bytes."""
    write_maps(path, some_maps())
    with np.load(path) as file:
        arrays = dict(file)
    del arrays["norms"]
    np.savez(path, **arrays)
    written = io.BytesIO()
    np.lib.format.write_array_header_1_0(written, {"descr": "|u1", "fortran_order": False, **header})
    with zipfile.ZipFile(path, "a", compression) as file:
        file.writestr("norms.npy", written.getvalue() + data)


def refused_in_little_memory(path) -> None:
    tracemalloc.start()
    try:
        assert "does not hold maps" in refusal(read_maps, path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "shape", [(2**20, 2**20), (2**40,), (2**62, 2**62), (-1, 35), (0, 7), (2**400,)], ids=str
)
def test_a_header_that_claims_more_than_there_is_takes_no_memory(tmp_path, shape):
    archive(tmp_path / "a.npz", {"shape": shape}, bytes(35))
    refused_in_little_memory(tmp_path / "a.npz")


def test_a_bomb_is_not_unpacked(tmp_path):
    archive(tmp_path / "a.npz", {"shape": (2**13, 2**13 + 1)}, bytes(2**13 * (2**13 + 1)))
    assert (tmp_path / "a.npz").stat().st_size < 2**17
    refused_in_little_memory(tmp_path / "a.npz")


def test_a_bomb_that_claims_to_be_small_is_not_unpacked(tmp_path):
    """The directory gives the size of an array as 163 bytes, and 64 MiB follow."""
    size = len(b"x" * 2**26)
    archive(tmp_path / "a.npz", {"shape": (5, 7)}, bytes(size))
    whole = (tmp_path / "a.npz").read_bytes()
    real = (128 + size).to_bytes(4, "little")
    assert whole.count(real) == 2
    (tmp_path / "a.npz").write_bytes(whole.replace(real, (163).to_bytes(4, "little")))
    refused_in_little_memory(tmp_path / "a.npz")


def test_compression_that_numpy_does_not_write_is_refused(tmp_path):
    archive(tmp_path / "a.npz", {"shape": (5, 7)}, bytes(35), compression=zipfile.ZIP_LZMA)
    refused_in_little_memory(tmp_path / "a.npz")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.npz")
    refused_in_little_memory(tmp_path / "a.npz")


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "maps").write_text("a file")
    assert "cannot write the maps" in refusal(write_maps, tmp_path / "maps" / "a.npz", some_maps())


def test_a_write_that_fails_leaves_nothing_and_keeps_what_was(tmp_path, monkeypatch):
    write_maps(tmp_path / "a.npz", some_maps())
    before = (tmp_path / "a.npz").read_bytes()

    def full(file, **_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(map_files.np, "savez_compressed", full)
    assert "No space left" in refusal(write_maps, tmp_path / "a.npz", some_maps())
    assert names(tmp_path) == ["a.npz"] and (tmp_path / "a.npz").read_bytes() == before
