"""Data sets beside the target: folders of --data_dir, or domains of the synthetic world."""

import functools
from pathlib import Path

from experiments.cli.settings import Settings
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.canonical import read_dataset
from prmkd_jax.data.config import DataConfig
from prmkd_jax.data.dataset import Dataset
from prmkd_jax.data.splits import leave_one_out, require_parts
from prmkd_jax.data.synthetic import DOMAINS, WorldConfig, make_domain
from prmkd_jax.students.registry import reads

SYNTHETIC = "synthetic"


# Read once for the check before anything is trained, and for every seed.
@functools.lru_cache(maxsize=1)
def load_domain(data: DataConfig, name: str, flag: str) -> Dataset:
    """The data set `name`; `synthetic-garden`, … are made at the size of the synthetic target.

    Args:
        data: where data sets lie, and the synthetic world's size.
        name: of the data set.
        flag: how an error names what asked for it.

    Raises:
        UserError: if it isn't there or is damaged.
    """
    kind, _, domain = name.partition("-")
    if kind == SYNTHETIC and domain in DOMAINS:
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
    require_parts(domain.name, leave_one_out(domain.interactions))
    return domain
