"""What the kill test runs: a command for every stage, on data as small as a stage can have."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

_SMALL = (
    "--max_seq_len=8", "--hidden_size=8", "--num_layers=1", "--inner_size=8", "--num_heads=2",
    "--batch_size=64", "--max_epochs=3", "--teacher_hidden_size=8", "--teacher_max_epochs=2",
    "--teacher_batch_size=64", "--cache_dir=cache", "--output_dir=out/run",
)  # fmt: skip
_SYNTHETIC = (
    "--synthetic_users=60",
    "--synthetic_items=40",
    "--text_encoder=bert",
    *_SMALL,
)
_SHOP = ("--dataset=shop", "--data_dir=data", *_SMALL)
_TUNED = ("search", *_SHOP, "--model=teachers")

_TEACHERS = ("jax", "torch", "transformers", "sentence_transformers")
_STUDENTS = (*_TEACHERS, "experiments.runs.train", "experiments.runs.search")


class Stage(NamedTuple):
    """A command, and what has to be there before it.

    Attributes:
        argv: the command line.
        modules: what it imports.
        world: makes the files it reads in an empty folder.
        after: the stage whose reference is copied first; "" for none.
        weight: trials of each turn; cheap stages have more.
    """

    argv: tuple[str, ...]
    modules: tuple[str, ...]
    world: Callable[[Path], None] = lambda place: None
    after: str = ""
    weight: int = 1


def _raw_log(place: Path) -> None:
    rows = (f"u{i % 7},i{i % 5},{1500000000 + 977 * i}\n" for i in range(120))
    (place / "log.csv").write_text("user,item,time\n" + "".join(rows))


def _raw_shop(place: Path) -> None:
    """A log of 24 users, a catalogue of 30 items with images, and a tiny vision encoder."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    rows = ["user_id,item_id,timestamp"]
    for user in range(24):
        start = int(rng.integers(30))
        rows += [f"u{user},i{(start + 7 * at) % 30:02d},{1500000000 + 977 * at}" for at in range(7)]
    (place / "log.csv").write_text("\n".join(rows) + "\n")
    words = ["red", "blue", "lamp", "chair", "big", "small", "old", "garden"]
    table = ["item_id,title,image_path"]
    (place / "images").mkdir()
    for item in range(30):
        title = " ".join(rng.choice(words, 3))
        table.append(f"i{item:02d},{title} {item},images/{item}.png")
        pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"images/{item}.png")
    (place / "items.csv").write_text("\n".join(table) + "\n")
    _encoder(place / "vit")


