"""Recformer: histories and items as sentences, read by one Longformer (arXiv 2305.13731)."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int, Int64
from torch import Tensor, nn

from prmkd_jax.data.dataset import Interactions
from teachers_torch.config import RecformerConfig
from teachers_torch.items.text import Progress
from teachers_torch.losses import cosine_cross_entropy
from teachers_torch.optional import Held
from teachers_torch.recformer.longformer import Architecture, Longformer
from teachers_torch.recformer.tokens import Reader, TokenSequence, token_batches
from teachers_torch.teacher import Log


class LanguageHead(nn.Module):
    """Scores of all words at a token: dense, GELU, LayerNorm, decoder."""

    def __init__(self, architecture: Architecture):
        super().__init__()
        width = architecture.hidden_size
        self.dense = nn.Linear(width, width)
        self.layer_norm = nn.LayerNorm(width, eps=architecture.layer_norm_eps)
        self.decoder = nn.Linear(width, architecture.vocab_size)

    def forward(self, x: Float[Tensor, "*places width"]) -> Float[Tensor, "*places words"]:
        """Scores, not normalised."""
        return self.decoder(self.layer_norm(F.gelu(self.dense(x))))


class Recformer(nn.Module):
    """The encoder with what pre-training and tuning add; official parameter names.

    `lm_head` is there in pre-training. `item_embedding` is the table that tuning ranks: all
    items, encoded once and again, never learned by gradients.
    """

    def __init__(
        self,
        architecture: Architecture,
        dropout: float,
        *,
        num_items: int = 0,
        language_head: bool = False,
    ):
        """Draws all weights from N(0, 0.02); biases and the item table are zero.

        Args:
            architecture: sizes.
            dropout: rate for hidden states and attention.
            num_items: rows of the item table; 0 for none.
            language_head: have an `lm_head`.
        """
        super().__init__()
        self.architecture = architecture
        self.longformer = Longformer(architecture, dropout)
        self.lm_head = LanguageHead(architecture) if language_head else None
        self.apply(_initialise)
        self.item_embedding = None
        if num_items:
            table = torch.zeros(num_items, architecture.hidden_size)
            self.item_embedding = nn.Embedding.from_pretrained(table, freeze=True)


def tuning_loss(
    pooled: Float[Tensor, "rows width"],
    item_table: Float[Tensor, "items width"],
    targets: Int64[Tensor, " rows"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Mean cross-entropy over all items of cosine / temperature; nothing need be normalised."""
    return cosine_cross_entropy(F.normalize(pooled, dim=-1), item_table, targets, temperature)


def item_contrastive_loss(
    histories: Float[Tensor, "rows width"], items: Float[Tensor, "rows width"], temperature: float
) -> Float[Tensor, ""]:
    """IIC: cross-entropy over the batch's items of cosine / temperature, row i's class being i.

    One direction only, and equal items in two rows count as two, as in the official code.
    """
    own = torch.arange(len(histories), device=histories.device)
    return tuning_loss(histories, items, own, temperature)


def masked_language_loss(
    head: LanguageHead,
    hidden: Float[Tensor, "rows length width"],
    labels: Int64[Tensor, "rows length"],
) -> Float[Tensor, ""]:
    """MLM: mean cross-entropy at the places whose label is not negative; zero without any.

    The official code's loss without any is not a number; such a batch has first tokens only.
    """
    asked = labels >= 0
    if not asked.any():
        return hidden.new_zeros(())
    return F.cross_entropy(head(hidden[asked]).float(), labels[asked])


