import dataclasses

import numpy as np
import pytest
import safetensors.torch
import torch

from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import Catalogue
from teachers_torch.config import PretrainConfig, UniM2RecConfig, UniSRecConfig
from teachers_torch.items.inputs import WordDrop, join, text_inputs
from teachers_torch.sequence import pretrain as module
from teachers_torch.sequence.pretrain import augmented_batch, prefixes, pretrain
from teachers_torch.sequence.pretrain_task import build, join_interactions
from teachers_torch.sequence.start import read_facts
from tests.teachers_torch.worlds import interactions_of, ring_world, settings_of

SMALL = {
    "hidden_size": 16, "num_layers": 1, "inner_size": 16, "num_experts": 2, "dropout": 0.1,
    "adaptor_dropout": 0.0, "batch_size": 48,
}  # fmt: skip
SETTINGS = settings_of(UniSRecConfig(**SMALL), UniM2RecConfig(**SMALL), max_seq_len=10)
PRETRAIN = PretrainConfig(epochs=4, batch_size=48, learning_rate=1e-2, save_every=2, item_drop=0.5)


@pytest.fixture
def domain(ring):
    """A ring of 24 users with 6 training instances each."""
    return ring_world(users=24)


def without_images(dataset):
    return dataclasses.replace(dataset, name="plain", catalogue=Catalogue(dataset.catalogue.texts))


def with_pixels(dataset):
    """The ring world with raw 4 × 4 images of three colours."""
    pixels = np.random.default_rng(0).random((dataset.num_items, 48)).astype(np.float16)
    catalogue = dataclasses.replace(dataset.catalogue, image_features=pixels, image_shape=(4, 4, 3))
    return dataclasses.replace(dataset, name="pixels", catalogue=catalogue)


def run(family, domains, folder, config=PRETRAIN, log=lambda event: None, seed=0):
    return pretrain(
        family, domains, SETTINGS, config, folder / "out", cache=Cache(folder), seed=seed, log=log
    )


def weights(folder):
    return safetensors.torch.load_file(folder / "weights.safetensors")


@pytest.mark.parametrize("family", ["unisrec", "unim2rec"])
def test_it_learns_and_leaves_checkpoints(family, domain, tmp_path):
    """The loss falls over both domains, and an early and a last checkpoint are written."""
    events = []
    facts = run(family, [domain, without_images(domain)], tmp_path, log=events.append)
    losses = [event["loss"] for event in events if event["event"] == "epoch"]
    assert losses == facts["losses"]
    assert losses[-1] < losses[0] - 0.5
    assert [domain["name"] for domain in facts["domains"]] == ["ring", "plain"]
    # 24 users with 7 training items each, in two domains.
    steps = [event for event in events if event["event"] == "step" and event["epoch"] == 1]
    assert len(steps) == -(-2 * 24 * 6 // 48) == steps[0]["steps"]
    assert read_facts(tmp_path / "out") == facts
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "weights.safetensors", "pretraining.json", "epoch-2",
    }  # fmt: skip
    early = read_facts(tmp_path / "out" / "epoch-2")
    assert (early["epochs"], facts["epochs"]) == (2, 4)
    last, before = weights(tmp_path / "out"), weights(tmp_path / "out" / "epoch-2")
    assert set(last) == set(before)
    assert "item_embedding.weight" not in last
    assert not torch.equal(last["LayerNorm.weight"], before["LayerNorm.weight"])


def test_every_parameter_of_unisrec_is_trained(domain, tmp_path):
    """Every weight changes between epoch 2 and the end."""
    run("unisrec", [domain], tmp_path)
    early, late = weights(tmp_path / "out" / "epoch-2"), weights(tmp_path / "out")
    assert [name for name in early if torch.equal(early[name], late[name])] == []


