import dataclasses

import jax
import numpy as np
import pytest

from bridge import teacher_bank
from bridge.teacher_bank import TeacherBank
from bridge.teacher_vectors import Vectors, has_vectors, read_vectors, write_vectors
from prmkd_jax.common import files
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.parts import make_in_parts
from prmkd_jax.common.sealed import read_sealed_json, write_sealed_json
from prmkd_jax.data.batches import TrainingBatches
from prmkd_jax.data.columns import in_batch_columns
from prmkd_jax.distill.teacher_scores import TeacherScores, TeacherTables, score_columns
from tests.checking import uncheck
from tests.worlds import BATCH_SIZE, MAX_SEQ_LEN, random_world, task_of

WORLD = random_world()
TASK = task_of(WORLD)
HISTORIES = WORLD.interactions
IDENTITY = {"teacher": "unisrec", "data": "0f3a", "instances": len(HISTORIES.items), "version": 1}
SCALES = (1 / 0.07, 1.0, 20.0)
WIDTHS = (48, 5, 33)


def drawn(teacher: int, rows: int) -> np.ndarray:
    rng = np.random.default_rng([teacher, rows])
    return rng.normal(size=(rows, WIDTHS[teacher])).astype(np.float32)


def write(folder, teacher=0, **changes):
    content = {
        "name": f"teacher{teacher}",
        "scale": SCALES[teacher],
        "identity": IDENTITY,
        "instances": drawn(teacher, len(HISTORIES.items)),
        "items": drawn(teacher, WORLD.num_items),
    }
    write_vectors(folder, **{**content, **changes})


@pytest.fixture
def written(tmp_path):
    """A folder below one that doesn't exist yet, with the vectors of teacher 0."""
    folder = tmp_path / "cache" / "teacher0"
    write(folder)
    return folder


@pytest.fixture(scope="module")
def vectors(tmp_path_factory) -> list[Vectors]:
    """Three teachers of different widths, read back from disk."""
    folder = tmp_path_factory.mktemp("teachers")
    for teacher in range(3):
        write(folder / str(teacher), teacher)
    return [read_vectors(folder / str(teacher), IDENTITY) for teacher in range(3)]


def some_batches():
    """Instances [B] and candidates [C] of an epoch's batches."""
    batches = TrainingBatches(TASK, MAX_SEQ_LEN, BATCH_SIZE, 0)
    for batch in batches.epoch(0):
        columns = in_batch_columns(TASK, batch, seen="out")
        yield batch.instance_ids, columns.candidates


def scored(bank: TeacherBank, instance_ids: np.ndarray, candidates: np.ndarray) -> TeacherScores:
    """The scores as the training step sees them."""
    if bank.tables is None:
        return bank.for_batch(instance_ids, candidates)
    return jax.jit(score_columns)(bank.tables, instance_ids, candidates)


def test_vectors_come_back_as_their_float16_values(written):
    """Rows and the scale are exact, and the tables stay on disk as memory maps."""
    assert has_vectors(written)
    vectors = read_vectors(written, IDENTITY)
    assert vectors.name == "teacher0"
    assert vectors.scale == 1 / 0.07
    for found, rows in ((vectors.instances, len(HISTORIES.items)), (vectors.items, 40)):
        np.testing.assert_array_equal(found, drawn(0, rows).astype(np.float16))
        assert found.dtype == np.float16
        assert isinstance(found, np.memmap)
    names = sorted(path.name for path in written.iterdir())
    assert names == ["instances.npy", "items.npy", "manifest.json"]


def test_vectors_written_again_replace_the_former(written):
    """A second write to the same folder is what the next read finds."""
    items = drawn(0, WORLD.num_items) + 1
    write(written, items=items)
    found = read_vectors(written, IDENTITY).items
    np.testing.assert_array_equal(found, items.astype(np.float16))


@pytest.mark.parametrize("file", ["instances.npy", "items.npy"])
@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "remove"])
def test_damaged_files_are_named(written, file, damage):
    """One line names a changed, cut, grown or missing file and says what to delete."""
    path = written / file
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-5] ^= 1
    elif damage == "cut":
        content = content[:-64]
    elif damage == "grow":
        content += b"\0"
    path.write_bytes(content)
    if damage == "remove":
        path.unlink()
    with pytest.raises(UserError, match=r"delete .* to encode again") as caught:
        read_vectors(written, IDENTITY)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", list(IDENTITY))
