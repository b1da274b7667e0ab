"""The same run on several devices: losses, gradients, ranks and metrics are one device's."""

import jax
import numpy as np
import pytest

from prmkd_jax.common.errors import UserError
from prmkd_jax.evaluate.metrics import ranking_metrics
from prmkd_jax.students.config import BUILT_IN
from prmkd_jax.students.tables import Divided, pad_tables, tables_of, trim_tables
from prmkd_jax.train.devices import asked_mesh
from prmkd_jax.train.optim import make_optimizer
from prmkd_jax.train.run import fresh_student
from prmkd_jax.train.sharding import make_mesh
from prmkd_jax.train.step import init_state
from tests.devices import run_on_devices
from tests.worlds import make_run, random_world, same_bits, student_config

SHAPES = ("1x1", "2x1", "1x4", "2x4")
"""1, 2, 4 and 8 devices."""
MORE_SHAPES = ("1x1", "1x2", "8x1", "1x8", "2x4>1x2", "1x4>1x1")


ROUNDED = {"deepfm": {"out.kernel": 1e-5}}
"""Gradients that float32 gives no better: DeepFM's last layer sums terms of both signs over all
pairs of an instance and a drawn item. On one device it is 5.2e-6 of the largest entry from
float64's, all its others 2e-7 or less."""


def trained(folder, student: str, kind: str, *shapes: str) -> dict:
    asked = ("tests.train.meshes", str(folder), student, kind, *shapes)
    return run_on_devices(8, "-m", *asked, seconds=900)


def require_same(found: dict, student: str = "") -> None:
    """What is added up in another order to float32's digits; ranks of equal weights exactly."""
    rounded = ROUNDED.get(student, {})
    one = found["1x1"]
    largest = max(np.abs(array).max() for array in one["gradients"].values())
    for shape, other in found.items():
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-6), shape
        assert other["losses"] == pytest.approx(one["losses"], rel=1e-5), shape
        for name, array in one["gradients"].items():
            error = np.abs(np.subtract(other["gradients"][name], array)).max()
            assert error < rounded.get(name, 1e-6) * largest, (shape, name)
        for exact in ("ranks", "unseen", "best"):
            assert other[exact] == one[exact], (shape, exact)
        assert other["confidence"] == pytest.approx(one["confidence"], rel=1e-5), shape
        metrics = [ranking_metrics(np.array(each["test"])) for each in (one, other)]
        assert metrics[1] == pytest.approx(metrics[0], abs=1e-3), shape


def require_planned(found: dict, kind: str) -> None:
    """The bytes that a step of the test's SASRec sends from each device, as docs/accelerators.md.

    64 slots, instances and columns; vectors of 12, three teachers' of 4, 5 and 6 together.
    """
    count, vector, others = 64, 4 * 12, 4 * 1030
    taught = 4 * 15 if kind == "distilled" else 0
    columns = count if taught else 0
    for shape, each in found.items():
        data, model = map(int, shape.split(">")[-1].split("x"))
        part = -(-43 // model) * vector
        share = count / data
        # An all-reduce passes every byte around the ring but for the device's own part, twice.
        ring = {size: 2 * (size - 1) / size for size in (data, model)}
        rows = (share + columns + 2) * vector + (share + columns) * taught
        scores = share * (vector + 3 * 4) + (3 * share if taught else 0)
        gradients = others + columns * vector + 2 * part
        planned = ring[model] * (rows + scores) + ring[data] * gradients
        sent = sum(bytes_sent for *_, bytes_sent in each["sent"])
        assert sent == pytest.approx(planned, rel=0.02), shape


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "distilled"])
@pytest.mark.parametrize("student", sorted({*BUILT_IN} - {"sasrec"}))
def test_every_student_learns_the_same_on_every_mesh(tmp_path, student, kind):
    """Padding rows and divided negatives or items change nothing."""
    require_same(trained(tmp_path, student, kind, *SHAPES), student)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "distilled"])
def test_sasrec_does_too_and_sends_what_was_planned(tmp_path, kind):
    """No step gathers a table: each of four devices holds 11 of the 43 rows."""
    found = trained(tmp_path, "sasrec", kind, *SHAPES)
    require_same(found)
    require_planned(found, kind)
    # 43 rows on four devices, in parameters and moments alike.
    assert found["2x4"]["lies"] == found["1x4"]["lies"] == [[11, 12]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["closed", "catalogue"])
def test_other_columns_are_the_same_on_every_mesh(tmp_path, kind):
    """The best items are those of all devices' parts, not of one."""
    require_same(trained(tmp_path, "sasrec", kind, *SHAPES))


@pytest.mark.slow
def test_a_run_goes_on_on_another_mesh_and_other_shapes_are_the_same(tmp_path):
    """A saved state fits a mesh of another shape and number of devices."""
    found = trained(tmp_path, "sasrec", "distilled", *MORE_SHAPES)
    require_same(found)
    require_planned(found, "distilled")


def test_tables_are_filled_up_by_name_in_parameters_and_moments(tmp_path):
    """Other arrays with as many rows stay as they are, and trimming undoes the filling."""
    run = make_run(random_world(items=43), tmp_path, student=student_config())
    _, params = fresh_student(run)
    tables = tables_of(params, run.facts)
    assert [(table.name, table.rows) for table in tables] == [("item_embedding.table", 43)]
    state = init_state(params, make_optimizer(run.train), 0)
    padded = pad_tables(state, tables, 4)
    assert padded.params["item_embedding"]["table"].shape == (44, 12)
    moments = [
        leaf for leaf in map(np.shape, jax.tree.leaves(padded.opt_state)) if leaf and leaf[0] == 44
    ]
    assert len(moments) == 2
    assert not np.asarray(padded.params["item_embedding"]["table"])[43].any()
    assert same_bits(trim_tables(padded, tables), state)
    assert same_bits(pad_tables(padded, tables, 4), padded)


def test_one_device_has_nothing_to_place():
    """The very same tree comes back, without a copy."""
    tree = {"table": np.ones(3)}
    assert Divided().place(tree) is tree
    assert Divided().whole(tree) is tree


LONG = "1" * 5000 + "x1"
"""More digits than Python reads as a number."""


@pytest.mark.parametrize(
    "text", ["2", "x4", "2x", "0x1", "2x4x1", "two x four", "-1x2", "²x1", "٣x1", LONG]
)
def test_another_text_than_two_numbers_is_refused(monkeypatch, text):
    """The error names $PRMKD_MESH and gives an example, for digits of other scripts too."""
    monkeypatch.setenv("PRMKD_MESH", text)
    with pytest.raises(
        UserError, match=r"\$PRMKD_MESH: found .*, expected DATAxMODEL, such as 2x4"
    ):
        asked_mesh()


def test_more_devices_than_there_are_or_rows_that_cannot_be_divided_are_refused(monkeypatch):
    """The error says how many devices are here, and 1x1 takes any number of rows."""
    monkeypatch.setenv("PRMKD_MESH", "2x4")
    with pytest.raises(UserError, match="found 2x4, expected at most the 1 devices here"):
        make_mesh(8)
    monkeypatch.setenv("PRMKD_MESH", "1x1")
    assert dict(make_mesh(3).shape) == {"data": 1, "model": 1}
