"""What a run does, and the groups of flags that describe it."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Literal, get_args

from experiments.cli.flags import config_of
from experiments.cli.kinds import expand_path
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.options import Group, option, validate
from prmkd_jax.data.config import DataConfig
from prmkd_jax.distill.config import DistillConfig, given_weights
from prmkd_jax.students.config import RANDOM, StudentConfig, parse_item_init
from prmkd_jax.students.registry import about, check
from prmkd_jax.train.config import TrainConfig
from teachers_torch import settings as teachers_settings
from teachers_torch.registry import INITS, TEACHERS
from teachers_torch.settings import TeacherSettings

_Side = Literal["jax", "torch"]
STUDENT = "student"
"""The student's name in `--init`."""
STARTED = (STUDENT, *INITS)
"""Models that `--init` can name."""

# JAX keeps 32 bits of a seed: larger ones would repeat smaller ones.
LARGEST_SEED = 2**32 - 1


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Where results go, who teaches, which seeds."""

    output_dir: str = option("runs/latest", "Folder of the results.", filled=True, path="folder")
    cache_dir: str = option(
        os.environ.get("PRMKD_CACHE_DIR") or "cache",
        "Folder of encoded texts, tuned teachers and their vectors, shared by all runs "
        "($PRMKD_CACHE_DIR, else ./cache).",
        filled=True,
        path="folder",
    )
    teachers: tuple[str, ...] = option(
        ("unisrec-text", "unisrec", "unim2rec"),
        "Who teaches; empty for the student alone.",
        choices=TEACHERS,
    )
    init: tuple[str, ...] = option(
        (),
        "What models start from, NAME=PATH, each name of "
        + ", ".join(STARTED)
        + " at most once. student: the folder of an exported student, or a .pth file of RecBole's, "
        "for the plain and the distilled one. unisrec (for unisrec-text too), unim2rec: a folder "
        "made by pretrain, or for unisrec an official .pth file. recformer: all-MiniLM-L6-v2, "
        "random, a folder made by pretrain, an official file (.bin, .ckpt), or a Hugging Face name "
        "or folder of an encoder to convert. Without an entry every seed draws its own start; "
        "recformer is made of all-MiniLM-L6-v2.",
        repeats=True,  # said of names, by `starts`
    )
    teacher_seed: int = option(0, "Seed of the teachers' tuning.", low=0, high=LARGEST_SEED)
    teacher_scores: _Side = option(
        "jax",
        "Where teachers' vectors become scores: inside the jitted step, or in PyTorch with one "
        "hand-over a step; both give the same logits.",
        choices=get_args(_Side),
    )
    seeds: tuple[int, ...] = option((0,), "Seeds of the students.", low=0, high=LARGEST_SEED)
    export_recbole: bool = option(
        False, "Write the trained students under RecBole's keys too, for RecBole to serve."
    )
    log_to: str = option(
        "",
        "A tool that gets each epoch's numbers too, where it is installed; log.jsonl always does.",
        choices=("", "tensorboard", "wandb", "mlflow"),
    )
    overwrite: bool = option(
        False,
        "Replace the files of another run where this one is to write. The same run goes on by "
        "itself, and files that no run wrote are never removed.",
    )

    def __post_init__(self):
        validate(self)
        if not self.seeds:
            raise UserError("--seeds: found none, expected at least one")
        self.starts()

    def starts(self) -> dict[str, str]:
        """Model → the path that `--init` names for it, with `~` and `$VAR` expanded.

        Raises:
            UserError: an entry is not NAME=PATH, or a name comes twice.
        """
        paths: dict[str, str] = {}
        for entry in self.init:
            name, _, path = entry.partition("=")
            if name not in STARTED or not path or "\0" in path or name in paths:
                raise UserError(
                    f"--init: found {entry!r}, expected NAME=PATH, each name of "
                    f"{', '.join(STARTED)} at most once"
                )
            paths[name] = expand_path(path, "--init")
        return paths

    @property
    def student_init(self) -> str:
        """The path that the student starts from; "" where every seed draws its start."""
        return self.starts().get(STUDENT, "")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that a run depends on."""

    run: RunConfig
    data: DataConfig
    student: StudentConfig
    train: TrainConfig
    distill: DistillConfig
    teachers: TeacherSettings

    def __post_init__(self):
        if self.train.batch_size < self.data.max_seq_len:
            raise UserError(
                f"--batch_size: found {self.train.batch_size}, expected at least "
                f"--max_seq_len={self.data.max_seq_len}"
            )
        names = self.run.teachers
        given = given_weights(self.distill.teacher_weights)
        if given is not None and names and len(given) != len(names):
            raise UserError(
                f"--teacher_weights: found {self.distill.teacher_weights!r}, expected "
                f"{len(names)} numbers, one each for --teachers={','.join(names)}"
            )
        begun = parse_item_init(self.student.item_init).source
        if begun == "teachers" and not names:
            raise UserError(
                f"--item_init: found {self.student.item_init!r}, expected random or text without "
                "--teachers"
            )
        if begun != RANDOM and self.run.student_init:
            raise UserError(
                f"--item_init: found {self.student.item_init!r}, expected random with "
                f"--init=student={self.run.student_init}, whose item table it begins from"
            )


