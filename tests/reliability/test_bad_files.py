"""Mistakes in files, flags and commands of every kind, each with its exact line, and status 2.

Cases are written as `mistakes` says; the files are those of both worlds.
"""

# ruff: noqa: E501

import pytest

from tests.reliability.bad_files import make_files
from tests.reliability.bad_inputs import make_world
from tests.reliability.mistakes import give

CASES = [
    (
        "train | --dataset=bytes-titles | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/bytes-titles/items.parquet, column title: found type binary, expected string",
    ),
    (
        "train | --dataset=bytes-user | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/bytes-user/interactions.parquet, column user_id: found type binary, expected string",
    ),
    (
        "train | --dataset=date-position | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/date-position/interactions.parquet, column position: found type timestamp[ms], expected int64 or int32",
    ),
    (
        "train | --dataset=empty-id | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/empty-id/items.parquet, row 0, item_id: found '', expected an id",
    ),
    (
        "train | --dataset=empty-user | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/empty-user/interactions.parquet, row 0, user_id: found '', expected an id",
    ),
    (
        "train | --dataset=features-alone | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/features-alone/items.parquet: found no column image_feature_row, expected it with image_features.npy",
    ),
    (
        "train | --dataset=features-flat | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/features-flat/image_features.npy: found float16 (4,), expected float16 [rows, d]",
    ),
    (
        "train | --dataset=features-float32 | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/features-float32/image_features.npy: found float32 (4, 3), expected float16 [rows, d]",
    ),
    (
        "train | --dataset=features-nan | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/features-nan/image_features.npy, row 0, column 0: found nan, expected a finite number",
    ),
    (
        "train | --dataset=features-width-0 | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/features-width-0/image_features.npy: found vectors of width 0, expected at least 1",
    ),
    (
        "train | --dataset=float-item | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/float-item/interactions.parquet, column item_id: found type double, expected string",
    ),
    (
        "train | --dataset=float-position | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/float-position/interactions.parquet, column position: found type double, expected int64 or int32",
    ),
    (
        "train | --dataset=float-times | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/float-times/interactions.parquet, column timestamp: found type double, expected int64 or int32",
    ),
    (
        "train | --dataset=float-titles | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/float-titles/items.parquet, column title: found type double, expected string",
    ),
    (
        "train | --dataset=huge-position | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/huge-position/interactions.parquet: found no readable parquet file (Integer value 9223372036854775808 not in range: 0 to 9223372036854775807)",
    ),
    (
        "train | --dataset=list-categories | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/list-categories/items.parquet, column categories: found type list<element: string>, expected string",
    ),
    (
        "train | --dataset=list-position | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/list-position/interactions.parquet, column position: found type list<element: int64>, expected int64 or int32",
    ),
    (
        "train | --dataset=list-titles | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/list-titles/items.parquet, column title: found type list<element: string>, expected string",
    ),
    (
        "train | --dataset=list-user | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/list-user/interactions.parquet, column user_id: found type list<element: string>, expected string",
    ),
    (
        "train | --dataset=mixed-times | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/mixed-times/interactions.parquet, column timestamp: found 1500000000 and 1500000000000, which are of different units, expected seconds, milliseconds, microseconds or nanoseconds throughout",
    ),
    (
        "train | --dataset=no-columns | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/no-columns/items.parquet: found no column item_id, expected item_id and title",
    ),
    (
        "train | --dataset=no-type-user | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/no-type-user/interactions.parquet, row 0, user_id: found null, expected an id",
    ),
    (
        "train | --dataset=null-id | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/null-id/items.parquet, row 0, item_id: found null, expected an id",
    ),
    (
        "train | --dataset=null-position | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/null-position/interactions.parquet, row 0, position: found null, expected a whole number",
    ),
    (
        "train | --dataset=null-times | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/null-times/interactions.parquet, row 0, timestamp: found null, expected a whole number",
    ),
    (
        "train | --dataset=null-user | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/null-user/interactions.parquet, row 0, user_id: found null, expected an id",
    ),
    (
        "train | --dataset=number-brands | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/number-brands/items.parquet, column brand: found type int64, expected string",
    ),
    (
        "train | --dataset=number-ids | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/number-ids/items.parquet, column item_id: found type int64, expected string",
    ),
    (
        "train | --dataset=number-paths | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/number-paths/items.parquet, column image_path: found type int64, expected string",
    ),
    (
        "train | --dataset=number-titles | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/number-titles/items.parquet, column title: found type int64, expected string",
    ),
    (
        "train | --dataset=other-items | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/other-items/items.parquet: found no item of interactions.parquet, such as 'a', expected the same item_id in both",
    ),
    (
        "train | --dataset=row-float | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/row-float/items.parquet, column image_feature_row: found type double, expected int64 or int32",
    ),
    (
        "train | --dataset=row-negative | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/row-negative/items.parquet, row 3, image_feature_row: found -1, expected 0 … 3, the rows of image_features.npy, or null",
    ),
    (
        "train | --dataset=row-outside | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/row-outside/items.parquet, row 3, image_feature_row: found 9, expected 0 … 3, the rows of image_features.npy, or null",
    ),
    (
        "train | --dataset=rows-alone | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/rows-alone/items.parquet: found column image_feature_row, expected {tmp}/data/rows-alone/image_features.npy too",
    ),
    (
        "train | --dataset=same-position | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/same-position/interactions.parquet, row 1, position: found 0, expected no other row of user 'u' at this position",
    ),
    (
        "train | --dataset=text-times | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/text-times/interactions.parquet, column timestamp: found type string, expected int64 or int32",
    ),
    (
        "train | --dataset=texts-alone | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/texts-alone/clip_text_features.npy: found no image_features.npy that it could match",
    ),
    (
        "train | --dataset=texts-other | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/texts-other/clip_text_features.npy: found shape (2, 3), expected (4, 3) as in image_features.npy",
    ),
    (
        "train | --dataset=true-position | --data_dir={tmp}/data | --teachers=",
        "{tmp}/data/true-position/interactions.parquet, column position: found type bool, expected int64 or int32",
    ),
    (
        "train | --dataset=unknown-item | --data_dir={tmp}/data | --teachers= | --strict",
        "--strict: found 3 warnings, expected none: items without a catalogue row: 1 of 5 (such as 'z'): their texts are empty",
    ),
    (
        "train | --dataset=odd-split | --data_dir={tmp}/data | --teachers= | --split=given",
        "{tmp}/data/odd-split/interactions.parquet, row 2, split: found 'valid', expected one of train, validation, test",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --split=given",
        "good: found no column split, expected one for --split=given (prepare writes it where the source's split isn't leave-one-out)",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --split=temporal",
        "good: found no Unix timestamps, expected them for --split=temporal (an order alone is no clock that users share)",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --split=temporal | --split_at=0.8",
        "--split_at: found '0.8', expected two cuts, such as 0.8,0.9",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --split=temporal | --split_at=0.8,0.9,1",
        "--split_at: found '0.8,0.9,1', expected two cuts, such as 0.8,0.9",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --split=temporal | --split_at=0.9,0.8",
        "good: found no Unix timestamps, expected them for --split=temporal (an order alone is no clock that users share)",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --split=temporal | --split_at=x,y",
        "good: found no Unix timestamps, expected them for --split=temporal (an order alone is no clock that users share)",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --split=temporal | --split_at=nan,0.9",
        "good: found no Unix timestamps, expected them for --split=temporal (an order alone is no clock that users share)",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --split=temporal | --split_at=-1,0.5",
        "good: found no Unix timestamps, expected them for --split=temporal (an order alone is no clock that users share)",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --split=temporal | --split_at=2020-01-01,2019-01-01",
        "good: found no Unix timestamps, expected them for --split=temporal (an order alone is no clock that users share)",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --split=temporal | --split_at=1e400,1",
        "good: found no Unix timestamps, expected them for --split=temporal (an order alone is no clock that users share)",
    ),
    (
        "train | --dataset= | --data_dir={tmp}/data | --teachers=",
        "--dataset: found '', expected text, not empty",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/vectors-complex",
        "{tmp}/vectors-complex/items.npy: found dtype complex128, expected floats",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/vectors-empty",
        "{tmp}/vectors-empty/items.npy: found no .npy array, expected one of floats",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/vectors-few-instances",
        "{tmp}/vectors-few-instances/instances.npy: found shape [5, 3], expected [8, 3]",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/vectors-few-rows",
        "{tmp}/vectors-few-rows/items.npy: found shape [3, 3], expected [4, d]",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/vectors-flat",
        "{tmp}/vectors-flat/items.npy: found shape [4], expected [4, d]",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/vectors-inf",
        "{tmp}/vectors-inf/instances.npy: row 0: found nan or inf, expected finite numbers",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/vectors-integers",
        "{tmp}/vectors-integers/items.npy: found dtype int64, expected floats",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/vectors-nan",
        "{tmp}/vectors-nan/items.npy: row 2: found nan or inf, expected finite numbers",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/vectors-objects",
        "{tmp}/vectors-objects/items.npy: found no .npy array, expected one of floats",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/vectors-texts",
        "{tmp}/vectors-texts/items.npy: found dtype <U1, expected floats",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/vectors-torn",
        "{tmp}/vectors-torn/items.npy: found no .npy array, expected one of floats",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/vectors-width-0",
        "{tmp}/vectors-width-0/items.npy: found vectors of width 0, expected at least 1",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/vectors-widths",
        "{tmp}/vectors-widths/instances.npy: found shape [8, 3], expected [8, 2]",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/more-archive",
        "{tmp}/more-archive/items.npy: found no .npy array, expected one of floats",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/more-claims",
        "{tmp}/more-claims/items.npy: found no .npy array, expected one of floats",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/more-cut",
        "{tmp}/more-cut/items.npy: found no .npy array, expected one of floats",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/more-dates",
        "{tmp}/more-dates/items.npy: found dtype datetime64[s], expected floats",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/more-deep",
        "{tmp}/more-deep/items.npy: found shape [1, 4, 3], expected [4, d]",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/more-fields",
        "{tmp}/more-fields/items.npy: found shape [4], expected [4, d]",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/more-folder",
        "{tmp}/more-folder/items.npy: no such file, expected the teacher's vectors",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/more-header",
        "{tmp}/more-header/items.npy: found no .npy array, expected one of floats",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/more-page",
        "{tmp}/more-page/items.npy: found no .npy array, expected one of floats",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/more-pipe",
        "{tmp}/more-pipe/items.npy: no such file, expected the teacher's vectors",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/more-scalar",
        "{tmp}/more-scalar/items.npy: found shape [], expected [4, d]",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/more-true",
        "{tmp}/more-true/items.npy: found dtype bool, expected floats",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/more-turned",
        "{tmp}/more-turned/items.npy: found shape [8, 3], expected [4, d]",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --init=student={tmp}/cut.pth",
        "{tmp}/cut.pth: found no checkpoint of torch.save (no archive (a file of PyTorch before 1.6 is written again by its torch.load and a newer torch.save)), expected one",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=unisrec | --init=unisrec={tmp}/cut.pth",
        "--teacher_feature_norm: found 15, expected 0: official checkpoints read text vectors as they are",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=recformer | --init=recformer={tmp}/cut.pth",
        "{tmp}/cut.pth: found no checkpoint of torch.save (no archive (a file of PyTorch before 1.6 is written again by its torch.load and a newer torch.save)), expected one",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --init=student={tmp}/junk.pth",
        "{tmp}/junk.pth: found no checkpoint of torch.save (no archive (a file of PyTorch before 1.6 is written again by its torch.load and a newer torch.save)), expected one",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --init=student={tmp}/list.pth",
        "{tmp}/list.pth: found no readable state_dict, expected one",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=unisrec | --init=unisrec={tmp}/list.pth",
        "--teacher_feature_norm: found 15, expected 0: official checkpoints read text vectors as they are",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=recformer | --init=recformer={tmp}/list.pth",
        "{tmp}/list.pth: found no mapping of tensors, expected a Recformer checkpoint",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --init=student={tmp}/nested.pth",
        "{tmp}/nested.pth: state_dict: found no tensor at 'state_dict', expected one",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --init=student={tmp}/no-weights.pth",
        "{tmp}/no-weights.pth: found no readable state_dict, expected one",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=unisrec | --init=unisrec={tmp}/no-weights.pth",
        "--teacher_feature_norm: found 15, expected 0: official checkpoints read text vectors as they are",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=recformer | --init=recformer={tmp}/no-weights.pth",
        "{tmp}/no-weights.pth: found 0 tensors, missing longformer.embeddings.word_embeddings.weight, longformer.embeddings.position_embeddings.weight, longformer.embeddings.item_position_embeddings.weight, longformer.encoder.layer.0.intermediate.dense.weight, expected a Recformer checkpoint (DeepSpeed leaves out the frozen word embeddings; the official convert_pretrain_ckpt.py puts them back)",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --init=student={tmp}/none.pth",
        "{tmp}/none.pth: found no readable state_dict, expected one",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=unisrec | --init=unisrec={tmp}/none.pth",
        "--teacher_feature_norm: found 15, expected 0: official checkpoints read text vectors as they are",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=recformer | --init=recformer={tmp}/none.pth",
        "{tmp}/none.pth: found no mapping of tensors, expected a Recformer checkpoint",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --init=student={tmp}/nothing.pth",
        "{tmp}/nothing.pth: found no checkpoint of torch.save (no archive (a file of PyTorch before 1.6 is written again by its torch.load and a newer torch.save)), expected one",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --init=student={tmp}/number-tokens.pth",
        "{tmp}/number-tokens.pth: field2id_token: found something else than a list of texts for each field, expected that (`tolist` makes one of an array)",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --init=student={tmp}/old.pth",
        "{tmp}/old.pth: found no checkpoint of torch.save (no archive (a file of PyTorch before 1.6 is written again by its torch.load and a newer torch.save)), expected one",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=unisrec | --init=unisrec={tmp}/other-keys.pth",
        "--teacher_feature_norm: found 15, expected 0: official checkpoints read text vectors as they are",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=recformer | --init=recformer={tmp}/other-keys.pth",
        "{tmp}/other-keys.pth: found 1 tensors, missing longformer.embeddings.word_embeddings.weight, longformer.embeddings.position_embeddings.weight, longformer.embeddings.item_position_embeddings.weight, longformer.encoder.layer.0.intermediate.dense.weight, expected a Recformer checkpoint (DeepSpeed leaves out the frozen word embeddings; the official convert_pretrain_ckpt.py puts them back)",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --init=student={tmp}/script.pth",
        "{tmp}/script.pth: found no checkpoint of torch.save (a TorchScript program), expected one",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=unisrec | --init=unisrec={tmp}/script.pth",
        "--teacher_feature_norm: found 15, expected 0: official checkpoints read text vectors as they are",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=recformer | --init=recformer={tmp}/script.pth",
        "{tmp}/script.pth: found no checkpoint of torch.save (a TorchScript program), expected one",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --init=student={tmp}/sparse.pth",
        "{tmp}/sparse.pth: found torch._utils._rebuild_sparse_tensor, which no checkpoint needs, expected tensors and plain values",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --init=student={tmp}/tensor.pth",
        "{tmp}/tensor.pth: found no readable state_dict, expected one",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --init=student={tmp}/texts.pth",
        "{tmp}/texts.pth: state_dict: found no tensor at 'a', expected one",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --init=student={tmp}/two.pth",
        "{tmp}/two.pth: found no checkpoint of torch.save (an archive with a damaged end), expected one",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=unisrec | --init=unisrec={tmp}/two.pth",
        "--teacher_feature_norm: found 15, expected 0: official checkpoints read text vectors as they are",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=recformer | --init=recformer={tmp}/two.pth",
        "{tmp}/two.pth: found no checkpoint of torch.save (an archive with a damaged end), expected one",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --init=student={tmp}/zip.pth",
        "{tmp}/zip.pth: found no checkpoint of torch.save (an archive without data.pkl), expected one",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --init=student=",
        "--init: found 'student=', expected NAME=PATH, each name of student, unisrec, unim2rec, recformer at most once",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --init=student={tmp}/pipe",
        "--init=student: found no weights at {tmp}/pipe, expected the folder of an exported student or a .pth file of RecBole's",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --init=student=/dev/zero",
        "--init=student: found no weights at /dev/zero, expected the folder of an exported student or a .pth file of RecBole's",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers= | --init=student={tmp}/file",
        "{tmp}/file: found no checkpoint of torch.save (no archive (a file of PyTorch before 1.6 is written again by its torch.load and a newer torch.save)), expected one",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=unisrec | --init=unisrec=",
        "--init: found 'unisrec=', expected NAME=PATH, each name of student, unisrec, unim2rec, recformer at most once",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=unisrec | --init=unisrec={tmp}/pipe",
        "--init: {tmp}/pipe: no such file, expected a folder made by pre-training or an official .pth file",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=unisrec | --init=unisrec=/dev/zero",
        "--init: /dev/zero: no such file, expected a folder made by pre-training or an official .pth file",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=unisrec | --init=unisrec={tmp}/missing",
        "--init: {tmp}/missing: no such file, expected a folder made by pre-training or an official .pth file",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=unisrec | --init=unisrec={tmp}/file",
        "--teacher_feature_norm: found 15, expected 0: official checkpoints read text vectors as they are",
    ),
    (
        "train | --teachers= | --init=nobody={tmp}/file",
        "--init: found 'nobody={tmp}/file', expected NAME=PATH, each name of student, unisrec, unim2rec, recformer at most once",
    ),
    (
        "train | --teachers= | --init=student={tmp}/file,student={tmp}/file",
        "--init: found 'student={tmp}/file', expected NAME=PATH, each name of student, unisrec, unim2rec, recformer at most once",
    ),
    (
        "train | --teachers= | --init=x",
        "--init: found 'x', expected NAME=PATH, each name of student, unisrec, unim2rec, recformer at most once",
    ),
    (
        "train | --teachers= | --init==x",
        "--init: found '=x', expected NAME=PATH, each name of student, unisrec, unim2rec, recformer at most once",
    ),
    (
        "train | --flagfile={tmp}/binary.flags",
        "--flagfile: found '{tmp}/binary.flags', expected readable UTF-8 text ('utf-8' codec can't decode byte 0x80 in position 128: invalid start byte)",
    ),
    (
        "train | --flagfile={tmp}/bomb29.flags",
        "{tmp}/bomb1.flags, line 2: --flagfile: found more than 100 flagfiles that name each other, expected fewer",
    ),
    (
        "train | --flagfile={tmp}/chain0.flags",
        "{tmp}/chain99.flags, line 1: --flagfile: found more than 100 flagfiles that name each other, expected fewer",
    ),
    (
        "train | --flagfile={tmp}/dashes.flags",
        "{tmp}/dashes.flags, line 1: found '--' outside any flag, expected --name=value (a list has commas and no spaces)",
    ),
    (
        "train | --flagfile={tmp}/equals.flags",
        "{tmp}/equals.flags, line 1: found '=' outside any flag, expected --name=value (a list has commas and no spaces)",
    ),
    (
        "train | --flagfile={tmp}/help.flags",
        "{tmp}/help.flags, line 1: found --help, expected it on the command line, after the command's name",
    ),
    (
        "train | --flagfile={tmp}/json.flags",
        "{tmp}/json.flags, line 1: found '{\"dropout\":' outside any flag, expected --name=value (a list has commas and no spaces)",
    ),
    (
        "train | --flagfile={tmp}/long-dash.flags",
        "{tmp}/long-dash.flags, line 1: found '—dropout=0.1' outside any flag, expected --name=value (a list has commas and no spaces)",
    ),
    (
        "train | --flagfile={tmp}/long.flags",
        "{tmp}/long.flags, line 1: --dropout: found '11111111111111111111111111111111111111111111111111', expected a number, at least 0, below 1, that float32 can hold",
    ),
    (
        "train | --flagfile={tmp}/mark.flags",
        "{tmp}/mark.flags, line 1: --dropout: found '2', expected a number, at least 0, below 1",
    ),
    (
        "train | --flagfile={tmp}/no-switch.flags",
        "{tmp}/no-switch.flags, line 1: unknown flag --nodropout, did you mean --dropout?",
    ),
    (
        "train | --flagfile={tmp}/nul-path.flags",
        "{tmp}/nul-path.flags, line 1: --output_dir: found 'a\\x00b', expected a path, not empty",
    ),
    (
        "train | --flagfile={tmp}/nul.flags",
        "{tmp}/nul.flags, line 1: --dropout: found '0.1\\x00', expected a number, at least 0, below 1",
    ),
    (
        "train | --flagfile={tmp}/one-dash.flags",
        "{tmp}/one-dash.flags, line 1: found '-dropout=1' outside any flag, expected --name=value (a list has commas and no spaces)",
    ),
    (
        "train | --flagfile={tmp}/one.flags",
        "{tmp}/other.flags, line 1: --flagfile: found '{tmp}/one.flags', expected no file inside itself",
    ),
    (
        "train | --flagfile={tmp}/other.flags",
        "{tmp}/one.flags, line 1: --flagfile: found '{tmp}/other.flags', expected no file inside itself",
    ),
    (
        "train | --flagfile={tmp}/quoted.flags",
        "{tmp}/quoted.flags, line 1: --dropout: found '\"0.1\"', expected a number, at least 0, below 1",
    ),
    (
        "train | --flagfile={tmp}/remark.flags",
        "{tmp}/remark.flags, line 1: --dropout: found '0.1 # half', expected a number, at least 0, below 1",
    ),
    (
        "train | --flagfile={tmp}/returns.flags",
        "{tmp}/returns.flags, line 2: --dropout: found '2', expected a number, at least 0, below 1",
    ),
    (
        "train | --flagfile={tmp}/section.flags",
        "{tmp}/section.flags, line 1: found '[train]' outside any flag, expected --name=value (a list has commas and no spaces)",
    ),
    (
        "train | --flagfile={tmp}/switch.flags",
        "{tmp}/switch.flags, line 1: --overwrite: found 'maybe', expected true or false",
    ),
    (
        "train | --flagfile={tmp}/utf-16.flags",
        "--flagfile: found '{tmp}/utf-16.flags', expected readable UTF-8 text ('utf-8' codec can't decode byte 0xff in position 0: invalid start byte)",
    ),
    (
        "train | --flagfile={tmp}/yaml.flags",
        "{tmp}/yaml.flags, line 1: found 'dropout:' outside any flag, expected --name=value (a list has commas and no spaces)",
    ),
    (
        "search | --dataset=good | --data_dir={tmp}/data | --teachers= | --grid=",
        "--grid: found '', expected name=value,value",
    ),
    (
        "search | --dataset=good | --data_dir={tmp}/data | --teachers= | --grid=;",
        "--grid: found ';', expected name=value,value",
    ),
    (
        "search | --dataset=good | --data_dir={tmp}/data | --teachers= | --grid= ; ",
        "--grid: found ';', expected name=value,value",
    ),
    (
        "search | --dataset=good | --data_dir={tmp}/data | --teachers= | --grid==",
        "--grid: found '=', expected name=value,value",
    ),
    (
        "search | --dataset=good | --data_dir={tmp}/data | --teachers= | --grid==1",
        "--grid: found '=1', expected name=value,value",
    ),
    (
        "search | --dataset=good | --data_dir={tmp}/data | --teachers= | --grid=dropout=",
        "--grid: found 'dropout=', expected name=value,value",
    ),
    (
        "search | --dataset=good | --data_dir={tmp}/data | --teachers= | --grid=dropout=,",
        "--grid: found 'dropout=,', expected each name and each value once",
    ),
    (
        "search | --dataset=good | --data_dir={tmp}/data | --teachers= | --grid=dropout=0.1,",
        "--dropout: found '', expected a number, at least 0, below 1",
    ),
    (
        "search | --dataset=good | --data_dir={tmp}/data | --teachers= | --grid=dropout=0.1;dropout=0.2",
        "--grid: found 'dropout=0.2', expected each name and each value once",
    ),
    (
        "search | --dataset=good | --data_dir={tmp}/data | --teachers= | --grid=dropout=0.1,0.1",
        "--grid: found 'dropout=0.1,0.1', expected each name and each value once",
    ),
    (
        "search | --dataset=good | --data_dir={tmp}/data | --teachers= | --grid=flagfile=x",
        "--grid: found 'flagfile', which is no setting of a trial, expected one that is",
    ),
    (
        "search | --dataset=good | --data_dir={tmp}/data | --teachers= | --grid=output_dir=a,b",
        "--grid: found 'output_dir', which is no setting of a trial, expected one that is",
    ),
    (
        "search | --dataset=good | --data_dir={tmp}/data | --teachers= | --grid=overwrite=true",
        "--grid: found 'overwrite', which is no setting of a trial, expected one that is",
    ),
    (
        "search | --dataset=good | --data_dir={tmp}/data | --teachers= | --grid=dropout=nan",
        "--dropout: found 'nan', expected a number, at least 0, below 1",
    ),
    (
        "search | --dataset=good | --data_dir={tmp}/data | --teachers= | --grid=help=1",
        "--grid: found 'help', which is no setting of a trial, expected one that is",
    ),
    (
        "search | --dataset=good | --data_dir={tmp}/data | --teachers= | --grid=grid=a",
        "--grid: found 'grid', which is no setting of a trial, expected one that is",
    ),
    (
        "search | --dataset=good | --data_dir={tmp}/data | --teachers= | --grid=teachers=oracle",
        "--teachers: found 'oracle', expected values separated by commas, each one of unisrec-text, unisrec, unim2rec, recformer, precomputed, neighbours, popularity, recent-popularity",
    ),
    (
        "search | --dataset=good | --data_dir={tmp}/data | --teachers= | --grid=dataset=good,short",
        "data set short: found {'train': 1, 'validation': 0, 'test': 0} instances, expected some in each",
    ),
    (
        "train | --teachers=,",
        "--teachers: found ',', expected values separated by commas, each one of unisrec-text, unisrec, unim2rec, recformer, precomputed, neighbours, popularity, recent-popularity",
    ),
    (
        "train | --teachers=unisrec,",
        "--teachers: found 'unisrec,', expected values separated by commas, each one of unisrec-text, unisrec, unim2rec, recformer, precomputed, neighbours, popularity, recent-popularity",
    ),
    (
        "train | --teachers=UniSRec",
        "--teachers: found 'UniSRec', expected values separated by commas, each one of unisrec-text, unisrec, unim2rec, recformer, precomputed, neighbours, popularity, recent-popularity",
    ),
    (
        "train | --teachers=unisrec;unim2rec",
        "--teachers: found 'unisrec;unim2rec', expected values separated by commas, each one of unisrec-text, unisrec, unim2rec, recformer, precomputed, neighbours, popularity, recent-popularity",
    ),
    (
        "train | --teachers=precomputed,precomputed",
        "--teachers: found 'precomputed,precomputed', expected each value once",
    ),
    (
        "train | --teachers=none",
        "--teachers: found 'none', expected values separated by commas, each one of unisrec-text, unisrec, unim2rec, recformer, precomputed, neighbours, popularity, recent-popularity",
    ),
    (
        "train | --teachers=[]",
        "--teachers: found '[]', expected values separated by commas, each one of unisrec-text, unisrec, unim2rec, recformer, precomputed, neighbours, popularity, recent-popularity",
    ),
    ("serve | --model=", "--model: found none, expected the folder of an exported student"),
    (
        "serve | --model={tmp}/missing",
        "{tmp}/missing/student.json: missing, expected an exported student",
    ),
    ("serve | --model={tmp}/file", "--model: found the file {tmp}/file, expected a folder"),
    (
        "serve | --model={tmp}/empty",
        "{tmp}/empty/student.json: missing, expected an exported student",
    ),
    ("serve | --model=/dev/zero", "--model: found the file /dev/zero, expected a folder"),
    ("serve | --model={tmp}/pipe", "--model: found the file {tmp}/pipe, expected a folder"),
    (
        "serve | --model={tmp}/model-format-null",
        "{tmp}/model-format-null/student.json: format: found None, expected 2: export the student again",
    ),
    (
        "serve | --model={tmp}/model-nested",
        "{tmp}/model-nested/student.json: damaged: found no JSON (its lists are nested too deeply)",
    ),
    (
        "serve | --model={tmp}/model-null",
        "{tmp}/model-null/student.json: damaged: found no JSON object",
    ),
    (
        "serve | --model={tmp}/model-pipe",
        "{tmp}/model-pipe/student.json: missing, expected an exported student",
    ),
    (
        "recommend | --model= | --history=a",
        "--model: found nothing, expected the folder of an exported student",
    ),
    (
        "recommend | --model={tmp}/missing | --history=a",
        "{tmp}/missing/student.json: missing, expected an exported student",
    ),
    (
        "recommend | --model={tmp}/file | --history=a",
        "--model: found the file {tmp}/file, expected a folder",
    ),
    (
        "recommend | --model={tmp}/empty | --history=a",
        "{tmp}/empty/student.json: missing, expected an exported student",
    ),
    (
        "recommend | --model=/dev/zero | --history=a",
        "--model: found the file /dev/zero, expected a folder",
    ),
    (
        "recommend | --model={tmp}/pipe | --history=a",
        "--model: found the file {tmp}/pipe, expected a folder",
    ),
    (
        "recommend | --model={tmp}/model-binary | --history=a",
        "{tmp}/model-binary/student.json: damaged: found no JSON ('utf-8' codec can't decode byte 0x80 in position 128: invalid start byte)",
    ),
    (
        "recommend | --model={tmp}/model-format-alone | --history=a",
        "{tmp}/model-format-alone/student.json: damaged: its content doesn't match its own SHA-256",
    ),
    (
        "recommend | --model={tmp}/model-format-null | --history=a",
        "{tmp}/model-format-null/student.json: format: found None, expected 2: export the student again",
    ),
    (
        "recommend | --model={tmp}/model-format-text | --history=a",
        "{tmp}/model-format-text/student.json: format: found '2', expected 2: export the student again",
    ),
    (
        "recommend | --model={tmp}/model-infinite | --history=a",
        "{tmp}/model-infinite/student.json: format: found inf, expected 2: export the student again",
    ),
    (
        "recommend | --model={tmp}/model-nested | --history=a",
        "{tmp}/model-nested/student.json: damaged: found no JSON (its lists are nested too deeply)",
    ),
    (
        "recommend | --model={tmp}/model-no-config | --history=a",
        "{tmp}/model-no-config/student.json: damaged: its content doesn't match its own SHA-256",
    ),
    (
        "recommend | --model={tmp}/model-null | --history=a",
        "{tmp}/model-null/student.json: damaged: found no JSON object",
    ),
    (
        "recommend | --model={tmp}/model-numbers | --history=a",
        "{tmp}/model-numbers/student.json: damaged: its content doesn't match its own SHA-256",
    ),
    (
        "recommend | --model={tmp}/model-outside | --history=a",
        "{tmp}/model-outside/student.json: damaged: its content doesn't match its own SHA-256",
    ),
    (
        "recommend | --model={tmp}/model-pipe | --history=a",
        "{tmp}/model-pipe/student.json: missing, expected an exported student",
    ),
    (
        "export | --model= | --output_dir={tmp}/exp",
        "--model: found nothing, expected the folder of an exported student",
    ),
    (
        "export | --model={tmp}/missing | --output_dir={tmp}/exp",
        "{tmp}/missing/student.json: missing, expected an exported student",
    ),
    (
        "export | --model={tmp}/file | --output_dir={tmp}/exp",
        "--model: found the file {tmp}/file, expected a folder",
    ),
    (
        "export | --model={tmp}/empty | --output_dir={tmp}/exp",
        "{tmp}/empty/student.json: missing, expected an exported student",
    ),
    (
        "export | --model=/dev/zero | --output_dir={tmp}/exp",
        "--model: found the file /dev/zero, expected a folder",
    ),
    (
        "export | --model={tmp}/pipe | --output_dir={tmp}/exp",
        "--model: found the file {tmp}/pipe, expected a folder",
    ),
    (
        "export | --model={tmp}/model-format-null | --output_dir={tmp}/exp",
        "{tmp}/model-format-null/student.json: format: found None, expected 2: export the student again",
    ),
    (
        "export | --model={tmp}/model-nested | --output_dir={tmp}/exp",
        "{tmp}/model-nested/student.json: damaged: found no JSON (its lists are nested too deeply)",
    ),
    (
        "export | --model={tmp}/model-null | --output_dir={tmp}/exp",
        "{tmp}/model-null/student.json: damaged: found no JSON object",
    ),
    (
        "export | --model={tmp}/model-pipe | --output_dir={tmp}/exp",
        "{tmp}/model-pipe/student.json: missing, expected an exported student",
    ),
    (
        "recommend | --model={tmp}/card-list | --input={tmp}/history-list.jsonl",
        "{tmp}/history-list.jsonl, line 1: found [], expected an object",
    ),
    (
        "recommend | --model={tmp}/card-list | --input={tmp}/history-nested.jsonl",
        "{tmp}/history-nested.jsonl, line 1: found no JSON (its lists are nested too deeply), expected an object",
    ),
    (
        "recommend | --model={tmp}/card-list | --input={tmp}/history-none.jsonl",
        "{tmp}/history-none.jsonl, line 1, history: found nothing, expected a list of item ids (strings)",
    ),
    (
        "recommend | --model={tmp}/card-list | --input={tmp}/history-nul.jsonl",
        "{tmp}/history-nul.jsonl, line 1: found no JSON (Expecting value: line 2 column 1 (char 1)), expected an object",
    ),
    (
        "recommend | --model={tmp}/card-list | --input={tmp}/history-null.jsonl",
        "{tmp}/history-null.jsonl, line 1, history: found [None], expected a list of item ids (strings)",
    ),
    (
        "recommend | --model={tmp}/card-list | --input={tmp}/history-number.jsonl",
        "{tmp}/history-number.jsonl, line 1, history: found [1], expected a list of item ids (strings)",
    ),
    (
        "recommend | --model={tmp}/card-list | --input={tmp}/history-text.jsonl",
        "{tmp}/history-text.jsonl, line 1, history: found 'a', expected a list of item ids (strings)",
    ),
    (
        "recommend | --model={tmp}/card-list | --input={tmp}/history-user.jsonl",
        "{tmp}/history-user.jsonl, line 1, user_id: found 3, expected a string or null",
    ),
    (
        "recommend | --model={tmp}/card-list | --input={tmp}/history-word.jsonl",
        "{tmp}/history-word.jsonl, line 1: found no JSON (Expecting value: line 1 column 1 (char 0)), expected an object",
    ),
    (
        "recommend | --model={tmp}/card-list | --input={tmp}/log.xyz",
        "--input: found '{tmp}/log.xyz', expected a name in .jsonl or .parquet",
    ),
    (
        "recommend | --model={tmp}/card-list | --input={tmp}/torn.parquet",
        "{tmp}/torn.parquet: found no readable parquet file (Parquet file size is 14 bytes, smaller than the size reported by footer's (544109167bytes))",
    ),
    (
        "recommend | --model={tmp}/card-list | --input={tmp}/empty-file",
        "--input: found '{tmp}/empty-file', expected a name in .jsonl or .parquet",
    ),
    (
        "recommend | --model={tmp}/card-list | --input={tmp}/pipe",
        "--input: found '{tmp}/pipe', expected a name in .jsonl or .parquet",
    ),
    (
        "recommend | --model={tmp}/card-list | --input={tmp}/missing",
        "--input: found '{tmp}/missing', expected a name in .jsonl or .parquet",
    ),
    (
        "recommend | --model={tmp}/card-list | --input={tmp}/empty",
        "--input: found '{tmp}/empty', expected a name in .jsonl or .parquet",
    ),
    (
        "recommend | --model={tmp}/card-list",
        "{tmp}/card-list/student.json: damaged: found no JSON object",
    ),
    (
        "recommend | --model={tmp}/card-list | --history=a | --similar_to=b",
        "found --history and --similar_to, expected one of --input, --dataset, --history, --similar_to",
    ),
    (
        "recommend | --model={tmp}/card-list | --similar_to=b | --nofilter_seen",
        "--filter_seen: found false with --similar_to, where there is no history, expected true",
    ),
    (
        "recommend | --model={tmp}/card-list | --history=a | --output={tmp}/x.txt",
        "--output: found '{tmp}/x.txt', expected a name in .jsonl or .parquet",
    ),
    (
        "recommend | --model={tmp}/card-list | --history=a | --k=0",
        "--k: found '0', expected a whole number, at least 1",
    ),
    (
        "export | --model={tmp}/card-list",
        "--output_dir: found nothing, expected a folder for the artefact",
    ),
    (
        "export | --model={tmp}/card-list | --output_dir={tmp}/exp | --formats=pdf",
        "--formats: found 'pdf', expected values separated by commas, each one of stablehlo, onnx, vectors",
    ),
    (
        "export | --model={tmp}/card-list | --output_dir={tmp}/thesis",
        "{tmp}/card-list/student.json: damaged: found no JSON object",
    ),
    (
        "export | --model={tmp}/card-list | --output_dir={tmp}/file",
        "--output_dir: found the file {tmp}/file, expected a folder",
    ),
    (
        "export | --model={tmp}/card-list | --output_dir={tmp}/exp | --k=0",
        "--k: found '0', expected a whole number, at least 1",
    ),
    (
        "serve | --model={tmp}/card-list | --images={tmp}/missing",
        "--images: {tmp}/missing: found [Errno 2] No such file or directory: '{tmp}/missing', expected items.parquet with image_path or a JSON object of item id and address or path",
    ),
    (
        "serve | --model={tmp}/card-list | --images={tmp}/file",
        "--images: {tmp}/file: found Expecting value: line 1 column 1 (char 0), expected items.parquet with image_path or a JSON object of item id and address or path",
    ),
    (
        "serve | --model={tmp}/card-list | --images={tmp}/pipe",
        "--images: {tmp}/pipe: found [Errno 22] it is no regular file: '{tmp}/pipe', expected items.parquet with image_path or a JSON object of item id and address or path",
    ),
    (
        "serve | --model={tmp}/card-list | --images={tmp}/empty",
        "--images: {tmp}/empty: found [Errno 22] it is no regular file: '{tmp}/empty', expected items.parquet with image_path or a JSON object of item id and address or path",
    ),
    (
        "serve | --model={tmp}/card-list | --images={tmp}/torn.parquet",
        "--images: {tmp}/torn.parquet: found Parquet file size is 14 bytes, smaller than the size reported by footer's (544109167bytes), expected items.parquet with image_path or a JSON object of item id and address or path",
    ),
    (
        "serve | --model={tmp}/card-list | --images={tmp}/history-list.jsonl",
        "--images: {tmp}/history-list.jsonl: found no JSON object, expected items.parquet with image_path or a JSON object of item id and address or path",
    ),
    (
        "serve | --model={tmp}/card-list | --port=99999",
        "--port: found '99999', expected a whole number, at least 0, at most 65535",
    ),
    (
        "serve | --model={tmp}/card-list | --port=-1",
        "--port: found '-1', expected a whole number, at least 0, at most 65535",
    ),
    (
        "serve | --model={tmp}/card-list | --host=300.1.1.1",
        "--host, --port: found 300.1.1.1:8000, expected an address of this machine that is free ([Errno -2] Name or service not known)",
    ),
    (
        "serve | --model={tmp}/card-list | --timeout=0",
        "--timeout: found '0', expected a number, above 0",
    ),
    (
        "serve | --model={tmp}/card-list | --max_k=nan",
        "--max_k: found 'nan', expected a whole number, at least 20, at most 10000",
    ),
    (
        "serve | --model={tmp}/card-list | --compare={tmp}/missing",
        "{tmp}/card-list/student.json: damaged: found no JSON object",
    ),
    ("serve", "--model: found none, expected the folder of an exported student"),
    ("load | --rate=0", "--rate: found '0', expected a number, at least 1, at most 100000"),
    ("load | --rate=nan", "--rate: found 'nan', expected a number, at least 1, at most 100000"),
    (
        "load | --seconds=1e300",
        "--seconds: found '1e300', expected a number, above 0, at most 100000, that float32 can hold",
    ),
    (
        "load | --mixed=1",
        "--mixed: found '1', expected a whole number, at least 2, at most 10000000",
    ),
    (
        "load | --reloads=-1",
        "--reloads: found '-1', expected a whole number, at least 0, at most 1000",
    ),
    ("load | --output={tmp}/empty", "--output: found the folder {tmp}/empty, expected a file"),
    ("load | --output={tmp}/file/x", "--output: found the file {tmp}/file, expected a folder"),
    (
        "load | --output=/dev/zero",
        "--output: found /dev/zero, which is no file, expected one or nothing",
    ),
    (
        "load | --output={tmp}/pipe",
        "--output: found {tmp}/pipe, which is no file, expected one or nothing",
    ),
    (
        "report | --output_dir={tmp}/results-list",
        "{tmp}/results-list/results.json: schema_version: found None, expected 2: it was written by another version of this program; run the command again, into another folder",
    ),
    (
        "report | --output_dir={tmp}/results-nested",
        "{tmp}/results-nested/results.json: damaged (its lists are nested too deeply), expected what a run has written (delete the file; the same command writes it again)",
    ),
    (
        "report | --output_dir={tmp}/results-none",
        "{tmp}/results-none/results.json: schema_version: found None, expected 2: it was written by another version of this program; run the command again, into another folder",
    ),
    (
        "report | --output_dir={tmp}/results-nul",
        "{tmp}/results-nul/results.json: damaged (Expecting value: line 1 column 1 (char 0)), expected what a run has written (delete the file; the same command writes it again)",
    ),
    (
        "report | --output_dir={tmp}/results-old",
        "{tmp}/results-old/results.json: schema_version: found 1, expected 2: it was written by another version of this program; run the command again, into another folder",
    ),
    (
        "report | --output_dir={tmp}/results-text",
        "{tmp}/results-text/results.json: schema_version: found x, expected 2: it was written by another version of this program; run the command again, into another folder",
    ),
    (
        "report | --output_dir={tmp}/study-bare",
        "{tmp}/study-bare/results.json: damaged (it has no digest), expected what a run has written (delete the file; the same command writes it again)",
    ),
    (
        "report | --output_dir={tmp}/study-empty",
        "{tmp}/study-empty/results.json: damaged (it has no digest), expected what a run has written (delete the file; the same command writes it again)",
    ),
    (
        "report | --output_dir={tmp}/study-number",
        "{tmp}/study-number/results.json: damaged (it has no digest), expected what a run has written (delete the file; the same command writes it again)",
    ),
    ("report | --output_dir=", "--output_dir: found '', expected a path, not empty"),
    (
        "report | --output_dir=/dev/zero",
        "--output_dir: found the file /dev/zero, expected a folder",
    ),
    (
        "bench | --dataset=good | --data_dir={tmp}/data | --output_dir={tmp}/file",
        "--output_dir: found the file {tmp}/file, expected a folder",
    ),
    (
        "bench | --dataset=good | --data_dir={tmp}/data | --teachers=",
        "--teachers: found none, expected at least one to distil from",
    ),
    (
        "bench | --dataset=good | --data_dir={tmp}/data | --repeats=1",
        "--repeats: found '1', expected a whole number, at least 5, at most 1000000",
    ),
    (
        "bench | --repeats=nan",
        "--repeats: found 'nan', expected a whole number, at least 5, at most 1000000",
    ),
    (
        "search | --dataset=good | --data_dir={tmp}/data | --teachers= | --grid=dropout=0.1 | --output_dir={tmp}/file",
        "--output_dir: found the file {tmp}/file, expected a folder",
    ),
    (
        "prepare | --interactions={tmp}/good.csv | --name=shop | --data_dir= | --user_column=user | --item_column=item | --timestamp_column=time",
        "--data_dir: found '', expected a path, not empty",
    ),
    (
        "prepare | --interactions={tmp}/good.csv | --name=shop | --data_dir={tmp}/pipe | --user_column=user | --item_column=item | --timestamp_column=time",
        "--data_dir: found the file {tmp}/pipe, expected a folder",
    ),
    (
        "prepare | --interactions={tmp}/good.csv | --name=shop | --data_dir={tmp}/file/x | --user_column=user | --item_column=item | --timestamp_column=time",
        "--data_dir: found the file {tmp}/file, expected a folder",
    ),
    (
        "prepare | --interactions={tmp}/good.csv | --name=shop | --data_dir=/dev/zero | --user_column=user | --item_column=item | --timestamp_column=time",
        "--data_dir: found the file /dev/zero, expected a folder",
    ),
    (
        "prepare | --interactions={tmp}/good.csv | --name=shop | --data_dir=~nouser/x | --user_column=user | --item_column=item | --timestamp_column=time",
        "--data_dir: found '~nouser/x', expected a path: there is no such user",
    ),
    (
        "prepare | --interactions={tmp}/good.csv | --name=a,b | --data_dir={tmp}/out | --user_column=user | --item_column=item | --timestamp_column=time",
        "--name: found 'a,b', expected a plain folder name",
    ),
    (
        "prepare | --interactions={tmp}/good.csv | --name=.x | --data_dir={tmp}/out | --user_column=user | --item_column=item | --timestamp_column=time",
        "--name: found '.x', expected a plain folder name",
    ),
    (
        "prepare | --interactions={tmp}/good.csv | --name=a:b | --data_dir={tmp}/out | --user_column=user | --item_column=item | --timestamp_column=time",
        "--name: found 'a:b', expected a plain folder name",
    ),
    (
        "prepare | --interactions={tmp}/good.csv | --name=.. | --data_dir={tmp}/out | --user_column=user | --item_column=item | --timestamp_column=time",
        "--name: found '..', expected a plain folder name",
    ),
    (
        "prepare | --interactions={tmp}/good.csv | --name=  | --data_dir={tmp}/out | --user_column=user | --item_column=item | --timestamp_column=time",
        "--name: found nothing, expected the name of the data set to make",
    ),
    (
        "prepare | --interactions={tmp}/good.csv | --name=synthetic | --data_dir={tmp}/out | --user_column=user | --item_column=item | --timestamp_column=time",
        "--name: found 'synthetic', expected another name: synthetic and synthetic-… are of the synthetic world",
    ),
    (
        "prepare | --interactions={tmp}/pipe | --name=shop | --data_dir={tmp}/out | --user_column=user | --item_column=item | --timestamp_column=time",
        "--interactions: found no file '{tmp}/pipe', expected a file, folder or glob",
    ),
    (
        "prepare | --interactions=/dev/zero | --name=shop | --data_dir={tmp}/out | --user_column=user | --item_column=item | --timestamp_column=time",
        "--interactions: found no file '/dev/zero', expected a file, folder or glob",
    ),
    (
        "prepare | --interactions={tmp}/dangling | --name=shop | --data_dir={tmp}/out | --user_column=user | --item_column=item | --timestamp_column=time",
        "--interactions: found no file '{tmp}/dangling', expected a file, folder or glob",
    ),
    (
        "prepare | --interactions=~nouser/x | --name=shop | --data_dir={tmp}/out | --user_column=user | --item_column=item | --timestamp_column=time",
        "--interactions: found '~nouser/x', expected a path: there is no such user",
    ),
    (
        "prepare | --interactions={tmp}/good.csv | --items={tmp}/missing | --name=shop | --data_dir={tmp}/out | --user_column=user | --item_column=item | --timestamp_column=time",
        "--items: found no file '{tmp}/missing', expected a file, folder or glob",
    ),
    (
        "prepare | --source=amazon | --name=shop | --data_dir={tmp}/out",
        "--raw_dir: found nothing, expected the folder of --source=amazon",
    ),
    (
        "prepare | --source=recbole | --raw_dir={tmp}/missing | --name=shop | --data_dir={tmp}/out",
        "--raw_dir: found no folder '{tmp}/missing', expected one",
    ),
    (
        "prepare | --source=lcrec | --raw_dir={tmp}/empty | --name=shop | --data_dir={tmp}/out",
        "--raw_dir={tmp}/empty: found none, expected one file *.inter.json (histories)",
    ),
    (
        "prepare | --source=recformer | --raw_dir={tmp}/empty | --name=shop | --data_dir={tmp}/out",
        "{tmp}/empty/umap.json: found no file, expected it",
    ),
    (
        "prepare | --source=amazon | --raw_dir={tmp}/empty | --name=shop | --data_dir={tmp}/out",
        "--raw_dir={tmp}/empty: found none, expected one file of reviews and one meta_… file, or --category to choose",
    ),
    (
        "prepare | --interactions={tmp}/good.csv | --name=shop | --data_dir={tmp}/out | --user_column=user | --item_column=item | --timestamp_column=time | --min_rating=nan",
        "--min_rating: found 'nan', expected a number, or none",
    ),
    (
        "prepare | --interactions={tmp}/good.csv | --name=shop | --data_dir={tmp}/out | --user_column=user | --item_column=item | --timestamp_column=time | --max_history=0",
        "--max_history: found '0', expected a whole number, at least 1, or none",
    ),
    (
        "prepare | --interactions={tmp}/good.csv | --name=shop | --data_dir={tmp}/out | --user_column=user | --item_column=item | --timestamp_column=time | --user_core=-1",
        "--user_core: found '-1', expected a whole number, at least 0",
    ),
    (
        "prepare | --interactions={tmp}/good.csv | --name=shop | --data_dir={tmp}/out | --user_column=user | --item_column=item | --timestamp_column=time | --image_connections=0",
        "--image_connections: found '0', expected a whole number, at least 1, at most 64",
    ),
    (
        "prepare | --interactions={tmp}/good.csv | --name=shop | --data_dir={tmp}/out | --user_column=user | --item_column=item | --timestamp_column=time | --image_connections=65",
        "--image_connections: found '65', expected a whole number, at least 1, at most 64",
    ),
    (
        "prepare | --interactions={tmp}/good.csv | --name=shop | --data_dir={tmp}/out | --user_column=user | --item_column=item | --timestamp_column=time | --text_limit=0",
        "--text_limit: found '0', expected a whole number, at least 1",
    ),
    (
        "prepare | --interactions={tmp}/good.csv | --name=shop | --data_dir={tmp}/out | --user_column=user | --item_column=item | --timestamp_column=time | --date_from=yesterday",
        "--date_from: found 'yesterday', expected a date such as 2018-10-01",
    ),
    (
        "prepare | --interactions={tmp}/good.csv | --name=shop | --data_dir={tmp}/out | --user_column=user | --item_column=item | --timestamp_column=time | --date_until=2020-13-01",
        "--date_until: found '2020-13-01', expected a date such as 2018-10-01",
    ),
    (
        "prepare | --interactions={tmp}/good.csv | --name=shop | --data_dir={tmp}/out | --user_column=user | --item_column=item | --timestamp_column=time | --base_url=ftp://x",
        "--base_url: found 'ftp://x', expected https://…",
    ),
    (
        "prepare | --interactions={tmp}/good.csv | --name=shop | --data_dir={tmp}/out | --user_column=user | --item_column=item | --timestamp_column=time | --deduplicate=all",
        "--deduplicate: found 'all', expected values separated by commas, each one of exact, consecutive, pairs",
    ),
    (
        "prepare | --interactions={tmp}/good.csv | --name=shop | --data_dir={tmp}/out | --user_column=user | --item_column=item | --timestamp_column=time | --time_unit=h",
        "--time_unit: found 'h', expected one of auto, s, ms, us, ns",
    ),
    (
        "prepare | --interactions={tmp}/good.csv | --name=shop | --data_dir={tmp}/out | --user_column=user | --item_column=item | --timestamp_column=time | --user_column=",
        "--user_column: found nothing, expected the name of a column",
    ),
    (
        "prepare | --interactions={tmp}/good.csv | --name=shop | --data_dir={tmp}/out | --user_column=user | --item_column=item | --timestamp_column=time | --events=buy",
        "--events: found no column of events, expected --event_column to name it",
    ),
    (
        "prepare | --interactions={tmp}/good.csv | --name=shop | --data_dir={tmp}/out | --user_column=user | --item_column=item | --timestamp_column=time | --min_rating=3",
        "--min_rating: found no column of ratings, expected --rating_column to name it",
    ),
    (
        "train | --hidden_size=1000000000000",
        "--hidden_size: found '1000000000000', expected a whole number, at least 1, at most 2147483647",
    ),
    (
        "train | --num_heads=1000000000000",
        "--num_heads: found '1000000000000', expected a whole number, at least 1, at most 2147483647",
    ),
    (
        "train | --inner_size=1000000000000",
        "--inner_size: found '1000000000000', expected a whole number, at least 1, at most 2147483647",
    ),
    (
        "train | --gru_size=1000000000000",
        "--gru_size: found '1000000000000', expected a whole number, at least 0, at most 2147483647",
    ),
    (
        "train | --num_negatives=1000000000000",
        "--num_negatives: found '1000000000000', expected a whole number, at least 1, at most 2147483647",
    ),
    (
        "train | --max_epochs=1000000000000",
        "--max_epochs: found '1000000000000', expected a whole number, at least 1, at most 2147483647",
    ),
    (
        "train | --patience=1000000000000",
        "--patience: found '1000000000000', expected a whole number, at least 1, at most 2147483647",
    ),
    (
        "train | --batch_size=1000000000000",
        "--batch_size: found '1000000000000', expected a whole number, at least 1, at most 16777216",
    ),
    (
        "train | --num_layers=1000000000000",
        "--num_layers: found '1000000000000', expected a whole number, at least 1, at most 256",
    ),
    (
        "train | --max_seq_len=1000000000000",
        "--max_seq_len: found '1000000000000', expected a whole number, at least 1, at most 65536",
    ),
    (
        "train | --synthetic_users=1000000000000",
        "--synthetic_users: found '1000000000000', expected a whole number, at least 10, at most 10000000",
    ),
    (
        "train | --teacher_hidden_size=1000000000000",
        "--teacher_hidden_size: found '1000000000000', expected a whole number, at least 1, at most 65536",
    ),
    (
        "train | --teacher_max_epochs=1000000000000",
        "--teacher_max_epochs: found '1000000000000', expected a whole number, at least 1, at most 2147483647",
    ),
    (
        "train | --recformer_max_tokens=1000000000000",
        "--recformer_max_tokens: found '1000000000000', expected a whole number, at least 2, at most 65536",
    ),
    (
        "train | --learning_rate=1e300",
        "--learning_rate: found '1e300', expected a number, above 0, that float32 can hold",
    ),
    (
        "train | --learning_rate=1e-300",
        "--learning_rate: found '1e-300', expected a number, above 0, that float32 can hold",
    ),
    (
        "train | --weight_decay=1e300",
        "--weight_decay: found '1e300', expected a number, at least 0, that float32 can hold",
    ),
    (
        "train | --weight_decay=1e-300",
        "--weight_decay: found '1e-300', expected a number, at least 0, that float32 can hold",
    ),
    ("train | --weight_decay=nan", "--weight_decay: found 'nan', expected a number, at least 0"),
    (
        "train | --temperature=1e300",
        "--temperature: found '1e300', expected a number, above 0, that float32 can hold",
    ),
    (
        "train | --temperature=1e-300",
        "--temperature: found '1e-300', expected a number, above 0, that float32 can hold",
    ),
    (
        "train | --distill_weight=1e300",
        "--distill_weight: found '1e300', expected a number, at least 0, that float32 can hold",
    ),
    (
        "train | --distill_weight=1e-300",
        "--distill_weight: found '1e-300', expected a number, at least 0, that float32 can hold",
    ),
    (
        "train | --distill_weight=nan",
        "--distill_weight: found 'nan', expected a number, at least 0",
    ),
    (
        "train | --embedding_l2=1e300",
        "--embedding_l2: found '1e300', expected a number, at least 0, that float32 can hold",
    ),
    (
        "train | --embedding_l2=1e-300",
        "--embedding_l2: found '1e-300', expected a number, at least 0, that float32 can hold",
    ),
    ("train | --embedding_l2=nan", "--embedding_l2: found 'nan', expected a number, at least 0"),
    (
        "train | --teacher_temperature=1e300",
        "--teacher_temperature: found '1e300', expected a number, above 0, that float32 can hold",
    ),
    (
        "train | --teacher_temperature=1e-300",
        "--teacher_temperature: found '1e-300', expected a number, above 0, that float32 can hold",
    ),
    (
        "train | --teacher_temperature=nan",
        "--teacher_temperature: found 'nan', expected a number, above 0",
    ),
    (
        "train | --teacher_feature_norm=1e300",
        "--teacher_feature_norm: found '1e300', expected a number, at least 0, that float32 can hold",
    ),
    (
        "train | --teacher_feature_norm=1e-300",
        "--teacher_feature_norm: found '1e-300', expected a number, at least 0, that float32 can hold",
    ),
    (
        "train | --teacher_feature_norm=nan",
        "--teacher_feature_norm: found 'nan', expected a number, at least 0",
    ),
    (
        "train | --precomputed_scale=1e300",
        "--precomputed_scale: found '1e300', expected a number, above 0, that float32 can hold",
    ),
    (
        "train | --precomputed_scale=1e-300",
        "--precomputed_scale: found '1e-300', expected a number, above 0, that float32 can hold",
    ),
    (
        "train | --precomputed_scale=nan",
        "--precomputed_scale: found 'nan', expected a number, above 0",
    ),
    (
        "train | --output_dir=$UNSET_VARIABLE/x",
        "--output_dir: found '$UNSET_VARIABLE/x', expected a path: $UNSET_VARIABLE is not set",
    ),
    (
        "train | --output_dir=~nouser/x",
        "--output_dir: found '~nouser/x', expected a path: there is no such user",
    ),
    ("train | --text_encoder=", "--text_encoder: found '', expected a path, not empty"),
    ("train | --image_encoder=", "--image_encoder: found '', expected a path, not empty"),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=unisrec | --text_features={tmp}/file",
        "--text_features: found '{tmp}/file', expected a .feat1CLS file",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=unisrec | --text_features={tmp}/x.feat1CLS",
        "--text_features: {tmp}/x.feat1CLS: found no such file, expected it",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=unim2rec",
        "data set good: found no images, expected some for unim2rec, or --teachers without it",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=unisrec | --cache_dir={tmp}/file",
        "--cache_dir: found the file {tmp}/file, expected a folder",
    ),
    (
        "train | --dataset=good | --data_dir={tmp}/data | --teachers=precomputed | --precomputed_folder={tmp}/more-turned | --teacher_batch_size=10",
        "{tmp}/more-turned/items.npy: found shape [8, 3], expected [4, d]",
    ),
    (
        "study | rivals | --dataset=good | --data_dir={tmp}/data | --teachers=",
        "--teachers: found none, expected at least one to distil from",
    ),
    (
        "study | rivals | --variants=nobody",
        "--variants: found 'nobody', expected some of base, base-text, prmkd, average, weighted, best_teacher, rank_ensemble, rd, rrd, unkd, label_smoothing, permuted",
    ),
    (
        "study | rivals | --variant_flags=x",
        "--variant_flags: found 'x', expected name: flag=value, the name one of base, base-text, prmkd, average, weighted, best_teacher, rank_ensemble, rd, rrd, unkd, label_smoothing, permuted",
    ),
    (
        "pretrain | --domains=synthetic-garden,synthetic-garden",
        "--domains: found 'synthetic-garden,synthetic-garden', expected each value once",
    ),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    make_world(folder)
    make_files(folder)
    return folder


@pytest.mark.parametrize(("words", "line"), CASES)
def test_a_mistake_ends_in_its_line_and_status_2(words, line, world, monkeypatch, capsys):
    """A bad file ends the command without a traceback and without waiting."""
    assert give(words, world, monkeypatch, capsys) == f"error: {line}\n"
