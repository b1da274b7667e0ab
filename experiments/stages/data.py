"""The task that the flags name, and the data sets next to it: folders of --data_dir, or domains
of the synthetic world.
"""

import dataclasses
import functools
from pathlib import Path

from experiments.cli.settings import Settings
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.canonical import INTERACTIONS, read_dataset
from prmkd_jax.data.config import DataConfig
from prmkd_jax.data.dataset import Dataset
from prmkd_jax.data.synthetic import DOMAINS, WorldConfig, make_domain, synthetic_dataset
from prmkd_jax.data.task import Task, make_task
from prmkd_jax.serve.card import Card
from prmkd_jax.serve.contents import read_options
from prmkd_jax.students.registry import reads

SYNTHETIC = "synthetic"
LONGEST_NAME = 255
"""Of a folder, on most systems."""


def load_task(settings: Settings) -> Task:
    """The task that a run's settings name; see `task_of`."""
    return task_of(settings.data)


def task_of(data: DataConfig) -> Task:
    """The data set of `--dataset`, divided by `--split`; loaded once and handed on.

    Raises:
        UserError: the data set isn't there, is damaged, leaves a part of the split empty, or has
            no clock for a temporal split, or no given one; with `--strict` also what the data
            sheet warns of.
    """
    if data.dataset == SYNTHETIC:
        dataset = synthetic_dataset(data)
    else:
        dataset = read_dataset(
            Path(data.data_dir),
            data.dataset,
            candidates=data.candidates,
            given_split=data.split == "given",
        )
    task = make_task(dataset, data.split, data.cuts)
    if data.strict:
        task.sheet.require_clean()
    return task


def data_sets_in(data_dir: str) -> list[str]:
    """Names of the folders of `--data_dir` that hold a data set, in alphabetical order."""
    found = Path(data_dir).glob(f"*/{INTERACTIONS}")
    return sorted(path.parent.name for path in found)


def trained_data(card: Card, path: Path, name: str, data_dir: str) -> DataConfig:
    """How a data set is read for an exported student: the synthetic world at its size.

    Args:
        card: the student's.
        path: the path of the card.
        name: the data set's name; "" for the card's own.
        data_dir: folder of the data sets.

    Raises:
        UserError: a setting in the card is of another type or outside its bounds, or its name of
            the data set leads out of `data_dir`.
    """
    told = card["record"].get("settings") or {}
    kept = ("dataset", "candidates", "synthetic_users", "synthetic_items")
    settings = {each: told[each] for each in kept if each in told}
    data = read_options(path, "record.settings", settings, DataConfig)
    # As the flag named it: the synthetic world is called by its domain in the data.
    own = data.dataset if "dataset" in told else card["dataset"]["name"]
    # Somebody else may have written the card.
    odd = "/" in own or "\\" in own or len(own) > LONGEST_NAME
    if not name and (odd or own in ("", ".", "..") or not own.isprintable()):
        raise UserError(
            f"{path}: dataset.name: found {own[:60]!r}, expected the name of a folder in "
            "--data_dir (or give --dataset)"
        )
    return dataclasses.replace(data, dataset=name or own, data_dir=data_dir)


# Read once for the check before anything is trained, and for every variant.
@functools.lru_cache(maxsize=1)
def load_domain(data: DataConfig, name: str, flag: str) -> Dataset:
    """The data set `name`; `synthetic-garden`, … are made at the size of the synthetic target.

    Args:
        data: folder of the data sets, and the synthetic world's size.
        name: name of the data set.
        flag: the option that an error names.

    Raises:
        UserError: if it isn't there, is damaged, or could be a domain as well as a folder.
    """
    kind, _, domain = name.partition("-")
    if kind == SYNTHETIC and domain in DOMAINS:
        folder = Path(data.data_dir) / name
        if (folder / INTERACTIONS).exists():
            raise UserError(
                f"{flag}: found {name!r}, a domain of the synthetic world and also {folder}, "
                "expected one of them (rename the folder)"
            )
        world = WorldConfig(users=data.synthetic_users, items=data.synthetic_items)
        return make_domain(data.synthetic_seed, domain, world).dataset
    return read_dataset(Path(data.data_dir), name, flag)


def second_domain(settings: Settings, target: Dataset) -> Dataset | None:
    """What `--second_domain` names, if the student reads it.

    Raises:
        UserError: if it isn't there, is damaged, or is the target, by name or by content.
    """
    name = settings.student.second_domain
    if not name or not reads(settings.student, "second_domain"):
        return None
    known = name == settings.data.dataset
    domain = target if known else load_domain(settings.data, name, "--second_domain")
    if domain.name == target.name or domain.fingerprint == target.fingerprint:
        raise UserError(f"--second_domain: found {name!r}, the target, expected another data set")
    # Its histories are cut like leave-one-out's; a part that is empty is refused.
    make_task(domain)
    return domain
