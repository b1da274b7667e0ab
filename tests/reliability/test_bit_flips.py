"""One flipped bit: a file of any kind is read as it was written, or not at all.

Each kind of file is written once. Then a bit is flipped a hundred times, at places drawn by a
seed. A reader may tell the damage in one line (`UserError`), go back to an earlier state or make
the content again, both with a warning, or find that the bit means nothing. It never returns other
values, and never ends in a traceback.
"""

import dataclasses
import logging
import shutil
import tempfile
from collections.abc import Callable, Hashable
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
from flax import nnx
from torch import nn

from bridge.teacher_vectors import read_vectors, write_vectors
from experiments.stages.record import (
    SCHEMA_VERSION,
    Record,
    SeedResult,
    read_record,
    read_versioned,
    write_record,
)
from experiments.stages.run_folder import begin, examine, finish
from experiments.stages.seconds import read_seconds, write_seconds
from prmkd_jax.common.cache import Cache
from prmkd_jax.common.digests import file_digest
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.parts import make_in_parts
from prmkd_jax.common.sealed import write_sealed_json
from prmkd_jax.data.canonical import read_dataset
from prmkd_jax.data.sources.config import PrepareConfig
from prmkd_jax.data.sources.prepare import prepare
from prmkd_jax.serve import answers
from prmkd_jax.serve.answers import BatchJob
from prmkd_jax.serve.artifact import check_artifact, write_artifact
from prmkd_jax.serve.config import ExportConfig
from prmkd_jax.serve.explain import TeacherView, read_explanation, write_explanation
from prmkd_jax.serve.exported import export_student, read_exported
from prmkd_jax.serve.histories import Asked
from prmkd_jax.students.registry import window
from prmkd_jax.students.student import create_student
from prmkd_jax.train.checkpoint import load_checkpoint, save_checkpoint
from teachers_torch import shards, store
from teachers_torch.recformer import official
from teachers_torch.recformer.longformer import Architecture
from teachers_torch.recformer.official import read_saved_start
from teachers_torch.sequence.start import read_facts
from teachers_torch.states import load_state, save_state
from teachers_torch.store import read_card
from teachers_torch.teacher import TeacherCard
from tests.checking import uncheck
from tests.worlds import MAX_SEQ_LEN, facts, random_world, student_config

FLIPS = 100
WORLD = random_world()
CARD = TeacherCard(
    name="unisrec", dataset="ring", data_fingerprint="f" * 64, start="random", seed=1,
    settings={"hidden_size": 8}, validation={"NDCG@10": 0.125}, test={"NDCG@10": 0.25},
    seconds=3.5, num_parameters=1234, epochs=3, best_epoch=2, table_bytes=4096,
)  # fmt: skip

# Writes into a folder; the reader gives what two equal reads have in common.
Kind = tuple[Callable[[Path], None], Callable[[Path], Hashable]]


def values(arrays):
    """Arrays or tensors as what compares by their bits."""
    return tuple((str(x.dtype), x.shape, np.asarray(x).tobytes()) for x in arrays)


def write_checkpoints(folder):
    for epoch in (1, 2):
        state = {"table": jnp.arange(12.0).reshape(4, 3) + epoch, "step": jnp.int32(epoch)}
        save_checkpoint(folder, epoch, state, {"epoch": epoch, "best": 0.1 + epoch})


def read_checkpoint(folder):
    like = {"table": jnp.zeros((4, 3)), "step": jnp.int32(0)}
    found = load_checkpoint(folder, like)
    assert found is not None
    return values((found[0]["table"], found[0]["step"])), str(found[1])


def write_states(folder):
    for epoch in (1, 2):
        state = {"model": {"w": torch.arange(6.0) + epoch}, "epoch": epoch, "best": {"a": 0.5}}
        save_state(folder / "tuning.pt", state)


def read_states(folder):
    random = torch.get_rng_state()
    found = load_state(folder / "tuning.pt")
    torch.set_rng_state(random)
    assert found is not None
    return found["epoch"], values(found["model"].values()), str(found["best"])


def make_vectors(path):
    with path.open("wb") as file:
        np.save(file, np.arange(24, dtype=np.float32).reshape(6, 4))


def write_entry(folder):
    Cache(folder).entry("texts", "key.npy", make_vectors)


def read_entry(folder):
    return values([np.load(Cache(folder).entry("texts", "key.npy", make_vectors))])


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    for module in (answers, official, shards):
        uncheck(module, monkeypatch)


