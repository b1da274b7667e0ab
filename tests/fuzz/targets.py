"""What is fuzzed: a reader, sound files to begin with, and how it may fail."""

import dataclasses
import functools
import io
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy
import torch
from PIL import Image

from experiments.cli.flags import parse
from experiments.cli.settings import GROUPS, settings_from
from experiments.stages.record import read_versioned
from experiments.stages.seconds import epoch_seconds
from prmkd_jax.common.arrays import open_npy, read_npz
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.sealed import read_sealed_json
from prmkd_jax.data.canonical import read_dataset
from prmkd_jax.data.sources.config import PrepareConfig
from prmkd_jax.data.sources.prepare import prepare
from prmkd_jax.serve.exported import CARD, read_exported
from prmkd_jax.serve.histories import read_histories
from prmkd_jax.serve.http.images import read_images
from teachers_torch.config import TextConfig
from teachers_torch.items.image_file import BrokenImage, read_image
from teachers_torch.items.text_files import WIDTH, read_text_features
from teachers_torch.recbole_file import read_recbole
from teachers_torch.states import load_state, save_state
from tests.teachers_torch.worlds import ring_world


@dataclasses.dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        file: what the fuzzed file is called.
        sound: contents that it reads, which are damaged.
        read: reads the file at a path.
        refused: what it may raise; anything else is a bug.
    """

    file: str
    sound: tuple[bytes, ...]
    read: Callable[[Path], object]
    refused: tuple[type[Exception], ...] = (UserError,)


def run(target: Target, folder: Path, content: bytes) -> bool:
    """Reads a file with this content; whether it was accepted.

    Raises:
        AssertionError: it was refused in more than one line.
        Exception: what the reader should not have raised.
    """
    path = folder / target.file
    path.write_bytes(content)
    try:
        target.read(path)
    except target.refused as error:
        if isinstance(error, UserError) and len(str(error).splitlines()) != 1:
            raise AssertionError(f"told in no line or several: {error!r}") from error
        return False
    return True


def _torch_files() -> Iterator[bytes]:
    values = [torch.arange(6.0).reshape(2, 3), torch.ones(3, dtype=torch.bfloat16)]
    for content in (
        {"a": values[0], "b": values[1], "c": values[0].t()},
        {
            "state_dict": {"item_embedding.weight": values[0]},
            "config": {"hidden_size": 3, "name": "SASRec"},
            "field2id_token": {"item_id": ["[PAD]", "a"]},
        },
    ):
        stream = io.BytesIO()
        torch.save(content, stream)
        yield stream.getvalue()


def _arrays() -> Iterator[bytes]:
    for array in (np.ones((3, 2), np.float16), np.arange(5), np.asfortranarray(np.ones((2, 3)))):
        stream = io.BytesIO()
        np.save(stream, array)
        yield stream.getvalue()


def _archives() -> Iterator[bytes]:
    for save in (np.savez, np.savez_compressed):
        stream = io.BytesIO()
        save(stream, a=np.ones((3, 2), np.float16), b=np.arange(5))
        yield stream.getvalue()


def _images() -> Iterator[bytes]:
    noise = np.random.default_rng(0).integers(0, 256, (8, 9, 4), dtype=np.uint8)
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"):
        stream = io.BytesIO()
        image = Image.fromarray(noise)
        (image.convert("RGB") if kind == "JPEG" else image).save(stream, kind)
        yield stream.getvalue()


def _parquet(columns: dict[str, list]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream)
    return stream.getvalue()


_LOG = {"user_id": ["u"] * 4, "item_id": ["a", "b", "c", "d"], "position": [0, 1, 2, 3]}
_TIMED = {**_LOG, "timestamp": [1500000001, 1500000002, 1500000003, 1500000004]}
_ITEMS = {"item_id": ["a", "b", "c", "d"], "title": ["A", "B", "C", "D"]}


def _read_canonical(path: Path) -> object:
    for name, columns in (("interactions", _LOG), ("items", _ITEMS)):
        other = path.parent / f"{name}.parquet"
        if other != path and not other.exists():
            other.write_bytes(_parquet(columns))
    return read_dataset(path.parent.parent, path.parent.name)


def _read_flagfile(path: Path) -> object:
    return settings_from(parse([f"--flagfile={path}"], GROUPS).configs)


def _read_table(path: Path) -> object:
    config = PrepareConfig(
        interactions=(str(path),), name="shop", data_dir=str(path.parent / "out"), overwrite=True
    )
    return prepare(config)


def _read_texts(path: Path) -> object:
    dataset = ring_world()
    numbers = path.with_suffix(".feat1CLS")
    if numbers == path:
        lines = "".join(f"{item}\t{row}\n" for row, item in enumerate(dataset.item_ids))
        path.with_suffix(".item2index").write_text(lines)
    else:
        numbers.write_bytes(bytes(4 * WIDTH * dataset.num_items))
    return read_text_features(TextConfig(text_features=str(numbers)), dataset)


def _states() -> tuple[bytes, ...]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.pt"
        save_state(path, {"model": {"w": torch.ones(3)}, "epoch": 2})
        return (path.read_bytes(),)


_CARD = {
    "format": 2, "student": "sasrec", "config": {"hidden_size": 4}, "files": {}, "num_items": 4,
}  # fmt: skip
_SAFE = safetensors.numpy.save({"a": np.ones((2, 3), np.float32), "b": np.zeros(0, np.float32)})


def _read_weights(path: Path) -> object:
    from prmkd_jax.serve import exported

    return exported._load_arrays(path)


@functools.cache
def targets() -> dict[str, Target]:
    """All targets by name."""
    logs = ("user_id,item_id,timestamp\nu,a,1500000001\nu,b,1500000002\nv,a,1500000003\n",)
    lines = ('{"user_id": "u", "item_id": "a", "timestamp": 1500000001}\n' * 2,)
    ring = ring_world()
    numbering = "".join(f"{item}\t{row}\n" for row, item in enumerate(ring.item_ids))
    return {
        "torch": Target("a.pth", tuple(_torch_files()), read_recbole),
        "npy": Target("a.npy", tuple(_arrays()), open_npy, (OSError, ValueError)),
        "npz": Target("a.npz", tuple(_archives()), read_npz, (OSError, ValueError)),
        "log": Target(
            "log.jsonl",
            (
                b'{"stage": "student", "run": "a", "epoch": 1, '
                b'"seconds": {"train": 2.0, "evaluate": 1.0}}\n',
            ),
            lambda path: epoch_seconds(path, "a"),
            (),
        ),
        "image": Target("a.jpg", tuple(_images()), read_image, (BrokenImage,)),
        "flagfile": Target(
            "a.cfg",
            (b"# run\n--dropout=0.1\n--teachers=unisrec,unim2rec\n--seeds 0,1\n--overwrite\n",),
            _read_flagfile,
        ),
        "interactions": Target("interactions.parquet", (_parquet(_LOG),), _read_canonical),
        "items": Target("items.parquet", (_parquet(_ITEMS),), _read_canonical),
        "csv": Target("a.csv", tuple(map(str.encode, logs)), _read_table),
        "jsonl": Target("a.jsonl", tuple(map(str.encode, lines)), _read_table),
        "parquet": Target("a.parquet", (_parquet(_TIMED),), _read_table),
        "numbering": Target("a.item2index", (numbering.encode(),), _read_texts),
        "numbers": Target(
            "a.feat1CLS",
            (struct.pack("<f", 1.0) * (WIDTH * ring.num_items),),
            _read_texts,
        ),
        "state": Target("state.pt", _states(), load_state),
        "card": Target(
            CARD, (json.dumps(_CARD).encode(),), lambda path: read_exported(path.parent)
        ),
        "weights": Target("a.safetensors", (_SAFE,), _read_weights),
        "histories": Target(
            "a.jsonl",
            (b'{"user_id": "u", "history": ["a", "b"]}\n',),
            lambda path: list(read_histories(path)),
        ),
        "addresses": Target(
            "a.json", (b'{"a": "https://b/c.jpg"}',), lambda p: read_images(str(p))
        ),
        "results": Target(
            "results.json",
            (b'{"schema_version": 1, "variants": []}',),
            read_versioned,
        ),
        "sealed": Target(
            "a.json", (b'{"a": 1, "digest": "00"}',), read_sealed_json, (OSError, ValueError)
        ),
    }
