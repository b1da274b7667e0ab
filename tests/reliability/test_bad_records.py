"""Records, cards and lists of the right digest and the wrong content; outputs that are no files.

Cases are written as `mistakes` says.
"""

# ruff: noqa: E501

import pytest

from tests.reliability.bad_files import make_files
from tests.reliability.bad_inputs import make_world
from tests.reliability.bad_records import make_records
from tests.reliability.mistakes import give

CASES = [
    (
        "report | --output_dir={tmp}/report-torn | --page={tmp}/a.html",
        "{tmp}/report-torn/run.json: damaged (Expecting property name enclosed in double quotes: line 1 column 2 (char 1)), expected the list of a run's files (move it, or give the command that wrote it again)",
    ),
    (
        "report | --output_dir={tmp}/report-latin | --page={tmp}/a.html",
        "{tmp}/report-latin/run.json: damaged ('utf-8' codec can't decode byte 0xff in position 0: invalid start byte), expected the list of a run's files (move it, or give the command that wrote it again)",
    ),
    (
        "report | --output_dir={tmp}/report-list | --page={tmp}/a.html",
        "{tmp}/report-list/run.json: files: found no list of names, expected the list of a run's files (move it, or give the command that wrote it again)",
    ),
    (
        "report | --output_dir={tmp}/report-number | --page={tmp}/a.html",
        "{tmp}/report-number/run.json: files: found no list of names, expected the list of a run's files (move it, or give the command that wrote it again)",
    ),
    (
        "report | --output_dir={tmp}/report-objects | --page={tmp}/a.html",
        "{tmp}/report-objects/run.json: files: found no list of names, expected the list of a run's files (move it, or give the command that wrote it again)",
    ),
    (
        "report | --output_dir={tmp}/report-pipe | --page={tmp}/a.html",
        "{tmp}/report-pipe/run.json: damaged (it is no regular file), expected the list of a run's files (move it, or give the command that wrote it again)",
    ),
    (
        "report | --output_dir={tmp}/report-latin-table | --page={tmp}/a.html",
        "{tmp}/report-latin-table/results.md: can't be read ('utf-8' codec can't decode byte 0xff in position 0: invalid start byte), expected the study's table",
    ),
    (
        "report | --output_dir={tmp}/report-latin-figure | --page={tmp}/a.html",
        "{tmp}/report-latin-figure/figures/a.svg: can't be read ('utf-8' codec can't decode byte 0xff in position 0: invalid start byte), expected the study's figure",
    ),
    (
        "report | --output_dir={tmp}/report-settings | --page={tmp}/a.html",
        "{tmp}/report-settings/results.json: damaged (TypeError: 'int' object is not iterable), expected the results of a finished run as they were written",
    ),
    (
        "report | --output_dir={tmp}/report-environment | --page={tmp}/a.html",
        "{tmp}/report-environment/results.json: damaged (TypeError: cannot convert dictionary update sequence element #0 to a sequence), expected the results of a finished run as they were written",
    ),
    (
        "report | --output_dir={tmp}/report-settings",
        "{tmp}/report-settings/results.json: damaged (TypeError: 'int' object is not subscriptable), expected the results of a finished run as they were written",
    ),
    (
        "report | --output_dir={tmp}/report-environment",
        "{tmp}/report-environment/results.json: damaged (ValueError: 'list object' has no attribute 'items'), expected the results of a finished run as they were written",
    ),
    (
        "report | --output_dir={tmp}/report-nothing",
        "{tmp}/report-nothing/results.json: damaged (ValueError: list object has no element 0), expected the results of a finished run as they were written",
    ),
    (
        "report | --output_dir={tmp}/report-words",
        "{tmp}/report-words/results.json: damaged (KeyError: 'Recall@10'), expected the results of a finished run as they were written",
    ),
    (
        "report | --output_dir={tmp}/report-good | --fill={tmp}/missing.md",
        "--fill: {tmp}/missing.md: found no such file, expected a Markdown page",
    ),
    (
        "report | --output_dir={tmp}/report-good | --fill={tmp}/latin.md",
        "--fill: {tmp}/latin.md: can't be read ('utf-8' codec can't decode byte 0xe9 in position 3: unexpected end of data), expected a Markdown page",
    ),
    (
        "report | --output_dir={tmp}/report-good | --fill={tmp}/pipe",
        "--fill: found {tmp}/pipe, which is no file, expected one or nothing",
    ),
    (
        "report | --output_dir={tmp}/report-good | --fill=/dev/zero",
        "--fill: found /dev/zero, which is no file, expected one or nothing",
    ),
    (
        "report | --output_dir={tmp}/report-good | --fill={tmp}/dangling",
        "--fill: found {tmp}/dangling, which is no file, expected one or nothing",
    ),
    (
        "report | --output_dir={tmp}/report-good | --fill={tmp}/outside.md",
        "{tmp}/report-good/nothing.json: missing, expected the results of a finished run",
    ),
    (
        "report | --output_dir={tmp}/report-good | --page={tmp}/pipe",
        "--page: found {tmp}/pipe, which is no file, expected one or nothing",
    ),
    (
        "report | --output_dir={tmp}/report-good | --page={tmp}/dangling",
        "--page: found {tmp}/dangling, which is no file, expected one or nothing",
    ),
    (
        "report | --output_dir={tmp}/report-good | --page={tmp}/mine.json",
        "--page: found '{tmp}/mine.json', expected a name that ends in .html",
    ),
    (
        "report | --output_dir={tmp}/report-good | --page={tmp}/a.html | --keep={tmp}/b.json",
        "found --page and --keep, expected one of them",
    ),
    (
        "report | --output_dir={tmp}/report-good | --keep={tmp}/mine.json",
        "--keep: found {tmp}/mine.json, which is no copy made by --keep, expected one or nothing",
    ),
    (
        "report | --output_dir={tmp}/report-good | --keep={tmp}/report-good/results.json",
        "--keep: found {tmp}/report-good/results.json, which is no copy made by --keep, expected one or nothing",
    ),
    (
        "report | --output_dir={tmp}/report-good | --keep=/dev/full",
        "--keep: found /dev/full, which is no file, expected one or nothing",
    ),
    (
        "report | --output_dir={tmp}/report-good | --keep={tmp}/b.json",
        "{tmp}/report-good/timing.json: missing, expected the results of a finished run",
    ),
    (
        "recommend | --model={tmp}/card-set-list",
        "{tmp}/card-set-list/student.json: record.settings: found [1], expected an object",
    ),
    (
        "recommend | --model={tmp}/card-set-text",
        "{tmp}/card-set-text/student.json: record.settings: found candidates, expected an object",
    ),
    (
        "recommend | --model={tmp}/card-users-text",
        "{tmp}/card-users-text/student.json: record.settings.synthetic_users: found x, expected int",
    ),
    (
        "recommend | --model={tmp}/card-users-half",
        "{tmp}/card-users-half/student.json: record.settings.synthetic_users: found 20.5, expected int",
    ),
    (
        "recommend | --model={tmp}/card-users-null",
        "{tmp}/card-users-null/student.json: record.settings.synthetic_users: found None, expected int",
    ),
    (
        "recommend | --model={tmp}/card-users-many",
        "{tmp}/card-users-many/student.json: record.settings.synthetic_users: found 1000000000000, expected at least 10, at most 10000000",
    ),
    (
        "recommend | --model={tmp}/card-candidates",
        "{tmp}/card-candidates/student.json: record.settings.candidates: found 'some', expected one of interactions, catalogue",
    ),
    (
        "recommend | --model={tmp}/card-teachers",
        "{tmp}/card-teachers/student.json: record.teachers: found {'unisrec': 3}, expected an object of objects, each with its label",
    ),
    (
        "recommend | --model={tmp}/card-keys",
        "{tmp}/card-keys/student.json: record.teacher_keys: found {'unisrec': 3}, expected an object of texts",
    ),
    (
        "recommend | --model={tmp}/card-leads-out",
        "{tmp}/card-leads-out/student.json: dataset.name: found '../data/good', expected the name of a folder in --data_dir (or give --dataset)",
    ),
    (
        "recommend | --model={tmp}/card-no-name",
        "{tmp}/card-no-name/student.json: dataset.name: found '', expected the name of a folder in --data_dir (or give --dataset)",
    ),
    (
        "recommend | --model={tmp}/card-long-name",
        "{tmp}/card-long-name/student.json: dataset.name: found 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', expected the name of a folder in --data_dir (or give --dataset)",
    ),
    (
        "recommend | --model={tmp}/card-nul-name",
        "{tmp}/card-nul-name/student.json: dataset.name: found 'a\\x00b', expected the name of a folder in --data_dir (or give --dataset)",
    ),
    (
        "recommend | --model={tmp}/card-heads | --history=a",
        "{tmp}/card-heads/student.json: config.num_heads: found 7, expected a divisor of config.hidden_size, 8",
    ),
    (
        "recommend | --model={tmp}/card-dropout | --history=a",
        "{tmp}/card-dropout/student.json: config.dropout: found 5.0, expected at least 0, below 1",
    ),
    (
        "recommend | --model={tmp}/card-sound | --history=",
        "--history: found nothing, expected a source (without any of --input, --dataset, --history, --similar_to it is the data set that the student was trained on)",
    ),
    (
        "recommend | --model={tmp}/card-sound | --input=",
        "--input: found nothing, expected a source (without any of --input, --dataset, --history, --similar_to it is the data set that the student was trained on)",
    ),
    (
        "recommend | --model={tmp}/card-sound | --dataset=",
        "--dataset: found nothing, expected a source (without any of --input, --dataset, --history, --similar_to it is the data set that the student was trained on)",
    ),
    (
        "recommend | --model={tmp}/card-sound | --similar_to=",
        "--similar_to: found nothing, expected a source (without any of --input, --dataset, --history, --similar_to it is the data set that the student was trained on)",
    ),
    (
        "recommend | --model={tmp}/card-sound | --history=a | --output=/dev/full",
        "--output: found /dev/full, which is no file, expected one or nothing",
    ),
    (
        "export | --model={tmp}/card-keys | --output_dir={tmp}/artefact | --explain",
        "{tmp}/card-keys/student.json: record.teacher_keys: found {'unisrec': 3}, expected an object of texts",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/lists-large",
        "{tmp}/lists-large/values.npy: entry 0: found 1e+300, expected a number that float32 can hold, also times --precomputed_scale=1",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/lists-small",
        "{tmp}/lists-small/values.npy: entry 0: found 1e-300, expected a number that float32 can hold, also times --precomputed_scale=1",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/lists-large-rest",
        "{tmp}/lists-large-rest/rest.npy: found 1e+300, expected a number that float32 can hold, also times --precomputed_scale=1",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/lists-sound | --precomputed_scale=1e38",
        "{tmp}/lists-sound/values.npy: entry 0: found 10, expected a number that float32 can hold, also times --precomputed_scale=1e+38",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/lists-sound | --precomputed_normalize",
        "--precomputed_normalize: found True, expected False for ranked lists (offsets.npy)",
    ),
    (
        "study | rivals | --variant_flags=base:",
        "--variant_flags: found 'base:', expected name: flag=value, the name one of base, base-text, prmkd, average, weighted, best_teacher, rank_ensemble, rd, rrd, unkd, label_smoothing, permuted",
    ),
    (
        "study | rivals | --variant_flags=base: =1",
        "--variant_flags: found 'base: =1', expected name: flag=value, the name one of base, base-text, prmkd, average, weighted, best_teacher, rank_ensemble, rd, rrd, unkd, label_smoothing, permuted",
    ),
    (
        "study | rivals | --variant_flags=base: output_dir=elsewhere",
        "--variant_flags: found output_dir in 'base: output_dir=elsewhere', which the whole study has in common, expected other flags",
    ),
    (
        "study | rivals | --variant_flags=base: dataset=other",
        "--variant_flags: found dataset in 'base: dataset=other', which the whole study has in common, expected other flags",
    ),
    (
        "study | rivals | --datasets=good | --data_dir={tmp}/data | --dataset_flags=good: dataset=short",
        "--dataset_flags: found dataset in 'good: dataset=short', which the whole study has in common, expected other flags",
    ),
    (
        "study | rivals | --variants=base | --teachers=popularity | --variant_flags=base: synthetic_users=60 | --synthetic_users=50 | --synthetic_items=40",
        "--variant_flags: found prmkd with other data or another split than base, expected the same: variants are compared on the same test targets",
    ),
    (
        "search | --grid==1",
        "--grid: found '=1', expected name=value,value",
    ),
    (
        "search | --grid=dropout=0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,0.11,0.12,0.13,0.14,0.15,0.16,0.17,0.18,0.19,0.21,0.22,0.23,0.24,0.25,0.26,0.27,0.28,0.29,0.31,0.32,0.33,0.34,0.35,0.36,0.37,0.38,0.39,0.41,0.42,0.43,0.44,0.45,0.46,0.47,0.48,0.49,0.51,0.52,0.53,0.54,0.55,0.56,0.57,0.58,0.59,0.61,0.62,0.63,0.64,0.65,0.66,0.67,0.68,0.69,0.71,0.72,0.73,0.74,0.75,0.76,0.77,0.78,0.79,0.81,0.82,0.83,0.84,0.85,0.86,0.87,0.88,0.89,0.91,0.92,0.93,0.94,0.95,0.96,0.97,0.98,0.99;temperature=0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,0.11,0.12,0.13,0.14,0.15,0.16,0.17,0.18,0.19,0.21,0.22,0.23,0.24,0.25,0.26,0.27,0.28,0.29,0.31,0.32,0.33,0.34,0.35,0.36,0.37,0.38,0.39,0.41,0.42,0.43,0.44,0.45,0.46,0.47,0.48,0.49,0.51,0.52,0.53,0.54,0.55,0.56,0.57,0.58,0.59,0.61,0.62,0.63,0.64,0.65,0.66,0.67,0.68,0.69,0.71,0.72,0.73,0.74,0.75,0.76,0.77,0.78,0.79,0.81,0.82,0.83,0.84,0.85,0.86,0.87,0.88,0.89,0.91,0.92,0.93,0.94,0.95,0.96,0.97,0.98,0.99;distill_weight=0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,0.11,0.12,0.13,0.14,0.15,0.16,0.17,0.18,0.19,0.21,0.22,0.23,0.24,0.25,0.26,0.27,0.28,0.29,0.31,0.32,0.33,0.34,0.35,0.36,0.37,0.38,0.39,0.41,0.42,0.43,0.44,0.45,0.46,0.47,0.48,0.49,0.51,0.52,0.53,0.54,0.55,0.56,0.57,0.58,0.59,0.61,0.62,0.63,0.64,0.65,0.66,0.67,0.68,0.69,0.71,0.72,0.73,0.74,0.75,0.76,0.77,0.78,0.79,0.81,0.82,0.83,0.84,0.85,0.86,0.87,0.88,0.89,0.91,0.92,0.93,0.94,0.95,0.96,0.97,0.98,0.99",
        "--grid: found 729000 combinations, expected at most 10000",
    ),
    (
        "load | --rate=1e-9",
        "--rate: found '1e-9', expected a number, at least 1, at most 100000",
    ),
    (
        "load | --rate=1 | --seconds=0.1",
        "--seconds: found 0.1, in which --rate=1 sends nothing, expected at least one request",
    ),
    (
        "load | --output={tmp}/pipe",
        "--output: found {tmp}/pipe, which is no file, expected one or nothing",
    ),
    (
        "bench | --suite=serve | --catalogues=",
        "--catalogues: found none, expected at least one",
    ),
    (
        "bench | --suite=serve | --batches=",
        "--batches: found none, expected at least one",
    ),
    (
        "bench | --suite=serve | --batches=8,8",
        "--batches: found '8,8', expected each value once",
    ),
    (
        "bench | --suite=peers | --peers=",
        "--peers: found none, expected at least one",
    ),
    (
        "portability | --curve_seeds=0,0",
        "--curve_seeds: found '0,0', expected each value once",
    ),
    (
        "portability | --students=sasrec,sasrec",
        "--students: found 'sasrec,sasrec', expected each value once",
    ),
    (
        "portability | --platforms=cpu,cpu",
        "--platforms: found 'cpu,cpu', expected each value once",
    ),
    (
        "portability | --curve_seeds=0,4294967296",
        "--curve_seeds: found '0,4294967296', expected values separated by commas, each a whole number, at least 0, at most 4294967295",
    ),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    make_world(folder)
    make_files(folder)
    make_records(folder)
    return folder


@pytest.mark.parametrize(("words", "line"), CASES)
def test_a_mistake_ends_in_its_line_and_status_2(words, line, world, monkeypatch, capsys):
    """A bad record ends the command without a traceback and without waiting."""
    assert give(words, world, monkeypatch, capsys) == f"error: {line}\n"
