"""What a run does, and the groups of flags that describe it."""

import dataclasses
import os

from experiments.cli.flags import Group
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.options import option, validate
from prmkd_jax.data.config import DataConfig
from prmkd_jax.distill.config import METHODS, DistillConfig, given_weights
from prmkd_jax.students.config import BUILT_IN, READ_BY, READ_BY_LOSS, StudentConfig
from prmkd_jax.train.config import TrainConfig
from teachers_torch.config import (
    CHECKPOINTED,
    TEACHERS,
    ImageConfig,
    PrecomputedConfig,
    RecformerConfig,
    TeacherConfigs,
    TextConfig,
    UniM2RecConfig,
    UniSRecConfig,
)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Where results go, who teaches, which seeds."""

    output_dir: str = option("runs/latest", "Folder of the results.", filled=True)
    cache_dir: str = option(
        os.environ.get("PRMKD_CACHE_DIR") or "cache",
        "Folder of encoded texts, tuned teachers and their vectors, shared by all runs "
        "($PRMKD_CACHE_DIR, else ./cache).",
        filled=True,
    )
    teachers: tuple[str, ...] = option(
        ("unisrec-text", "unisrec", "unim2rec"),
        "Who teaches; empty for the student alone.",
        choices=TEACHERS,
    )
    teacher_checkpoints: tuple[str, ...] = option(
        (),
        "What teachers start from: unisrec=PATH, unim2rec=PATH. A path is a folder of "
        "experiments pretrain or, for unisrec, an official .pth file; unisrec-text starts from "
        "unisrec's. Recformer has --recformer_start.",
    )
    teacher_seed: int = option(0, "Seed of the teachers' tuning.", low=0)
    teacher_scores: str = option(
        "jax",
        "Where teachers' vectors become scores: inside the jitted step, or in PyTorch with one "
        "hand-over a step; both give the same logits.",
        choices=("jax", "torch"),
    )
    seeds: tuple[int, ...] = option((0,), "Seeds of the students.", low=0)
    student_init: str = option(
        "",
        "What the students start from, plain and distilled: the folder of an exported student, "
        "or a .pth file of RecBole's. By default every seed draws its own start.",
    )
    export_recbole: bool = option(
        False, "Write the trained students under RecBole's keys too, for RecBole to serve."
    )
    overwrite: bool = option(
        False,
        "Replace the files of another run where this one is to write. The same run goes on by "
        "itself, and files that no run wrote are never removed.",
    )

    def __post_init__(self):
        validate(self)
        for name, values in (("teachers", self.teachers), ("seeds", self.seeds)):
            if len(set(values)) < len(values):
                text = ",".join(map(str, values))
                raise UserError(f"--{name}: found {text!r}, expected each value once")
        if not self.seeds:
            raise UserError("--seeds: found none, expected at least one")
        self.checkpoints()

    def checkpoints(self) -> dict[str, str]:
        """The path of every family of `--teacher_checkpoints`.

        Raises:
            UserError: an entry is not family=path, or a family comes twice.
        """
        paths: dict[str, str] = {}
        for entry in self.teacher_checkpoints:
            family, _, path = entry.partition("=")
            if family not in CHECKPOINTED or not path or family in paths:
                raise UserError(
                    f"--teacher_checkpoints: found {entry!r}, expected NAME=PATH, each name of "
                    f"{', '.join(CHECKPOINTED)} at most once (recformer's: --recformer_start=PATH)"
                )
            paths[family] = path
        return paths


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that a run depends on."""

    run: RunConfig
    data: DataConfig
    student: StudentConfig
    train: TrainConfig
    distill: DistillConfig
    teachers: TeacherConfigs

    def __post_init__(self):
        if self.train.batch_size < self.data.max_seq_len:
            raise UserError(
                f"--batch_size: found {self.train.batch_size}, expected at least "
                f"--max_seq_len={self.data.max_seq_len}"
            )
        if self.student.window(self.data.max_seq_len) < 1:
            raise UserError(
                f"--max_seq_len: found {self.data.max_seq_len}, expected at least 2: "
                f"--student={self.student.student} adds a token to each prefix"
            )
        names = self.run.teachers
        prefixes = self.student.student in BUILT_IN and self.student.student != "lightgcn"
        if names and self.distill.teacher_history == "whole" and prefixes:
            raise UserError(
                "--teacher_history: found 'whole', expected 'prefix': the user vectors of "
                f"--student={self.student.student} depend on the prefix, and its teachers would "
                "have read the targets"
            )
        given = given_weights(self.distill.teacher_weights)
        if given is not None and names and len(given) != len(names):
            raise UserError(
                f"--teacher_weights: found {self.distill.teacher_weights!r}, expected "
                f"{len(names)} numbers, one each for --teachers={','.join(names)}"
            )


