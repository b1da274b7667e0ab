"""Kills commands again and again, and looks whether they end in the same bytes.

    python -m tests.reliability.kill --trials=300

Each stage of `kill_stages` is run twice without a kill. A trial begins in an empty folder, is sent
SIGKILL before a chosen operation on a file or after a random time, up to three times more while
going on, and is then given the same command once more. Its files must be the reference's, byte
for byte but for clocks, and nothing may be left over. The seed decides the trials; a trial's folder
stays where it failed. (`recommend` alone doesn't know its own finished output: given again after a
kill behind the last byte, it refuses to replace it.)

With --how=full the operation fails as on a full disk, instead of a signal: the command must end in
one line that names a file, with status 2, and go on when there is room.

With --how=interrupt it is Ctrl-C that is sent, after random times: the command must stop by itself,
with status 130 and one line, and go on like one that was killed.
"""

import argparse
import random
import re
import shutil
import signal
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tests.reliability.kill_child import Ended, Stop, in_child, preload, run_child
from tests.reliability.kill_compare import contents, differences, leftovers
from tests.reliability.kill_stages import STAGES

HOW = {"kill": signal.SIGKILL, "interrupt": signal.SIGINT, "full": signal.SIGKILL}
"""How a command is stopped; a full disk sends no signal."""
_MOST_STOPS = 4


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
    parser.add_argument("--how", choices=HOW, default="kill")
    parser.add_argument("--folder", type=Path, default=None, help="by default a temporary one")
    options = parser.parse_args(argv)
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="kill-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    stages = options.stages.split(",")
    wanted = {STAGES[name].after for name in stages} - {""} | set(stages)
    preload(folder / "programs", sorted({m for name in wanted for m in STAGES[name].modules}))
    outcomes = run_trials(stages, options.trials, options.seed, folder, options.how)
    wrong = [outcome for outcome in outcomes if outcome.wrong]
    for line in summary(outcomes):
        print(line)
    stops = sum(len(outcome.stops) for outcome in outcomes)
    print(f"{len(outcomes)} trials, {stops} × {options.how}, {len(wrong)} wrong; {folder}")
    return 1 if wrong else 0


def run_trials(stages: list[str], trials: int, seed: int, folder: Path, how: str) -> list[Outcome]:
    """Runs the trials in turn over the stages, each told in a line.

    Args:
        stages: names in `STAGES`.
        trials: how many in all.
        seed: decides where the signals come.
        folder: the references and the failed trials stay there.
        how: one of `HOW`.
    """
    references = {stage: make_reference(stage, folder) for stage in stages}
    draw = random.Random(seed)
    outcomes = []
    turns = [stage for stage in stages for _ in range(STAGES[stage].weight)]
    for trial in range(trials):
        stage = turns[trial % len(turns)]
        # Always the same place: some files hold absolute paths.
        place = folder / "place"
        outcome = run_trial(stage, references[stage], place, folder, draw, how)
        outcomes.append(outcome)
        if outcome.wrong:
            place.rename(folder / f"trial-{how}-{trial}")
        found = "; ".join(outcome.wrong) or "the same bytes"
        print(f"{trial}: {stage}: {', '.join(outcome.stops)}: {found}", flush=True)
    return outcomes


def make_reference(stage: str, folder: Path) -> Reference:
    """A stage's run that nobody stops; the second of two, which finds its programs compiled."""
    count = folder / f"{stage}.count"
    seen, place = [], folder / "place"
    for _ in range(2):
        prepare_place(stage, place, folder)
        ended = run_child(STAGES[stage].argv, place, count=count)
        if ended.status != 0:
            said = (place / "said").read_text()[-2000:]
            raise SystemExit(f"{stage}: exit status {ended.status}: {said}")
        seen.append(contents(place))
    found = Reference(seen[1], int(count.read_text()), ended.seconds)
    print(f"{stage}: {found.operations} operations, {found.seconds:.1f} s", flush=True)
    wrong = differences(*seen) + leftovers(place)
    shutil.rmtree(folder / stage, ignore_errors=True)
    place.rename(folder / stage)
    if wrong:
        raise SystemExit(f"{stage}: two runs without a stop differ: {'; '.join(wrong)}")
    return found


def prepare_place(stage: str, place: Path, folder: Path) -> None:
    """A folder with what the stage reads, made once and then copied."""
    world = folder / f"{stage}-world"
    if not world.is_dir():
        after = STAGES[stage].after
        if after:
            if not (folder / after).is_dir():
                make_reference(after, folder)
            shutil.copytree(folder / after, world)
        world.mkdir(parents=True, exist_ok=True)
        # In a child: what is computed here would start threads, which no fork survives.
        in_child(STAGES[stage].world, world)
        (world / "said").unlink(missing_ok=True)
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(world, place)
    (place / "said").touch()  # a kill may come before the command says anything


def run_trial(
    stage: str,
    reference: Reference,
    place: Path,
    folder: Path,
    draw: random.Random,
    how: str,
) -> Outcome:
    """Stops a stage some times, lets it end, and compares."""
    prepare_place(stage, place, folder)
    argv, stops, wrong = STAGES[stage].argv, [], []
    for _ in range(draw.randint(1, _MOST_STOPS)):
        operation = draw.randint(1, reference.operations)
        if how == "full":
            stop = Stop(operation=operation, full=True)
            said = f"operation {stop.operation} of {reference.operations}"
        elif how == "kill" and draw.random() < 0.5:
            stop = Stop(operation=operation)
            said = f"operation {stop.operation} of {reference.operations}"
        else:
            stop = Stop(seconds=draw.uniform(0.01, reference.seconds), signal=HOW[how])
            said = f"{stop.seconds:.2f} s of {reference.seconds:.2f}"
        ended = run_child(argv, place, stop)
        stops += [said] * ended.stopped
        if not _is_done(stage, ended, place):
            wrong += _wrong_stop(ended, stop, place)
    ended = run_child(argv, place)
    if ended.status != 0 and not _is_done(stage, ended, place):
        wrong.append(f"exit status {ended.status}")
    wrong += differences(reference.files, contents(place)) + leftovers(place)
    wrong += _traceback(place)
    return Outcome(stage, tuple(stops), tuple(wrong))


def _is_done(stage: str, ended: Ended, place: Path) -> bool:
    """Whether a command was given again after its very end, and said so."""
    said = (place / "said").read_text(errors="replace").rstrip()
    refused = said.endswith("--output: found answers.jsonl, expected no such file, or --overwrite")
    return stage == "recommend" and ended.status == 2 and refused


def _wrong_stop(ended: Ended, stop: Stop, place: Path) -> list[str]:
    """A kill ends a command by its signal; Ctrl-C with 130; a full disk with 2 and one line."""
    expected = {0, 2} if stop.full else {0, -stop.signal}
    if stop.signal == signal.SIGINT:
        expected.add(130)  # as a shell calls -SIGINT too, of a process that has just begun
    wrong = [] if ended.status in expected else [f"stopped with exit status {ended.status}"]
    if stop.full and ended.status == 2:
        last = (place / "said").read_text(errors="replace").splitlines()[-1]
        if not re.fullmatch(r"error: .*/.*No space left on device.*", last):
            wrong.append(f"said {last!r}")
    return wrong


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
