"""Files of histories in, files of answers out; as a user runs it and after a kill."""

import json
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flax import nnx

from bridge.runtime import RuntimeSettings
from experiments.cli import command as frame
from experiments.commands.recommend import COMMAND
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.config import DataConfig
from prmkd_jax.data.synthetic import synthetic_dataset
from prmkd_jax.serve import answers
from prmkd_jax.serve.answers import BatchJob, answer_file
from prmkd_jax.serve.exported import export_student
from prmkd_jax.serve.histories import Asked, read_histories
from prmkd_jax.serve.recommender import Recommender
from prmkd_jax.students.student import create_student
from tests.commands import Done, run_commands
from tests.students.reference import random_params
from tests.worlds import facts, random_world, student_config

WORLD = random_world()
ASKED = [
    Asked(f"u{n}" if n % 3 else None, [f"i{n % 40}", "new", f"i{n * 7 % 40}"]) for n in range(23)
]

BLOCKED = ("torch", "transformers", "orbax", "orbax.checkpoint", "polars")
"""What the command line can't import in the process in which it answers."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of an exported student."""
    folder = tmp_path_factory.mktemp("model") / "sasrec"
    config, known = student_config(), facts(WORLD)
    _, state = create_student(config, known, 0)
    params = random_params(nnx.to_pure_dict(state), seed=5)
    export_student(folder, params, config, known, WORLD)
    return folder


@pytest.fixture(scope="module")
def recommender(model):
    return Recommender.load(model)


def write_lines(path, asked=ASKED):
    path.write_text("\n".join(json.dumps({"user_id": a.user, "history": a.history}) for a in asked))
    return path


class Asking(NamedTuple):
    """Commands by name, what each ended in, and the folder of its files."""

    done: dict[str, Done]
    folder: Path

    def of(self, name: str) -> tuple[Done, Path]:
        """What a command ended in, and its own folder."""
        return self.done[name], self.folder / name


@pytest.fixture(scope="module")
def asking(model, tmp_path_factory) -> Asking:
    """All commands of this file, one after the other in a process without `BLOCKED`."""
    root = tmp_path_factory.mktemp("asking")

    def place(name: str) -> Path:
        (root / name).mkdir()
        return root / name

    lines: dict[str, list[str]] = {}
    for suffix in (".jsonl", ".parquet"):
        folder = place(f"file{suffix}")
        source = write_lines(folder / "h.jsonl")
        flags = [f"--model={model}", f"--input={source}", f"--output={folder / 'out'}{suffix}"]
        lines[f"file{suffix}"] = [*flags, "--k=3"]
    source = place("mistake") / "h.jsonl"
    source.write_text('{"history": ["i1"]}\n{"history": 3}\n')
    flags = ["--model=nowhere", f"--input={source}", f"--output={source.parent / 'o.jsonl'}"]
    lines["mistake"] = flags
    source = write_lines(place("replaced") / "h.jsonl")
    lines["replaced"] = ["--model=m", f"--input={source}", f"--output={source}", "--overwrite"]
    lines["one"] = [f"--model={model}", "--history=i1,i9", "--k=2", "--nofilter_seen"]
    lines["unknown"] = [f"--model={model}", "--history=i1,nowhere", "--k=2"]
    lines["similar"] = [f"--model={model}", "--similar_to=i1,i2", "--k=2"]
    folder = place("shop")
    write_shop(folder / "shop")
    flags = ["--dataset=shop", f"--data_dir={folder}", f"--output={folder / 'out.jsonl'}"]
    lines["shop"] = [f"--model={model}", *flags]
    folder = place("own")
    export_own(folder / "model")
    flags = [f"--model={folder / 'model'}", "--k=3"]
    lines |= {"own": [*flags, f"--output={folder / 'out.jsonl'}"], "own, printed": flags}
    done = run_commands([["recommend", *line] for line in lines.values()], blocked=BLOCKED)
    return Asking(dict(zip(lines, done, strict=True)), root)


