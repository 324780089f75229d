"""Other programs' boxes: LOST's pickles, of which nothing is ever executed, and COCO-style detections."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import pickletools
import re
import struct
import tracemalloc

import numpy as np
import pytest

from lost_reg.errors import LostRegError
from lost_reg.scoring.prediction_files import match_images, read_boxes
from lost_reg.types import ImageTruth

BOXES = {"000005.jpg": (1.0, 2.0, 30.0, 40.0), "000007.jpg": (0.0, 0.0, 500.0, 333.0)}
PROTOCOLS = range(6)


@pytest.fixture
def read(tmp_path):
    """A function that reads the bytes of a pickle, or the text of a detections file."""

    def read(content: bytes | str):
        path = tmp_path / ("preds.json" if isinstance(content, str) else "preds.pkl")
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return read_boxes(path)

    return read


@pytest.fixture
def refused(read, tmp_path):
    """A function that gives the one-line error that a content is refused by."""

    def refused(content: bytes | str) -> str:
        with pytest.raises(LostRegError) as caught:
            read(content)
        text = str(caught.value)
        assert "\n" not in text and str(tmp_path) in text
        return text

    return refused


def as_numpy_1(content: bytes) -> bytes:
    """A small pickle of numpy 2 as numpy 1 writes it: its modules are called numpy.core there."""
    if content[:1] == b"\x80" and content[1] >= 4:  # strings have a length, and so has the frame around all
        assert content[2:3] == pickle.FRAME and struct.unpack("<Q", content[3:11])[0] == len(content) - 11
        content = content[:2] + content[11:]
        return re.sub(
            rb"\x8c(.)numpy\._core", lambda m: b"\x8c" + bytes([m[1][0] - 1]) + b"numpy.core", content
        )
    return content.replace(b"numpy._core", b"numpy.core")


# --- what LOST writes --------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "float32", "float64", ">i4", ">f8"])
def test_lost_pickles_of_every_numpy_and_protocol(read, protocol, dtype):
    boxes = {name: np.array(box).clip(max=255).astype(dtype) for name, box in BOXES.items()}
    expected = {name: tuple(box.tolist()) for name, box in boxes.items()}
    content = pickle.dumps(boxes, protocol=protocol)
    old = as_numpy_1(content)
    assert b"numpy._core" in content and b"numpy._core" not in old and b"numpy.core" in old
    assert read(content) == expected
    assert read(old) == expected


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_lists_and_scalars(read, protocol):
    boxes = {
        "list": [1, 2, 30, 40.5],
        "tuple": (1, 2, 30, 40.5),
        "scalars": [np.int64(1), np.float32(2), np.float64(30), 40.5],
        5: np.array([1, 2, 30, 40.5]),
    }
    content = pickle.dumps(boxes, protocol=protocol)
    for written in (content, as_numpy_1(content)):
        assert read(written) == dict.fromkeys(("list", "tuple", "scalars", "5"), (1, 2, 30, 40.5))


def test_pickle_of_python_2(read):
    raw = struct.pack("<4q", 1, 2, 30, 40)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I4\ntcnumpy\ndtype\n"
        b"(S'i8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS"
        + repr(raw.decode("latin1")).encode()
        + b"\ntb"
    )
    assert read(b"(dS'000005.jpg'\n" + array + b"s.") == {"000005.jpg": (1, 2, 30, 40)}


def test_keys_that_are_numpy_scalars_are_image_ids(read):
    assert read(pickle.dumps({np.int64(560992): [1, 2, 30, 40]})) == {"560992": (1, 2, 30, 40)}


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ({"a": np.array([1, 2, 3])}, "boxes of four numbers"),
        ({"a": np.arange(5.0)}, "boxes of four numbers"),
        ({"a": []}, "boxes of four numbers"),
        ({"a": "1234"}, "boxes of four numbers"),
        ({"a": b"1234"}, "boxes of four numbers"),
        ({"a": dict.fromkeys(range(4))}, "boxes of four numbers"),
        ({"a": ["1", "2", "3", "4"]}, "boxes of four numbers"),
        ({"a": [[1, 2, 3, 4]]}, "boxes of four numbers"),
        ({"a": None}, "boxes of four numbers"),
        ({"a": [0, 0, 1, float("nan")]}, "boxes of four numbers"),
        ({"a": 5}, "boxes of four numbers"),
        ({"a": np.array([1, 2, 3, None])}, "an array of type 'O8'"),
        ({"a": np.array(["1", "2", "3", "4"])}, "an array of type 'U1'"),
        ({"a": np.array([1, 2, 3, 4j])}, "an array of type 'c16'"),
        ({None: [1, 2, 3, 4]}, "image names"),
        ({(1, 2): [1, 2, 3, 4]}, "image names"),
        ([[1, 2, 3, 4]], "but got list"),
        (np.arange(4), "expected a dictionary"),
        ("text", "but got str"),
        (None, "but got None"),
        ({}, "holds no boxes"),
    ],
)
def test_what_is_no_box_is_refused(refused, boxes, expected):
    assert expected in refused(pickle.dumps(boxes))


# --- attacks -----------------------------------------------------------------------------------------


class Calls:
    """Pickles as a call, which the plain unpickler makes."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_calls_are_refused_and_not_made(refused, tmp_path, protocol):
    mark = tmp_path / "executed"
    attacks = [
        Calls(os.system, f"touch {mark}"),
        Calls(eval, f"open({str(mark)!r}, 'w')"),
        Calls(exec, f"open({str(mark)!r}, 'w')"),
        Calls(open, str(mark), "w"),
        Calls(getattr, "text", "upper"),
        Calls(np.load, str(mark)),
        Calls(np.memmap, str(mark)),
        Calls(pickle.loads, b"N."),
    ]
    for attack in attacks:
        for content in (attack, {"a.jpg": attack}, {"a.jpg": [0, 0, 1, attack]}):
            assert "which is not data" in refused(pickle.dumps(content, protocol=protocol))
    assert not mark.exists()
    with pytest.raises(FileNotFoundError):  # it would have been made
        pickle.loads(pickle.dumps(Calls(open, str(tmp_path / "no" / "folder"), "w"), protocol=protocol))


