import dataclasses

import numpy as np
import pytest

from prmkd_jax.common.errors import UserError
from teachers_torch.config import TextConfig
from teachers_torch.items.text_files import features_digest, read_text_features
from tests.teachers_torch.worlds import ring_world

DATASET = dataclasses.replace(ring_world(items=4), name="toy", item_ids=("b", "a", "d", "c"))
ROWS = np.random.default_rng(0).normal(size=(5, 768)).astype("<f4")
NUMBERING = "a\t0\nb\t1\nz\t2\nc\t3\nd\t4\n"


@pytest.fixture
def config(tmp_path):
    ROWS.tofile(tmp_path / "toy.feat1CLS")
    (-ROWS).tofile(tmp_path / "toy.feat2CLS")
    (tmp_path / "toy.item2index").write_text(NUMBERING)
    return TextConfig(text_features=str(tmp_path / "{dataset}.feat1CLS"))


def test_rows_follow_the_numbering_beside_the_file(config):
    """Rows come in the order of our items, those of the word-dropped texts too."""
    np.testing.assert_array_equal(read_text_features(config, DATASET), ROWS[[1, 0, 4, 3]])
    dropped = read_text_features(config, DATASET, dropped=True)
    np.testing.assert_array_equal(dropped, -ROWS[[1, 0, 4, 3]])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("toy.feat1CLS", ROWS[:4].tobytes(), r"found 3072 numbers, expected 5 × 768"),
        ("toy.feat1CLS", None, r"toy\.feat1CLS: found no such file"),
        ("toy.item2index", None, r"toy\.item2index: found no readable file"),
        ("toy.item2index", b"a\t0\nb 1\n", r"toy\.item2index, line 2: found 'b 1'"),
        ("toy.item2index", b"a\t0\na\t1\n", r"line 2: found 'a\\t1'"),
        ("toy.item2index", b"a\t0\nb\t2\n", "found rows with a gap"),
        ("toy.item2index", NUMBERING.replace("d", "e").encode(), "found no item 'd' \\(1 missing"),
        ("toy.feat1CLS", (ROWS * np.nan).tobytes(), "item 'b': found nan or inf"),
    ],
)
def test_damage_is_told_in_one_line(config, tmp_path, file, content, message):
    """A wrong size, a bad line, a missing item and NaN are each named."""
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_text_features(config, DATASET)
    assert "\n" not in str(caught.value)


def test_another_kind_of_file_is_refused():
    """An .npy file isn't read as raw numbers, its header included."""
    with pytest.raises(UserError, match=r"found 'x\.npy', expected a \.feat1CLS file"):
        read_text_features(TextConfig(text_features="x.npy"), DATASET)


def test_digest_changes_with_vectors_and_numbering_only(config, tmp_path):
    """The word-dropped texts' file doesn't count, and a missing numbering is an error."""
    seen = [features_digest(config, "toy")]
    (tmp_path / "toy.feat2CLS").unlink()
    assert features_digest(config, "toy") == seen[0]
    (-ROWS).tofile(tmp_path / "toy.feat1CLS")
    seen.append(features_digest(config, "toy"))
    (tmp_path / "toy.item2index").write_text(NUMBERING.replace("z", "y"))
    seen.append(features_digest(config, "toy"))
    assert len(set(seen)) == 3
    (tmp_path / "toy.item2index").unlink()
    with pytest.raises(UserError, match=r"toy\.item2index: found no such file"):
        features_digest(config, "toy")
