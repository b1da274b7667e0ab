import numpy as np
import pytest
import torch

from prmkd_jax.common.errors import UserError
from teachers_torch.recbole_file import read_recbole

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3)}


def test_weights_saved_alone_and_with_the_rows_ids_are_read(tmp_path):
    """The weights need no `state_dict` around them, and ids come along where there are any."""
    tokens = {"item_id": ["[PAD]", "B01"]}
    for content, expected in (
        (WEIGHTS, {}),
        ({"state_dict": WEIGHTS}, {}),
        ({"state_dict": WEIGHTS, "field2id_token": tokens}, tokens),
    ):
        torch.save(content, tmp_path / "file.pth")
        found = read_recbole(tmp_path / "file.pth")
        assert found.tokens == expected
        assert list(found.weights) == ["a.weight"]
        assert torch.equal(found.weights["a.weight"], WEIGHTS["a.weight"])


@pytest.mark.parametrize("tokens", [["[PAD]"], {"item_id": np.array(["[PAD]"])}, {"item_id": [0]}])
def test_ids_that_are_no_texts_are_refused(tmp_path, tokens):
    """Only lists of texts are read, not numbers or arrays."""
    torch.save({"state_dict": WEIGHTS, "field2id_token": tokens}, tmp_path / "file.pth")
    with pytest.raises(UserError, match="field2id_token: found something else than a list"):
        read_recbole(tmp_path / "file.pth")


@pytest.mark.parametrize(
    ("ids", "line"),
    [
        (["[PAD]", "a", "b", "a"], "item_id: found 'a' twice, expected each id once"),
        (["a", "b"], r"item_id: found 'a' for row 0, expected '\[PAD\]'"),
        ([], r"item_id: found nothing for row 0, expected '\[PAD\]'"),
    ],
)
def test_ids_that_name_no_row_for_sure_are_refused(tmp_path, ids, line):
    """Of an id that stands twice the last row was taken; without [PAD] an item was lost."""
    content = {"state_dict": WEIGHTS, "field2id_token": {"item_id": ids}}
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(UserError, match=f"field2id_token: {line}"):
        read_recbole(tmp_path / "file.pth")


def test_an_empty_file_of_weights_is_refused(tmp_path):
    """The error says that no readable state_dict was found."""
    torch.save({}, tmp_path / "file.pth")
    with pytest.raises(UserError, match="found no readable state_dict"):
        read_recbole(tmp_path / "file.pth")
