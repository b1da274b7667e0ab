"""What the page shows side by side: the students, and the teachers that an artefact tells of."""

from typing import NamedTuple

from prmkd_jax.common.errors import UserError
from prmkd_jax.serve.explain import PLAIN_NAME
from prmkd_jax.serve.http.batching import Job, answer_jobs
from prmkd_jax.serve.http.images import Images
from prmkd_jax.serve.http.models import Loaded, described
from prmkd_jax.serve.recommender import Answer, Recommended


class Side(NamedTuple):
    """One list.

    Attributes:
        model: name, label and digest.
        items: best first.
        unknown_items: items of the history that this model doesn't know.
        teacher: whether it is a teacher's, which is an estimate.
        fidelity: the share of a teacher's own first ten places that the estimate finds; None for
            a student, and where it wasn't measured.
    """

    model: dict[str, str]
    items: list[Recommended]
    unknown_items: int
    teacher: bool = False
    fidelity: float | None = None


def student_side(model: Loaded, answer: Answer) -> Side:
    """A served student's list."""
    return Side(model.described(), answer.items, answer.unknown_items)


def plain_sides(model: Loaded, job: Job, max_k: int) -> list[Side]:
    """The list of the plain student that an artefact holds; none where it holds none.

    Raises:
        UserError: it can't answer this.
    """
    plain = model.recommender.plain
    if plain is None:
        return []
    (found,) = answer_jobs(plain, [job], max_k)
    if isinstance(found, UserError):
        raise found
    return [
        Side(described(PLAIN_NAME, plain.exported.card), one.items, one.unknown_items)
        for one in found
    ]


def teacher_sides(model: Loaded, job: Job, unknown_items: int) -> list[Side]:
    """The lists of the teachers that an artefact tells of; they know what the student knows."""
    explanation = model.recommender.explanation
    if explanation is None:
        return []
    (history,) = job.histories
    found = model.recommender.by_teachers(history, job.k, filter_seen=job.filter_seen)
    return [
        Side(
            {"name": view.name, "label": view.label, "digest": model.digest},
            found[view.name],
            unknown_items,
            teacher=True,
            fidelity=view.fidelity,
        )
        for view in explanation.teachers
    ]


def compared(sides: list[Side], k: int, images: Images) -> list[dict[str, object]]:
    """The sides as JSON content: each one's best k with their ranks in another list.

    The first is compared with the second where that is a student's, all others with the first.
    """
    first, *others = sides
    with_first = others[0] if others and not others[0].teacher else None
    pairs = zip(sides, [with_first, *[first] * len(others)], strict=True)
    return [_content(side, other, k, images) for side, other in pairs]


def _content(side: Side, other: Side | None, k: int, images: Images) -> dict[str, object]:
    items = [] if other is None else other.items
    ranks = {one.item: rank for rank, one in enumerate(items, start=1)}
    return {
        "model": side.model,
        "compared_with": None if other is None else other.model["name"],
        "teacher": side.teacher,
        "fidelity": side.fidelity,
        "unknown_items": side.unknown_items,
        "items": [
            {
                "item": one.item,
                "score": one.score,
                "title": one.title,
                "image": images.address(one.item),
                "rank": rank,
                "other_rank": ranks.get(one.item),
            }
            for rank, one in enumerate(side.items[:k], start=1)
        ],
    }
