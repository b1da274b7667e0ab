"""python -m experiments study sensitivity --flagfile=sensitivity.cfg: the paper's Fig. 5.

One setting changes at a time: the teachers' temperature, the distillation's weight, the width. The
width changes the plain student too, which has a curve of its own. The values are the paper's where
it gives them (a temperature of 0.02 to 2, a width of 300 and 400); its temperature divides logits,
ours standard deviations, unless `--score_normalization=sum`.
"""

from experiments.cli.settings import Settings
from experiments.runs.variant import Study, Variant, alone
from prmkd_jax.students.registry import label

TEMPERATURES = (0.02, 0.1, 0.25, 0.5, 1.0, 2.0)
WEIGHTS = (0.3, 1.0, 5.0, 20.0, 50.0)
WIDTHS = (16, 32, 64, 128, 300, 400)


def list_variants(settings: Settings) -> list[Variant]:
    """PRM-KD as given, each setting at its other values, and the plain student at each width."""
    distill = settings.distill
    given = Variant(
        "prmkd", "PRM-KD as given", ("--method=prmkd",), reference=None, kind="distilled"
    )
    heads = settings.student.num_heads
    given_width = settings.student.hidden_size
    widths = [width for width in WIDTHS if width % heads == 0]
    changes = [
        *(("temperature", value, "τ") for value in TEMPERATURES if value != distill.temperature),
        *(("distill_weight", value, "λ") for value in WEIGHTS if value != distill.distill_weight),
        *(("hidden_size", value, "D") for value in widths if value != given_width),
    ]
    student = label(settings.student)
    plain = [
        Variant(
            f"base-hidden_size={width}",
            f"{student}, D = {width}",
            (*alone(settings), f"--hidden_size={width}"),
            reference=None if width == given_width else f"base-hidden_size={given_width}",
            kind="base",
        )
        for width in sorted({*widths, given_width})
    ]
    return [
        given,
        *(
            Variant(f"{flag}={value:g}", f"{sign} = {value:g}", (f"--{flag}={value:g}",))
            for flag, value, sign in changes
        ),
        *plain,
    ]


STUDY = Study(
    "sensitivity", "Sensitivity to τ, λ and the width", "the same as given", list_variants
)
