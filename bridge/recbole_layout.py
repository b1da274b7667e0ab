"""How RecBole lays the weights of its models out: keys, shapes, rows.

RecBole's tables have a row for [PAD], and its numbers are its own: a file's
`field2id_token` tells which row is which item or user. Without it item i here is row i + 1
there, users alike. The rest is the same numbers, linear layers transposed, and the
projections to query, key and value side by side.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import Dataset
from prmkd_jax.serve.exported import USER_TABLE
from prmkd_jax.students.config import OLDEST, StudentConfig

_ATTENTION, _FEED = "trm_encoder.layer.#.multi_head_attention", "trm_encoder.layer.#.feed_forward"
_TRANSFORMER = {
    "item_embedding": ("item_embedding",),
    "position_embedding": ("position_embedding",),
    "input_norm": ("LayerNorm",),
    "blocks.#.qkv": tuple(f"{_ATTENTION}.{part}" for part in ("query", "key", "value")),
    "blocks.#.out": (f"{_ATTENTION}.dense",),
    "blocks.#.attention_norm": (f"{_ATTENTION}.LayerNorm",),
    "blocks.#.wide": (f"{_FEED}.dense_1",),
    "blocks.#.narrow": (f"{_FEED}.dense_2",),
    "blocks.#.output_norm": (f"{_FEED}.LayerNorm",),
}
_BERT = {
    **_TRANSFORMER,
    "mask_embedding": ("item_embedding",),
    "projection": ("output_ffn",),
    "output_norm": ("output_ln",),
    "item_bias": ("output_bias",),
}
_GRU = {
    "item_embedding": ("item_embedding",),
    "layers.#.input_gates": ("gru_layers.weight_ih_l#",),
    "layers.#.state_gates": ("gru_layers.weight_hh_l#",),
    "out": ("dense",),
}
_GRAPH = {"user_embedding": ("user_embedding",), "item_embedding": ("item_embedding",)}

Unstated = dict[str, tuple[int | float | str, str]]


def _attention_settings(config: StudentConfig) -> Unstated:
    heads = (config.num_heads, "--num_heads")
    return {"n_heads": heads, "hidden_act": ("gelu", ""), "layer_norm_eps": (1e-12, "")}


def _graph_settings(config: StudentConfig) -> Unstated:
    return {"n_layers": (config.num_layers, "--num_layers")}


class RecBoleModel(NamedTuple):
    """One of RecBole's models.

    Attributes:
        modules: module or parameter here → RecBole's names, # for the number of a layer.
        unstated: settings that the shapes of the weights don't state, by RecBole's names: the
            value here and its flag.
        fixed: options of the student here that RecBole has one value of.
    """

    modules: Mapping[str, tuple[str, ...]]
    unstated: Callable[[StudentConfig], Unstated] = lambda config: {}
    fixed: Mapping[str, object] = MappingProxyType({})


RECBOLE = {
    "sasrec": RecBoleModel(
        _TRANSFORMER, _attention_settings, MappingProxyType({"positions": OLDEST})
    ),
    "gru4rec": RecBoleModel(_GRU),
    "bert4rec": RecBoleModel(_BERT, _attention_settings),
    "lightgcn": RecBoleModel(_GRAPH, _graph_settings),
}
"""The students that RecBole knows, by the registered name."""


class Numbering(NamedTuple):
    """Where a data set's items, or its users, stand in RecBole's tables.

    Attributes:
        rows: row of each.
        count: all rows, [PAD]'s and others' included.
    """

    rows: Int64[np.ndarray, " n"]
    count: int


def recbole_keys(student: str, name: str) -> tuple[str, ...]:
    """RecBole's keys of a parameter; several stand side by side here, none if it has none.

    >>> recbole_keys("sasrec", "blocks.1.out.kernel")
    ('trm_encoder.layer.1.multi_head_attention.dense.weight',)
    >>> recbole_keys("gru4rec", "layers.0.input_gates")
    ('gru_layers.weight_ih_l0',)
    """
    number = re.search(r"\.(\d+)\.", name)
    plain = name.replace(number[0], ".#.") if number else name
    module, _, leaf = plain.rpartition(".")
    # item_bias and the gates are parameters by themselves, not some module's weight or bias.
    theirs = RECBOLE[student].modules.get(plain)
    if theirs is None:
        kind = "bias" if leaf == "bias" else "weight"
        theirs = tuple(f"{key}.{kind}" for key in RECBOLE[student].modules.get(module, ()))
    return tuple(key.replace("#", number[1]) if number else key for key in theirs)


def unstated_settings(config: StudentConfig) -> Unstated:
    """What the shapes of RecBole's weights don't state, by its names: value here and flag."""
    return RECBOLE[config.student].unstated(config)


class Layout(NamedTuple):
    """How a student's parameters lie in RecBole's.

    Attributes:
        keys: name here → RecBole's keys.
        rows: name here → its rows in RecBole's array, for tables of items and users.
        shapes: RecBole's key → shape.
    """

    keys: dict[str, tuple[str, ...]]
    rows: dict[str, Int64[np.ndarray, " n"]]
    shapes: dict[str, tuple[int, ...]]


def layout(
    config: StudentConfig,
    sizes: Mapping[str, tuple[int, ...]],
    dataset: Dataset,
    tokens: Mapping[str, Sequence[str]],
    source: str,
) -> Layout:
    """Where each of a student's parameters lies in RecBole's.

    Args:
        config: the student.
        sizes: the parameters' shapes by name.
        dataset: the items and users that the tables' rows stand for.
        tokens: the file's; see `teachers_torch.recbole_file.Checkpoint`.
        source: the file's name in error messages.

    Raises:
        UserError: RecBole has no such model, or the file not all items and users.
    """
    student = config.student
    if student not in RECBOLE:
        raise UserError(f"{source}: found {student}, expected one of {', '.join(RECBOLE)}")
    for name, value in RECBOLE[student].fixed.items():
        if (found := getattr(config, name)) != value:
            raise UserError(f"{source}: found --{name}={found}, expected {value}, RecBole's form")
    keys = {name: recbole_keys(student, name) for name in sizes}
    foreign = [name for name, found in keys.items() if not found]
    if foreign:
        raise UserError(
            f"{source}: found a {student} with {', '.join(foreign)}, expected RecBole's form, "
            "which has no such weights"
        )
    items = _numbering("item_id", dataset.item_ids, tokens, source)
    # RecBole's [MASK] is the row after the last item.
    mask = Numbering(np.array([items.count]), items.count + 1)
    tables = {"item_embedding.table": items, "mask_embedding.table": mask, "item_bias": items}
    if USER_TABLE in sizes:
        tables[USER_TABLE] = _numbering("user_id", dataset.user_ids, tokens, source)
    theirs: dict[str, tuple[int, ...]] = {}
    for name, size in sizes.items():
        for key in keys[name]:
            if name in tables:
                most = max(tables[name].count, *theirs.get(key, (0,))[:1])
                theirs[key] = (most, *size[1:])
            elif name.endswith(".table"):
                theirs[key] = tuple(size)
            else:
                theirs[key] = (size[-1] // len(keys[name]), *size[:-1])
    return Layout(keys, {n: table.rows for n, table in tables.items() if n in sizes}, theirs)


def _numbering(
    field: str, ids: Sequence[str], tokens: Mapping[str, Sequence[str]], source: str
) -> Numbering:
    """The rows of these ids: by the file's tokens, else one after the other after [PAD].

    Raises:
        UserError: an id is not among the tokens.
    """
    if field not in tokens:
        return Numbering(np.arange(1, len(ids) + 1), len(ids) + 1)
    row_of = {token: row for row, token in enumerate(tokens[field])}
    missing = [one for one in ids if one not in row_of]
    if missing:
        raise UserError(
            f"{source}: field2id_token: {field}: found no {missing[0]!r} ({len(missing)} missing "
            f"of {len(ids)}), expected all of the data set"
        )
    return Numbering(np.array([row_of[one] for one in ids]), len(tokens[field]))
