import numpy as np
import pytest

from teachers_torch.shards import encode_in_shards


class Counting:
    """A teacher whose vectors tell the instance, and that notes what it was asked for."""

    name, start, score_scale, num_parameters, table_bytes = "counting", "nothing", 1.0, 0, 0

    def __init__(self, killed_at=None):
        self.asked, self.killed_at = [], killed_at

    def encode_instances(self, instance_ids):
        """Vectors; is killed at one of them."""
        if self.killed_at in instance_ids:
            raise KeyboardInterrupt
        self.asked.extend(instance_ids)
        return np.stack([instance_ids, instance_ids / 3], axis=1).astype(np.float32)

    def encode_items(self):
        """No shard needs them."""
        raise AssertionError


def encode(teacher, folder, progress=lambda done, total: None):
    return encode_in_shards(teacher, 25, folder, progress, shard_size=10).array()


def test_all_instances_in_order(tmp_path):
    """No instance is lost or repeated between shards, and the progress counts up to 25."""
    teacher, told = Counting(), []
    found = encode(teacher, tmp_path / "shards", lambda done, total: told.append((done, total)))
    expected = np.stack([np.arange(25), np.arange(25) / 3], axis=1).astype(np.float32)
    np.testing.assert_array_equal(found, expected)
    assert teacher.asked == list(range(25))
    assert told == [(10, 25), (20, 25), (25, 25)]


def test_finished_shards_are_not_encoded_again(tmp_path):
    """After a kill only the shards that weren't finished are encoded."""
    first = Counting(killed_at=17)
    with pytest.raises(KeyboardInterrupt):
        encode(first, tmp_path)
    assert first.asked == list(range(10))
    second = Counting()
    found = encode(second, tmp_path)
    assert second.asked == list(range(10, 25))
    np.testing.assert_array_equal(found, encode(Counting(killed_at=0), tmp_path))
    np.testing.assert_array_equal(found[:, 0], np.arange(25))


def test_one_shard_is_in_memory_at_a_time(tmp_path):
    """25 rows in shards of 10 are read as parts of 10, 10 and 5, each from a file."""
    parts = encode_in_shards(Counting(), 25, tmp_path, lambda done, total: None, shard_size=10)
    assert [len(part) for part in parts] == [10, 10, 5]
    assert parts.rows == 25
    assert all(file.parent == tmp_path for file in parts.files)
