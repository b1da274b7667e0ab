"""Which student is served, how large it is and what loss it learns by."""

import dataclasses

from prmkd_jax.data.errors import UserError
from prmkd_jax.data.option import option, validate

STUDENT_NAMES = ("sasrec", "gru4rec", "fm", "deepfm", "lightgcn")
LOSSES = ("softmax", "sampled_softmax", "gbce", "bpr")

# Options that only the named students read.
READ_BY = {
    "num_layers": ("sasrec", "gru4rec", "lightgcn"),
    "num_heads": ("sasrec",),
    "inner_size": ("sasrec",),
    "gru_size": ("gru4rec",),
    "dropout": ("sasrec", "gru4rec", "deepfm"),
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
    num_heads: int = option(2, "Attention heads of sasrec; divide --hidden_size.", low=1)
    inner_size: int = option(256, "Width of sasrec's feed-forward layer.", low=1)
    gru_size: int = option(0, "Width of gru4rec's state; 0 for --hidden_size.", low=0)
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
        if self.student == "sasrec" and self.hidden_size % self.num_heads:
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
        # A user vector that doesn't depend on the prefix needs one slot, to be asked at.
        return 1 if self.student == "lightgcn" else max_seq_len
