"""python -m experiments study curriculum --flagfile=curriculum.cfg: with and without a schedule.

The paper's second version lets in the training instances by their difficulty (docs/readings.md).
PRM-KD and the student alone, each with all instances from the first step on and with a curriculum
of some epochs; `--curriculum_epochs` adds a number of epochs to those that are here.
"""

from experiments.cli.settings import Settings
from experiments.runs.variant import Study, Variant, alone, other_starts
from prmkd_jax.students.registry import label

EPOCHS = (4, 8)


def list_variants(settings: Settings) -> list[Variant]:
    """PRM-KD and the student alone, each without a curriculum and with every one.

    Curricula that wouldn't end within `--max_epochs` are left out.
    """
    train = settings.train
    fitting = {epochs for epochs in EPOCHS if epochs <= train.max_epochs}
    lengths = sorted({*fitting, train.curriculum_epochs} - {0})
    prmkd = Variant("prmkd", "PRM-KD", ("--method=prmkd",), reference=None, kind="distilled")
    base = Variant("base", label(settings.student), alone(settings), reference=None, kind="base")
    starts = [other._replace(reference=None) for other in other_starts(settings)]
    return [
        *(_scheduled(prmkd, epochs) for epochs in (0, *lengths)),
        *(_scheduled(base, epochs) for epochs in (0, *lengths)),
        *(_scheduled(start, 0) for start in starts),
    ]


def _scheduled(variant: Variant, epochs: int) -> Variant:
    """The variant with a curriculum of some epochs, compared with itself without one."""
    flags = (*variant.flags, f"--curriculum_epochs={epochs}")
    if not epochs:
        return variant._replace(flags=flags)
    return variant._replace(
        name=f"{variant.name}-curriculum-{epochs}",
        label=f"{variant.label}, curriculum of {epochs} epochs",
        flags=flags,
        reference=variant.name,
    )


STUDY = Study("curriculum", "A curriculum", "the same without a curriculum", list_variants)