@pytest.mark.parametrize(
    "name",
    [
        "numpy\nload",
        "numpy\nfromfile",
        "numpy.core.multiarray\nfromfile",
        "numpy._core.multiarray\nmemmap",
        "numpy.core.numeric\nones",
        "numpy\nndarray.tofile",
        "builtins\ngetattr",
        "__builtin__\neval",
        "posix\nsystem",
        "numpy\ndtype.__class__",
        "_codecs\nlookup",
        "lost_reg.scoring.lost_pickle\npickle",
        "numpy.core.numpy._core\nmultiarray",
    ],
)
def test_names_that_look_like_data_are_refused(refused, name):
    for header in (b"", b"\x80\x04"):  # from protocol 4 on, dots in a name lead to attributes
        assert "which is not data" in refused(header + b"c" + name.encode() + b"\n.")
    module, attribute = (part.encode() for part in name.split("\n"))
    stacked = b"\x80\x04\x8c" + bytes([len(module)]) + module + b"\x8c" + bytes([len(attribute)]) + attribute
    assert "which is not data" in refused(stacked + b"\x93.")


def test_classes_of_the_old_opcodes_are_refused(refused):
    assert "which is not data" in refused(b"(S'true'\nios\nsystem\n.")  # INST
    assert "which is not data" in refused(b"(cos\nsystem\nS'true'\no.")  # OBJ


@pytest.mark.parametrize("content", [b"P5\n.", b"K\x05Q.", b"\x82\x05.", b"\x80\x05\x97."])
def test_what_lies_outside_the_file_is_refused(refused, content):
    """Persistent ids, numbers of copyreg's registry, buffers that come separately."""
    assert "refers to things outside itself" in refused(content)


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04\x93.",
        b"cnumpy\nndarray\n}S'__setstate__'\nNsb.",  # a state for the class itself
        b"cnumpy.core.multiarray\n_reconstruct\n}S'__code__'\nNsb.",
        b"cnumpy\nndarray\n)\x81}S'values'\nNsb.",
        *(
            b"c" + name + b"\n(N}S'values'\nNstb."  # attributes for what can be called
            for name in (b"numpy\nndarray", b"numpy\ndtype", b"_codecs\nencode")
        ),
        b"(dS'a'\ncnumpy\nndarray\ns.",  # the class in the place of a box
        b"(dS'a'\ncnumpy\nndarray\n)Rs.",  # an array without a type
        b"(dS'a'\nK\x05)Rs.",  # a call of a number
    ],
)
def test_misuse_of_what_is_allowed_is_refused(read, refused, content):
    refused(content)
    assert read(pickle.dumps({"a": np.arange(4)})) == {"a": (0, 1, 2, 3)}  # nothing was spoilt


