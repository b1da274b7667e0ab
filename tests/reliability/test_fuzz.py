"""Each reader of a file that somebody else made, on damaged and on arbitrary ones."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import run, targets
from tests.reliability.damage import damaged

_QUICK = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("name", targets())
def test_a_damaged_file_is_read_or_refused_in_one_line(name, tmp_path):
    """There is no traceback and no reader that hangs."""
    target = targets()[name]

    @_QUICK
    @given(st.sampled_from(target.sound), st.integers(0, 2**32))
    def check(content, seed):
        run(target, tmp_path, damaged(content, random.Random(seed)))

    check()


@pytest.mark.parametrize("name", targets())
def test_any_bytes_are_read_or_refused_in_one_line(name, tmp_path):
    """Text, another format and an empty file are among the bytes."""
    target = targets()[name]

    @_QUICK
    @given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
    def check(content):
        run(target, tmp_path, content)

    check()


SOUND = sorted(set(targets()) - {"card", "results", "sealed"})  # parts of files, for their fields


@pytest.mark.parametrize("name", SOUND)
def test_the_sound_files_are_accepted(name, tmp_path):
    """Each reader reads its sound files to the end, so damage reaches all of its checks."""
    assert all(run(targets()[name], tmp_path, content) for content in targets()[name].sound)