def test_vectors_of_something_else_are_refused(written, field):
    """A cache folder of another data set, setting or version is refused by its identity."""
    expected = {**IDENTITY, field: "another"}
    with pytest.raises(UserError, match=r"found .*, expected 'another'") as caught:
        read_vectors(written, expected)
    assert f"manifest.json: {field}: found {IDENTITY[field]!r}" in str(caught.value)
    with pytest.raises(UserError, match="new_field: found None, expected 3"):
        read_vectors(written, {**IDENTITY, "new_field": 3})


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "3", "{}", '{"files": {}}', '{"name": "x", "scale": 1.0}']
)
def test_a_damaged_manifest_is_named(written, content):
    """One line says which file to delete; there is no traceback."""
    (written / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=r"manifest\.json: unreadable .*delete") as caught:
        read_vectors(written, IDENTITY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["name", "scale", "identity", "files"])
def test_a_manifest_without_a_field_is_named(written, field):
    """A manifest of an older version ends in the same line, with the missing field."""
    path = written / "manifest.json"
    manifest = read_sealed_json(path)
    del manifest[field]
    write_sealed_json(path, manifest)
    with pytest.raises(UserError, match=f"manifest.json: unreadable .*{field}"):
        read_vectors(written, IDENTITY)


@pytest.mark.parametrize("scale", [-1.0, 0.0, float("nan"), float("inf")])
def test_a_scale_that_is_not_above_0_is_refused(tmp_path, scale):
    """With such a scale, dot products would rank upside down or say nothing."""
    line = f"scale is {scale}, expected a finite number above 0, that float32 can hold"
    with pytest.raises(UserError, match=f"^teacher teacher0: {line}"):
        write(tmp_path / "new", scale=scale)
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match=f"^teacher own: {line}"):
        Vectors("own", scale, drawn(0, 4), drawn(0, 3))


def test_stored_vectors_with_a_negative_scale_are_refused(written):
    """Vectors that an older version stored get the same check as new ones."""
    manifest = written / "manifest.json"
    write_sealed_json(manifest, {**read_sealed_json(manifest), "scale": -1.0})
    with pytest.raises(
        UserError, match=r"manifest\.json: scale is -1\.0, expected a finite number"
    ):
        read_vectors(written, IDENTITY)


def test_vectors_that_float16_would_make_zeros_are_refused(tmp_path):
    """Otherwise a distillation loss of 0.0 would pass for a distillation."""
    items = np.ones((3, 2), np.float32)
    items[1] = 1e-9
    with pytest.raises(UserError, match=r"items\.npy: row 1: found values up to 1e-09, expected"):
        write_vectors(
            tmp_path, name="t", scale=1.0, identity={}, instances=np.ones((2, 2)), items=items
        )
    with pytest.raises(UserError, match=r"instances\.npy: found zeros in all 2 rows"):
        write_vectors(
            tmp_path, name="t", scale=1.0, identity={}, instances=np.zeros((2, 2)), items=items
        )


def test_without_a_manifest_nothing_is_there(written):
    """Vectors of a run that was killed while it wrote them don't count."""
    (written / "manifest.json").unlink()
    assert not has_vectors(written)
    with pytest.raises(UserError, match=r"manifest\.json"):
        read_vectors(written, IDENTITY)
    assert not has_vectors(written / "missing")


@pytest.mark.parametrize("killed_at", [1, 2, 3])
def test_a_write_that_was_killed_does_not_count(tmp_path, monkeypatch, killed_at):
    """The manifest comes last, and an array gets its name only once it is complete."""
    calls = []

    def replace(source, target):
        calls.append(target.name)
        if len(calls) == killed_at:
            raise KeyboardInterrupt
        source.rename(target)

    monkeypatch.setattr(files.os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path)
    assert not has_vectors(tmp_path)
    monkeypatch.undo()
    write(tmp_path)
    assert read_vectors(tmp_path, IDENTITY).name == "teacher0"


