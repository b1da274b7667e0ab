"""Files with mistakes in them, one folder for all cases of `test_bad_inputs`."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ITEMS = 30


def make_world(folder: Path) -> None:
    """Writes the files that the cases name."""
    (folder / "file").write_text("a file")
    (folder / "empty").mkdir()
    (folder / "empty-file").write_text("")
    os.symlink(folder / "nowhere", folder / "dangling")
    _flagfiles(folder)
    _outputs(folder)
    _data_sets(folder / "data")
    _vectors(folder)
    _weights(folder)
    _logs(folder)


def _flagfiles(folder: Path) -> None:
    files = {
        "unknown.cfg": "# a comment\n--no_such_flag=1\n",
        "value.cfg": "--dropout=0.1\n--learning_rate=fast\n",
        "word.cfg": "--dropout=0.1\nlearning_rate=1\n",
        "itself.cfg": "--flagfile={folder}/itself.cfg\n",
        "names-missing.cfg": "--flagfile={folder}/missing.cfg\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text.replace("{folder}", str(folder)))
    (folder / "latin.cfg").write_bytes(b"# caf\xe9\n--dropout=0.1\n")


def _outputs(folder: Path) -> None:
    for name, content in {
        "list": "[]", "no-json": "{", "no-files": '{"identity": {}}',
        "outside": '{"identity": {}, "files": ["../thesis"], "finished": false}',
        "absolute": '{"identity": {}, "files": ["/etc/passwd"], "finished": false}',
        "no-identity": '{"identity": 3, "files": [], "finished": false}',
    }.items():  # fmt: skip
        (folder / f"run-{name}").mkdir()
        (folder / f"run-{name}" / "run.json").write_text(content)
    (folder / "thesis" / "checkpoints").mkdir(parents=True)
    (folder / "thesis" / "results.json").write_text("mine")


def _data_sets(folder: Path) -> None:
    users = ["u", "u", "u", "u", "v", "v", "v", "v"]
    items = ["a", "b", "c", "d"] * 2
    positions = [0, 1, 2, 3] * 2
    log = {"user_id": users, "item_id": items, "position": positions}
    titles = {"item_id": ["a", "b", "c", "d"], "title": ["A", "B", "C", "D"]}
    cases = {
        "good": (log, titles),
        "no-user": ({k: v for k, v in log.items() if k != "user_id"}, titles),
        "no-item": ({k: v for k, v in log.items() if k != "item_id"}, titles),
        "no-order": ({k: v for k, v in log.items() if k != "position"}, titles),
        "numbered-users": ({**log, "user_id": [1, 1, 1, 1, 2, 2, 2, 2]}, titles),
        "null-item": ({**log, "item_id": [None, *items[1:]]}, titles),
        "text-position": ({**log, "position": [str(x) for x in positions]}, titles),
        "unknown-item": ({**log, "item_id": ["z", *items[1:]]}, titles),
        "no-title": (log, {"item_id": ["a", "b", "c", "d"]}),
        "twice": (log, {"item_id": ["a", "a", "c", "d"], "title": ["A", "B", "C", "D"]}),
        "no-rows": ({name: values[:0] for name, values in log.items()}, titles),
        "short": ({name: values[:2] for name, values in log.items()}, titles),
    }
    for name, (interactions, catalogue) in cases.items():
        (folder / name).mkdir(parents=True)
        pq.write_table(pa.table(interactions), folder / name / "interactions.parquet")
        pq.write_table(pa.table(catalogue), folder / name / "items.parquet")
    for name, file in (("no-log", "interactions.parquet"), ("no-items", "items.parquet")):
        (folder / name).mkdir()
        other = "items.parquet" if file.startswith("inter") else "interactions.parquet"
        (folder / name / other).write_bytes((folder / "good" / other).read_bytes())
    for name, file in (("torn-log", "interactions.parquet"), ("torn-items", "items.parquet")):
        (folder / name).mkdir()
        for each in ("interactions.parquet", "items.parquet"):
            content = (folder / "good" / each).read_bytes()
            (folder / name / each).write_bytes(content[:-9] if each == file else content)
    (folder / "log-folder" / "interactions.parquet").mkdir(parents=True)
    (folder / "a-file").write_text("")


def _vectors(folder: Path) -> None:
    """Vectors for the data set `good`: 8 instances, 4 items."""
    instances, items = np.ones((8, 3), np.float32), np.ones((4, 3), np.float32)
    bad = items.copy()
    bad[2, 1] = np.nan
    cases = {
        "no-instances": (None, items),
        "no-items": (instances, None),
        "few-rows": (instances, items[:3]),
        "few-instances": (instances[:5], items),
        "flat": (instances, items[:, 0]),
        "widths": (instances, items[:, :2]),
        "integers": (instances.astype(int), items.astype(int)),
        "objects": (instances, np.array([["a"]] * 4, dtype=object)),
        "nan": (instances, bad),
        "inf": (np.full((8, 3), np.inf), items),
        "width-0": (instances[:, :0], items[:, :0]),
        "texts": (instances, np.array([["a"] * 3] * 4)),
        "complex": (instances.astype(complex), items.astype(complex)),
    }
    for name, arrays in cases.items():
        place = folder / f"vectors-{name}"
        place.mkdir()
        for file, array in zip(("instances.npy", "items.npy"), arrays, strict=True):
            if array is not None:
                np.save(place / file, array)
    for name, content in (("torn", np.float32(0).tobytes()), ("empty", b"")):
        (folder / f"vectors-{name}").mkdir()
        np.save(folder / f"vectors-{name}" / "instances.npy", instances)
        (folder / f"vectors-{name}" / "items.npy").write_bytes(content)


def _weights(folder: Path) -> None:
    (folder / "text.pth").write_text("no archive")
    (folder / "old.pth").write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.")
    with zipfile.ZipFile(folder / "script.pth", "w") as archive:
        archive.writestr("a/constants.pkl", b"\x80\x02).")
        archive.writestr("a/data.pkl", b"\x80\x02}.")
    with zipfile.ZipFile(folder / "zip.pth", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with zipfile.ZipFile(folder / "code.pth", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.")
    for name, card in (("card-list", "[]"), ("card-torn", "{"), ("card-empty", "{}")):
        (folder / name).mkdir()
        (folder / name / "student.json").write_text(card)
        (folder / name / "weights.safetensors").write_bytes(b"")


def _logs(folder: Path) -> None:
    files = {
        "header.csv": "user,item,time\n",
        "good.csv": "user,item,time\nu,a,1500000001\nu,b,1500000002\n",
        "ragged.csv": "user,item,time\nu,a\nu,b,1500000002,7\n",
        "time.csv": "user,item,time\nu,a,yesterday\nu,b,1500000002\n",
        "twice.csv": "user,user,time\nu,a,1500000001\n",
        "torn.jsonl": '{"user": "u", "item": "a", "time": 1500000001}\n{"user":\n',
        "log.xyz": "user,item,time\nu,a,1500000001\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "torn.parquet").write_bytes(b"PAR1 torn PAR1")
