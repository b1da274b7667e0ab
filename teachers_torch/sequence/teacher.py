"""Vectors of instances and items from a causal encoder."""

import dataclasses

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64

from prmkd_jax.data.batches import as_batch
from prmkd_jax.data.dataset import Interactions
from prmkd_jax.data.packing import Segments, history_segments, pack, row_length
from teachers_torch.config import EncoderConfig
from teachers_torch.optional import Held
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
        """The model's parameters, frozen ones too."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def table_bytes(self) -> int:
        """Bytes of the content features, their availability bits and the ID table."""
        ids = self.model.item_embedding
        tables = [*self.model.buffers(), *([] if ids is None else [ids.weight])]
        return sum(table.nbytes for table in tables)

    def held(self) -> Held:
        """The ID table, which is trained, belongs to the items."""
        ids = self.model.item_embedding
        weights = sum(parameter.nbytes for parameter in self.model.parameters())
        return Held(weights - (0 if ids is None else ids.weight.nbytes), self.table_bytes)

    @torch.inference_mode()
    def frozen(self) -> "FrozenTeacher":
        """The teacher as it is now, with all that its encoding needs of the items and histories."""
        self.model.eval()
        table = self.model.item_reprs()
        ends = self.interactions.indptr[1:]
        segments = history_segments(self.interactions, ends, self.max_seq_len)
        return FrozenTeacher(self, table, segments, np.argsort(segments.stop))

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
        by_stop: the windows in the order of the instances that they predict.
    """

    teacher: TunedTeacher
    table: Float[torch.Tensor, "items width"]
    segments: Segments
    by_stop: Int64[np.ndarray, " segments"]

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
        asking = self._asking(distinct)
        size = teacher.config.batch_size
        length = row_length(size, teacher.max_seq_len)
        for packed in pack(interactions, self.segments[asking], size // length, length):
            batch = as_batch(interactions, packed)
            tensors = to_tensors(batch, table.device)
            encoded = model.user_vectors(tensors, table[tensors.item_seq]).cpu().numpy()
            found = batch.instance_ids[batch.is_instance]
            asked = np.isin(found, distinct)
            vectors[np.searchsorted(distinct, found[asked])] = encoded[asked]
        return vectors[place]

    def _asking(self, wanted: Int64[np.ndarray, " instances"]) -> Int64[np.ndarray, " chosen"]:
        """The windows that predict any of the instances."""
        if not len(self.segments):
            return self.by_stop
        places = np.searchsorted(self.segments.stop, wanted, sorter=self.by_stop)
        windows = self.by_stop[np.minimum(places, len(self.by_stop) - 1)]
        # A user's first item stands between two windows and is predicted by none.
        lies_within = self.segments.predict_from[windows] < wanted
        lies_within &= wanted <= self.segments.stop[windows]
        return np.unique(windows[lies_within])
