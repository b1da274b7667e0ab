"""Recformer's encoder: a Longformer with a fourth embedding, the item position.

As in arXiv 2305.13731 and its official code (AaronHeee/RecFormer), whose parameter names are
kept. Every token sees the tokens at most `attention_window / 2` places away and the first one,
which in turn sees all through projections of its own.
"""

import dataclasses
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from teachers_torch.recformer.local_attention import local_attention

TOKEN_TYPES = 4  # first token, attribute name, attribute value, padding
# What a file may ask for: far more than any model has, and not what takes minutes to be built.
_MOST, _MOST_LAYERS = 2**24, 256


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What the weights decide.

    Attributes:
        vocab_size: rows of the word table.
        hidden_size: width D.
        num_layers: blocks.
        num_heads: heads of each block; divide the width.
        intermediate_size: width of the feed-forward layer.
        num_positions: rows of the position table. A sequence holds that many tokens, less
            `pad_token_id + 1` rows that stand for padding or nothing.
        num_item_positions: rows of the item position table: the first token and the items.
        pad_token_id: padding's token id and position.
        layer_norm_eps: epsilon of all LayerNorms.
        attention_window: how wide the band is, both sides together.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    num_positions: int
    num_item_positions: int
    pad_token_id: int
    layer_norm_eps: float
    attention_window: int = 64

    def __post_init__(self):
        """Refuses, by ValueError, what can't be built, before anything is."""
        sizes = dataclasses.asdict(self)
        eps = sizes.pop("layer_norm_eps")
        pad = sizes.pop("pad_token_id")
        right = all(type(value) is int and 0 < value <= _MOST for value in sizes.values())
        right = right and type(pad) is int and 0 <= pad < self.vocab_size
        right = right and isinstance(eps, float) and 0 < eps < 1
        right = right and self.num_layers <= _MOST_LAYERS
        if not right or self.hidden_size % self.num_heads:
            raise ValueError(f"no architecture: {dataclasses.asdict(self)}")

    @property
    def max_tokens(self) -> int:
        """Longest sequence that has positions."""
        return self.num_positions - self.pad_token_id - 1


class Tokens(NamedTuple):
    """A batch of token sequences.

    Attributes:
        input_ids: token ids; their number fixes the positions, padding ids not counted.
        token_types: 0 first token, 1 attribute name, 2 attribute value, 3 padding.
        item_positions: 0 first token, 1 newest item, 2 the one before, …
        real: False at padding, which influences nothing. The first token is always real.
    """

    input_ids: Int64[Tensor, "rows length"]
    token_types: Int64[Tensor, "rows length"]
    item_positions: Int64[Tensor, "rows length"]
    real: Bool[Tensor, "rows length"]

    def to(self, device: torch.device) -> "Tokens":
        """The same on a device."""
        return Tokens(*(tensor.to(device) for tensor in self))


class Longformer(nn.Module):
    """The encoder; `pooled` is the vector of a sequence."""

    def __init__(self, architecture: Architecture, dropout: float):
        super().__init__()
        self.embeddings = Embeddings(architecture, dropout)
        self.encoder = LongformerEncoder(architecture, dropout)

    def forward(self, tokens: Tokens) -> Float[Tensor, "rows length width"]:
        """Hidden states of all tokens; what stands at padding means nothing."""
        x = self.embeddings(tokens)
        for layer in self.encoder.layers():
            x = layer(x, tokens.real)
        return x

    def pooled(self, tokens: Tokens) -> Float[Tensor, "rows width"]:
        """Hidden states of the first tokens, equal to `forward(tokens)[:, 0]`.

        Of the last layer only the first token is computed.
        """
        x = self.embeddings(tokens)
        *layers, last = self.encoder.layers()
        for layer in layers:
            x = layer(x, tokens.real)
        return last(x, tokens.real, first_only=True)[:, 0]

    def fix_words(self, fixed: bool) -> None:
        """Leaves the words' vectors as they are, or has them trained."""
        self.embeddings.word_embeddings.requires_grad_(not fixed)


