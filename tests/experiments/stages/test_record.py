"""Results as they are read back."""

import pytest

from experiments.stages.record import SCHEMA_VERSION, read_versioned
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.sealed import write_sealed_json


def test_a_text_with_half_a_character_is_told(tmp_path):
    """Whoever wrote it sealed it, but no page and no table can show it."""
    path = tmp_path / "results.json"
    content = {"schema_version": SCHEMA_VERSION, "settings": {"dataset": "x\ud800"}}
    write_sealed_json(path, content)
    with pytest.raises(UserError, match=r"results\.json: damaged \('utf-8' codec can't encode"):
        read_versioned(path)
    write_sealed_json(path, {**content, "settings": {"dataset": "é"}})
    assert read_versioned(path)["settings"] == {"dataset": "é"}
