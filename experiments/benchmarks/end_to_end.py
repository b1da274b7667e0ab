"""What a user waits for: `bench --suite=end_to_end`: a run from nothing, then from the cache.

Each is a process of its own with an empty folder for results; the first has an empty cache too.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.benchmarks.timing import BenchRow, once
from experiments.stages.seconds import read_seconds
from prmkd_jax.common.errors import UserError


def measure(flagfile: str, say: Callable[[str], None]) -> list[BenchRow]:
    """Seconds of `train` and of its stages.

    Args:
        flagfile: the content of one with all flags of the run.
        say: takes a line.

    Raises:
        UserError: the run fails.
    """
    rows = []
    with tempfile.TemporaryDirectory(prefix="prmkd-bench-") as name:
        flags, cache = Path(name) / "run.cfg", Path(name) / "cache"
        flags.write_text(flagfile, encoding="utf-8")
        for place in ("from nothing", "from the cache"):
            output = Path(name) / place.replace(" ", "-")
            places = f"--output_dir={output}", f"--cache_dir={cache}"
            seconds = _run([f"--flagfile={flags}", *places])
            rows.append(once(f"{place}: in all", seconds, "s"))
            for stage, taken in stages(output).items():
                rows.append(once(f"{place}: {stage}", taken, "s"))
            say(f"{place}: {seconds:.0f} s")
    return rows


def stages(output: Path) -> dict[str, float]:
    """Seconds of the teachers and of the students, from the trainings' `timing.json` files.

    Args:
        output: folder of a run of `train`.
    """
    found: dict[str, float] = {}
    for path in sorted(output.rglob("timing.json")):
        timing = read_seconds(path.parent)
        if "seeds" not in timing:
            continue  # of all trainings together, next to their results
        for teacher, made in timing.get("teachers", {}).items():
            # Of each run the same: the teachers are made once.
            found[f"teacher {teacher}, tuned"] = made["tune_seconds"]
            if "test_seconds" in made:  # earlier versions counted them as tuning
                found[f"teacher {teacher}, tested"] = made["test_seconds"]
            found[f"teacher {teacher}, encoded"] = made["encode_seconds"]
        for part in ("train", "evaluate"):
            taken = sum(each[part] for epochs in timing["seeds"].values() for each in epochs)
            found[f"{path.parent.name}, {part}"] = taken
    return found


def _run(words: Sequence[str]) -> float:
    command = [sys.executable, "-m", "experiments.main", *words]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise UserError(f"{' '.join(command)}: status {done.returncode}: {last}")
    return time.perf_counter() - started