def write_shop(folder: Path) -> None:
    """A data set of three users, one of whom knows only an item that the model doesn't."""
    folder.mkdir()
    rows = [("ann", "i1", 0), ("bob", "i2", 0), ("ann", "i3", 1), ("eve", "else", 0)]
    users, items, places = zip(*rows, strict=True)
    table = {"user_id": users, "item_id": items, "position": pa.array(places, pa.int32())}
    pq.write_table(pa.table(table), folder / "interactions.parquet")
    pq.write_table(
        pa.table({"item_id": ["i1", "i2", "i3", "else"], "title": ["a"] * 4}),
        folder / "items.parquet",
    )


OWN = {"synthetic_users": 12, "synthetic_items": 20}


def export_own(folder: Path) -> None:
    """A student of a synthetic world of this size, which its card records."""
    world = synthetic_dataset(DataConfig(**OWN))
    config, known = student_config(), facts(world)
    params = nnx.to_pure_dict(create_student(config, known, 0)[1])
    export_student(folder, params, config, known, world, {"settings": OWN})


def job(asked=ASKED, **changes) -> BatchJob:
    return BatchJob(lambda first: iter(asked[first:]), len(asked), {"model": "m"}, k=3)._replace(
        **changes
    )


def read(path):
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text().splitlines()]


def silent(done, total):
    pass


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_file_of_histories_becomes_a_file_of_answers_in_its_order(asking, recommender, suffix):
    """Ids and scores are the recommender's, in a process without torch and orbax."""
    done, folder = asking.of(f"file{suffix}")
    output = folder / f"out{suffix}"
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{output}: 23 answers",
        "items that the student doesn't know, skipped: 23",
    ]
    expected = recommender.recommend([a.history for a in ASKED], 3)
    found = read(output)
    assert [row["user_id"] for row in found] == [a.user for a in ASKED]
    assert [row["items"] for row in found] == [[x.item for x in a.items] for a in expected]
    for row, answer in zip(found, expected, strict=True):
        assert row["scores"] == pytest.approx([x.score for x in answer.items], abs=1e-6)
    assert sorted(path.name for path in folder.iterdir()) == sorted(["h.jsonl", output.name])


def test_parquet_is_read_as_json_lines_are(tmp_path):
    """Arrow's large lists are read, and so is a file without users."""
    lines = write_lines(tmp_path / "h.jsonl")
    columns = {
        "user_id": [a.user for a in ASKED],
        "history": pa.array([a.history for a in ASKED], pa.large_list(pa.large_string())),
    }
    pq.write_table(pa.table(columns), tmp_path / "h.parquet")
    assert [*read_histories(tmp_path / "h.parquet")] == [*read_histories(lines)] == ASKED
    assert [*read_histories(tmp_path / "h.parquet", 20)] == [*read_histories(lines, 20)]
    pq.write_table(pa.table(columns).select(["history"]), tmp_path / "h.parquet")
    assert {a.user for a in read_histories(tmp_path / "h.parquet")} == {None}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_killed_job_goes_on_where_it_was_and_ends_in_the_same_file(
    tmp_path, recommender, monkeypatch, suffix
):
    """No answer is made twice, and no output is there before all is answered."""
    monkeypatch.setattr(answers, "BLOCK", 5)
    output, whole = tmp_path / f"out{suffix}", tmp_path / f"whole{suffix}"
    summary = answer_file(recommender, job(), whole, silent)

    def kill(done, total):
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer_file(recommender, job(), output, kill)
    assert not output.exists()
    starts = []
    again = job(histories=lambda first: starts.append(first) or iter(ASKED[first:]))
    reported = []
    assert answer_file(recommender, again, output, lambda *told: reported.append(told)) == summary
    assert starts == [10]
    assert reported == [(10, 23), (15, 23), (20, 23), (23, 23)]
    assert output.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([output.name, whole.name])


