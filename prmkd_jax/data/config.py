"""What data are read and how histories are cut."""

import dataclasses
import os
from typing import Any

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.options import option, validate

IMAGE_FEATURES = "image_features.npy"
"""File of a data set's images as vectors, which is read in place of the images."""

LONGEST_WINDOW = 65536
"""Items of the longest prefix that any model sees."""

SPLITS = ("leave_one_out", "given", "temporal")
"""The names of `--split`."""


def data_dir_option(path: bool | str = "folder") -> Any:
    """Declares `--data_dir`, which several commands have.

    Args:
        path: the kind of path, as in `options.option`; True where the folder need not be one.
    """
    return option(
        os.environ.get("PRMKD_DATA_DIR") or "data",
        "Folder of the data sets ($PRMKD_DATA_DIR, else ./data).",
        filled=True,
        path=path,
    )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Data options, shared by teachers and students."""

    dataset: str = option(
        "synthetic", "Data set: a folder of --data_dir, or 'synthetic'.", filled=True
    )
    data_dir: str = data_dir_option()
    split: str = option(
        "leave_one_out",
        "What is held out. leave_one_out: of each user the last item for the test, the one before "
        "it for validation. given: what the column split of the interactions says. temporal: what "
        "comes after two moments that all users share.",
        choices=SPLITS,
    )
    split_at: tuple[str, ...] = option(
        ("0.8", "0.9"),
        "Where the validation and the test period of a temporal split begin: each the share of all "
        "interactions before it, or an ISO date.",
        repeats=True,  # cuts have to rise, which is said of them together
    )
    candidates: str = option(
        "interactions",
        "Which items are ranked: those that occur in the interactions, or all of the catalogue.",
        choices=("interactions", "catalogue"),
    )
    strict: bool = option(False, "Make an error of every warning of the data sheet.")
    max_seq_len: int = option(
        50, "Longest prefix that a model sees, in items.", low=1, high=LONGEST_WINDOW
    )
    synthetic_seed: int = option(0, "Seed of the synthetic world.", low=0, flag=False)
    synthetic_users: int = option(2000, "Users of the synthetic target domain.", low=10, high=10**7)
    synthetic_items: int = option(1500, "Items of the synthetic target domain.", low=20, high=10**7)

    def __post_init__(self):
        validate(self)
        if len(self.split_at) != 2:
            found = ",".join(self.split_at)
            raise UserError(f"--split_at: found {found!r}, expected two cuts, such as 0.8,0.9")

    @property
    def cuts(self) -> tuple[str, str]:
        """The two of `split_at`."""
        first, second = self.split_at
        return first, second
