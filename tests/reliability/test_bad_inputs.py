"""Mistakes of a user, each with the exact line that tells it, and status 2.

Cases are written as `mistakes` says.
"""

# ruff: noqa: E501

import pytest

from tests.reliability.bad_inputs import make_world
from tests.reliability.mistakes import give

CASES = [
    (
        "nonsense",
        "found 'nonsense', expected a command: prepare, train, pretrain, study, search, report, recommend, export, teach, update, bench, serve, load, measure, portability, flags",
    ),
    (
        "--dropout=0.1",
        "found '--dropout=0.1', expected a command: prepare, train, pretrain, study, search, report, recommend, export, teach, update, bench, serve, load, measure, portability, flags",
    ),
    (
        "study",
        "study: found no study, expected one of table3, ablation, universality, rivals, sources, sensitivity, curriculum, temporal, students, table2, cold_start, efficiency",
    ),
    (
        "study | nonsense",
        "study: found 'nonsense', expected a study: table3, ablation, universality, rivals, sources, sensitivity, curriculum, temporal, students, table2, cold_start, efficiency",
    ),
    (
        "study | ablation | extra",
        "found 'extra' outside any flag, expected --name=value (a list has commas and no spaces)",
    ),
    (
        "train | word",
        "found 'word' outside any flag, expected --name=value (a list has commas and no spaces)",
    ),
    ("train | --no_such_flag=1", "unknown flag --no_such_flag, --help lists those there are"),
    ("train | --dropuot=0.1", "unknown flag --dropuot, did you mean --dropout?"),
    ("train | --dropout", "--dropout: found no value, expected --dropout=value"),
    ("train | --dropout=", "--dropout: found '', expected a number, at least 0, below 1"),
    ("train | --dropout=1", "--dropout: found '1', expected a number, at least 0, below 1"),
    ("train | --dropout=-0.1", "--dropout: found '-0.1', expected a number, at least 0, below 1"),
    ("train | --dropout=nan", "--dropout: found 'nan', expected a number, at least 0, below 1"),
    ("train | --dropout=inf", "--dropout: found 'inf', expected a number, at least 0, below 1"),
    ("train | --dropout=half", "--dropout: found 'half', expected a number, at least 0, below 1"),
    ("train | --hidden_size=0", "--hidden_size: found '0', expected a whole number, at least 1"),
    ("train | --hidden_size=-8", "--hidden_size: found '-8', expected a whole number, at least 1"),
    (
        "train | --hidden_size=8.5",
        "--hidden_size: found '8.5', expected a whole number, at least 1",
    ),
    (
        "train | --hidden_size=1e3",
        "--hidden_size: found '1e3', expected a whole number, at least 1",
    ),
    ("train | --hidden_size=", "--hidden_size: found '', expected a whole number, at least 1"),
    (
        "train | --num_layers=-1",
        "--num_layers: found '-1', expected a whole number, at least 1, at most 256",
    ),
    (
        "train | --num_heads=3 | --hidden_size=16",
        "--num_heads: found 3, expected a divisor of --hidden_size=16",
    ),
    ("train | --inner_size=0", "--inner_size: found '0', expected a whole number, at least 1"),
    (
        "train | --batch_size=0",
        "--batch_size: found '0', expected a whole number, at least 1, at most 16777216",
    ),
    ("train | --batch_size=10", "--batch_size: found 10, expected at least --max_seq_len=50"),
    (
        "train | --batch_size=many",
        "--batch_size: found 'many', expected a whole number, at least 1, at most 16777216",
    ),
    ("train | --learning_rate=0", "--learning_rate: found '0', expected a number, above 0"),
    ("train | --learning_rate=-1", "--learning_rate: found '-1', expected a number, above 0"),
    ("train | --learning_rate=nan", "--learning_rate: found 'nan', expected a number, above 0"),
    ("train | --learning_rate=1e400", "--learning_rate: found '1e400', expected a number, above 0"),
    ("train | --weight_decay=-1", "--weight_decay: found '-1', expected a number, at least 0"),
    ("train | --max_epochs=0", "--max_epochs: found '0', expected a whole number, at least 1"),
    ("train | --patience=0", "--patience: found '0', expected a whole number, at least 1"),
    (
        "train | --max_seq_len=0",
        "--max_seq_len: found '0', expected a whole number, at least 1, at most 65536",
    ),
    (
        "train | --max_seq_len=-5",
        "--max_seq_len: found '-5', expected a whole number, at least 1, at most 65536",
    ),
    ("train | --seeds=", "--seeds: found none, expected at least one"),
    (
        "train | --seeds=-1",
        "--seeds: found '-1', expected values separated by commas, each a whole number, at least 0, at most 4294967295",
    ),
    ("train | --seeds=0,0", "--seeds: found '0,0', expected each value once"),
    (
        "train | --seeds=1.5",
        "--seeds: found '1.5', expected values separated by commas, each a whole number, at least 0, at most 4294967295",
    ),
    (
        "train | --seeds=4294967296",
        "--seeds: found '4294967296', expected values separated by commas, each a whole number, at least 0, at most 4294967295",
    ),
    (
        "train | --seeds=0,99999999999",
        "--seeds: found '0,99999999999', expected values separated by commas, each a whole number, at least 0, at most 4294967295",
    ),
    (
        "train | --teacher_seed=-1",
        "--teacher_seed: found '-1', expected a whole number, at least 0, at most 4294967295",
    ),
    (
        "train | --teacher_seed=4294967296",
        "--teacher_seed: found '4294967296', expected a whole number, at least 0, at most 4294967295",
    ),
    (
        "train | --teachers=oracle",
        "--teachers: found 'oracle', expected values separated by commas, each one of unisrec-text, unisrec, unim2rec, recformer, precomputed, neighbours, popularity, recent-popularity",
    ),
    (
        "train | --teachers=unisrec,unisrec",
        "--teachers: found 'unisrec,unisrec', expected each value once",
    ),
    (
        "train | --teachers=unisrec,,unim2rec",
        "--teachers: found 'unisrec,,unim2rec', expected values separated by commas, each one of unisrec-text, unisrec, unim2rec, recformer, precomputed, neighbours, popularity, recent-popularity",
    ),
    (
        "train | --student=transformer",
        "--student: found 'transformer', expected one of sasrec, gru4rec, bert4rec, recguru, fm, deepfm, lightgcn",
    ),
    (
        "train | --student=",
        "--student: found '', expected one of sasrec, gru4rec, bert4rec, recguru, fm, deepfm, lightgcn",
    ),
    (
        "train | --method=nothing",
        "--method: found 'nothing', expected one of prmkd, best_teacher, rank_ensemble, rd, rrd, unkd, label_smoothing, permuted",
    ),
    (
        "train | --loss=hinge",
        "--loss: found 'hinge', expected one of softmax, sampled_softmax, uniform_softmax, gbce, bpr, or none",
    ),
    ("train | --temperature=0", "--temperature: found '0', expected a number, above 0"),
    ("train | --temperature=nan", "--temperature: found 'nan', expected a number, above 0"),
    ("train | --distill_weight=-1", "--distill_weight: found '-1', expected a number, at least 0"),
    (
        "train | --distill_weight=inf",
        "--distill_weight: found 'inf', expected a number, at least 0",
    ),
    (
        "train | --consistency_quantile=1.5",
        "--consistency_quantile: found '1.5', expected a number, at least 0, at most 1",
    ),
    (
        "train | --score_normalization=softmax",
        "--score_normalization: found 'softmax', expected one of zscore_softmax, sum, minmax, l2",
    ),
    (
        "train | --teacher_weights=1,2",
        "--teacher_weights: found '1,2', expected 3 numbers, one each for --teachers=unisrec-text,unisrec,unim2rec",
    ),
    (
        "train | --teacher_weights=a,b,c",
        "--teacher_weights: found 'a,b,c', expected validation, uniform, or one number a teacher, at least 0 and not all 0",
    ),
    (
        "train | --teacher_weights=nan,1,1",
        "--teacher_weights: found 'nan,1,1', expected validation, uniform, or one number a teacher, at least 0 and not all 0",
    ),
    (
        "train | --teacher_weights=-1,1,1",
        "--teacher_weights: found '-1,1,1', expected validation, uniform, or one number a teacher, at least 0 and not all 0",
    ),
    (
        "train | --teacher_scores=numpy",
        "--teacher_scores: found 'numpy', expected one of jax, torch",
    ),
    (
        "train | --num_negatives=0",
        "--num_negatives: found '0', expected a whole number, at least 1",
    ),
    (
        "train | --synthetic_users=0",
        "--synthetic_users: found '0', expected a whole number, at least 10, at most 10000000",
    ),
    (
        "train | --synthetic_items=1",
        "--synthetic_items: found '1', expected a whole number, at least 20, at most 10000000",
    ),
    ("train | --output_dir=", "--output_dir: found '', expected a path, not empty"),
    ("train | --output_dir=a\0b", "--output_dir: found 'a\\x00b', expected a path, not empty"),
    ("train | --cache_dir=", "--cache_dir: found '', expected a path, not empty"),
    ("train | --cache_dir=a\0b", "--cache_dir: found 'a\\x00b', expected a path, not empty"),
    ("train | --data_dir=", "--data_dir: found '', expected a path, not empty"),
    ("train | --dataset=", "--dataset: found '', expected text, not empty"),
    ("train | --overwrite=perhaps", "--overwrite: found 'perhaps', expected true or false"),
    ("train | --export_recbole=maybe", "--export_recbole: found 'maybe', expected true or false"),
    (
        "train | --log_to=paper",
        "--log_to: found 'paper', expected one of , tensorboard, wandb, mlflow",
    ),
    (
        "train | --split=random",
        "--split: found 'random', expected one of leave_one_out, given, temporal",
    ),
    (
        "train | --candidates=some",
        "--candidates: found 'some', expected one of interactions, catalogue",
    ),
    (
        "train | --init=student",
        "--init: found 'student', expected NAME=PATH, each name of student, unisrec, unim2rec, recformer at most once",
    ),
    (
        "train | --init=student=",
        "--init: found 'student=', expected NAME=PATH, each name of student, unisrec, unim2rec, recformer at most once",
    ),
    (
        "train | --init==path",
        "--init: found '=path', expected NAME=PATH, each name of student, unisrec, unim2rec, recformer at most once",
    ),
    (
        "train | --init=oracle=path",
        "--init: found 'oracle=path', expected NAME=PATH, each name of student, unisrec, unim2rec, recformer at most once",
    ),
    (
        "train | --init=student=a,student=b",
        "--init: found 'student=b', expected NAME=PATH, each name of student, unisrec, unim2rec, recformer at most once",
    ),
    (
        "train | --init=student=a\0b",
        "--init: found 'student=a\\x00b', expected NAME=PATH, each name of student, unisrec, unim2rec, recformer at most once",
    ),
    (
        "train | --flagfile={tmp}/unknown.cfg",
        "{tmp}/unknown.cfg, line 2: unknown flag --no_such_flag, --help lists those there are",
    ),
    (
        "train | --flagfile={tmp}/value.cfg",
        "{tmp}/value.cfg, line 2: --learning_rate: found 'fast', expected a number, above 0",
    ),
    (
        "train | --flagfile={tmp}/word.cfg",
        "{tmp}/word.cfg, line 2: found 'learning_rate=1' outside any flag, expected --name=value (a list has commas and no spaces)",
    ),
    (
        "train | --flagfile={tmp}/itself.cfg",
        "{tmp}/itself.cfg, line 1: --flagfile: found '{tmp}/itself.cfg', expected no file inside itself",
    ),
    (
        "train | --flagfile={tmp}/latin.cfg",
        "--flagfile: found '{tmp}/latin.cfg', expected readable UTF-8 text ('utf-8' codec can't decode byte 0xe9 in position 5: invalid continuation byte)",
    ),
    (
        "train | --flagfile=",
        "--flagfile: found no file '', expected a path, or a name out of experiments/configs: ablation.cfg, bench-peers.cfg, bench-serve.cfg, bench.cfg, choose-distillation.cfg, choose-dropout.cfg, choose-features.cfg, choose-history.cfg, choose-recformer.cfg, choose-rivals.cfg, choose-sasrec-beauty.cfg, choose-settings.cfg, choose-students.cfg, choose-teachers.cfg, choose-width.cfg, curriculum.cfg, demo.cfg, own.cfg, prepare-arts.cfg, prepare-beauty-5core.cfg, prepare-games.cfg, prepare-instruments.cfg, prepare-scientific-unisrec.cfg, prepare-scientific.cfg, prepare-sports-5core.cfg, prepare-toys-5core.cfg, prepare-toys.cfg, pretrain-recformer.cfg, pretrain.cfg, pretrained-recformer.cfg, pretrained.cfg, readings.cfg, recguru.cfg, rivals.cfg, sasrec-beauty.cfg, sasrec-sports.cfg, sasrec-toys.cfg, scientific-64.cfg, scientific-all.cfg, scientific.cfg, sensitivity.cfg, sources.cfg, students.cfg, table3.cfg, temporal.cfg",
    ),
    (
        "train | --teacher_hidden_size=0",
        "--teacher_hidden_size: found '0', expected a whole number, at least 1, at most 65536",
    ),
    (
        "train | --teacher_dropout=1",
        "--teacher_dropout: found '1', expected a number, at least 0, below 1",
    ),
    (
        "train | --teacher_learning_rate=0",
        "--teacher_learning_rate: found '0', expected a number, above 0",
    ),
    (
        "train | --teacher_temperature=0",
        "--teacher_temperature: found '0', expected a number, above 0",
    ),
    (
        "train | --teacher_max_epochs=0",
        "--teacher_max_epochs: found '0', expected a whole number, at least 1",
    ),
    (
        "train | --teacher_batch_size=0",
        "--teacher_batch_size: found '0', expected a whole number, at least 1, at most 16777216",
    ),
    (
        "train | --text_batch_size=0",
        "unknown flag --text_batch_size, did you mean --batch_size or --teacher_batch_size or --recformer_batch_size?",
    ),
    ("train | --text_pooling=max", "--text_pooling: found 'max', expected one of model, cls"),
    (
        "train | --image_batch_size=0",
        "unknown flag --image_batch_size, did you mean --batch_size or --teacher_batch_size or --recformer_batch_size?",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/missing | --teachers=",
        "--dataset=good: found no file {tmp}/missing/good/interactions.parquet; set --data_dir or PRMKD_DATA_DIR to the folder that holds good/interactions.parquet, or use --dataset=synthetic (data sets in {tmp}/missing: none)",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/file | --teachers=",
        "--data_dir: found the file {tmp}/file, expected a folder",
    ),
    (
        "train | --dataset=no-user | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/no-user/interactions.parquet: found no column user_id, expected user_id and item_id",
    ),
    (
        "train | --dataset=no-item | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/no-item/interactions.parquet: found no column item_id, expected user_id and item_id",
    ),
    (
        "train | --dataset=no-order | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/no-order/interactions.parquet: found no column position or timestamp, expected one of them",
    ),
    (
        "train | --dataset=numbered-users | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/numbered-users/interactions.parquet, column user_id: found type int64, expected string",
    ),
    (
        "train | --dataset=null-item | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/null-item/interactions.parquet, row 0, item_id: found null, expected an id",
    ),
    (
        "train | --dataset=text-position | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/text-position/interactions.parquet, column position: found type string, expected int64 or int32",
    ),
    (
        "train | --dataset=no-title | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/no-title/items.parquet: found no column title, expected item_id and title",
    ),
    (
        "train | --dataset=twice | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/twice/items.parquet, row 1, item_id: found 'a', expected each item once (it is in row 0 already)",
    ),
    (
        "train | --dataset=no-rows | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/no-rows/interactions.parquet: found 0 rows, expected at least one interaction",
    ),
    (
        "train | --dataset=short | --data_dir={tmp}/data | --teachers=",
        "data set short: found {'train': 1, 'validation': 0, 'test': 0} instances, expected some in each",
    ),
    (
        "train | --dataset=torn-log | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/torn-log/interactions.parquet: found no readable parquet file (Parquet magic bytes not found in footer. Either the file is corrupted or this is not a parquet file.)",
    ),
    (
        "train | --dataset=torn-items | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/torn-items/items.parquet: found no readable parquet file (Parquet magic bytes not found in footer. Either the file is corrupted or this is not a parquet file.)",
    ),
    (
        "train | --dataset=../data/good | --data_dir={tmp}/data | --teachers=oracle",
        "--teachers: found 'oracle', expected values separated by commas, each one of unisrec-text, unisrec, unim2rec, recformer, precomputed, neighbours, popularity, recent-popularity",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed",
        "--precomputed_folder: found nothing, expected a folder with instances.npy and items.npy, or with offsets.npy, ids.npy and values.npy",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/missing",
        "{tmp}/missing/instances.npy: no such file, expected the teacher's vectors",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/file",
        "--precomputed_folder: found the file {tmp}/file, expected a folder",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/vectors-no-instances",
        "{tmp}/vectors-no-instances/instances.npy: no such file, expected the teacher's vectors",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/vectors-no-items",
        "{tmp}/vectors-no-items/items.npy: no such file, expected the teacher's vectors",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=unisrec | --init=unisrec={tmp}/missing.pth",
        "--init: {tmp}/missing.pth: no such file, expected a folder made by pre-training or an official .pth file",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=unisrec | --init=unisrec={tmp}/empty",
        "--init: {tmp}/empty/weights.safetensors: no such file, expected a folder made by pre-training or an official .pth file",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --init=student={tmp}/missing",
        "--init=student: found no weights at {tmp}/missing, expected the folder of an exported student or a .pth file of RecBole's",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --init=student={tmp}/empty",
        "--init=student: found no weights at {tmp}/empty, expected the folder of an exported student or a .pth file of RecBole's",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --init=student={tmp}/text.pth",
        "{tmp}/text.pth: found no checkpoint of torch.save (no archive (a file of PyTorch before 1.6 is written again by its torch.load and a newer torch.save)), expected one",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --init=student={tmp}/code.pth",
        "{tmp}/code.pth: found os.system, which no checkpoint needs, expected tensors and plain values",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --init=student={tmp}/card-list",
        "{tmp}/card-list/student.json: damaged: found no JSON object",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --init=student={tmp}/card-torn",
        "{tmp}/card-torn/student.json: damaged: found no JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --init=student={tmp}/card-empty",
        "{tmp}/card-empty/student.json: format: found 1, expected 2: export the student again",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --output_dir={tmp}/file",
        "--output_dir: found the file {tmp}/file, expected a folder",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --output_dir={tmp}/file/below",
        "--output_dir: found the file {tmp}/file, expected a folder",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --output_dir={tmp}/dangling",
        "--output_dir: found a link to nothing {tmp}/dangling, expected a folder",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --output_dir={tmp}/thesis",
        "{tmp}/thesis/results.json: found a file that no run listed as its own, expected none (move it, or take another --output_dir)",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --output_dir={tmp}/thesis | --overwrite",
        "{tmp}/thesis/results.json: found a file that no run listed as its own, expected none (move it, or take another --output_dir)",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --output_dir={tmp}/run-list",
        "{tmp}/run-list/run.json: found no list of a run's files, expected one (move it, or take another --output_dir)",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --output_dir={tmp}/run-no-json",
        "{tmp}/run-no-json/run.json: found no list of a run's files, expected one (move it, or take another --output_dir)",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --output_dir={tmp}/run-no-files",
        "{tmp}/run-no-files/run.json: found no list of a run's files, expected one (move it, or take another --output_dir)",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --output_dir={tmp}/run-outside",
        "{tmp}/run-outside/run.json: found no list of a run's files, expected one (move it, or take another --output_dir)",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --output_dir={tmp}/run-absolute",
        "{tmp}/run-absolute/run.json: found no list of a run's files, expected one (move it, or take another --output_dir)",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --output_dir={tmp}/run-no-identity",
        "{tmp}/run-no-identity/run.json: found no list of a run's files, expected one (move it, or take another --output_dir)",
    ),
    (
        "study | table2 | --datasets=x,x",
        "--datasets: found 'x,x', expected each value once",
    ),
    (
        "export | --model={tmp}/no-model | --output_dir={tmp}/out | --formats=vectors,vectors",
        "--formats: found 'vectors,vectors', expected each value once",
    ),
    (
        "export | --model={tmp}/empty | --output_dir={tmp}/out | --plain={tmp}/./empty/",
        "--plain: found {tmp}/./empty/, the folder of --model, expected that of the plain student, which it is compared with",
    ),
    ("pretrain | --domains=", "--domains: found '', expected names, each once"),
    (
        "pretrain | --domains=synthetic",
        "--domains: found 'synthetic', the target, expected other data sets: a teacher is never pre-trained on what it is tuned on",
    ),
    (
        "pretrain | --domains=synthetic-garden | --teachers=precomputed",
        "--teachers: found 'precomputed', expected some of unisrec-text, unisrec, unim2rec, recformer",
    ),
    (
        "pretrain | --domains=synthetic-garden | --pretrain_epochs=0",
        "--pretrain_epochs: found '0', expected a whole number, at least 1",
    ),
    ("prepare", "--name: found nothing, expected the name of the data set to make"),
    (
        "prepare | --interactions={tmp}/missing.csv | --name=shop | --data_dir={tmp}/out",
        "--interactions: found no file '{tmp}/missing.csv', expected a file, folder or glob",
    ),
    (
        "prepare | --interactions={tmp}/empty | --name=shop | --data_dir={tmp}/out",
        "--interactions: found no data in folder '{tmp}/empty', expected a file, folder or glob",
    ),
    (
        "prepare | --interactions={tmp}/empty-file | --name=shop | --data_dir={tmp}/out",
        "{tmp}/empty-file: found no known ending, expected one of .csv, .tsv, .jsonl, .ndjson, .json, .parquet, .pq, or one with .gz",
    ),
    (
        "prepare | --interactions={tmp}/log.xyz | --name=shop | --data_dir={tmp}/out",
        "{tmp}/log.xyz: found no known ending, expected one of .csv, .tsv, .jsonl, .ndjson, .json, .parquet, .pq, or one with .gz",
    ),
    (
        "prepare | --interactions={tmp}/header.csv | --name=shop | --data_dir={tmp}/out | --user_column=user | --item_column=item | --timestamp_column=time",
        "{tmp}/header.csv: found no row with a user, an item and a time, expected at least one",
    ),
    (
        "prepare | --interactions={tmp}/good.csv | --name=shop | --data_dir={tmp}/out | --user_column=client",
        "{tmp}/good.csv: found columns user, item, time, expected 'client' (--user_column)",
    ),
    (
        "prepare | --interactions={tmp}/good.csv | --name=shop | --data_dir={tmp}/out | --user_column=user | --item_column=item | --timestamp_column=bought",
        "{tmp}/good.csv: found columns user, item, time, expected 'bought' (--timestamp_column)",
    ),
    (
        "prepare | --interactions={tmp}/ragged.csv | --name=shop | --data_dir={tmp}/out | --user_column=user | --item_column=item | --timestamp_column=time",
        "{tmp}/ragged.csv, line 3: found 4 cells, expected 3 as in the header",
    ),
    (
        "prepare | --interactions={tmp}/time.csv | --name=shop | --data_dir={tmp}/out | --user_column=user | --item_column=item | --timestamp_column=time",
        "{tmp}/time.csv, row 0, time: found 'yesterday', expected a time or a date such as 2018-10-01 10:00:00",
    ),
    (
        "prepare | --interactions={tmp}/twice.csv | --name=shop | --data_dir={tmp}/out | --user_column=user | --item_column=item | --timestamp_column=time",
        "{tmp}/twice.csv, header: found 'user' twice, expected each name once",
    ),
    (
        "prepare | --interactions={tmp}/torn.jsonl | --name=shop | --data_dir={tmp}/out | --user_column=user | --item_column=item | --timestamp_column=time",
        "{tmp}/torn.jsonl, line 2: found '{\"user\":', expected a JSON object",
    ),
    (
        "prepare | --interactions={tmp}/torn.parquet | --name=shop | --data_dir={tmp}/out | --user_column=user | --item_column=item | --timestamp_column=time",
        "{tmp}/torn.parquet: found no readable parquet file (Parquet file size is 14 bytes, smaller than the size reported by footer's (544109167bytes))",
    ),
    (
        "prepare | --interactions={tmp}/good.csv | --name= | --data_dir={tmp}/out",
        "--name: found nothing, expected the name of the data set to make",
    ),
    (
        "prepare | --interactions={tmp}/good.csv | --name=a/b | --data_dir={tmp}/out | --user_column=user | --item_column=item | --timestamp_column=time",
        "--name: found 'a/b', expected a plain folder name",
    ),
    (
        "prepare | --interactions={tmp}/good.csv | --name=shop | --data_dir={tmp}/file | --user_column=user | --item_column=item | --timestamp_column=time",
        "--data_dir: found the file {tmp}/file, expected a folder",
    ),
    (
        "report | --output_dir={tmp}/missing",
        "--output_dir: found no results of a finished run in {tmp}/missing, expected some",
    ),
    (
        "report | --output_dir={tmp}/empty",
        "--output_dir: found no results of a finished run in {tmp}/empty, expected some",
    ),
    (
        "report | --output_dir={tmp}/file",
        "--output_dir: found the file {tmp}/file, expected a folder",
    ),
    ("search | --grid=learning_rate", "--grid: found 'learning_rate', expected name=value,value"),
    (
        "search | --grid=no_such_flag=1,2",
        "unknown flag --no_such_flag, --help lists those there are",
    ),
    (
        "search | --grid=learning_rate=fast,slow",
        "--learning_rate: found 'fast', expected a number, above 0",
    ),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    make_world(folder)
    return folder


@pytest.mark.parametrize(("words", "line"), CASES)
def test_a_mistake_ends_in_its_line_and_status_2(words, line, world, monkeypatch, capsys):
    """A bad input ends the command without a traceback."""
    assert give(words, world, monkeypatch, capsys) == f"error: {line}\n"
