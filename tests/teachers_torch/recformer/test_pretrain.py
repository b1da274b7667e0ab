import dataclasses
import json

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from teachers_torch.config import RecformerConfig, RecformerPretrainConfig
from teachers_torch.recformer import pretrain_loop
from teachers_torch.recformer.model import Recformer
from teachers_torch.recformer.official import CARD
from teachers_torch.recformer.pairs import DomainHistory, Pairs, View
from teachers_torch.recformer.pretrain import STATE, pretrain
from teachers_torch.recformer.pretrain_loop import in_batch_accuracy, pretraining_loss
from teachers_torch.recformer.start import build_model, load_start
from teachers_torch.recformer.tokens import Reader, tokenize
from teachers_torch.states import save_state
from tests.teachers_torch.recformer_worlds import (
    ARCHITECTURE,
    lively,
    random_model,
    random_tokens,
    tiny_tokenizer,
)
from tests.teachers_torch.worlds import ring_world, settings_of

SMALL = RecformerPretrainConfig(
    learning_rate=3e-3, batch_size=8, accumulate=2, max_epochs=3, validation_share=0.2
)


def view(lengths, seed):
    tokens = random_tokens(lengths, seed)
    labels = torch.full_like(tokens.input_ids, -100)
    labels[:, 1] = tokens.input_ids[:, 1]
    masked = tokens.input_ids.clone()
    masked[:, 1] = 4
    return View(tokens, tokens._replace(input_ids=masked), labels)


def test_the_loss_is_the_sum_of_its_three_parts():
    """The contrast is computed on whole texts, the language losses on masked ones."""
    model = random_model(language_head=True)
    history, item = view([9, 6, 4], 0), view([5, 3, 3], 1)
    a = model.longformer(history.tokens)[:, 0].detach().double().numpy()
    b = model.longformer(item.tokens)[:, 0].detach().double().numpy()
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))

    def cross_entropy(logits, classes):
        return np.mean(np.log(np.exp(logits).sum(1)) - logits[range(3), classes])

    expected = cross_entropy(a @ b.T / 0.05, range(3))
    for one in (history, item):
        logits = model.lm_head(model.longformer(one.masked)[:, 1]).detach().double().numpy()
        expected += 0.1 * cross_entropy(logits, one.tokens.input_ids[:, 1].numpy())
    loss = pretraining_loss(model, history, item, 0.05, 0.1)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert model.lm_head.decoder.weight.grad.any()


def test_the_loss_is_made_in_float32_where_the_encoder_is_in_bfloat16():
    """The loss is float32, from the encoder's vectors in bfloat16, and gradients flow."""
    model = random_model(language_head=True)
    views = view([9, 6, 4], 0), view([5, 3, 3], 1)
    exact = float(pretraining_loss(model, *views, 0.05, 0.0).detach())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = pretraining_loss(model, *views, 0.05, 0.0)
        vectors = [model.longformer(each.tokens)[:, 0].detach().float() for each in views]
    loss.backward()
    a, b = (torch.nn.functional.normalize(each, dim=1) for each in vectors)
    expected = torch.nn.functional.cross_entropy(a @ b.T / 0.05, torch.arange(3))
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-4)
    assert float(expected) == pytest.approx(exact, rel=0.2)


def test_accuracy_is_the_share_of_nearest_own_items():
    """Two of three histories are nearest to their own item."""
    histories = torch.eye(4)[[0, 1, 2, 0]]
    items = torch.tensor([[1.0, 0, 0, 0], [50.0, 10, 0, 0], [0, 0.1, 9, 0], [0, 0, 0, 1]])
    assert in_batch_accuracy(histories, items) == pytest.approx(3 / 4)


