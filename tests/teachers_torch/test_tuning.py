import dataclasses
import json

import numpy as np
import pytest
import torch

from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from prmkd_jax.data import canonical
from prmkd_jax.data.splits import leave_one_out
from teachers_torch.config import (
    PrecomputedConfig,
    RecformerConfig,
    TextConfig,
    UniM2RecConfig,
    UniSRecConfig,
)
from teachers_torch.registry import TEACHERS, identity
from teachers_torch.tuning import evaluate, tuning_state
from tests.pages import python_block
from tests.teachers_torch.recformer_worlds import tiny_tokenizer
from tests.teachers_torch.worlds import build, key_of, settings_of, task_of, tune

SMALL = {
    "hidden_size": 16, "num_layers": 1, "inner_size": 16, "num_experts": 2, "dropout": 0.1,
    "adaptor_dropout": 0.0, "learning_rate": 1e-2, "batch_size": 48, "max_epochs": 12,
}  # fmt: skip
RECFORMER = RecformerConfig(
    init="random", hidden_size=16, inner_size=16, num_layers=1, dropout=0.0, max_tokens=16,
    fix_word_embeddings=False, learning_rate=1e-2, warmup_steps=2, batch_size=15, max_epochs=24,
    fixed_table_epochs=9, decay_epochs=33, evaluate_every=3,
)  # fmt: skip
SETTINGS = settings_of(UniSRecConfig(**SMALL), UniM2RecConfig(**SMALL), RECFORMER, max_seq_len=10)


def run(name, dataset, tmp_path, seed=0, settings=SETTINGS, log=lambda event: None):
    return tune(name, dataset, settings, tmp_path, seed=seed, log=log)


@pytest.mark.parametrize("name", ["unisrec-text", "unisrec", "unim2rec"])
def test_tuning_learns_what_is_to_be_learnt(name, ring, tmp_path):
    """On a ring NDCG@10 rises above 0.8, and the card holds what was measured."""
    split = leave_one_out(ring.interactions)
    untuned = build(name, ring, SETTINGS, tmp_path)
    before = evaluate(untuned, task_of(ring), split.validation)["NDCG@10"]
    events = []
    teacher, card = run(name, ring, tmp_path, log=events.append)
    epochs = [event for event in events if event["event"] == "epoch"]
    assert before < 0.5
    assert card.validation["NDCG@10"] > 0.8
    assert card.test["NDCG@10"] > 0.8
    assert card.validation == evaluate(teacher, task_of(ring), split.validation)
    assert card.test == evaluate(teacher, task_of(ring), split.test)
    assert {event["teacher"] for event in events} == {name}
    assert card.epochs == len(epochs) >= card.best_epoch >= 1
    # The test's ranking is no part of any epoch.
    assert card.seconds == pytest.approx(sum(event["seconds"] for event in epochs))
    assert card.test_seconds > 0
    ids = 0 if name == "unisrec-text" else 1
    assert card.num_parameters == sum(p.numel() for p in teacher.model.parameters())
    rows = 20 if name == "unim2rec" else 21
    features = {"unim2rec": 20 * 16 * 4 + 13 * 5 * 4 + 20 * 2}.get(name, 21 * 16 * 4)
    assert card.table_bytes == features + ids * rows * 16 * 4
    assert json.loads(json.dumps(dataclasses.asdict(card))) == dataclasses.asdict(card)


def test_recformer_learns_from_sentences(ring, tiny, tmp_path):
    """On a ring its NDCG@10 is above 0.8, and the card holds what was measured."""
    events = []
    teacher, card = run("recformer", ring, tmp_path, settings=tiny, log=events.append)
    split = leave_one_out(ring.interactions)
    assert card.validation["NDCG@10"] > 0.8
    assert card.test["NDCG@10"] > 0.8
    assert card.validation == evaluate(teacher, task_of(ring), split.validation)
    assert {event["teacher"] for event in events} == {"recformer"}
    assert {event["event"] for event in events} == {"encode", "step", "epoch"}
    assert card.start == "random"
    assert card.num_parameters == sum(p.numel() for p in teacher.model.longformer.parameters())
    assert card.table_bytes == 20 * 16 * 4
    assert json.loads(json.dumps(dataclasses.asdict(card))) == dataclasses.asdict(card)