def test_another_jobs_parts_are_not_taken_for_this_ones(tmp_path, recommender, monkeypatch):
    monkeypatch.setattr(answers, "BLOCK", 5)
    output = tmp_path / "out.jsonl"

    def kill(done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer_file(recommender, job(), output, kill)
    other = job(ASKED[::-1], identity={"model": "other"})
    with pytest.raises(UserError, match="begun with another model, source or settings"):
        answer_file(recommender, other, output, silent)
    answer_file(recommender, other, output, silent, overwrite=True)
    assert [row["user_id"] for row in read(output)] == [a.user for a in ASKED[::-1]]
    with pytest.raises(UserError, match=r"found .*out.jsonl, expected no such file"):
        answer_file(recommender, other, output, silent)


def kill_while_removing(recommender, output, monkeypatch):
    """A job whose answers are whole, killed when its sign is removed and its parts are not."""
    monkeypatch.setattr(answers, "BLOCK", 5)

    def kill(parts):
        (parts / "job.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(answers, "_remove", kill)
        with pytest.raises(KeyboardInterrupt):
            answer_file(recommender, job(), output, silent)


def test_a_kill_while_the_parts_are_removed_leaves_nothing(tmp_path, recommender, monkeypatch):
    """The next command keeps the finished output and removes the rest of the parts."""
    output = tmp_path / "out.jsonl"
    kill_while_removing(recommender, output, monkeypatch)
    assert any(answers.parts_folder(output).glob("part-*"))
    whole = output.read_bytes()
    with pytest.raises(UserError, match=r"found .*out.jsonl, expected no such file"):
        answers.require_output(output, False)
    assert [path.name for path in tmp_path.iterdir()] == [output.name]
    assert output.read_bytes() == whole


@pytest.mark.parametrize("how", ["--overwrite", "removed"])
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_parts_without_a_job_are_never_another_jobs_answers(
    tmp_path, recommender, monkeypatch, how, suffix
):
    """After a kill late in one job, another job's output holds only its own answers."""
    output = tmp_path / f"out{suffix}"
    kill_while_removing(recommender, output, monkeypatch)
    if how == "removed":
        output.unlink()
    other = job(ASKED[::-1], identity={"model": "other"})
    answers.require_output(output, how == "--overwrite")
    summary = answer_file(recommender, other, output, silent, overwrite=how == "--overwrite")
    assert summary.histories == len(ASKED)
    assert [row["user_id"] for row in read(output)] == [a.user for a in ASKED[::-1]]
    assert [path.name for path in tmp_path.iterdir()] == [output.name]


@pytest.mark.parametrize("name", ["thesis.txt", "part-mine.jsonl", "part-000000.csv", "joined.txt"])
def test_what_others_keep_in_the_folder_of_parts_stays(tmp_path, recommender, name):
    output = tmp_path / "out.jsonl"
    kept = answers.parts_folder(output) / name
    kept.parent.mkdir()
    kept.write_text("years")
    answer_file(recommender, job(), output, silent)
    with pytest.raises(UserError, match=r"found .*out.jsonl, expected no such file"):
        answers.require_output(output, False)
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 3: found no JSON"),
        ("[1]", "line 3: found [1], expected an object"),
        ('{"history": "i1"}', "line 3, history: found 'i1', expected a list of item ids"),
        ('{"history": [1]}', "line 3, history: found [1], expected a list of item ids"),
        ('{"user_id": "u"}', "line 3, history: found nothing, expected a list of item ids"),
        ('{"user_id": 7, "history": []}', "line 3, user_id: found 7, expected a string or null"),
        ('{"history": ' + "[" * 9999, "line 3: found no JSON (its lists are nested too deeply"),
        ('{"history": ' + "9" * 9999, "line 3: found no JSON (Exceeds the limit"),
        (
            '{"history": [], "history": ["i1"]}',
            "line 3: found the field 'history' twice, expected each once",
        ),
        ('{"history": [NaN]}', "line 3, history: found [nan], expected a list of item ids"),
        (
            r'{"user_id": "\ud83d", "history": []}',
            r"line 3, user_id: found '\ud83d', expected text of UTF-8",
        ),
    ],
)
def test_a_damaged_line_is_named(tmp_path, line, message):
    source = tmp_path / "h.jsonl"
    source.write_text(f'{{"history": []}}\n\n{line}\n')
    with pytest.raises(UserError) as caught:
        [*read_histories(source)]
    assert str(caught.value).startswith(f"{source}, {message}")


