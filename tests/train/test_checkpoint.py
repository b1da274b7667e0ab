import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.sealed import write_sealed_json
from prmkd_jax.train.checkpoint import _digests, load_checkpoint, save_checkpoint
from tests.worlds import same_bits

PROGRESS = {
    "epoch": 7,
    "best": 0.1 + 0.2,
    "finished": False,
    "history": [{"loss": 1e-45, "validation": {"NDCG@10": 1 / 3}}, {"loss": 3.0}],
}


def some_state(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "params": {
            "table": jnp.asarray(rng.normal(size=(5, 3)), jnp.float32),
            "blocks": {0: {"half": jnp.asarray(rng.normal(size=4), jnp.bfloat16)}},
        },
        "step": jnp.int32(12345),
        "key": jnp.asarray([1, 2**32 - 1], jnp.uint32),
        "special": jnp.asarray([np.nan, -0.0, np.inf, 1e-42], jnp.float32),
    }


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_state_and_progress_come_back_bit_for_bit(tmp_path):
    """Types, values and the order of the leaves stay the same."""
    save_checkpoint(tmp_path / "run", 7, some_state(), PROGRESS)
    state, progress = load_checkpoint(tmp_path / "run", some_state(seed=1))
    assert same_bits(state, some_state())
    assert progress == PROGRESS


def test_nothing_saved_is_nothing_to_load(tmp_path):
    """A missing folder and one with other files give None, so --resume starts from scratch."""
    assert load_checkpoint(tmp_path / "missing", some_state()) is None
    (tmp_path / "notes.txt").write_text("mine")
    assert load_checkpoint(tmp_path, some_state()) is None


def test_the_last_two_checkpoints_stay(tmp_path):
    """Epoch 10 comes after 9, and the newest checkpoint is loaded."""
    for epoch in (7, 8, 9, 10):
        save_checkpoint(tmp_path, epoch, some_state(epoch), {"epoch": epoch})
    assert names(tmp_path) == ["epoch_10", "epoch_9"]
    state, progress = load_checkpoint(tmp_path, some_state())
    assert same_bits(state, some_state(10))
    assert progress == {"epoch": 10}


def test_an_epoch_saved_again_replaces_the_former(tmp_path):
    """The save that came last is loaded, even if a later epoch was saved before it."""
    save_checkpoint(tmp_path, 1, some_state(1), {"run": 1})
    save_checkpoint(tmp_path, 2, some_state(1), {"run": 1})
    save_checkpoint(tmp_path, 1, some_state(2), {"run": 2})
    save_checkpoint(tmp_path, 1, some_state(3), {"run": 3})
    state, progress = load_checkpoint(tmp_path, some_state())
    assert same_bits(state, some_state(3))
    assert progress == {"run": 3}


def test_a_kill_before_the_old_one_is_removed_loads_the_new_one(tmp_path, monkeypatch):
    """The three checkpoints do no harm, and the next save removes the two older ones."""

    def killed(path):
        raise KeyboardInterrupt

    for epoch in (8, 9):
        save_checkpoint(tmp_path, epoch, some_state(epoch), {})
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path, 10, some_state(10), {})
    assert names(tmp_path) == ["epoch_10", "epoch_8", "epoch_9"]
    assert same_bits(load_checkpoint(tmp_path, some_state())[0], some_state(10))
    save_checkpoint(tmp_path, 11, some_state(11), {})
    assert names(tmp_path) == ["epoch_10", "epoch_11"]


def test_a_half_written_checkpoint_does_not_count(tmp_path):
    """Neither Orbax's unfinished folders nor other ones are taken for a state."""
    save_checkpoint(tmp_path, 3, some_state(3), {})
    for name in ("epoch_4.orbax-checkpoint-tmp", "epoch_4.orbax-checkpoint-tmp-17", "epoch_best"):
        (tmp_path / name).mkdir()
    assert same_bits(load_checkpoint(tmp_path, some_state())[0], some_state(3))


def test_a_damaged_state_gives_way_to_the_one_before(tmp_path, caplog):
    """The state before it is loaded, and a warning names the damaged one."""
    for epoch in (3, 4):
        save_checkpoint(tmp_path, epoch, some_state(epoch), {"epoch": epoch})
    files = [path for path in (tmp_path / "epoch_4").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes() + b"x")
    state, progress = load_checkpoint(tmp_path, some_state())
    assert same_bits(state, some_state(3))
    assert progress == {"epoch": 3}
    assert caplog.messages == [
        f"{tmp_path}/epoch_4: found it damaged; going on from the state before"
    ]


