"""Pre-training as a command, and its checkpoints as starts."""

import io

import numpy as np
import pytest
from rich.console import Console

from experiments.cli.console import Reporter
from experiments.cli.flags import parse
from experiments.cli.settings import GROUPS, settings_from
from experiments.commands.pretrain import COMMAND
from experiments.stages.pretrain import (
    examine_folder,
    families,
    load_domains,
    pretrain_one,
    run,
)
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.sealed import write_sealed_json
from teachers_torch.config import PretrainConfig, RecformerPretrainConfig, UniSRecConfig
from teachers_torch.items import inputs
from teachers_torch.recformer.start import configured, load_start
from teachers_torch.sequence import pretrain
from teachers_torch.sequence.start import read_facts, read_sequence_start
from tests.experiments.calls import make_call
from tests.teachers_torch.recformer_worlds import tiny_tokenizer
from tests.teachers_torch.worlds import text_vectors

SMALL = ("--synthetic_users=40", "--synthetic_items=30", "--max_seq_len=20")


def settings(*flags: str):
    return settings_from(parse([*SMALL, *flags], GROUPS).configs)


def test_domains_of_the_synthetic_world_are_not_its_target():
    """Both names of the target are refused, and other domains have the world's size."""
    domains = load_domains(settings(), ["synthetic-garden", "synthetic-music"])
    assert [domain.name for domain in domains] == ["synthetic-garden", "synthetic-music"]
    assert [domain.num_users for domain in domains] == [40, 40]
    for name in ("synthetic", "synthetic-home"):
        with pytest.raises(UserError, match=f"--domains: found '{name}', the target"):
            load_domains(settings(), ["synthetic-garden", name])


