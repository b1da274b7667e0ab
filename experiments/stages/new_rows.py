"""What new items' rows are made of: vectors of all of today's items, by `--rows_from`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from bridge.teacher_vectors import Vectors
from experiments.cli.command import Call
from experiments.cli.flags import names_of
from experiments.cli.settings import Settings
from experiments.stages.teachers import ReadyTeacher, may_give_vectors
from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import Dataset
from prmkd_jax.serve.config import UpdateConfig
from prmkd_jax.serve.new_items import text_vectors
from teachers_torch.config import TextConfig
from teachers_torch.items.inputs import has_texts, text_inputs, texts_width


def reads(call: Call) -> frozenset[str]:
    """Names of the flags by which texts are read, where new rows are made of them."""
    if call.config(UpdateConfig).rows_from != "texts":
        return frozenset()
    groups = [group for group in call.command.groups if group.config is TextConfig]
    return frozenset(names_of(groups))


def check_rows(source: str, dataset: Dataset, settings: Settings) -> None:
    """Finds what would stop `item_vectors` later.

    Args:
        source: `--rows_from`.
        dataset: today's.
        settings: the run's settings.

    Raises:
        UserError: there are no teachers or none with vectors, no texts, or their encoder or file
            is missing or wrong.
    """
    if source == "teachers" and not settings.run.teachers:
        raise UserError("--rows_from: found teachers, but --teachers= names none, expected some")
    if source == "teachers" and not may_give_vectors(settings):
        raise _no_vectors()
    if source == "words" and not any(dataset.catalogue.texts.get("title", ())):
        raise UserError(
            f"--rows_from: found words, but data set {dataset.name} has no titles, expected "
            "teachers or mean"
        )
    if source == "texts":
        config = settings.teachers.text
        if not has_texts(dataset, config):
            raise UserError(
                f"--rows_from: found texts, but data set {dataset.name} has none, expected "
                "teachers or mean"
            )
        texts_width(dataset, config, Cache(Path(settings.run.cache_dir)))


def item_vectors(
    source: str, dataset: Dataset, settings: Settings, teachers: Sequence[ReadyTeacher]
) -> Float[np.ndarray, "V d"] | None:
    """A vector for each of today's items; None where all new items get the mean row.

    Items without a text get the mean vector, and so about the mean row.

    Args:
        source: `--rows_from`.
        dataset: today's.
        settings: the run's settings.
        teachers: the run's.

    Raises:
        UserError: as `check_rows`, or no teacher has vectors.
    """
    if source == "mean":
        return None
    if source == "words":
        titles = dataset.catalogue.texts["title"]
        told = np.array([bool(title.strip()) for title in titles])
        return _filled(text_vectors(titles, titles), told)
    if source == "texts":
        cache = Cache(Path(settings.run.cache_dir))
        config = settings.teachers.text
        found = text_inputs(dataset, config, 0.0, cache, lambda event: None)
        return _filled(found.features.astype(np.float64), found.available)
    sources = [teacher.source for teacher in teachers]
    tables = [_evened(source.items) for source in sources if isinstance(source, Vectors)]
    if not tables:
        raise _no_vectors()
    return np.hstack(tables)


def _filled(
    vectors: Float[np.ndarray, "V d"], known: Bool[np.ndarray, " V"]
) -> Float[np.ndarray, "V d"]:
    """The vectors, the known ones' mean where nothing is known.

    An encoder has a vector for the empty text too, one like no other, of which the map would make a
    row as long as any.
    """
    mean = vectors[known].mean(axis=0) if known.any() else 0.0
    return np.where(known[:, None], vectors, mean)


def _no_vectors() -> UserError:
    return UserError("--rows_from: found teachers, all without vectors, expected one with some")


def _evened(items: np.ndarray) -> Float[np.ndarray, "V d"]:
    """A teacher's vectors at a mean square of 1, so that each has an equal say in the map.

    They are not centred first, as `students.starts.side_by_side` does: the map centres its inputs
    itself, and what the items have in common counts to the size here (docs/update.md).
    """
    items = items.astype(np.float64)
    return items / max(float(np.sqrt(np.square(items).sum(1).mean())), 1e-12)
