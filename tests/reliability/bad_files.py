"""Damaged and mistaken files of whole kinds for `test_bad_inputs`, beside `bad_inputs`."""

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

_LOG: dict[str, Any] = {
    "user_id": ["u"] * 4 + ["v"] * 4,
    "item_id": list("abcd") * 2,
    "position": [0, 1, 2, 3] * 2,
}
_ITEMS: dict[str, Any] = {"item_id": list("abcd"), "title": list("ABCD")}


def make_files(folder: Path) -> None:
    """Writes the files that the cases name."""
    os.mkfifo(folder / "pipe")
    _logs(folder / "data")
    _catalogues(folder / "data")
    _images(folder / "data")
    _vectors(folder)
    _checkpoints(folder)
    _flagfiles(folder)
    _cards(folder)
    _histories(folder)
    _results(folder)


def _write(folder: Path, log: dict[str, Any], items: dict[str, Any]) -> None:
    folder.mkdir()
    pq.write_table(pa.table(log), folder / "interactions.parquet")
    pq.write_table(pa.table(items), folder / "items.parquet")


def _logs(folder: Path) -> None:
    timed = {name: _LOG[name] for name in ("user_id", "item_id")}
    for name, change in {
        "null-user": {"user_id": [None, *_LOG["user_id"][1:]]},
        "empty-user": {"user_id": ["", *_LOG["user_id"][1:]]},
        "list-user": {"user_id": [["u"]] * 8},
        "bytes-user": {"user_id": [b"u"] * 8},
        "no-type-user": {"user_id": pa.nulls(8)},
        "float-item": {"item_id": [1.0, 2.0, 3.0, 4.0] * 2},
        "null-position": {"position": [None, *_LOG["position"][1:]]},
        "float-position": {"position": [float(one) for one in _LOG["position"]]},
        "true-position": {"position": [True, False] * 4},
        "date-position": {"position": pa.array(range(8), pa.timestamp("s"))},
        "list-position": {"position": [[1]] * 8},
        "huge-position": {"position": pa.array([2**63 + n for n in range(8)], pa.uint64())},
        "same-position": {"position": [0, 0, 1, 2] * 2},
        "odd-split": {"split": ["train", "train", "valid", "test"] * 2},
    }.items():
        _write(folder / name, {**_LOG, **change}, _ITEMS)
    for name, times in {
        "mixed-times": [1500000000, 1500000000000, 1500000001, 1500000002] * 2,
        "null-times": [None, 1500000000, 1500000001, 1500000002] * 2,
        "float-times": [1.5] * 8,
        "text-times": ["2020-01-01"] * 8,
        "no-times": [1, 2, 3, 4] * 2,
    }.items():
        _write(folder / name, {**timed, "timestamp": times}, _ITEMS)
    (folder / "pipe-log").mkdir()
    os.mkfifo(folder / "pipe-log" / "interactions.parquet")
    shutil.copy(folder / "good" / "items.parquet", folder / "pipe-log")


def _catalogues(folder: Path) -> None:
    for name, items in {
        "number-titles": {**_ITEMS, "title": [1, 2, 3, 4]},
        "list-titles": {**_ITEMS, "title": [["A"]] * 4},
        "bytes-titles": {**_ITEMS, "title": [b"A"] * 4},
        "float-titles": {**_ITEMS, "title": [float("nan")] * 4},
        "null-id": {**_ITEMS, "item_id": [None, "b", "c", "d"]},
        "empty-id": {**_ITEMS, "item_id": ["", "b", "c", "d"]},
        "number-ids": {**_ITEMS, "item_id": [1, 2, 3, 4]},
        "other-items": {**_ITEMS, "item_id": list("wxyz")},
        "no-columns": {"x": [1]},
        "number-brands": {**_ITEMS, "brand": [1, 2, 3, 4]},
        "list-categories": {**_ITEMS, "categories": [["a", "b"]] * 4},
        "number-paths": {**_ITEMS, "image_path": [1, 2, 3, 4]},
    }.items():
        _write(folder / name, _LOG, items)


