"""The command `pretrain`."""

from experiments.cli.command import Command
from experiments.cli.flags import names_of
from experiments.cli.options import DomainsConfig
from experiments.cli.settings import GROUPS
from experiments.cli.unread import STUDENT_START
from prmkd_jax.common.options import Group
from prmkd_jax.distill.config import DistillConfig
from prmkd_jax.students.config import StudentConfig
from prmkd_jax.train.config import TrainConfig
from teachers_torch.settings import PRETRAIN_GROUPS

UNREAD = tuple(
    group for group in GROUPS if group.config in (StudentConfig, TrainConfig, DistillConfig)
)

COMMAND = Command(
    name="pretrain",
    summary="Pre-train teachers on other data sets than the target, for --init.",
    groups=(
        *GROUPS,
        Group("Domains", "", DomainsConfig),
        *PRETRAIN_GROUPS,
    ),
    body="experiments.stages.pretrain:run",
    ignores=frozenset(names_of(UNREAD))
    | {"seeds", "teacher_scores", "export_recbole", "log_to", STUDENT_START},
    interrupted="interrupted; the same command goes on from here, recformer from its start",
)
