"""Trains one run on meshes of several shapes and prints what it gave, as JSON.

python -m tests.train.meshes FOLDER STUDENT KIND SHAPE SHAPE…, in a process with enough devices;
KIND is plain, distilled, closed or catalogue. A shape such as 2x4>1x2 stops after an epoch and goes
on with another mesh; one such as 2x4! only stops, and a process that is given the same folder and
2x4 goes on. All shapes also rank with the first one's parameters, which stay in the folder.
"""

import contextlib
import dataclasses
import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from experiments.benchmarks.collectives import collectives
from prmkd_jax.ops.shards import in_turn
from prmkd_jax.students.student import flatten_params
from prmkd_jax.students.tables import Divided, is_table
from prmkd_jax.train.closed import closed_of, teachers_best
from prmkd_jax.train.inputs import distill_inputs, run_constants, training_batches
from prmkd_jax.train.loop import fit, make_evaluator, mesh_of
from prmkd_jax.train.optim import make_optimizer
from prmkd_jax.train.processes import together, writes
from prmkd_jax.train.run import Params, Run, fresh_student
from prmkd_jax.train.sharding import divide, place_constants, place_inputs, place_state
from prmkd_jax.train.step import init_state, make_train_step
from prmkd_jax.train.stored import stored_of
from tests.worlds import distilled, make_run, random_world, student_config

EPOCHS = 2


class _Stopped(Exception):
    """A run that was stopped after an epoch."""


def the_run(folder: Path, student: str, kind: str) -> Run:
    """A run of two epochs on 43 items, a number that no mesh divides."""
    # DeepFM's bounds were measured at its own sizes.
    config = student_config(student=student, mlp_sizes=(128, 128, 128), num_negatives=256)
    run = make_run(random_world(items=43), folder, student=config)
    often = {"batch_size": 64, "max_epochs": EPOCHS, "checkpoint_seconds": 0}
    train = dataclasses.replace(run.train, **often)
    run = dataclasses.replace(run, train=train, resume=True)
    if kind == "plain":
        return run
    changes: dict[str, Any] = {} if kind == "distilled" else {"negatives": kind}
    run = dataclasses.replace(run, **distilled(run, **changes))
    if kind == "closed":
        run = dataclasses.replace(run, best_items=teachers_best(run))
    return run


def on_mesh(run: Run, shapes: str, params: Params | None) -> tuple[dict[str, Any], Params | None]:
    """All that the run gives on a mesh; then its parameters, or those given."""
    went_on, epochs = run.folder.exists(), []
    *before, last = shapes.split(">")
    if last.endswith("!"):
        before, last = [last[:-1]], ""
    for shape in before:
        os.environ["PRMKD_MESH"] = shape
        with contextlib.suppress(_Stopped):
            fit(run, on_step=_Stop(epochs), on_epoch=epochs.append)
        epochs.clear()
    if not last:
        return {}, params
    os.environ["PRMKD_MESH"] = last
    graphdef, fresh = fresh_student(run)
    mesh = mesh_of(run, training_batches(run))
    divided = divide(mesh, fresh, run.facts)
    first = first_step(run, mesh, divided)
    fitted = fit(run, on_epoch=epochs.append)
    params = fitted.params if params is None else params
    evaluator = make_evaluator(run, graphdef, run.task.split.test, divided)
    ranks, best = evaluator.with_best(params, 10)
    assert fitted.test is not None
    return {
        **first,
        "went_on": went_on,
        "epochs": len(epochs),
        "losses": [record["loss"] for record in fitted.history],
        "test": fitted.test.all_items.tolist(),
        "ranks": ranks.all_items.tolist(),
        "unseen": np.nan_to_num(ranks.unseen_items, posinf=-1).tolist(),
        "best": best.items.tolist(),
        "confidence": best.confidence.tolist(),
    }, params


@dataclasses.dataclass
class _Stop:
    """Stops in the second epoch: the first one's state is kept after it is told.

    Attributes:
        epochs: that were told.
    """

    epochs: list[dict[str, Any]]

    def __call__(self, step: int, steps: int) -> None:
        if self.epochs:
            raise _Stopped


def first_step(run: Run, mesh: Mesh, divided: Divided) -> dict[str, Any]:
    """The first step's loss and gradients, what it sends, and how its tables lie on the devices."""
    graphdef, params = fresh_student(run)
    optimizer = make_optimizer(run.train)
    tables = divided.tables
    step = make_train_step(graphdef, optimizer, run.distill, run.student, mesh, None, tables)
    state = place_state(divided, init_state(params, optimizer, run.seed))
    constants = place_constants(mesh, run_constants(run))
    each = next(distill_inputs(run, training_batches(run).epoch(0), closed_of(run), stored_of(run)))
    inputs = (*place_inputs(mesh, *each), constants)
    compiled = step.lower(state, *inputs).compile()
    sent = [(*each, each.sent) for each in collectives(compiled.as_text() or "", mesh.size)]
    state, metrics = in_turn(compiled(state, *inputs))
    lies = {
        leaf.addressable_shards[0].data.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if is_table(path, tables)
    }
    # After one step Adam's first moment is the gradient by a constant.
    moment = optax.tree.get(divided.whole(state.opt_state), "mu")
    return {
        "loss": float(metrics.loss),
        "gradients": {name: x.tolist() for name, x in flatten_params(moment).items()},
        "sent": sent if mesh.size > 1 else [],
        "lies": sorted(lies),
    }


def main(folder: str, student: str, kind: str, *shapes: str) -> None:
    """Prints one JSON object: shape → what it gave; of several processes each does."""
    found, kept = {}, Path(folder) / "params"
    with together():
        params = pickle.loads(kept.read_bytes()) if kept.exists() else None
        for shape in shapes:
            run = the_run(Path(folder) / shape.strip("!").replace(">", "-"), student, kind)
            found[shape], params = on_mesh(run, shape, params)
        if writes():
            kept.write_bytes(pickle.dumps(jax.device_get(params)))
        print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
