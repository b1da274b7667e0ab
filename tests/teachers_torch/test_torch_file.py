import ast
import io
import os
import pickle
import struct
import sys
import time
import tracemalloc
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prmkd_jax.common.errors import UserError
from teachers_torch import states
from teachers_torch.pickled import Damaged, Foreign, Inert, unpickle
from teachers_torch.recbole_file import read_recbole
from teachers_torch.recformer.official import read_official
from teachers_torch.sequence.start import sequence_start_digest
from teachers_torch.torch_file import read_torch_file

ROOT = Path(__file__).parents[2]
DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    *(torch.uint16, torch.uint32, torch.uint64),
)
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


@pytest.fixture(autouse=True)
def no_torch_load(monkeypatch):
    """Fails a test in which anything but the test itself reads a file with PyTorch."""
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load was called"))
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("torch.jit.load"))
    return load


def archive_of(pickled: bytes, records: dict[str, bytes] | None = None) -> bytes:
    """An archive as torch.save writes it, with this pickle."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        for name, content in (records or {}).items():
            archive.writestr(f"a/{name}", content)
    return out.getvalue()


def saved(content: object, protocol: int = 2) -> bytes:
    out = io.BytesIO()
    torch.save(content, out, pickle_protocol=protocol)
    return out.getvalue()


def read_bytes(tmp_path, content: bytes, ignored: tuple[str, ...] = ()) -> object:
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    return read_torch_file(path, ignored)


def short(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def storage(kind: str, key: str, count: bytes) -> bytes:
    return (
        b"("
        + short("storage")
        + b"ctorch\n"
        + kind.encode()
        + b"\n"
        + short(key)
        + short("cpu")
        + count
        + b"tQ"
    )


def tensor_pickle(sizes: bytes, strides: bytes, offset: bytes = b"K\0", count: bytes = b"K\2"):
    """A pickle of a tensor over the record data/0, in which two floats are."""
    made = REBUILD + b"(" + storage("FloatStorage", "0", count) + offset + sizes + strides
    return b"\x80\x02}" + short("w") + made + b"\x89N" + b"tRs."


# Honest files.


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_honest_files_are_read_as_torch_load_reads_them(tmp_path, protocol, no_torch_load):
    """Types, shapes, views and nested values stay the same in every pickle protocol."""
    base = torch.arange(24.0).reshape(4, 6)
    content = {str(dtype): torch.tensor([[0, 1], [2, 3]]).to(dtype) for dtype in DTYPES}
    content |= {
        "columns": base[:, 1:3],
        "turned": base.t(),
        "expanded": torch.ones(1).expand(3, 2),
        "none": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5),
        "parameter": torch.nn.Parameter(base),
        "module": torch.nn.Linear(2, 3).state_dict(),
        "plain": [1, -1, 2**40, 2**100, True, None, 0.5, "é", (1, (2, 3)), {"a": 1, 2: []}],
        "size": base.shape,
    }
    data = saved(content, protocol)
    found, expected = (
        read_bytes(tmp_path, data),
        no_torch_load(
            io.BytesIO(data),
            weights_only=False,  # written right above
        ),
    )
    assert isinstance(found, dict)
    assert list(found) == list(expected)
    assert found["plain"] == expected["plain"]
    assert found["size"] == expected["size"]
    assert isinstance(found["module"], OrderedDict)
    for name, tensor in [*expected.items(), *expected["module"].items()]:
        if isinstance(tensor, torch.Tensor):
            other = found[name] if name in found else found["module"][name]
            assert other.dtype == tensor.dtype
            assert other.shape == tensor.shape
            assert torch.equal(other, tensor.detach())
            assert not other.requires_grad
    found["turned"][0, 0] = 7  # they are views of one storage, as they were
    assert found["parameter"][0, 0] == 7
    assert found["turned"].stride() == (1, 6)


def test_other_byte_orders_are_undone(tmp_path):
    """Numbers of the other byte order are swapped, and an unknown order is refused."""
    other = "big" if sys.byteorder == "little" else "little"
    record = np.array([1.5, -2.0], dtype="<f4").byteswap().tobytes()
    pickled = tensor_pickle(b"K\2\x85", b"K\1\x85")
    data = archive_of(pickled, {"data/0": record, "byteorder": other.encode()})
    assert read_bytes(tmp_path, data)["w"].tolist() == [1.5, -2.0]
    with pytest.raises(UserError, match="neither little nor big"):
        read_bytes(tmp_path, archive_of(pickled, {"data/0": record, "byteorder": b"middle"}))


KEYS = st.text(max_size=5) | st.integers(-(2**62), 2**62)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=20,
)


@given(PLAIN, st.integers(2, 5))
@settings(deadline=None, max_examples=60)
def test_any_plain_value_comes_back(value, protocol):
    assert unpickle(pickle.dumps(value, protocol), {}, (), pytest.fail) == value


# Code.


def local_and_central(records: dict[str, bytes], shift: int) -> tuple[bytes, bytes]:
    """The records of an archive, and their directory, whose offsets have `shift` added.

    Every entry of the directory has 80 bytes.
    """
    records_, directory = b"", b""
    for name, content in records.items():
        sizes = struct.pack("<3L", zlib.crc32(content), len(content), len(content))
        common = struct.pack("<5H", 20, 0, 0, 0, 33) + sizes
        lengths = struct.pack("<2H", len(name), 0)
        comment = b" " * (80 - 46 - len(name))
        rest = struct.pack("<3H2L", len(comment), 0, 0, 0, len(records_) + shift)
        directory += b"PK\1\2" + b"\x14\0" + common + lengths + rest + name.encode() + comment
        records_ += b"PK\3\4" + common + lengths + name.encode() + content
    return records_, directory


def two_directories(program: dict[str, bytes], honest: dict[str, bytes]) -> bytes:
    """An archive that shows PyTorch one set of records and Python's zipfile another.

    The program's directory is where the end record says, the honest one right before the end
    record. Python takes the distance for something in front of the archive and adds it.
    """
    first, directory = local_and_central(program, 0)
    length = len(local_and_central(honest, 0)[0])
    second, other = local_and_central(honest, len(first) - length)
    end = struct.pack("<4H2LH", 0, 0, len(program), len(program), len(directory), len(first), 0)
    assert len(directory) == len(other)
    return first + directory + second + other + b"PK\5\6" + end


def test_an_archive_with_two_directories_is_refused(tmp_path, no_torch_load, monkeypatch):
    """No reader takes it: zipfile sees harmless weights where PyTorch runs a program."""
    padding = b" " * 5000  # so that the offsets stay positive
    program = {"a/data.pkl": padding, "a/constants.pkl": b"\x80\x02).", "a/version": b"3"}
    pickled = tensor_pickle(b"K\2\x85", b"K\1\x85")
    honest = {"a/data.pkl": pickled, "a/data/0": b"\0" * 8, "a/version": b"3"}
    path = tmp_path / "evil.pth"
    path.write_bytes(two_directories(program, honest))
    for read in (read_recbole, read_torch_file, read_official, states.load_state):
        with pytest.raises(UserError, match=r"evil\.pth: found no") as error:
            read(path)
        assert "\n" not in str(error.value)
    # So the attack is one: what Python's zipfile shows is no program, and PyTorch runs it.
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == list(honest)
        assert archive.read("a/data.pkl") == pickled
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: "ran")
    with pytest.warns(UserWarning, match="dispatching to 'torch.jit.load'"):
        assert no_torch_load(path, weights_only=False) == "ran"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused(tmp_path):
    """A program isn't taken for weights, whether torch.jit saved it or not."""
    out = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1)), out)
    with pytest.raises(UserError, match=r"compressed|TorchScript"):
        read_bytes(tmp_path, out.getvalue())
    program = archive_of(b"\x80\x02}.", {"constants.pkl": b"\x80\x02)."})
    with pytest.raises(UserError, match="a TorchScript program"):
        read_bytes(tmp_path, program)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (saved({"a": 1}) + b"\0", "no archive"),
        (b"\0" + saved({"a": 1}), "damaged end"),
        (b"\0" + archive_of(b"\x80\x02}."), "directory isn't where its end says"),
        (archive_of(b"\x80\x02}.")[:-2] + b"\1\0x", "no archive"),
        (pickle.dumps({"a": 1}), "no archive"),
        (b"", "no archive"),
    ],
    ids=["behind", "before", "before a small one", "comment", "pickle", "empty"],
)
def test_bytes_around_an_archive_are_refused(tmp_path, content, message):
    """A byte before it or behind it, or a comment, would leave room for a second directory."""
    with pytest.raises(UserError, match=message):
        read_bytes(tmp_path, content)


