"""Artefacts in new environments that hold what the docs name and nothing else; needs a registry."""

import json
import shutil
import subprocess
import sys
import venv

import pytest

from prmkd_jax.serve.recommender import Recommender
from tests.packages import ROOT
from tests.serve.test_artifact import artefacts, models, reader  # noqa: F401  (fixtures)

pytestmark = pytest.mark.slow

RUN = """
import importlib.util, sys
absent, code, folders = sys.argv[1].split(","), sys.argv[2], sys.argv[3:]
for folder in folders:
    exec(code.replace('"artefact/', f'"{folder}/'), {"__name__": folder})
print(len(folders), *(name for name in absent if importlib.util.find_spec(name)))
"""
NO_PROJECT = ("prmkd_jax", "flax", "optax", "orbax", "torch", "safetensors", "pyarrow")
CASES = {
    "stablehlo": (("jax", "flatbuffers"), "export.deserialize", (*NO_PROJECT, "onnxruntime")),
    "onnx": (("onnxruntime", "numpy"), "InferenceSession", (*NO_PROJECT, "jax", "onnx")),
    "oldest onnxruntime": (
        ("onnxruntime==1.15.0", "numpy<2"), "InferenceSession", (*NO_PROJECT, "jax", "onnx")
    ),
    "vectors": (("numpy",), "item_ids.json", (*NO_PROJECT, "jax", "onnxruntime")),
    "faiss": (("faiss-cpu", "numpy"), "IndexFlatIP", (*NO_PROJECT, "jax", "onnxruntime")),
}  # fmt: skip


def environment(folder, *packages):
    """The interpreter of a new environment with these packages."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    done = subprocess.run(
        [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages],
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"no registry: pip: {done.stderr.strip().splitlines()[-1]}")
    return python


@pytest.mark.parametrize("case", CASES)
def test_the_docs_reader_runs_with_these_packages_alone(case, artefacts, tmp_path):  # noqa: F811
    """Its ids and scores are those of the `Recommender`, for every student with the file."""
    packages, word, absent = CASES[case]
    if "==" in packages[0] and sys.version_info >= (3, 12):
        pytest.skip("it has no wheel for this Python")
    jax = __import__("jax").__version__
    python = environment(tmp_path / "env", *(f"jax=={jax}" if p == "jax" else p for p in packages))
    folder = {"InferenceSession": "onnx", "export.deserialize": "stablehlo"}.get(word, "vectors")
    folders = [each for each in artefacts.values() if (each / folder).is_dir()]
    done = subprocess.run(
        [python, "-c", RUN, ",".join(absent), reader(word), *map(str, folders)],
        capture_output=True, text=True, timeout=600, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(len(folders))
    assert len(folders) == (6 if folder == "vectors" else 7)


RECOMMEND = """
import importlib.util, json, sys
from prmkd_jax.serve.recommender import Recommender
found = {}
for folder in sys.argv[1:]:
    answers = Recommender.load(folder).recommend([["i1", "i5"], ["i7"]], k=5)
    found[folder] = [[[one.item, one.score] for one in each.items] for each in answers]
absent = ("torch", "transformers", "polars", "onnxruntime", "fastapi", "matplotlib")
print(json.dumps([found, [name for name in absent if importlib.util.find_spec(name)]]))
"""


def test_the_recommender_runs_with_the_runtime_dependencies_alone(models, tmp_path):  # noqa: F811
    """Installed without extras, it gives the same answers for every student."""
    python = environment(tmp_path / "env", str(ROOT))
    done = subprocess.run(
        [python, "-c", RECOMMEND, *map(str, models.values())],
        capture_output=True, text=True, timeout=600, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found, present = json.loads(done.stdout.splitlines()[-1])
    assert present == []
    assert len(found) == 7
    for folder, answers in found.items():
        expected = Recommender.load(folder).recommend([["i1", "i5"], ["i7"]], k=5)
        for answer, own in zip(answers, expected, strict=True):
            assert [item for item, _ in answer] == [one.item for one in own.items]
            scores = [one.score for one in own.items]
            assert [score for _, score in answer] == pytest.approx(scores, rel=1e-5, abs=1e-5)


def containerfile():
    """Word → the lines of Containerfile that begin with it, without the word; joined at `\\`."""
    text = (ROOT / "Containerfile").read_text().replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if not line.startswith("#")]
    return lambda word: [rest for first, rest in filter(None, lines) if first == word]


def test_the_containers_steps_leave_a_service_that_answers(models, tmp_path):  # noqa: F811
    """Its files are installed as it says, without a container, and its health check passes."""
    said = containerfile()
    source = tmp_path / "app"
    for line in said("COPY"):
        *names, target = line.split()
        for name in names:
            place = source / (target if (ROOT / name).is_dir() else name)
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            place.parent.mkdir(parents=True, exist_ok=True)
            copy(ROOT / name, place)
    (install,) = (line for line in said("RUN") if "pip install" in line)
    extra = install.rpartition("[")[2].partition("]")[0]
    python = environment(tmp_path / "env", f"{source}[{extra}]")
    program, *rest = json.loads(said("ENTRYPOINT")[0])
    rest[rest.index("--host=0.0.0.0")] = "--host=127.0.0.1"
    command = [python.with_name(program), *rest, f"--model={models['sasrec']}", "--port=0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=tmp_path,
        env={"PYTHONUNBUFFERED": "1", "HOME": str(tmp_path)},
    ) as process:  # fmt: skip
        try:
            assert process.stdout
            line = next(line for line in process.stdout if " at http://" in line)
            port = line.strip().strip("/").rpartition(":")[2]
            check = json.loads(said("HEALTHCHECK")[0].partition("CMD ")[2])
            assert check[0] == "python"
            code = [part.replace(":8000/", f":{port}/") for part in check[1:]]
            assert subprocess.run([python, *code], timeout=30).returncode == 0
        finally:
            process.terminate()
        assert process.wait(60) == 0
