"""Hugging Face encoders as initial weights of Recformer: a Longformer, or one converted to it.

As Longformer was made from RoBERTa (arXiv 2004.05150): the global projections begin as the
local ones, and where there are too few positions, they are repeated.
"""

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from prmkd_jax.common.errors import UserError, first_line
from teachers_torch.items.text_encoder import NO_CODE
from teachers_torch.recformer.longformer import TOKEN_TYPES, Architecture
from teachers_torch.states import require_complete, require_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

LAYER = "longformer.encoder.layer."
EMBEDDINGS = "longformer.embeddings."


def load_encoder(name: str) -> "PreTrainedModel":
    """Loads a Longformer with its language head, or any other encoder.

    Raises:
        UserError: it can't be loaded or lacks some of its weights, or it is none that can become a
            Longformer.
    """
    # Imported here: it takes seconds, and teachers from the cache don't need it.
    from transformers import AutoConfig, AutoModel, LongformerForMaskedLM
    from transformers.utils import logging

    # A bar over the reading of the weights would stand across the caller's own.
    logging.disable_progress_bar()
    try:
        longformer = AutoConfig.from_pretrained(name, **NO_CODE).model_type == "longformer"
        kind = LongformerForMaskedLM if longformer else AutoModel
        found = kind.from_pretrained(name, output_loading_info=True, trust_remote_code=False)
    except Exception as error:  # the library fails in many ways, all of them the user's input
        raise UserError(
            f"--init: recformer={name}: expected 'random', a checkpoint's file or folder, "
            f"or a Hugging Face hub name or folder of an encoder ({first_line(error)})"
        ) from error
    model, loaded = cast("tuple[PreTrainedModel, dict[str, Any]]", found)
    # A Longformer saved without a language head begins with a new one.
    missing = [key for key in loaded["missing_keys"] if not key.startswith("lm_head.")]
    require_complete(missing, f"--init: recformer={name}: found an encoder")
    require_tensors(dict(model.named_parameters()), f"--init=recformer={name}")
    config = model.config
    # A decoder's tokens see only those before them.
    expected = {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}
    settings = {key: getattr(config, key, value) for key, value in expected.items()}
    if settings != expected or not hasattr(config, "layer_norm_eps"):
        raise UserError(
            f"--init: recformer={name}: found type {config.model_type} with {settings}, "
            f"expected a BERT-like encoder with {expected}"
        )
    if config.pad_token_id is None:
        raise UserError(
            f"--init: recformer={name}: found no pad_token_id in its config.json, expected that of "
            "its tokenizer"
        )
    return model.float()


def convert(
    model: "PreTrainedModel", num_layers: int, max_tokens: int, max_items: int
) -> tuple[Architecture, dict[str, Tensor]]:
    """Sizes and weights of the Recformer that begins as this encoder.

    Token types and item positions are Recformer's own: all types begin as the one of a plain
    text, item positions are drawn from N(0, 0.02).

    Args:
        model: an encoder from `load_encoder`.
        num_layers: layers kept, see `kept_layers`; 0 keeps all, and a Longformer keeps all.
        max_tokens: positions that are needed.
        max_items: items that get positions.

    Raises:
        UserError: it has fewer layers, or no token types.
    """
    config = model.config
    layers = num_layers or config.num_hidden_layers
    if config.model_type == "longformer":
        layers = config.num_hidden_layers
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        weights = {k: v for k, v in weights.items() if not k.startswith("longformer.pooler.")}
    else:
        if layers > config.num_hidden_layers:
            raise UserError(
                f"--recformer_num_layers: found {layers}, expected at most "
                f"{config.num_hidden_layers}, the layers of --init"
            )
        weights = _as_longformer(model, layers, max_tokens)
    types = weights.get(f"{EMBEDDINGS}token_type_embeddings.weight")
    if types is None:
        raise UserError(
            f"--init: recformer: found an encoder of type {config.model_type} without token types, "
            "expected a BERT-like one"
        )
    weights[f"{EMBEDDINGS}token_type_embeddings.weight"] = types[:1].repeat(TOKEN_TYPES, 1)
    item_positions = torch.empty(max_items + 1, config.hidden_size).normal_(std=0.02)
    weights[f"{EMBEDDINGS}item_position_embeddings.weight"] = item_positions
    return _architecture(config, layers, weights), weights


def _architecture(
    config: "PreTrainedConfig", layers: int, weights: dict[str, Tensor]
) -> Architecture:
    try:
        return Architecture(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_layers=layers,
            num_heads=config.num_attention_heads,
            intermediate_size=config.intermediate_size,
            num_positions=len(weights[f"{EMBEDDINGS}position_embeddings.weight"]),
            num_item_positions=len(weights[f"{EMBEDDINGS}item_position_embeddings.weight"]),
            pad_token_id=config.pad_token_id,
            layer_norm_eps=config.layer_norm_eps,
        )
    except ValueError as error:
        raise UserError(f"--init: recformer: found {error}, expected an encoder's") from error


def kept_layers(num_layers: int, kept: int) -> list[int]:
    """Which layers stay where there are to be fewer: spread evenly, the last among them.

    The lowest alone would not do: below the last layers BERT's first token is much the same
    for all texts, so that all cosines are near 1 and hardly anything is left to learn from.

    >>> kept_layers(6, 2), kept_layers(6, 3), kept_layers(6, 1)
    ([0, 5], [0, 2, 5], [5])
    """
    if kept == 1:
        return [num_layers - 1]
    return [place * (num_layers - 1) // (kept - 1) for place in range(kept)]


def _as_longformer(model: "PreTrainedModel", num_layers: int, max_tokens: int) -> dict[str, Tensor]:
    kept = kept_layers(model.config.num_hidden_layers, num_layers)
    weights = {}
    for name, tensor in model.state_dict().items():
        name = f"longformer.{name}"
        if name.startswith("longformer.pooler.") or name.endswith("_ids"):
            continue
        if name.startswith(LAYER):
            layer, _, rest = name[len(LAYER) :].partition(".")
            if int(layer) not in kept:
                continue
            name = f"{LAYER}{kept.index(int(layer))}.{rest}"
        weights[name] = tensor.clone()
        for twin in ("query", "key", "value"):
            if f".self.{twin}." in name:
                weights[name.replace(twin, f"{twin}_global")] = tensor.clone()
    key, pad = f"{EMBEDDINGS}position_embeddings.weight", model.config.pad_token_id
    if key in weights:
        # BERT counts positions from 0; RoBERTa and Recformer after padding's own.
        table = model.get_submodule("embeddings.position_embeddings")
        rows = weights[key] if table.padding_idx is None else weights[key][pad + 1 :]
        repeated = rows[torch.arange(max(max_tokens, len(rows))) % len(rows)]
        weights[key] = torch.cat([torch.zeros(pad + 1, rows.shape[1]), repeated])
    return weights
