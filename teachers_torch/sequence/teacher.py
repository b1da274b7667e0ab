"""Vectors of instances and items from a causal encoder."""

import dataclasses

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64

from prmkd_jax.data.batches import as_batch
from prmkd_jax.data.dataset import Interactions
from prmkd_jax.data.packing import Segments, history_segments, pack, row_length
from teachers_torch.config import EncoderConfig
from teachers_torch.sequence.encoder import SequenceModel, to_tensors


@dataclasses.dataclass(frozen=True)
class TunedTeacher:
    """A teacher that is a torch model over the histories of one data set.

    Its vectors are L2-normalised, so `score_scale` is 1 / temperature. `start` describes what
    its weights began from.
    """

    name: str
    model: SequenceModel
    interactions: Interactions
    config: EncoderConfig
    max_seq_len: int
    start: str = "random"

    @property
    def score_scale(self) -> float:
        """1 / temperature."""
        return 1 / self.model.temperature

    @property
    def num_parameters(self) -> int:
        """All trained parameters."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def table_bytes(self) -> int:
        """Bytes of the content features, their availability bits and the ID table."""
        ids = self.model.item_embedding
        tables = [*self.model.buffers(), *([] if ids is None else [ids.weight])]
        return sum(table.nbytes for table in tables)

    @torch.inference_mode()
    def frozen(self) -> "FrozenTeacher":
        """The teacher as it is now, with all that its encoding needs of the items and histories."""
        self.model.eval()
        table = self.model.item_reprs()
        ends = self.interactions.indptr[1:]
        return FrozenTeacher(
            self, table, history_segments(self.interactions, ends, self.max_seq_len)
        )

    def encode_instances(
        self, instance_ids: Int[np.ndarray, " instances"]
    ) -> Float32[np.ndarray, "instances width"]:
        """Vectors of instances; zero for the offset of a user's first item."""
        return self.frozen().encode_instances(instance_ids)

    def encode_items(self) -> Float32[np.ndarray, "items width"]:
        """Vectors of all items."""
        return self.frozen().encode_items()


@dataclasses.dataclass(frozen=True)
class FrozenTeacher:
    """A teacher between two steps: its items are adapted once, however often it encodes.

    Attributes:
        teacher: the tuned teacher, which isn't trained meanwhile.
        table: vectors of all items, not normalised.
        segments: windows of all histories.
    """

    teacher: TunedTeacher
    table: Float[torch.Tensor, "items width"]
    segments: Segments

    @torch.inference_mode()
    def encode_items(self) -> Float32[np.ndarray, "items width"]:
        """L2-normalised vectors of all items."""
        return torch.nn.functional.normalize(self.table, dim=-1).cpu().numpy()

    @torch.inference_mode()
    def encode_instances(
        self, instance_ids: Int[np.ndarray, " instances"]
    ) -> Float32[np.ndarray, "instances width"]:
        """Vectors of instances, in eval mode: all prefixes of a history in one causal pass.

        Args:
            instance_ids: CSR offsets of the targets, in any order. The offset of a user's first
                item is no instance; its row is zero.
        """
        teacher, table = self.teacher, self.table
        model, interactions = teacher.model.eval(), teacher.interactions
        # Where teachers have read whole histories, a batch asks for one of them several times.
        distinct, place = np.unique(np.asarray(instance_ids, np.int64), return_inverse=True)
        vectors = np.zeros((len(distinct), table.shape[1]), dtype=np.float32)
        row_of = np.full(len(interactions.items), -1)
        row_of[distinct] = np.arange(len(distinct))
        asking = _asking(self.segments, distinct)
        size = teacher.config.batch_size
        length = row_length(size, teacher.max_seq_len)
        for packed in pack(interactions, self.segments[asking], size // length, length):
            batch = as_batch(interactions, packed)
            tensors = to_tensors(batch, table.device)
            encoded = model.user_vectors(tensors, table[tensors.item_seq]).cpu().numpy()
            rows = row_of[batch.instance_ids[batch.is_instance]]
            vectors[rows[rows >= 0]] = encoded[rows >= 0]
        return vectors[place]


def _asking(
    segments: Segments, wanted: Int64[np.ndarray, " instances"]
) -> Int64[np.ndarray, " chosen"]:
    """The segments that ask for any of the instances, which ascend."""
    below = np.searchsorted(wanted, segments.predict_from + 1, side="left")
    return np.flatnonzero(np.searchsorted(wanted, segments.stop, side="right") > below)