# Shared by many runs, and no run's results: what is in them is never removed with a run.
_SHARED = ("output_dir", "cache_dir", "data_dir")


def read_paths(*configs: object) -> set[str]:
    """The files and folders that configurations name to be read, but for data sets and cache.

    A Hugging Face name is among them as a path that isn't there.

    Args:
        configs: dataclasses whose fields are declared with `option`, or hold such dataclasses.
    """
    found: set[str] = set()
    for config in configs:
        if isinstance(config, RunConfig):
            found |= {*config.starts().values()}
        if isinstance(config, Mapping):
            found |= read_paths(*config.values())
        if not dataclasses.is_dataclass(config):
            continue
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if "flag" not in field.metadata:
                found |= read_paths(value)
            elif field.metadata["path"] and field.name not in _SHARED:
                found |= {value} if isinstance(value, str) else {*value}
    return found - {""}


GROUPS = (
    Group("Run", "", RunConfig),
    Group("Data", "", DataConfig),
    Group("Student", "", StudentConfig),
    Group("Training", "", TrainConfig),
    Group("Distillation", "", DistillConfig),
    *teachers_settings.GROUPS,
)


def settings_from(configs: Mapping[type, object]) -> Settings:
    """Puts a command's configurations together, each found by its class.

    Args:
        configs: those of `GROUPS`; others are left out.

    Raises:
        UserError: two of them don't fit together, whatever the student.
    """
    run = config_of(configs, RunConfig)
    data = config_of(configs, DataConfig)
    starts = run.starts()
    teachers = teachers_settings.settings_from(
        configs,
        max_seq_len=data.max_seq_len,
        init={name: path for name, path in starts.items() if name != STUDENT},
    )
    return Settings(
        run=run,
        data=data,
        student=config_of(configs, StudentConfig),
        train=config_of(configs, TrainConfig),
        distill=config_of(configs, DistillConfig),
        teachers=teachers,
    )


def check_settings(settings: Settings) -> None:
    """Checks what depends on the student's class; called once memory and threads are settled.

    Raises:
        UserError: settings that don't fit the student.
    """
    student = settings.student
    check(student, settings.data.max_seq_len)
    per_prefix = about(student.student).user_vector_per_prefix
    if settings.run.teachers and settings.distill.teacher_history == "whole" and per_prefix:
        raise UserError(
            "--teacher_history: found 'whole', expected 'prefix': the user vectors of "
            f"--student={student.student} depend on the prefix, and its teachers would have read "
            "the targets"
        )
