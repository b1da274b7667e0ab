"""The variants of a study, grouped by what they are compared with."""

from collections.abc import Sequence
from typing import NamedTuple

from experiments.reporting.results import Results, TeacherResult, VariantResult


class VariantGroup(NamedTuple):
    """A variant that is compared with none, and those that are compared with it.

    Attributes:
        name: begins the names of its figures.
        reference: the variant that the others are compared with.
        compared: the others, in the table's order.
        variants: all of them, in the table's order.
    """

    name: str
    reference: VariantResult
    compared: Sequence[VariantResult]
    variants: Sequence[VariantResult]

    @property
    def pair(self) -> VariantResult | None:
        """The only variant that is compared; None where there are none or several."""
        return self.compared[0] if len(self.compared) == 1 else None


def group_variants(results: Results) -> list[VariantGroup]:
    """Every reference with its group, in the table's order."""
    variants = results["variants"]
    roots = [variant for variant in variants if variant["reference"] is None]
    students = [root["student"]["name"] for root in roots]
    names = students if len(set(students)) == len(roots) else [root["name"] for root in roots]
    groups = []
    for name, root in zip(names, roots, strict=True):
        compared = [one for one in variants if one["reference"] == root["name"]]
        members = [one for one in variants if one is root or one["reference"] == root["name"]]
        groups.append(VariantGroup(name, root, compared, members))
    return groups


def teachers_in_order(results: Results) -> dict[str, TeacherResult]:
    """The teachers in the order in which they were asked for; in JSON they have none."""
    teachers = results["teachers"]
    asked = [name for name in results["settings"]["teachers"] if name in teachers]
    return {name: teachers[name] for name in dict.fromkeys([*asked, *teachers])}


def untrained(results: Results) -> dict[str, TeacherResult]:
    """The models of which nothing is trained, but for those that are teachers of the run."""
    found = results.get("untrained", {})
    return {name: model for name, model in found.items() if name not in results["teachers"]}
