"""What is asked of a teacher by its name: built in, a user's class, a user's kind."""

import dataclasses
import inspect
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from teachers_torch import registry, store
from teachers_torch.config import (
    EncoderConfig,
    PretrainConfig,
    RecformerConfig,
    RecformerPretrainConfig,
    TextConfig,
    UniM2RecConfig,
    UniM2RecOptions,
    UniSRecConfig,
    UniSRecOptions,
)
from teachers_torch.registry import INITS, KINDS, TEACHERS, kind
from teachers_torch.settings import GROUPS, PRETRAIN_GROUPS, TeacherSettings, settings_from
from teachers_torch.teacher import Pretraining, Tuning
from tests.packages import install, run_beside
from tests.teachers_torch.worlds import key_of, ring_world, settings_of, task_of, tune


class NextOfLast:
    """A teacher that exists in this test only: a table learned by counting."""

    name = "toy"
    start = "nothing"
    score_scale = 2.0
    num_parameters = 400
    table_bytes = 1600

    def __init__(self, dataset):
        self.items = dataset.interactions.items
        self.table = torch.nn.Linear(dataset.num_items, dataset.num_items, bias=False)
        torch.nn.init.zeros_(self.table.weight)

    def encode_instances(self, instance_ids):
        """The row of the item before."""
        return self.table.weight.detach().numpy()[self.items[np.maximum(instance_ids - 1, 0)]]

    def encode_items(self):
        """Each item is a direction of its own."""
        return np.eye(self.table.in_features, dtype=np.float32)


def test_initial_weights_can_be_given_for_every_model_that_reads_some():
    """`--init` takes each built-in teacher's name of them, and no other."""
    assert {kind(name).init for name in KINDS} - {""} == {*INITS}


def pretrain_toy(domains, settings, config, folder, *, cache, seed, log):
    log({"event": "epoch", "epoch": 1, "loss": 0.0, "seconds": 0.0})
    return [domain.name for domain in domains]


class ToyKind:
    """The kind of `toy`, with tuning, weights and pre-training."""

    name = "toy"
    label = "Toy"
    init = "toy"
    reads = (TextConfig,)
    seeded = True
    reads_tokens = False
    pretraining = Pretraining(
        PretrainConfig, pretrain_toy, lambda domains, settings, cache: None, lambda config: ([], [])
    )

    def check(self, task, settings, cache):
        """Twenty items at most."""
        if task.dataset.num_items > 20:
            raise UserError("toy: found more than 20 items")

    def settings(self, task, settings):
        """What its weights begin from."""
        return {"start": settings.init.get("toy", "")}

    def build(self, task, settings, cache, log):
        """A table of zeros."""
        return NextOfLast(task.dataset)

    def tune(self, teacher, task, validate, seed, state_file, log):
        """Counts the training part."""
        pairs = task.split.train
        with torch.no_grad():
            for i in pairs:
                teacher.table.weight[teacher.items[i - 1], teacher.items[i]] += 1
        log({"event": "epoch", "epoch": 1, "loss": 0.0, "NDCG@10": 1.0, "seconds": 0.0})
        return Tuning(1, 1, validate())

    def module(self, teacher):
        """The table."""
        return teacher.table


KIND = ToyKind()


class Upside(NextOfLast):
    """The same with the sign of its logits turned."""

    score_scale = -2.0


def test_a_teacher_of_a_negative_scale_is_refused(toy, tmp_path, monkeypatch):
    """By its dot products alone, its worst item would come first."""
    monkeypatch.setattr(ToyKind, "build", lambda self, task, *rest: Upside(task.dataset))
    with pytest.raises(UserError, match=r"^teacher toy: score_scale is -2\.0, expected .* above 0"):
        tune(toy, ring_world(), TeacherSettings(), tmp_path)


@pytest.fixture
def toy(monkeypatch):
    """One line in the table, one file."""
    monkeypatch.setitem(registry.KINDS, "toy", f"{__name__}:KIND")
    return "toy"


def test_a_new_kind_is_one_file_and_one_line(toy, tmp_path):
    """Check, tuning, store, cache key and pre-training all work with a new kind."""
    ring, settings, events = ring_world(), TeacherSettings(), []
    kind(toy).check(task_of(ring), settings, Cache(tmp_path))
    teacher, card = tune(toy, ring, settings, tmp_path, log=events.append)
    assert (card.name, card.epochs, card.test["NDCG@10"]) == ("toy", 1, 1.0)
    assert [event["teacher"] for event in events] == ["toy"]
    store.save(teacher, card, tmp_path / "saved")
    again, its_card = store.load(
        toy, tmp_path / "saved", task_of(ring), settings, cache=Cache(tmp_path), log=print
    )
    assert its_card == card
    ids = np.arange(len(ring.interactions.items))
    np.testing.assert_array_equal(again.encode_instances(ids), teacher.encode_instances(ids))
    keys = {
        key_of(toy, ring),
        key_of(toy, ring, seed=1),
        key_of(toy, ring, TeacherSettings(init={"toy": "there"})),
    }
    assert len(keys) == 3
    pretraining = kind(toy).pretraining
    done = pretraining.run(
        [ring], settings, PretrainConfig(), tmp_path, cache=Cache(tmp_path), seed=0, log=print
    )
    assert done == ["ring"]


