"""The opponents in PyTorch compute what our steps do: the same weights, loss and gradient."""

import dataclasses

import jax
import numpy as np
import pytest
import torch
from flax import nnx

from experiments.benchmarks.peers.packed_prmkd import TeacherTensors, distilled_loss, refusal
from experiments.benchmarks.peers.packed_sasrec import PackedSASRec, Sizes, make_optimizer
from prmkd_jax.distill.config import DistillConfig
from prmkd_jax.students.student import create_student, flatten_params
from prmkd_jax.train.inputs import distill_inputs, run_constants, training_batches
from prmkd_jax.train.optim import make_optimizer as our_optimizer
from prmkd_jax.train.sharding import make_mesh, place, place_inputs
from prmkd_jax.train.step import init_state, make_train_step
from tests.students import reference
from tests.worlds import (
    MAX_SEQ_LEN,
    RandomTeachers,
    facts,
    make_run,
    random_world,
    student_config,
)

WORLD = random_world()
CLOSE = 1e-5


def our_step(run):
    """Loss and gradient norm of the first batches' steps, each from the same weights."""
    graphdef, state = create_student(run.student, facts(WORLD), run.seed)
    params = reference.random_params(nnx.to_pure_dict(state), 1)
    optimizer, mesh = our_optimizer(run.train), make_mesh(1)
    step = make_train_step(graphdef, optimizer, run.distill, run.student, mesh)
    constants = place(mesh, run_constants(run))
    found = []
    for batch, distill in list(distill_inputs(run, training_batches(run).epoch(0)))[-2:]:
        first = place(mesh, init_state(jax.tree.map(np.array, params), optimizer, run.seed))
        _, metrics = step(first, *place_inputs(mesh, batch, distill), constants)
        found.append((batch, float(metrics.loss), float(metrics.gradient_norm)))
    return flatten_params(params), found


def opponent(weights):
    config = student_config()
    sizes = Sizes(
        items=WORLD.num_items,
        window=MAX_SEQ_LEN,
        width=config.hidden_size,
        heads=config.num_heads,
        layers=config.num_layers,
        inner=config.inner_size,
        dropout=0.0,
    )
    model = PackedSASRec(sizes)
    model.take(weights)
    return model


def norm_of(model, loss):
    model.zero_grad()
    loss.backward()
    return float(torch.sqrt(sum(p.grad.square().sum() for p in model.parameters())))


def test_the_packed_sasrec_has_our_loss_and_gradient(tmp_path):
    """So the opponent isn't quick because it computes something else."""
    run = make_run(WORLD, tmp_path, student=student_config(dropout=0.0))
    weights, found = our_step(run)
    model = opponent(weights)
    for batch, loss, norm in found:
        theirs = model.loss(model.queries(batch), batch)
        assert theirs.item() == pytest.approx(loss, rel=CLOSE)
        assert norm_of(model, theirs) == pytest.approx(norm, rel=CLOSE)
    assert not found[-1][0].is_instance.all()  # padding was met


@pytest.mark.parametrize(
    ("kl", "seen", "threshold"),
    [("forward", "out", 0.05), ("reverse", "scored", float("inf"))],
)
def test_the_prmkd_step_has_our_loss_and_gradient(tmp_path, kl, seen, threshold):
    """It has our normalization, rule, mask and direction of the KL."""
    run = make_run(WORLD, tmp_path, student=student_config(dropout=0.0))
    config = DistillConfig(kl=kl, seen_items=seen, distill_weight=3.0, temperature=0.7)
    source = RandomTeachers(WORLD)
    run = dataclasses.replace(run, distill=config, teachers=source, threshold=threshold)
    weights, found = our_step(run)
    model = opponent(weights)
    teachers = [
        TeacherTensors(torch.from_numpy(a).float(), torch.from_numpy(b).float(), float(scale))
        for a, b, scale in zip(source.instances, source.items, source.scales, strict=True)
    ]
    shares = torch.from_numpy(source.default_weights).float()
    for batch, loss, norm in found:
        theirs = distilled_loss(model, batch, run.task, teachers, shares, threshold, config)
        assert theirs.item() == pytest.approx(loss, rel=CLOSE)
        assert norm_of(model, theirs) == pytest.approx(norm, rel=CLOSE)


def test_the_rule_leaves_a_teacher_out_in_that_step(tmp_path):
    """The loss changes with the threshold, so the case above does test the rule."""
    run = make_run(WORLD, tmp_path, student=student_config(dropout=0.0))
    source = RandomTeachers(WORLD)
    run = dataclasses.replace(run, distill=DistillConfig(), teachers=source, threshold=0.05)
    losses = [
        our_step(dataclasses.replace(run, threshold=threshold))[1][0][1]
        for threshold in (0.05, float("inf"))
    ]
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)


def test_a_distillation_that_the_step_does_not_know_is_told():
    """Two steps that compute different things are never compared."""
    assert refusal(DistillConfig(kl="forward")) == ""
    assert "--kl: found js" in refusal(DistillConfig(kl="js"))
    assert "--negatives: found catalogue" in refusal(DistillConfig(negatives="catalogue"))


def test_the_fused_optimizer_decays_matrices_alone():
    """Biases aren't decayed, as in our optimizer."""
    sizes = Sizes(items=5, window=3, width=4, heads=2, layers=1, inner=4, dropout=0.0)
    model = PackedSASRec(sizes)
    decays = {
        parameter.ndim: group["weight_decay"]
        for group in make_optimizer(model, 1e-3, 0.1).param_groups
        for parameter in group["params"]
    }
    assert decays == {2: 0.1, 1: 0.0}
