"""The students' stage: every variant with every seed, the same loop, budget and stopping."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bridge.teacher_bank import TeacherBank
from experiments.cli.console import Reporter
from experiments.cli.settings import Settings
from experiments.stages.data import second_domain
from experiments.stages.teachers import ReadyTeacher
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import Dataset
from prmkd_jax.data.splits import Split
from prmkd_jax.distill.config import METHODS, default_weights
from prmkd_jax.distill.controls import item_permutation
from prmkd_jax.train.calibrate import calibrate_threshold
from prmkd_jax.train.loop import SELECTION_METRIC, Fitted, Run, fit

Log = Callable[[dict[str, Any]], None]


@dataclasses.dataclass(frozen=True)
class Trained:
    """One trained student.

    Attributes:
        seed: its seed.
        fitted: what came of it.
        threshold: epsilon of the consistency rule; infinite for the plain student.
    """

    seed: int
    fitted: Fitted
    threshold: float


def make_bank(teachers: Sequence[ReadyTeacher], settings: Settings) -> TeacherBank | None:
    """The teachers' vectors and default weights; None without teachers."""
    if not teachers:
        return None
    config = settings.distill
    strengths = [teacher.card["validation"][SELECTION_METRIC] for teacher in teachers]
    vectors = [teacher.vectors for teacher in teachers]
    if METHODS[config.method].permuted:
        vectors = [
            dataclasses.replace(v, items=v.items[item_permutation(len(v.items), k, seed)])
            for seed in (config.permutation_seed,)
            for k, v in enumerate(vectors)
        ]
    return TeacherBank(vectors, default_weights(config, strengths), settings.run.teacher_scores)


def plain_run(dataset: Dataset, split: Split, settings: Settings, seed: int, folder: Path) -> Run:
    """The run of the student that is trained alone."""
    return Run(
        dataset=dataset,
        split=split,
        max_seq_len=settings.student.window(settings.data.max_seq_len),
        student=settings.student,
        train=settings.train,
        seed=seed,
        folder=folder,
        resume=True,
        second_domain=second_domain(settings, dataset),
    )


def run_name(settings: Settings, seed: int, *, distilled: bool) -> str:
    """What one training is called in the log, and what its folders are named."""
    method = settings.distill.method if distilled else "base"
    return f"{settings.student.label}-{method}-seed{seed}"


def train_students(
    dataset: Dataset,
    split: Split,
    bank: TeacherBank | None,
    settings: Settings,
    folder: Path,
    reporter: Reporter,
    log: Log,
    *,
    start: dict[str, Any] | None = None,
    rank_test: bool = True,
) -> list[Trained]:
    """Trains one student a seed: the distilled one if there is a bank, else the plain one.

    Each goes on from the newest state in its folder.

    Args:
        dataset: the data.
        split: its parts.
        bank: the teachers.
        settings: everything else.
        folder: checkpoints go to a folder of it a seed.
        reporter: shows progress.
        log: takes one event an epoch.
        start: parameters to begin with; None draws them from each seed.
        rank_test: False where the run only serves to choose a setting.
    """
    trained = []
    for seed in settings.run.seeds:
        name = run_name(settings, seed, distilled=bank is not None)
        run = plain_run(dataset, split, settings, seed, folder / name)
        run = dataclasses.replace(run, start=start, rank_test=rank_test)
        if bank is not None:
            run = dataclasses.replace(run, distill=settings.distill, teachers=bank)
            run = dataclasses.replace(run, threshold=calibrate_threshold(run))
        trained.append(Trained(seed, _fit(run, name, reporter, log), run.threshold))
    return trained


def _fit(run: Run, name: str, reporter: Reporter, log: Log) -> Fitted:
    with reporter.stage(name, "steps") as stage:

        def on_epoch(record: dict[str, Any]) -> None:
            seconds = record["seconds"]
            reporter.say(
                f"{name}: epoch {record['epoch']:3d}  loss {record['loss']:.4f}  "
                f"validation NDCG@10 {record['validation'][SELECTION_METRIC]:.4f} "
                f"(best at {record['best_epoch']})  "
                f"{seconds['train']:.1f} s + {seconds['evaluate']:.1f} s evaluation"
            )
            log({"stage": "student", "run": name, **record})

        def on_start(scores: dict[str, float]) -> None:
            ndcg = scores[SELECTION_METRIC]
            reporter.say(f"{name}: the start has a validation NDCG@10 of {ndcg:.4f}")
            log({"stage": "student_start", "run": name, "validation": scores})

        try:
            return fit(run, on_step=stage.update, on_epoch=on_epoch, on_start=on_start)
        except FloatingPointError as error:
            raise UserError(f"{name}: {error}; a smaller --learning_rate may help") from error
