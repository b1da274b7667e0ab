"""Our students beside other libraries', in one run: `bench --suite=peers`.

Each is a process of its own, with the same data, sizes, batch, loss and threads; ours and a peer
take turns. A peer that can't be measured is a row that says why.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.benchmarks.peers.contenders import CONTENDERS, HERE, Contender
from experiments.benchmarks.peers.environments import UnmadeError, environment, own_environment
from experiments.benchmarks.peers.packed_prmkd import refusal
from experiments.benchmarks.peers.plain_files import told, write_interactions
from experiments.benchmarks.peers.teachers import write_vectors
from experiments.benchmarks.timing import BenchRow, once, seconds_of
from experiments.cli.command import Call
from experiments.cli.flags import as_flagfile
from experiments.cli.options import BenchConfig
from experiments.cli.settings import GROUPS
from experiments.stages.data import load_task
from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import first_line

TEACHERS, WIDTH = 3, 64
EPOCHS = 10
"""Epochs of a process at most, however quick they are."""
_PACKAGE = "experiments.benchmarks.peers"
# Beyond the seconds that are asked for: imports, compilations, a batch that takes long.
_GRACE = 600
_WAITS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")

Measured = dict[str, Any]
Runs = list[tuple[Measured, Measured]]
"""A round each: what our process printed, and what the peer's did."""


class Bench(NamedTuple):
    """What all processes of the suite share.

    Attributes:
        folder: the folder of the data and the settings.
        told: the settings that every driver receives.
        flags: flagfile of our settings.
        cache: holds the environments.
        theirs: environment variables of the peers.
        config: seconds, rounds, target.
        say: takes a line.
    """

    folder: Path
    told: Mapping[str, Any]
    flags: Path
    cache: Cache
    theirs: dict[str, str]
    config: BenchConfig
    say: Callable[[str], None]


def measure(call: Call) -> tuple[list[BenchRow], dict[str, object]]:
    """The rows of all peers that `--peers` names, and what their processes printed.

    Raises:
        UserError: the data set isn't there, or its split isn't leave-one-out.
    """
    config, settings = call.config(BenchConfig), call.settings
    task = load_task(settings)
    rows, raw = [], {}
    with tempfile.TemporaryDirectory(prefix="prmkd-bench-") as name:
        folder = Path(name)
        write_interactions(folder, task)
        write_vectors(folder / "teachers", task, TEACHERS, WIDTH)
        flags = folder / "ours.cfg"
        flags.write_text(as_flagfile(GROUPS, call.configs), encoding="utf-8")
        bench = Bench(
            folder,
            {
                **told(task, settings, folder),
                "seconds": config.peer_seconds,
                "epochs": EPOCHS,
                "target": config.peer_target,
            },
            flags,
            Cache(Path(settings.run.cache_dir).absolute()),
            theirs(dict(os.environ), call.runtime),
            config,
            call.reporter.say,
        )
        for each in config.peers:
            contender = CONTENDERS[each]
            runs, why = _runs(bench, contender, refusal(settings.distill))
            raw[each] = {"refused": why, "runs": runs}
            target = config.peer_target
            found = rows_of(contender.label, runs, target) if runs else [refused(contender, why)]
            rows += found
            call.reporter.say(f"{contender.label}: {_summary(found)}")
    return rows, raw


def _runs(bench: Bench, contender: Contender, unknown: str) -> tuple[Runs, str]:
    """The rounds of a peer, and why there are none.

    Args:
        bench: the settings that all runs share.
        contender: the peer.
        unknown: why the PyTorch step doesn't know the distillation; "" where it does.
    """
    if contender.taught and unknown:
        return [], unknown
    try:
        return alternate(bench, contender), ""
    except UnmadeError as error:
        return [], str(error)


def theirs(variables: dict[str, str], runtime: Sequence[str]) -> dict[str, str]:
    """The variables of the peers' processes: the user's, and our number of threads.

    That threads soon sleep while they wait is our choice for busy machines. Theirs is to spin on.
    """
    kept = own_environment(variables)
    for name in _WAITS:
        if f"{name}={kept.get(name)}" in runtime:
            del kept[name]
    return kept


def alternate(bench: Bench, contender: Contender) -> Runs:
    """Ours, the peer, ours, the peer, …

    Raises:
        UnmadeError: the peer's environment can't be made, or a process fails.
    """
    python, script = Path(sys.executable), ["-m", f"{_PACKAGE}.{contender.driver}"]
    variables, place = dict(bench.theirs), None
    if contender.requirements:
        # Other libraries leave logs and states where they run; flags name paths seen from here.
        place = bench.folder
        python = environment(bench.cache, HERE / contender.requirements, bench.say)
        script = [str(HERE / f"{contender.driver}.py")]
    else:
        # Ours must find this package wherever the command was started.
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    own = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    runs = []
    for _ in range(bench.config.peer_rounds):
        ours = _process(bench, [sys.executable, "-m", f"{_PACKAGE}.ours"], own, contender, None)
        runs.append((ours, _process(bench, [str(python), *script], variables, contender, place)))
    return runs


