"""What a run depends on, as JSON: equal identities give equal numbers, bit for bit on a CPU.

It has the settings that are read, the contents of all that is read (data, split, start, inputs
of the teachers), the versions of what computes, and nothing else: where files lie, and how
often a state is saved, changes no number.
"""

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from bridge.student_weights import student_start_digest
from experiments.cli.flags import as_dict
from experiments.cli.settings import GROUPS, Settings
from experiments.stages.data import second_domain
from experiments.stages.starts import item_start_identity
from prmkd_jax.common.digests import content_digest
from prmkd_jax.data.config import DataConfig
from prmkd_jax.data.task import Task
from prmkd_jax.distill.config import DistillConfig
from prmkd_jax.students.config import StudentConfig
from prmkd_jax.students.registry import class_identity
from prmkd_jax.train.config import LAZY_ADAM_VERSION, NUMERICS_VERSION, TrainConfig
from prmkd_jax.train.stored import stored_dtype
from teachers_torch.teacher import Identity

_READ = (DataConfig, StudentConfig, TrainConfig)
# Where the data are, whether a warning stops the run, and how often a state is saved, changes no
# number; what the cuts of a split change is in its digest, and for a refit in `refit_part`.
_CHANGES_NO_NUMBER = ("data_dir", "strict", "checkpoint_seconds", "split_at")
# Of a teacher's identity what isn't said of the run itself.
_OF_TEACHER = ("encoder_version", "settings", "seed")
# They draw the random numbers and round: after an upgrade a stopped run would end in numbers
# that neither version gives. torch does so for the scores alone that it is asked for; vectors
# of teachers have a cache key of their own, with `ENCODER_VERSION`.
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
# Options of JAX, mostly set by environment variables, that change what is drawn or rounded.
_JAX_OPTIONS = (
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_enable_x64",
    "jax_numpy_dtype_promotion",
    "jax_threefry_partitionable",
)
# How an error calls the parts that no flag names.
_WORDS = {
    "data": "the data",
    "split": "the split",
    "refit_part": "what the refit is trained on",
    "second_domain_data": "the data of --second_domain",
    "begun_from": "the contents of the student in --from",
    "student_init": "the contents of the student's --init",
    "item_init": "the vectors of --item_init",
    "student_class": "the class of --student",
    "joint_scores": "how the joint scores are kept",
    "numerics_version": "the version of the training code",
    "lazy_adam_version": "the version of --lazy_adam",
    "texts": "what the vectors of texts are made by",
    "teachers": "teacher",
    "variants": "variant",
}


def run_identity(
    configs: Mapping[type, object],
    settings: Settings,
    task: Task,
    teachers: Sequence[Identity],
    start: str | None = None,
) -> dict[str, Any]:
    """What one seed's runs depend on, but for the seed and the variant.

    A student alone depends on no teacher and no distillation.

    Args:
        configs: the configurations as parsed.
        settings: the configurations, put together.
        task: data and split.
        teachers: the identities of the run's teachers.
        start: SHA-256 of the weights that the student begins from, as they were read; None hashes
            them here.

    Raises:
        UserError: an input file is missing.
    """
    run = settings.run
    identity: dict[str, Any] = {
        "settings": _flags_read(configs, settings),
        "data": task.dataset.fingerprint,
        "split": task.split_digest,
    }
    if settings.train.refit and settings.data.split != "leave_one_out":
        # Of a user with one interaction no digest of instances tells whether a refit reads it.
        identity["refit_part"] = content_digest(task.split.validation_end.tolist())
    domain = second_domain(settings, task.dataset)
    if domain is not None:
        identity["second_domain_data"] = domain.fingerprint
    if run.student_init:
        identity["student_init"] = start or student_start_digest(Path(run.student_init))
    if item_init := item_start_identity(settings, task):
        identity["item_init"] = item_init
    if own_class := class_identity(settings.student.student):
        identity["student_class"] = own_class
    identity["teachers"] = {
        found.name: {part: found.content[part] for part in _OF_TEACHER} for found in teachers
    }
    if run.teachers and settings.distill.negatives == "catalogue":
        kept = stored_dtype(settings.distill, task)
        identity["joint_scores"] = kept.name if kept else "made in each step"
    identity["numerics_version"] = NUMERICS_VERSION
    if settings.train.lazy_adam:
        identity["lazy_adam_version"] = LAZY_ADAM_VERSION
    scores_in_torch = run.teachers and run.teacher_scores == "torch"
    packages = (*_PACKAGES, "torch") if scores_in_torch else _PACKAGES
    identity["packages"] = {name: metadata.version(name) for name in packages}
    options = {name: str(getattr(jax.config, name)) for name in _JAX_OPTIONS}
    identity["jax"] = {"platform": jax.default_backend(), **options}
    return identity


def _flags_read(configs: Mapping[type, object], settings: Settings) -> dict[str, object]:
    """The flags on which a run's numbers may depend."""
    run = settings.run
    read = [
        group
        for group in GROUPS
        if group.config in _READ or (run.teachers and group.config is DistillConfig)
    ]
    flags = as_dict(read, configs)
    flags = {name: value for name, value in flags.items() if name not in _CHANGES_NO_NUMBER}
    flags["teachers"] = list(run.teachers)
    if run.teachers:
        flags["teacher_scores"] = run.teacher_scores
    return flags


def digest(content: object) -> str:
    """Twelve hexadecimal digits that stand for JSON content."""
    return content_digest(content)[:12]


def first_difference(found: Mapping[str, object], expected: Mapping[str, object]) -> str | None:
    """Names the first part in which two identities differ, in the order of the first one.

    >>> first_difference({"settings": {"dropout": 0.1}}, {"settings": {"dropout": 0.5}})
    '--dropout: found 0.1, expected 0.5'
    >>> first_difference({"data": "a"}, {"data": "a"}) is None
    True
    """
    difference = _difference(found, expected, ())
    if difference is None:
        return None
    path, one, other = difference
    return f"{_named(path)}: found {one!r}, expected {other!r}"


def _difference(
    found: Mapping[str, object], expected: Mapping[str, object], path: tuple[str, ...]
) -> tuple[tuple[str, ...], object, object] | None:
    for name in dict.fromkeys((*found, *expected)):
        one, other = found.get(name), expected.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            inner = _difference(one, other, (*path, name))
            if inner is not None:
                return inner
        elif one != other:
            return (*path, name), one, other
    return None


def _named(path: tuple[str, ...]) -> str:
    """A flag with its dashes, and in words what it is a part of."""
    words = []
    for before, name in zip(("", *path), path, strict=False):
        if before == "settings" and "teachers" not in path[:-2]:
            words.append(f"--{name}")
        elif name != "settings":
            words.append(_WORDS.get(name, name))
    return ", ".join(words)
