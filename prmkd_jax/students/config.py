"""Which student is served and how large it is."""

import dataclasses

from prmkd_jax.data.errors import UserError
from prmkd_jax.data.option import option, validate
from prmkd_jax.data.own import own_names

BUILT_IN = ("sasrec", "gru4rec", "fm", "lightgcn")
OWN_GROUP = "prmkd.students"
"""The entry points of users' own students."""
STUDENT_NAMES = (*BUILT_IN, *own_names(OWN_GROUP, BUILT_IN))

# Options that of the built-in students only the named ones read.
READ_BY = {
    "num_layers": ("sasrec", "gru4rec", "lightgcn"),
    "num_heads": ("sasrec",),
    "inner_size": ("sasrec",),
    "gru_size": ("gru4rec",),
    "dropout": ("sasrec", "gru4rec"),
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

    def __post_init__(self):
        validate(self)
        if self.student == "sasrec" and self.hidden_size % self.num_heads:
            raise UserError(
                f"--num_heads: found {self.num_heads}, expected a divisor of "
                f"--hidden_size={self.hidden_size}"
            )

    def window(self, max_seq_len: int) -> int:
        """How many items before its target an instance needs to be shown."""
        # A user vector that doesn't depend on the prefix needs one slot, to be asked at.
        return 1 if self.student == "lightgcn" else max_seq_len