class Embeddings(nn.Module):
    """Sum of word, position, token type and item position, LayerNorm, dropout."""

    def __init__(self, architecture: Architecture, dropout: float):
        super().__init__()
        width, pad = architecture.hidden_size, architecture.pad_token_id
        self.word_embeddings = nn.Embedding(architecture.vocab_size, width, padding_idx=pad)
        self.position_embeddings = nn.Embedding(architecture.num_positions, width, padding_idx=pad)
        self.token_type_embeddings = nn.Embedding(TOKEN_TYPES, width)
        self.item_position_embeddings = nn.Embedding(architecture.num_item_positions, width)
        self.LayerNorm = nn.LayerNorm(width, eps=architecture.layer_norm_eps)
        self.dropout = nn.Dropout(dropout)
        self.pad_token_id = pad

    def forward(self, tokens: Tokens) -> Float[Tensor, "rows length width"]:
        """Embeds tokens; positions count from `pad_token_id + 1`, padding ids have that id."""
        counted = (tokens.input_ids != self.pad_token_id).long()
        positions = counted.cumsum(dim=1) * counted + self.pad_token_id
        embedded = (
            self.word_embeddings(tokens.input_ids)
            + self.position_embeddings(positions)
            + self.token_type_embeddings(tokens.token_types)
            + self.item_position_embeddings(tokens.item_positions)
        )
        return self.dropout(self.LayerNorm(embedded))


class LongformerEncoder(nn.Module):
    """The layers, under their official names."""

    def __init__(self, architecture: Architecture, dropout: float):
        super().__init__()
        self.layer = nn.ModuleList(
            Layer(architecture, dropout) for _ in range(architecture.num_layers)
        )

    def layers(self) -> list["Layer"]:
        """From the first to the last."""
        return cast(list[Layer], list(self.layer))


class Layer(nn.Module):
    """Attention and feed-forward, post-LN."""

    def __init__(self, architecture: Architecture, dropout: float):
        super().__init__()
        width, inner = architecture.hidden_size, architecture.intermediate_size
        self.attention = Attention(architecture, dropout)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = Output(inner, architecture, dropout)

    def forward(
        self,
        x: Float[Tensor, "rows length width"],
        real: Bool[Tensor, "rows length"],
        *,
        first_only: bool = False,
    ) -> Float[Tensor, "rows places width"]:
        """Transforms all tokens, or the first alone."""
        x = self.attention(x, real, first_only)
        return self.output(F.gelu(self.intermediate["dense"](x)), x)


class Output(nn.Module):
    """Projection, dropout, residual, LayerNorm."""

    def __init__(self, input_size: int, architecture: Architecture, dropout: float):
        super().__init__()
        self.dense = nn.Linear(input_size, architecture.hidden_size)
        self.LayerNorm = nn.LayerNorm(architecture.hidden_size, eps=architecture.layer_norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "rows places inner"], residual: Float[Tensor, "rows places width"]
    ) -> Float[Tensor, "rows places width"]:
        """Transforms each token on its own."""
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class Attention(nn.Module):
    """Self-attention and its output projection."""

    def __init__(self, architecture: Architecture, dropout: float):
        super().__init__()
        self.self = SelfAttention(architecture, dropout)
        self.output = Output(architecture.hidden_size, architecture, dropout)

    def forward(self, x: Tensor, real: Tensor, first_only: bool) -> Tensor:
        """Attends, for all tokens or for the first alone."""
        if first_only:
            return self.output(self.self.first(x, real), x[:, :1])
        return self.output(self.self(x, real), x)


class SelfAttention(nn.Module):
    """Local attention, and global attention of the first token."""

    def __init__(self, architecture: Architecture, dropout: float):
        super().__init__()
        width = architecture.hidden_size
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.query_global, self.key_global, self.value_global = (
            nn.Linear(width, width) for _ in range(3)
        )
        self.num_heads, self.dropout = architecture.num_heads, dropout
        self.reach = architecture.attention_window // 2

    def forward(
        self, x: Float[Tensor, "rows length width"], real: Bool[Tensor, "rows length"]
    ) -> Float[Tensor, "rows length width"]:
        """Context vectors before the output projection; zero at padding."""
        local = local_attention(
            self._heads(self.query(x)),
            self._heads(self.key(x)),
            self._heads(self.value(x)),
            real,
            self.reach,
            self._dropout_now,
        )
        local = local.transpose(1, 2).flatten(2) * real.unsqueeze(-1)
        return torch.cat([self.first(x, real), local[:, 1:]], dim=1)

    def first(
        self, x: Float[Tensor, "rows length width"], real: Bool[Tensor, "rows length"]
    ) -> Float[Tensor, "rows 1 width"]:
        """The first token's context: it sees all real tokens, through its own projections."""
        attended = F.scaled_dot_product_attention(
            self._heads(self.query_global(x[:, :1])),
            self._heads(self.key_global(x)),
            self._heads(self.value_global(x)),
            attn_mask=real[:, None, None, :],
            dropout_p=self._dropout_now,
        )
        return attended.transpose(1, 2).flatten(2)

    @property
    def _dropout_now(self) -> float:
        return self.dropout if self.training else 0.0

    def _heads(self, y: Tensor) -> Float[Tensor, "rows heads length size"]:
        return y.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
