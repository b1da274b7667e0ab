"""Measures `prepare` on a generated raw set: seconds, peak memory, equal bytes.

    python -m tests.data.sources.measure FOLDER REVIEWS ITEMS [pandas]

makes FOLDER/raw unless it is there, and prepares it with one thread and with two; peak memory is
what was resident. With `pandas` the same is done once more in that library, which has to be
installed, in a process that may map `PANDAS_GIB`; running out of it is written down as such.
FOLDER/measured.json has the figures.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from prmkd_jax.common.digests import file_digest
from prmkd_jax.common.files import write_json
from tests.data.sources.make_raw import make

FILES = ("interactions.parquet", "items.parquet")
PANDAS_GIB = 10.0


def measure(
    command: list[str], environment: dict[str, str], gib: float | None = None
) -> dict[str, object]:
    """Runs a command; its seconds on the clock and of processors, and its peak memory in GB.

    Args:
        command: the program and its arguments.
        environment: what is set beside the own environment.
        gib: memory of its own (heap and private mappings, used or not) that it may have.
    """

    def limit() -> None:
        size = resource.RLIM_INFINITY if gib is None else int(gib * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))

    started = time.perf_counter()
    with subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit,
    ) as child:
        assert child.stderr is not None
        said = child.stderr.read()
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    figures: dict[str, object] = {
        "limit_gib": gib,
        "status": child.returncode,
        "seconds": time.perf_counter() - started,
        "processor_seconds": used.ru_utime + used.ru_stime,
        "peak_gb": used.ru_maxrss * 1024 / 1e9,
    }
    if child.returncode:
        figures["said"] = said.strip().splitlines()[-1:]
    return figures


def main(folder: Path, reviews: int, items: int, with_pandas: bool) -> None:
    """Makes the set, measures, writes and prints the figures."""
    raw = folder / "raw"
    if not raw.is_dir():
        make(raw, reviews, items)
    figures: dict[str, object] = {
        "reviews": reviews,
        "items": items,
        "raw_gb": sum(path.stat().st_size for path in raw.iterdir()) / 1e9,
    }
    digests = set()
    for threads in ("1", "2"):
        flags = ["--deduplicate=exact", "--user_core=5", "--item_core=5", "--need_title"]
        command = [
            sys.executable, "-m", "experiments", "prepare", "--source=amazon", "--name=d",
            "--overwrite", f"--raw_dir={raw}", f"--data_dir={folder / threads}", *flags,
        ]  # fmt: skip
        figures[f"threads_{threads}"] = measure(command, {"POLARS_MAX_THREADS": threads})
        made = [folder / threads / "d" / name for name in FILES]
        digests.add(tuple(file_digest(path) if path.is_file() else "" for path in made))
    figures["same_bytes"] = len(digests) == 1 and all(next(iter(digests)))
    if with_pandas:
        command = [sys.executable, "-m", "tests.data.sources.in_pandas", str(raw), str(folder)]
        figures["pandas"] = measure(command, {}, PANDAS_GIB)
    write_json(folder / "measured.json", figures)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), "pandas" in sys.argv[4:])
