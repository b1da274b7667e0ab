"""The teachers there are: one table, and users' own from entry points.

Importing it loads no torch; `kind` does, for the teacher that is asked for.
"""

import importlib
from typing import Any, Protocol, cast, runtime_checkable

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.plugins import own_names
from prmkd_jax.data.task import Task
from teachers_torch.given.plugin import OWN_GROUP, plugin_kind
from teachers_torch.settings import TeacherSettings
from teachers_torch.teacher import ENCODER_VERSION, Identity, Kind

KINDS = {
    "unisrec-text": "teachers_torch.sequence.kinds:UNISREC_TEXT",
    "unisrec": "teachers_torch.sequence.kinds:UNISREC",
    "unim2rec": "teachers_torch.sequence.kinds:UNIM2REC",
    "recformer": "teachers_torch.recformer.kind:KIND",
    "precomputed": "teachers_torch.given.precomputed:KIND",
    "neighbours": "teachers_torch.given.neighbours:KIND",
    "popularity": "teachers_torch.given.popularity:KIND",
    "recent-popularity": "teachers_torch.given.popularity:RECENT",
}
"""Name of a built-in teacher → module:object, a `Kind`."""
UNTRAINED = ("popularity", "recent-popularity", "neighbours")
"""Those of them that are compared with in every table, whatever the run's teachers are."""
INITS = ("unisrec", "unim2rec", "recformer")
"""Every `Kind.init` that a built-in teacher has: what initial weights can be given for."""
TEACHERS = (*KINDS, *own_names(OWN_GROUP, tuple(KINDS)))
"""Names that `--teachers` takes."""


def kind(name: str) -> Kind[Any]:
    """What is to be known of a teacher by its name.

    Raises:
        UserError: there is no such teacher, or a user's own can't be imported.
    """
    if name in KINDS:
        module, _, attribute = KINDS[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    if name not in TEACHERS:
        raise UserError(f"--teachers: found {name!r}, expected some of {', '.join(TEACHERS)}")
    return plugin_kind(name)


def identity(name: str, task: Task, settings: TeacherSettings, seed: int) -> Identity:
    """What a tuned teacher and its vectors depend on, and with it their cache key.

    Files that the teacher reads are hashed, so compute it once and hand it on.

    Args:
        name: the name of a teacher, from `TEACHERS`.
        task: data and split.
        settings: all teachers' settings.
        seed: seed of the tuning.

    Raises:
        UserError: there is no such teacher, or its files are missing.
    """
    found = kind(name)
    content = {
        "encoder_version": ENCODER_VERSION,
        "teacher": name,
        "data": task.dataset.fingerprint,
        "split": task.split_digest,
        "settings": found.settings(task, settings),
        "seed": seed if found.seeded else None,
    }
    return Identity(name, content, seed)


@runtime_checkable
class _TellsScores(Protocol):
    """A kind that knows before it builds what its teacher gives; the method is optional."""

    def gives_scores(self, settings: TeacherSettings) -> bool:
        """Whether its teacher is a `Scorer`."""
        ...


def will_give_scores(kind: Kind[Any], settings: TeacherSettings) -> bool:
    """Whether a kind says that its teacher will be a `Scorer`; False where it says nothing.

    Raises:
        UserError: what decides it is missing or wrong.
    """
    tells = callable(getattr(kind, "gives_scores", None))
    return tells and cast(_TellsScores, kind).gives_scores(settings)