@pytest.fixture
def tiny(tmp_path):
    """The configurations, Recformer's with a tokenizer of a few words."""
    tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    recformer = dataclasses.replace(RECFORMER, tokenizer=str(tmp_path / "tiny"))
    return settings_of(recformer, base=SETTINGS)


@pytest.mark.parametrize("name", ["unisrec", "unim2rec", "recformer"])
def test_the_seed_decides_everything(name, ring, tiny, tmp_path):
    """Vectors repeat with the seed; torch's global state is neither read nor changed."""
    settings = settings_of(
        UniSRecConfig(**{**SMALL, "max_epochs": 2}),
        UniM2RecConfig(**{**SMALL, "max_epochs": 2}),
        dataclasses.replace(tiny.get(RecformerConfig), decay_epochs=2),
        base=SETTINGS,
    )
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, _ = run(name, ring, tmp_path / "a", seed=3, settings=settings)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second, _ = run(name, ring, tmp_path / "b", seed=3, settings=settings)
    other, _ = run(name, ring, tmp_path / "b", seed=4, settings=settings)
    ids = np.arange(len(ring.interactions.items))
    np.testing.assert_array_equal(first.encode_items(), second.encode_items())
    np.testing.assert_array_equal(first.encode_instances(ids), second.encode_instances(ids))
    assert np.abs(first.encode_items() - other.encode_items()).max() > 0.01