def test_states_that_are_all_damaged_are_refused_with_the_way_out(tmp_path):
    """One line says which folder to delete; there is no traceback of Orbax."""
    for epoch in (3, 4):
        save_checkpoint(tmp_path, epoch, some_state(epoch), {})
        (tmp_path / f"epoch_{epoch}" / "_CHECKPOINT_METADATA").unlink()
    with pytest.raises(UserError) as error:
        load_checkpoint(tmp_path, some_state())
    assert str(error.value) == (
        f"{tmp_path}: found 2 training states, all damaged, expected an intact one (delete "
        f"{tmp_path} to train from the beginning)"
    )


def test_a_state_without_digests_does_not_count(tmp_path):
    """After a kill between a state and its digests, the state before is loaded."""
    for epoch in (3, 4):
        save_checkpoint(tmp_path, epoch, some_state(epoch), {})
    (tmp_path / "epoch_4" / "digests.json").unlink()
    assert same_bits(load_checkpoint(tmp_path, some_state())[0], some_state(3))


def test_a_state_without_digests_takes_no_other_ones_place(tmp_path):
    """The next save removes it and keeps the intact state before it."""
    for epoch in (3, 4):
        save_checkpoint(tmp_path, epoch, some_state(epoch), {})
    (tmp_path / "epoch_4" / "digests.json").unlink()
    save_checkpoint(tmp_path, 5, some_state(5), {})
    assert names(tmp_path) == ["epoch_3", "epoch_5"]


def test_what_is_saved_is_what_was_given(tmp_path):
    """The save is complete before a next step can reuse the buffers."""
    state = {"table": jnp.arange(4.0)}
    save_checkpoint(tmp_path, 1, state, {})
    state["table"].delete()
    loaded, _ = load_checkpoint(tmp_path, {"table": jnp.zeros(4)})
    np.testing.assert_array_equal(loaded["table"], [0, 1, 2, 3])


def test_relative_folders_work(tmp_path, monkeypatch):
    """A relative --output_dir works, although Orbax takes absolute paths alone."""
    monkeypatch.chdir(tmp_path)
    folder = (tmp_path / "runs" / "one").relative_to(tmp_path)
    save_checkpoint(folder, 1, some_state(), {})
    assert same_bits(load_checkpoint(folder, some_state(1))[0], some_state())


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"table": (4, 3), "bias": (3,)}, r"array 1: found float32 \[5, 3\], expected .* \[4, 3\]"),
        ({"table": (5, 3), "bias": (2,)}, r"array 0: found float32 \[3\], expected .* \[2\]"),
        ({"table": (5, 3)}, r"array 0: found float32 \[3\], expected float32 \[5, 3\]"),
        ({"bias": (3,)}, "array 1: found float32 .*, expected None"),
        ({"bias": (3,), "table": (5, 3), "zoom": (3,)}, "array 2: found None, expected float32"),
    ],
)
def test_another_models_state_is_refused(tmp_path, like, message):
    """One line names the array that differs; nothing is cut, padded or left out."""
    save_checkpoint(tmp_path, 1, {"table": jnp.ones((5, 3)), "bias": jnp.ones(3)}, {})
    with pytest.raises(UserError, match=message) as caught:
        load_checkpoint(tmp_path, {name: jnp.zeros(shape) for name, shape in like.items()})
    assert str(tmp_path / "epoch_1") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["_METADATA", "_sharding", "manifest.ocdbt", "d/*"])
def test_a_state_that_orbax_cannot_read_is_refused_in_one_line(tmp_path, file):
    """Where what is written is another version's: one line, and no traceback beside it or later.

    Orbax's readers of the arrays would leave theirs as "Exception ignored", which fails a test.
    """
    save_checkpoint(tmp_path, 3, some_state(), {})
    state = tmp_path / "epoch_3"
    (found,) = state.glob(f"*/{file}")
    found.write_bytes(b"")
    write_sealed_json(state / "digests.json", {"files": _digests(state)})
    with pytest.raises(
        UserError, match=r"epoch_3: found a training state that orbax can't read \("
    ):
        load_checkpoint(tmp_path, some_state())