def zipped(names: list[str], compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name in names:
            archive.writestr(name, b"\x80\x02}." + b"\0" * 10_000)
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zipped(["a/data.pkl", "a/data.pkx"]).replace(b"pkx", b"pkl"), "records of the same name"),
        (zipped(["a/data.pkl", "b/data.pkl"]), "several folders"),
        (zipped(["a/data.pkl"], zipfile.ZIP_DEFLATED), "a compressed record"),
        (zipped(["a/other"]), r"without data\.pkl"),
    ],
    # Archives have the time in them: as names they would differ between the tests' processes.
    ids=["same name", "two folders", "compressed", "no data.pkl"],
)
def test_archives_that_torch_save_never_writes_are_refused(tmp_path, content, message):
    """These are compressed records, two of one name, two folders and no data.pkl."""
    with pytest.raises(UserError, match=message):
        read_bytes(tmp_path, content)


class Malice:
    """Makes a folder when it is unpickled by a reader that lets it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("reader", [read_torch_file, read_recbole, read_official])
def test_every_reader_refuses_a_call(tmp_path, reader):
    """None of the four readers makes a folder that the pickle asks for."""
    (tmp_path / "x.pt").write_bytes(saved({"state_dict": Malice(tmp_path / "made")}))
    with pytest.raises(UserError, match="mkdir, which no checkpoint needs"):
        reader(tmp_path / "x.pt")
    with pytest.raises(UserError, match="no readable training state"):
        states.load_state(tmp_path / "x.pt")
    assert not (tmp_path / "made").exists()


def test_names_that_are_made_or_ignored_are_never_imported():
    """An attribute of PyTorch's own is refused, and an ignored name stays an inert object."""
    for name in (b"ctorch\nload\n", b"cbuiltins\neval\n", b"ctorch._utils\n_rebuild\n"):
        with pytest.raises(Foreign):
            unpickle(b"\x80\x02" + name + b".", {}, ("numpy.",), pytest.fail)
    inert = unpickle(b"\x80\x02cnumpy.x\nsystem\n(K\1tR}b.", {}, ("numpy.",), pytest.fail)
    assert isinstance(inert, Inert)


