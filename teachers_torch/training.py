"""The one loop of tuning: epochs in stages, stopped early on validation, resumed after a stop."""

import dataclasses
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prmkd_jax.common.errors import UserError
from prmkd_jax.evaluate.metrics import SELECTION_METRIC
from teachers_torch.losses import require_finite
from teachers_torch.states import load_state, save_state
from teachers_torch.teacher import Log, Tuning

B = TypeVar("B")


class TuningStage(NamedTuple):
    """A part of a tuning; the next one goes on from its best weights.

    Attributes:
        epochs: how many at the most.
        patience: how many validations in a row may bring no better one.
        train: trains one epoch, whose number it is given, and returns the mean loss.
    """

    epochs: int
    patience: int
    train: Callable[[int], float]


@runtime_checkable
class Stateful(Protocol):
    """What takes and gives its own state: an optimiser, a schedule of the learning rate."""

    def state_dict(self) -> dict[str, Any]:
        """Its state, as numbers and tensors."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> object:
        """Goes back to where the state was taken."""
        ...


@dataclasses.dataclass
class _Course:
    """A tuning under way: all that changes besides the model, the optimiser and the schedule.

    Attributes:
        best: the best validation of all stages.
        best_weights: the model's there.
        stage: the stage's number from 1; 0 before the first.
        before: epochs done before the stage.
        epoch: the last one done, counted over all stages.
        waited: validations since the best one of the stage.
        seconds: time of all epochs.
    """

    best: Tuning
    best_weights: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    stage: int = 0
    before: int = 0
    epoch: int = 0
    waited: int = 0
    seconds: float = 0.0


def tune_in_stages(
    model: nn.Module,
    parts: Mapping[str, Stateful],
    stages: Sequence[TuningStage],
    validate: Callable[[], dict[str, float]],
    log: Log,
    *,
    last_epoch: int = sys.maxsize,
    evaluate_every: int = 1,
    state_file: Path | None = None,
) -> Tuning:
    """Trains a model in place; it ends with the weights of its best validation epoch.

    Args:
        model: the stages train it.
        parts: optimiser and schedule, by name, whose states are kept too.
        stages: the stages in order.
        validate: metrics over all validation users, `NDCG@10` among them.
        log: receives each validation as `epoch`, with its number, loss, metric and seconds.
        last_epoch: the last epoch of all stages at the latest.
        evaluate_every: epochs between validations; a stage's last one is validated as well.
        state_file: holds the complete state after each epoch. If it exists, the tuning
            continues from it and ends as if it had never stopped.

    Raises:
        UserError: the state file is damaged, or the tuning diverges.
    """
    parts = {"model": model, **parts}
    course = _Course(Tuning(0, 0, {SELECTION_METRIC: -1.0}))
    if state_file is not None and (state := load_state(state_file)) is not None:
        _restore(course, parts, state, state_file)
    for number, stage in enumerate(stages, start=1):
        if course.stage < number:
            if course.stage > 0:
                model.load_state_dict(course.best_weights)
            course.stage, course.waited, course.before = number, 0, course.epoch
        last = min(course.before + stage.epochs, last_epoch)
        while course.stage == number and course.waited < stage.patience and course.epoch < last:
            done = course.epoch - course.before + 1
            due = not done % evaluate_every or course.epoch + 1 == last
            event = _next_epoch(course, model, stage.train, validate if due else None)
            # Logged before it is kept: what a kill lets be done again stands in the log twice, and
            # nothing is missing there.
            if event is not None:
                log(event)
            if state_file is not None:
                save_state(state_file, _state(course, parts))
    model.load_state_dict(course.best_weights)
    return course.best._replace(epochs=course.epoch, seconds=course.seconds)


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[B],
    loss_of: Callable[[B], tuple[Float[Tensor, ""], int]],
    epoch: int,
    steps: int,
    log: Log,
) -> float:
    """One pass over the batches, a step each; returns the instances' mean loss.

    Args:
        model: put into training mode.
        optimizer: optimiser of its parameters.
        batches: batches of the kind that `loss_of` takes.
        loss_of: a batch's mean loss, and its number of instances.
        epoch: the epoch's number.
        steps: about how many batches there are.
        log: receives each `step`.
    """
    model.train()
    total = torch.zeros((), device=next(model.parameters()).device)
    count = 0
    for step, batch in enumerate(batches, start=1):
        loss, size = loss_of(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach() * size
        count += size
        log({"event": "step", "epoch": epoch, "step": step, "steps": steps})
    return float(total) / count


def _next_epoch(
    course: _Course,
    model: nn.Module,
    train: Callable[[int], float],
    validate: Callable[[], dict[str, float]] | None,
) -> dict[str, object] | None:
    """One epoch and, where one is due, its validation, which is returned as an event."""
    started = time.perf_counter()
    course.epoch += 1
    loss = train(course.epoch)
    require_finite(loss, course.epoch)
    metrics = None if validate is None else validate()
    if metrics is not None:
        _note(course, model, metrics)
    seconds = time.perf_counter() - started
    course.seconds += seconds
    if metrics is None:
        return None
    return {
        "event": "epoch",
        "epoch": course.epoch,
        "loss": loss,
        SELECTION_METRIC: metrics[SELECTION_METRIC],
        "best_epoch": course.best.best_epoch,
        "seconds": seconds,
    }


def _note(course: _Course, model: nn.Module, metrics: dict[str, float]) -> None:
    """Keeps the weights if they are the best so far."""
    course.waited += 1
    if metrics[SELECTION_METRIC] > course.best.validation[SELECTION_METRIC]:
        course.best = Tuning(course.epoch, course.epoch, metrics)
        course.waited = 0
        weights = model.state_dict()
        course.best_weights = {name: value.detach().clone() for name, value in weights.items()}


def _state(course: _Course, parts: Mapping[str, Stateful]) -> dict[str, object]:
    fields: dict[str, object] = {**vars(course), "best": course.best._asdict()}
    return fields | {name: part.state_dict() for name, part in parts.items()}


def _restore(
    course: _Course, parts: Mapping[str, Stateful], state: dict[str, Any], path: Path
) -> None:
    """Goes back to where `state` was taken.

    Raises:
        UserError: an earlier version wrote it.
    """
    if missing := sorted(_state(course, parts).keys() - state.keys()):
        raise UserError(
            f"{path}: found a training state without {', '.join(missing)}, expected one of this "
            f"version (delete {path.name} to start over)"
        )
    for name in vars(course):
        setattr(course, name, state[name])
    course.best = Tuning(**state["best"])
    for name, part in parts.items():
        part.load_state_dict(state[name])
