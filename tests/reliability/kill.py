"""Kills commands again and again, and looks whether they end in the same bytes.

    python -m tests.reliability.kill --trials=300

Each stage (prepare, pretrain, train, study) is run once without a kill. A trial begins in an empty
folder, is sent SIGKILL before a chosen operation on a file or after a random time, a third of them
once more while going on, and is then given the same command until it ends. Its files must be the
reference's, byte for byte but for clocks, and nothing may be left over. The seed decides the
trials; a trial's folder stays where it failed. A trial takes about half a minute.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
SMALL = (
    "--synthetic_users=60", "--synthetic_items=40", "--max_seq_len=8", "--hidden_size=8",
    "--num_layers=1", "--inner_size=8", "--batch_size=64", "--max_epochs=4",
    "--teacher_hidden_size=8", "--teacher_max_epochs=2",
    "--teacher_batch_size=64", "--cache_dir=cache",
)  # fmt: skip
STAGES: dict[str, tuple[str, ...]] = {
    "prepare": (
        "prepare", "--interactions=log.csv", "--name=shop", "--data_dir=data",
        "--user_column=user", "--item_column=item", "--timestamp_column=time",
    ),
    "pretrain": (
        "pretrain", *SMALL, "--domains=synthetic-garden", "--teachers=unisrec",
        "--pretrain_epochs=3", "--output_dir=out",
    ),
    "train": ("train", *SMALL, "--teachers=unisrec", "--seeds=0,1", "--output_dir=out"),
    "study": (
        "study", "ablation", *SMALL, "--teachers=unisrec-text", "--seeds=0", "--output_dir=out",
    ),
}  # fmt: skip
# Files with clocks in them, locks, and XLA's programs.
_CLOCKS = {"log.jsonl", "timing.json", "report.html", "run.json", "card.json", "manifest.json"}
_LEFT_OVER = ("*.partial-*", "*orbax-checkpoint-tmp*", "*.parts", "shards", "*.before", "*.pt")
_SECONDS = {"seconds", "encode_seconds", "digest", "train_seconds", "evaluate_seconds", "mtime_ns"}


class Reference(NamedTuple):
    """A stage's run without a kill: its files, file operations and seconds."""

    files: dict[str, str]
    operations: int
    seconds: float


class Outcome(NamedTuple):
    """What a trial ended in; `wrong` is empty where all was right."""

    stage: str
    kills: tuple[str, ...]
    wrong: tuple[str, ...]


def main(argv: list[str] | None = None) -> int:
    """Runs the trials; the exit status is 1 where one went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--folder", type=Path, default=None, help="by default a temporary one")
    options = parser.parse_args(argv)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="kill-"))
    outcomes = run_trials(options.stages.split(","), options.trials, options.seed, folder)
    wrong = [outcome for outcome in outcomes if outcome.wrong]
    kills = sum(len(outcome.kills) for outcome in outcomes)
    print(f"{len(outcomes)} trials, {kills} kills, {len(wrong)} wrong; folder {folder}")
    return 1 if wrong else 0


def run_trials(stages: list[str], trials: int, seed: int, folder: Path) -> list[Outcome]:
    """Runs the trials in turn over the stages, each told in a line.

    Args:
        stages: names in `STAGES`.
        trials: how many in all.
        seed: decides where the kills are.
        folder: the references and the failed trials stay there.
    """
    references = {stage: make_reference(stage, folder) for stage in stages}
    draw = random.Random(seed)
    outcomes = []
    for trial in range(trials):
        stage = stages[trial % len(stages)]
        outcome = run_trial(stage, references[stage], folder / f"trial-{trial}", folder, draw)
        outcomes.append(outcome)
        found = "; ".join(outcome.wrong) or "the same bytes"
        print(f"{trial}: {stage}: {', '.join(outcome.kills)}: {found}", flush=True)
    return outcomes


def make_reference(stage: str, folder: Path) -> Reference:
    """A stage's run that nobody kills; the second of two, which finds its programs compiled."""
    compiled = folder / f"{stage}.count"
    for name in (stage,) if compiled.exists() else ("compiling", stage):
        place, count = folder / name, folder / f"{stage}.count"
        shutil.rmtree(place, ignore_errors=True)
        started = time.monotonic()
        done = _start(stage, place, folder, 0, count).wait()
        seconds = time.monotonic() - started
        if done != 0:
            raise SystemExit(f"{stage}: exit status {done}: {(place / 'said').read_text()[-2000:]}")
    return Reference(contents(place), int(count.read_text()), seconds)