def _process(
    bench: Bench,
    command: Sequence[str],
    variables: dict[str, str],
    contender: Contender,
    place: Path | None,
) -> Measured:
    """Runs a driver and reads its last line.

    Args:
        bench: the settings that all runs share.
        command: the driver.
        variables: the variables of the process's environment.
        contender: whom the settings are for.
        place: the folder that it runs in; None for this process's.

    Raises:
        UnmadeError: it can't be started, fails, or says no figures.
    """
    settings = {
        **bench.told,
        "model": contender.model,
        "flags": [f"--flagfile={bench.flags}", *contender.ours],
        "teachers": str(bench.folder / "teachers") if contender.taught else "",
    }
    path = bench.folder / "settings.json"
    path.write_text(json.dumps(settings), encoding="utf-8")
    # Trained to a target, nobody knows how long it takes.
    limit = None if bench.config.peer_target else 4 * bench.config.peer_seconds + _GRACE
    try:
        done = subprocess.run(
            [*command, str(path)],
            capture_output=True,
            text=True,
            check=False,
            env=variables,
            errors="replace",
            cwd=place,
            timeout=limit,
        )
    except subprocess.TimeoutExpired as error:
        raise UnmadeError(f"it had not finished after {error.timeout:.0f} s") from error
    except OSError as error:
        raise UnmadeError(f"it can't be started: {first_line(error)}") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        raise UnmadeError(f"status {done.returncode}: {lines[-1].strip()}")
    last = (done.stdout.strip().splitlines() or ["nothing"])[-1]
    try:
        found = json.loads(last)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UnmadeError(f"its last line has no figures: {last[:200]}")
    return found


def refused(contender: Contender, why: str) -> BenchRow:
    """A row without a figure, which says why."""
    text = " ".join(why.replace("|", "/").split())
    return BenchRow(f"{contender.label}: not measured: {text}", 0.0, "", 0.0, 0.0, 0, {})


def rows_of(label: str, runs: Runs, target: float) -> list[BenchRow]:
    """A peer's rows, ours beside it, and the ratios, which are medians of the rounds."""
    if target:
        return _trained_rows(label, runs, target)
    rows = []
    for what, name, share in (
        ("an epoch", "epochs", "epoch_share"),
        ("ranking of all users", "rankings", "ranking_share"),
    ):
        for who, side in ((label, 1), (f"ours, beside {label}", 0)):
            seconds = [each for run in runs for each in run[side][name]]
            of = {"% of it timed": _percent(min(run[side][share] for run in runs))}
            if name == "epochs":
                of["steps"] = max(run[side]["steps"] for run in runs)
            rows.append(seconds_of(f"{who}: {what}", seconds, **of))
        ratios = [statistics.median(b[name]) / statistics.median(a[name]) for a, b in runs]
        rows.append(_ratio(f"{label} / ours: {what}", ratios))
    return rows + _memory(label, runs)


def _trained_rows(label: str, runs: Runs, target: float) -> list[BenchRow]:
    rows = []
    for who, side in ((label, 1), (f"ours, beside {label}", 0)):
        reached = [run[side]["to_target"] for run in runs]
        name = f"{who}: to validation NDCG@10 of {target:g}"
        if None in reached:
            rows.append(BenchRow(f"{name}: never reached", 0.0, "", 0.0, 0.0, 0, {}))
        else:
            rows.append(seconds_of(name, reached))
        rows.append(seconds_of(f"{who}: until it stops", [run[side]["trained"] for run in runs]))
        for metric in runs[0][side]["test"]:
            values = [run[side]["test"][metric] for run in runs]
            rows.append(_ratio(f"{who}: test {metric}", values))
    return rows + _memory(label, runs)


def _memory(label: str, runs: Runs) -> list[BenchRow]:
    return [
        once(f"{who}: most memory held", max(run[side]["memory"] for run in runs) / 2**30, "GiB")
        for who, side in ((label, 1), (f"ours, beside {label}", 0))
    ]


def _ratio(name: str, values: Sequence[float]) -> BenchRow:
    low, middle, high = np.percentile(values, [25, 50, 75]).tolist()
    return BenchRow(name, middle, "", low, high, len(values), {})


def _percent(share: float) -> int:
    """A share in hundredths, 100 for the whole alone."""
    return 100 if share >= 1 else max(1, int(100 * share))


def _summary(rows: Sequence[BenchRow]) -> str:
    first = rows[0]
    if not first.repeats:
        return first.name.partition(": ")[2]
    ratios = [
        f"{row.name.rpartition(': ')[2]} {row.value:.3g} times ours"
        for row in rows
        if " / " in row.name
    ]
    return ", ".join(ratios) or f"{first.value:.4g} {first.unit}"
