"""Ranked lists in a folder: what is in them is scored, what is wrong in them is named."""

import numpy as np
import pytest

from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from teachers_torch.config import PrecomputedConfig
from teachers_torch.given.precomputed import KIND
from teachers_torch.registry import identity
from teachers_torch.settings import TeacherSettings
from teachers_torch.tuning import evaluate
from tests.worlds import from_histories, task_of

TASK = task_of(from_histories([[0, 1, 2, 3], [3, 2, 1], [1, 0, 2]], 5))
# Lists of the ten instances; the first of each user is empty, and so is u2's second.
LISTS = [[], [1, 4], [2], [3, 0], [], [2], [1, 0, 4], [], [], [2, 1]]


def write(folder, **changes):
    """The files, some of them replaced or, by None, removed."""
    ids = [item for row in LISTS for item in row]
    files = {
        "offsets": np.cumsum([0, *map(len, LISTS)]),
        "ids": np.array(ids, dtype=np.uint16),
        "values": np.arange(len(ids), 0, -1).astype(np.float16),
        "rest": None,
        **changes,
    }
    folder.mkdir(exist_ok=True)
    for name, array in files.items():
        if array is not None:
            np.save(folder / f"{name}.npy", array)
    return folder


def settings(folder, **options):
    config = PrecomputedConfig(folder=str(folder), **options)
    return TeacherSettings(of={PrecomputedConfig: config})


def build(folder, **options):
    return KIND.build(TASK, settings(folder, **options), Cache(folder / "cache"), print)


def test_lists_are_scored(tmp_path):
    """Listed items have the scaled value, others the list's lowest; an empty list gives NaN."""
    found = build(write(tmp_path), scale=2.0).score(np.arange(10), np.arange(5))
    value = iter(range(11, 0, -1))
    for row, items in zip(found, LISTS, strict=True):
        if not items:
            assert np.isnan(row).all()
            continue
        values = {item: 2 * next(value) for item in items}
        assert row.tolist() == [values.get(item, min(values.values())) for item in range(5)]


@pytest.mark.parametrize("name", ["offsets", "ids", "values"])
def test_a_file_that_changes_while_it_is_read_is_told(tmp_path, name):
    """It is mapped and read through all of a training; what was learned is of the former one."""
    teacher = build(write(tmp_path))
    teacher.score(np.arange(10), np.arange(5))
    path = tmp_path / f"{name}.npy"
    np.save(path, np.load(path) + 1)
    with pytest.raises(UserError, match=rf"{name}\.npy: found it changed while it was read"):
        teacher.score(np.arange(10), np.arange(5))


def test_a_rest_that_leads_nowhere_is_refused(tmp_path):
    """A rest.npy that links to nothing is an error, not replaced by each list's lowest value."""
    write(tmp_path)
    (tmp_path / "rest.npy").symlink_to(tmp_path / "gone")
    told = r"rest\.npy: found a link to nothing, expected a file"
    with pytest.raises(UserError, match=told):
        build(tmp_path)
    with pytest.raises(UserError, match=told):
        KIND.settings(TASK, settings(tmp_path))


@pytest.mark.parametrize("rest", [np.array(-7.5), np.arange(10) - 20.0])
def test_the_rest_may_be_given(tmp_path, rest):
    """One number holds for all instances, or each instance has its own."""
    found = build(write(tmp_path, rest=rest.astype(np.float32))).score(np.array([3]), np.array([1]))
    assert found.tolist() == [[float(np.broadcast_to(rest, 10)[3])]]


def test_an_unknown_instance_ties_all_items(tmp_path):
    """All 5 items tie at the expected rank 3, so Recall@5 is 1 and NDCG@5 between 0 and 1."""
    scores = evaluate(build(write(tmp_path)), TASK, np.array([7, 8]))
    assert scores["Recall@5"] == 1.0  # 5 items, expected rank 3
    assert 0 < scores["NDCG@5"] < 1


def test_the_contents_make_the_identity(tmp_path):
    """Equal lists in two folders share a cache key; another rest or other values change it."""

    def key(folder, **changes):
        return identity("precomputed", TASK, settings(write(folder, **changes)), 0).key

    assert key(tmp_path / "a") == key(tmp_path / "b")
    assert key(tmp_path / "c", rest=np.array(0.0)) != key(tmp_path / "a")
    values = np.arange(11).astype(np.float16)
    assert key(tmp_path / "d", values=values) != key(tmp_path / "a")


def read(folder):
    """What a command does before it trains."""
    KIND.settings(TASK, settings(folder))
    KIND.check(TASK, settings(folder), Cache(folder / "cache"))


OFFSETS = np.cumsum([0, *map(len, LISTS)])
IDS = np.array([item for row in LISTS for item in row])
MISTAKES = {
    "offsets.npy: found dtype float64, expected integers": {"offsets": OFFSETS * 1.0},
    "offsets.npy: found shape [10], expected [11]": {"offsets": OFFSETS[1:]},
    "offsets.npy: found 1 at place 0, expected 0": {"offsets": np.maximum(OFFSETS, 1)},
    "offsets.npy: found 2 at place 3 after 9, expected none lower": {
        "offsets": np.array([0, 0, 9, 2, 5, 5, 6, 9, 9, 9, 11])
    },
    "ids.npy: found shape [10], expected [11]": {"ids": IDS[1:]},
    "ids.npy: found dtype float64, expected integers": {"ids": IDS / 1},
    "ids.npy: found dtype timedelta64[s], expected integers": {"ids": IDS.astype("m8[s]")},
    "ids.npy: entry 2: found item 5, expected 0 to 4": {"ids": np.where(IDS == 2, 5, IDS)},
    "ids.npy: entry 0: found item -1, expected 0 to 4": {"ids": IDS - 2},
    "ids.npy: instance 6: found item 1 twice, expected it once": {
        "ids": np.where(np.arange(11) == 7, 1, IDS)
    },
    "values.npy: no such file, expected the teacher's": {"values": None},
    "values.npy: found dtype int64, expected floats": {"values": IDS},
    "values.npy: entry 4: found nan or inf, expected finite numbers": {
        "values": np.where(np.arange(11) == 4, np.inf, 1.0)
    },
    "rest.npy: found shape [3], expected [] or [10]": {"rest": np.zeros(3)},
    "rest.npy: found nan or inf, expected finite numbers": {"rest": np.array(np.nan)},
    "found both offsets.npy and instances.npy, expected ranked lists or vectors": {
        "instances": np.ones((10, 2))
    },
}


@pytest.mark.parametrize("line", list(MISTAKES))
def test_mistakes_are_named_in_one_line(tmp_path, line):
    """Each mistake in the files gives one line that says what was found, without a traceback."""
    write(tmp_path, **MISTAKES[line])
    with pytest.raises(UserError) as caught:
        read(tmp_path)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lists_are_not_normalised(tmp_path):
    """With lists, --precomputed_normalize is an error and not ignored."""
    with pytest.raises(UserError, match="--precomputed_normalize: found True, expected False"):
        build(write(tmp_path), normalize=True)


def test_no_folder_is_told(tmp_path):
    """The working directory isn't read instead: an error says that a folder is expected."""
    with pytest.raises(UserError, match="--precomputed_folder: found nothing, expected a folder"):
        KIND.settings(TASK, TeacherSettings())
    with pytest.raises(UserError, match=r"instances\.npy: no such file, expected the teacher's"):
        KIND.settings(TASK, settings(tmp_path))
