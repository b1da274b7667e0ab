import re

import numpy as np
import pytest

from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.task import make_task
from teachers_torch.config import PrecomputedConfig
from teachers_torch.given.precomputed import KIND, PrecomputedTeacher, content_digest
from teachers_torch.settings import TeacherSettings
from tests.teachers_torch.worlds import ring_world

DATASET = ring_world(users=4, items=6, length=5)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {"instances": rng.normal(size=(20, 3)), "items": rng.normal(size=(6, 3))}


def write(folder, arrays):
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def test_rows_are_the_given_ones_in_float32(tmp_path, arrays):
    """The scale is the teacher's score scale and isn't applied to the vectors."""
    write(tmp_path, arrays)
    teacher = PrecomputedTeacher(PrecomputedConfig(folder=str(tmp_path), scale=7.0), DATASET)
    ids = np.array([3, 19, 1])
    np.testing.assert_allclose(teacher.encode_instances(ids), arrays["instances"][ids], rtol=1e-6)
    np.testing.assert_allclose(teacher.encode_items(), arrays["items"], rtol=1e-6)
    assert teacher.encode_items().dtype == teacher.encode_instances(ids).dtype == np.float32
    assert (teacher.score_scale, teacher.table_bytes) == (7.0, 6 * 3 * 4)


def test_normalize_makes_the_dot_a_cosine(tmp_path, arrays):
    """Instances and items both get length 1, and an unused row of zeros stays zero."""
    arrays["instances"][5] = 0
    write(tmp_path, arrays)
    teacher = PrecomputedTeacher(PrecomputedConfig(folder=str(tmp_path), normalize=True), DATASET)
    instances, items = teacher.encode_instances(np.arange(20)), teacher.encode_items()
    norms = np.linalg.norm(arrays["items"], axis=1, keepdims=True)
    np.testing.assert_allclose(items, arrays["items"] / norms, rtol=1e-5)
    assert (instances[5] == 0).all()
    np.testing.assert_allclose(np.linalg.norm(np.delete(instances, 5, 0), axis=1), 1, rtol=1e-5)


def spoil(arrays, name, row, value):
    arrays[name][row, 1] = value


MISTAKES = [
    (lambda a: a.pop("items"), r"items\.npy: no such file"),
    (lambda a: a.update(items=a["items"][:5]), r"items\.npy: found shape \[5, 3\], expected \[6, "),
    (lambda a: a.update(items=a["items"][:, 0]), r"items\.npy: found shape \[6\], expected \[6, "),
    (
        lambda a: a.update(instances=a["instances"][:19]),
        r"instances\.npy: found shape \[19, 3\], expected \[20, 3\]",
    ),
    (
        lambda a: a.update(instances=a["instances"][:, :2]),
        r"instances\.npy: found shape \[20, 2\], expected \[20, 3\]",
    ),
    (
        lambda a: a.update(items=np.ones((6, 3), dtype=np.int64)),
        r"items\.npy: found dtype int64, expected floats",
    ),
    (lambda a: spoil(a, "instances", 17, np.nan), r"instances\.npy: row 17: found nan or inf"),
    (lambda a: spoil(a, "items", 2, np.inf), r"items\.npy: row 2: found nan or inf"),
]


@pytest.mark.parametrize(("mistake", "message"), MISTAKES)
def test_wrong_arrays_are_refused(tmp_path, arrays, mistake, message, monkeypatch):
    """Wrong shapes, types and values are found when the files are read."""
    monkeypatch.setattr("teachers_torch.given.precomputed.ROWS_AT_ONCE", 8)
    mistake(arrays)
    write(tmp_path, arrays)
    with pytest.raises(UserError, match=message):
        PrecomputedTeacher(PrecomputedConfig(folder=str(tmp_path)), DATASET)


@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY\x01\x00"])
def test_a_file_that_is_no_array_is_refused(tmp_path, arrays, content):
    """An empty, foreign or cut-off file is a UserError that names it."""
    write(tmp_path, arrays)
    (tmp_path / "items.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"items\.npy: found no \.npy array"):
        PrecomputedTeacher(PrecomputedConfig(folder=str(tmp_path)), DATASET)


def test_a_folder_must_be_given():
    """Without --precomputed_folder there is an error; the working directory isn't searched."""
    with pytest.raises(UserError, match="--precomputed_folder: found nothing"):
        PrecomputedTeacher(PrecomputedConfig(), DATASET)


def test_the_digest_is_of_the_content(tmp_path, arrays):
    """A changed file changes the digest; the same content in another folder doesn't."""
    digests = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, arrays)
        digests.append(content_digest(PrecomputedConfig(folder=str(tmp_path / name))))
        arrays["items"][0, 0] += 1
    write(tmp_path / "b", {"items": np.load(tmp_path / "a" / "items.npy")})
    digests.append(content_digest(PrecomputedConfig(folder=str(tmp_path / "b"))))
    assert digests[0] == digests[2] != digests[1]


def settings_of(**config):
    return TeacherSettings(of={PrecomputedConfig: PrecomputedConfig(**config)})


@pytest.mark.parametrize("name", ["instances", "items"])
@pytest.mark.parametrize(
    ("value", "told"),
    [
        (1e6, "row 4: found a value of 1e+06, expected finite ones up to 65504, for float16"),
        (1e300, "row 4: found a value of inf, expected finite ones up to 65504, for float16"),
        (1e-9, "row 4: found values up to 1e-09, expected larger ones, for float16"),
    ],
)
def test_vectors_that_float16_cannot_hold_are_told_at_the_check(
    name, value, told, tmp_path, arrays
):
    """Before any teacher is tuned, the message names file, row and value."""
    arrays[name][4] = [0, value, 0]
    write(tmp_path, arrays)
    settings = settings_of(folder=str(tmp_path))
    with pytest.raises(UserError, match=f"^{tmp_path}/{name}.npy: {re.escape(told)}"):
        KIND.check(make_task(DATASET), settings, Cache(tmp_path))
    if value < 1e300:  # normalised, it is 1
        unit = settings_of(folder=str(tmp_path), normalize=True)
        KIND.check(make_task(DATASET), unit, Cache(tmp_path))


def test_vectors_of_zeros_alone_are_told_at_the_check(tmp_path, arrays):
    """A teacher whose instances are all zero is refused before any teacher is tuned."""
    write(tmp_path, {**arrays, "instances": arrays["instances"] * 0})
    settings = settings_of(folder=str(tmp_path))
    with pytest.raises(UserError, match=r"instances\.npy: found zeros in all 20 rows, expected ve"):
        KIND.check(make_task(DATASET), settings, Cache(tmp_path))