@pytest.mark.parametrize("value", [70_000.0, -1e30, np.nan, np.inf])
@pytest.mark.parametrize("table", ["instances", "items"])
def test_values_that_float16_cannot_hold_are_refused(tmp_path, table, value):
    """An infinite score would turn every softmax of the distillation into nan."""
    rows = {"instances": len(HISTORIES.items), "items": WORLD.num_items}[table]
    array = drawn(0, rows)
    array[3, 2] = value
    with pytest.raises(UserError, match=f"teacher0: {table}.npy: row 3: found a value of"):
        write(tmp_path, **{table: array})
    assert not has_vectors(tmp_path)


@pytest.mark.parametrize("side", ["torch", "jax"])
def test_scores_equal_the_float64_product_of_the_stored_vectors(vectors, side):
    """Each row and column is gathered rightly, with its scale, in float32 precision."""
    bank = TeacherBank(vectors, [1, 1, 1], side)
    for instance_ids, candidates in some_batches():
        found = scored(bank, instance_ids, candidates)
        assert found.scores.dtype == np.float32
        assert found.scores.shape == (BATCH_SIZE, 3, BATCH_SIZE)
        assert found.available.shape == (BATCH_SIZE, 3)
        assert found.available.all()
        for one, teacher in zip(np.swapaxes(found.scores, 0, 1), vectors, strict=True):
            a = np.asarray(teacher.instances, float)[instance_ids] * teacher.scale
            b = np.asarray(teacher.items, float)[candidates]
            size = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
            assert (np.abs(one - a @ b.T) <= 1e-6 * size).all()


@pytest.mark.parametrize("side", ["torch", "jax"])
def test_a_row_of_zeros_is_an_instance_that_the_teacher_does_not_know(vectors, side):
    """Such an instance is marked unavailable for that teacher alone."""
    instances = np.array(vectors[1].instances)
    unknown = np.arange(len(instances)) % 3 == 0
    instances[unknown] = 0
    one, _, other = vectors
    partial = dataclasses.replace(vectors[1], instances=instances)
    bank = TeacherBank([one, partial, other], [1, 1, 1], side)
    for instance_ids, candidates in some_batches():
        found = np.asarray(scored(bank, instance_ids, candidates).available)
        assert found[:, [0, 2]].all()
        np.testing.assert_array_equal(found[:, 1], ~unknown[instance_ids])


def test_both_sides_agree(vectors):
    """PyTorch and JAX give the same scores, up to rounding."""
    sides = [TeacherBank(vectors, [1, 1, 1], side) for side in ("torch", "jax")]
    for instance_ids, candidates in some_batches():
        one, other = (np.asarray(scored(bank, instance_ids, candidates).scores) for bank in sides)
        largest = np.abs(one).max(axis=(0, 2), keepdims=True)
        assert (np.abs(one - other) <= 1e-6 * largest).all()


def test_the_tables_cross_once(vectors, monkeypatch):
    """JAX gets each table once, when the bank is made, and in float16."""
    crossings = []
    to_jax = teacher_bank.to_jax

    def watched(tensor, **options):
        crossings.append(tuple(tensor.shape))
        return to_jax(tensor, **options)

    monkeypatch.setattr(teacher_bank, "to_jax", watched)
    bank = TeacherBank(vectors, [1, 1, 1], "jax")
    tables = sorted(
        (*shape, width) for shape in ((len(HISTORIES.items),), (40,)) for width in WIDTHS
    )
    assert sorted(shape for shape in crossings if shape[-1] in WIDTHS) == tables
    assert isinstance(bank.tables, TeacherTables)
    assert {leaf.dtype.name for leaf in (*bank.tables.instances, *bank.tables.items)} == {"float16"}
    assert TeacherBank(vectors, [1, 1, 1], "torch").tables is None


def test_an_unknown_side_is_refused(vectors, monkeypatch):
    uncheck(teacher_bank, monkeypatch)
    with pytest.raises(ValueError, match="side: found 'numpy', expected one of jax, torch"):
        TeacherBank(vectors, [1, 1, 1], "numpy")


