"""Kills commands again and again, and looks whether they end in the same bytes.

    python -m tests.reliability.kill --trials=300

Each stage of `kill_stages` is run twice without a kill. A trial begins in an empty folder, is sent
SIGKILL before a chosen operation on a file or after a random time, up to three times more while
going on, and is then given the same command once more. Its files must be the reference's, byte
for byte but for clocks, and nothing may be left over. The seed decides the trials; a trial's folder
stays where it failed. (`recommend` alone doesn't know its own finished output: given again after a
kill behind the last byte, it refuses to replace it.)

With --how=full the operation fails as on a full disk, instead of a signal, or (as root) the folder
is a disk of its own with a random part of the room that is needed: the command must end in one line
that names a file, with status 2, and go on when there is room.

With --how=interrupt it is Ctrl-C that is sent, after random times: the command must stop by itself
and soon, with status 130 and one line, and go on like one that was killed.

Times are the processor's. With --results=FILE every trial is added to it as a line of JSON, and
--sum=FILE,… prints what such files hold together.
"""

import argparse
import json
import random
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.reliability.kill_child import preload
from tests.reliability.kill_stages import STAGES
from tests.reliability.kill_trial import HOW, Outcome, make_reference, run_trial


def main(argv: list[str] | None = None) -> int:
    """Runs the trials; the exit status is 1 where one went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--how", choices=HOW, default="kill")
    parser.add_argument(
        "--folder",
        type=Path,
        default=None,
        help="runs without a stop stay there for the next call; by default a temporary one",
    )
    parser.add_argument("--results", type=Path, default=None, help="file of JSON lines")
    parser.add_argument("--sum", default="", help="only sum up these files")
    options = parser.parse_args(argv)
    if options.sum:
        return told(read_outcomes(options.sum.split(",")), options.how)
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="kill-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    stages = options.stages.split(",")
    wanted = {STAGES[name].after for name in stages} - {""} | set(stages)
    preload(folder / "programs", sorted({m for name in wanted for m in STAGES[name].modules}))
    outcomes = []
    for outcome in run_trials(stages, options.trials, options.seed, folder, options.how):
        outcomes.append(outcome)
        if options.results is not None:
            with options.results.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(outcome._asdict()) + "\n")
    return told(outcomes, options.how)


def read_outcomes(files: Sequence[str]) -> list[Outcome]:
    """What --results wrote."""
    lines = [line for file in files for line in Path(file).read_text("utf-8").splitlines()]
    return [Outcome(**json.loads(line)) for line in lines]


def told(outcomes: Sequence[Outcome], how: str) -> int:
    """Prints a line a stage and one for all; the exit status."""
    outcomes = [outcome for outcome in outcomes if outcome.how == how]
    wrong = [outcome for outcome in outcomes if outcome.wrong]
    for line in summary(outcomes):
        print(line)
    stops = sum(len(outcome.stops) for outcome in outcomes)
    print(f"{len(outcomes)} trials, {stops} × {how}, {len(wrong)} wrong")
    return 1 if wrong else 0


def run_trials(
    stages: list[str], trials: int, seed: int, folder: Path, how: str
) -> Iterator[Outcome]:
    """Runs the trials in turn over the stages, each told in a line.

    Args:
        stages: names in `STAGES`.
        trials: how many in all.
        seed: decides where the signals come.
        folder: the references and the failed trials stay there.
        how: one of `HOW`.
    """
    references = {}
    for stage in stages:
        references[stage], wrong = make_reference(stage, folder)
        if wrong:
            print(f"{stage}: two runs without a stop differ: {'; '.join(wrong)}", flush=True)
            yield Outcome(how, stage, (), wrong)
            del references[stage]
    draw = random.Random(seed)
    turns = [stage for stage in references for _ in range(STAGES[stage].weight)]
    for trial in range(trials if turns else 0):
        stage = turns[trial % len(turns)]
        # Always the same place: some files hold absolute paths.
        place = folder / "place"
        outcome = run_trial(stage, references[stage], place, folder, draw, how)
        if outcome.wrong:
            place.rename(folder / f"trial-{how}-{seed}-{trial}")
        found = "; ".join(outcome.wrong) or "the same bytes"
        print(f"{trial}: {stage}: {', '.join(outcome.stops)}: {found}", flush=True)
        yield outcome


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
