"""The programs that `portability` compares, on a world of forty users."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks.portability.programs import Case, gradient_alone, make_case
from experiments.commands.portability import COMMAND
from experiments.stages.data import load_task
from prmkd_jax.students.config import STUDENT_NAMES
from tests.experiments.calls import SMALL, make_call

BFLOAT16 = jnp.dtype(jnp.bfloat16)


@functools.cache
def case_of(student: str) -> Case:
    call, _ = make_call(COMMAND, [*SMALL, "--dropout=0"])
    return make_case(load_task(call.settings), call.settings, student)


def inputs(case: Case, dtype: jnp.dtype | None = None):
    return case.first_state(gradient_alone(), dtype), case.batch, case.distill, case.constants


@pytest.mark.parametrize("student", STUDENT_NAMES)
def test_parameters_in_bfloat16_have_such_gradients(student):
    """JAX would refuse a derivative of another dtype than its parameter."""
    case = case_of(student)
    after, _ = jax.eval_shape(case.step(gradient_alone()), *inputs(case, BFLOAT16))
    assert {leaf.dtype for leaf in jax.tree.leaves(after.opt_state)} == {BFLOAT16}


def test_lightgcns_bfloat16_gradient_is_near_float32s():
    """Sums over a user's neighbours keep what bfloat16 can't add to a large number."""
    case = case_of("lightgcn")
    step = jax.jit(case.step(gradient_alone()))
    exact, found = (
        [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(step(*each)[0].opt_state)]
        for each in (inputs(case), inputs(case, BFLOAT16))
    )
    for a, b in zip(found, exact, strict=True):
        assert np.linalg.norm(b) > 0
        assert np.linalg.norm(a - b) < 0.05 * np.linalg.norm(b)
