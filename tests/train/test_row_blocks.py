"""Losses that are summed block by block train as those of all rows at once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prmkd_jax.distill.config import DistillConfig
from prmkd_jax.train import row_blocks
from prmkd_jax.train.inputs import distill_inputs, run_constants, training_batches
from prmkd_jax.train.optim import make_optimizer
from prmkd_jax.train.run import fresh_student
from prmkd_jax.train.sharding import make_mesh, place, place_inputs
from prmkd_jax.train.step import init_state, make_train_step
from prmkd_jax.train.stored import stored_of
from tests.worlds import RandomTeachers, make_run, random_world, student_config

WORLD = random_world()
MESH = make_mesh(1)
BATCH = 24
BLOCK = 8


def steps_of(run):
    """Three batches' losses, and the parameters after them."""
    graphdef, params = fresh_student(run)
    optimizer = make_optimizer(run.train)
    state = place(MESH, init_state(params, optimizer, run.seed))
    step = make_train_step(graphdef, optimizer, run.distill, run.student, MESH)
    constants = place(MESH, run_constants(run))
    read = distill_inputs(run, training_batches(run).epoch(0), stored=stored_of(run))
    found = []
    for each in list(read)[-3:]:
        state, metrics = step(state, *place_inputs(MESH, *each), constants)
        found.append(metrics[:5])
    return np.array(jax.device_get(found)), jax.device_get(state.params)


@pytest.mark.parametrize(
    ("student", "distillation"),
    [
        ({"student": "sasrec"}, None),
        ({"student": "sasrec"}, {"negatives": "in_batch"}),
        ({"student": "sasrec"}, {"negatives": "catalogue", "seen_items": "unwanted"}),
        ({"student": "gru4rec"}, {"negatives": "catalogue", "method": "unkd", "unkd_groups": 3}),
        ({"student": "sasrec"}, {"negatives": "catalogue", "method": "label_smoothing"}),
        # Its scores have weights of their own.
        ({"student": "deepfm", "loss": "softmax"}, None),
    ],
)
def test_blocks_train_as_all_rows_at_once(student, distillation, tmp_path, monkeypatch):
    """Metrics and parameters agree, plain and with each kind of distillation."""
    run = make_run(WORLD, tmp_path, student=student_config(dropout=0.0, **student))
    run = dataclasses.replace(run, train=dataclasses.replace(run.train, batch_size=BATCH))
    if distillation:
        config = DistillConfig(**distillation)
        teachers = RandomTeachers(WORLD)
        run = dataclasses.replace(run, distill=config, teachers=teachers, threshold=1.3)
    metrics, params = steps_of(run)
    sizes = []

    def in_blocks(rows, items):
        sizes.append(rows)
        return BLOCK

    monkeypatch.setattr(row_blocks, "rows_in_block", in_blocks)
    make_train_step.cache_clear()
    blocked, moved = steps_of(run)
    make_train_step.cache_clear()
    assert set(sizes) == {BATCH}
    np.testing.assert_allclose(blocked, metrics, rtol=1e-4)
    for found, wanted in zip(jax.tree.leaves(moved), jax.tree.leaves(params), strict=True):
        # A fraction of Adam's three steps of 3e-3; where a gradient is rounding, so is its sign.
        np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_a_small_catalogue_and_several_devices_are_not_divided(tmp_path):
    """4,386 items, a sampled loss and catalogue negatives aren't divided; 12,000 items are."""
    run = make_run(WORLD, tmp_path)
    items = jnp.zeros((4_386, 64))
    assert row_blocks.block_size(run.student, None, items, 512, None) is None
    assert row_blocks.block_size(run.student, None, jnp.zeros((12_000, 64)), 512, None) == 128
    sampled = dataclasses.replace(run.student, loss="sampled_softmax")
    assert row_blocks.block_size(sampled, None, jnp.zeros((12_000, 64)), 512, None) is None
    catalogue = DistillConfig(negatives="catalogue")
    assert row_blocks.block_size(run.student, catalogue, jnp.zeros((12_000, 64)), 512, None) is None
