"""UniSRec: item texts, whitened by a mixture of experts, read by SASRec (arXiv 2206.05941)."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from teachers_torch.config import PretrainConfig, UniSRecConfig
from teachers_torch.losses import cosine_cross_entropy
from teachers_torch.sequence.adaptor import MoEAdaptor
from teachers_torch.sequence.contrast import PretrainBatch, contrastive_loss, sequence_vectors
from teachers_torch.sequence.encoder import SequenceModel, TensorBatch


class UniSRec(SequenceModel):
    """UniSRec, inductive and in pre-training (text alone) or transductive (+ an ID embedding).

    Row 0 of the feature and ID tables is [PAD], as in the official state dict; item i has
    row i + 1. [PAD]'s features are zero. With `pad_class` its row is one more class of the
    softmax, never a candidate of a ranking. Through that class the ID table's row 0 is
    learned, in the official code too. Untrained and without IDs, [PAD] starts as the zero
    vector: dividing by its norm makes the first gradient of the experts' biases some 10⁸
    times too large, and Adam then hardly moves them again. The official code does the same.

    The features themselves are not part of the state dict: they come from the text cache.
    """

    features: Float[Tensor, "rows text"]

    def __init__(
        self,
        config: UniSRecConfig,
        text_vectors: Float32[np.ndarray, "items text"],
        max_seq_len: int,
        *,
        transductive: bool,
    ):
        super().__init__(config, max_seq_len)
        num_items, text_size = text_vectors.shape
        features = torch.cat([torch.zeros(1, text_size), torch.from_numpy(text_vectors)])
        self.register_buffer("features", features, persistent=False)
        self.moe_adaptor = MoEAdaptor(
            text_size, config.hidden_size, config.num_experts, config.adaptor_dropout
        )
        self.pad_class = config.pad_class
        self.item_embedding = None
        if transductive:
            self.item_embedding = nn.Embedding(num_items + 1, config.hidden_size)
            nn.init.normal_(self.item_embedding.weight, std=0.02)

    def item_reprs(self, first: int = 1) -> Float[Tensor, "items width"]:
        """Vectors of the table's rows from `first` on, not normalised."""
        vectors = self.moe_adaptor(self.features[first:])
        if self.item_embedding is None:
            return vectors
        return vectors + self.item_embedding.weight[first:]

    def loss(self, batch: TensorBatch) -> Float[Tensor, ""]:
        """Mean cross-entropy over all items; read and candidate items draw their own noise.

        One draw for both would save a sixth of a step, but the teachers were worse for it.
        """
        users = self.user_vectors(batch, self.read(batch.item_seq + 1))
        first = 0 if self.pad_class else 1
        table = self.item_reprs(first)
        return cosine_cross_entropy(users, table, batch.targets + 1 - first, self.temperature)

    def read(self, rows: Int64[Tensor, "rows length"]) -> Float[Tensor, "rows length width"]:
        """Vectors of table rows as the encoder reads them; each occurrence draws its own noise."""
        vectors = self.moe_adaptor(self.features[rows])
        if self.item_embedding is None:
            return vectors
        return vectors + self.item_embedding(rows)

    def pretrain_loss(self, batch: PretrainBatch, config: PretrainConfig) -> Float[Tensor, ""]:
        """L(s, v) + λ L(s, s') (UniSRec, 3.2): the encoded sequence finds the target's text
        and the augmented sequence among those of the batch.

        Args:
            batch: rows of the feature table.
            config: λ, and what becomes of rows with the same target.
        """
        sequences = sequence_vectors(self, self.read, batch.item_seq, batch.lengths)
        targets = F.normalize(self.moe_adaptor(self.features[batch.targets]), dim=-1)
        augmented = sequence_vectors(self, self.read, batch.augmented_seq, batch.augmented_lengths)
        to_items, to_sequences = (
            contrastive_loss(
                sequences, keys, batch.targets, self.temperature, duplicates=config.duplicates
            )
            for keys in (targets, augmented)
        )
        return to_items + config.sequence_weight * to_sequences
