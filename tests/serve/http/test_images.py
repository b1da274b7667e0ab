"""The list of images that the service shows: read as text ids, or refused in a line."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prmkd_jax.common.errors import UserError
from prmkd_jax.serve.http.images import read_images


def test_files_are_below_the_list_and_other_kinds_are_left_out(tmp_path):
    named = {"item_id": ["a", "b", "c"], "image_path": ["images/a.png", "b.svg", None]}
    pq.write_table(pa.table(named), tmp_path / "items.parquet")
    images = read_images(str(tmp_path / "items.parquet"))
    assert images.files == {"a": tmp_path / "images" / "a.png"}
    assert images.address("a") == "images?item=a"
    assert images.address("b") is None


@pytest.mark.parametrize("ids", [[1, 2], [["a"], ["b"]]], ids=["numbers", "lists"])
def test_ids_that_are_no_text_are_refused(ids, tmp_path):
    """Numbers would match no item, and no image would ever be shown."""
    pq.write_table(
        pa.table({"item_id": ids, "image_path": ["a.png", "b.png"]}), tmp_path / "i.parquet"
    )
    with pytest.raises(UserError, match=r"found item_id of type .*, expected items\.parquet"):
        read_images(str(tmp_path / "i.parquet"))


@pytest.mark.parametrize("column", ["item_id", "image_path"])
def test_a_date_that_no_calendar_has_is_refused_before_it_is_read(tmp_path, column):
    table = {"item_id": ["a"], "image_path": ["a.png"]} | {
        column: pa.array([2**31 - 1], pa.date32())
    }
    pq.write_table(pa.table(table), tmp_path / "i.parquet")
    with pytest.raises(UserError, match=rf"found {column} of type date32.*, expected items\.parq"):
        read_images(str(tmp_path / "i.parquet"))
