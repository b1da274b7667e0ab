import dataclasses

import pytest

from prmkd_jax.common.errors import UserError
from teachers_torch.config import (
    EncoderConfig,
    PrecomputedConfig,
    RecformerConfig,
    RecformerPretrainConfig,
    TextConfig,
    UniM2RecConfig,
    UniSRecConfig,
)
from teachers_torch.settings import TeacherSettings


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (UniSRecConfig, {"hidden_size": 10, "num_heads": 3}, "--num_heads: found 3, expected a"),
        (UniSRecConfig, {"dropout": 1.0}, "--dropout: found 1.0, expected at least 0, below 1"),
        (EncoderConfig, {"temperature": 0.0}, "--temperature: found 0.0, expected above 0"),
        (UniM2RecConfig, {"modality_dropout": 0.6}, "at least 0, at most 0.5"),
        (UniM2RecConfig, {"batch_size": 0}, "--batch_size: found 0, expected at least 1"),
        (RecformerConfig, {"hidden_size": 10, "num_heads": 3}, "--num_heads: found 3, expected a"),
        (RecformerConfig, {"precision": "float16"}, "expected one of float32, bfloat16"),
        (RecformerPretrainConfig, {"batch_size": 1}, "--batch_size: found 1, expected at least 2"),
        (PrecomputedConfig, {"scale": 0.0}, "--scale: found 0.0, expected above 0"),
        (TextConfig, {"text_pooling": "max"}, "--text_pooling: found 'max', expected one of"),
    ],
)
def test_impossible_values_are_refused(config, values, message):
    """The error names the flag and says which values are possible."""
    with pytest.raises(UserError, match=message):
        config(**values)


def test_defaults_are_the_official_fine_tuning():
    """UniSRec and UniM2Rec share them and each adds its own."""
    shared = {
        "hidden_size": 300, "num_layers": 2, "num_heads": 2, "inner_size": 256, "dropout": 0.5,
        "adaptor_dropout": 0.2, "num_experts": 8, "temperature": 0.07, "feature_norm": 15.0,
        "learning_rate": 1e-3, "weight_decay": 0.0, "batch_size": 2048, "max_epochs": 300,
        "patience": 10, "freeze_encoder": True,
    }  # fmt: skip
    assert dataclasses.asdict(EncoderConfig()) == shared
    assert dataclasses.asdict(UniSRecConfig()) == {**shared, "pad_class": True}
    own = {"modality_dropout": 0.2, "align_weight": 0.1, "id_embedding": True, "hide_images": 0.0}
    assert dataclasses.asdict(UniM2RecConfig()) == {**shared, **own}


def test_recformers_defaults_are_official_where_two_cores_can_afford_them():
    """Batch sizes, temperature, patience and masking are those of the official code."""
    config = RecformerConfig()
    assert (config.max_attribute_tokens, config.dropout, config.temperature) == (32, 0.1, 0.05)
    assert (config.batch_size, config.warmup_steps) == (16 * 8, 100)
    assert (config.evaluate_every, config.patience, config.fixed_table_patience) == (3, 5, 3)
    pretraining = RecformerPretrainConfig()
    assert (pretraining.learning_rate, pretraining.max_gradient_norm) == (5e-5, 1.0)
    assert (pretraining.batch_size, pretraining.accumulate) == (16 * 4, 8)
    assert (pretraining.mlm_weight, pretraining.mlm_share) == (0.1, 0.15)
    assert (pretraining.max_epochs, pretraining.evaluate_every) == (32, 2000)


def test_a_configuration_under_another_key_is_refused():
    """Settings look configurations up by class, so one under another would never be read."""
    with pytest.raises(
        ValueError, match=r"^of: found .*EncoderConfig.*, expected the class UniSRec"
    ):
        TeacherSettings(of={EncoderConfig: UniSRecConfig()})
