"""Teachers are the same, bit for bit, whatever the test period holds, in every split."""

import dataclasses

import numpy as np
import pytest

from prmkd_jax.common.cache import Cache
from prmkd_jax.data.config import SPLITS
from teachers_torch import tuning
from teachers_torch.config import RecformerConfig, UniM2RecConfig, UniSRecConfig
from teachers_torch.recformer.tune import sample_targets
from teachers_torch.registry import identity
from tests.futures import after_test_begins, tiny_task, with_other_items
from tests.teachers_torch.recformer_worlds import tiny_tokenizer
from tests.teachers_torch.worlds import settings_of

SMALL = {
    "hidden_size": 8, "num_layers": 1, "inner_size": 8, "num_experts": 2,
    "learning_rate": 1e-2, "batch_size": 48, "max_epochs": 2,
}  # fmt: skip
RECFORMER = RecformerConfig(
    init="random", hidden_size=8, inner_size=8, num_layers=1, max_tokens=16,
    fix_word_embeddings=False, warmup_steps=2, batch_size=15, max_epochs=1,
    fixed_table_epochs=1, decay_epochs=9, evaluate_every=1,
)  # fmt: skip


def tuned(name, task, folder):
    tiny_tokenizer().save_pretrained(folder / "words")
    recformer = dataclasses.replace(RECFORMER, tokenizer=str(folder / "words"))
    settings = settings_of(
        UniSRecConfig(**SMALL), UniM2RecConfig(**SMALL), recformer, max_seq_len=6
    )
    found = identity(name, task, settings, 0)
    return found, *tuning.tune(found, task, settings, Cache(folder), lambda event: None)


@pytest.mark.usefixtures("ring")  # it stands in for the text encoder
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", ["unisrec-text", "unisrec", "unim2rec", "recformer"])
def test_what_is_learned_and_chosen_does_not_depend_on_the_test_period(name, split, tmp_path):
    task = tiny_task(split, users=30, items=24)
    moved = with_other_items(task, split, after_test_begins(task, split))
    _, one, card = tuned(name, task, tmp_path / "one")
    _, other, other_card = tuned(name, moved, tmp_path / "other")
    asked = np.concatenate([task.split.train, task.split.validation, task.split.test])
    assert (one.encode_items() == other.encode_items()).all()
    assert (one.encode_instances(asked) == other.encode_instances(asked)).all()
    assert card.validation == other_card.validation
    assert card.best_epoch == other_card.best_epoch


@pytest.mark.usefixtures("ring")
def test_each_split_has_a_key_of_its_own():
    settings = settings_of(max_seq_len=6)
    keys = {identity("unisrec", tiny_task(split), settings, 0).key for split in SPLITS}
    assert len(keys) == len(SPLITS)


@pytest.mark.parametrize("split", SPLITS)
def test_recformer_samples_targets_of_the_training_part(split):
    task = tiny_task(split)
    indptr = task.dataset.interactions.indptr
    drawn = [
        sample_targets(indptr, task.split.train_end, np.random.default_rng(seed))
        for seed in range(30)
    ]
    assert task.in_train[np.concatenate(drawn)].all()
