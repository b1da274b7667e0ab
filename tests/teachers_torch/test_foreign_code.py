"""Folders of Hugging Face's form that bring code along: none of it runs, and nobody is asked."""

import json

import pytest

from prmkd_jax.common.errors import UserError
from teachers_torch.items.image_encoder import ImageEncoder
from teachers_torch.items.text_encoder import load_encoder as load_text_encoder
from teachers_torch.recformer import convert
from teachers_torch.recformer.start import load_tokenizer

LOADERS = {
    "texts": load_text_encoder,
    "texts by cls": lambda folder: load_text_encoder(folder, "cls"),
    "images": ImageEncoder,
    "tokens": load_tokenizer,
    "a start": convert.load_encoder,
}
CLASSES = ("AutoConfig", "AutoModel", "AutoTokenizer", "AutoImageProcessor", "AutoProcessor")
MODULES = [{"idx": 0, "name": "0", "path": "", "type": "evil.Anything"}]


@pytest.fixture(params=["auto_map", "modules.json"])
def folder(tmp_path, request, monkeypatch):
    """A folder whose `evil.py` leaves a mark; whoever asks at the terminal is told yes."""
    folder = tmp_path / "model"
    folder.mkdir()
    code = f"open({str(tmp_path / 'mark')!r}, 'w').close()\nAnything = object\n"
    (folder / "evil.py").write_text(code)
    if request.param == "modules.json":
        (folder / "modules.json").write_text(json.dumps(MODULES))
    named = dict.fromkeys(CLASSES, "evil.Anything")
    named["AutoTokenizer"] = ["evil.Anything", "evil.Anything"]
    content = {"model_type": "evil", "auto_map": named}
    for file in ("config", "tokenizer_config", "preprocessor_config", "processor_config"):
        (folder / f"{file}.json").write_text(json.dumps(content))
    monkeypatch.setattr("builtins.input", lambda _="": "y")
    return folder


@pytest.mark.parametrize("loader", LOADERS)
def test_a_folders_code_does_not_run_and_nobody_is_asked(folder, loader):
    """Each loader refuses the folder in one line, and the code leaves no mark."""
    with pytest.raises(UserError) as refused:
        LOADERS[loader](str(folder))
    assert len(str(refused.value).splitlines()) == 1
    assert not (folder.parent / "mark").exists()
