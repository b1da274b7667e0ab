"""Which student is served, how large it is and what loss it learns by."""

import dataclasses

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.options import option, validate
from prmkd_jax.common.plugins import own_names

BUILT_IN = ("sasrec", "gru4rec", "bert4rec", "recguru", "fm", "deepfm", "lightgcn")
OWN_GROUP = "prmkd.students"
"""The entry points of users' own students."""
STUDENT_NAMES = (*BUILT_IN, *own_names(OWN_GROUP, BUILT_IN))
LOSSES = ("softmax", "sampled_softmax", "gbce", "bpr")

# They see a prefix whole, followed by a token of their own, so each is encoded by itself.
BIDIRECTIONAL = ("bert4rec", "recguru")

# Options that of the built-in students only the named ones read.
READ_BY = {
    "num_layers": ("sasrec", "gru4rec", "bert4rec", "recguru", "lightgcn"),
    "num_heads": ("sasrec", "bert4rec", "recguru"),
    "inner_size": ("sasrec", "bert4rec", "recguru"),
    "sasrec_form": ("sasrec",),
    "gru_size": ("gru4rec",),
    "mask_probability": ("bert4rec",),
    "second_domain": ("recguru",),
    "auxiliary_weight": ("bert4rec", "recguru"),
    "dropout": ("sasrec", "gru4rec", "bert4rec", "recguru", "deepfm"),
    "mlp_sizes": ("deepfm",),
    "embedding_l2": ("lightgcn",),
}

# Options that only the named losses read.
READ_BY_LOSS = {
    "num_negatives": ("sampled_softmax", "gbce"),
    "gbce_t": ("gbce",),
    "embedding_l2": ("bpr",),
}


@dataclasses.dataclass(frozen=True)
class StudentConfig:
    """The student; the defaults are the paper's setting where it gives one."""

    student: str = option("sasrec", "The model that is served.", choices=STUDENT_NAMES)
    hidden_size: int = option(300, "Width D of the representations.", low=1)
    num_layers: int = option(2, "Blocks, recurrent layers, or steps over lightgcn's graph.", low=1)
    num_heads: int = option(2, "Attention heads; they divide --hidden_size.", low=1)
    inner_size: int = option(256, "Width of the attention blocks' feed-forward layer.", low=1)
    sasrec_form: str = option(
        "recbole",
        "Form of sasrec's blocks: RecBole's (post-LN), pre-LN, or that of the authors' code "
        "(query alone normalised, ReLU, scaled embeddings, final LayerNorm).",
        choices=("recbole", "pre-ln", "original"),
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
        (128, 128, 128), "Widths of the hidden layers of deepfm's MLP.", low=1
    )
    loss: str | None = option(
        None,
        "What the student learns by, alone and distilled: softmax over all items; "
        "sampled_softmax over drawn ones with logQ correction; gbce; bpr. By default softmax, "
        "for deepfm, whose scores cost an MLP a pair, sampled_softmax.",
        choices=LOSSES,
    )
    num_negatives: int = option(
        256, "Items drawn a batch by sampled_softmax and gbce, the same for all its rows.", low=1
    )
    gbce_t: float = option(
        0.75, "Calibration t of gbce: 0 is the ordinary binary cross-entropy.", low=0, high=1
    )
    embedding_l2: float = option(
        1e-4, "L2 coefficient of a batch's embeddings when lightgcn learns by bpr.", low=0
    )

    def __post_init__(self):
        validate(self)
        if self.student in READ_BY["num_heads"] and self.hidden_size % self.num_heads:
            raise UserError(
                f"--num_heads: found {self.num_heads}, expected a divisor of "
                f"--hidden_size={self.hidden_size}"
            )

        if not self.mlp_sizes:
            raise UserError("--mlp_sizes: found none, expected at least one")

    @property
    def objective(self) -> str:
        """The loss: the one that was asked for, else the student's own."""
        return self.loss or ("sampled_softmax" if self.student == "deepfm" else "softmax")

    def window(self, max_seq_len: int) -> int:
        """How many items before its target an instance needs to be shown."""
        if self.student == "lightgcn":
            # A user vector that doesn't depend on the prefix needs one slot, to be asked at.
            return 1
        # The token that follows the prefix has a position as well.
        return max_seq_len - 1 if self.own_slot else max_seq_len

    @property
    def label(self) -> str:
        """The name that results go by; RecGURU without a second domain is another model."""
        alone = self.student == "recguru" and not self.second_domain
        return "recguru-ae" if alone else self.student

    @property
    def own_slot(self) -> bool:
        """Whether a token of the model's own follows each prefix, which is encoded by itself."""
        return self.student in BIDIRECTIONAL
