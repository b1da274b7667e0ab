import numpy as np
import pytest
import torch

from teachers_torch.sequence.adaptor import MoEAdaptor
from tests.teachers_torch.worlds import randomise, to_numpy


@pytest.fixture
def adaptor():
    torch.manual_seed(0)
    module = MoEAdaptor(input_size=5, output_size=4, num_experts=3, dropout=0.4)
    randomise(module)
    return module


def reference(state, x):
    """Formulas of the official code in float64, one expert after the other."""
    logits = x @ state["w_gate"]
    gates = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    experts = [
        (x - state[f"experts.{e}.bias"]) @ state[f"experts.{e}.lin.weight"].T for e in range(3)
    ]
    return sum(gates[..., e, None] * experts[e] for e in range(3))


@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 5)])
def test_eval_is_the_formula(adaptor, shape):
    """Each expert subtracts its bias before the product, and the gate weighs the experts."""
    x = np.random.default_rng(0).normal(size=shape)
    out = adaptor.eval()(torch.from_numpy(x).float()).detach().numpy()
    np.testing.assert_allclose(out, reference(to_numpy(adaptor), x), atol=1e-6)


def test_the_zero_vector_is_not_mapped_to_zero(adaptor):
    """[PAD] keeps a direction of its own in the softmax."""
    out = adaptor.eval()(torch.zeros(1, 5)).detach().numpy()
    np.testing.assert_allclose(out, reference(to_numpy(adaptor), np.zeros((1, 5))), atol=1e-6)
    assert np.abs(out).max() > 0.01


def test_gradients_are_those_of_the_separate_experts(adaptor):
    """The fused product reaches every parameter but the noise's, with unscaled gradients."""
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    weight = torch.randn(7, 4, generator=torch.Generator().manual_seed(2))
    (adaptor.eval()(x) * weight).sum().backward()
    fused = {name: p.grad.clone() for name, p in adaptor.named_parameters() if p.grad is not None}
    adaptor.zero_grad()
    gates = (x @ adaptor.w_gate).softmax(-1)
    outputs = [expert.lin(x - expert.bias) for expert in adaptor.experts]
    (sum(gates[:, [e]] * outputs[e] for e in range(3)) * weight).sum().backward()
    assert set(fused) == set(dict(adaptor.named_parameters())) - {"w_noise"}
    for name, gradient in fused.items():
        torch.testing.assert_close(gradient, adaptor.get_parameter(name).grad, atol=1e-5, rtol=1e-5)


def test_official_names_and_start():
    """An official state dict fits by names and shapes, and the untrained gate is uniform."""
    module = MoEAdaptor(input_size=768, output_size=300, num_experts=8, dropout=0.2)
    shapes = {name: tuple(p.shape) for name, p in module.state_dict().items()}
    assert shapes == {
        "w_gate": (768, 8),
        "w_noise": (768, 8),
        **{f"experts.{e}.bias": (768,) for e in range(8)},
        **{f"experts.{e}.lin.weight": (300, 768) for e in range(8)},
    }
    assert (module.eval().gates(torch.randn(3, 768)) == 1 / 8).all()
    assert float(module.experts[0].lin.weight.detach().std()) == pytest.approx(0.02, rel=0.02)


def test_gate_noise_only_in_training_and_of_the_right_size(adaptor):
    """Its standard deviation is softplus + 0.01."""
    x = torch.randn(1, 5, generator=torch.Generator().manual_seed(3)).expand(50_000, 5)
    adaptor.eval()
    assert (adaptor.gates(x)[0] == adaptor.gates(x)).all()
    clean = (x[0] @ adaptor.w_gate).detach().double().numpy()
    std = np.logaddexp(0, (x[0] @ adaptor.w_noise).detach().double().numpy()) + 0.01
    noisy = adaptor.train().gates(x).detach().double().log().numpy()
    # Only differences of logits survive the softmax.
    np.testing.assert_allclose((noisy[:, 0] - noisy[:, 1]).mean(), clean[0] - clean[1], atol=0.03)
    np.testing.assert_allclose(
        (noisy[:, 0] - noisy[:, 1]).std(), np.hypot(std[0], std[1]), rtol=0.02
    )


def test_dropout_comes_before_the_bias():
    """The values are −b and x/(1−p) − b; dropout after the bias would also give 0."""
    module = MoEAdaptor(input_size=1, output_size=1, num_experts=1, dropout=0.5)
    with torch.no_grad():
        module.experts[0].lin.weight.fill_(1.0)
        module.experts[0].bias.fill_(3.0)
    torch.manual_seed(0)
    assert set(module(torch.full((100, 1), 2.0)).flatten().tolist()) == {-3.0, 1.0}


def test_the_gate_sees_features_without_dropout(adaptor, monkeypatch):
    """Dropout adds no noise to the gate's logits."""
    seen = []
    monkeypatch.setattr(adaptor, "gates", lambda x: seen.append(x) or torch.full((7, 3), 1 / 3))
    x = torch.randn(7, 5)
    adaptor.train()(x)
    assert torch.equal(seen[0], x)
