"""Settings that don't fit together, and flags that nothing reads."""

import pytest

from experiments.cli import command, unread
from experiments.cli.flags import parse
from experiments.cli.settings import GROUPS, check_settings, settings_from
from experiments.commands import pretrain, update
from prmkd_jax.common.errors import UserError
from tests.experiments.calls import make_call

TWO = "--teachers=unisrec,unim2rec"


def warnings(*flags):
    parsed = parse(["--flagfile=demo.cfg", *flags], GROUPS)
    settings = settings_from(parsed.configs)
    check_settings(settings)
    return unread.warnings([settings], parsed.explicit, "train", frozenset())


@pytest.mark.parametrize("weights", ["1,2,3", "1"])
def test_weights_for_other_teachers_are_refused(weights):
    """No teacher trains with its neighbour's weight."""
    with pytest.raises(UserError) as error:
        warnings(TWO, f"--teacher_weights={weights}")
    expected = f"--teacher_weights: found '{weights}', expected 2 numbers, one each for {TWO}"
    assert str(error.value) == expected
    assert not warnings(TWO, "--teacher_weights=1,2")


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--method=best_teacher", "--redistribute=equal"], "--method=best_teacher excludes no"),
        (["--method=rd", "--temperature=1"], "--method=rd reads ranks"),
        (["--method=rrd", "--kl=js"], "--method=rrd learns an order of unobserved items"),
        (["--method=unkd", "--teacher_weights=uniform"], "--method=unkd sets the teachers'"),
        (["--negatives=catalogue", "--nodeduplicate_columns"], "the catalogue has each once"),
        ([TWO, "--consistency_quantile=1"], "the consistency rule needs three teachers"),
    ],
)
def test_options_that_this_distillation_does_not_read_are_told(flags, why):
    """A warning says that the setting has no effect, and why."""
    name = flags[-1].split("=")[0].removeprefix("--").removeprefix("no")
    (warning,) = (line for line in warnings(*flags) if line.startswith(f"--{name} "))
    assert why in warning


@pytest.mark.parametrize(
    "flags",
    [
        ["--method=rd", "--distill_weight=1"],
        ["--method=permuted", "--consistency_quantile=0.2"],
        ["--method=rank_ensemble", "--kl=forward", "--smoothing=0.1"],
        ["--negatives=catalogue", "--seen_items=scored", "--teacher_weights=1,2,3"],
    ],
)
def test_options_that_are_read_raise_no_warning(flags):
    """No warning makes the user drop a setting that counts."""
    assert not [line for line in warnings(*flags) if not line.startswith("--method")]


@pytest.mark.parametrize(
    ("flags", "read"),
    [
        (["--student=bert4rec", "--mask_probability=0.4", "--num_heads=4"], True),
        (["--student=recguru", "--second_domain=Arts", "--auxiliary_weight=2"], True),
        (["--student=sasrec", "--mask_probability=0.4"], False),
        (["--student=bert4rec", "--second_domain=Arts"], False),
        (["--student=gru4rec", "--num_heads=3"], False),
    ],
)
def test_students_say_which_options_they_do_not_read(flags, read):
    """A setting of another student gets a warning that it has no effect."""
    expected = [] if read else [f"{flags[-1].split('=')[0]} has no effect: {flags[0]} does not"]
    found = warnings(*flags)
    assert len(found) == len(expected)
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True))


@pytest.mark.parametrize("student", ["bert4rec", "recguru"])
def test_a_token_behind_the_prefix_needs_a_place_of_its_own(student):
    """With a window of 1 the prefix would hold no item at all."""
    with pytest.raises(UserError) as error:
        warnings(f"--student={student}", "--max_seq_len=1")
    assert str(error.value) == (
        f"--max_seq_len: found 1, expected at least 2: --student={student} adds a token to "
        "each prefix"
    )
    assert not warnings(f"--student={student}", "--max_seq_len=2")
    assert not warnings("--max_seq_len=1")


@pytest.mark.parametrize("student", ["sasrec", "fm"])
def test_teachers_that_know_the_targets_need_a_student_without_prefixes(student):
    """Teachers that have read a row's own target never teach that row."""
    with pytest.raises(UserError, match="--teacher_history: found 'whole', expected 'prefix'"):
        warnings(f"--student={student}", "--teacher_history=whole")
    assert not warnings("--student=lightgcn", "--teacher_history=whole")


@pytest.mark.parametrize(
    ("flags", "unread"),
    [
        (["--num_negatives=9", "--gbce_t=0.5"], ["gbce_t", "num_negatives"]),
        (["--loss=gbce", "--num_negatives=9", "--gbce_t=0.5"], []),
        (["--student=deepfm", "--num_negatives=9", "--mlp_sizes=8,8", "--dropout=0.2"], []),
        (["--student=deepfm", "--loss=softmax", "--num_negatives=9"], ["num_negatives"]),
        (["--student=lightgcn", "--loss=bpr", "--embedding_l2=1e-5"], []),
        (["--student=lightgcn", "--embedding_l2=1e-5"], ["embedding_l2"]),
        (["--loss=bpr", "--embedding_l2=1e-5", "--mlp_sizes=8"], ["embedding_l2", "mlp_sizes"]),
    ],
)
def test_options_that_this_loss_or_student_does_not_read_are_told(flags, unread):
    """A setting that changes nothing, such as unused negatives, gets a warning."""
    assert [line.split()[0] for line in warnings(*flags)] == [f"--{name}" for name in unread]


