"""The task that the flags name, and the second domain of a student that learns from two."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.cli.flags import parse
from experiments.cli.settings import GROUPS, settings_from
from experiments.stages import data as domains
from experiments.stages.data import load_domain, load_task, second_domain
from experiments.stages.record import describe_split
from experiments.stages.students import plain_run, student_facts
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.synthetic import WorldConfig, make_domain
from prmkd_jax.data.task import make_task
from tests.worlds import from_histories

SMALL = ("--synthetic_users=40", "--synthetic_items=30", "--max_seq_len=20")


def settings(*flags: str):
    return settings_from(parse([*SMALL, *flags], GROUPS).configs)


def test_the_second_domain_reaches_the_run_and_is_read_once(monkeypatch):
    """The runs of two seeds share the second domain's facts, and its file is read once."""
    read, load = [], domains.make_domain
    monkeypatch.setattr(domains, "make_domain", lambda *a: read.append(a) or load(*a))
    load_domain.cache_clear()
    chosen = settings("--student=recguru", "--second_domain=synthetic-music")
    task = load_task(chosen)
    facts = student_facts(task, chosen)
    runs = [plain_run(task, facts, chosen, seed, Path()) for seed in (0, 1)]
    assert runs[0].facts is runs[1].facts
    music = make_domain(0, "music", WorldConfig(users=40, items=30)).dataset
    assert facts.second.num_items == music.num_items
    assert runs[0].window == 19
    # Whoever asks for it again gets the same one.
    second_domain(chosen, task.dataset)
    assert len(read) == 1


def test_the_task_is_divided_as_the_flags_say():
    """The temporal split equals one that is made by hand, and its record names the cuts."""
    by_user = load_task(settings())
    by_time = load_task(settings("--split=temporal", "--split_at=0.7,0.85"))
    assert len(by_user.split.test) == 40
    assert by_time.split_digest != by_user.split_digest
    again = make_task(by_time.dataset, "temporal", ("0.7", "0.85"))
    assert by_time.split_digest == again.split_digest
    described = describe_split(by_time, settings("--split=temporal", "--split_at=0.7,0.85"))
    assert (described["name"], described["cuts"]) == ("temporal", ["0.7", "0.85"])
    assert described["test"] == len(by_time.split.test)


def test_two_cuts_make_a_split():
    """A single cut is refused while the flags are parsed."""
    with pytest.raises(UserError, match=r"--split_at: found '0\.5', expected two cuts"):
        settings("--split=temporal", "--split_at=0.5")


def test_the_whole_catalogue_is_ranked_where_asked(tmp_path):
    """With `--candidates=catalogue` an item that nobody has used is a candidate too."""
    folder = tmp_path / "Games"
    folder.mkdir()
    rows = {"user_id": ["u"] * 4 + ["v"] * 4, "item_id": ["a", "b", "c", "d"] * 2}
    rows["position"] = [0, 1, 2, 3] * 2
    pq.write_table(pa.table(rows), folder / "interactions.parquet")
    names = ["a", "b", "c", "d", "new"]
    pq.write_table(pa.table({"item_id": names, "title": names}), folder / "items.parquet")
    flags = ("--dataset=Games", f"--data_dir={tmp_path}")
    assert load_task(settings(*flags)).dataset.num_items == 4
    whole = load_task(settings(*flags, "--candidates=catalogue"))
    assert whole.dataset.num_items == 5


def test_only_the_student_that_reads_it_has_one():
    """Other students don't load the data set, so that it needn't exist."""
    for flags in (["--student=recguru"], ["--student=sasrec", "--second_domain=nowhere"]):
        chosen = settings(*flags)
        assert second_domain(chosen, load_task(chosen).dataset) is None


@pytest.mark.parametrize("name", ["synthetic", "synthetic-home"])
def test_the_target_is_no_second_domain(name):
    """Both names of the synthetic target are refused."""
    chosen = settings("--student=recguru", f"--second_domain={name}")
    with pytest.raises(UserError, match=f"--second_domain: found '{name}', the target, expected"):
        second_domain(chosen, load_task(chosen).dataset)


def test_a_second_domain_that_is_not_there_is_told(tmp_path):
    """One line names the flag and the domain."""
    chosen = settings("--student=recguru", "--second_domain=Nowhere", f"--data_dir={tmp_path}")
    with pytest.raises(UserError, match=r"^--second_domain=Nowhere: found no file"):
        second_domain(chosen, load_task(chosen).dataset)


def test_a_folder_with_the_name_of_a_domain_is_not_passed_over(tmp_path):
    """The name is refused once the folder holds interactions; an empty folder does no harm."""
    folder = tmp_path / "synthetic-garden"
    folder.mkdir()
    data = settings(f"--data_dir={tmp_path}").data
    load_domain.cache_clear()
    assert load_domain(data, folder.name, "--domains").name == "synthetic-garden"
    load_domain.cache_clear()
    rows = {"user_id": ["u"], "item_id": ["a"]}
    pq.write_table(pa.table(rows), folder / "interactions.parquet")
    message = f"--domains: found 'synthetic-garden', a domain of the synthetic world and.*{folder}"
    with pytest.raises(UserError, match=message):
        load_domain(data, folder.name, "--domains")


def test_a_domain_of_short_histories_is_refused(monkeypatch):
    """Each part of a domain's split needs at least one instance."""
    chosen = settings("--student=recguru", "--second_domain=short")
    short = from_histories([[0, 1, 2]] * 4, 3)
    monkeypatch.setattr(domains, "load_domain", lambda *_: short)
    with pytest.raises(UserError, match=r"found {'train': 0, .*} instances, expected some in each"):
        second_domain(chosen, load_task(chosen).dataset)
