"""The one timer of training steps."""

from experiments.benchmarks import step_times
from experiments.benchmarks.steps import time_run
from prmkd_jax.train.inputs import training_batches
from tests.worlds import cycle_world, make_run


def test_every_timed_step_has_an_input_of_its_own(tmp_path, monkeypatch):
    """Also beyond the first epoch no batch comes again: its input would take no time."""
    run = make_run(cycle_world(users=20), tmp_path)
    given, real = [], step_times.place_inputs

    def watched(mesh, batch, distill):
        given.append(batch)
        return real(mesh, batch, distill)

    monkeypatch.setattr(step_times, "place_inputs", watched)
    repeats = len(list(training_batches(run).epoch(0))) + 2
    timed = time_run("plain", run, repeats)
    assert len(given) == repeats + 1  # one doesn't count
    assert len({id(batch) for batch in given}) == len(given)
    assert len(timed.of_steps.steps) == len(timed.of_steps.inputs) == repeats
    assert min(timed.of_steps.inputs) > 0
