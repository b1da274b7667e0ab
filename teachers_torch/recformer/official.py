"""Recformer's weights on disk: the official code's files in, this project's in and out."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from prmkd_jax.common.digests import file_digest
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import writing_into
from prmkd_jax.common.sealed import read_sealed_json, write_sealed_json
from prmkd_jax.common.weights import require_weights
from teachers_torch.recformer.longformer import Architecture
from teachers_torch.recformer.model import Recformer
from teachers_torch.states import require_tensors, save_weights
from teachers_torch.torch_file import read_torch_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Of the official models, all of them made from longformer-base.
OFFICIAL_HEAD_SIZE, OFFICIAL_PAD, OFFICIAL_EPS = 64, 1, 1e-5
# What frameworks put before the official parameter names, in any order.
WRAPPERS = ("_forward_module.", "module.", "model.")
# Of what stands next to the weights in a file of Lightning; none of it is read.
IGNORED = ("collections.Counter", "builtins.set", "__builtin__.set", "_codecs.encode", "numpy.")
LONGEST_NAME = 200  # of a parameter
OPTIONAL = ("lm_head.", "item_embedding.")
# A buffer, and a tensor that transformers 4.57 leaves without use.
UNREAD = ("longformer.embeddings.position_ids", "lm_head.weight")
WEIGHTS, CARD, TOKENIZER = "weights.safetensors", "recformer.json", "tokenizer"


def load_official(
    model: Recformer, state_dict: Mapping[str, Tensor], source: str = "state dict"
) -> None:
    """Loads a state dict of the official RecformerModel, …ForSeqRec or …ForPretraining.

    The encoder's weights must all be there; the language head's and the item table are taken
    where both sides have them.

    Args:
        model: changed in place, unless there is an error.
        state_dict: tensors by official name (see `official_weights`).
        source: file name for error messages.

    Raises:
        UserError: listing what is missing, surplus or of another shape.
    """
    found, wanted = official_weights(state_dict), model.state_dict()
    for group in OPTIONAL:
        if not all(any(name.startswith(group) for name in side) for side in (found, wanted)):
            found = {name: t for name, t in found.items() if not name.startswith(group)}
            wanted = {name: t for name, t in wanted.items() if not name.startswith(group)}
    shapes = {name: tensor.shape for name, tensor in wanted.items()}
    require_weights({name: tensor.shape for name, tensor in found.items()}, shapes, source)
    require_tensors(found, source)
    model.load_state_dict({**model.state_dict(), **found})


def official_weights(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by our names, which are RecformerForPretraining's and RecformerForSeqRec's.

    Lightning's and DeepSpeed's prefixes are taken off; RecformerModel's names get theirs.
    `lm_head.bias`, the same as the decoder's, stands in where that one is missing.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        while name.startswith(WRAPPERS):
            name = name.partition(".")[2]
        if not name.startswith(("longformer.", *OPTIONAL)):
            name = f"longformer.{name}"
        if name not in UNREAD:
            found[name] = tensor
    alias = found.pop("lm_head.bias", None)
    if alias is not None:
        found.setdefault("lm_head.decoder.bias", alias)
    return found


def read_official(path: Path) -> tuple[Architecture, dict[str, Tensor]]:
    """Reads a `.bin` or `.ckpt` file of the official code; no code from the file runs.

    The sizes are read off the tensors; what they don't tell is Longformer's: heads of width 64,
    window 64, LayerNorm's epsilon 1e-5, padding 1. An item table is another data set's and is
    left out.

    Raises:
        UserError: it is no such file, or of a width that heads of 64 don't divide.
    """
    content = read_torch_file(path, IGNORED)
    if isinstance(content, dict):
        content = content.get("state_dict", content)
    if not isinstance(content, dict) or not all(map(_is_weight, content.items())):
        raise UserError(f"{path}: found no mapping of tensors, expected a Recformer checkpoint")
    weights = official_weights(content)
    weights.pop("item_embedding.weight", None)
    return _architecture_of(weights, path), weights


def _is_weight(entry: tuple[object, object]) -> bool:
    """Whether a name is one that an error can show, and its value a tensor."""
    name, value = entry
    shown = isinstance(name, str) and name.isprintable() and len(name) <= LONGEST_NAME
    return shown and isinstance(value, Tensor)


def save_start(
    model: Recformer, tokenizer: "PreTrainedTokenizerBase", card: dict[str, object], folder: Path
) -> None:
    """Writes a folder that `--init=recformer=<folder>` reads; complete or not at all.

    Args:
        model: the model, whose weights are saved, the language head's included.
        tokenizer: written with it.
        card: record of the pre-training; JSON values.
        folder: made where it is missing; its other files stay.
    """
    # Whether it has cut or padded texts before, or found all of them in the cache, is not kept.
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        backend.no_truncation()
        backend.no_padding()
    with writing_into(folder, last=CARD) as partial:
        tokenizer.save_pretrained(partial / TOKENIZER)
        save_weights(model, partial / WEIGHTS)
        content = {**card, "architecture": dataclasses.asdict(model.architecture)}
        content["weights_sha256"] = file_digest(partial / WEIGHTS)
        write_sealed_json(partial / CARD, content)


def read_saved_start(folder: Path) -> tuple[Architecture, dict[str, Tensor]]:
    """Reads what `save_start` wrote.

    Raises:
        UserError: a file is missing or damaged.
    """
    try:
        card = read_sealed_json(folder / CARD)
        if file_digest(folder / WEIGHTS) != card["weights_sha256"]:
            raise ValueError(f"{WEIGHTS} differs from its digest")
        weights = safetensors.torch.load_file(folder / WEIGHTS)
        return Architecture(**card["architecture"]), weights
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(
            f"{folder}: {CARD} or {WEIGHTS} missing or incomplete, expected what pre-training wrote"
        ) from error


def _architecture_of(weights: Mapping[str, Tensor], path: Path) -> Architecture:
    tables = ("word", "position", "item_position")
    names = [f"longformer.embeddings.{table}_embeddings.weight" for table in tables]
    names.append("longformer.encoder.layer.0.intermediate.dense.weight")
    missing = [name for name in names if name not in weights]
    if missing:
        raise UserError(
            f"{path}: found {len(weights)} tensors, missing {', '.join(missing)}, expected a "
            "Recformer checkpoint (DeepSpeed leaves out the frozen word embeddings; the official "
            "convert_pretrain_ckpt.py puts them back)"
        )
    for name in names:
        if weights[name].ndim != 2 or not weights[name].numel():
            shape = tuple(weights[name].shape)
            raise UserError(f"{path}: {name}: found shape {shape}, expected rows of vectors")
    words, positions, item_positions, inner = (weights[name] for name in names)
    if words.shape[1] % OFFICIAL_HEAD_SIZE:
        raise UserError(
            f"{path}: found width {words.shape[1]}, expected a multiple of {OFFICIAL_HEAD_SIZE}, a "
            "head's width in all official models (the file doesn't say how many heads there are)"
        )
    prefix = "longformer.encoder.layer."
    layers = {name[len(prefix) :].split(".")[0] for name in weights if name.startswith(prefix)}
    try:
        return Architecture(
            vocab_size=len(words),
            hidden_size=words.shape[1],
            num_layers=len(layers),
            num_heads=words.shape[1] // OFFICIAL_HEAD_SIZE,
            intermediate_size=len(inner),
            num_positions=len(positions),
            num_item_positions=len(item_positions),
            pad_token_id=OFFICIAL_PAD,
            layer_norm_eps=OFFICIAL_EPS,
        )
    except ValueError as error:
        raise UserError(f"{path}: found {error}, expected a Recformer checkpoint") from error
