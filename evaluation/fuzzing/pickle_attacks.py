"""Pickles that execute code, or take far more time or memory than they have bytes: opcode by opcode."""

from __future__ import annotations

import pickle
import struct

STORAGE, TENSOR = b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n"
ORDERED = b"ccollections\nOrderedDict\n"
_ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
_FLOATS = b"cnumpy\ndtype\nX\x02\x00\x00\x00f8\x89\x88\x87R"


def text(value: str) -> bytes:
    content = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(content)) + content


def number(value: int) -> bytes:
    """As a signed 64-bit number."""
    return b"\x8a\x08" + struct.pack("<q", value)


def pair(key: bytes, value: bytes) -> bytes:
    """A dictionary of one pair."""
    return b"}" + key + value + b"s"


def code(canary: str) -> dict[str, bytes]:
    """Bodies of pickles each of which would make the file `canary` if it were unpickled."""
    shell, python = text(f"touch {canary}"), text(f"open({canary!r}, 'w').close()")
    inner = pickle.dumps({})[:-1] + b"cposix\nsystem\n(" + shell + b"tR."
    return {
        "posix.system by REDUCE": b"cposix\nsystem\n" + shell + b"\x85R",
        "os.system by STACK_GLOBAL": text("os") + text("system") + b"\x93" + shell + b"\x85R",
        "os.system by INST": b"(" + shell + b"ios\nsystem\n",
        "os.system by OBJ": b"(cos\nsystem\n" + shell + b"o",
        "os.system by NEWOBJ": b"cos\nsystem\n" + shell + b"\x85\x81",
        "os.system by NEWOBJ_EX": b"cos\nsystem\n" + shell + b"\x85}\x92",
        "builtins.exec": b"cbuiltins\nexec\n" + python + b"\x85R",
        "builtins.eval": b"cbuiltins\neval\n" + python + b"\x85R",
        "subprocess.Popen": b"csubprocess\nPopen\n](" + text("touch") + text(canary) + b"e\x85R",
        "a nested pickle": b"cpickle\nloads\nB" + struct.pack("<I", len(inner)) + inner + b"\x85R",
        "getattr of a module": b"cbuiltins\ngetattr\ncbuiltins\n__import__\n"
        + text("os")
        + b"\x85R"
        + text("system")
        + b"\x86R"
        + shell
        + b"\x85R",
        "a state by BUILD": b"ccollections\nOrderedDict\n)R"
        + pair(text("__reduce__"), b"cposix\nsystem\n")
        + b"b",
        "torch.hub.load": b"ctorch.hub\nload\n" + text(canary) + b"\x85R",
        "torch.load": b"ctorch\nload\n" + text(canary) + b"\x85R",
        "an extension by EXT1": b"\x82\x01",
        "an extension by EXT4": b"\x84\xff\xff\xff\x7f",
        "a persistent id as text": b"Pposix.system\n",
        "a persistent id": text("posix.system") + b"Q",
        "a name with dots": text("collections") + text("OrderedDict.fromkeys.__globals__") + b"\x93",
    }


def bombs() -> dict[str, bytes]:
    """Bodies that are small, and would be large, deep or slow."""
    megabyte = b"B" + struct.pack("<I", 2**20) + bytes(2**20)
    latin = text("a" * 2**20)
    return {
        "300,000 tuples in each other": b"N" + b"\x85" * 300_000,
        "a key of 300,000 tuples": b"}N" + b"\x85" * 300_000 + b"Ns",
        "300,000 lists in each other": b"]" * 300_000 + b"a" * 299_999,
        "300,000 dictionaries in each other": b"}" + b"N}" * 300_000 + b"s" * 300_000,
        "a billion laughs of lists": b"]q\x00" + b"".join(b"0](h%cq%ch%ce" % (0, 1, 0) for _ in range(60)),
        "a billion laughs of tuples as a key": b"}Nq\x00" + b"h\x00\x86q\x00h\x00" * 60 + b"0Ns",
        "a billion laughs of dictionaries": _laughing(60),
        "a dictionary in itself": b"}q\x00" + text("a") + b"h\x00s",
        "4,000 texts that are encoded": latin + b"q\x000](" + b"c_codecs\nencode\nh\x00\x85R" * 4000 + b"e",
        "3,000 arrays on one buffer": megabyte + b"q\x000](" + _arrays(3000) + b"e",
        "six million steps": b"(" + b"N" * 6_000_000 + b"l",
        "four million marks": b"(" * 4_000_000,
        "a text of 4 GiB": b"X\xff\xff\xff\xff",
        "a text of 2 ** 62 bytes": b"\x8d" + struct.pack("<Q", 2**62),
        "bytes of 2 ** 40": b"\x8e" + struct.pack("<Q", 2**40),
        "an array of 2 ** 40 bytes": b"\x96" + struct.pack("<Q", 2**40),
        "a frame of 2 ** 60": b"\x95" + struct.pack("<Q", 2**60) + b"N",
        "a number of 2 GiB": b"\x8b\xff\xff\xff\x7f",
        "a number of 10,000,000 digits": b"I" + b"9" * 10_000_000 + b"\n",
        "a memo at 4,294,967,295": b"Nr\xff\xff\xff\xff",
        "a bytearray of 2 ** 40": b"cbuiltins\nbytearray\n" + number(2**40) + b"\x85R",
        "a FloatTensor of 2 ** 40": b"ctorch\nFloatTensor\n" + number(2**40) + b"\x85R",
        "a long name 100,000 times": text("torch")
        + b"\x940"
        + latin
        + b"\x940"
        + b"h\x00h\x01\x93" * 100_000,
        "an empty stack": b"0000",
        "protocol 255": b"\x80\xff",
    }


