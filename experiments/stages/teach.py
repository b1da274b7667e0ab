"""The body of `teach`: trained students as files that `--precomputed_folder` takes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.cli.command import Call
from experiments.cli.console import Reporter
from experiments.cli.options import TeachConfig
from experiments.stages.data import task_of, trained_data
from prmkd_jax.common.digests import file_digest
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import writing_folder
from prmkd_jax.common.places import require_place
from prmkd_jax.common.sealed import read_sealed_json, write_sealed_json
from prmkd_jax.data.config import DataConfig
from prmkd_jax.data.task import Task
from prmkd_jax.serve.card import Card, CardRecord
from prmkd_jax.serve.contents import read_options, require_same_ids
from prmkd_jax.serve.exported import CARD, IDS, Exported, read_card, read_exported
from prmkd_jax.serve.knowledge import Knowledge, joint_vectors, knowledge, mean_scores
from teachers_torch.given.list_files import IDS as LIST_IDS
from teachers_torch.given.list_files import OFFSETS, REST, VALUES
from teachers_torch.given.precomputed import INSTANCES, ITEMS, MADE_FILES, MADE_OF
from teachers_torch.ranked_lists import as_lists, best

TAUGHT = (INSTANCES, ITEMS, OFFSETS, LIST_IDS, VALUES, REST)
"""Files that a teacher may have, beside `MADE_OF`."""
LISTED = 200
"""Items of an instance's list, where scores are no inner products; the rest has its mean."""
ROWS_AT_ONCE = 512


def run(call: Call) -> None:
    """Writes one teacher's files: its scores are the mean of the students'."""
    config = call.config(TeachConfig)
    config.require()
    folder = Path(config.output_dir)
    require_place(folder, "--output_dir")
    paths = [Path(path) for path in config.models]
    cards = {path: read_card(path) for path in paths}
    task = _task(config, cards)
    made_of = {
        "data": task.dataset.fingerprint,
        "split": task.split_digest,
        "students": [card["digest"] for card in cards.values()],
    }
    if _is_made(folder, made_of):
        call.reporter.say(f"{folder}: made before, of these students")
        return
    known = [knowledge(_read(path, cards[path], task), task.dataset) for path in paths]
    with writing_folder(folder, replaced={MADE_OF, *TAUGHT}) as partial:
        what = _write(partial, known, call.reporter)
        digests = {path.name: file_digest(path) for path in sorted(partial.iterdir())}
        write_sealed_json(partial / MADE_OF, {**made_of, MADE_FILES: digests})
    names = ", ".join(card["label"] for card in cards.values())
    call.reporter.say(f"{folder}: {what} of {names}, for --precomputed_folder={folder}")


def _task(config: TeachConfig, cards: Mapping[Path, Card]) -> Task:
    """The data and the split that all students were trained on.

    Raises:
        UserError: one saw more than its training part, others', or other data than the first.
    """
    data = None
    for folder, card in cards.items():
        path, record = folder / CARD, card["record"]
        _require_unseen(path, record)
        found = trained_data(card, path, config.dataset, config.data_dir)
        split = {"split": record["split"].get("name"), "split_at": record["split"].get("cuts")}
        split = {name: value for name, value in split.items() if value is not None}
        options = {**vars(found), **split}
        data = data or read_options(path, "record.split", options, DataConfig)
    assert data is not None  # config.require()
    task = task_of(data)
    for folder, card in cards.items():
        for what, one, expected in (
            ("data with fingerprint", card["dataset"].get("fingerprint"), task.dataset.fingerprint),
            ("split", card["record"]["split"].get("digest"), task.split_digest),
        ):
            if one != expected:
                raise UserError(
                    f"{folder / CARD}: found {what} {one}, expected {expected} as of "
                    f"{task.dataset.name}: all students must have been trained on it"
                )
    return task


def _require_unseen(path: Path, record: CardRecord) -> None:
    """Refuses a student that may have trained on what it will be asked about.

    Raises:
        UserError: naming the card and why.
    """
    settings, split = record.get("settings") or {}, record.get("split")
    why = ""
    if not isinstance(split, dict) or "refit" not in settings:
        why = "no record of a training"
    elif settings["refit"]:
        why = "a student that has seen the validation part too (--refit)"
    elif record.get("updated_from") or record.get("student_init"):
        why = "a student that began from another one, which may have seen more"
    if why:
        raise UserError(
            f"{path}: found {why}, expected one that train has left without --refit and --init"
        )


def _is_made(folder: Path, made_of: Mapping[str, object]) -> bool:
    """Whether the folder holds what is asked for, as it was written.

    What is missing or damaged is made again, and so are files of before their digests were kept.

    Raises:
        UserError: it holds something else.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return False
    try:
        found = read_sealed_json(folder / MADE_OF)
    except (OSError, ValueError):
        found = {}
    digests = found.pop(MADE_FILES, {})
    if found != made_of:
        raise UserError(f"--output_dir: found files in {folder}, expected a new or empty folder")
    if not isinstance(digests, dict):
        return False
    return bool(digests) and all(
        (folder / name).is_file() and file_digest(folder / name) == digest
        for name, digest in digests.items()
    )


def _read(path: Path, card: Card, task: Task) -> Exported:
    """The student that this is the card of.

    Raises:
        UserError: it is damaged, of other items or users, or another one, which may have seen
            more, has taken its place meanwhile.
    """
    exported = read_exported(path)
    if exported.card["digest"] != card["digest"]:
        raise UserError(f"{path}: found it replaced while it was read, expected it to stay")
    require_same_ids(path / IDS, "item_ids", exported.item_ids, task.dataset.item_ids)
    if exported.user_ids is not None:
        require_same_ids(path / IDS, "user_ids", exported.user_ids, task.dataset.user_ids)
    return exported


def _write(folder: Path, known: Sequence[Knowledge], reporter: Reporter) -> str:
    """Writes vectors where they say it all, else lists; tells which."""
    vectors = joint_vectors(known)
    if vectors is not None:
        for name, array in zip((INSTANCES, ITEMS), vectors, strict=True):
            np.save(folder / name, array)
        return "vectors"
    count = len(known[0].queries)
    has_prefix = np.zeros(count, bool)
    has_prefix[known[0].has_prefix] = True
    rows = []
    with reporter.stage("Lists", "instances") as stage:
        for start in range(0, count, ROWS_AT_ONCE):
            ids = np.arange(start, min(start + ROWS_AT_ONCE, count))
            scores = np.array(mean_scores(known, ids))
            scores[~has_prefix[ids]] = np.nan
            rows.append(best(scores, LISTED))
            stage.update(start + len(ids), count)
    lists = as_lists("students", np.concatenate(rows), len(known[0].exported.item_ids))
    for name, array in (
        (OFFSETS, lists.rows.offsets),
        (LIST_IDS, lists.rows.ids),
        (VALUES, lists.rows.values),
        (REST, lists.rest),
    ):
        np.save(folder / name, array)
    return f"lists of the best {LISTED} items"