def test_accuracy_counts_each_validation_pair_once():
    """A last batch of one pair counts as one pair, and dropout is off."""
    model, words = lively(Recformer(ARCHITECTURE, dropout=0.5)), tiny_tokenizer()
    titles = ["red lamp", "blue lamp", "item 3", "acme .", "red red", "item 7 blue"]
    reader = Reader(tokenize({"title": titles}, words, 32), 0, 1, 5, 99, 5)
    items = [[0, 1], [2, 3], [4, 5], [1, 2], [3, 0, 4]]
    pairs = Pairs([DomainHistory(reader, np.array(x)) for x in items], 4, 30, 0.15)
    rows, rng, right = np.array([4, 0, 2, 1, 3]), np.random.default_rng(0), 0
    for chosen in ([4, 0], [2, 1], [3]):
        views = pairs.draw(np.array(chosen), rng)
        a, b = (model.longformer(view.tokens)[:, 0].detach().double().numpy() for view in views)
        b /= np.linalg.norm(b, axis=1, keepdims=True)
        right += int(((a @ b.T).argmax(axis=1) == np.arange(len(chosen))).sum())
    assert right < 5
    found = pretrain_loop._accuracy(model.train(), pairs, rows, RecformerConfig(), 2)
    assert found == pytest.approx(right / 5)


def test_accumulated_gradients_are_those_of_the_mean_loss():
    """Gathering more batches doesn't make the gradients larger."""
    model = random_model(language_head=True)
    views = [(view([9, 6, 4], 0), view([5, 3, 3], 1)), (view([7, 2], 2), view([4, 4], 3))]
    for pair in views:
        (pretraining_loss(model, *pair, 0.05, 0.1) / 2).backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    config = RecformerConfig(dropout=0.0, temperature=0.05)
    settings = dataclasses.replace(SMALL, accumulate=2, mlm_weight=0.1)
    for pair in views:
        pretrain_loop._add_gradients(model, pair, config, settings)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], msg=name)


@pytest.fixture
def config(tmp_path):
    tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    return RecformerConfig(
        init="random", tokenizer=str(tmp_path / "tiny"), hidden_size=16, inner_size=16,
        max_tokens=20, dropout=0.0, fix_word_embeddings=False,
    )  # fmt: skip


def run(config, tmp_path, seed=0, datasets=None, **changes):
    events = []
    result = pretrain(
        datasets or [ring_world(users=30), ring_world(users=10)],
        settings_of(config, max_seq_len=10),
        dataclasses.replace(SMALL, **changes),
        tmp_path / "out",
        cache=Cache(tmp_path / "cache"),
        seed=seed,
        log=events.append,
    )
    return result, events


def test_it_learns_and_tuning_can_begin_there(config, tmp_path):
    """The loss falls by a quarter, and the card names the best epoch and its accuracy."""
    result, events = run(config, tmp_path, max_epochs=10, accumulate=1, learning_rate=1e-2)
    found = [event for event in events if event["event"] == "validation"]
    assert [event["epoch"] for event in found] == list(range(1, 11))
    assert found[-1]["loss"] < 0.75 * found[0]["loss"]
    best = max(event["accuracy"] for event in found)
    assert result.accuracy == best > found[0]["accuracy"]
    assert result.epochs == 10
    card = json.loads((tmp_path / "out" / "recformer.json").read_text())
    assert (card["accuracy"], card["best_epoch"]) == (best, result.best_epoch)
    assert (card["domains"], card["histories"]) == (["ring", "ring"], 40)
    config = dataclasses.replace(config, init=str(tmp_path / "out"), tokenizer="")
    model = build_model(load_start(config, 10), config, num_items=20)
    assert model.architecture.hidden_size == 16


def test_the_seed_decides_everything(config, tmp_path):
    """Losses repeat with the seed, and torch's random state is left as it was."""
    torch.manual_seed(1)
    state = torch.get_rng_state()
    losses = []
    for number, seed in enumerate((3, 3, 4)):
        _, events = run(config, tmp_path / str(number), seed=seed, max_epochs=1)
        losses.append([e["loss"] for e in events if e["event"] == "validation"])
    assert torch.equal(torch.get_rng_state(), state)
    assert losses[0] == losses[1] != losses[2]


def test_gradients_are_gathered_and_clipped(config, tmp_path, monkeypatch):
    """Four batches gathered in threes are two steps, each clipped to a norm of 1."""
    steps, norms = [], []
    step = torch.optim.AdamW.step

    def spy(self, *args, **kwargs):
        steps.append(1)
        gradients = [p.grad for g in self.param_groups for p in g["params"] if p.grad is not None]
        norms.append(float(torch.stack([g.norm() for g in gradients]).norm()))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    # 32 histories in 4 batches + validations within the epoch.
    _, events = run(config, tmp_path, max_epochs=1, accumulate=3, evaluate_every=2)
    assert [event["step"] for event in events if event["event"] == "step"] == [1, 2, 3, 4]
    assert len([event for event in events if event["event"] == "validation"]) == 2
    assert len(steps) == 2
    assert max(norms) < 1.001


