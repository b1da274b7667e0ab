"""What unfinished answers are known by."""

import pytest

from experiments.stages.recommend import _source
from prmkd_jax.common.errors import UserError
from prmkd_jax.serve.config import RecommendConfig


def test_a_history_of_ids_with_commas_is_another_one():
    """Another history's unfinished answers, taken for one's own."""
    found = [_source(RecommendConfig(history=ids))[0] for ids in (("a,b",), ("a", "b"))]
    assert found[0] != found[1]


def test_an_input_that_changes_while_it_is_answered_is_told(tmp_path):
    """Answers of which nobody knows to what, in one file."""
    path = tmp_path / "asked.jsonl"
    path.write_text('{"history": ["a"]}\n' * 3)
    _, histories, total = _source(RecommendConfig(input=str(path)))
    assert len(list(histories(0))) == total == 3
    asked = histories(1)
    next(asked)
    path.write_text('{"history": ["b"]}\n' * 3)
    told = r"--input: found .*asked\.jsonl changed while it was read"
    with pytest.raises(UserError, match=told):
        list(asked)
    # Nor does one line of another file get by, which stays among the answers of the next call.
    (tmp_path / "long.jsonl").write_text('{"history": ["a"]}\n' * 20_000)
    path = tmp_path / "long.jsonl"
    _, histories, _ = _source(RecommendConfig(input=str(path)))
    asked = histories(0)
    next(asked)
    before = path.read_text()
    path.write_text(before.replace("a", "b"))
    with pytest.raises(UserError, match="changed while it was read"):
        list(asked)