def test_every_epoch_has_all_training_instances_in_another_order(domain, tmp_path, monkeypatch):
    """Held-out items are never targets, and the second epoch has another order."""
    seen = []

    def watched(item_seq, lengths, targets, *rest):
        for row, length, target in zip(item_seq, lengths, targets, strict=True):
            seen.append((*row[:length].tolist(), int(target)))
        return augmented_batch(item_seq, lengths, targets, *rest)

    monkeypatch.setattr(module, "augmented_batch", watched)
    run("unisrec", [domain], tmp_path, config=dataclasses.replace(PRETRAIN, epochs=2))
    # Row i + 1 is item i; a history's last two items are not trained on.
    histories = (domain.interactions.items + 1).reshape(24, 9)[:, :-2].tolist()
    expected = [tuple(history[:stop]) for history in histories for stop in range(2, 8)]
    first, second = seen[: len(expected)], seen[len(expected) :]
    assert sorted(first) == sorted(second) == sorted(expected)
    assert first != second


def test_word_drop_reads_rows_of_the_texts_without_some_words(domain, tmp_path):
    """After the plain texts of both domains come their word-dropped ones, at the same norm."""
    second = dataclasses.replace(ring_world(users=9, items=12), name="second")
    config, read = dataclasses.replace(PRETRAIN, word_drop=0.5), []
    for drop in (None, WordDrop(0.5, 3)):
        parts = (domain, second), (SETTINGS.text, 15.0, Cache(tmp_path), print, drop)
        read.append(join([text_inputs(one, *parts[1]) for one in parts[0]]).features)
    task = build("unisrec", [domain, second], SETTINGS, config, 3, Cache(tmp_path), print)
    assert (task.num_items, task.variants) == (32, 1)
    assert (read[0] != read[1]).any()
    np.testing.assert_array_equal(task.model.features[1:], np.concatenate(read))
    assert not task.model.features[0].any()


def test_vision_encoder_is_trained_on_raw_pixels(domain, tmp_path):
    """All 8 weights of the vision encoder change, and the adaptor reads its 64 outputs."""
    facts = run("unim2rec", [with_pixels(domain)], tmp_path)
    assert facts["image_shape"] == [4, 4, 3]
    early, late = weights(tmp_path / "out" / "epoch-2"), weights(tmp_path / "out")
    vision = [name for name in late if name.startswith("vision.")]
    assert len(vision) == 8
    assert not any(torch.equal(early[name], late[name]) for name in vision)
    assert late["adaptors.1.w_gate"].shape[0] == 64


def test_domains_without_images_leave_no_image_adaptor(domain, tmp_path):
    """The checkpoint has no weight whose shape depends on images."""
    facts = run("unim2rec", [without_images(domain)], tmp_path)
    assert facts["image_shape"] is None
    assert not any(name.startswith("adaptors.1") for name in weights(tmp_path / "out"))


