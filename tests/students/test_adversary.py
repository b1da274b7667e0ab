import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from prmkd_jax.data.packing import PackedRows
from prmkd_jax.students.adversary import Critic, Users, adversarial_loss, asked_first
from tests.students.reference import dropout_sites

WIDTH, OWN, SECOND = 3, 5, 4
KEY = jax.random.key(3)
BCE = torch.nn.functional.binary_cross_entropy_with_logits


def quiet_critic() -> Critic:
    """A critic whose dropout does nothing, so that losses can be compared."""
    critic = Critic(WIDTH, rngs=nnx.Rngs(0))
    critic.dropout = nnx.Dropout(0.0)
    return critic


STRUCTURE, STATE = nnx.split(quiet_critic())
PARAMS = nnx.to_pure_dict(STATE)


def users(real: int, size: int, seed: int) -> Users:
    vectors = np.random.default_rng(seed).normal(size=(size, WIDTH)).astype(np.float32)
    return Users(jnp.asarray(vectors), jnp.arange(size) < real)


@jax.jit
@jax.value_and_grad
def loss_of(inputs, own_real, second_real):
    params, own, second = inputs
    critic = nnx.merge(STRUCTURE, nnx.State(params))
    sides = Users(own, own_real), Users(second, second_real)
    return adversarial_loss(critic, *sides, nnx.Rngs(KEY))


def found(own: Users, second: Users, params=PARAMS):
    return loss_of((params, own.vectors, second.vectors), own.real, second.real)


def discriminator() -> torch.nn.Sequential:
    """The authors' MLP with our weights, dropout left out."""
    sizes = (WIDTH, 5 * WIDTH, 10 * WIDTH, 5 * WIDTH, 1)
    layers = [torch.nn.Linear(a, b, dtype=torch.float64) for a, b in zip(sizes, sizes[1:])]  # noqa: B905, RUF007
    ours = [*(PARAMS["layers"][n] for n in range(3)), PARAMS["out"]]
    for layer, weights in zip(layers, ours, strict=True):
        layer.weight.data = torch.tensor(np.asarray(weights["kernel"], dtype=float).T)
        layer.bias.data = torch.tensor(np.asarray(weights["bias"], dtype=float))
    relu = torch.nn.ReLU
    return torch.nn.Sequential(layers[0], relu(), layers[1], relu(), layers[2], relu(), layers[3])


def test_both_sides_losses_and_gradients_are_the_authors():
    """Critic's and encoder's losses and gradients equal those of PyTorch in float64."""
    own, second = users(3, OWN, 0), users(4, SECOND, 1)
    critic = discriminator()
    a, b = (torch.tensor(np.asarray(x.vectors, dtype=float)) for x in (own, second))
    a, b = a[:3], b[:4]

    one, zero = (
        (lambda x: BCE(x[:, 0], torch.ones(len(x)).double())),
        (lambda x: BCE(x[:, 0], torch.zeros(len(x)).double())),
    )
    share = torch.tensor(np.array(jax.random.uniform(nnx.Rngs(KEY)(), (4, 1)), dtype=float))[:3]
    between = (share * a + (1 - share) * b[:3]).requires_grad_()
    slopes = torch.autograd.grad(critic(between).sum(), between, create_graph=True)[0]
    critic_loss = one(critic(a)) + zero(critic(b)) + 0.1 * ((slopes.norm(dim=1) - 1) ** 2).mean()
    expected_params = torch.autograd.grad(critic_loss, list(critic.parameters()))
    a, b = a.requires_grad_(), b.requires_grad_()
    encoder_loss = zero(critic(a)) + one(critic(b))
    expected_users = torch.autograd.grad(encoder_loss, [a, b])

    loss, (params, own_gradient, second_gradient) = found(own, second)
    assert float(loss) == pytest.approx((critic_loss + encoder_loss).item(), rel=1e-5)
    ours = [*(params["layers"][n] for n in range(3)), params["out"]]
    flat = [x for weights in ours for x in (weights["kernel"].T, weights["bias"])]
    for one_gradient, theirs in zip(flat, expected_params, strict=True):
        np.testing.assert_allclose(one_gradient, theirs, atol=1e-5)
    assert not own_gradient[3:].any()
    np.testing.assert_allclose(own_gradient[:3], expected_users[0], atol=1e-6)
    np.testing.assert_allclose(second_gradient, expected_users[1], atol=1e-6)
    assert expected_users[0].abs().max() > 1e-3


def test_rows_that_are_no_users_change_nothing():
    """What stands in a slot without a user reaches neither the loss nor the gradients."""
    own, second = users(3, OWN, 0), users(2, SECOND, 1)
    far = own._replace(vectors=own.vectors.at[3:].set(50.0))
    other = second._replace(vectors=second.vectors.at[2:].set(-50.0))
    for x, y in zip(
        jax.tree.leaves(found(own, second)), jax.tree.leaves(found(far, other)), strict=True
    ):
        np.testing.assert_array_equal(x, y)


def test_a_flat_critic_has_a_finite_gradient():
    """A slope of 0 gives no nan, though the gradient of a norm at 0 is nan."""
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    loss, gradients = found(users(3, OWN, 0), users(3, SECOND, 1), zeros)
    assert float(loss) == pytest.approx(4 * np.log(2) + 0.1, rel=1e-5)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradients))


def test_no_users_at_all_are_no_loss():
    """The loss is 0 and gradients are finite, where a mean over nothing would be nan."""
    loss, gradients = found(users(0, OWN, 0), users(0, SECOND, 1))
    assert float(loss) == 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradients))


def test_critic_drops_only_where_a_key_is_given(monkeypatch):
    """With a key it drops a share of 0.2 after each of its three layers."""
    critic, x = Critic(WIDTH, rngs=nnx.Rngs(0)), users(5, OWN, 0).vectors
    np.testing.assert_array_equal(critic(x), critic(x))
    assert (np.asarray(critic(x)) != np.asarray(critic(x, nnx.Rngs(KEY)))).any()
    sites = dropout_sites(monkeypatch, lambda rngs: critic(x, rngs))
    assert sites == [(0.2, (OWN, width)) for width in (15, 30, 15)]
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.to_pure_dict(nnx.state(critic)))) == (
        15 * 4 + 30 * 16 + 15 * 31 + 16
    )


def test_asked_slots_come_first():
    """Users of all rows stand before the slots where nobody is asked."""
    asked = np.array([[-1, 4, -1], [7, -1, 9]])
    vectors = jnp.arange(18.0).reshape(2, 3, 3)
    sorted_users = asked_first(PackedRows(asked, asked, asked, asked, asked), vectors)
    assert sorted_users.real.tolist() == [True] * 3 + [False] * 3
    assert sorted_users.vectors[:3, 0].tolist() == [3.0, 9.0, 15.0]
