"""Records, cards and lists with the right digest and the wrong content, for `test_bad_records`."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from prmkd_jax.common.digests import content_digest, file_digest
from prmkd_jax.common.sealed import write_sealed_json
from tests.experiments.fake_run import fake_results, fake_timing

_MANIFEST = {"identity": {}, "files": ["results.json", "results.md"], "finished": True}


def make_records(folder: Path) -> None:
    """Writes the files that the cases name."""
    _reports(folder)
    _pages(folder)
    _cards(folder)
    _lists(folder)


def _reports(folder: Path) -> None:
    for name, manifest in {
        "torn": b"{",
        "latin": b"\xff\xfe",
        "list": b"[]",
        "number": b'{"files": 3}',
        "objects": b'{"files": [{}]}',
        "good": json.dumps(_MANIFEST).encode(),
    }.items():
        place = folder / f"report-{name}"
        _report(place, fake_results())
        (place / "run.json").write_bytes(manifest)
    (folder / "report-good" / "timing.json").unlink()
    _report(folder / "report-latin-table", fake_results(), table=b"\xff\xfe")
    _report(folder / "report-latin-figure", fake_results())
    (folder / "report-latin-figure" / "figures").mkdir()
    (folder / "report-latin-figure" / "figures" / "a.svg").write_bytes(b"\xff")
    (folder / "report-pipe").mkdir()
    os.mkfifo(folder / "report-pipe" / "run.json")
    for name, change in {
        "settings": {"settings": 5},
        "environment": {"environment": [1]},
        "nothing": {"variants": []},
    }.items():
        _report(folder / f"report-{name}", {**fake_results(), **change})
    results = fake_results()
    results["variants"][0]["test"] = {"NDCG@10": "x"}
    _report(folder / "report-words", results)


def _report(folder: Path, results: dict[str, Any], table: bytes = b"# PRM-KD\n") -> None:
    folder.mkdir()
    write_sealed_json(folder / "results.json", results)
    write_sealed_json(folder / "timing.json", fake_timing())
    (folder / "results.md").write_bytes(table)
    (folder / "run.json").write_text(json.dumps(_MANIFEST))


def _pages(folder: Path) -> None:
    (folder / "latin.md").write_bytes(b"caf\xe9")
    (folder / "outside.md").write_text("<!-- made of nothing.json -->\nold\n<!-- end -->\n")
    (folder / "mine.json").write_text("somebody's\n")


def _cards(folder: Path) -> None:
    sound: dict[str, Any] = {
        "format": 2,
        "label": "SASRec",
        "name": "sasrec",
        "config": {"student": "sasrec"},
        "class": {},
        "dataset": {"name": "synthetic"},
        "facts": {"users": 9, "items": 9, "window": 9, "second_items": None},
        "fields": {},
        "record": {},
    }
    for name, change in {
        "set-list": {"record": {"settings": [1]}},
        "set-text": {"record": {"settings": "candidates"}},
        "users-text": {"record": {"settings": {"synthetic_users": "x"}}},
        "users-half": {"record": {"settings": {"synthetic_users": 20.5}}},
        "users-null": {"record": {"settings": {"synthetic_users": None}}},
        "users-many": {"record": {"settings": {"synthetic_users": 10**12}}},
        "candidates": {"record": {"settings": {"candidates": "some"}}},
        "teachers": {"record": {"teachers": {"unisrec": 3}}},
        "keys": {"record": {"teacher_keys": {"unisrec": 3}}},
        "leads-out": {"dataset": {"name": "../data/good"}},
        "no-name": {"dataset": {"name": ""}},
        "long-name": {"dataset": {"name": "a" * 5000}},
        "nul-name": {"dataset": {"name": "a\0b"}},
        "heads": {"config": {"student": "sasrec", "hidden_size": 8, "num_heads": 7}},
        "dropout": {"config": {"student": "sasrec", "dropout": 5.0}},
        "sound": {},
    }.items():
        place = folder / f"card-{name}"
        place.mkdir()
        files = ("weights.safetensors", "served.safetensors", "ids.json")
        for file in files:
            (place / file).write_bytes(b"")
        card = {**sound, **change, "files": {file: file_digest(place / file) for file in files}}
        text = json.dumps({**card, "digest": content_digest(card)})
        (place / "student.json").write_text(text)


def _lists(folder: Path) -> None:
    """Ranked lists for the data set `good`: 8 instances, 4 items."""
    for name, change in {
        "large": {"values": np.full(8, 1e300)},
        "small": {"values": np.full(8, 1e-300)},
        "large-rest": {"rest": np.float64(1e300)},
        "sound": {},
    }.items():
        place = folder / f"lists-{name}"
        place.mkdir()
        sound = {"offsets": np.arange(9), "ids": np.zeros(8, int), "values": np.full(8, 10.0)}
        for file, array in {**sound, **change}.items():
            np.save(place / f"{file}.npy", array)
