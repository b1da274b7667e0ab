"""Flags that were given but that nothing in a run reads.

Whoever reads an option declares it: the student, its loss, the distillation method, each teacher,
the data set. What they decide about, less what they read, has no effect.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.cli.settings import STUDENT, Settings
from prmkd_jax.data.config import IMAGE_FEATURES, DataConfig
from prmkd_jax.distill.config import DistillConfig, unread_options
from prmkd_jax.students.config import StudentConfig, parse_item_init
from prmkd_jax.students.registry import LOSS_OPTIONS, MOST_SOFTMAX_ITEMS, loss_name, reads
from teachers_torch.config import TextConfig
from teachers_torch.registry import kind
from teachers_torch.settings import GROUPS as TEACHER_GROUPS

STUDENT_START = f"init={STUDENT}"
"""Among what a command ignores: the student's entry of `--init`, where it reads the teachers'."""


class OptionReader(NamedTuple):
    """Somebody who decides whether options are read.

    Attributes:
        decides: names of the flags that depend on it.
        reads: those of them that it reads.
        why: the reason in the warning of the others.
    """

    decides: frozenset[str]
    reads: frozenset[str]
    why: str


def warnings(
    runs: Sequence[Settings],
    explicit: frozenset[str],
    command: str,
    ignores: frozenset[str],
    reads: frozenset[str] = frozenset(),
) -> list[str]:
    """One line for each flag that was given but that no run reads.

    Args:
        runs: the settings of all runs of a command.
        explicit: the flags given.
        command: the command's name.
        ignores: the flags that the command itself never reads, and perhaps `STUDENT_START`.
        reads: those that it reads whatever the runs do.
    """
    reasons = [unread(settings) for settings in runs]
    nowhere = dict.fromkeys(ignores, f"{command} does not read it")
    for name in frozenset.intersection(*map(frozenset, reasons)) - reads:
        nowhere.setdefault(name, reasons[0][name])
    found = [(name, nowhere[name]) for name in sorted(explicit & set(nowhere))]
    if "init" in explicit - ignores:
        found += [("init", why) for why in _unread_starts(runs, ignores)]
    return [f"--{name} has no effect: {why}" for name, why in found]


def _unread_starts(runs: Sequence[Settings], ignores: frozenset[str]) -> list[str]:
    """Why entries of `--init` begin nothing: one reason for each."""
    begun = set() if STUDENT_START in ignores else {STUDENT}
    begun |= {kind(name).init for settings in runs for name in settings.run.teachers}
    named = dict.fromkeys(name for settings in runs for name in settings.run.starts())
    return [f"{name}=… names no model of this run" for name in named if name not in begun]


def unread(settings: Settings) -> dict[str, str]:
    """Every flag that these settings leave unread, and why."""
    found: dict[str, str] = {}
    for reader in readers(settings):
        for name in reader.decides - reader.reads:
            found.setdefault(name, reader.why)
    return found


def readers(settings: Settings) -> Iterator[OptionReader]:
    """Who decides, in the order of precedence of their reasons."""
    yield from _data(settings)
    yield from _student(settings)
    yield from _teachers(settings)
    yield from _method(settings)


def _data(settings: Settings) -> Iterator[OptionReader]:
    made = frozenset(name for name in _fields(DataConfig) if name.startswith("synthetic_"))
    name = settings.data.dataset
    if name == "synthetic":
        yield OptionReader(
            frozenset({"data_dir"}), frozenset(), "--dataset=synthetic reads no files"
        )
    else:
        yield OptionReader(made, frozenset(), f"--dataset={name} is not made here")
    features = Path(settings.data.data_dir) / name / IMAGE_FEATURES
    if features.is_file():
        why = f"{features} has the images' vectors already"
        yield OptionReader(frozenset({"image_encoder"}), frozenset(), why)
    if settings.data.split != "temporal":
        why = f"--split={settings.data.split} has no cuts"
        yield OptionReader(frozenset({"split_at"}), frozenset(), why)


def _student(settings: Settings) -> Iterator[OptionReader]:
    config = settings.student
    loss = loss_name(config)
    for name in _fields(StudentConfig):
        if not reads(config, name):
            by_loss = loss not in LOSS_OPTIONS.get(name, (loss,))
            who = f"--loss={loss}" if by_loss else f"--student={config.student}"
            why = f"{who} does not use it"
            larger = "sampled_softmax" in LOSS_OPTIONS.get(name, ())
            if by_loss and larger and config.loss is None and loss == "softmax":
                # The data, whose size decides, have not been read.
                why += f" (the default up to {MOST_SOFTMAX_ITEMS:,} items)"
            yield OptionReader(frozenset({name}), frozenset(), why)


def _teachers(settings: Settings) -> Iterator[OptionReader]:
    names = settings.run.teachers
    if not names:
        alone = frozenset({*_fields(DistillConfig), "teacher_seed", "teacher_scores"})
        yield OptionReader(alone, frozenset(), "there is no teacher to distil from")
    kinds = [kind(name) for name in names]
    read = {config for one in kinds for config in one.reads}
    if parse_item_init(settings.student.item_init).source == "text":
        read.add(TextConfig)
    yield OptionReader(
        frozenset().union(*(_flags(*group[1:]) for group in TEACHER_GROUPS)),
        frozenset().union(*(_flags(*group[1:]) for group in TEACHER_GROUPS if group[2] in read)),
        f"--teachers={','.join(names) or 'none'} does not use it",
    )


def _method(settings: Settings) -> Iterator[OptionReader]:
    """What the distillation's options decide about each other."""
    unread_here = unread_options(settings.distill, len(settings.run.teachers))
    for name, why in unread_here.items():
        yield OptionReader(frozenset({name}), frozenset(), why)


def _fields(config: type) -> frozenset[str]:
    return frozenset(field.name for field in dataclasses.fields(config))


def _flags(prefix: str, config: type) -> frozenset[str]:
    return frozenset(prefix + name for name in _fields(config))
