import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from prmkd_jax.common.errors import UserError
from prmkd_jax.students import deepfm
from prmkd_jax.students.student import create_student
from tests.students.fields import PLAIN, WORLD, batches, field_vectors, in_float64, rendle
from tests.students.reference import dropout_sites, random_params
from tests.worlds import facts, student_config

CONFIG = student_config(student="deepfm", hidden_size=7, mlp_sizes=(6, 5, 4), dropout=0.4)
GRAPHDEF, STATE = create_student(CONFIG, facts(WORLD), 0)
PARAMS = random_params(nnx.to_pure_dict(STATE), seed=5)
ROWS = batches()[0]
ASKED = np.flatnonzero(ROWS.instance_ids >= 0)


def scored(params, rows, rngs=None, choice=slice(None)):
    student = nnx.merge(GRAPHDEF, nnx.State(params))
    return student.score(student.queries(rows, rngs), student.items()[choice])


def mlp(params, inputs: np.ndarray) -> float:
    """The MLP on one pair's field vectors, its first layer whole."""
    hidden = np.maximum(inputs @ params["kernel"] + params["bias"], 0)
    for number in sorted(params["layers"]):
        layer = params["layers"][number]
        hidden = np.maximum(hidden @ layer["kernel"] + layer["bias"], 0)
    return (hidden @ params["out"]["kernel"]).item()


def test_scores_are_the_fm_plus_the_mlp_of_the_concatenated_fields():
    """The bias counts once, both parts read the same fields, and there is no sigmoid."""
    params, scores = in_float64(PARAMS), scored(PARAMS, ROWS)
    deep = []
    for slot in ASKED[::5]:
        instance = int(ROWS.instance_ids.reshape(-1)[slot])
        for item in range(WORLD.num_items):
            deep.append(mlp(params, np.concatenate(field_vectors(params["fm"], instance, item))))
            expected = rendle(params["fm"], instance, item) + deep[-1]
            np.testing.assert_allclose(scores[slot, item], expected, atol=1e-4)
    assert np.std(deep) > 0.1
    assert scores.dtype == jnp.float32


def test_blocks_change_neither_scores_nor_gradients(monkeypatch):
    """Blocks of one item, or with a shorter last block, give the same values."""

    def values(params):
        weights = jnp.arange(40.0) / 40
        return (scored(params, ROWS)[ASKED] @ weights).sum() / len(ASKED), scored(params, ROWS)

    def both():
        return jax.jit(lambda params: jax.grad(values, has_aux=True)(params))(PARAMS)

    whole = both()
    for pairs in (65, 7 * 65):  # blocks of one item, and of seven with a last one of five
        monkeypatch.setattr(deepfm, "MOST_PAIRS", pairs)
        for one, other in zip(*map(jax.tree.leaves, (both(), whole)), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4, rtol=1e-4)
    assert jax.tree.all(jax.tree.map(lambda x: jnp.abs(x).max() > 0, whole[0]))


def test_a_pair_alone_scores_as_among_others():
    """A loss that scores its targets pair by pair compares the same numbers."""
    student = nnx.merge(GRAPHDEF, nnx.State(PARAMS))
    queries, items = student.queries(ROWS), student.items()
    alone = jax.vmap(lambda q, i: student.score(q[None], i[None])[0, 0])(queries[:40], items)
    together = student.score(queries, items)
    np.testing.assert_allclose(alone, together[np.arange(40), np.arange(40)], rtol=1e-5, atol=1e-5)


