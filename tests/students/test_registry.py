"""What the registry says of the students, and what seeds share."""

import jax
import pytest

from prmkd_jax.common.errors import UserError
from prmkd_jax.students.about import About
from prmkd_jax.students.config import BUILT_IN, StudentConfig
from prmkd_jax.students.registry import about, check, label, reads, require_heads, result_name
from prmkd_jax.students.student import create_student, structure
from prmkd_jax.train.loop import fresh_student
from prmkd_jax.train.optim import make_optimizer
from prmkd_jax.train.sharding import make_mesh
from prmkd_jax.train.step import make_train_step
from tests.students import fields
from tests.worlds import facts, make_run, random_world, student_config

MESH = make_mesh(1)


@pytest.mark.parametrize("name", BUILT_IN)
def test_seeds_share_their_structure_and_their_step(tmp_path, name):
    """Equal facts make equal structures, so a study compiles once for all seeds."""
    made = [
        make_run(fields.WORLD, tmp_path, student=student_config(student=name), seed=seed)
        for seed in (0, 1)
    ]
    (one, params), (other, others) = (fresh_student(run) for run in made)
    assert one == other
    assert hash(one) == hash(other)
    assert not all(
        (a == b).all() for a, b in zip(*map(jax.tree.leaves, (params, others)), strict=True)
    )
    steps = [
        make_train_step(graphdef, make_optimizer(run.train), None, run.student, MESH)
        for graphdef, run in zip((one, other), made, strict=True)
    ]
    assert steps[0] is steps[1]


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_structure_is_had_without_computing_a_parameter(name):
    """Serving millions of items doesn't draw initial values that nobody reads."""
    config, known = student_config(student=name), facts(random_world())
    assert structure(config, known) == create_student(config, known, 0)[0]


def test_other_training_data_is_another_structure():
    """A step that was compiled for one graph isn't used for another data set's."""
    config = student_config(student="lightgcn")
    worlds = random_world(), random_world(seed=1)
    assert structure(config, facts(worlds[0])) != structure(config, facts(worlds[1]))


def test_names_in_results_and_in_tables():
    """RecGURU without a second domain is another model."""
    both = StudentConfig(student="recguru", second_domain="Arts")
    assert [result_name(both), label(both)] == ["recguru", "RecGURU"]
    alone = StudentConfig(student="recguru")
    assert [result_name(alone), label(alone)] == ["recguru-ae", "RecGURU-AE"]
    assert [result_name(StudentConfig()), label(StudentConfig())] == ["sasrec", "SASRec"]


def test_heads_are_checked_where_they_are_read():
    """A student that reads no heads accepts any number of them."""
    with pytest.raises(UserError, match=r"^--num_heads: found 3, expected a divisor of --hidden_"):
        check(StudentConfig(hidden_size=10, num_heads=3), 5)
    check(StudentConfig(student="gru4rec", hidden_size=10, num_heads=3), 5)
    require_heads(StudentConfig(hidden_size=9, num_heads=3))


def test_every_built_in_declares_its_options():
    """`--help` and \"has no effect\" ask the class, not a table of names."""
    for name in BUILT_IN:
        said = about(name)
        assert said.reads is not None
        assert said.label
    assert About().reads is None
    assert not reads(StudentConfig(student="fm"), "num_layers")
    assert reads(StudentConfig(student="lightgcn", loss="bpr"), "embedding_l2")
    assert not reads(StudentConfig(student="lightgcn"), "embedding_l2")
