"""A UniM²Rec-style teacher: texts and images, fused where they are available.

The design is this project's own: of UniM²Rec (arXiv 2311.01831) no code is
public, so this is no reproduction of it. UniSRec's parts are used throughout, that the two
teachers differ in what they read and not in how.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from teachers_torch.config import PretrainConfig, UniM2RecConfig
from teachers_torch.items.inputs import Modality
from teachers_torch.items.pixels import PixelEncoder
from teachers_torch.losses import cosine_cross_entropy
from teachers_torch.sequence.adaptor import MoEAdaptor
from teachers_torch.sequence.contrast import PretrainBatch, contrastive_loss, sequence_vectors
from teachers_torch.sequence.encoder import SequenceModel, TensorBatch

ALIGN_TEMPERATURE = 0.07
IMAGE = 1  # index of the second modality


class UniM2Rec(SequenceModel):
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
        modalities: Sequence[Modality],
        max_seq_len: int,
        *,
        has_ids: bool,
        vision: PixelEncoder | None = None,
    ):
        """Builds an untuned model.

        Args:
            config: the model's settings.
            modalities: text, then images where there are any: features and availability bits
                of all items.
            max_seq_len: the longest prefix.
            has_ids: add a learned ID embedding to the fused content.
            vision: turns the images' features, raw pixels then, into what is adapted.
        """
        super().__init__(config, max_seq_len)
        width = config.hidden_size
        available = np.stack([bits for _, bits in modalities], axis=1)
        self.register_buffer("available", torch.from_numpy(available), persistent=False)
        for index, (features, bits) in enumerate(modalities):
            present = torch.from_numpy(features[bits])
            self.register_buffer(f"features_{index}", present, persistent=False)
        self.vision = vision
        sizes = [features.shape[1] for features, _ in modalities]
        if vision is not None:
            sizes[IMAGE] = vision.width
        self.adaptors = nn.ModuleList(
            MoEAdaptor(size, width, config.num_experts, config.adaptor_dropout) for size in sizes
        )
        self.fusion_hidden = nn.Linear(width, width, bias=False)
        self.fusion_score = nn.Linear(width, 1, bias=False)
        self.placeholder = nn.Parameter(torch.empty(width))
        self.item_embedding = nn.Embedding(len(available), width) if has_ids else None
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
        return self._fuse(self._adapt(), self._visible(self.available))

    def loss(self, batch: TensorBatch) -> Float[Tensor, ""]:
        """Cross-entropy over all items + weighted alignment of the batch's items.

        The items read come from the same draw of noise as the candidates: one pass through
        the adaptors a step.
        """
        contents = self._adapt()
        table = self._fuse(contents, self._visible(self.available))
        users = self.user_vectors(batch, F.embedding(batch.item_seq, table))
        loss = cosine_cross_entropy(users, table, batch.targets, self.temperature)
        read = batch.item_seq[batch.segment_ids > 0]
        items = torch.cat([read, batch.targets]).unique()
        return loss + self.align_weight * self._alignment(contents[items], self.available[items])

    def pretrain_loss(self, batch: PretrainBatch, config: PretrainConfig) -> Float[Tensor, ""]:
        """L(s, e) + λ L(s, s') + weighted alignment; rows with the same target are left out.

        Only the batch's items are adapted, once; item i is row i + 1 of the batch, and a row
        further on by one or two times the items is the same item without its text or without
        its image.
        """
        num_items = len(self.available)
        sequences = torch.cat([batch.item_seq, batch.augmented_seq], dim=1)
        read = (sequences[sequences > 0] - 1) % num_items
        items, places = torch.cat([read, batch.targets - 1]).unique(return_inverse=True)
        contents, available = self._adapt(items), self.available[items]
        targets = self._fuse(contents, self._visible(available))
        variants = [targets, *(self._fuse(contents, seen) for seen in without_one(available))]
        table = torch.stack(variants)
        # Where each item stands among the batch's; what padding finds is never looked at.
        place_of = places.new_zeros(num_items)
        place_of[items] = torch.arange(len(items), device=items.device)

        def vectors(rows: Int64[Tensor, "rows length"]) -> Float[Tensor, "rows length width"]:
            ids = (rows - 1).clamp(min=0)
            return table[ids // num_items, place_of[ids % num_items]]

        queries = sequence_vectors(self, vectors, batch.item_seq, batch.lengths)
        augmented = sequence_vectors(self, vectors, batch.augmented_seq, batch.augmented_lengths)
        keys = F.normalize(targets[place_of[batch.targets - 1]], dim=-1)
        to_items, to_sequences = (
            contrastive_loss(queries, k, batch.targets, self.temperature, duplicates="left_out")
            for k in (keys, augmented)
        )
        loss = to_items + config.sequence_weight * to_sequences
        return loss + self.align_weight * self._alignment(contents, available)

    def _adapt(
        self, items: Int64[Tensor, " items"] | None = None
    ) -> Float[Tensor, "items modalities width"]:
        """h_m of every item, or of these; zeros where the modality is missing."""
        available = self.available if items is None else self.available[items]
        contents = self.placeholder.new_zeros(*available.shape, len(self.placeholder))
        for index, adaptor in enumerate(self.adaptors):
            features = self.get_buffer(f"features_{index}")
            if items is not None:
                # Only items that have the modality have a row.
                row_of = self.available[:, index].cumsum(0) - 1
                features = features[row_of[items[available[:, index]]]]
            if index == IMAGE and self.vision is not None:
                features = self.vision(features)
            contents[available[:, index], index] = adaptor(features)
        return contents

    def _fuse(
        self,
        contents: Float[Tensor, "items modalities width"],
        visible: Bool[Tensor, "items modalities"],
    ) -> Float[Tensor, "items width"]:
        scores = self.fusion_score(self.fusion_hidden(contents).tanh()).squeeze(-1)
        # Finite, so that an item with nothing visible has no NaN for `where` to carry back.
        weights = scores.masked_fill(~visible, torch.finfo(scores.dtype).min).softmax(dim=-1)
        fused = (weights.unsqueeze(-2) @ contents).squeeze(-2)
        fused = torch.where(visible.any(dim=-1, keepdim=True), fused, self.placeholder)
        return fused if self.item_embedding is None else fused + self.item_embedding.weight

    def _visible(
        self, available: Bool[Tensor, "items modalities"]
    ) -> Bool[Tensor, "items modalities"]:
        """What is available, without what modality dropout hides in training."""
        return self._drop_modality(available) if self.training else available

    def _drop_modality(
        self, available: Bool[Tensor, "items modalities"]
    ) -> Bool[Tensor, "items modalities"]:
        """Modality dropout: hides one of two modalities, each with its probability."""
        p = self.modality_dropout
        draw = torch.rand(len(available), 1, device=available.device)
        text, image = without_one(available)
        return torch.where(draw < p, text, torch.where(draw < 2 * p, image, available))

    def _alignment(
        self,
        contents: Float[Tensor, "items modalities width"],
        available: Bool[Tensor, "items modalities"],
    ) -> Float[Tensor, ""]:
        """Alignment of the items that have both modalities."""
        both = available.all(dim=1) & (available.shape[1] > IMAGE)
        return alignment_loss(contents[both, 0], contents[both, -1])


def without_one(
    available: Bool[Tensor, "items modalities"],
) -> tuple[Bool[Tensor, "items modalities"], Bool[Tensor, "items modalities"]]:
    """Availability without the text and without the image; an item keeps its only one."""
    both = available.all(dim=1, keepdim=True) & (available.shape[1] > IMAGE)
    first = torch.arange(available.shape[1], device=available.device) < IMAGE
    return available & ~(both & first), available & ~(both & ~first)


def alignment_loss(
    text: Float[Tensor, "items width"], image: Float[Tensor, "items width"]
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE: each item's text finds its image and its image finds its text.

    Mean of both directions' cross-entropy of cosine / 0.07 over the items given; zero
    without any.
    """
    if not len(text):
        return text.new_zeros(())
    logits = F.normalize(text, dim=-1) @ F.normalize(image, dim=-1).T / ALIGN_TEMPERATURE
    own = torch.arange(len(text), device=text.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
