"""A UniM²Rec-style teacher: texts and pictures, fused where they are available.

The design is this project's own (models.md 3.3): of UniM²Rec (arXiv 2311.01831) no code is
public, so this is no reproduction of it. UniSRec's parts are used throughout, that the two
teachers differ in what they read and not in how.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32
from torch import Tensor, nn

from teachers_torch.adaptor import MoEAdaptor
from teachers_torch.config import UniM2RecConfig
from teachers_torch.encoder import SequenceEncoder, TensorBatch, cosine_cross_entropy

ALIGN_TEMPERATURE = 0.07


class UniM2Rec(SequenceEncoder):
    """Content = attention over an item's available modalities (+ an ID embedding).

    e = Σ_m a_m h_m, a = softmax over the *available* modalities of w·tanh(U h_m), with
    h_m = MoEAdaptor_m(x_m); an item without any is a learned placeholder. A modality that is
    not available has weight 0, so a placeholder for it alone would never be read and there
    is none. Features of a missing modality are never touched, whatever they hold.
    """

    available: Bool[Tensor, "items modalities"]

    def __init__(
        self,
        config: UniM2RecConfig,
        modalities: list[tuple[Float32[np.ndarray, "items features"], Bool[np.ndarray, "items"]]],
        max_seq_len: int,
    ):
        """Builds an untuned model.

        Args:
            config: its settings.
            modalities: text, then images: features and availability bits of all items.
            max_seq_len: the longest prefix.
        """
        super().__init__(config, max_seq_len)
        width = config.hidden_size
        available = np.stack([bits for _, bits in modalities], axis=1)
        self.register_buffer("available", torch.from_numpy(available), persistent=False)
        for index, (features, bits) in enumerate(modalities):
            present = torch.from_numpy(features[bits])
            self.register_buffer(f"features_{index}", present, persistent=False)
        self.adaptors = nn.ModuleList(
            MoEAdaptor(features.shape[1], width, config.num_experts, config.adaptor_dropout)
            for features, _ in modalities
        )
        self.fusion_hidden = nn.Linear(width, width, bias=False)
        self.fusion_score = nn.Linear(width, 1, bias=False)
        self.placeholder = nn.Parameter(torch.empty(width))
        self.item_embedding = nn.Embedding(len(available), width) if config.id_embedding else None
        for parameter in (
            self.fusion_hidden.weight,
            self.fusion_score.weight,
            self.placeholder,
            *([] if self.item_embedding is None else [self.item_embedding.weight]),
        ):
            nn.init.normal_(parameter, std=0.02)
        self.modality_dropout, self.align_weight = config.modality_dropout, config.align_weight

    def item_reprs(self) -> Float[Tensor, "items width"]:
        """Vectors of all items, not normalised."""
        return self._fuse(self._adapt())

    def loss(self, batch: TensorBatch) -> Float[Tensor, ""]:
        """Cross-entropy over all items + weighted alignment of the batch's items.

        The items read come from the same draw of noise as the candidates: one pass through
        the adaptors a step.
        """
        contents = self._adapt()
        table = self._fuse(contents)
        users = self.user_vectors(batch, table[batch.item_seq])
        loss = cosine_cross_entropy(users, table, batch.targets, self.temperature)
        read = batch.item_seq[batch.segment_ids > 0]
        items = torch.cat([read, batch.targets]).unique()
        both = items[self.available[items].all(dim=1)]
        return loss + self.align_weight * alignment_loss(contents[both, 0], contents[both, 1])

    def _adapt(self) -> Float[Tensor, "items modalities width"]:
        """h_m of every item; zeros where the modality is missing."""
        contents = self.placeholder.new_zeros(*self.available.shape, len(self.placeholder))
        for index, adaptor in enumerate(self.adaptors):
            features = self.get_buffer(f"features_{index}")
            contents[self.available[:, index], index] = adaptor(features)
        return contents

    def _fuse(
        self, contents: Float[Tensor, "items modalities width"]
    ) -> Float[Tensor, "items width"]:
        visible = self._hide(self.available) if self.training else self.available
        scores = self.fusion_score(self.fusion_hidden(contents).tanh()).squeeze(-1)
        # Finite, so that an item with nothing visible has no NaN for `where` to carry back.
        weights = scores.masked_fill(~visible, torch.finfo(scores.dtype).min).softmax(dim=-1)
        fused = (weights.unsqueeze(-2) @ contents).squeeze(-2)
        fused = torch.where(visible.any(dim=-1, keepdim=True), fused, self.placeholder)
        return fused if self.item_embedding is None else fused + self.item_embedding.weight

    def _hide(
        self, available: Bool[Tensor, "items modalities"]
    ) -> Bool[Tensor, "items modalities"]:
        """Modality dropout: hides one of two modalities, each with its probability."""
        p = self.modality_dropout
        draw = torch.rand(len(available), 1, device=available.device)
        hidden = torch.cat([draw < p, (draw >= p) & (draw < 2 * p)], dim=1)
        return available & ~(hidden & available.all(dim=1, keepdim=True))


def alignment_loss(
    text: Float[Tensor, "items width"], image: Float[Tensor, "items width"]
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE: each item's text finds its picture and its picture finds its text.

    Mean of both directions' cross-entropy of cosine / 0.07 over the items given; zero
    without any (models.md 3.3, point 6).
    """
    if not len(text):
        return text.new_zeros(())
    logits = F.normalize(text, dim=-1) @ F.normalize(image, dim=-1).T / ALIGN_TEMPERATURE
    own = torch.arange(len(text), device=text.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
