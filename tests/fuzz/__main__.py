"""python -m tests.fuzz [--target=NAME] [--seconds=60] [--engine=atheris|random] [--found=FOLDER]

Feeds readers with damaged files until the time is over. What a reader should not have raised ends
the run with status 1; the file that did it is kept in --found. Atheris, which is led by the code
that a file reaches, comes from requirements-fuzz.txt; `random` needs nothing.
"""

import argparse
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.reliability.damage import damaged


def main() -> int:
    """Runs one target, or all, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="all")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each target")
    parser.add_argument("--engine", choices=("random", "atheris"), default="random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--found", type=Path, default=Path("fuzz-found"))
    asked = parser.parse_args()
    if asked.engine == "atheris":
        return _with_atheris(asked)
    from tests.fuzz.targets import targets

    names = list(targets()) if asked.target == "all" else [asked.target]
    return max(_at_random(name, asked) for name in names)


def _at_random(name: str, asked: argparse.Namespace) -> int:
    from tests.fuzz.targets import run, targets

    target, chance = targets()[name], random.Random(f"{name} {asked.seed}")
    ends, tried, accepted = time.monotonic() + asked.seconds, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < ends:
            content = damaged(chance.choice(target.sound), chance)
            tried += 1
            try:
                accepted += run(target, Path(folder), content)
            except Exception:
                _keep(asked.found, name, content)
                traceback.print_exc()
                return 1
    print(f"{name}: {tried:,} files, {accepted:,} accepted, {tried - accepted:,} refused")
    return 0


def _with_atheris(asked: argparse.Namespace) -> int:
    import atheris

    with atheris.instrument_imports(include=["prmkd_jax", "teachers_torch", "experiments.cli"]):
        from tests.fuzz.targets import run, targets
    target = targets()[asked.target]
    folder = Path(tempfile.mkdtemp())
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, content in enumerate(target.sound):
        (corpus / str(number)).write_bytes(content)

    def one(content: bytes) -> None:
        try:
            run(target, folder, content)
        except Exception:
            _keep(asked.found, asked.target, content)
            raise

    limits = [f"-max_total_time={asked.seconds:.0f}", "-rss_limit_mb=4096", "-timeout=20"]
    atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={folder}/", str(corpus)], one)
    atheris.Fuzz()  # ends the process
    return 0


def _keep(found: Path, name: str, content: bytes) -> None:
    found.mkdir(parents=True, exist_ok=True)
    path = found / f"{name}-{hash(content) & 0xFFFFFFFF:08x}"
    path.write_bytes(content)
    print(f"kept in {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
