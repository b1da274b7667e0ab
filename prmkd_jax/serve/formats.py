"""The formats of an artefact: what each writes into its folder, and how that is checked."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from jax import export

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import write_json
from prmkd_jax.serve.program import Program, array_specs
from prmkd_jax.serve.self_check import close, require_same

PLATFORMS = ("cpu", "cuda", "tpu")
# The limit of protobuf, ONNX's format, less some room for the graph.
MOST_ONNX_BYTES = 2_000_000_000


def _write_stablehlo(folder: Path, program: Program, inner_product: bool) -> None:
    folder.mkdir()
    arrays = program.arrays()
    batch, history, excluded = export.symbolic_shape("b, h, e")

    def ids(*shape: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, np.int32)

    asked = (array_specs(arrays), ids(batch, program.window or history), ids(batch))
    programs: dict[str, tuple[Callable, tuple]] = {
        "recommend": (program.recommend, (*asked, ids(batch, excluded)))
    }
    if inner_product:
        programs["user_vectors"] = (program.user_vectors, asked)
    np.savez(folder / "arrays.npz", **cast(dict[str, Any], arrays))
    for name, (function, arguments) in programs.items():
        with _no_source_places():
            made = export.export(jax.jit(function), platforms=PLATFORMS)(*arguments)
        try:
            content = made.serialize()
        except ImportError:
            raise UserError(
                "--formats: stablehlo: found no package flatbuffers, expected pip install "
                "'prmkd-jax[export]'"
            ) from None
        (folder / f"{name}.bin").write_bytes(content)


@contextlib.contextmanager
def _no_source_places() -> Iterator[None]:
    """Programs are lowered without the files and lines that they come from.

    Equal students would else give other bytes, with the paths of whoever exported them in them,
    on every machine and under every caller.
    """
    option = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, option)
    jax.config.update(option, 0)
    try:
        yield
    finally:
        jax.config.update(option, before)


def _write_onnx(folder: Path, program: Program, inner_product: bool) -> None:
    try:
        from prmkd_jax.serve.onnx_files import recommend_model, vector_model
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "onnx":
            raise
        raise UserError(
            "--formats: onnx: found no package onnx, expected pip install 'prmkd-jax[export]'"
        ) from None
    size = sum(array.nbytes for array in program.arrays().values())
    if size >= MOST_ONNX_BYTES:
        raise UserError(
            f"--formats: onnx: found {size} bytes of weights, expected less than "
            f"{MOST_ONNX_BYTES}, the most that one file holds"
        )
    folder.mkdir()
    (folder / "recommend.onnx").write_bytes(recommend_model(program).SerializeToString())
    if inner_product:
        (folder / "user_vectors.onnx").write_bytes(vector_model(program).SerializeToString())


def _write_vectors(folder: Path, program: Program, inner_product: bool) -> None:
    folder.mkdir()
    exported = program.exported
    np.save(folder / "items.npy", np.asarray(exported.items, np.float32))
    write_json(folder / "item_ids.json", list(exported.item_ids))
    if exported.users is not None and exported.user_ids is not None:
        np.save(folder / "users.npy", np.asarray(exported.users, np.float32))
        write_json(folder / "user_ids.json", list(exported.user_ids))


def _check_stablehlo(folder: Path, check: Mapping[str, np.ndarray]) -> str:
    with np.load(folder / "arrays.npz") as file:
        arrays = dict(file)
    program = export.deserialize(bytearray((folder / "recommend.bin").read_bytes()))
    found = program.call(arrays, check["history"], check["users"], check["excluded"])
    require_same(folder / "recommend.bin", [np.asarray(each) for each in found], check)
    vectors = folder / "user_vectors.bin"
    if vectors.exists():
        program = export.deserialize(bytearray(vectors.read_bytes()))
        found = program.call(arrays, check["history"], check["users"])
        _require_vectors(vectors, np.asarray(found), check)
    return f"{folder.name}: gives what the student gives"


def _check_onnx(folder: Path, check: Mapping[str, np.ndarray]) -> str:
    try:
        import onnxruntime
    except ImportError:
        return f"{folder.name}: not tried, onnxruntime is not installed"

    def run(path: Path, outputs: list[str]) -> Sequence[Any]:
        session = onnxruntime.InferenceSession(
            path.read_bytes(), providers=["CPUExecutionProvider"]
        )
        return session.run(outputs, {each.name: check[each.name] for each in session.get_inputs()})

    best, vectors = folder / "recommend.onnx", folder / "user_vectors.onnx"
    require_same(best, run(best, ["items", "scores"]), check)
    if vectors.exists():
        _require_vectors(vectors, run(vectors, ["vectors"])[0], check)
    return f"{folder.name}: gives what the student gives"


def _require_vectors(path: Path, found: np.ndarray, check: Mapping[str, np.ndarray]) -> None:
    if not close(found, check["vectors"]):
        raise UserError(f"{path}: gives other user vectors than the student, expected its own")


def _check_vectors(folder: Path, check: Mapping[str, np.ndarray]) -> str:
    scores = check["vectors"] @ np.load(folder / "items.npy").T
    for row, seen in zip(scores, check["excluded"], strict=True):
        row[seen[seen >= 0]] = -np.inf
    items = np.argsort(-scores, axis=1, kind="stable")[:, : check["items"].shape[1]]
    best = np.take_along_axis(scores, items, axis=1)
    found = [np.where(np.isfinite(best), items, -1), best]
    require_same(folder / "items.npy", found, check)
    return f"{folder.name}: give what the student gives"


WRITERS: Mapping[str, Callable[[Path, Program, bool], None]] = {
    "stablehlo": _write_stablehlo,
    "onnx": _write_onnx,
    "vectors": _write_vectors,
}
"""Format → (a folder to make, the program, whether scores are inner products) → its files."""

CHECKS: Mapping[str, Callable[[Path, Mapping[str, np.ndarray]], str]] = {
    "stablehlo": _check_stablehlo,
    "onnx": _check_onnx,
    "vectors": _check_vectors,
}
"""Format → (its folder, the self-check) → a line that says what was found.

Raises UserError where an answer isn't the student's own.
"""
