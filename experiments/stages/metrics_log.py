"""Metrics of each epoch for other tools: TensorBoard, Weights & Biases, MLflow.

A run writes its JSON lines whatever is chosen here. An adapter is imported when it is asked for.
"""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, Protocol, runtime_checkable

from prmkd_jax.common.errors import UserError

PROJECT = "prmkd"


@runtime_checkable
class MetricsLog(Protocol):
    """Where the numbers of one training go."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Takes the numbers of one epoch.

        Args:
            step: the epoch, counted from 1.
            values: name → number; a slash divides groups, as in `validation/NDCG@10`.
        """
        ...

    def close(self) -> None:
        """Writes what is waiting."""
        ...


class NoLog:
    """Takes numbers nowhere."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


class TensorBoardLog:
    """Event files for TensorBoard, one folder a training."""

    def __init__(self, module: ModuleType, folder: Path, name: str, settings: Mapping[str, object]):
        self._writer = module.SummaryWriter(str(folder / "tensorboard" / name))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes the event file."""
        self._writer.close()


class WandbLog:
    """A run of Weights & Biases, named like the training."""

    def __init__(self, module: ModuleType, folder: Path, name: str, settings: Mapping[str, object]):
        self._run = module.init(
            project=PROJECT, name=name, dir=str(folder), config=dict(settings), reinit=True
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the numbers."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


class MlflowLog:
    """A run of MLflow, named like the training, at the tracking server that MLflow knows."""

    def __init__(self, module: ModuleType, folder: Path, name: str, settings: Mapping[str, object]):
        self._mlflow = module
        module.set_experiment(PROJECT)
        module.start_run(run_name=name)
        module.log_params({key: str(value) for key, value in settings.items()})

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the numbers; MLflow takes no @ in a name."""
        numbers = {name.replace("@", "_at_"): value for name, value in values.items()}
        self._mlflow.log_metrics(numbers, step=step)

    def close(self) -> None:
        """Ends the run."""
        self._mlflow.end_run()


class Tool(NamedTuple):
    """A tool that takes metrics.

    Attributes:
        package: the package that has to be installed.
        module: the name of the module that is imported.
        open: makes the log of one training: module, folder, name of the training, every flag's
            value.
    """

    package: str
    module: str
    open: Callable[[ModuleType, Path, str, Mapping[str, object]], MetricsLog]


TOOLS = {
    "tensorboard": Tool("tensorboard", "torch.utils.tensorboard", TensorBoardLog),
    "wandb": Tool("wandb", "wandb", WandbLog),
    "mlflow": Tool("mlflow", "mlflow", MlflowLog),
}
"""Name of `--log_to` → the tool."""


def check_log_to(name: str) -> None:
    """Checks before anything is trained that a tool can be used.

    Raises:
        UserError: its package is not installed.
    """
    if name and importlib.util.find_spec(TOOLS[name].package) is None:
        raise UserError(
            f"--log_to: found {name!r}, whose package is not installed, expected it: "
            f"pip install {TOOLS[name].package}"
        )


def open_log(name: str, folder: Path, run: str, settings: Mapping[str, object]) -> MetricsLog:
    """Opens the log of one training.

    Args:
        name: a name of `TOOLS`, or "" for none.
        folder: folder in which a tool that writes files has one of its own.
        run: the training's name.
        settings: every flag's value.

    Raises:
        UserError: the tool is not installed.
    """
    if not name:
        return NoLog()
    check_log_to(name)
    tool = TOOLS[name]
    return tool.open(importlib.import_module(tool.module), folder, run, settings)


def flatten(record: Mapping[str, object], prefix: str = "") -> dict[str, float]:
    """The numbers of an epoch's entry by path.

    >>> flatten({"loss": 2.0, "validation": {"MRR": 0.5}, "epoch": 3})
    {'loss': 2.0, 'validation/MRR': 0.5, 'epoch': 3.0}
    """
    found: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            found |= flatten(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            found[f"{prefix}{name}"] = float(value)
    return found
