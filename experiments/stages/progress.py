"""What a teacher reports while it is tuned or pre-trained, as a bar, lines and log entries."""

from collections.abc import Callable, Mapping
from typing import Any

from experiments.cli.console import Reporter, Stage
from prmkd_jax.evaluate.metrics import SELECTION_METRIC

_ENCODED = {"encode_texts": "texts", "encode_images": "images", "encode": "tokens"}


class TeacherProgress:
    """Receives a teacher's events, see `teachers_torch.teacher.Log`."""

    def __init__(
        self,
        title: str,
        reporter: Reporter,
        stage: Stage,
        log: Callable[[dict[str, object]], None] = lambda event: None,
        *,
        tried: bool = True,
    ):
        """Shows everything under one title.

        Args:
            title: the work and the teacher.
            reporter: gets a line an epoch.
            stage: the bar.
            log: receives the epochs, and the settings that are tried.
            tried: whether each of these has a line too.
        """
        self._title = title
        self._reporter = reporter
        self._stage = stage
        self._log = log
        self._tried = tried
        self._by_instance = False

    def on_event(self, event: dict[str, Any]) -> None:
        """Shows one event."""
        name = event["event"]
        if name == "step":
            self._bar(event["step"], event["steps"], f"epoch {event['epoch']}")
        elif name in ("epoch", "validation"):
            self._reporter.say(f"{self._title}: {_epoch_line(event)}")
            self._log({"stage": "teacher", **event})
        elif name == "setting":
            if self._tried:
                self._reporter.say(f"{self._title}: {setting_line(event['setting'], event)}")
            self._log({"stage": "teacher", **event})
        # While instances are counted, the tokens in them are not.
        elif not self._by_instance:
            self._bar(event["done"], event["total"], f"encoding {_ENCODED.get(name, 'items')}")

    def count_instances(self) -> Callable[[int, int], None]:
        """From here on the bar counts instances; returns what takes how many of how many."""
        self._by_instance = True
        return lambda done, total: self._bar(done, total, "encoding instances")

    def _bar(self, done: int, total: int, what: str) -> None:
        self._stage.update(done, total, f"{self._title}: {what}")


def setting_line(setting: Mapping[str, object], metrics: Mapping[str, Any]) -> str:
    """A setting that a teacher tried or chose, and its validation NDCG@10."""
    settings = ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in setting.items()
    )
    return f"{settings}: validation NDCG@10 {metrics[SELECTION_METRIC]:.4f}"


def _epoch_line(event: dict[str, Any]) -> str:
    parts = [f"epoch {event['epoch']:3d}", f"loss {event['loss']:.4f}"]
    if SELECTION_METRIC in event:
        score = event[SELECTION_METRIC]
        parts.append(f"validation NDCG@10 {score:.4f} (best at {event['best_epoch']})")
    if "accuracy" in event:
        parts.append(f"accuracy {event['accuracy']:.4f}")
    parts.append(f"{event['seconds']:.1f} s")
    return "  ".join(parts)
