"""How a student is trained."""

import dataclasses

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.options import option, validate

# Part of every run's identity: raise it when the same settings give other numbers, as after a
# change of what is drawn at random (initial weights, batches, dropout, negatives), of a loss,
# or of the order in which numbers are added. A run that an older version began is then not
# taken up, and finished runs of studies are run again.
NUMERICS_VERSION = 2
# The same of what --lazy_adam alone changes; 1 also decayed the item that padding stands for.
LAZY_ADAM_VERSION = 2


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Optimisation and stopping, the same for the plain and the distilled student."""

    batch_size: int = option(
        512, "Batch size: about this many training targets a step.", low=1, high=2**24
    )
    learning_rate: float = option(1e-3, "Adam's learning rate.", above=0)
    weight_decay: float = option(
        1e-5, "L2 coefficient added to the gradients of matrices and tables.", low=0
    )
    max_epochs: int = option(200, "Most epochs of a run.", low=1)
    patience: int = option(10, "Epochs without a better validation NDCG@10 before a stop.", low=1)
    refit: bool = option(
        False,
        "Once validation has chosen the number of epochs, train again from the same start for so "
        "many on training and validation interactions; that student is tested and exported.",
    )
    validation_users: int | None = option(
        None,
        "Validate on so many users after each epoch, the same random ones in every run of the data "
        "set, where all take too long; the test is always of all.",
        low=1,
    )
    lazy_adam: bool = option(
        False,
        "Update only the rows of the item table that a batch reads, so that a step's time doesn't "
        "grow with the catalogue; moments and decay of the other rows wait. For losses that draw "
        "items, and students that know an item by its row alone: sasrec, gru4rec.",
    )
    curriculum_epochs: int = option(
        0,
        "Curriculum: begin with the quarter of the training instances that have the shortest "
        "prefixes and the most popular items, and let in more at each step, until all are in after "
        "so many epochs; 0 for all from the first step on.",
        low=0,
    )
    eval_batch_size: int = option(1024, "Users ranked at once.", low=1, flag=False)
    checkpoint_seconds: float = option(
        10.0, "Least seconds between two checkpoints, written after epochs.", low=0, flag=False
    )

    def __post_init__(self):
        validate(self)
        if self.curriculum_epochs > self.max_epochs:
            raise UserError(
                f"--curriculum_epochs: found {self.curriculum_epochs}, expected at most "
                f"--max_epochs={self.max_epochs} (what is let in later is never trained on)"
            )
