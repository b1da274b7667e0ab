"""UniSRec's official checkpoints and functions, in terms of the model here.

The official tables have a row for [PAD]: item i of a data set here is row i + 1 there, and an
official `item_seq` holds those rows, oldest item first, 0 after the end. No command calls the
functions `official_*`: they are for code of yours that was written for the official model, and are
compared with it in the tests (docs/teachers.md).
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import writing
from prmkd_jax.common.weights import require_weights
from teachers_torch.config import PretrainConfig, UniSRecConfig
from teachers_torch.sequence.contrast import PretrainBatch
from teachers_torch.sequence.encoder import TensorBatch
from teachers_torch.sequence.unisrec import UniSRec
from teachers_torch.states import require_tensors

PLM, IDS = "plm_embedding.weight", "item_embedding.weight"


def from_official(
    weights: Mapping[str, Tensor],
    text_vectors: Float[Tensor, "rows text"] | None = None,
    config: UniSRecConfig | None = None,
) -> UniSRec:
    """A model with official weights, in eval mode; sizes are read from the weights' shapes.

    Args:
        weights: an official `state_dict`, with `item_embedding.weight` (transductive) or
            without (pre-training, inductive).
        text_vectors: the text table, row 0 = [PAD]; `plm_embedding.weight` where the weights
            have it. For word drop, the same rows without some of their words may follow.
        config: settings that shapes don't show: heads (2), dropout, `pad_class`; sizes are read.

    Raises:
        UserError: keys are missing, surplus or of another shape; all of them are listed.
    """
    table = weights.get(PLM) if text_vectors is None else text_vectors
    if table is None:
        raise UserError(f"state_dict: found no {PLM}, expected it, or a table of text vectors")
    own = {key: value for key, value in weights.items() if key != PLM}
    sizes, length = _sizes(own)
    fields = {**vars(config or UniSRecConfig()), **sizes}
    rows = table.detach().float().cpu().numpy()
    model = UniSRec(UniSRecConfig(**fields), rows[1:], length, transductive=IDS in own)
    # [PAD]'s vector is zero in every official table, but that is the table's to say.
    model.features[0] = torch.from_numpy(rows[0])
    load_weights(model, own, "state_dict")
    return model.eval()


def to_official(model: UniSRec) -> dict[str, Tensor]:
    """The model's weights under the official keys, with `plm_embedding.weight`."""
    weights = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
    return {**weights, PLM: model.features.cpu().clone()}


def write_official(model: UniSRec, path: Path, dataset: str = "prmkd") -> None:
    """Writes a file that the official `finetune.py -p` reads.

    It has no tables, which belong to one catalogue, as the official pre-training's files. The
    complete `state_dict` is `to_official`.

    Args:
        model: weights to write.
        path: output file.
        dataset: name of the pre-training data, which the official log shows.
    """
    weights = {k: v for k, v in to_official(model).items() if k not in (PLM, IDS)}
    with writing(path) as partial:
        torch.save({"config": {"dataset": dataset}, "epoch": 0, "state_dict": weights}, partial)


def load_weights(
    model: torch.nn.Module,
    weights: Mapping[str, Tensor],
    source: str,
    *,
    fresh: tuple[str, ...] = (),
) -> None:
    """Copies weights into a model, by key and shape.

    Args:
        model: receives the weights.
        weights: state dict.
        source: file name for error messages.
        fresh: prefixes of the keys that only the model may have.

    Raises:
        UserError: keys are missing, surplus or of another shape; all of them are listed.
    """
    wanted = {key: value.shape for key, value in model.state_dict().items()}
    require_weights({key: w.shape for key, w in weights.items()}, wanted, source, fresh=fresh)
    require_tensors(weights, source)
    model.load_state_dict(weights, strict=False)


def official_pretrain_loss(
    model: UniSRec,
    item_seq: Int64[Tensor, "batch length"],
    lengths: Int64[Tensor, " batch"],
    targets: Int64[Tensor, " batch"],
    augmented_seq: Int64[Tensor, "batch length"],
    augmented_lengths: Int64[Tensor, " batch"],
    config: PretrainConfig | None = None,
) -> Float[Tensor, ""]:
    """L(s, v) + λ L(s, s') of official tensors: all ids are rows of the model's text table."""
    batch = PretrainBatch(item_seq, lengths, targets, augmented_seq, augmented_lengths)
    return model.pretrain_loss(batch, config or PretrainConfig())


def official_tuning_loss(
    model: UniSRec,
    item_seq: Int64[Tensor, "batch length"],
    lengths: Int64[Tensor, " batch"],
    targets: Int64[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """The fine-tuning loss of official tensors, [PAD] a class where `pad_class` says so.

    Args:
        model: transductive or inductive.
        item_seq: rows of the official tables, left-aligned, 0 after the end.
        lengths: items of each sequence.
        targets: rows of the items that follow, at least 1.
    """
    return model.loss(_left_aligned(item_seq, lengths, targets))


@torch.no_grad()
def official_scores(
    model: UniSRec, item_seq: Int64[Tensor, "batch length"], lengths: Int64[Tensor, " batch"]
) -> Float[Tensor, "batch rows"]:
    """Cosines of all official rows, [PAD]'s first, as `full_sort_predict` gives them."""
    batch = _left_aligned(item_seq, lengths, torch.ones_like(lengths))
    users = model.user_vectors(batch, model.read(item_seq))
    return users @ torch.nn.functional.normalize(model.item_reprs(0), dim=-1).T


def _left_aligned(item_seq: Tensor, lengths: Tensor, targets: Tensor) -> TensorBatch:
    """Official sequences as packed rows of one segment, their rows as item ids."""
    rows, length = item_seq.shape
    positions = torch.arange(length, device=item_seq.device).expand(rows, -1)
    last = torch.arange(rows, device=item_seq.device) * length + lengths - 1
    segment_ids = (positions < lengths[:, None]).long()
    return TensorBatch(item_seq - 1, segment_ids, positions, last, targets - 1)


def _sizes(weights: Mapping[str, Tensor]) -> tuple[dict[str, int], int]:
    """Sizes that shapes tell, and the number of positions."""

    def count(prefix: str) -> int:
        rest = [key.removeprefix(prefix) for key in weights if key.startswith(prefix)]
        return len({key.partition(".")[0] for key in rest})

    def shape(key: str) -> tuple[int, int]:
        found = weights[key].shape if key in weights else ()
        if len(found) != 2:
            raise UserError(f"state_dict: found no matrix {key}, expected a UniSRec checkpoint")
        return found[0], found[1]

    length, hidden = shape("position_embedding.weight")
    sizes = {
        "hidden_size": hidden,
        "inner_size": shape("trm_encoder.layer.0.feed_forward.dense_1.weight")[0],
        "num_layers": count("trm_encoder.layer."),
        "num_experts": count("moe_adaptor.experts."),
    }
    return sizes, length
