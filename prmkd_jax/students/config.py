"""Which student is served, how large it is and what loss it learns by."""

import dataclasses
import math
from typing import NamedTuple

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.options import option, validate
from prmkd_jax.common.plugins import own_names

STUDENTS = {
    "sasrec": "prmkd_jax.students.sasrec:SASRec",
    "gru4rec": "prmkd_jax.students.gru4rec:GRU4Rec",
    "bert4rec": "prmkd_jax.students.bert4rec:BERT4Rec",
    "recguru": "prmkd_jax.students.recguru:RecGURU",
    "fm": "prmkd_jax.students.fm:FM",
    "deepfm": "prmkd_jax.students.deepfm:DeepFM",
    "lightgcn": "prmkd_jax.students.lightgcn:LightGCN",
}
"""Name of a built-in student → module:class. `registry` says what depends on the class."""
BUILT_IN = tuple(STUDENTS)
OWN_GROUP = "prmkd.students"
"""The entry points of users' own students."""
STUDENT_NAMES = (*BUILT_IN, *own_names(OWN_GROUP, BUILT_IN))
# Names of what needs jax, which a command line does without; a test compares them.
LOSSES = ("softmax", "sampled_softmax", "uniform_softmax", "gbce", "bpr")
RANDOM = "random"
ITEM_INITS = (RANDOM, "text", "teachers")
"""What an item table begins from."""
DEFAULT_DEVIATION = 0.1
OLDEST, NEWEST = "oldest", "newest"
"""Where positions are counted from."""
# A file that asks for thousands of layers would be built before its weights are compared.
_MOST_LAYERS = 32


@dataclasses.dataclass(frozen=True)
class StudentConfig:
    """The student; the defaults are the paper's setting where it gives one, but for the dropout.

    It is 0.1 in the paper, 0.5 here, which the distilled student prefers at the paper's width.

    Only values are checked here. What depends on the class that `student` names is asked of
    `registry`, which imports it.
    """

    student: str = option("sasrec", "The model that is served.", choices=STUDENT_NAMES)
    hidden_size: int = option(300, "Width D of the representations.", low=1)
    num_layers: int = option(
        2, "Blocks, recurrent layers, or steps over lightgcn's graph.", low=1, high=256
    )
    num_heads: int = option(2, "Attention heads; they divide --hidden_size.", low=1)
    inner_size: int = option(256, "Width of the attention blocks' feed-forward layer.", low=1)
    positions: str = option(
        OLDEST,
        "Where sasrec counts a history's positions from: its oldest item, as RecBole does, or its "
        "newest, as the original does, so that training tells how recent an interaction is.",
        choices=(OLDEST, NEWEST),
    )
    gru_size: int = option(0, "Width of gru4rec's state; 0 for --hidden_size.", low=0)
    mask_probability: float = option(
        0.2, "Share of the items that bert4rec's cloze masks.", above=0, high=1
    )
    second_domain: str = option(
        "",
        "Data set, as --dataset, whose users recguru learns not to tell from its own; empty for "
        "its autoencoder alone.",
    )
    auxiliary_weight: float = option(
        1.0,
        "Weight of a student's own further loss: bert4rec's cloze, recguru's reconstruction "
        "and adversarial term.",
        low=0,
    )
    dropout: float = option(
        0.5, "Dropout of hidden states and attention; gru4rec has it on its input.", low=0, below=1
    )
    mlp_sizes: tuple[int, ...] = option(
        (128, 128, 128), "Widths of the hidden layers of deepfm's MLP.", low=1, repeats=True
    )
    loss: str | None = option(
        None,
        "What the student learns by, alone and distilled: softmax over all items; "
        "sampled_softmax over drawn ones with logQ correction; uniform_softmax over uniform draws "
        "without it; gbce; bpr. By default softmax, but sampled_softmax for deepfm, whose scores "
        "cost an MLP a pair, and for more than 100,000 items.",
        choices=LOSSES,
    )
    item_init: str = option(
        RANDOM,
        "What the item table begins from: random; text, the principal components of the items' "
        "text vectors; or teachers, those of the teachers' item vectors. text:0.2 scales them to "
        f"a standard deviation of 0.2; without a number it is {DEFAULT_DEVIATION}.",
        filled=True,
    )
    num_negatives: int = option(
        256,
        "Items drawn a batch by sampled_softmax, uniform_softmax and gbce, the same for all its "
        "rows.",
        low=1,
    )
    gbce_t: float = option(
        0.75, "Calibration t of gbce: 0 is the ordinary binary cross-entropy.", low=0, high=1
    )
    embedding_l2: float = option(
        1e-4, "L2 coefficient of a batch's embeddings when lightgcn learns by bpr.", low=0
    )

    def __post_init__(self):
        validate(self)
        if not self.mlp_sizes:
            raise UserError("--mlp_sizes: found none, expected at least one")
        if len(self.mlp_sizes) > _MOST_LAYERS:
            raise UserError(
                f"--mlp_sizes: found {len(self.mlp_sizes)} of them, expected at most {_MOST_LAYERS}"
            )
        parse_item_init(self.item_init)


class ItemInit(NamedTuple):
    """What an item table begins from.

    Attributes:
        source: the origin of the vectors, a name of `ITEM_INITS`.
        deviation: standard deviation of the table's entries; the model's own where `source` is
            random.
    """

    source: str
    deviation: float = DEFAULT_DEVIATION


def parse_item_init(text: str) -> ItemInit:
    """Reads `--item_init`.

    >>> parse_item_init("text:0.2")
    ItemInit(source='text', deviation=0.2)

    Raises:
        UserError: there is no such source, or the deviation is not a finite number above 0.
    """
    source, colon, number = text.partition(":")
    try:
        deviation = float(number) if colon else DEFAULT_DEVIATION
    except ValueError:
        deviation = 0.0
    usable = 0 < deviation < math.inf and not (colon and source == RANDOM)
    if source not in ITEM_INITS or not usable:
        raise UserError(
            f"--item_init: found {text!r}, expected random, text or teachers, the last two with a "
            "standard deviation above 0 where wanted, as in text:0.2"
        )
    return ItemInit(source, deviation)
