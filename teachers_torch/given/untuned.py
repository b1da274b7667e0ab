"""What kinds of teachers that are not tuned have in common."""

from collections.abc import Callable
from pathlib import Path

from prmkd_jax.data.task import Task
from teachers_torch.teacher import AnyTeacher, Log, Tuning


class Untuned:
    """Defaults of a `Kind` whose vectors come from elsewhere: not tuned, nothing to save."""

    init: str = ""
    reads: tuple[type, ...] = ()
    seeded: bool = False
    reads_tokens: bool = False
    pretraining: None = None

    def tune(
        self,
        teacher: AnyTeacher,
        task: Task,
        validate: Callable[[], dict[str, float]],
        seed: int,
        state_file: Path,
        log: Log,
    ) -> Tuning:
        """Only validates."""
        return Tuning(epochs=0, best_epoch=0, validation=validate())

    def module(self, teacher: AnyTeacher) -> None:
        """Nothing is saved."""
        return None