def test_pickle_bomb_of_nested_lists(refused):
    doubled = b"]\x94" + b"".join(b"0](h%ch%ce\x94" % (depth, depth) for depth in range(60))  # 2 ** 60 lists
    pickletools.dis(b"\x80\x04" + doubled + b".", out=io.StringIO())  # it is well-formed
    assert "but got list" in refused(b"\x80\x04" + doubled + b".")
    assert "boxes of four numbers" in refused(b"\x80\x04}\x8c\x01a" + doubled + b"s.")
    deep = b"]" * 50_000 + b"a" * 49_999
    assert "but got list" in refused(b"\x80\x04" + deep + b".")


@pytest.mark.parametrize(
    "key",
    [
        b"N" + b"\x85" * 300_000,
        b"N" + b"".join(b"\x85\x940h%c" % index for index in range(200)) + b"\x85" * 10**5,
        b"(" * 50_000 + b"t" * 50_000,
        b"(" * 50_000 + b"\x91" * 50_000,  # frozen sets
        b"c_codecs\nencode\n\x940" + b"h\x00" * 50_000 + b")" + b"R\x85" * 50_000,
    ],
    ids=["tuples", "memo", "marks", "sets", "calls"],
)
def test_keys_too_deep_to_be_hashed_are_refused(refused, key):
    """A file of kilobytes once crashed the process: hashing a tuple uses the stack of C."""
    assert "image names or ids as its keys, but one is a " in refused(b"\x80\x04}" + key + b"Ns.")


def entries(box: bytes, count: int = 3_000) -> bytes:
    """A dictionary with this box under many keys, as opcodes."""
    return b"}(" + b"".join(b"X\x04\x00\x00\x00%04d" % index + box for index in range(count)) + b"u."


def memoised(*values: bytes) -> bytes:
    return b"\x80\x04" + b"".join(value + b"\x940" for value in values)


BUFFER = b"B" + struct.pack("<I", 400_000) + bytes(400_000)
TEXT = b"X" + struct.pack("<I", 400_000) + b"a" * 400_000
F8 = b"cnumpy\ndtype\n\x8c\x02f8\x85R"
SCALAR, FROM_BUFFER = b"cnumpy.core.multiarray\nscalar\n", b"cnumpy.core.numeric\n_frombuffer\n"
ENCODE = b"c_codecs\nencode\n"


@pytest.mark.parametrize(
    "content",
    [
        memoised(BUFFER, F8, FROM_BUFFER) + entries(b"h\x02(h\x00h\x01(K\x04t\x8c\x01CtR"),
        memoised(BUFFER, F8, SCALAR) + entries(b"(" + b"h\x02h\x01h\x00\x86R" * 4 + b"l"),
        memoised(TEXT, ENCODE, SCALAR, F8)
        + entries(b"(" + b"h\x02h\x03h\x01h\x00h\x00\x86R\x86R" * 4 + b"l"),
        memoised(b"(" + b"N" * 400_000 + b"l") + entries(b"h\x00"),
        memoised(b"(" + b"N" * 400_000 + b"t") + entries(b"h\x00"),
    ],
    ids=["arrays", "scalars", "encoded scalars", "lists", "tuples"],
)
def test_what_many_boxes_share_is_not_read_for_each(read, refused, monkeypatch, content):
    """3,000 arrays on one buffer once took a minute."""
    decoded = []
    frombuffer = np.frombuffer
    monkeypatch.setattr(
        np, "frombuffer", lambda raw, dtype: decoded.append(len(raw)) or frombuffer(raw, dtype)
    )
    assert "expected boxes of four numbers, but that of '0000'" in refused(content)
    assert max(decoded, default=0) <= 32
    assert read(pickle.dumps({"a": np.arange(4)})) == {"a": (0, 1, 2, 3)} and decoded[-1] == 32


def test_an_array_of_several_numbers_is_no_side(refused):
    assert "boxes of four numbers" in refused(pickle.dumps({"a": [0, 0, 1, np.array([5, 6])]}))


