"""What data are read and how histories are cut."""

import dataclasses
import os

from prmkd_jax.common.options import option, validate


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Data options, shared by teachers and students."""

    dataset: str = option(
        "synthetic", "Data set: a folder of --data_dir, or 'synthetic'.", filled=True
    )
    data_dir: str = option(
        os.environ.get("PRMKD_DATA_DIR") or "data",
        "Folder of the data sets ($PRMKD_DATA_DIR, else ./data).",
        filled=True,
    )
    max_seq_len: int = option(50, "Longest prefix that a model sees, in items.", low=1)
    synthetic_seed: int = option(0, "Seed of the synthetic world.", low=0)
    synthetic_users: int = option(2000, "Users of the synthetic target domain.", low=10)
    synthetic_items: int = option(1500, "Items of the synthetic target domain.", low=20)

    def __post_init__(self):
        validate(self)
