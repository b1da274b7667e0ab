"""What the clock says, read back from a run's log."""

import json

import pytest

from experiments.stages.seconds import SECONDS, epoch_seconds, read_seconds, write_seconds
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.sealed import write_sealed_json

SOUND = [
    {"stage": "student", "run": "a", "epoch": epoch, "seconds": {"train": 2.0, "evaluate": epoch}}
    for epoch in (1, 2)
]


@pytest.mark.parametrize(
    "line",
    [
        '{"stage": "student"}',
        '{"stage": "student", "run": "a"}',
        '{"stage": "student", "run": "a", "epoch": 3}',
        '{"stage": "student", "run": "a", "epoch": "3", "seconds": {"train": 1, "evaluate": 1}}',
        '{"stage": "student", "run": "a", "epoch": 3, "seconds": {"train": 1}}',
        '{"stage": "student", "run": "a", "epoch": 3, "seconds": [1, 2]}',
        '{"stage": "student", "run": "a", "epoch": 3, "seconds": {"train": "x", "evaluate": 1}}',
        '["stage"]',
        '{"stage": "stu',
        "[" * 100_000,
    ],
)
def test_a_damaged_line_ends_no_training(tmp_path, line):
    """The line is skipped, and the lines before and after it are read."""
    log = tmp_path / "log.jsonl"
    first, last = map(json.dumps, SOUND)
    log.write_text(f"{first}\n{line}\n{last}\n")
    assert epoch_seconds(log, "a") == [each["seconds"] for each in SOUND]


@pytest.mark.parametrize(
    "content",
    [
        {"seeds": []},
        {"seeds": {"a": []}},
        {"seeds": {"0": 3}},
        {"seeds": {"0": [3]}},
        {"seeds": {"0": [{"train": 1.0}]}},
        {"seeds": {"0": [{"train": 1.0, "evaluate": "x"}]}},
        {"teachers": []},
        {"teachers": {"unisrec": 3}},
        {"teachers": {"unisrec": {"tune_seconds": None, "encode_seconds": 1}}},
    ],
)
def test_another_versions_seconds_are_refused_in_one_line(tmp_path, content):
    """A right digest doesn't suffice: the content has to be the seconds of a run."""
    write_sealed_json(tmp_path / SECONDS, content)
    with pytest.raises(UserError, match=r"timing\.json: found something else than the seconds"):
        read_seconds(tmp_path)


def test_seconds_are_read_as_they_were_written(tmp_path):
    content = {
        "seeds": {"0": [{"train": 1.5, "evaluate": 1}]},
        "teachers": {"unisrec": {"tune_seconds": 3.0, "encode_seconds": 0.5}},
    }
    assert read_seconds(tmp_path) == {}
    write_sealed_json(tmp_path / SECONDS, content)
    assert read_seconds(tmp_path) == content


def test_a_teachers_test_is_told_apart_from_its_tuning(tmp_path):
    """A card of an earlier version has it in the tuning, and no entry of its own."""
    card = {"seconds": 3.0, "encode_seconds": 0.5, "test_seconds": 0.25}
    earlier = {**card, "test_seconds": None}
    write_seconds(tmp_path, 0, [], {"unisrec": card, "unim2rec": earlier})
    assert read_seconds(tmp_path)["teachers"] == {
        "unisrec": {"tune_seconds": 3.0, "test_seconds": 0.25, "encode_seconds": 0.5},
        "unim2rec": {"tune_seconds": 3.0, "encode_seconds": 0.5},
    }
