"""The second domain of a student that learns from two."""

from pathlib import Path

import pytest

from experiments.cli.flags import parse
from experiments.cli.settings import GROUPS, settings_from
from experiments.stages import data as domains
from experiments.stages.data import load_domain, second_domain
from experiments.stages.pipeline import load_dataset
from experiments.stages.students import plain_run, student_facts
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.task import make_task
from tests.worlds import from_histories

SMALL = ("--synthetic_users=40", "--synthetic_items=30", "--max_seq_len=20")


def settings(*flags: str):
    return settings_from(parse([*SMALL, *flags], GROUPS).configs)


def test_the_second_domain_reaches_the_run_and_is_read_once(monkeypatch):
    """A student of two domains that trains on one, or a file read again for every seed."""
    read, load = [], domains.make_domain
    monkeypatch.setattr(domains, "make_domain", lambda *a: read.append(a) or load(*a))
    load_domain.cache_clear()
    chosen = settings("--student=recguru", "--second_domain=synthetic-music")
    target = load_dataset(chosen)
    task = make_task(target)
    runs = [plain_run(task, student_facts(task, chosen), chosen, seed, Path()) for seed in (0, 1)]
    domain = second_domain(chosen, target)
    assert domain.name == "synthetic-music"
    assert domain.num_users == 40
    assert [run.facts.second.num_items for run in runs] == [domain.num_items] * 2
    assert runs[0].facts == runs[1].facts
    assert runs[0].window == 19
    assert len(read) == 1


def test_only_the_student_that_reads_it_has_one():
    """A data set read, and refused, for nothing."""
    for flags in (["--student=recguru"], ["--student=sasrec", "--second_domain=nowhere"]):
        chosen = settings(*flags)
        assert second_domain(chosen, load_dataset(chosen)) is None


@pytest.mark.parametrize("name", ["synthetic", "synthetic-home"])
def test_the_target_is_no_second_domain(name):
    """Users of the target told from themselves."""
    chosen = settings("--student=recguru", f"--second_domain={name}")
    with pytest.raises(UserError, match=f"--second_domain: found '{name}', the target, expected"):
        second_domain(chosen, load_dataset(chosen))


def test_a_second_domain_that_is_not_there_is_told(tmp_path):
    """A traceback when the teachers are tuned, hours later."""
    chosen = settings("--student=recguru", "--second_domain=Nowhere", f"--data_dir={tmp_path}")
    with pytest.raises(UserError, match=r"^--second_domain=Nowhere: found no file"):
        second_domain(chosen, load_dataset(chosen))


def test_a_domain_of_short_histories_is_refused(monkeypatch):
    """A domain without a training instance to draw."""
    chosen = settings("--student=recguru", "--second_domain=short")
    short = from_histories([[0, 1, 2]] * 4, 3)
    monkeypatch.setattr(domains, "load_domain", lambda *_: short)
    with pytest.raises(UserError, match=r"found {'train': 0, .*} instances, expected some in each"):
        second_domain(chosen, load_dataset(chosen))