def test_a_parquet_row_without_a_history_is_named(tmp_path):
    source = tmp_path / "h.parquet"
    pq.write_table(pa.table({"history": [["i1"], None]}), source)
    with pytest.raises(UserError, match="row 1, history: found nothing"):
        [*read_histories(source)]
    pq.write_table(pa.table({"items": [["i1"]]}), source)
    with pytest.raises(UserError, match="found no column history"):
        [*read_histories(source)]
    twice = pa.Table.from_arrays([pa.array([["i1"]])] * 2, names=["history", "history"])
    pq.write_table(twice, source)
    with pytest.raises(UserError, match="found 2 columns history, expected 1"):
        [*read_histories(source)]
    source.write_text("no parquet")
    with pytest.raises(UserError, match="found no readable parquet file"):
        [*read_histories(source)]


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("user_id", pa.array([1, 2], pa.timestamp("ns"))),
        ("user_id", pa.array([2**62, 0], pa.timestamp("us", "+05:30"))),
        ("history", pa.array([2**31 - 1, 0], pa.date32())),
        ("history", pa.array([[2**62], []], pa.list_(pa.duration("ms")))),
        ("history", pa.array([["i1"], []], pa.list_(pa.binary()))),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value.type),
)
def test_a_column_of_another_type_is_refused_before_its_values_are_made(tmp_path, name, cells):
    """Python has no value for some of them."""
    source = tmp_path / "h.parquet"
    pq.write_table(pa.table({"history": [["i1"], ["i2"]]} | {name: cells}), source)
    with pytest.raises(UserError, match=rf"h\.parquet, {name}: found type .*, expected .*text"):
        [*read_histories(source)]


def test_histories_of_any_type_of_text_are_read(tmp_path):
    """Categories and columns without a value too."""
    source = tmp_path / "h.parquet"
    lists = pa.array([["i1"], []], pa.list_(pa.dictionary(pa.int32(), pa.string())))
    table = pa.table({"history": lists, "user_id": pa.nulls(2)})
    pq.write_table(table, source)
    assert [*read_histories(source)] == [(None, ["i1"]), (None, [])]


def test_a_mistake_in_the_last_line_is_told_before_the_model_is_opened(asking):
    done, folder = asking.of("mistake")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: {folder / 'h.jsonl'}, line 2, history: found 3, expected a list of item ids "
        "(strings)\n"
    )
    assert [path.name for path in folder.iterdir()] == ["h.jsonl"]


def test_the_histories_are_not_replaced_by_their_answers(asking, tmp_path):
    """`--output` equal to `--input` is refused, even with --overwrite."""
    done, folder = asking.of("replaced")
    source = folder / "h.jsonl"
    assert done.returncode == 2
    assert done.stderr == (
        f"error: --output: found {source}, which is --input, expected another file\n"
    )
    assert source.read_bytes() == write_lines(tmp_path / "h.jsonl").read_bytes()


def test_a_source_among_the_outputs_own_parts_is_refused(tmp_path):
    """The parts are removed when the output is made."""
    output = tmp_path / "out.jsonl"
    source = tmp_path / "out.jsonl.parts" / "part-000000.jsonl"
    source.parent.mkdir()
    source.write_text('{"history": []}\n')
    with pytest.raises(UserError, match="a file of the unfinished"):
        answers.require_output(output, True, source)
    assert source.exists()


