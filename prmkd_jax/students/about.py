"""What a student class says of itself, so that nothing else needs to know its name."""

import dataclasses
from collections.abc import Callable

from prmkd_jax.students.config import StudentConfig

# Options that shape the training alone: weights that were trained under others can be read.
TRAINING_OPTIONS = frozenset(
    {"loss", "num_negatives", "gbce_t", "embedding_l2", "dropout", "item_init"}
)


@dataclasses.dataclass(frozen=True)
class About:
    """A student's own declarations, the class attribute `about`.

    All have defaults that are right for a plain sequential model, so a class without the
    attribute counts as `About()`.

    Attributes:
        label: display name in tables and figures, or a function of the configuration; the
            registered name where empty.
        result_name: name of its files and in results, or a function of the configuration; the
            registered name where empty.
        reads: the fields of `StudentConfig` that it reads, among those that not all students
            share; None where undeclared, so that no option is reported to have no effect.
        default_loss: the loss that the student learns by where `--loss` isn't given.
        own_slot: whether every prefix is encoded by itself and ends in a slot for a token of
            the model's own, as a bidirectional model needs.
        prefixes_alone: whether, but for training, every prefix must be encoded by itself, as its
            vector depends on the items after it that are encoded with it; or a function of the
            configuration. True anyway with `own_slot`.
        user_vector_per_prefix: whether its user vector depends on the prefix. Where it doesn't,
            one vector a user is exported, and teachers may have read the whole history.
        training_only: parts (beginnings of parameter names) that only training reads.
        free: further fields of `StudentConfig` that may differ between the weights that are
            read and the student that reads them.
        scoring_facts: the arrays of `Facts` that scoring reads and that an export must hold:
            `edges` (the training interactions), `item_fields`.
        item_tables: names of the parameters that hold a vector an item [V, D] and may begin from
            given ones (`--item_init`), such as `item_embedding.table`.
        rows_alone: whether all that it knows of an item are the item's rows in `item_tables`, and
            its `items` are made row by row: a step may then work on the rows that it needs
            (`--lazy_adam`).
        similar_by: leading columns of an item vector that say what the item is like, as a
            function of the configuration; None for all. The others hold a bias, say.
        baseline: whether it is what others are compared with, and no student in the study of
            all students.
    """

    label: str | Callable[[StudentConfig], str] = ""
    result_name: str | Callable[[StudentConfig], str] = ""
    reads: frozenset[str] | None = None
    default_loss: str = "softmax"
    own_slot: bool = False
    prefixes_alone: bool | Callable[[StudentConfig], bool] = False
    user_vector_per_prefix: bool = True
    training_only: tuple[str, ...] = ()
    free: frozenset[str] = frozenset()
    scoring_facts: frozenset[str] = frozenset({"edges", "item_fields"})
    item_tables: tuple[str, ...] = ()
    rows_alone: bool = False
    similar_by: Callable[[StudentConfig], int] | None = None
    baseline: bool = False