def _laughing(levels: int) -> bytes:
    """Dictionaries whose two values are both the one before."""
    body = b"}q\x000"
    for level in range(levels):
        body += b"}q%c(" % (level + 1) + text("a") + b"h%c" % level + text("b") + b"h%c" % level + b"u0"
    return body + b"h%c" % levels


def _arrays(count: int) -> bytes:
    state = b"(K\x01" + number(2**17) + b"\x85" + _FLOATS + b"\x89h\x00tb"
    return (_ARRAY + state) * count


# --- tensors -----------------------------------------------------------------------------------------


def storage(key: str, length: int, kind: bytes = STORAGE) -> bytes:
    return b"(" + text("storage") + kind + text(key) + text("cpu") + number(length) + b"NtQ"


def tensor(of: bytes, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0) -> bytes:
    sides, steps = (b"(" + b"".join(map(number, one)) + b"t" for one in (shape, strides))
    return TENSOR + b"(" + of + number(offset) + sides + steps + b"\x89" + ORDERED + b")RtR"


def tensors() -> dict[str, bytes]:
    """Tensors of a storage "0" of two floats, or so they say."""
    two = storage("0", 2)
    return {
        "2 ** 40 values by a stride of 0": tensor(two, (2**40,), (0,)),
        "2 ** 80 values by strides of 0": tensor(two, (2**40, 2**40), (0, 0)),
        "a negative stride": tensor(two, (2,), (-1,)),
        "a negative size": tensor(two, (-1,), (1,)),
        "a size of 2 ** 62": tensor(two, (2**62, 2), (2, 1)),
        "a negative offset": tensor(two, (1,), (1,), -1),
        "an offset beyond the storage": tensor(two, (1,), (1,), 2**40),
        "a stride beyond the storage": tensor(two, (2,), (2**40,)),
        "more strides than sizes": tensor(two, (2,), (1, 1)),
        "99 dimensions": tensor(two, (1,) * 99, (1,) * 99),
        "a storage of 2 ** 40": tensor(storage("0", 2**40), (2,), (1,)),
        "a storage of -1": tensor(storage("0", -1), (2,), (1,)),
        "a storage that is not there": tensor(storage("1", 2), (2,), (1,)),
        "a storage that is another file": tensor(storage("../../../etc/passwd", 2), (2,), (1,)),
        "no storage": tensor(b"K\x05", (2,), (1,)),
        "a quantised storage": tensor(storage("0", 8, b"ctorch\nQInt8Storage\n"), (8,), (1,)),
        "an unknown storage": tensor(storage("0", 8, b"ctorch\nEvilStorage\n"), (8,), (1,)),
        "an array of numpy": b"ctorch._utils\n_rebuild_device_tensor_from_numpy\ncnumpy\nload\n\x85R",
    }


def old_file(body: bytes) -> bytes:
    """A file of torch.save before 1.6: its head, a pickle of this body, and a storage "0" of two floats."""
    head = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})
    keys = pickle.dumps(["0"] if b"storage" in body else [], 2)
    raw = struct.pack("<q", 2) + bytes(8) if b"storage" in body else b""
    return b"".join(pickle.dumps(one, 2) for one in head) + b"\x80\x02" + body + b"." + keys + raw
