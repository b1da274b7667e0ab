"""python -m experiments.studies.universality --flagfile=scientific.cfg: the paper's Fig. 4.

Every student alone and with PRM-KD, under one set of teachers and settings; not RecGURU, which is
a baseline in the paper. Where another learning rate than the paper's suits a plain student
better, it and its distilled one have that; LightGCN's teachers have read a user's whole training
part (docs/choices.md).
`--variants=fm-prmkd,lightgcn-prmkd` runs a part. A variant's own settings win over those of the
command line, and `--variant_flags` over both.
"""

from collections.abc import Sequence

from experiments.cli.flags import run_command
from experiments.cli.settings import Settings
from experiments.reporting.wording import model_name
from experiments.runs.study import Variant, run_study
from prmkd_jax.students.config import STUDENT_NAMES

# Chosen on Scientific's validation part, 64 wide: for both of a student's variants, and for the
# distilled one alone. DeepFM, which is slow, has FM's without a search of its own.
OWN_FLAGS = {
    "gru4rec": ("--learning_rate=1e-2",),
    "fm": ("--learning_rate=3e-3",),
    "deepfm": ("--learning_rate=3e-3",),
    "lightgcn": ("--learning_rate=3e-3",),
}
DISTILLED_FLAGS = {"lightgcn": ("--teacher_history=whole", "--distill_weight=5")}


def main(argv: Sequence[str]) -> None:
    """Runs all of them and writes one table."""
    title = "PRM-KD on every student"
    run_study(argv, "universality", title, "the same student alone", list_variants)


def list_variants(_: Settings) -> list[Variant]:
    """Two rows a student: it alone, and it with PRM-KD."""
    return [
        variant
        for name in STUDENT_NAMES
        if name != "recguru"
        for variant in (
            Variant(
                f"{name}-base",
                model_name(name),
                (f"--student={name}", "--teachers=", *OWN_FLAGS.get(name, ())),
                reference=None,
                kind="base",
            ),
            Variant(
                f"{name}-prmkd",
                f"PRM-KD ({model_name(name)})",
                (
                    f"--student={name}",
                    "--method=prmkd",
                    *OWN_FLAGS.get(name, ()),
                    *DISTILLED_FLAGS.get(name, ()),
                ),
                reference=f"{name}-base",
                kind="prmkd",
            ),
        )
    ]


if __name__ == "__main__":
    run_command(main)