class Rows:
    """A teacher whose vectors are their ids."""

    def encode_instances(self, ids):
        """The ids, three times each."""
        return np.repeat(ids[:, None].astype(np.float32), 3, axis=1)


def write_shards(folder):
    shards.encode_in_shards(Rows(), 10, folder, lambda done, total: None, shard_size=4)


def read_shards(folder):
    parts = shards.encode_in_shards(Rows(), 10, folder, lambda done, total: None, shard_size=4)
    return values([parts.array()])


def write_card(folder):
    folder.mkdir(exist_ok=True)
    store.save_card(CARD, folder)


def read_the_card(folder):
    return str(dataclasses.astuple(read_card(folder)))


def write_teacher_vectors(folder):
    rng = np.random.default_rng(0)
    instances, items = rng.normal(size=(9, 4)), rng.normal(size=(5, 4))
    write_vectors(
        folder, name="t", scale=14.5, identity={"key": "k"}, instances=instances, items=items
    )


def read_teacher_vectors(folder):
    found = read_vectors(folder, {"key": "k"})
    return found.name, found.scale, values([found.instances, found.items])


def write_export(folder):
    config = student_config()
    described = facts(WORLD, window(config, MAX_SEQ_LEN))
    params = nnx.to_pure_dict(create_student(config, described, 2)[1])
    params = jax.tree.map(np.asarray, params)
    export_student(folder, params, config, described, WORLD)


def read_export(folder):
    found = read_exported(folder)
    leaves = [*jax.tree.leaves(found.params), found.items]
    return values(leaves), str(found.config), found.item_ids, found.user_ids, str(found.card)


def write_pretraining(folder):
    folder.mkdir(exist_ok=True)
    weights = {"w": torch.arange(5.0)}
    safetensors.torch.save_file(weights, folder / "weights.safetensors")
    digest = file_digest(folder / "weights.safetensors")
    content = {"teacher": "unisrec", "epochs": 3, "losses": [0.5], "weights_sha256": digest}
    write_sealed_json(folder / "pretraining.json", content)


def read_pretraining(folder):
    facts = read_facts(folder)
    weights = safetensors.torch.load_file(folder / "weights.safetensors")
    return str(facts), values(weights.values())


class _NoTokenizer:
    def save_pretrained(self, folder):
        folder.mkdir()


def write_recformer(folder):
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.copy_(torch.arange(6.0).reshape(2, 3))
        model.bias.zero_()
    sizes = {field.name: 2 for field in dataclasses.fields(Architecture)}
    sizes |= {"pad_token_id": 1, "layer_norm_eps": 1e-5}
    model.architecture = Architecture(**sizes)
    official.save_start(model, _NoTokenizer(), {"seed": 1}, folder)


def read_recformer(folder):
    architecture, weights = read_saved_start(folder)
    return str(architecture), values(weights[name] for name in sorted(weights))


def write_run(folder):
    """A manifest, a record, results and seconds."""
    examined = examine(folder, {"settings": {"dropout": 0.5}}, ["results.json"], overwrite=False)
    begin(examined)
    metrics = {"NDCG@10": 0.0625, "Recall@10": 0.125}
    seed = SeedResult(0, metrics, metrics, metrics, 2, 3, None, [{"epoch": 1, "loss": 2.5}])
    empty: dict = {"name": "x"}
    write_record(
        folder, Record(empty, empty, None, empty, empty, empty, empty, {}, None, 1234, (seed,))
    )
    write_seconds(folder, 0, [{"train": 1.5, "evaluate": 0.25}], {})
    results = {"schema_version": SCHEMA_VERSION, "variants": [{"test": metrics}]}
    write_sealed_json(folder / "results.json", results)
    finish(examined)


def read_run(folder):
    examined = examine(folder, {"settings": {"dropout": 0.5}}, ["results.json"], overwrite=False)
    record, seconds = read_record(folder), read_seconds(folder)
    results = read_versioned(folder / "results.json")
    return str(examined.found), str(examined.files), str(record), str(seconds), str(results)


def write_data(folder):
    folder.mkdir()
    log = folder.parent / "log.csv"
    rows = [f"u{n % 5},i{n % 7},{10**9 + n}" for n in range(40)]
    log.write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    prepare(PrepareConfig(interactions=(str(log),), name="d", data_dir=str(folder)))


def read_data(folder):
    found = read_dataset(folder, "d")
    arrays = [found.interactions.indptr, found.interactions.items]
    return values(arrays), found.item_ids, found.user_ids, str(found.catalogue.texts)


ASKED = [Asked(f"u{n}", [f"i{n}"]) for n in range(9)]