def test_a_copy_of_the_target_is_refused(tmp_path):
    """The same histories in a folder of another name are recognised."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name in ("Games", "Copy"):
        folder = tmp_path / name
        folder.mkdir()
        rows = {"user_id": ["u"] * 4, "item_id": ["a", "b"] * 2, "position": [0, 1, 2, 3]}
        pq.write_table(pa.table(rows), folder / "interactions.parquet")
        titles = {"item_id": ["a", "b"], "title": ["A", "B"]}
        pq.write_table(pa.table(titles), folder / "items.parquet")
    target = settings("--dataset=Games", f"--data_dir={tmp_path}")
    with pytest.raises(UserError, match="--domains: found 'Copy', the target"):
        load_domains(target, ["Copy"])


def test_families_are_those_that_are_pretrained():
    """Two teachers of one family are pre-trained once; a teacher of no family is refused."""
    found = families(["unisrec-text", "unisrec", "unim2rec", "recformer"])
    assert found == ["unisrec", "unim2rec", "recformer"]
    with pytest.raises(UserError, match="--teachers: found 'precomputed', expected some of"):
        families(["precomputed"])


@pytest.mark.parametrize("domains", ["", "Toys,Toys"])
def test_domains_are_named_once_each(domains):
    """No domain, or one that is given twice, is refused."""
    expected = "each value once" if domains else "names"
    with pytest.raises(UserError, match=f"--domains: found '{domains}', expected {expected}"):
        parse([f"--domains={domains}"], COMMAND.groups)


def test_a_checkpoint_is_not_replaced_by_what_begins_from_it(tmp_path):
    """Its weights stay, even with --overwrite, and another folder is asked for."""
    folder, name = tmp_path / "pretrained", "recformer"
    (folder / name).mkdir(parents=True)
    (folder / name / "weights.safetensors").write_text("days")
    manifest = {"identity": {}, "files": [f"{name}/weights.safetensors"], "finished": True}
    write_sealed_json(folder / f"{name}_run.json", manifest)
    asked = settings(f"--output_dir={tmp_path}", "--overwrite", f"--init={name}={folder / name}")
    domains = load_domains(asked, ["synthetic-garden"])
    with pytest.raises(UserError, match=rf"reads \({folder / name}\), expected another"):
        examine_folder(name, domains, asked, RecformerPretrainConfig())
    assert (folder / name / "weights.safetensors").read_text() == "days"


def test_it_leaves_a_checkpoint_and_says_how_to_use_it(tmp_path, monkeypatch):
    """Each epoch is shown, and `--init=unisrec` with its folder starts a teacher."""
    monkeypatch.setattr(inputs, "encode_texts", text_vectors)
    flags = ["--teacher_hidden_size=8", "--teacher_num_layers=1", f"--cache_dir={tmp_path}"]
    pretraining = PretrainConfig(epochs=2, batch_size=64)
    stream = io.StringIO()
    reporter = Reporter(Console(file=stream))
    chosen, folder = settings(*flags), tmp_path / "unisrec"
    domains = load_domains(chosen, ["synthetic-garden"])
    pretrain_one("unisrec", domains, chosen, pretraining, folder, reporter)
    told = stream.getvalue().splitlines()
    assert [line[:31] for line in told[:2]] == [
        f"Pre-training unisrec: epoch   {epoch}" for epoch in (1, 2)
    ]
    assert f"--init=unisrec={folder}" in "".join(told)
    started = settings(*flags, f"--init=unisrec={folder}").teachers
    start = read_sequence_start("unisrec", started.get(UniSRecConfig), started)
    assert start is not None
    assert start.description.startswith("pre-trained on synthetic-garden, 2 epochs")


def test_recformers_checkpoint_is_a_start_of_its_own(tmp_path):
    """It is trained by its own settings, and `--init=recformer` reads it with its size."""
    tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    flags = [
        f"--cache_dir={tmp_path}", f"--recformer_tokenizer={tmp_path / 'tiny'}",
        "--recformer_hidden_size=8", "--recformer_max_tokens=16",
    ]  # fmt: skip
    pretraining = RecformerPretrainConfig(max_epochs=1, batch_size=16, accumulate=1)
    stream = io.StringIO()
    reporter = Reporter(Console(file=stream, width=400))
    chosen, folder = settings("--init=recformer=random", *flags), tmp_path / "recformer"
    domains = load_domains(chosen, ["synthetic-garden"])
    pretrain_one("recformer", domains, chosen, pretraining, folder, reporter)
    told = stream.getvalue()
    assert "Pre-training recformer: epoch   1  loss" in told
    assert "accuracy" in told
    assert f"--init=recformer={folder}" in told
    started = settings(f"--init=recformer={folder}", *flags).teachers
    start = load_start(configured(started), started.max_seq_len)
    assert start.architecture.hidden_size == 8
    assert start.weights


def test_a_stopped_pretraining_may_be_made_longer_but_a_finished_one_is_kept(tmp_path, monkeypatch):
    """More epochs go on from the last one; a finished one is replaced only by --overwrite."""
    monkeypatch.setattr(inputs, "encode_texts", text_vectors)
    train_epoch, trained = pretrain._train_epoch, []

    def stopping(*args):
        epoch = args[6]
        if epoch == 3:
            raise KeyboardInterrupt
        trained.append(epoch)
        return train_epoch(*args)

    def command(epochs, *more):
        flags = [
            "--teachers=unisrec", "--domains=synthetic-garden", "--teacher_hidden_size=8",
            "--teacher_num_layers=1", f"--cache_dir={tmp_path}/cache", "--pretrain_batch_size=64",
            f"--output_dir={tmp_path}/out", f"--pretrain_epochs={epochs}",
        ]  # fmt: skip
        call, told = make_call(COMMAND, [*SMALL, *flags, *more])
        run(call)
        return told.getvalue()

    monkeypatch.setattr(pretrain, "_train_epoch", stopping)
    with pytest.raises(KeyboardInterrupt):
        command(9)
    with pytest.raises(UserError, match="--pretrain_epochs: found 1, expected at least the 2 that"):
        command(1)
    with pytest.raises(UserError, match=r"--pretrain_item_drop: found 0\.5, expected 0\.9 as in"):
        command(4, "--pretrain_item_drop=0.5")
    assert trained == [1, 2]
    monkeypatch.setattr(pretrain, "_train_epoch", train_epoch)
    told = command(4, "--pretrain_save_every=3")
    assert "epoch   3" in told
    assert "epoch   2" not in told
    folder = tmp_path / "out/pretrained/unisrec"
    assert (read_facts(folder).get("epochs"), read_facts(folder / "epoch-3").get("epochs")) == (
        4,
        3,
    )
    assert "finished before" in command(4, "--pretrain_save_every=3")
    with pytest.raises(
        UserError, match=r"--pretrain_epochs: found 6, expected 4 as in .*_run\.json"
    ):
        command(6, "--pretrain_save_every=3")
    assert read_facts(folder).get("epochs") == 4
    assert "epoch   1" in command(6, "--pretrain_save_every=3", "--overwrite")
    assert read_facts(folder).get("epochs") == 6


def test_texts_without_words_that_are_given_belong_to_a_pretraining(tmp_path):
    """They make another pre-training of UniSRec, which drops words, but not of UniM²Rec."""
    (domain,) = load_domains(settings(), ["synthetic-garden"])
    rows = np.random.default_rng(0).normal(size=(domain.num_items, 768)).astype("<f4")
    file = tmp_path / "texts.feat1CLS"
    rows.tofile(file)
    lines = [f"{item}\t{row}\n" for row, item in enumerate(domain.item_ids)]
    file.with_suffix(".item2index").write_text("".join(lines))
    asked = settings(f"--text_features={file}", f"--output_dir={tmp_path / 'out'}")

    def identity(name):
        return examine_folder(name, [domain], asked, PretrainConfig()).identity

    with pytest.raises(UserError, match=r"texts\.feat2CLS: found no such file, expected it"):
        identity("unisrec")
    found = []
    for dropped in (rows, -rows, rows):
        dropped.tofile(file.with_suffix(".feat2CLS"))
        found.append((identity("unisrec"), identity("unim2rec")))
    (one, other), (changed, same), again = found
    assert one == again[0] != changed
    assert other == same  # which drops no words
