"""How the benchmark is run; no jax, so that the command line can read it."""

import dataclasses

from prmkd_jax.common.options import option, validate


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    """How often to measure, where to write."""

    repeats: int = option(40, "Steps timed, after the first, which compiles.", low=5)
    bench_file: str = option("runs/bench.json", "Result file.")

    def __post_init__(self):
        validate(self)