def _images(folder: Path) -> None:
    sound = np.ones((4, 3), np.float16)
    rows = {"image_feature_row": [0, 1, 2, 3]}
    for name, features, more in (
        ("rows-alone", None, rows),
        ("features-alone", sound, {}),
        ("row-outside", sound, {"image_feature_row": [0, 1, 2, 9]}),
        ("row-negative", sound, {"image_feature_row": [0, 1, 2, -1]}),
        ("row-float", sound, {"image_feature_row": [0.0, 1.0, 2.0, 3.0]}),
        ("features-float32", sound.astype(np.float32), rows),
        ("features-nan", sound * np.float16("nan"), rows),
        ("features-flat", sound[:, 0], rows),
        ("features-width-0", sound[:, :0], rows),
    ):
        _write(folder / name, _LOG, {**_ITEMS, **more})
        if features is not None:
            np.save(folder / name / "image_features.npy", features)
    _write(folder / "texts-alone", _LOG, _ITEMS)
    np.save(folder / "texts-alone" / "clip_text_features.npy", sound)
    _write(folder / "texts-other", _LOG, {**_ITEMS, **rows})
    np.save(folder / "texts-other" / "image_features.npy", sound)
    np.save(folder / "texts-other" / "clip_text_features.npy", sound[:2])


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _vectors(folder: Path) -> None:
    """Vectors for the data set `good`."""
    instances, items = np.ones((8, 3), np.float32), np.ones((4, 3), np.float32)
    archive = io.BytesIO()
    np.savez(archive, a=items)
    for name, content in {
        "archive": archive.getvalue(),
        "cut": _npy(items)[:-5],
        "claims": _npy(items).replace(b"(4, 3)", b"(9999999999, 3)"),
        "page": b"<html>",
        "deep": _npy(items[None]),
        "scalar": _npy(np.float32(1)),
        "true": _npy(items > 0),
        "dates": _npy(np.zeros((4, 3), "M8[s]")),
        "fields": _npy(np.zeros(4, dtype=[("a", "f4")])),
        "turned": _npy(instances),
        "header": b"\x93NUMPY\x01\x00v\x00{'descr': ((((",
    }.items():
        place = folder / f"more-{name}"
        place.mkdir()
        np.save(place / "instances.npy", instances)
        (place / "items.npy").write_bytes(content)
    for name in ("pipe", "folder"):
        place = folder / f"more-{name}"
        place.mkdir()
        np.save(place / "instances.npy", instances)
        made = os.mkfifo if name == "pipe" else os.mkdir
        made(place / "items.npy")


def _checkpoints(folder: Path) -> None:
    stream = io.BytesIO()
    torch.save({"a": torch.ones(3)}, stream)
    sound = stream.getvalue()
    for name, content in {
        "cut": sound[:-30],
        "two": sound + sound,
        "nothing": b"",
        "junk": b"junk" * 99,
    }.items():
        (folder / f"{name}.pth").write_bytes(content)
    table = "item_embedding.weight"
    for name, content in {
        "none": None,
        "list": [torch.ones(2)],
        "no-weights": {},
        "tensor": torch.ones(3),
        "texts": {"state_dict": {"a": "b"}},
        "other-keys": {"state_dict": {"foo": torch.ones(3)}},
        "nested": {"state_dict": {"state_dict": {"a": torch.ones(1)}}},
        "number-tokens": {
            "state_dict": {"a": torch.ones(1)}, "field2id_token": {"item_id": [1, 2]},
        },
        "sparse": {"state_dict": {"a": torch.eye(3).to_sparse()}},
        "scalar": {"state_dict": {table: torch.tensor(1.0)}},
        "width-0": {"state_dict": {table: torch.ones(5, 0)}},
    }.items():  # fmt: skip
        torch.save(content, folder / f"{name}.pth")


