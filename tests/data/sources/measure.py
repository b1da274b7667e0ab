"""Measures `prepare` on a generated raw set: seconds, peak memory, equal bytes.

    python -m tests.data.sources.measure FOLDER REVIEWS ITEMS [pandas]

makes FOLDER/raw unless it is there, prepares it with one thread and with two, and with `pandas`
does the same once more in that library, which has to be installed. FOLDER/measured.json has the
figures.
"""

import json
import os
import sys
import time
from pathlib import Path

from prmkd_jax.common.files import file_digest, write_json
from tests.data.sources.make_raw import make

FILES = ("interactions.parquet", "items.parquet")


def measure(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Runs a command; its seconds on the clock and of processors, and its peak memory in GB."""
    started = time.perf_counter()
    child = os.posix_spawn(command[0], command, {**os.environ, **environment})
    _, status, used = os.wait4(child, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}: status {os.waitstatus_to_exitcode(status)}")
    return {
        "seconds": time.perf_counter() - started,
        "processor_seconds": used.ru_utime + used.ru_stime,
        "peak_gb": used.ru_maxrss * 1024 / 1e9,
    }


def main(folder: Path, reviews: int, items: int, with_pandas: bool) -> None:
    """Makes the set, measures, writes and prints the figures."""
    raw = folder / "raw"
    if not raw.is_dir():
        make(raw, reviews, items)
    figures: dict[str, object] = {"reviews": reviews, "items": items}
    digests = set()
    for threads in ("1", "2"):
        flags = ["--deduplicate=exact", "--user_core=5", "--item_core=5", "--need_title"]
        command = [
            sys.executable, "-m", "experiments", "prepare", "--source=amazon", "--name=d",
            "--overwrite", f"--raw_dir={raw}", f"--data_dir={folder / threads}", *flags,
        ]  # fmt: skip
        figures[f"threads_{threads}"] = measure(command, {"POLARS_MAX_THREADS": threads})
        digests.add(tuple(file_digest(folder / threads / "d" / name) for name in FILES))
    figures["same_bytes"] = len(digests) == 1
    if with_pandas:
        command = [sys.executable, "-m", "tests.data.sources.in_pandas", str(raw), str(folder)]
        figures["pandas"] = measure(command, {})
    write_json(folder / "measured.json", figures)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), "pandas" in sys.argv[4:])