@pytest.mark.parametrize(
    "content",
    [
        # an array of 10 ** 12 numbers
        pickle.dumps({"a": np.arange(4)}, protocol=3).replace(
            b"(K\x01K\x04\x85", b"(K\x01\x8a\x06" + (10**12).to_bytes(6, "little") + b"\x85"
        ),
        # bytes(300 million), of numpy's own name
        b"\x80\x04}\x8c\x01acnumpy.core.numeric\n_frombuffer\n(J\x00\xa3\xe1\x11cnumpy\ndtype\n"
        b"\x8c\x02u1\x85Rtr\x00\x00\x00\x00Rs.",
        b"\x80\x04}\x8c\x01acnumpy.core.numeric\n_frombuffer\n(J\x00\xa3\xe1\x11Nt\x52s.",
        # the 30-millionth place of the memo
        b"\x80\x04K\x01r\x00\xc0\xc9\x01.",
        # bytes and text of 300 million, which do not follow
        b"\x80\x04\x8e\x00\xa3\xe1\x11\x00\x00\x00\x00abc.",
        b"\x80\x04\x8d\x00\xa3\xe1\x11\x00\x00\x00\x00abc.",
        b"\x80\x04\x95\x00\xa3\xe1\x11\x00\x00\x00\x00N.",
        b"\x80\x05\x96\x00\xa3\xe1\x11\x00\x00\x00\x00abc.",
        # three bytes, or 300 million to a reader that drops the rest of a frame which ends in their length
        b"\x80\x04\x95\x04\x00\x00\x00\x00\x00\x00\x00B\x03\x00\x00\x00\xa3\xe1\x11.",
        # one text of 100,000 characters, encoded again and again
        b"\x80\x04]c_codecs\nencode\n\x940X\xa0\x86\x01\x00" + b"a" * 100_000 + b"\x940"
        + b"h\x00h\x01h\x01\x86Ra" * 500 + b".",
    ],
    ids=[
        "shape", "frombuffer put", "frombuffer", "memo", "bytes", "text", "frame", "bytearray",
        "end of frame", "encode",
    ],
)  # fmt: skip
def test_claims_of_size_take_no_memory(read, content):
    tracemalloc.start()
    try:
        assert read(content) == {"a": (0, 1, 2, 3)}
    except LostRegError as error:
        assert "\n" not in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 10e6


def test_every_cut_of_a_pickle_is_refused(refused):
    content = pickle.dumps({"a": np.arange(4), "b": [1, 2, 3, np.int64(4)]}, protocol=4)
    for end in range(len(content)):
        refused(content[:end])


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_flipped_bytes_never_do_anything_but_read_or_refuse(read, monkeypatch):
    random = np.random.default_rng(0)
    monkeypatch.setattr(builtins, "eval", None)
    content = np.frombuffer(pickle.dumps({"a": np.arange(4), "b": [1, 2, 3, np.int64(4)]}, 2), np.uint8)
    for _ in range(300):
        damaged = content.copy()
        damaged[random.integers(len(content), size=2)] = random.integers(256, size=2)
        try:
            assert all(len(box) == 4 for box in read(damaged.tobytes()).values())
        except LostRegError as error:
            assert "\n" not in str(error)


def test_files_that_are_no_pickle(refused, tmp_path):
    for content in (b"", b"000005.jpg 1 2 30 40\n", b"\xff\xd8\xff\xe0", b"[1, 2]", b"\x80\x09N."):
        said = "neither a LOST pickle nor COCO-style detections: it is damaged, or no pickle"
        assert said in refused(content)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(LostRegError, match="No such file"):
        read_boxes(tmp_path / "nowhere.pkl")
    with pytest.raises(LostRegError, match="Is a directory"):
        read_boxes(tmp_path)


# --- COCO-style detections ---------------------------------------------------------------------------


def test_detection_of_highest_score_wins(read):
    text = """[
        {"image_id": 139, "category_id": 1, "bbox": [10, 20, 30, 40], "score": 0.25},
        {"image_id": 139, "category_id": 2, "bbox": [1, 2.5, 3, 4], "score": 0.75},
        {"image_id": 139, "category_id": 3, "bbox": [5, 5, 5, 5], "score": 0.5},
        {"image_id": "000005", "bbox": [0, 0, 7, 8], "score": -1}
    ]"""
    assert read(text) == {"139": (1, 2.5, 4, 6.5), "000005": (0, 0, 7, 8)}


