"""Which students there are, and what depends on the class of that name.

A built-in student is one line of `config.STUDENTS`, a user's own one entry point of the group
`prmkd.students`; from there on they are treated alike. The class, and with it jax, is imported
when a function here is first asked about it, not when this module is imported.
"""

import dataclasses
import functools
import importlib
from collections.abc import Callable
from typing import Any

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.plugins import own_class, own_identity
from prmkd_jax.students.about import TRAINING_OPTIONS, About
from prmkd_jax.students.config import (
    LOSSES,
    OWN_GROUP,
    RANDOM,
    STUDENTS,
    StudentConfig,
    parse_item_init,
)

# Options that only some losses read.
LOSS_OPTIONS = {
    "num_negatives": ("sampled_softmax", "uniform_softmax", "gbce"),
    "gbce_t": ("gbce",),
    "embedding_l2": ("bpr",),
}
# More items than this, and a softmax over all of them takes most of a step: 512 instances, a
# million items and a width of 64 are some 200 GFLOP.
MOST_SOFTMAX_ITEMS = 100_000
# Options that every student reads, by itself or through the loss.
_SHARED = frozenset({"student", "hidden_size", "loss", "num_negatives", "gbce_t"})


@functools.cache
def student_class(name: str) -> Any:
    """The class that a name of `--student` stands for.

    Raises:
        UserError: a user's own class can't be imported.
    """
    if name in STUDENTS:
        module, _, attribute = STUDENTS[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    return own_class(OWN_GROUP, name, "student")


def about(name: str) -> About:
    """What the class says of itself, or the defaults of `About` where it says nothing.

    Raises:
        UserError: a user's own class says it in another form, or names a loss that isn't there.
    """
    made = student_class(name)
    said = getattr(made, "about", About())
    told = f"{class_label(name, made)}.about"
    if not isinstance(said, About):
        raise UserError(f"{told}: found {type(said).__name__}, expected an About")
    if said.default_loss not in LOSSES:
        raise UserError(
            f"{told}: default_loss: found {said.default_loss!r}, expected one of "
            f"{', '.join(LOSSES)}"
        )
    return said


def class_label(name: str, made: type) -> str:
    """How errors call a user's own class."""
    return f"--student: {name}: {made.__module__}.{made.__qualname__}"


def class_identity(name: str) -> dict[str, str]:
    """Class, package and version of a user's own student; empty for a built-in one."""
    return {} if name in STUDENTS else own_identity(OWN_GROUP, name)


def loss_name(config: StudentConfig) -> str:
    """The loss: the one that was asked for, or the student's default.

    >>> loss_name(StudentConfig(student="deepfm")), loss_name(StudentConfig(loss="bpr"))
    ('sampled_softmax', 'bpr')
    """
    return config.loss or about(config.student).default_loss


def with_loss(config: StudentConfig, num_items: int) -> StudentConfig:
    """The configuration with `sampled_softmax`, where no loss is given and a softmax is too large.

    >>> with_loss(StudentConfig(), 10**6).loss, with_loss(StudentConfig(), 10**4).loss
    ('sampled_softmax', None)
    """
    if config.loss is None and loss_name(config) == "softmax" and num_items > MOST_SOFTMAX_ITEMS:
        return dataclasses.replace(config, loss="sampled_softmax")
    return config


def window(config: StudentConfig, max_seq_len: int) -> int:
    """How many items before its target an instance needs to be shown.

    >>> [window(StudentConfig(student=name), 50) for name in ("sasrec", "bert4rec", "lightgcn")]
    [50, 49, 1]
    """
    said = about(config.student)
    if not said.user_vector_per_prefix:
        # One slot, at which the user vector is read.
        return 1
    # The token after the prefix has a position as well.
    return max_seq_len - said.own_slot


def label(config: StudentConfig) -> str:
    """The display name in tables and figures.

    >>> label(StudentConfig(student="recguru"))
    'RecGURU-AE'
    """
    return _resolve(about(config.student).label, config)


def result_name(config: StudentConfig) -> str:
    """The name in results and of files.

    >>> result_name(StudentConfig(student="recguru"))
    'recguru-ae'
    """
    return _resolve(about(config.student).result_name, config)


def reads(config: StudentConfig, option: str) -> bool:
    """Whether the student, or the loss it learns by, reads an option of `StudentConfig`.

    A class that doesn't declare its options is taken to read all of them.
    """
    if option in LOSS_OPTIONS and loss_name(config) not in LOSS_OPTIONS[option]:
        return False
    if option == "item_init":
        # An undeclared table is none, whereas undeclared options count as read.
        return bool(about(config.student).item_tables)
    declared = about(config.student).reads
    return option in _SHARED or declared is None or option in declared


def weights_depend_on(config: StudentConfig, option: str) -> bool:
    """Whether weights that were trained under another value of an option mean another model."""
    said = about(config.student)
    if option in TRAINING_OPTIONS | said.free:
        return False
    return option in _SHARED or said.reads is None or option in said.reads


def prefixes_alone(config: StudentConfig) -> bool:
    """Whether, but for training, every prefix must be encoded by itself."""
    said = about(config.student)
    alone = said.prefixes_alone
    return said.own_slot or (alone(config) if callable(alone) else alone)


def check(config: StudentConfig, max_seq_len: int) -> None:
    """Checks the options that the class decides about.

    Args:
        config: the student.
        max_seq_len: `--max_seq_len`.

    Raises:
        UserError: the heads don't divide the width, a prefix has no place in the window, or
            there is no item table that could begin from given vectors.
    """
    if parse_item_init(config.item_init).source != RANDOM and not reads(config, "item_init"):
        raise UserError(
            f"--item_init: found {config.item_init!r}, expected random: --student={config.student} "
            "names no item table of its own (item_tables of its About)"
        )
    if not heads_fit(config):
        require_heads(config)
    if window(config, max_seq_len) < 1:
        raise UserError(
            f"--max_seq_len: found {max_seq_len}, expected at least 2: "
            f"--student={config.student} adds a token to each prefix"
        )


def heads_fit(config: StudentConfig) -> bool:
    """Whether the attention heads divide the width, where the class says that it has any."""
    has_heads = about(config.student).reads is not None and reads(config, "num_heads")
    return not has_heads or config.hidden_size % config.num_heads == 0


def require_heads(config: StudentConfig) -> None:
    """Checks that the attention heads divide the width.

    Raises:
        UserError: they don't.
    """
    if config.hidden_size % config.num_heads:
        raise UserError(
            f"--num_heads: found {config.num_heads}, expected a divisor of "
            f"--hidden_size={config.hidden_size}"
        )


def _resolve(name: str | Callable[[StudentConfig], str], config: StudentConfig) -> str:
    return (name(config) if callable(name) else name) or config.student