GROUPS = (
    Group("Run", "", RunConfig),
    Group("Data", "", DataConfig),
    Group("Student", "", StudentConfig),
    Group("Training", "", TrainConfig),
    Group("Distillation", "", DistillConfig),
    Group("Texts of the teachers", "", TextConfig),
    Group("Pictures of the teachers", "", ImageConfig),
    Group("Teachers unisrec and unisrec-text", UniSRecConfig.prefix, UniSRecConfig),
    Group("Teacher unim2rec", UniM2RecConfig.prefix, UniM2RecConfig),
    Group("Teacher recformer", RecformerConfig.prefix, RecformerConfig),
    Group("Teacher precomputed", PrecomputedConfig.prefix, PrecomputedConfig),
)


def settings_from(configs: tuple) -> Settings:
    """Puts the configurations of `GROUPS`, in their order, together."""
    run, data, student, train, distill, *teachers = configs
    text, image, unisrec, unim2rec, recformer, precomputed = teachers
    configured = TeacherConfigs(
        text=text,
        image=image,
        unisrec=unisrec,
        unim2rec=unim2rec,
        recformer=recformer,
        precomputed=precomputed,
        max_seq_len=data.max_seq_len,
        checkpoints=run.checkpoints(),
    )
    return Settings(run, data, student, train, distill, configured)


def ignored_flags(settings: Settings, explicit: frozenset[str]) -> list[str]:
    """One warning for each flag that was given but that nothing in this run reads."""
    teachers = set(settings.run.teachers)
    reads_text = bool(teachers & {"unisrec", "unisrec-text", "unim2rec"})
    unread: dict[str, str] = {}

    def note(config: type, prefix: str, unused: bool, why: str) -> None:
        if unused:
            for field in dataclasses.fields(config):
                unread[prefix + field.name] = why

    started = {name.removesuffix("-text") for name in teachers}
    if not started & set(settings.teachers.checkpoints):
        unread["teacher_checkpoints"] = "none of its teachers teaches"
    named = ",".join(settings.run.teachers) or "none"
    note(DistillConfig, "", not teachers, "there is no teacher to distil from")
    note(TextConfig, "", not reads_text, f"--teachers={named} does not use it")
    note(ImageConfig, "", "unim2rec" not in teachers, f"--teachers={named} does not use it")
    for config, users in (
        (UniSRecConfig, {"unisrec", "unisrec-text"}),
        (UniM2RecConfig, {"unim2rec"}),
        (RecformerConfig, {"recformer"}),
        (PrecomputedConfig, {"precomputed"}),
    ):
        note(config, config.prefix, not teachers & users, f"--teachers={named} does not use it")
    student, loss = settings.student.student, settings.student.objective
    for name, readers in READ_BY_LOSS.items():
        if loss not in readers:
            unread[name] = f"--loss={loss} does not use it"
    for name, readers in READ_BY.items():
        if student in BUILT_IN and student not in readers:
            unread[name] = f"--student={student} does not use it"
    if settings.data.dataset != "synthetic":
        for field in dataclasses.fields(DataConfig):
            if field.name.startswith("synthetic_"):
                unread[field.name] = f"--dataset={settings.data.dataset} is not made here"
    else:
        unread["data_dir"] = "--dataset=synthetic reads no files"
    if settings.distill.consistency_threshold is not None:
        unread["consistency_quantile"] = "--consistency_threshold replaces it"
    if teachers:
        unread = {**_unread_by_method(settings), **unread}
    return [f"--{name} has no effect: {unread[name]}" for name in sorted(explicit & set(unread))]


def _unread_by_method(settings: Settings) -> dict[str, str]:
    """The distillation's options that this distillation does not read, and why."""
    distill = settings.distill
    method, named = METHODS[distill.method], f"--method={distill.method}"
    rule = ("consistency_quantile", "consistency_threshold", "redistribute")
    softened = ("temperature", "score_normalization")
    divergence = ("kl", "smoothing", "student_temperature", "kd_include_positive")
    weights = ("teacher_weights", "teacher_weight_power")
    own = {
        "rank_": method.scores == "ranks",
        "rd_": method.loss == "rd",
        "rrd_": method.loss == "rrd",
        "unkd_": method.loss == "unkd",
        "permutation_": method.permuted,
    }
    reasons = [
        (len(settings.run.teachers) < 3, rule, "the consistency rule needs three teachers"),
        (not method.exclusion, rule, f"{named} excludes no teacher"),
        (method.scores == "ranks", softened, f"{named} reads ranks"),
        (method.lists, divergence, f"{named} learns an order of unobserved items"),
        (distill.teacher_weights != "validation", weights[1:], "--teacher_weights replaces it"),
        (method.weights != "configured", weights, f"{named} sets the teachers' weights"),
        (distill.negatives == "catalogue", ("deduplicate_columns",), "the catalogue has each once"),
    ]
    for prefix, read in own.items():
        names = [
            field.name
            for field in dataclasses.fields(DistillConfig)
            if field.name.startswith(prefix)
        ]
        reasons.append((not read, names, f"{named} does not read it"))
    return {name: why for unread, names, why in reasons if unread for name in names}