def test_first_of_equal_scores_wins(read):
    rows = ", ".join(f'{{"image_id": 1, "bbox": [{x}, 0, 1, 1], "score": 0.5}}' for x in (3, 4))
    assert read(f"[{rows}]") == {"1": (3, 0, 4, 1)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "5",
        "null",
        "[5]",
        '["a"]',
        '[{"image_id": 1, "bbox": [1, 2, 3, 4]}]',
        '[{"image_id": 1, "score": 0.5}]',
        '[{"bbox": [1, 2, 3, 4], "score": 0.5}]',
        '[{"image_id": 1, "bbox": [1, 2, 3], "score": 0.5}]',
        '[{"image_id": 1, "bbox": [1, 2, 3, "x"], "score": 0.5}]',
        '[{"image_id": 1, "bbox": [1, 2, 3, null], "score": 0.5}]',
        '[{"image_id": 1, "bbox": [1, 2, 3, 4], "score": "high"}]',
        '[{"image_id": 1, "bbox": [1, 2, 3, NaN], "score": 1}]',
        '[{"image_id": null, "bbox": [1, 2, 3, 4], "score": 1}]',
        "[" * 200_000,
    ],
)
def test_malformed_detections(refused, text):
    reason = refused(text).split("neither a LOST pickle nor COCO-style detections: ")[1]
    assert reason and "Error" not in reason


def test_a_file_of_annotations_without_boxes(refused):
    assert refused('{"images": [], "annotations": []}').endswith("holds no boxes")


def test_no_detections(refused):
    assert "holds no boxes" in refused("[]")


# --- names -------------------------------------------------------------------------------------------


def truths(*images: tuple[str, str]) -> dict[str, ImageTruth]:
    return {name: ImageTruth(name, image_id, (10, 10), (), (), ()) for name, image_id in images}


VOC = truths(("000005.jpg", "000005"), ("000007.jpg", "000007"), ("2007_000027.jpg", "2007_000027"))
COCO = truths(("COCO_train2014_000000560992.jpg", "560992"), ("COCO_train2014_000000000009.jpg", "9"))
BOX = (1.0, 2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    ("dataset", "key", "image"),
    [
        (VOC, "000005.jpg", "000005.jpg"),
        (VOC, "000005", "000005.jpg"),
        (VOC, "5", "000005.jpg"),
        (VOC, "2007_000027", "2007_000027.jpg"),
        (COCO, "COCO_train2014_000000560992.jpg", "COCO_train2014_000000560992.jpg"),
        (COCO, "COCO_train2014_000000560992", "COCO_train2014_000000560992.jpg"),
        (COCO, "560992", "COCO_train2014_000000560992.jpg"),
        (truths(("val/000000000139.jpg", "139")), "000000000139.jpg", "val/000000000139.jpg"),
        (truths(("val/000000000139.jpg", "139")), "000000000139", "val/000000000139.jpg"),
        (truths(("\u00b2.jpg", "\u00b2")), "\u00b2", "\u00b2.jpg"),  # a digit that is no number
    ],
)
def test_images_go_by_name_stem_id_and_number(dataset, key, image):
    assert match_images({key: BOX}, dataset) == {image: BOX}


def test_image_id_goes_before_the_number_in_another_images_name():
    """Ids that count from 0, beside files that count from 1."""
    dataset = truths(("1.jpg", "0"), ("2.jpg", "1"), ("3.jpg", "2"))
    assert match_images({"0": BOX, "1": BOX, "2": BOX}, dataset) == dict.fromkeys(dataset, BOX)
    assert list(match_images({"1": BOX}, dataset)) == ["2.jpg"]
    assert list(match_images({"1.jpg": BOX}, dataset)) == ["1.jpg"]


def test_name_of_two_images_is_refused():
    dataset = truths(("a/1.jpg", "10"), ("b/1.jpg", "20"))
    assert match_images({"a/1.jpg": BOX, "20": BOX}, dataset) == dict.fromkeys(dataset, BOX)
    with pytest.raises(LostRegError, match=r"1\.jpg"):
        match_images({"1.jpg": BOX}, dataset)


def test_two_boxes_for_one_image_are_refused():
    with pytest.raises(LostRegError, match=r"000005\.jpg"):
        match_images({"000005.jpg": BOX, "5": BOX}, VOC)


def test_unknown_images_are_refused_by_name():
    with pytest.raises(LostRegError, match=r"^no ground truth for a, b, c and 1 more: are these results"):
        match_images({"000005.jpg": BOX, "a": BOX, "b": BOX, "c": BOX, "6": BOX}, VOC)