@pytest.mark.parametrize("name", ["unisrec", "unim2rec"])
def test_a_killed_tuning_goes_on_by_itself(name, ring, tmp_path):
    """It goes on in the epoch of the kill and ends with the same card and item vectors."""
    short = {**SMALL, "max_epochs": 4}
    settings = settings_of(UniSRecConfig(**short), UniM2RecConfig(**short), base=SETTINGS)
    whole, card = run(name, ring, tmp_path / "whole", settings=settings)

    def kill(event):
        if event["event"] == "step" and event["epoch"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(name, ring, tmp_path / "killed", settings=settings, log=kill)
    events = []
    again, its_card = run(name, ring, tmp_path / "killed", settings=settings, log=events.append)
    assert min(event["epoch"] for event in events) == 3
    clocks = {"seconds": card.seconds, "test_seconds": card.test_seconds}
    assert dataclasses.replace(its_card, **clocks) == card
    np.testing.assert_array_equal(again.encode_items(), whole.encode_items())
    found = identity(name, task_of(ring), settings, 0)
    assert tuning_state(Cache(tmp_path / "killed"), found).is_file()


def test_precomputed_is_measured_like_the_others(ring, tmp_path):
    """Given vectors have a card with validation and test metrics, and no epochs."""
    items = np.eye(20, dtype=np.float32)
    np.save(tmp_path / "items.npy", items)
    np.save(tmp_path / "instances.npy", items[ring.interactions.items])
    settings = settings_of(PrecomputedConfig(folder=str(tmp_path)))
    teacher, card = run("precomputed", ring, tmp_path, settings=settings)
    assert card.validation["NDCG@10"] == card.test["NDCG@10"] == 1.0
    assert (card.epochs, card.num_parameters, card.start) == (0, 0, "given vectors")
    assert card.seconds > 0
    assert teacher.score_scale == 1.0


def test_an_unknown_teacher_is_refused_with_the_known_ones(ring, tmp_path):
    """The error lists the names where a teacher is built and where its key is made."""
    for call in (
        lambda: build("unirec", ring, SETTINGS, tmp_path),
        lambda: key_of("unirec", ring, SETTINGS),
    ):
        with pytest.raises(UserError, match=r"found 'unirec', expected .*unisrec-text, unisrec, "):
            call()


def test_a_batch_that_cannot_hold_a_history_is_refused(ring, tmp_path):
    """The error names --teacher_batch_size and the least that it may be."""
    settings = settings_of(UniSRecConfig(batch_size=49))
    with pytest.raises(UserError, match="--teacher_batch_size: found 49, expected at least"):
        run("unisrec", ring, tmp_path, settings=settings)


def test_a_split_without_validation_is_refused(ring, tmp_path):
    """The error says that there are 0 validation instances."""
    nobody = leave_one_out(ring.interactions).validation[:0]
    with pytest.raises(UserError, match="'validation': 0"):
        tune("unisrec", ring, SETTINGS, tmp_path, validation=nobody)


def test_fingerprint_changes_with_what_matters_and_nothing_else(ring, tmp_path):
    """Another teacher's options and the texts' batch size leave the key as it is."""
    split = leave_one_out(ring.interactions)

    def key(*configs, name="unisrec", data=ring, seed=0, parts=None, **fields):
        settings = settings_of(*configs, base=SETTINGS, **fields)
        return key_of(name, data, settings, seed, **(parts or {}))

    base = key()
    other_unisrec = UniSRecConfig(**{**SMALL, "dropout": 0.2})
    other_unim2rec = UniM2RecConfig(**{**SMALL, "align_weight": 0.2})
    other_data = dataclasses.replace(ring, item_ids=tuple(f"j{i}" for i in range(20)))
    different = [
        base,
        key(name="unisrec-text"),
        key(name="unim2rec"),
        key(other_unim2rec, name="unim2rec"),
        key(name="recformer"),
        key(name="recformer", seed=1),
        key(dataclasses.replace(RECFORMER, init="org/other"), name="recformer"),
        key(dataclasses.replace(RECFORMER, tokenizer="org/other"), name="recformer"),
        key(dataclasses.replace(RECFORMER, max_tokens=17), name="recformer"),
        key(name="recformer", max_seq_len=11),
        key(seed=1),
        key(other_unisrec),
        key(UniSRecConfig(**SMALL, pad_class=False)),
        key(max_seq_len=11),
        key(text=TextConfig(text_encoder="org/other")),
        key(data=other_data),
        key(parts={"train": split.train[1:]}),
        key(parts={"validation": split.test, "test": split.validation}),
    ]
    assert len(set(different)) == len(different)
    assert base == key(other_unim2rec, text=TextConfig(text_batch_size=3))
    other_text = TextConfig(text_encoder="org/other")
    assert key(name="recformer", text=other_text) == key(name="recformer")
    assert base == key(PrecomputedConfig(scale=3.0))
    assert len(base) == 16


def test_precomputeds_fingerprint_ignores_seed_and_place(ring, tmp_path):
    """Given vectors aren't encoded again for another seed or folder."""
    keys = []
    for seed, folder in enumerate(("a", "b")):
        (tmp_path / folder).mkdir()
        for name in ("instances", "items"):
            np.save(tmp_path / folder / f"{name}.npy", np.ones((2, 2)))
        settings = settings_of(PrecomputedConfig(folder=str(tmp_path / folder)))
        keys.append(key_of("precomputed", ring, settings, seed))
    assert keys[0] == keys[1]


def test_names():
    """Exactly eight teachers are registered."""
    assert set(TEACHERS) == {
        *("unisrec-text", "unisrec", "unim2rec", "recformer", "precomputed"),
        *("neighbours", "popularity", "recent-popularity"),
    }


def test_the_teachers_pages_code_tunes_with_each_share_of_hidden_images(
    ring, tmp_path, monkeypatch, capsys
):
    """A configuration that is passed by and leaves the default in its place."""
    monkeypatch.setattr(canonical, "read_dataset", lambda folder, name: ring)
    monkeypatch.setenv("PRMKD_DATA_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    sizes = ", ".join(
        f"{name}={value}" for name, value in (SMALL | {"batch_size": 50, "max_epochs": 1}).items()
    )
    code = python_block("docs/teachers.md", "hide_images")
    code = code.replace("hidden_size=64, dropout=0.5", sizes).replace(
        "log=print", "log=events.append"
    )
    events = []
    made: dict = {"events": events}
    exec(code, made)
    printed = [line.split(" {")[0] for line in capsys.readouterr().out.splitlines()]
    assert printed == ["0", "0.25", "0.5", "0.75", "1"]
    assert made["settings"].get(UniM2RecConfig).hide_images == 1