def test_scores_made_in_pytorch_are_left_alone(vectors):
    """Each batch has a buffer of its own, so JAX can still read the last one's scores."""
    bank = TeacherBank(vectors, [1, 1, 1], "torch")
    batches = list(some_batches())
    first = bank.for_batch(*batches[0])
    assert isinstance(first, TeacherScores)
    before = np.array(first.scores)
    kept = [bank.for_batch(*each) for each in batches[1:]]
    np.testing.assert_array_equal(first.scores, before)
    addresses = {scores.scores.unsafe_buffer_pointer() for scores in (first, *kept)}
    assert len(addresses) == len(batches)


def test_default_weights_are_shares(vectors):
    """The teachers' strengths are scaled to weights that sum to 1."""
    bank = TeacherBank(vectors, [0.02, 0.05, 0.03], "torch")
    np.testing.assert_allclose(bank.default_weights, [0.2, 0.5, 0.3], rtol=1e-12)
    assert bank.names == ("teacher0", "teacher1", "teacher2")


def test_teachers_without_any_strength_share_equally(vectors):
    """Where no teacher hits a target, the weights aren't 0 / 0."""
    bank = TeacherBank(vectors, [0.0, 0.0, 0.0], "torch")
    np.testing.assert_allclose(bank.default_weights, [1 / 3, 1 / 3, 1 / 3])


@pytest.mark.parametrize("side", ["torch", "jax"])
def test_vectors_on_disk_are_mapped_not_copied(vectors, side):
    """The addresses of the arrays show that no table is copied into memory."""
    bank = TeacherBank(vectors, [1, 1, 1], side)
    for k, teacher in enumerate(vectors):
        for name in ("instances", "items"):
            address = getattr(teacher, name).__array_interface__["data"][0]
            assert getattr(bank._sources[k], name).data_ptr() == address
            if bank.tables is not None:
                assert getattr(bank.tables, name)[k].unsafe_buffer_pointer() == address


def test_teachers_that_do_not_fit_the_device_are_asked_batch_by_batch(vectors, monkeypatch):
    """The scores don't depend on which tables fit the device."""
    sizes = [teacher.instances.nbytes + teacher.items.nbytes for teacher in vectors]
    monkeypatch.setattr(teacher_bank, "tables_room", lambda: sizes[1] + sizes[2])
    bank = TeacherBank(vectors, [1, 1, 1], "jax")
    assert [table is not None for table in bank.tables.items] == [False, True, True]
    complete = TeacherBank(vectors, [1, 1, 1], "torch")
    for instance_ids, candidates in some_batches():
        given = bank.for_batch(instance_ids, candidates)
        assert given.scores.shape[1] == 1
        found = jax.jit(score_columns)(bank.tables, instance_ids, candidates, given)
        wanted = complete.for_batch(instance_ids, candidates)
        largest = np.abs(wanted.scores).max(axis=(0, 2), keepdims=True)
        assert (np.abs(found.scores - wanted.scores) <= 1e-6 * largest).all()
        np.testing.assert_array_equal(found.available, wanted.available)


def test_parts_are_written_as_their_array_would_be(tmp_path):
    """Rows that are made in parts give the same file, byte for byte, as rows in one array."""
    rows = drawn(0, 25)
    parts = make_in_parts(tmp_path / "parts", 25, 10, lambda start, stop: rows[start:stop])
    for folder, instances in (("parts", parts), ("array", rows)):
        write(tmp_path / folder, instances=instances)
    one, other = (
        (tmp_path / folder / "instances.npy").read_bytes() for folder in ("parts", "array")
    )
    assert one == other
    np.testing.assert_array_equal(
        np.load(tmp_path / "parts" / "instances.npy"), rows.astype(np.float16)
    )


def test_a_fault_in_a_later_part_names_its_row(tmp_path):
    """The error counts rows over all parts: row 13, not row 3 of its part."""
    rows = drawn(0, 25)
    rows[13, 2] = np.nan
    parts = make_in_parts(tmp_path / "parts", 25, 10, lambda start, stop: rows[start:stop])
    with pytest.raises(UserError, match=r"instances\.npy: row 13: found a value of nan"):
        write(tmp_path / "out", instances=parts)
    assert not has_vectors(tmp_path / "out")