def test_dropout_is_the_mlps_alone_and_one_mask_a_row():
    """The FM isn't dropped, and a row that is scored in two parts sees the same masks.

    With the output's weights at zero only the FM counts, and it doesn't change. Cross-entropy
    and distillation score a row in two parts.
    """

    def drawn(seed, choice=slice(None), params=PARAMS):
        return scored(params, ROWS, nnx.Rngs(jax.random.key(seed)), choice)[ASKED]

    silent = {**PARAMS, "out": {"kernel": np.zeros((4, 1), np.float32)}}
    np.testing.assert_array_equal(drawn(0, params=silent), scored(silent, ROWS)[ASKED])
    assert (jnp.abs(drawn(0) - drawn(1)).max(1) > 1e-3).mean() > 0.9
    np.testing.assert_array_equal(drawn(0), drawn(0))
    choice = np.array([3, 17, 5])
    np.testing.assert_allclose(drawn(0, choice), drawn(0)[:, choice], atol=1e-5)
    masks = nnx.merge(GRAPHDEF, nnx.State(PARAMS)).queries(ROWS, nnx.Rngs(jax.random.key(2)))
    kept, counts = np.unique(np.asarray(masks[:, -11:]), return_counts=True)
    np.testing.assert_allclose(kept, [0, 1 / 0.6], rtol=1e-6)
    assert counts[1] / counts.sum() == pytest.approx(0.6, abs=0.06)


def test_dropout_stands_before_every_layer_but_the_last(monkeypatch):
    """The first layer's inputs, the user's fields, are dropped too."""
    student = nnx.merge(GRAPHDEF, nnx.State(PARAMS))
    dropped = dropout_sites(monkeypatch, lambda rngs: student.queries(ROWS, rngs))
    assert dropped == [(0.4, (ROWS.item_seq.size, width)) for width in (2 * 7, 6, 5)]


def test_each_layer_has_a_mask_of_its_own():
    """Scores equal those computed with one mask for the inputs of each layer."""
    student, params = nnx.merge(GRAPHDEF, nnx.State(PARAMS)), in_float64(PARAMS)
    drawn, every = student.queries(ROWS, nnx.Rngs(jax.random.key(3))), student.items()
    scores = np.asarray(student.score(drawn, every))[ASKED]
    queries, items = np.asarray(drawn, float)[ASKED], np.asarray(every, float)
    hidden = queries[:, None, 8:14] + items[:, 8:]  # after the FM's vector and its 1
    for number, mask in enumerate((queries[:, 14:20], queries[:, 20:])):
        layer = params["layers"][number]
        hidden = (np.maximum(hidden, 0) * mask[:, None]) @ layer["kernel"] + layer["bias"]
    deep = (np.maximum(hidden, 0) @ params["out"]["kernel"])[..., 0]
    np.testing.assert_allclose(scores, queries[:, :8] @ items[:, :8].T + deep, atol=1e-4)


def test_scoring_a_catalogue_keeps_no_pair_for_the_backward_pass():
    """Memory stays below a third of the activations of all pairs."""
    config = student_config(student="deepfm", mlp_sizes=(64, 64))
    graphdef, state = create_student(config, facts(PLAIN), 0)
    params = nnx.to_pure_dict(state)

    def total(params, queries, items):
        return nnx.merge(graphdef, nnx.State(params)).score(queries, items).sum()

    rows, columns = 512, 2048
    arguments = (
        params,
        jax.ShapeDtypeStruct((rows, 12 + 1 + 64 + 64), jnp.float32),
        jax.ShapeDtypeStruct((columns, 12 + 1 + 64), jnp.float32),
    )
    compiled = jax.jit(jax.grad(total, (0, 1, 2))).lower(*arguments).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < rows * columns * 64 * 4 / 3


def test_parameters_are_the_fms_and_the_layers():
    """There is one set of embeddings, and the first layer is stored in one part."""
    shapes = {name: jax.tree.map(jnp.shape, x) for name, x in PARAMS.items() if name != "fm"}
    assert shapes == {
        "kernel": (35, 6),
        "bias": (6,),
        "layers": {
            0: {"kernel": (6, 5), "bias": (5,)},
            1: {"kernel": (5, 4), "bias": (4,)},
        },
        "out": {"kernel": (4, 1)},
    }
    assert PARAMS.keys() == {"fm", *shapes}
    bare = create_student(CONFIG, facts(PLAIN), 0)[1]
    assert nnx.to_pure_dict(bare)["kernel"].shape == (21, 6)


def test_an_mlp_without_layers_is_refused():
    """`--mlp_sizes=` is refused, since DeepFM needs at least one layer."""
    with pytest.raises(UserError, match=r"^--mlp_sizes: found none, expected at least one$"):
        student_config(mlp_sizes=())