def _text_encoder(place: Path) -> None:
    """A tiny encoder of texts: the real one would take most of the time."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    from teachers_torch.items.text import bundled_folder

    tokenizer = AutoTokenizer.from_pretrained(bundled_folder())
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(place / "bert")
    tokenizer.save_pretrained(place / "bert")


def _encoder(folder: Path) -> None:
    import torch
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        image_size=16, patch_size=8,
    )  # fmt: skip
    ViTModel(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)


def _shop(place: Path) -> None:
    """The raw shop as a data set, as `prepare` writes it."""
    import pyarrow.csv
    import pyarrow.parquet as pq

    _raw_shop(place)
    (place / "data/shop").mkdir(parents=True)
    for name, target in (("log", "interactions"), ("items", "items")):
        table = pyarrow.csv.read_csv(place / f"{name}.csv")
        if name == "items":
            # Paths are relative to the file that names them, here the data set's.
            moved = [f"../../{path}" for path in table["image_path"].to_pylist()]
            table = table.set_column(2, "image_path", [moved])
        pq.write_table(table, place / f"data/shop/{target}.parquet")


def _yesterday(place: Path) -> None:
    """The student of stage `train`, alone."""
    (students,) = (place / "out/run/students").glob("*-base-seed0")
    shutil.copytree(students, place / "student")
    for extra in ("out", "cache"):
        shutil.rmtree(place / extra)


def _histories(place: Path) -> None:
    """Histories to be answered, of the items that the student of stage `train` knows."""
    _yesterday(place)
    items = json.loads((place / "student/ids.json").read_text())["item_ids"]
    lines = (
        json.dumps({"user_id": f"u{user}", "history": [items[user % 9], items[user % 5]]})
        for user in range(40)
    )
    (place / "histories.jsonl").write_text("\n".join(lines) + "\n")


STAGES = {
    "prepare": Stage(
        ("prepare", "--interactions=log.csv", "--name=shop", "--data_dir=data",
         "--user_column=user", "--item_column=item", "--timestamp_column=time"),
        ("experiments.stages.prepare",), _raw_log, weight=4,
    ),
    "prepare-images": Stage(
        ("prepare", "--interactions=log.csv", "--items=items.csv", "--name=shop",
         "--data_dir=data", "--encode_images", "--image_encoder=vit"),
        ("experiments.stages.prepare", "torch", "transformers"), _raw_shop, weight=3,
    ),
    "pretrain": Stage(
        ("pretrain", *_SYNTHETIC, "--domains=synthetic-garden", "--teachers=unisrec",
         "--pretrain_epochs=3", "--pretrain_save_every=2"),
        (*_TEACHERS, "experiments.stages.pretrain"), _text_encoder, weight=2,
    ),
    "pretrain-recformer": Stage(
        ("pretrain", *_SYNTHETIC, "--domains=synthetic-garden", "--teachers=recformer",
         "--init=recformer=random", "--recformer_num_layers=1", "--recformer_hidden_size=8",
         "--recformer_pretrain_max_epochs=2", "--recformer_pretrain_batch_size=16",
         "--recformer_pretrain_accumulate=2", "--recformer_pretrain_evaluate_every=1"),
        (*_TEACHERS, "experiments.stages.pretrain"), _text_encoder, weight=2,
    ),
    "texts": Stage((*_TUNED, "--teachers=unisrec-text"), _STUDENTS, _shop, weight=2),
    "images": Stage(
        (*_TUNED, "--teachers=unim2rec", "--image_encoder=vit"), _STUDENTS, _shop, weight=2
    ),
    "recformer": Stage(
        (*_TUNED, "--teachers=recformer", "--init=recformer=random", "--recformer_num_layers=1",
         "--recformer_hidden_size=8", "--recformer_max_epochs=2",
         "--recformer_fixed_table_epochs=1"),
        _STUDENTS, _shop, weight=2,
    ),
    "train": Stage(
        ("train", *_SYNTHETIC, "--teachers=unisrec", "--seeds=0",
         "--max_epochs=2"),
        (*_STUDENTS, "matplotlib.pyplot"), _text_encoder,
    ),
    "study": Stage(
        ("study", "ablation", *_SYNTHETIC, "--teachers=unisrec,unisrec-text", "--seeds=0",
         "--max_epochs=2", "--variants=without_wa"),
        _STUDENTS, _text_encoder,
    ),
    "search": Stage(
        ("search", *_SYNTHETIC, "--teachers=unisrec", "--grid=dropout=0.1,0.5", "--max_epochs=2"),
        _STUDENTS, _text_encoder,
    ),
    "update": Stage(
        ("update", "--from=student", *_SYNTHETIC, "--synthetic_users=66", "--synthetic_items=44",
         "--teachers=unisrec", "--seeds=0", "--update_epochs=2", "--max_epochs=2"),
        (*_STUDENTS, "experiments.runs.update"), _yesterday, "train",
    ),
    "recommend": Stage(
        ("recommend", "--model=student", "--input=histories.jsonl", "--output=answers.jsonl"),
        ("jax", "experiments.stages.recommend"), _histories, "train", 3,
    ),
    "export": Stage(
        ("export", "--model=student", "--output_dir=artefact",
         "--formats=stablehlo,onnx,vectors"),
        ("jax", "onnx", "experiments.stages.artifact"), _histories, "train", 3,
    ),
}  # fmt: skip