# Claims.


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (tensor_pickle(b"K\3\x85", b"K\1\x85"), "larger than its storage"),
        (tensor_pickle(b"K\2\x85", b"K\1\x85", offset=b"K\1"), "larger than its storage"),
        (tensor_pickle(b"K\2\x85", b"K\1\x85", offset=b"J\xff\xff\xff\xff"), "impossible sizes"),
        (tensor_pickle(b"K\2\x85", b"J\xff\xff\xff\xff\x85"), "impossible sizes"),
        (tensor_pickle(b"K\2K\2\x86", b"K\1\x85"), "impossible sizes"),
        (tensor_pickle(b"(" + b"K\1" * 30 + b"t", b"(" + b"K\1" * 30 + b"t"), "impossible sizes"),
        (tensor_pickle(b"\x8a\5\0\0\0\0\1\x85", b"K\0\x85"), "many times larger"),
        (tensor_pickle(b"\x8a\x07" + b"\xff" * 6 + b"\1K\0\x86", b"K\1K\1\x86"), "impossible"),
        (tensor_pickle(b"K\2\x85", b"K\1\x85", count=b"K\3"), "another size than its pickle says"),
        (tensor_pickle(b"K\2\x85", b"K\1\x85", count=b"\x8a\x08" + b"\xff" * 7 + b"\x7f"), "size"),
    ],
)
def test_a_tensor_claims_no_more_than_its_record_holds(tmp_path, pickled, message):
    """Sizes, strides and offsets that don't fit the record's bytes are refused."""
    with pytest.raises(UserError, match=message):
        read_bytes(tmp_path, archive_of(pickled, {"data/0": b"\0" * 8}))


def _doubled(depth: int) -> bytes:
    """A tuple that holds a tuple twice, which holds one twice, and so on."""
    steps = [b")\x94"]
    for index in range(depth):
        steps.append(b"h" + bytes([index]) + b"\x86\x94")
    return b"".join(steps)