def test_another_jobs_parts_give_no_leave_to_replace_an_output(tmp_path):
    """`--similar_to` finishes no job."""
    output = tmp_path / "out.jsonl"
    output.write_text("mine")
    parts = tmp_path / "out.jsonl.parts"
    parts.mkdir()
    (parts / "job.json").write_text("{}")
    answers.require_output(output, False)
    with pytest.raises(UserError, match="expected no such file, or --overwrite"):
        answers.require_new(output, False)
    answers.require_new(output, True)


def test_one_history_and_similar_items_are_printed(asking, recommender):
    done, _ = asking.of("one")
    assert done.returncode == 0, done.stderr
    expected = recommender.recommend([["i1", "i9"]], 2, filter_seen=False)[0]
    assert json.loads(done.stdout)["items"] == [one.item for one in expected.items]
    # Standard output has answers alone, so what they leave out is told beside it.
    done, _ = asking.of("unknown")
    assert json.loads(done.stdout)["unknown_items"] == 1
    assert "warning: items that the student doesn't know, skipped: 1" in done.stderr
    done, _ = asking.of("similar")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["item_id"] for row in rows] == ["i1", "i2"]
    assert rows[1]["items"] == [one.item for one in recommender.similar("i2", 2)]


def test_all_users_of_a_data_set_are_answered(asking):
    """Items of the history are left out, and a user without a recommendation is counted."""
    done, folder = asking.of("shop")
    assert done.returncode == 0, done.stderr
    assert "histories without a recommendation: 1" in done.stdout
    found = {row["user_id"]: row for row in read(folder / "out.jsonl")}
    assert not {"i1", "i3"} & set(found["ann"]["items"])
    assert len(found["bob"]["items"]) == 10
    assert found["eve"]["items"] == []


def test_without_a_source_all_users_of_the_students_own_data_are_answered(asking):
    """The synthetic world has the size that the student was trained on."""
    done, folder = asking.of("own")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("all 12 users of the data that the student was trained on\n")
    found = read(folder / "out.jsonl")
    assert [row["user_id"] for row in found] == list(synthetic_dataset(DataConfig(**OWN)).user_ids)
    assert all(row["unknown_items"] == 0 and len(row["items"]) == 3 for row in found)
    done, _ = asking.of("own, printed")
    assert [json.loads(line) for line in done.stdout.splitlines()] == found


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--model: found nothing"),
        (["--model=m"], "student.json: missing"),
        (["--model=m", "--dataset=d", "--history=i"], "found --dataset and --history, expected"),
        (["--model=m", "--history=i", "--output=o.csv"], "--output: found 'o.csv', expected a"),
        (["--model=m", "--input=nowhere.jsonl"], "--input: found no file nowhere.jsonl"),
        (["--model=m", "--history=i"], "student.json: missing"),
        (["--model=m", "--similar_to=i", "--output=o.parquet"], "expected .jsonl with"),
    ],
)
def test_a_mistake_is_told_by_its_flag(monkeypatch, flags, message):
    monkeypatch.setattr(frame, "settle", lambda **_: RuntimeSettings({}, {}, False))
    with pytest.raises(UserError) as caught:
        frame.execute(COMMAND, flags, "recommend")
    assert message in str(caught.value)


@pytest.mark.parametrize("titles", [False, True])
def test_no_histories_give_a_file_of_the_same_columns(tmp_path, recommender, titles):
    """What reads the file finds titles only where they were asked for."""
    nothing = BatchJob(lambda first: iter(()), 0, {}, titles=titles)
    answer_file(recommender, nothing, tmp_path / "out.parquet", silent)
    assert ("titles" in pq.read_schema(tmp_path / "out.parquet").names) is titles
