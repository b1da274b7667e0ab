import io
import random
import zipfile

import numpy as np
import pytest

from prmkd_jax.common.arrays import open_npy, read_npz
from tests.reliability.damage import damaged


def npy(shape: str, data: bytes = b"\0" * 40) -> bytes:
    header = f"{{'descr': '<f2', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header.encode() + data


def test_arrays_come_back(tmp_path):
    """Values and dtype are those that were saved."""
    array = np.arange(6, dtype=np.float16).reshape(2, 3)
    np.save(tmp_path / "a.npy", array)
    found = open_npy(tmp_path / "a.npy")
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    "shape",
    ["(10**30,)", f"({2**62},)", f"({2**62}, {2**62})", "(-5, -4)", "(1000000000000, 4)", "((1,)"],
)
def test_shapes_that_the_file_lacks_the_bytes_for_are_refused(tmp_path, shape):
    """A file of 200 bytes can't make the reader ask the system for terabytes."""
    (tmp_path / "a.npy").write_bytes(npy(shape))
    with pytest.raises((ValueError, OSError)):
        open_npy(tmp_path / "a.npy")


def test_objects_and_archives_are_refused(tmp_path):
    """No code in an object array is run, and an archive doesn't pass for an array."""
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", a=np.zeros(3))
    (tmp_path / "c.npy").write_bytes(b"PK\3\4broken")
    for name in ("a.npy", "b.npz", "c.npy"):
        with pytest.raises((ValueError, OSError)):
            open_npy(tmp_path / name)


def test_damaged_headers_end_in_a_value_error(tmp_path):
    """NumPy's own TokenError, TypeError or warning never gets out."""
    rng, data, refused = np.random.default_rng(0), npy("(5, 4)"), 0
    for _ in range(2000):
        out = bytearray(data)
        for place in rng.integers(len(out) - 40, size=2):
            out[place] = rng.integers(256)
        (tmp_path / "a.npy").write_bytes(out)
        try:
            open_npy(tmp_path / "a.npy")
        except (ValueError, OSError):
            refused += 1
    assert refused > 500


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_archive_is_refused(tmp_path, save):
    """Whatever zipfile, zlib or NumPy raise arrives as an OSError or a ValueError."""
    sound, path, refused = {"a": np.arange(5.0), "b": np.ones(3)}, tmp_path / "a.npz", 0
    save(path, **sound)
    assert {name: array.tolist() for name, array in read_npz(path).items()} == {
        name: array.tolist() for name, array in sound.items()
    }
    content, chance = path.read_bytes(), random.Random(0)
    for _ in range(1500):
        path.write_bytes(damaged(content, chance))
        try:
            read_npz(path)
        except (OSError, ValueError):
            refused += 1
    assert refused > 1000


def test_archives_that_claim_terabytes_or_hold_no_arrays_are_refused(tmp_path):
    """The file doesn't decide how much memory is used, and bytes don't pass for an array."""
    np.savez_compressed(tmp_path / "large.npz", a=np.zeros(10**5))
    with pytest.raises(ValueError, match="an array of 800,"):
        read_npz(tmp_path / "large.npz", most_bytes=10**5)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.txt", "hello")
    (tmp_path / "texts.npz").write_bytes(stream.getvalue())
    with pytest.raises(ValueError, match=r"'a\.txt', which is no array"):
        read_npz(tmp_path / "texts.npz")
