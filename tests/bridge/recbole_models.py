"""RecBole's models in plain PyTorch: its parameter names, its formulas, dropout off, float64.

Sequences are left-aligned rows of its tables, 0 behind the end; row 0 of a table is [PAD].
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, INNER, HEADS, LAYERS, STATE = 12, 10, 3, 2, 9


class Attention(nn.Module):
    """Multi-head self-attention with its residual."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.dense = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.LayerNorm = nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """States after it."""
        query, key, value = (
            part(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        weights = (query @ key.transpose(-1, -2) / math.sqrt(WIDTH / HEADS) + mask).softmax(-1)
        return self.LayerNorm(self.dense((weights @ value).transpose(1, 2).flatten(2)) + x)


class FeedForward(nn.Module):
    """Feed-forward layer with its residual."""

    def __init__(self):
        super().__init__()
        self.dense_1, self.dense_2 = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)
        self.LayerNorm = nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        """States after it."""
        return self.LayerNorm(self.dense_2(F.gelu(self.dense_1(x))) + x)


class Layer(nn.Module):
    """One block."""

    def __init__(self):
        super().__init__()
        self.multi_head_attention, self.feed_forward = Attention(), FeedForward()


class Encoder(nn.Module):
    """RecBole's TransformerEncoder."""

    def __init__(self):
        super().__init__()
        self.layer = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        """States after all blocks."""
        mask = torch.where(allowed, 0.0, -10000.0)[:, None]
        for layer in self.layer:
            x = layer.feed_forward(layer.multi_head_attention(x, mask))
        return x


class SASRec(nn.Module):
    """Logits of all rows at a prefix's last item."""

    def __init__(self, items: int, users: int, length: int):
        super().__init__()
        self.item_embedding = nn.Embedding(items, WIDTH, padding_idx=0)
        self.position_embedding = nn.Embedding(length, WIDTH)
        self.trm_encoder = Encoder()
        self.LayerNorm = nn.LayerNorm(WIDTH, eps=1e-12)

    def states(self, seq: Tensor, allowed: Tensor) -> Tensor:
        """States [batch, length, D]."""
        positions = self.position_embedding.weight[: seq.shape[1]]
        return self.trm_encoder(self.LayerNorm(self.item_embedding(seq) + positions), allowed)

    def forward(self, seq: Tensor, lengths: Tensor, users: Tensor) -> Tensor:
        """Scores [batch, rows of the item table]."""
        seen = (seq != 0)[:, None, :] & torch.ones(2 * [seq.shape[1]]).tril().bool()
        hidden = self.states(seq, seen)[torch.arange(len(seq)), lengths - 1]
        return hidden @ self.item_embedding.weight.T


class BERT4Rec(SASRec):
    """Its [MASK] is the row after the last item."""

    def __init__(self, items: int, users: int, length: int):
        super().__init__(items + 1, users, length)
        self.output_ffn = nn.Linear(WIDTH, WIDTH)
        self.output_ln = nn.LayerNorm(WIDTH, eps=1e-12)
        self.output_bias = nn.Parameter(torch.zeros(items))

    def forward(self, seq: Tensor, lengths: Tensor, users: Tensor) -> Tensor:
        """Scores [batch, rows of the item table]."""
        # The prefix's newest items and the mask have `length` places together.
        room = self.position_embedding.num_embeddings - 1
        masked = torch.zeros(len(seq), room + 1, dtype=seq.dtype)
        for row, (items, length) in enumerate(zip(seq, lengths, strict=True)):
            kept = items[:length][-room:]
            masked[row, : len(kept)] = kept
            masked[row, len(kept)] = self.item_embedding.num_embeddings - 1
        states = self.states(masked, (masked != 0)[:, None, :].expand(-1, room + 1, -1))
        hidden = states[torch.arange(len(seq)), (masked != 0).sum(1) - 1]
        hidden = self.output_ln(F.gelu(self.output_ffn(hidden)))
        return hidden @ self.item_embedding.weight[:-1].T + self.output_bias


class GRU4Rec(nn.Module):
    """Logits of all rows at a prefix's last item."""

    def __init__(self, items: int, users: int, length: int):
        super().__init__()
        self.item_embedding = nn.Embedding(items, WIDTH, padding_idx=0)
        self.gru_layers = nn.GRU(WIDTH, STATE, LAYERS, bias=False, batch_first=True)
        self.dense = nn.Linear(STATE, WIDTH)

    def forward(self, seq: Tensor, lengths: Tensor, users: Tensor) -> Tensor:
        """Scores [batch, rows of the item table]."""
        output = self.dense(self.gru_layers(self.item_embedding(seq))[0])
        return output[torch.arange(len(seq)), lengths - 1] @ self.item_embedding.weight.T


class LightGCN(nn.Module):
    """`edges` are (user, item) rows of the tables, set after it is made."""

    edges: Tensor

    def __init__(self, items: int, users: int, length: int):
        super().__init__()
        self.user_embedding = nn.Embedding(users, WIDTH)
        self.item_embedding = nn.Embedding(items, WIDTH)

    def forward(self, seq: Tensor, lengths: Tensor, users: Tensor) -> Tensor:
        """Scores [batch, rows of the item table]."""
        count, (left, right) = self.user_embedding.num_embeddings, self.edges
        layer = torch.cat([self.user_embedding.weight, self.item_embedding.weight])
        both = torch.cat([left, right + count]), torch.cat([right + count, left])
        degrees = torch.bincount(both[0], minlength=len(layer)).double() + 1e-7
        values = degrees[both[0]] ** -0.5 * degrees[both[1]] ** -0.5
        graph = torch.sparse_coo_tensor(
            torch.stack(both), values, 2 * [len(layer)], check_invariants=True
        )
        layers = [layer]
        for _ in range(LAYERS):
            layers.append(torch.sparse.mm(graph, layers[-1]))
        user, item = torch.stack(layers).mean(0).split([count, len(layer) - count])
        return user[users] @ item.T


MODELS = {"sasrec": SASRec, "gru4rec": GRU4Rec, "bert4rec": BERT4Rec, "lightgcn": LightGCN}
