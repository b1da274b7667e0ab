"""The teachers' stage: tuned once, encoded once, then read from the cache by every run."""

import dataclasses
import json
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32

from bridge.teacher_bank import Vectors, has_vectors, read_vectors, write_vectors
from experiments.cli.console import Reporter
from experiments.cli.settings import Settings
from prmkd_jax.data.dataset import Dataset
from prmkd_jax.data.splits import Split
from teachers_torch.checks import check_inputs
from teachers_torch.items.inputs import Log
from teachers_torch.registry import require_inputs
from teachers_torch.shards import encode_in_shards
from teachers_torch.store import CARD, load, save, save_card
from teachers_torch.tuning import ENCODER_VERSION, fingerprint, tune, tuning_state


class ReadyTeacher(NamedTuple):
    """A tuned and encoded teacher.

    Attributes:
        vectors: memory-mapped.
        card: its teacher card.
    """

    vectors: Vectors
    card: dict[str, Any]


def prepare_teachers(
    dataset: Dataset, split: Split, settings: Settings, reporter: Reporter, log: Log
) -> list[ReadyTeacher]:
    """The run's teachers, from the cache or tuned and encoded.

    A folder's name holds a hash of all that a teacher's vectors depend on, so a change of any of
    it leads to another folder, and nothing else leads to repeated work.

    Raises:
        UserError: a teacher lacks its inputs; told before the first is tuned.
    """
    names = settings.run.teachers
    for name in names:
        require_inputs(name, dataset)
        fingerprint(name, dataset, split, settings.teachers, settings.run.teacher_seed)
    return [_prepare(name, dataset, split, settings, reporter, log) for name in names]


def check_teachers(
    dataset: Dataset, split: Split, settings: Settings, checked: set[Path] | None = None
) -> None:
    """Finds what would stop a teacher later: its vectors, or all that it is made of.

    Args:
        dataset: the data.
        split: its parts.
        settings: which teachers.
        checked: folders of teachers that need no second look; those checked now are added.

    Raises:
        UserError: a teacher lacks its inputs, they are damaged, or its settings can't be.
    """
    cache_dir = Path(settings.run.cache_dir)
    for name in settings.run.teachers:
        folder, identity = _place(name, dataset, split, settings)
        if checked is not None and folder in checked:
            continue
        if has_vectors(folder):
            read_vectors(folder, identity)
        else:
            check_inputs(name, dataset, settings.teachers, cache_dir)
        if checked is not None:
            checked.add(folder)


def _place(
    name: str, dataset: Dataset, split: Split, settings: Settings
) -> tuple[Path, dict[str, Any]]:
    """The folder of a teacher's vectors, and what they are."""
    run = settings.run
    key = fingerprint(name, dataset, split, settings.teachers, run.teacher_seed)
    folder = Path(run.cache_dir) / "teachers" / f"{name}-{key}"
    return folder, {
        "teacher": name,
        "key": key,
        "data": dataset.fingerprint,
        "instances": len(dataset.interactions.items),
        "items": dataset.num_items,
        "encoder_version": ENCODER_VERSION,
    }


def _prepare(
    name: str, dataset: Dataset, split: Split, settings: Settings, reporter: Reporter, log: Log
) -> ReadyTeacher:
    folder, identity = _place(name, dataset, split, settings)
    if has_vectors(folder):
        reporter.say(f"Teacher {name}: from the cache, {folder}")
    else:
        _tune_and_encode(name, dataset, split, settings, folder, identity, reporter, log)
    vectors = read_vectors(folder, identity)
    return ReadyTeacher(vectors, json.loads((folder / CARD).read_text()))


def same_vectors(items: Float32[np.ndarray, "items d"]) -> Bool[np.ndarray, " items"]:
    """Whether another item has the very same vector, as stored in float16: their scores tie."""
    stored = items.astype(np.float16)
    _, group, count = np.unique(stored, axis=0, return_inverse=True, return_counts=True)
    return count[group.reshape(-1)] > 1


def _tune_and_encode(
    name: str,
    dataset: Dataset,
    split: Split,
    settings: Settings,
    folder: Path,
    identity: dict[str, Any],
    reporter: Reporter,
    log: Log,
) -> None:
    """Tunes, unless a run that was killed while encoding did so, then encodes."""
    title, cache_dir = f"Teacher {name}", Path(settings.run.cache_dir)
    encoding = False

    with reporter.stage(title, "parts") as stage:

        def on_event(event: dict[str, Any]) -> None:
            if event["event"] == "encode_texts":
                stage.update(event["done"], event["total"], f"{title}: encoding texts")
            elif event["event"] == "encode_images":
                stage.update(event["done"], event["total"], f"{title}: encoding pictures")
            elif event["event"] == "encode" and not encoding:
                stage.update(event["done"], event["total"], f"{title}: encoding tokens")
            elif event["event"] == "step":
                stage.update(event["step"], event["steps"], f"{title}: epoch {event['epoch']}")
            elif event["event"] == "epoch":
                reporter.say(
                    f"{title}: epoch {event['epoch']:3d}  loss {event['loss']:.4f}  "
                    f"validation NDCG@10 {event['NDCG@10']:.4f} (best at {event['best_epoch']})  "
                    f"{event['seconds']:.1f} s"
                )
                log({"stage": "teacher", **event})

        if (folder / CARD).is_file():
            reporter.say(f"{title}: tuned before, in {folder}")
            teacher, card = load(
                name, folder, dataset, settings.teachers, cache_dir=cache_dir, log=on_event
            )
        else:
            teacher, card = tune(
                name,
                dataset,
                split,
                settings.teachers,
                cache_dir=cache_dir,
                seed=settings.run.teacher_seed,
                log=on_event,
            )
            save(teacher, card, folder)

        def on_shard(done: int, total: int) -> None:
            stage.update(done, total, f"{title}: encoding instances")

        # From here on the bar counts instances.
        started, encoding = time.perf_counter(), True
        instances = encode_in_shards(
            teacher, len(dataset.interactions.items), folder / "shards", on_shard
        )
        items = teacher.encode_items()
    tied = same_vectors(items)
    if tied.any():
        share = np.mean(tied[dataset.interactions.items])
        reporter.say(
            f"{title}: can't tell {tied.sum():,} of {len(tied):,} items from another one (equal "
            f"vectors); {100 * share:.1f} % of the interactions are with them"
        )
    seconds = time.perf_counter() - started
    card = dataclasses.replace(card, encode_seconds=seconds, tied_items=int(tied.sum()))
    save_card(card, folder)
    write_vectors(
        folder,
        name=name,
        scale=teacher.score_scale,
        identity=identity,
        instances=instances,
        items=items,
    )
    shutil.rmtree(folder / "shards")
    tuning_state(cache_dir, name, identity["key"]).unlink(missing_ok=True)