def test_a_flag_is_unread_where_no_run_of_the_command_reads_it():
    """A setting of one variant gets no warning because another doesn't read it."""
    parsed = parse(["--flagfile=demo.cfg", "--temperature=0.9", "--gbce_t=0.5"], GROUPS)
    prmkd, ranks = (
        settings_from(parse([f"--method={name}", "--gbce_t=0.5"], GROUPS).configs)
        for name in ("prmkd", "rank_ensemble")
    )
    lines = unread.warnings([prmkd, ranks], parsed.explicit, "study", frozenset())
    assert [line.split()[0] for line in lines] == ["--gbce_t"]
    lines = unread.warnings([prmkd], parsed.explicit, "study", frozenset({"temperature"}))
    assert "--temperature has no effect: study does not read it" in lines


def test_what_models_start_from_is_one_flag(monkeypatch):
    """Each start reaches its own model, and one for no model of the run gets a warning."""
    monkeypatch.setenv("PTH", "/weights")
    flag = "--init=unisrec=a/b,unim2rec=c=d,recformer=random,student=$PTH/s.pth"
    settings = settings_from(parse([flag], GROUPS).configs)
    init = {"unisrec": "a/b", "unim2rec": "c=d", "recformer": "random"}
    assert settings.teachers.init == init
    assert settings.run.student_init == "/weights/s.pth"
    assert not warnings("--init=unisrec=a")
    assert warnings("--init=unisrec=a", "--teachers=unim2rec")[0].startswith("--init has no effect")
    assert warnings("--init=student=s,recformer=a", "--teachers=unim2rec") == [
        "--init has no effect: recformer=… names no model of this run"
    ]


def test_a_command_that_trains_no_student_tells_that_its_start_is_not_read():
    parsed = parse(["--init=unisrec=a,student=s", "--teachers=unisrec"], GROUPS)
    settings = settings_from(parsed.configs)
    lines = unread.warnings([settings], parsed.explicit, "pretrain", pretrain.COMMAND.ignores)
    assert lines == ["--init has no effect: student=… names no model of this run"]


@pytest.mark.parametrize(("source", "read"), [("texts", True), ("words", False)])
def test_an_update_reads_texts_where_new_rows_are_made_of_them(source, read):
    flags = ["--text_features=vectors.npy", f"--rows_from={source}", "--teachers="]
    call, stream = make_call(update.COMMAND, flags)
    command.check(call)
    assert ("--text_features has no effect" in stream.getvalue()) is not read
    assert not warnings("--init=student=a", "--teachers=")


@pytest.mark.parametrize(
    "value",
    ["unisrec", "unisrec=", "oracle=a", "unisrec=a,unisrec=b", "neighbours=a", "unisrec-text=a"],
)
def test_starts_that_name_nothing_are_refused(value):
    """No model silently trains from other weights although a start was given."""
    with pytest.raises(UserError, match=r"--init: found .* expected NAME=PATH"):
        parse([f"--init={value}"], GROUPS)


@pytest.mark.parametrize(
    ("flags", "unread"),
    [
        (["--teachers=recformer", "--teacher_dropout=0.2"], ["teacher_dropout"]),
        (["--teachers=unisrec-text", "--teacher_dropout=0.2", "--nounisrec_pad_class"], []),
        (["--teachers=unim2rec", "--nounisrec_pad_class"], ["unisrec_pad_class"]),
        (["--teachers=unisrec", "--image_encoder=x", "--text_encoder=y"], ["image_encoder"]),
        (["--teachers=unisrec", "--init=recformer=random"], ["init"]),
        (["--teachers=unisrec-text", "--init=unisrec=a"], []),
        (["--teachers=precomputed", "--recformer_max_tokens=9"], ["recformer_max_tokens"]),
    ],
)
def test_options_that_no_teacher_reads_are_reported(flags, unread):
    """A teacher's setting gets a warning exactly where that teacher doesn't teach."""
    assert [line.split()[0] for line in warnings(*flags)] == [f"--{name}" for name in unread]


def test_an_encoder_of_images_that_are_encoded_already_is_told(tmp_path):
    """The warning says that the data set has the images' vectors already."""
    (tmp_path / "shop").mkdir()
    flags = (
        "--dataset=shop", f"--data_dir={tmp_path}", "--teachers=unim2rec", "--image_encoder=other",
    )  # fmt: skip
    assert warnings(*flags) == []
    (tmp_path / "shop/image_features.npy").write_bytes(b"")
    path = tmp_path / "shop/image_features.npy"
    assert warnings(*flags) == [
        f"--image_encoder has no effect: {path} has the images' vectors already"
    ]
