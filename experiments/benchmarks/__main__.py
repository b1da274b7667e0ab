"""python -m experiments.benchmarks --flagfile=scientific.cfg: what a step and a ranking cost."""

import dataclasses
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from bridge.runtime import settle
from experiments.benchmarks.config import BenchConfig
from experiments.cli.flags import Group, parse, run_command
from experiments.cli.settings import GROUPS, Settings, settings_from


@dataclasses.dataclass(frozen=True)
class _Call:
    settings: Settings
    configs: dict[type, Any]
    reporter: Any

    def config(self, kind: type) -> Any:
        return self.configs[kind]


def main(argv: Sequence[str]) -> None:
    """Parses the flags, settles the runtime, measures."""
    groups = (*GROUPS, Group("Benchmark", "", BenchConfig))
    configs = parse(argv, groups, "python -m experiments.benchmarks").configs
    settings = settings_from(configs[:-1])
    settle()
    # Only now may jax and torch be imported.
    steps = import_module("experiments.benchmarks.steps")
    by_class = {type(config): config for config in configs}
    steps.run(_Call(settings, by_class, steps.Reporter()))


if __name__ == "__main__":
    run_command(main)