class Echo:
    """Recommends what it is asked with."""

    def recommend(self, histories, k, **_):
        """One item a history."""
        item = SimpleNamespace
        return [
            item(items=[item(item=h[0], score=0.5)], unknown_items=0, known_user=True)
            for h in histories
        ]


def answer_job(output, stop_at=None):
    def progress(done, total):
        if done == stop_at:
            raise KeyboardInterrupt

    job = BatchJob(lambda first: iter(ASKED[first:]), len(ASKED), {"model": "m"})
    before, answers.BLOCK = answers.BLOCK, 2
    try:
        answers.answer_file(Echo(), job, output, progress)
    finally:
        answers.BLOCK = before


def write_parts(folder):
    folder.mkdir()
    for suffix in (".jsonl", ".parquet"):
        with pytest.raises(KeyboardInterrupt):
            answer_job(folder / f"answers{suffix}", stop_at=6)


def read_parts(folder):
    # On a copy: a job that ends removes its parts.
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        copy = shutil.copytree(folder, Path(place) / "copy")
        outputs = [copy / f"answers{suffix}" for suffix in (".jsonl", ".parquet")]
        for output in outputs:
            answer_job(output)
        return tuple(output.read_bytes() for output in outputs)


def write_export_artifact(folder):
    student = folder.parent / "student"
    write_export(student)
    formats = ("stablehlo", "vectors")
    config = ExportConfig(model=str(student), output_dir=str(folder), formats=formats, k=3)
    write_artifact(config, lambda _: None)


def read_artifact(folder):
    lines = check_artifact(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple(lines), tuple(path.read_bytes() for path in files if path.suffix != ".json")


def write_views(folder):
    folder.mkdir()
    rng = np.random.default_rng(0)
    items, weights = rng.normal(size=(7, 3)).astype(np.float16), rng.normal(size=(7, 3))
    write_explanation(folder, [TeacherView("t", "Teacher", items, weights.astype("f4"), 0.75)])


def read_views(folder):
    found = read_explanation(folder, 7)
    assert found is not None
    (view,) = found.teachers
    return view.name, view.label, view.fidelity, values([view.items, view.weights])


def make_rows(start, stop):
    return np.arange(3.0 * start, 3 * stop).reshape(-1, 3)


def write_encoded(folder):
    make_in_parts(folder, 9, 4, make_rows)


def read_encoded(folder):
    return values([make_in_parts(folder, 9, 4, make_rows).array()])


KINDS: dict[str, Kind] = {
    "student's states": (write_checkpoints, read_checkpoint),
    "teacher's states": (write_states, read_states),
    "cache entry": (write_entry, read_entry),
    "parts of an encoding": (write_encoded, read_encoded),
    "shards": (write_shards, read_shards),
    "teacher's card": (write_card, read_the_card),
    "teacher's vectors": (write_teacher_vectors, read_teacher_vectors),
    "exported student": (write_export, read_export),
    "pre-trained weights": (write_pretraining, read_pretraining),
    "Recformer's weights": (write_recformer, read_recformer),
    "run": (write_run, read_run),
    "prepared data": (write_data, read_data),
    "recommend's parts": (write_parts, read_parts),
    "artefact": (write_export_artifact, read_artifact),
    "explanations": (write_views, read_views),
}
# What an earlier state, read in place of a damaged one, holds.
EARLIER = {"student's states": "'epoch': 1", "teacher's states": "(1, "}


@pytest.mark.parametrize("name", KINDS)
def test_a_flipped_bit_is_never_read_as_another_value(name, tmp_path, caplog):
    write, read = KINDS[name]
    folder = tmp_path / "files"
    write(folder)
    expected = read(folder)
    content = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    rng = np.random.default_rng(13)
    places = [path for path in content if content[path]]
    told = 0
    lines = []
    for _ in range(FLIPS):
        path = places[rng.integers(len(places))]
        damaged = bytearray(content[path])
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        caplog.clear()
        try:
            found = read(folder)
        except UserError as error:
            lines.append(str(error))
        else:
            warned = [each for each in caplog.records if each.levelno == logging.WARNING]
            if found != expected:
                assert warned
                assert EARLIER[name] in str(found)
            told += bool(warned)
        for each, original in content.items():
            if not each.exists() or each.read_bytes() != original:
                each.parent.mkdir(parents=True, exist_ok=True)
                each.write_bytes(original)
    # Most bits matter; where only those of an unread file or of a lock don't.
    assert told + len(lines) > FLIPS / 3
    assert all(str(tmp_path) in line and "\n" not in line for line in lines)