# The class alone: importing this file would load torch for nothing.
ENTRY = f"""
from teachers_torch.config import PretrainConfig, TextConfig
from teachers_torch.teacher import Pretraining

pretrain_toy = None


{inspect.getsource(ToyKind)}

KIND = ToyKind()
"""
ASK = """
import json
from teachers_torch.registry import TEACHERS, kind
print(json.dumps([TEACHERS[-1], kind("toy").label, type(kind("toy")).__name__]))
"""


def test_a_users_kind_stands_beside_the_built_in_ones(tmp_path):
    """The entry point's kind is used as it is, not wrapped as a class of vectors."""
    install(tmp_path, "prmkd.teachers", ENTRY, toy="my_package.own:KIND")
    assert run_beside(tmp_path, ASK) == ["toy", "Toy", "ToyKind"]


def test_every_built_in_kind_answers():
    """Each has its own name, a label and known options, and a start if it can be pre-trained."""
    groups = {group.config for group in GROUPS}
    pretrained = {group.config for group in PRETRAIN_GROUPS}
    for name in TEACHERS:
        found = kind(name)
        assert found.name == name
        assert found.label
        assert set(found.reads) <= groups
        assert found.pretraining is None or found.pretraining.config in pretrained
        assert bool(found.init) is (found.pretraining is not None)
    assert [kind(name).init for name in TEACHERS] == [
        "unisrec", "unisrec", "unim2rec", "recformer", "", "", "", "",
    ]  # fmt: skip
    assert kind("recformer").pretraining.config is RecformerPretrainConfig
    assert [name for name in TEACHERS if kind(name).reads_tokens] == ["recformer"]


def test_the_names_are_known_without_torch():
    """Listing the teachers loads neither torch, jax nor transformers."""
    code = (
        "import sys, teachers_torch.registry as r; assert r.TEACHERS; "
        "assert not {'torch', 'jax', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


OLD_KEYS = {
    "unisrec-text": "8dc8e5185d18fa3f",
    "unisrec": "ff225cf1cb2ad253",
    "unim2rec": "86dd06f42e2dc73d",
    "recformer": "b0c3126b104e21a3",
}


def test_keys_of_release_0_1_stay_valid():
    """The settings of scientific.cfg keep their keys, so no tuning is repeated."""
    settings = settings_of(
        UniSRecConfig(hidden_size=64),
        UniM2RecConfig(hidden_size=64),
        RecformerConfig(
            max_attribute_tokens=16, batch_size=32, learning_rate=1e-4, max_epochs=9,
            fixed_table_epochs=2,
        ),
    )  # fmt: skip
    ring = ring_world()
    assert {name: key_of(name, ring, settings) for name in OLD_KEYS} == OLD_KEYS
    assert key_of("unisrec", ring) == "40d7464288960394"
    random = TeacherSettings(init={"recformer": "random"})
    assert key_of("recformer", ring, random, seed=3) == "5b030b0a2da359d1"


def test_shared_flags_reach_both_teachers_and_their_own_only_one():
    """Own options don't replace shared ones, and other teachers keep their defaults."""
    configs = {group.config: group.config() for group in GROUPS}
    configs[EncoderConfig] = EncoderConfig(hidden_size=8, dropout=0.1)
    configs[UniSRecOptions] = UniSRecOptions(pad_class=False)
    configs[UniM2RecOptions] = UniM2RecOptions(align_weight=0.3)
    settings = settings_from(configs, max_seq_len=7, init={"recformer": "random"})
    assert settings.get(UniSRecConfig) == UniSRecConfig(hidden_size=8, dropout=0.1, pad_class=False)
    expected = UniM2RecConfig(hidden_size=8, dropout=0.1, align_weight=0.3)
    assert settings.get(UniM2RecConfig) == expected
    assert settings.get(RecformerConfig) == RecformerConfig()
    assert (settings.max_seq_len, settings.init) == (7, {"recformer": "random"})
    assert json.dumps(dataclasses.asdict(settings.get(UniM2RecConfig)))
