"""Two commands at the same time, again and again: nobody dies, and the work is done once.

    python -m tests.reliability.pairs --pairs=20

Of two commands with one cache and an output folder each, both must end well, and in the bytes of
one that was alone. Of two with one output folder, the second is refused in one line while the
first writes there, and the folder must hold what the first alone would have left. The second one
starts after a random part of the first one's time.
"""

import argparse
import os
import random
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from tests.reliability.kill_child import preload, start_child
from tests.reliability.kill_compare import contents, differences, leftovers
from tests.reliability.kill_stages import STAGES
from tests.reliability.kill_trial import make_reference, prepare_place

_ONE_CACHE, _ONE_FOLDER = (
    ("texts", "images", "recformer"),
    ("train", "study", "pretrain"),
)
_REFUSED = (
    "found another command that writes there",
    "found it changed by another command",  # which ended meanwhile
)


def main(argv: list[str] | None = None) -> int:
    """Runs the pairs; the exit status is 1 where one went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=20, help="of each of the two kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None, help="by default a temporary one")
    options = parser.parse_args(argv)
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="pairs-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    stages = (*_ONE_CACHE, *_ONE_FOLDER)
    preload(folder / "programs", sorted({m for name in stages for m in STAGES[name].modules}))
    references = {stage: make_reference(stage, folder)[0] for stage in stages}
    draw, failed, refused = random.Random(options.seed), 0, 0
    for kind, names in (("one cache", _ONE_CACHE), ("one folder", _ONE_FOLDER)):
        for pair in range(options.pairs):
            stage = names[pair % len(names)]
            reference = references[stage]
            prepare_place(stage, folder / "place", folder)
            pause = draw.uniform(0, reference.seconds)
            outputs = ("out/run", "second/run") if kind == "one cache" else ("out/run", "out/run")
            ends = run_pair(stage, folder / "place", outputs, pause)
            wrong = found_wrong(folder / "place", outputs, ends, reference.files)
            refused += sum(status == 2 for status, _ in ends)
            failed += bool(wrong)
            said = "; ".join(wrong) or "right"
            print(f"{kind}: {stage}, {pause:.1f} s: {[status for status, _ in ends]}: {said}")
            if wrong:
                shutil.rmtree(folder / f"{kind}-{pair}", ignore_errors=True)
                (folder / "place").rename(folder / f"{kind}-{pair}")
    print(f"{2 * options.pairs} pairs, {refused} refused, {failed} wrong; {folder}")
    return bool(failed)


def run_pair(
    stage: str, place: Path, outputs: tuple[str, str], pause: float
) -> list[tuple[int, str]]:
    """Runs a stage's command twice at a time; each one's exit status and what it said."""
    children, said = [], [place.with_name(f"said-{number}") for number in range(len(outputs))]
    for number, output in enumerate(outputs):
        argv = [part.replace("out/run", output) for part in STAGES[stage].argv]
        children.append(start_child(tuple(argv), place, said=said[number]))
        time.sleep(0 if number else pause)
    ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    texts = [path.read_text(errors="replace") for path in said]
    for path in said:
        path.unlink()
    return list(zip(ends, texts, strict=True))


def found_wrong(
    place: Path, outputs: tuple[str, str], ends: list[tuple[int, str]], expected: dict[str, str]
) -> list[str]:
    """What isn't as it should be after a pair."""
    wrong = ["a traceback" for _, said in ends if "Traceback" in said]
    allowed = {0} if outputs[0] != outputs[1] else {0, 2}
    for status, said in ends:
        last = said.splitlines()[-1] if said else ""
        refused = (
            status == 2 and last.startswith("error: ") and any(line in last for line in _REFUSED)
        )
        if status not in allowed or (status == 2 and not refused):
            wrong.append(f"exit status {status}: {last}")
    if all(status for status, _ in ends):
        wrong.append("both were refused")
    found = contents(place)
    second = {name: found.pop(name) for name in list(found) if name.startswith("second/")}
    if second:
        # Only one of them tunes, and has the log of it.
        expected, found = _without_logs(expected), _without_logs(found)
        renamed = {f"out/{name.removeprefix('second/')}": text for name, text in second.items()}
        first = {name: text for name, text in expected.items() if name.startswith("out/")}
        wrong += differences(first, _without_logs(renamed))
    return wrong + differences(expected, found) + leftovers(place)


def _without_logs(files: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in files.items() if not name.endswith("/log.jsonl")}


if __name__ == "__main__":
    raise SystemExit(main())
