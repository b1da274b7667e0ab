"""Kills commands again and again, and looks whether they end in the same bytes.

    python -m tests.reliability.kill --trials=300

Each stage of `kill_stages` is run once without a kill. A trial begins in an empty folder, is sent
SIGKILL before a chosen operation on a file or after a random time, a third of them once more while
going on, and is then given the same command until it ends. Its files must be the reference's, byte
for byte but for clocks, and nothing may be left over. Then the command is given once more: it must
end well and change nothing. The seed decides the trials; a trial's folder stays where it failed.

With --signal=INT it is Ctrl-C that is sent, after random times: the command must stop by itself,
with status 130 and one line, and go on like one that was killed.
"""

import argparse
import random
import shutil
import signal
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tests.reliability.kill_child import Ended, Stop, preload, run_child
from tests.reliability.kill_compare import contents, differences, leftovers
from tests.reliability.kill_stages import STAGES

# Given again so often at most: a command that is never done would go on for ever.
_AGAIN = 3


class Reference(NamedTuple):
    """A stage's run without a kill: its files, file operations and seconds."""

    files: dict[str, str]
    operations: int
    seconds: float


class Outcome(NamedTuple):
    """What a trial ended in; `wrong` is empty where all was right."""

    stage: str
    stops: tuple[str, ...]
    wrong: tuple[str, ...]


def main(argv: list[str] | None = None) -> int:
    """Runs the trials; the exit status is 1 where one went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--signal", choices=("KILL", "INT"), default="KILL")
    parser.add_argument("--folder", type=Path, default=None, help="by default a temporary one")
    options = parser.parse_args(argv)
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="kill-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    stages = options.stages.split(",")
    wanted = {STAGES[name].after for name in stages} - {""} | set(stages)
    preload(folder / "programs", sorted({m for name in wanted for m in STAGES[name].modules}))
    kind = signal.Signals[f"SIG{options.signal}"]
    outcomes = run_trials(stages, options.trials, options.seed, folder, kind)
    wrong = [outcome for outcome in outcomes if outcome.wrong]
    for line in summary(outcomes):
        print(line)
    stops = sum(len(outcome.stops) for outcome in outcomes)
    print(f"{len(outcomes)} trials, {stops} × SIG{options.signal}, {len(wrong)} wrong; {folder}")
    return 1 if wrong else 0


def run_trials(
    stages: list[str], trials: int, seed: int, folder: Path, kind: signal.Signals
) -> list[Outcome]:
    """Runs the trials in turn over the stages, each told in a line.

    Args:
        stages: names in `STAGES`.
        trials: how many in all.
        seed: decides where the signals come.
        folder: the references and the failed trials stay there.
        kind: SIGKILL or SIGINT.
    """
    references = {stage: make_reference(stage, folder) for stage in stages}
    draw = random.Random(seed)
    outcomes = []
    for trial in range(trials):
        stage = stages[trial % len(stages)]
        place = folder / f"trial-{kind.name}-{trial}"
        outcome = run_trial(stage, references[stage], place, folder, draw, kind)
        outcomes.append(outcome)
        found = "; ".join(outcome.wrong) or "the same bytes"
        print(f"{trial}: {stage}: {', '.join(outcome.stops)}: {found}", flush=True)
    return outcomes


def make_reference(stage: str, folder: Path) -> Reference:
    """A stage's run that nobody stops; the second of two, which finds its programs compiled."""
    count = folder / f"{stage}.count"
    for name in (f"{stage}-compiling", stage):
        place = folder / name
        prepare_place(stage, place, folder)
        ended = run_child(STAGES[stage].argv, place, count=count)
        if ended.status != 0:
            said = (place / "said").read_text()[-2000:]
            raise SystemExit(f"{stage}: exit status {ended.status}: {said}")
    found = Reference(contents(place), int(count.read_text()), ended.seconds)
    print(f"{stage}: {found.operations} operations, {found.seconds:.1f} s", flush=True)
    wrong = differences(contents(folder / f"{stage}-compiling"), found.files) + leftovers(place)
    if wrong:
        raise SystemExit(f"{stage}: two runs without a stop differ: {'; '.join(wrong)}")
    return found


def prepare_place(stage: str, place: Path, folder: Path) -> None:
    """An empty folder with what the stage reads."""
    shutil.rmtree(place, ignore_errors=True)
    after = STAGES[stage].after
    if after:
        if not (folder / after).is_dir():
            make_reference(after, folder)
        shutil.copytree(folder / after, place)
        (place / "said").unlink()
    place.mkdir(parents=True, exist_ok=True)
    STAGES[stage].world(place)


def run_trial(
    stage: str,
    reference: Reference,
    place: Path,
    folder: Path,
    draw: random.Random,
    kind: signal.Signals,
) -> Outcome:
    """Stops a stage once or twice, lets it end, and compares."""
    prepare_place(stage, place, folder)
    argv, stops, wrong = STAGES[stage].argv, [], []
    for _ in range(1 if draw.random() < 2 / 3 else 2):
        if kind == signal.SIGKILL and draw.random() < 0.5:
            stop = Stop(operation=draw.randint(1, reference.operations), signal=kind)
            said = f"operation {stop.operation} of {reference.operations}"
        else:
            stop = Stop(seconds=draw.uniform(0.01, reference.seconds), signal=kind)
            said = f"{stop.seconds:.2f} s of {reference.seconds:.2f}"
        ended = run_child(argv, place, stop)
        stops += [said] * ended.stopped
        wrong += _wrong_stop(ended, stop)
    ended = run_child(argv, place)
    if ended.status != 0:
        wrong.append(f"exit status {ended.status}")
    wrong += differences(reference.files, contents(place)) + leftovers(place)
    wrong += _traceback(place)
    if not wrong:
        shutil.rmtree(place)
    return Outcome(stage, tuple(stops), tuple(wrong))


def _wrong_stop(ended: Ended, stop: Stop) -> list[str]:
    """A command that is stopped ends by the signal; Ctrl-C ends it with 130."""
    expected = {0, -stop.signal} if stop.signal == signal.SIGKILL else {0, 130}
    return [] if ended.status in expected else [f"stopped with exit status {ended.status}"]


def _traceback(place: Path) -> list[str]:
    return ["a traceback"] * ("Traceback" in (place / "said").read_text(errors="replace"))


def summary(outcomes: list[Outcome]) -> list[str]:
    """One line a stage."""
    trials, stops, wrong = Counter(), Counter(), Counter()
    for outcome in outcomes:
        trials[outcome.stage] += 1
        stops[outcome.stage] += len(outcome.stops)
        wrong[outcome.stage] += bool(outcome.wrong)
    return [f"{name}: {trials[name]} trials, {stops[name]} stops, {wrong[name]} wrong"
            for name in trials]  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
