"""Finished students in files, so that a comparison that was stopped goes on where it was."""

import dataclasses
import logging
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import jax

import bridge
import prmkd_jax
from experiments.benchmarks.portability.ceilings import DEVICES
from experiments.cli.command import Call
from experiments.cli.flags import as_dict
from experiments.stages.data import second_domain
from experiments.stages.environment import describe_environment
from experiments.stages.identity import digest
from prmkd_jax.common.digests import files_digest
from prmkd_jax.common.sealed import read_sealed_json, write_sealed_json
from prmkd_jax.data.task import Task

FOLDER = "students"
"""Folder of the finished ones, in `--output_dir`."""
_LOG = logging.getLogger(__name__)
# Where files lie, and which other students are compared, changes no figure.
_CHANGES_NO_FIGURE = ("students", "output_dir", "cache_dir", "data_dir", "overwrite", "log_to")


def identity(call: Call, task: Task) -> dict[str, object]:
    """All that a student's figures depend on, but for the student: equal ones are not made again.

    Args:
        call: the command, whose settings are kept.
        task: data and split.

    Raises:
        UserError: the second domain's data are missing or damaged.
    """
    domain = second_domain(call.settings, task.dataset)
    settings = as_dict(call.command.groups, call.configs)
    # Of the code `sources` says more than a commit, which knows nothing of what isn't committed.
    environment = {k: v for k, v in describe_environment().items() if k != "git_commit"}
    return {
        "settings": {
            name: value for name, value in settings.items() if name not in _CHANGES_NO_FIGURE
        },
        "data": [task.dataset.fingerprint, task.split_digest],
        "second_domain": None if domain is None else domain.fingerprint,
        "environment": environment,
        "libtpu": libtpu_version(),
        "here": [f"{each.platform} {each.device_kind}" for each in jax.devices()],
        "ceilings": [dataclasses.asdict(device) for device in DEVICES],
        "sources": _sources(),
    }


def finished(
    folder: Path, student: str, depends_on: dict[str, object], make: Callable[[], dict[str, object]]
) -> dict[str, object]:
    """A student's figures: read if they are there, else made and written.

    Args:
        folder: the command's output folder.
        student: the student's name.
        depends_on: `identity`; with another one the student has another file.
        make: the figures, as JSON can hold them.
    """
    path = folder / FOLDER / f"{student}-{digest(depends_on)}.json"
    if path.exists():
        try:
            return read_sealed_json(path)
        except ValueError as error:
            _LOG.warning("%s: %s; it is made again", path, error)
    write_sealed_json(path, make())
    return read_sealed_json(path)


def libtpu_version() -> str:
    """Of the TPU's compiler; "" where it is not installed."""
    try:
        return metadata.version("libtpu")
    except metadata.PackageNotFoundError:
        return ""


def _sources() -> str:
    """The digest of the code that makes the figures."""
    folders = [*prmkd_jax.__path__, *bridge.__path__, Path(__file__).parent]
    return files_digest(path for folder in folders for path in sorted(Path(folder).rglob("*.py")))
