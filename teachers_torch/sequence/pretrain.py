"""Pre-training of UniSRec and UniM²Rec-style teachers on other domains."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch import nn

from prmkd_jax.common.cache import Cache
from prmkd_jax.common.digests import file_digest
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import writing
from prmkd_jax.common.sealed import write_sealed_json
from prmkd_jax.data.dataset import Dataset, Interactions
from prmkd_jax.data.splits import leave_one_out
from teachers_torch.config import PretrainConfig
from teachers_torch.losses import require_finite
from teachers_torch.sequence.contrast import PretrainBatch, item_drop, replace_rows
from teachers_torch.sequence.pretrain_task import (
    PretrainTask,
    build,
    describe,
    identity,
    join_interactions,
)
from teachers_torch.sequence.start import FACTS, WEIGHTS, WEIGHTS_DIGEST, PretrainFacts, read_facts
from teachers_torch.settings import TeacherSettings
from teachers_torch.states import (
    BEFORE,
    best_device,
    load_state,
    remove_state,
    save_state,
    save_weights,
    seeded,
)
from teachers_torch.teacher import Log
from teachers_torch.training import train_epoch

STATE = "state.pt"


def written(config: PretrainConfig) -> tuple[list[str], list[str]]:
    """The files of a finished pre-training, and those that may be there as well."""
    files = [WEIGHTS, FACTS]
    epochs = range(config.save_every, config.epochs, config.save_every)
    return files, [
        STATE,
        STATE + BEFORE,
        *(f"epoch-{epoch}/{file}" for epoch in epochs for file in files),
    ]


def pretrain(
    family: str,
    domains: Sequence[Dataset],
    settings: TeacherSettings,
    config: PretrainConfig,
    folder: Path,
    *,
    cache: Cache,
    seed: int,
    log: Log,
) -> PretrainFacts:
    """Pre-trains a model on the training parts of several domains and writes a checkpoint.

    It begins from the weights that `settings.init` names for the family, all of which are trained.

    Batches mix all domains. Nothing is validated: the checkpoint is that of the last epoch,
    and `epoch-<n>` folders in `folder` hold the earlier ones. After every epoch the complete
    state is saved there as well, so a stopped pre-training continues with the same numbers.

    Args:
        family: `unisrec` or `unim2rec`.
        domains: data sets, at least one; a user active in two is two users.
        settings: the teachers' settings, the model's among them.
        config: optimisation and augmentations.
        cache: holds encoded texts and images.
        seed: seed of weights, batches, dropout, noise and augmentations.
        log: receives `encode_texts`, `encode_images`, `step` and `epoch` events.

    Returns:
        The content of the checkpoint's `pretraining.json`.

    Raises:
        UserError: inputs are missing or wrong, or the folder holds another pre-training.
    """
    interactions = join_interactions(domains)
    instances = _training_instances(interactions)
    with seeded(seed):
        task = build(family, domains, settings, config, seed, cache, log)
        model = task.model.to(best_device())
        facts = describe(family, domains, settings, config, task, seed)
        if (done := _finished(folder, facts)) is not None:
            return done
        optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)

        def train(epoch: int) -> float:
            order = np.random.default_rng([seed, epoch]).permutation(instances)
            return _train_epoch(task, optimizer, interactions, order, settings, config, epoch, log)

        _train(model, optimizer, train, facts, config, folder, log)
    _write(model, facts, folder)
    remove_state(folder / STATE)
    return facts


def _training_instances(interactions: Interactions) -> Int64[np.ndarray, " instances"]:
    """Raises a UserError where there is none."""
    instances = leave_one_out(interactions).train
    if not len(instances):
        raise UserError("--domains: found no training instance, expected histories of 4 or more")
    return instances


def prefixes(
    interactions: Interactions, instance_ids: Int64[np.ndarray, " batch"], max_seq_len: int
) -> tuple[Int64[np.ndarray, "batch length"], Int64[np.ndarray, " batch"]]:
    """The prefixes of instances as left-aligned table rows (item + 1, 0 after the end).

    Args:
        interactions: the histories.
        instance_ids: CSR offsets of the targets.
        max_seq_len: the longest prefix; of a longer one the last items are taken.

    Returns:
        The rows, as wide as the longest prefix, and the prefixes' lengths.
    """
    begin = interactions.indptr[interactions.users[instance_ids]]
    start = np.maximum(begin, instance_ids - max_seq_len)
    lengths = instance_ids - start
    places = np.arange(lengths.max())
    real = places < lengths[:, None]
    rows = interactions.items[np.where(real, start[:, None] + places, 0)].astype(np.int64) + 1
    return np.where(real, rows, 0), lengths


def augmented_batch(
    item_seq: torch.Tensor,
    lengths: torch.Tensor,
    targets: torch.Tensor,
    config: PretrainConfig,
    num_items: int,
    variants: int,
) -> PretrainBatch:
    """Adds the augmented sequences, drawn from torch's global generator.

    One coin decides for all of the batch: items are dropped, or each item that is drawn is
    read without some of its words (or without one modality, either with the same chance).

    Args:
        item_seq: left-aligned table rows.
        lengths: items of each sequence.
        targets: table row of each next item.
        config: the probabilities.
        num_items: rows from an item to its first variant.
        variants: how many variants there are.
    """
    keep = torch.rand(item_seq.shape, device=item_seq.device) >= config.drop
    if float(torch.rand(())) < config.item_drop:
        return PretrainBatch(item_seq, lengths, targets, *item_drop(item_seq, lengths, keep))
    chosen = torch.randint(1, variants + 1, item_seq.shape, device=item_seq.device)
    augmented = replace_rows(item_seq, keep, chosen * num_items)
    return PretrainBatch(item_seq, lengths, targets, augmented, lengths)


def _train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    train: Callable[[int], float],
    facts: PretrainFacts,
    config: PretrainConfig,
    folder: Path,
    log: Log,
) -> None:
    """All epochs that are left; what they took and gave is added to the facts."""
    epoch, seconds, losses = _resume(folder / STATE, facts, model, optimizer)
    facts.update({"epochs": epoch, "losses": losses, "seconds": seconds})
    while epoch < config.epochs:
        epoch += 1
        started = time.perf_counter()
        loss = train(epoch)
        require_finite(loss, epoch)
        losses.append(loss)
        took = time.perf_counter() - started
        seconds += took
        facts.update({"epochs": epoch, "losses": losses, "seconds": seconds})
        if epoch % config.save_every == 0 and epoch < config.epochs:
            _write(model, facts, folder / f"epoch-{epoch}")
        state = {
            "identity": identity(facts),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "epoch": epoch,
            "seconds": seconds,
            "losses": losses,
        }
        # Logged before it is kept, so that a kill between the two loses no line.
        log({"event": "epoch", "epoch": epoch, "loss": loss, "seconds": took})
        save_state(folder / STATE, state)


def _train_epoch(
    task: PretrainTask,
    optimizer: torch.optim.Optimizer,
    interactions: Interactions,
    order: Int64[np.ndarray, " instances"],
    settings: TeacherSettings,
    config: PretrainConfig,
    epoch: int,
    log: Log,
) -> float:
    """One pass over the instances in this order; returns their mean loss."""
    device = next(task.model.parameters()).device

    def loss_of(ids: np.ndarray) -> tuple[torch.Tensor, int]:
        arrays = (*prefixes(interactions, ids, settings.max_seq_len), interactions.items[ids] + 1)
        item_seq, lengths, targets = (torch.from_numpy(a.astype(np.int64)) for a in arrays)
        rows = item_seq.to(device), lengths.to(device), targets.to(device)
        batch = augmented_batch(*rows, config, task.num_items, task.variants)
        return task.model.pretrain_loss(batch, config), len(ids)

    starts = range(0, len(order), config.batch_size)
    batches = (order[at : at + config.batch_size] for at in starts)
    return train_epoch(task.model, optimizer, batches, loss_of, epoch, len(starts), log)


def _finished(folder: Path, facts: PretrainFacts) -> PretrainFacts | None:
    """The facts of the same pre-training, if the folder holds it finished; no state stays.

    Raises:
        UserError: the folder holds another one, one of other epochs, or it is damaged.
    """
    path = folder / FACTS
    if not path.is_file():
        return None
    found = read_facts(folder)
    if identity(found) != identity(facts):
        raise UserError(
            f"{path}: found a checkpoint of other settings or data, expected none (delete the "
            "folder, or choose another)"
        )
    # A kill may have come before the run's manifest said that it is finished.
    asked, done = facts["pretraining"]["epochs"], found.get("epochs")
    if asked != done:
        raise UserError(
            f"--pretrain_epochs: found {asked}, expected the {done} with which {path} is finished "
            "(or another --output_dir)"
        )
    remove_state(folder / STATE)  # a kill may have come before it was
    return found


def _resume(
    path: Path, facts: PretrainFacts, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, float, list[float]]:
    """Restores a stopped pre-training; returns its epochs, seconds and losses so far.

    Raises:
        UserError: the state is of another pre-training.
    """
    state = load_state(path)
    if state is None:
        return 0, 0.0, []
    if state["identity"] != identity(facts):
        raise UserError(
            f"{path}: found a pre-training of other settings or data, expected the same to go "
            "on with (delete it to start over)"
        )
    if state["epoch"] > facts["pretraining"]["epochs"]:
        raise UserError(
            f"--pretrain_epochs: found {facts['pretraining']['epochs']}, expected at least the "
            f"{state['epoch']} that are done in {path}"
        )
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["epoch"], state["seconds"], state["losses"]


def _write(model: torch.nn.Module, facts: PretrainFacts, folder: Path) -> None:
    """Writes a checkpoint; its facts come last, so that without them there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FACTS).unlink(missing_ok=True)
    with writing(folder / WEIGHTS) as partial:
        save_weights(model, partial)
    digest = file_digest(folder / WEIGHTS)
    write_sealed_json(folder / FACTS, {**facts, WEIGHTS_DIGEST: digest})