def test_every_batch_has_dropout_and_no_word_moves_that_is_fixed(config, tmp_path, monkeypatch):
    """Dropout is on again after each validation, and the fixed word table doesn't move."""
    modes, tables = [], []

    def spy(model, *arguments):
        modes.append(model.training)
        embeddings = model.longformer.embeddings.state_dict()
        tables.append({name: table.clone() for name, table in embeddings.items()})
        return pretraining_loss(model, *arguments)

    monkeypatch.setattr(pretrain_loop, "pretraining_loss", spy)
    config = dataclasses.replace(config, fix_word_embeddings=True)
    run(config, tmp_path, max_epochs=1, accumulate=1, evaluate_every=1)
    assert modes == [True] * 4
    moved = [name for name in tables[0] if not torch.equal(tables[0][name], tables[-1][name])]
    assert "word_embeddings.weight" not in moved
    assert "position_embeddings.weight" in moved


def test_what_can_not_be_pretrained_is_refused(config, tmp_path):
    """Fewer than 4 histories, and a tokenizer without a mask token, are each a UserError."""
    with pytest.raises(UserError, match="--domains: found 3 histories, expected at least 4"):
        run(config, tmp_path, datasets=[ring_world(users=3)])
    core = tiny_tokenizer().backend_tokenizer
    plain = PreTrainedTokenizerFast(tokenizer_object=core, cls_token="<s>", pad_token="<pad>")
    plain.save_pretrained(tmp_path / "plain")
    config = dataclasses.replace(config, tokenizer=str(tmp_path / "plain"))
    with pytest.raises(UserError, match="without a mask token"):
        run(config, tmp_path)


@pytest.mark.parametrize(
    ("draws", "accumulate", "left"), [(1, 2, 8), (4, 2, 6), (7, 2, 4), (4, 3, 5)]
)
def test_stopped_and_taken_up_is_the_same_as_uninterrupted(
    config, tmp_path, draws, accumulate, left, monkeypatch
):
    """Result and files are the same byte for byte, and a finished run takes no step."""
    settings = {"max_epochs": 2, "accumulate": accumulate, "evaluate_every": 2}
    whole, _ = run(config, tmp_path / "whole", **settings)
    draw, seen = Pairs.draw, []

    def stopping(self, *arguments):
        if len(seen) == draws:
            raise KeyboardInterrupt
        seen.append(arguments)
        return draw(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Pairs, "draw", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "part", **settings)
    again, events = run(config, tmp_path / "part", **settings)
    assert again == whole
    # Two validations an epoch, after each of which the state is saved at the next step.
    assert len([event for event in events if event["event"] == "step"]) == left
    # The same again finds it finished.
    assert run(config, tmp_path / "part", **settings) == (whole, [])
    parts = [tmp_path / name / "out" for name in ("whole", "part")]
    files = [sorted(p.relative_to(part) for p in part.rglob("*") if p.is_file()) for part in parts]
    assert files[0] == files[1]
    for file in files[0]:
        assert (parts[0] / file).read_bytes() == (parts[1] / file).read_bytes(), file


def test_the_state_of_another_pretraining_is_refused(config, tmp_path):
    """The error says that the state belongs to other settings or data."""
    save_state(tmp_path / "out" / STATE, {"identity": "another"})
    with pytest.raises(UserError, match="found a pre-training of other settings or data"):
        run(config, tmp_path)


def test_a_loss_that_is_not_finite_keeps_no_weights(config, tmp_path):
    """The error names the epoch and the loss, and no card is written."""
    with pytest.raises(
        UserError, match=r"epoch 1 of a teacher: found a loss of (nan|inf), expected"
    ):
        run(config, tmp_path, max_epochs=1, accumulate=1, mlm_weight=1e38)
    assert not (tmp_path / "out" / CARD).exists()
