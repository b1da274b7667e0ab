"""The teachers' stage, with a Recformer of a few words."""

import dataclasses
import json

import numpy as np
import pytest
from rich.console import Console

from experiments.cli.console import Reporter
from experiments.cli.flags import parse
from experiments.cli.settings import GROUPS, settings_from
from experiments.stages import teachers as teaching
from experiments.stages.teachers import prepare_teachers, teacher_identities
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import Catalogue
from prmkd_jax.data.task import make_task
from teachers_torch.recformer.model import RecformerTeacher
from tests.teachers_torch.recformer_worlds import tiny_tokenizer
from tests.teachers_torch.worlds import ring_world


@pytest.fixture
def prepare(tmp_path):
    """Calls `prepare_teachers`; returns its result and what was said."""
    tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    argv = [
        f"--cache_dir={tmp_path / 'cache'}", "--init=recformer=random",
        f"--recformer_tokenizer={tmp_path / 'tiny'}", "--recformer_hidden_size=8",
        "--recformer_max_tokens=16", "--recformer_max_epochs=1", "--recformer_fixed_table_epochs=0",
    ]  # fmt: skip
    dataset = ring_world()

    def call(teachers="recformer", dataset=dataset, more=()):
        asked = [*argv, f"--teachers={teachers}", *more]
        settings = settings_from(parse(asked, GROUPS).configs)
        console, log = Console(record=True, width=200), []
        task = make_task(dataset)
        reporter = Reporter(console)
        reporter.console = console
        identities = teacher_identities(task, settings)
        (ready,) = prepare_teachers(identities, task, settings, reporter, log.append)
        return ready, console.export_text(), log

    return call


def folder(tmp_path):
    (found,) = (path for path in (tmp_path / "cache" / "teachers").iterdir() if path.is_dir())
    return found


def test_what_a_teacher_lacks_is_told_before_the_first_is_tuned(prepare, tmp_path):
    """A later teacher's missing images are reported while the cache is still empty."""
    texts = Catalogue(ring_world().catalogue.texts)
    with pytest.raises(UserError, match="found no images, expected some for unim2rec"):
        prepare("recformer,unim2rec", dataclasses.replace(ring_world(), catalogue=texts))
    with pytest.raises(UserError, match="precomputed"):
        prepare("recformer,precomputed")
    assert not (tmp_path / "cache").exists()


def test_a_run_killed_while_encoding_goes_on_there(prepare, tmp_path, monkeypatch, capsys):
    """Neither the tuning nor a finished shard is repeated, and no shards are left."""
    real, asked = RecformerTeacher.encode_instances, []

    def killed(self, instance_ids):
        if len(instance_ids) == 100 and 400 in instance_ids:
            raise KeyboardInterrupt
        asked.append(instance_ids)
        return real(self, instance_ids)

    def encode(teacher, num_instances, path, progress, stored):
        return original(teacher, num_instances, path, progress, 100, stored)

    original = teaching.encode_in_shards
    monkeypatch.setattr(teaching, "encode_in_shards", encode)
    monkeypatch.setattr(RecformerTeacher, "encode_instances", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare()
    assert len(list((folder(tmp_path) / "shards").iterdir())) == 4
    assert not (folder(tmp_path) / "manifest.json").exists()
    asked.clear()
    monkeypatch.setattr(
        RecformerTeacher, "encode_instances", lambda self, ids: asked.append(ids) or real(self, ids)
    )
    ready, said, log = prepare()
    assert "tuned before" in said
    assert log == []
    assert [int(ids[0]) for ids in asked] == [400, 500]
    assert not (folder(tmp_path) / "shards").exists()
    assert ready.card["encode_seconds"] > 0
    assert ready.source.instances.shape == (540, 8)
    assert ready.source.scale == pytest.approx(20)
    assert np.abs(ready.source.instances[1:9]).max() > 0.1


def test_epochs_are_told_and_the_cache_is_used(prepare, tmp_path, capsys):
    """A second run tunes nothing and has the same vectors."""
    first, said, log = prepare()
    assert "Teacher recformer: epoch   1  loss" in said
    assert [event["event"] for event in log] == ["epoch"]
    again, said, log = prepare()
    assert "from the cache" in said
    assert log == []
    np.testing.assert_array_equal(first.source.instances, again.source.instances)
    card = json.loads((folder(tmp_path) / "card.json").read_text())
    assert (card["name"], card["start"], card["epochs"]) == ("recformer", "random", 1)


def test_items_with_equal_vectors_are_counted(prepare, monkeypatch):
    """Rows count if they are equal in all columns, and a line gives their number."""
    real = RecformerTeacher.encode_items

    def alike(self):
        items = real(self)
        items[7] = items[2]
        return items

    monkeypatch.setattr(RecformerTeacher, "encode_items", alike)
    tied = teaching.same_vectors(np.array([[1, 2], [1, 3], [1, 2], [2, 2]], np.float32))
    assert tied.tolist() == [True, False, True, False]
    ready, said, _ = prepare()
    assert ready.card["tied_items"] >= 2
    assert f"can't tell {ready.card['tied_items']} of " in said


@pytest.mark.parametrize("moment", ["before it is read", "while it is encoded"])
def test_files_that_change_while_the_command_runs_are_never_kept_as_the_former(
    prepare, tmp_path, monkeypatch, moment
):
    """Hours lie between a file's hash and its reading; the cache would keep the new content as the
    old one's, for every later run."""
    given = tmp_path / "given"
    given.mkdir()
    flags = [f"--precomputed_folder={given}"]

    def write(seed):
        rng = np.random.default_rng(seed)
        for name, rows in (("items.npy", ring_world().num_items), ("instances.npy", 540)):
            np.save(given / name, rng.normal(size=(rows, 4)))

    place = "_tuned" if moment == "before it is read" else "encode_in_shards"
    real = getattr(teaching, place)

    def changing(*args, **options):
        write(1)
        return real(*args, **options)

    write(0)
    monkeypatch.setattr(teaching, place, changing)
    with pytest.raises(UserError, match=r"teacher precomputed: found other files .*\(content\)"):
        prepare("precomputed", more=flags)
    assert not list((tmp_path / "cache").rglob("manifest.json"))
    monkeypatch.setattr(teaching, place, real)
    for seed in (1, 0):
        write(seed)
        source = prepare("precomputed", more=flags)[0].source
        for part in ("items", "instances"):
            expected = np.load(given / f"{part}.npy").astype(np.float16)
            np.testing.assert_array_equal(getattr(source, part), expected)
