"""Parametric whitening, mixed by a gate (UniSRec, arXiv 2206.05941)."""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from teachers_torch.dropout import dropout

# The gate's noise never falls below this standard deviation.
NOISE_FLOOR = 1e-2


class WhiteningExpert(nn.Module):
    """The parameters of one expert, W (x − b), under their official names."""

    def __init__(self, input_size: int, output_size: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(input_size))
        self.lin = nn.Linear(input_size, output_size, bias=False)
        nn.init.normal_(self.lin.weight, std=0.02)


class MoEAdaptor(nn.Module):
    """Maps frozen features to item vectors: Σ_e g_e(x) · W_e (dropout(x) − b_e).

    The gate is a softmax over all experts of x W_gate, in training of
    x W_gate + ε · (softplus(x W_noise) + 0.01) with ε ~ N(0, 1); it sees x without dropout.

    All experts are one matrix product, with W_e b_e taken off its result. They therefore
    share one dropout mask, where the official code draws one for each: the expectation of
    the output and everything in eval mode are the same, at an eighth of the random numbers.

    Note that a zero vector ([PAD]) is mapped to −Σ_e g_e W_e b_e, not to zero.
    """

    def __init__(self, input_size: int, output_size: int, num_experts: int, dropout: float):
        super().__init__()
        self.dropout = dropout
        self.experts = nn.ModuleList(
            [WhiteningExpert(input_size, output_size) for _ in range(num_experts)]
        )
        self.w_gate = nn.Parameter(torch.zeros(input_size, num_experts))
        self.w_noise = nn.Parameter(torch.zeros(input_size, num_experts))

    def gates(self, x: Float[Tensor, "*rows input"]) -> Float[Tensor, "*rows experts"]:
        """The experts' shares, noisy in training mode only."""
        logits = x @ self.w_gate
        if self.training:
            scale = F.softplus(x @ self.w_noise) + NOISE_FLOOR
            logits = logits + torch.randn_like(logits) * scale
        return logits.softmax(dim=-1)

    def forward(self, x: Float[Tensor, "*rows input"]) -> Float[Tensor, "*rows output"]:
        """Adapts features, row by row."""
        experts = cast(list[WhiteningExpert], list(self.experts))
        weight = torch.stack([expert.lin.weight for expert in experts])
        bias = torch.stack([expert.bias for expert in experts])
        shift = torch.einsum("eoi,ei->eo", weight, bias)
        dropped = dropout(x, self.dropout, self.training)
        outputs = F.linear(dropped, weight.flatten(0, 1)).unflatten(-1, shift.shape)
        gates = self.gates(x)
        return (gates.unsqueeze(-2) @ outputs).squeeze(-2) - gates @ shift