def run_trial(
    stage: str, reference: Reference, place: Path, folder: Path, draw: random.Random
) -> Outcome:
    """Kills a stage once or twice, lets it end, and compares."""
    shutil.rmtree(place, ignore_errors=True)
    kills = []
    for _ in range(1 if draw.random() < 2 / 3 else 2):
        if draw.random() < 0.5:
            operation = draw.randint(1, reference.operations)
            _start(stage, place, folder, operation).wait()
            kills.append(f"operation {operation} of {reference.operations}")
        else:
            seconds = draw.uniform(0, reference.seconds)
            process = _start(stage, place, folder, 0)
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            kills.append(f"{seconds:.1f} s of {reference.seconds:.1f}")
    status = _start(stage, place, folder, 0).wait()
    wrong = [] if status == 0 else [f"exit status {status}"]
    wrong += differences(reference.files, contents(place)) + leftovers(place)
    if not wrong:
        shutil.rmtree(place)
    return Outcome(stage, tuple(kills), tuple(wrong))


def contents(place: Path) -> dict[str, str]:
    """Every file's digest, clocks taken out; of training states and locks there is none."""
    found = {}
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place)
        parts = set(name.parts)
        if path.is_file() and path.suffix != ".lock" and not parts & {"checkpoints", "jax", "said"}:
            if path.name in _CLOCKS or name.parts[-1].startswith("said"):
                found[str(name)] = "has a clock"
            elif path.suffix == ".json":
                # prepared.json names the raw files by their whole paths.
                text = path.read_text(encoding="utf-8").replace(str(place), "")
                content = _without_clock(json.loads(text))
                found[str(name)] = json.dumps(content, sort_keys=True)
            else:
                found[str(name)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """The files that are missing, surplus, or of another content."""
    return [
        f"{name}: {'missing' if name not in found else 'surplus or another'}"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]


def leftovers(place: Path) -> list[str]:
    """Files that only a command under way may have."""
    return [
        f"{path.relative_to(place)}: left over"
        for pattern in _LEFT_OVER
        for path in place.rglob(pattern)
    ]


def _without_clock(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_clock(x) for key, x in content.items() if key not in _SECONDS}
    if isinstance(content, list):
        return [_without_clock(x) for x in content]
    return content


def _start(
    stage: str, place: Path, folder: Path, kill_at: int, count: Path | None = None
) -> subprocess.Popen[bytes]:
    """Starts a stage in a folder of its own; what it says is added to the file `said`."""
    place.mkdir(parents=True, exist_ok=True)
    if stage == "prepare":
        rows = (f"u{i % 7},i{i % 5},{1500000000 + 977 * i}\n" for i in range(120))
        (place / "log.csv").write_text("user,item,time\n" + "".join(rows))
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "OMP_NUM_THREADS": "1",
    }
    if count is not None:
        environment["KILL_AT_COUNT"] = str(count)
    module = [sys.executable, "-m", "tests.reliability.kill_at", str(kill_at), str(place)]
    with (place / "said").open("ab") as said:
        return subprocess.Popen(
            [*module, *STAGES[stage]], cwd=place, env=environment, stdout=said, stderr=said
        )


if __name__ == "__main__":
    raise SystemExit(main())