def _flagfiles(folder: Path) -> None:
    for name, content in {
        "binary": bytes(range(256)),
        "utf-16": "--dropout=0.1".encode("utf-16"),
        "mark": b"\xef\xbb\xbf--dropout=2\n",
        "nul": b"--dropout=0.1\0\n",
        "nul-path": b"--output_dir=a\0b\n",
        "long": b"--dropout=" + b"1" * 50,
        "help": b"--help\n",
        "quoted": b'--dropout="0.1"\n',
        "returns": b"--dropout=0.1\r--dropout=2\r",
        "equals": b"=\n",
        "dashes": b"--\n",
        "one-dash": b"-dropout=1\n",
        "long-dash": "—dropout=0.1\n".encode(),
        "nameless": b"--flagfile=\n",
        "switch": b"--overwrite=maybe\n",
        "no-switch": b"--nodropout\n",
        "section": b"[train]\ndropout=0.1\n",
        "json": b'{"dropout": 0.1}\n',
        "yaml": b"dropout: 0.1\n",
        "remark": b"--dropout=0.1 # half\n",
    }.items():
        (folder / f"{name}.flags").write_bytes(content)
    (folder / "one.flags").write_text(f"--flagfile={folder}/other.flags\n")
    (folder / "other.flags").write_text(f"--flagfile={folder}/one.flags\n")
    for number in range(200):
        (folder / f"chain{number}.flags").write_text(f"--flagfile={folder}/chain{number + 1}.flags")
    (folder / "bomb0.flags").write_text("--dropout=0.1\n")
    for number in range(1, 30):
        line = f"--flagfile={folder}/bomb{number - 1}.flags\n"
        (folder / f"bomb{number}.flags").write_text(line * 2)


def _cards(folder: Path) -> None:
    for name, content in {
        "format-alone": b'{"format": 2}',
        "no-config": b'{"format": 2, "student": "sasrec"}',
        "numbers": b'{"format": 2, "student": 5, "config": [], "files": 3}',
        "format-text": b'{"format": "2"}',
        "format-null": b'{"format": null}',
        "outside": b'{"format": 2, "files": {"../../etc/passwd": "x"}}',
        "null": b"null",
        "infinite": b'{"format": 1e999}',
        "nested": b"[" * 100_000,
        "binary": bytes(range(256)),
    }.items():
        place = folder / f"model-{name}"
        place.mkdir()
        (place / "student.json").write_bytes(content)
        (place / "weights.safetensors").write_bytes(b"")
    (folder / "model-pipe").mkdir()
    os.mkfifo(folder / "model-pipe" / "student.json")


def _histories(folder: Path) -> None:
    for name, content in {
        "number": '{"history": [1]}',
        "text": '{"history": "a"}',
        "none": "{}",
        "list": "[]",
        "user": '{"history": ["a"], "user_id": 3}',
        "word": "x",
        "nested": "[" * 100_000,
        "null": '{"history": [null]}',
        "nul": "\0",
    }.items():
        (folder / f"history-{name}.jsonl").write_text(content + "\n")


def _results(folder: Path) -> None:
    for name, content in {
        "none": "{}",
        "list": "[]",
        "old": '{"schema_version": 1}',
        "text": '{"schema_version": "x"}',
        "nested": "[" * 100_000,
        "nul": "\0",
    }.items():
        (folder / f"results-{name}").mkdir()
        (folder / f"results-{name}" / "results.json").write_text(content)
    from experiments.stages.record import SCHEMA_VERSION

    for name, more in {
        "empty": {},
        "number": {"variants": 3},
        "bare": {"variants": [{"name": "x"}], "study": {}},
    }.items():
        (folder / f"study-{name}").mkdir()
        text = json.dumps({"schema_version": SCHEMA_VERSION, **more})
        (folder / f"study-{name}" / "results.json").write_text(text)