@pytest.mark.parametrize("family", ["unisrec", "unim2rec"])
def test_stopped_and_taken_up_is_the_same_as_uninterrupted(family, domain, tmp_path):
    """Losses and weights are equal, whoever else draws from torch in between."""
    whole = run(family, [domain], tmp_path / "whole")

    def stop(event):
        if event["event"] == "step" and event["epoch"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(family, [domain], tmp_path / "stopped", log=stop)
    torch.rand(7)
    again = run(family, [domain], tmp_path / "stopped")
    assert again["losses"] == whole["losses"]
    one, other = weights(tmp_path / "whole" / "out"), weights(tmp_path / "stopped" / "out")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_finished_work_is_not_repeated_and_not_overwritten(domain, tmp_path, monkeypatch):
    """A finished run is returned as it is, and another seed or setting is refused."""
    first = run("unisrec", [domain], tmp_path)
    monkeypatch.setattr(module, "_train_epoch", lambda *_: pytest.fail("trained again"))
    assert run("unisrec", [domain], tmp_path) == first
    for changes in ({"seed": 1}, {"config": dataclasses.replace(PRETRAIN, drop=0.3)}):
        with pytest.raises(UserError, match="found a checkpoint of other settings"):
            run("unisrec", [domain], tmp_path, **changes)


@pytest.mark.parametrize("epochs", [2, 6])
def test_a_finished_pretraining_of_other_epochs_is_said_to_be_that(epochs, domain, tmp_path):
    """The error names the finished number of epochs, and the weights stay."""
    run("unisrec", [domain], tmp_path)
    kept = weights(tmp_path / "out")
    message = (
        rf"^--pretrain_epochs: found {epochs}, expected the 4 with which .*pretraining\.json is "
        r"finished \(or another --output_dir\)$"
    )
    with pytest.raises(UserError, match=message):
        run("unisrec", [domain], tmp_path, config=dataclasses.replace(PRETRAIN, epochs=epochs))
    assert weights(tmp_path / "out").keys() == kept.keys()
    assert run("unisrec", [domain], tmp_path).get("epochs") == 4


def test_state_of_another_pretraining_is_refused(domain, tmp_path):
    """The error names the file whose state has other settings or data."""

    def stop(event):
        if event["event"] == "epoch" and event["epoch"] == 2:  # the first is kept
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("unisrec", [domain], tmp_path, log=stop)
    with pytest.raises(UserError, match=r"state\.pt: found a pre-training of other settings"):
        run("unisrec", [without_images(domain), ring_world(users=9)], tmp_path)


def test_a_stopped_pretraining_can_end_with_the_epochs_that_are_done(domain, tmp_path):
    """The checkpoint names the two epochs that were kept; asking for fewer is an error."""

    def stop(event):
        if event["event"] == "epoch" and event["epoch"] == 3:  # two are kept
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("unisrec", [domain], tmp_path, log=stop)
    with pytest.raises(UserError, match="--pretrain_epochs: found 1, expected at least the 2"):
        run("unisrec", [domain], tmp_path, config=dataclasses.replace(PRETRAIN, epochs=1))
    facts = run("unisrec", [domain], tmp_path, config=dataclasses.replace(PRETRAIN, epochs=2))
    assert facts["epochs"] == len(facts["losses"]) == 2
    assert facts["seconds"] > 0


def test_domains_are_joined_without_mixing_users_or_items():
    """The second domain's users and items are numbered after those of the first."""
    first, second = ring_world(users=3, items=5, length=4), ring_world(users=2, items=6, length=3)
    joined = join_interactions([first, second])
    assert joined.indptr.tolist() == [0, 4, 8, 12, 15, 18]
    assert joined.items[:12].tolist() == first.interactions.items.tolist()
    assert joined.items[12:].tolist() == (second.interactions.items + 5).tolist()


def test_prefixes_are_left_aligned_and_end_before_the_target():
    """A long prefix keeps its last items and has none of another user's."""
    interactions = interactions_of([7, 8, 9, 5], [1, 2])
    rows, lengths = prefixes(interactions, np.array([3, 5, 1]), max_seq_len=2)
    assert rows.tolist() == [[9, 10], [2, 0], [8, 0]]
    assert lengths.tolist() == [2, 1, 1]


def test_one_coin_decides_for_the_whole_batch():
    """Nine batches in ten drop items and the rest replace them, each a share of 0.2."""
    rows, lengths = torch.randint(1, 50, (400, 10)), torch.full((400,), 10)
    torch.manual_seed(0)
    coins, dropped, replaced = [], [], []
    for _ in range(200):
        batch = augmented_batch(rows, lengths, rows[:, 0], PretrainConfig(), 50, variants=2)
        shorter = bool((batch.augmented_lengths != 10).any())
        coins.append(shorter)
        if shorter:
            assert int(batch.augmented_seq.max()) < 50
            # The first item is always kept.
            dropped.append((10 - batch.augmented_lengths.float().mean()) / 9)
        else:
            by = (batch.augmented_seq - rows) // 50
            assert set(by.unique().tolist()) == {0, 1, 2}
            replaced.append((by > 0).float().mean())
    assert np.mean(coins) == pytest.approx(0.9, abs=0.05)
    assert np.mean(dropped) == pytest.approx(0.2, abs=0.01)
    assert np.mean(replaced) == pytest.approx(0.2, abs=0.01)