BOMBS = {
    "a key of nested tuples": (b"}" + _doubled(40) + b"K\1s", "key"),
    "a value of nested tuples": (_doubled(90), "share so much"),
    "a deep nest": (b")" + b"\x85" * 150_000, "more than 100 deep"),
    "a deep nest by its parts": (
        b"()\x94" + b"".join(b"h" + bytes([index]) + b"\x85\x94" for index in range(150)) + b"t",
        "more than 100 deep",
    ),
    "a deeper nest": (b")" + b"\x85" * 250_000, "more than 200,000"),
    "many empty lists": (b"(" + b"]" * 300_000 + b"t", "more than 200,000"),
    "many empty sets": (b"(" + b"\x8f" * 300_000 + b"t", "more than 200,000"),
    "a list of itself": (b"]\x94h\0a", "contains itself"),
    "a memo with gaps": (b"]r\xff\xff\xff\x7f", "gaps"),
    "a long text": (b"\x8d" + b"\xff" * 7 + b"\x7f", "too early"),
    "long bytes": (b"\x8e" + b"\xff" * 8, "too early"),
    "a long integer": (b"\x8b\xff\xff\xff\x7f", "integer of 2147483647 bytes"),
    "a negative length": (b"\x8b\xff\xff\xff\xff", "integer of -1 bytes"),
    "a large frame": (b"\x95" + b"\xff" * 8 + b"N", None),
    "keys that collide": (b"}\x8a\x09" + b"\0" * 8 + b"\1K\1s", "key"),
    "an OrderedDict of pairs": (b"ccollections\nOrderedDict\n]\x85R", "empty at first"),
    "a Size of a number": (b"ctorch\nSize\nK\1\x85R", "no tuple"),
    "a call of a type": (b"ctorch\nFloatStorage\nK\1\x85R", "calls a type"),
    "a call of a list": (b"])R", "no function"),
    "attributes of a name": (REBUILD + b"}b", "sets attributes"),
    "a long name": (short("numpy." + "x" * 500) + short("y") + b"\x93", "a name of more than"),
    "an end without a value": (b"", "in the middle"),
    "a mark's end without a mark": (b"t", "too early or takes"),
    "a pop below a mark": (b"K\1(0", "isn't there"),
    "an unknown opcode": (b"Pname\n", "opcode 0x50"),
    "an extension": (b"\x82\1", "opcode 0x82"),
    "an unreadable text": (b"X\1\0\0\0\xff", "no UTF-8"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_end_in_seconds_and_in_one_line(tmp_path, name):
    """Each is read or refused in less than ten seconds."""
    body, message = BOMBS[name]
    data, began = archive_of(b"\x80\x04" + body + b"."), time.monotonic()
    if message is None:
        read_bytes(tmp_path, data)
    else:
        with pytest.raises(UserError, match=message) as error:
            read_bytes(tmp_path, data)
        assert "\n" not in str(error.value)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "piece", [b"]", b"}", b"\x8f", b"\x94", b"M\xff\xff", b"X\2\0\0\0ab", b"("]
)
def test_memory_is_bounded_by_the_files_size(tmp_path, piece):
    """A hostile file takes less than 90 times its size plus 4 MiB."""
    data = archive_of(b"\x80\x04N" + piece * 150_000 + b"NN.")
    tracemalloc.start()
    try:
        with pytest.raises(UserError):
            read_bytes(tmp_path, data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 90 * len(data) + 2**22


def test_token_lists_that_share_one_object_are_refused(tmp_path):
    """Ten thousand fields of one list of ten thousand ids are too many to walk through."""
    one = ["a"] * 10_000
    content = {"state_dict": {}, "field2id_token": {str(field): one for field in range(10_000)}}
    (tmp_path / "file.pth").write_bytes(saved(content, 4))
    with pytest.raises(UserError, match="share so much"):
        read_recbole(tmp_path / "file.pth")


def test_tensors_that_share_one_storage_too_often_are_refused(tmp_path):
    """A thousand tables that share one megabyte are refused, and three are read."""
    one = torch.zeros(2**18)
    (tmp_path / "file.pth").write_bytes(saved({str(key): one[:] for key in range(1000)}))
    with pytest.raises(UserError, match="many times larger than the file"):
        read_recbole(tmp_path / "file.pth")
    (tmp_path / "file.pth").write_bytes(saved({str(key): one[:] for key in range(3)}))
    assert len(read_recbole(tmp_path / "file.pth").weights) == 3


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2J", "x" * 500, 7])
def test_names_that_no_line_can_show_are_refused(tmp_path, name):
    """The error itself is short, printable and one line, whatever the name is."""
    (tmp_path / "file.pth").write_bytes(saved({name: torch.zeros(1)}))
    for read in (read_recbole, read_official):
        with pytest.raises(UserError) as error:
            read(tmp_path / "file.pth")
        assert str(error.value).isprintable()
        assert len(str(error.value)) < 600 + len(str(tmp_path))


def test_pipes_and_devices_are_refused_at_once(tmp_path):
    """Nothing waits for a writer; folders and missing files are refused, too."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match=r"no checkpoint of torch\.save"):
            read_torch_file(path)
    for path in (tmp_path / "pipe", tmp_path / "missing"):
        with pytest.raises(UserError, match="no such file"):
            sequence_start_digest(path)


# Damage.


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    out = bytearray(data)
    match rng.integers(4):
        case 0:
            return bytes(out[: rng.integers(len(out))])
        case 1:
            start, stop = sorted(rng.integers(len(out), size=2))
            del out[start:stop]
        case _:
            for place in rng.integers(len(out), size=rng.integers(1, 4)):
                out[place] ^= 1 << rng.integers(8)
    return bytes(out)


def told(read: Callable[[], object]) -> object:
    """What is read, or None after a `UserError` of one line; any other exception escapes."""
    try:
        return read()
    except UserError as error:
        if not str(error).isprintable():
            pytest.fail(f"no line: {error}")
        return None


def small(protocol: int) -> dict[str, object]:
    return {"state_dict": {"a": torch.arange(3.0), "b": torch.ones(2, 2).half()}, "epoch": protocol}


@pytest.mark.parametrize("protocol", [2, 4])
def test_damaged_archives_are_refused_or_read_right(tmp_path, protocol):
    """Each of 400 damaged files gives the right weights or one line."""
    rng = np.random.default_rng(protocol)
    data = saved(small(protocol), protocol)
    path, refused = tmp_path / "file.pth", 0
    for _ in range(400):
        path.write_bytes(damaged(data, rng))
        found = told(lambda: read_recbole(path).weights)
        if found is None:
            refused += 1
        else:
            assert torch.equal(found["a"], torch.arange(3.0))
            assert torch.equal(found["b"], torch.ones(2, 2).half())
    assert refused > 200


@pytest.mark.parametrize("protocol", [2, 4])
def test_damaged_pickles_end_in_one_line(tmp_path, protocol):
    """Each of 500 damaged pickles in a sound archive gives weights or one line."""
    with zipfile.ZipFile(io.BytesIO(saved(small(protocol), protocol))) as archive:
        names = {name.partition("/")[2]: name for name in archive.namelist()}
        records = {name: archive.read(full) for name, full in names.items()}
    rng, pickled, path = np.random.default_rng(protocol), records.pop("data.pkl"), tmp_path / "f"
    for _ in range(500):
        path.write_bytes(archive_of(damaged(pickled, rng), records))
        told(lambda: read_recbole(path))


OPCODES = st.sampled_from(sorted(pickle.__dict__[n] for n in (
    *("MARK", "POP", "POP_MARK", "NONE", "NEWTRUE", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2"),
    *("TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS", "BUILD"),
    *("EMPTY_SET", "ADDITEMS", "FROZENSET", "MEMOIZE", "REDUCE", "NEWOBJ", "NEWOBJ_EX"),
    *("BINPERSID", "STACK_GLOBAL"),
)))  # fmt: skip
PIECES = (
    OPCODES
    | st.binary(max_size=3)
    | st.sampled_from([b"h\0", b"h\1", b"K\1", short("a"), REBUILD, b"ctorch\nSize\n"])
    | st.sampled_from([storage("FloatStorage", "0", b"K\2"), b"cnumpy\nx\n", b"K\2\x85", b"\x89N"])
)


@given(st.lists(PIECES, max_size=40))
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_program_of_opcodes_ends_in_a_value_or_one_line(tmp_path, pieces):
    """Without its last opcode it is Damaged or Foreign, never a TypeError."""
    pickled = b"\x80\x04" + b"".join(pieces) + b"."
    data = archive_of(pickled, {"data/0": b"\0" * 8})
    told(lambda: read_bytes(tmp_path, data, ("numpy.",)))
    with pytest.raises((Damaged, Foreign)):
        unpickle(pickled[:-1], {}, (), lambda _: None)


def test_the_project_never_calls_torchs_reader():
    """No module calls torch.load, torch.jit.load, pickle.load or pickle.loads."""
    calls = {"torch.load", "torch.jit.load", "jit.load", "pickle.load", "pickle.loads"}
    files = [f for p in ("prmkd_jax", "teachers_torch", "bridge", "experiments")
             for f in (ROOT / p).rglob("*.py")]  # fmt: skip
    assert len(files) > 80
    found = {
        (file.name, ast.unparse(node.func))
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in calls
    }
    assert not found
