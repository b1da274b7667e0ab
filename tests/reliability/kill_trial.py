"""One trial of the kill test: a stage's command is stopped some times, let end, and compared."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
from pathlib import Path
from typing import NamedTuple

from tests.reliability.kill_child import Ended, Stop, in_child, run_child, said_of
from tests.reliability.kill_compare import contents, differences, leftovers
from tests.reliability.kill_full import on_own_disk, resize, used
from tests.reliability.kill_stages import STAGES

HOW = {"kill": signal.SIGKILL, "interrupt": signal.SIGINT, "full": signal.SIGKILL}
"""How a command is stopped; a full disk sends no signal."""
_MOST_STOPS = 4
# Seconds of the processor in which Ctrl-C stops a command, and in which one may just be ending.
_SOON, _ENDING = 2.0, 0.3


class Reference(NamedTuple):
    """A stage's run without a kill: its files, file operations, seconds and bytes added."""

    files: dict[str, str]
    operations: int
    seconds: float
    size: int


class Outcome(NamedTuple):
    """What a trial ended in; `wrong` is empty where all was right."""

    how: str
    stage: str
    stops: tuple[str, ...]
    wrong: tuple[str, ...]


def make_reference(stage: str, folder: Path) -> tuple[Reference, tuple[str, ...]]:
    """A stage's run that nobody stops; the second of two, which finds its programs compiled.

    Where the folder has one already, that is it.

    Returns:
        The reference, and what differs between the two runs.

    Raises:
        SystemExit: the command fails.
    """
    kept = folder / f"{stage}.reference.json"
    if kept.is_file():
        return Reference(**json.loads(kept.read_text())), ()
    count = folder / f"{stage}.count"
    seen, place = [], folder / "place"
    for _ in range(2):
        prepare_place(stage, place, folder)
        ended = run_child(STAGES[stage].argv, place, count=count)
        if ended.status != 0:
            said = said_of(place).read_text()[-2000:]
            raise SystemExit(f"{stage}: exit status {ended.status}: {said}")
        seen.append(contents(place))
    size = used(place) - used(folder / f"{stage}-world")
    found = Reference(seen[1], int(count.read_text()), ended.seconds, size)
    print(f"{stage}: {found.operations} operations, {found.seconds:.1f} s", flush=True)
    wrong = differences(*seen) + leftovers(place)
    shutil.rmtree(folder / stage, ignore_errors=True)
    place.rename(folder / stage)
    if not wrong:
        kept.write_text(json.dumps(found._asdict()))
    return found, tuple(wrong)


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
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(world, place)
    said_of(place).write_text("")  # a kill may come before the command says anything


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
    small = how == "full" and os.geteuid() == 0 and draw.random() < 0.5
    with on_own_disk(place) if small else contextlib.nullcontext():
        stops, wrong = _stopped(stage, reference, place, draw, how, small)
    wrong += differences(reference.files, contents(place)) + leftovers(place)
    wrong += _traceback(place)
    return Outcome(how, stage, tuple(stops), tuple(wrong))


def _stopped(
    stage: str, reference: Reference, place: Path, draw: random.Random, how: str, small: bool
) -> tuple[list[str], list[str]]:
    """Stops a command some times, then lets it end; returns where it was stopped, and what was
    wrong.
    """
    argv, stops, wrong = STAGES[stage].argv, [], []
    for _ in range(draw.randint(1, _MOST_STOPS)):
        operation = draw.randint(1, reference.operations)
        if small:
            stop = Stop(full=True)
            free = draw.randint(0, reference.size)
            resize(place, free)
            said = f"{free >> 10} of {reference.size >> 10} KiB"
        elif how == "full":
            stop = Stop(operation=operation, full=True)
            said = f"operation {stop.operation} of {reference.operations}"
        elif how == "kill" and draw.random() < 0.5:
            stop = Stop(operation=operation)
            said = f"operation {stop.operation} of {reference.operations}"
        else:
            stop = Stop(seconds=draw.uniform(0.01, reference.seconds), signal=HOW[how])
            said = f"{stop.seconds:.2f} s of {reference.seconds:.2f}"
        ended = run_child(argv, place, stop)
        stops += [said] * (ended.status == 2 if small else ended.stopped)
        if not _is_done(stage, ended, place):
            wrong += [f"{said}: {each}" for each in _wrong_stop(ended, stop, place)]
    if small:
        resize(place, 2**30)
    ended = run_child(argv, place)
    if ended.status != 0 and not _is_done(stage, ended, place):
        wrong.append(f"exit status {ended.status}")
    return stops, wrong


def _is_done(stage: str, ended: Ended, place: Path) -> bool:
    """Whether a command was given again after its very end, and said so."""
    said = said_of(place).read_text(errors="replace").rstrip()
    refused = said.endswith("--output: found answers.jsonl, expected no such file, or --overwrite")
    return stage == "recommend" and ended.status == 2 and refused


def _wrong_stop(ended: Ended, stop: Stop, place: Path) -> list[str]:
    """A kill ends a command by its signal; Ctrl-C with 130; a full disk with 2 and one line."""
    expected = {0, 2} if stop.full else {0, -stop.signal}
    if stop.signal == signal.SIGINT:
        expected.add(130)  # as a shell calls -SIGINT too, of a process that has just begun
        if ended.after > (_SOON if ended.status else _ENDING):
            return [f"went on for {ended.after:.1f} s after Ctrl-C"]
    wrong = [] if ended.status in expected else [f"stopped with exit status {ended.status}"]
    if stop.full and ended.status == 2:
        last = said_of(place).read_text(errors="replace").splitlines()[-1]
        if not re.fullmatch(r"error: .*No space left on device: '.+' \(make room; .*\)", last):
            wrong.append(f"said {last!r}")
    return wrong


def _traceback(place: Path) -> list[str]:
    return ["a traceback"] * ("Traceback" in said_of(place).read_text(errors="replace"))