@dataclasses.dataclass(frozen=True)
class RecformerTeacher:
    """Recformer over the histories of one data set.

    Its vectors are L2-normalised, so `score_scale` is 1 / temperature. Its items are those of
    the model's table, which are zero until the tuning has encoded them.

    Attributes:
        model: a Recformer with an item table.
        interactions: the histories.
        reader: makes tokens of the histories.
        config: the teacher's settings.
        start: description of what its weights began from.
        log: receives `{"event": "encode", "done": tokens, "total": tokens}` while encoding.
    """

    model: Recformer
    interactions: Interactions
    reader: Reader
    config: RecformerConfig
    start: str
    log: Log

    name = "recformer"

    @property
    def score_scale(self) -> float:
        """1 / temperature."""
        return 1 / self.config.temperature

    @property
    def num_parameters(self) -> int:
        """The encoder's parameters, word embeddings included."""
        return sum(parameter.numel() for parameter in self.model.longformer.parameters())

    @property
    def table_bytes(self) -> int:
        """Bytes of the item table."""
        return self.item_table.nbytes

    def held(self) -> Held:
        """Vectors are made of the encoder and the items' tokens, not of the finished table."""
        weights = sum(parameter.nbytes for parameter in self.model.longformer.parameters())
        return Held(weights, sum(array.nbytes for array in self.reader.tokens))

    @property
    def item_table(self) -> Float[Tensor, "items width"]:
        """The vectors that tuning ranks, not normalised."""
        assert self.model.item_embedding is not None
        return self.model.item_embedding.weight

    def history(self, instance_id: int | np.integer) -> Int[np.ndarray, " history"]:
        """The items before an instance's target, oldest first."""
        interactions = self.interactions
        start = interactions.indptr[interactions.users[instance_id]]
        return interactions.items[start:instance_id]

    def encode_instances(
        self, instance_ids: Int[np.ndarray, " instances"]
    ) -> Float32[np.ndarray, "instances width"]:
        """Vectors of instances; zero for the offset of a user's first item."""
        vectors = np.zeros((len(instance_ids), self.item_table.shape[1]), dtype=np.float32)
        histories = [self.history(instance_id) for instance_id in instance_ids]
        rows = [row for row, history in enumerate(histories) if len(history)]
        sequences = [self.reader.sequence(histories[row]) for row in rows]
        pooled = self._encode(sequences)
        vectors[rows] = F.normalize(pooled, dim=-1).cpu().numpy()
        return vectors

    def encode_items(self) -> Float32[np.ndarray, "items width"]:
        """Vectors of all items."""
        return F.normalize(self.item_table, dim=-1).cpu().numpy()

    def refresh_items(self) -> None:
        """Encodes all items with the weights as they are, into the table."""
        items = np.arange(len(self.item_table))[:, None]
        sequences = [self.reader.sequence(item) for item in items]
        self.item_table.copy_(self._encode(sequences))

    def _encode(self, sequences: Sequence[TokenSequence]) -> Float[Tensor, "sequences width"]:
        def progress(done: int, total: int) -> None:
            self.log({"event": "encode", "done": done, "total": total})

        return encode(self.model, sequences, self.reader, self.config, progress)


@torch.inference_mode()
def encode(
    model: Recformer,
    sequences: Sequence[TokenSequence],
    reader: Reader,
    config: RecformerConfig,
    progress: Progress = lambda done, total: None,
) -> Float[Tensor, "sequences width"]:
    """First tokens' hidden states in float32, in eval mode, sorted by length meanwhile."""
    model.eval()
    width = model.architecture.hidden_size
    device = next(model.parameters()).device
    pooled = torch.empty((len(sequences), width), device=device)
    lengths = np.array([len(sequence.ids) for sequence in sequences])
    done = 0
    for rows in token_batches(lengths, config.tokens_at_once):
        tokens = reader.batch([sequences[row] for row in rows]).to(device)
        with autocast(config, device):
            pooled[torch.from_numpy(rows).to(device)] = model.longformer.pooled(tokens).float()
        done += int(lengths[rows].sum())
        progress(done, int(lengths.sum()))
    return pooled


def autocast(config: RecformerConfig, device: torch.device) -> torch.autocast:
    """Matrix products in bfloat16 where the configuration asks for it."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bfloat16")


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        with torch.no_grad():
            module.weight[module.padding_idx].zero_()
