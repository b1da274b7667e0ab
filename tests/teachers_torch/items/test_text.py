import os
import shutil

import numpy as np
import pytest

from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import Catalogue
from teachers_torch.config import TextConfig
from teachers_torch.items import text


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("Steel Bolt", "Steel Bolt."),
        ("  padded \t", "  padded \t."),
        ("Ends in a dot.", "Ends in a dot."),
        ("Dots inside 1.5 mm...", "Dots inside 1.5 mm."),
        ("Nuts &amp; Bolts &quot;M4&quot;", "Nuts & Bolts M4."),
        ('He said "no"', "He said no."),
        ("two\nlines\r\nhere", "twolineshere."),
        ("caf&eacute; &#39;92", "café '92."),
        ("x" * 1998, "x" * 1998 + "."),
        ("x" * 1999, ""),
        ("x" * 1999 + ".", ""),
        ("x" * 1998 + "....", "x" * 1998 + "."),
        ("...", ".."),
        (".5 mm", ".5 mm."),
        ("two. ", "two. ."),
    ],
)
def test_cleaning(raw, cleaned):
    """Each text becomes what the official cleaning makes of it."""
    assert text.clean(raw) == cleaned


def test_sentences_join_title_categories_and_brand():
    """An overlong title is left out like a missing one, and the description isn't read."""
    catalogue = Catalogue(
        {
            "title": ("Bolt", "", "x" * 3000, ""),
            "brand": ("ACME", "Foo", "Bar", " "),
            "categories": ("Tools, Hand,Bolts", "", "", ""),
            "description": ("never read", "never read", "", "never read"),
        }
    )
    assert text.item_sentences(catalogue) == [
        "Bolt. Tools, Hand Bolts. ACME. ",
        "Foo. ",
        " Bar. ",
        "",
    ]


class FakeEncoder:
    """Three numbers a sentence, and a note of what was asked."""

    def __init__(self):
        self.seen = []

    def encode(self, sentences, batch_size):
        """As `TextEncoder` does."""
        self.seen += sentences
        return np.array([[len(s), ord(s[-1]) if s else 0, 1] for s in sentences], dtype=np.float32)


@pytest.fixture
def fake(monkeypatch):
    encoder = FakeEncoder()
    monkeypatch.setattr(text, "load_encoder", lambda name, pooling: encoder)
    return encoder


SENTENCES = ["bb", "a", "", "bb", "dddd", "c", "a"]
VECTORS = [[2, 98, 1], [1, 97, 1], [0, 0, 1], [2, 98, 1], [4, 100, 1], [1, 99, 1], [1, 97, 1]]


def test_rows_follow_the_sentences_and_equal_ones_are_encoded_once(fake, tmp_path, monkeypatch):
    """Vectors come in the sentences' order, not in the order of encoding."""
    monkeypatch.setattr(text, "CHUNK", 2)
    reports = []
    vectors = text.encode_texts(
        SENTENCES, TextConfig(), Cache(tmp_path), lambda *r: reports.append(r)
    )
    np.testing.assert_array_equal(vectors, np.array(VECTORS, dtype=np.float32))
    assert vectors.dtype == np.float32
    assert sorted(fake.seen) == sorted(set(SENTENCES))
    assert reports == [(2, 5), (4, 5), (5, 5)]


def test_a_second_call_reads_the_cache_and_does_no_work(fake, tmp_path, monkeypatch):
    """The encoder isn't loaded again, even with another batch size, and the vectors are equal."""
    first = text.encode_texts(SENTENCES, TextConfig(), Cache(tmp_path))
    monkeypatch.setattr(text, "load_encoder", lambda *_: pytest.fail("loaded the encoder"))
    other_batches = TextConfig(text_batch_size=7)
    np.testing.assert_array_equal(
        text.encode_texts(SENTENCES, other_batches, Cache(tmp_path)), first
    )
    assert len(list((tmp_path / "texts").glob("*.npy"))) == 1


def test_other_sentences_or_another_encoder_are_other_entries(fake, tmp_path):
    """The cache key depends on the texts, their order and boundaries, and the encoder."""
    calls = [
        (["ab", "c"], "all-MiniLM-L6-v2"),
        (["a", "bc"], "all-MiniLM-L6-v2"),
        (["c", "ab"], "all-MiniLM-L6-v2"),
        (["ab", "c"], "some/other"),
    ]
    for sentences, encoder in calls:
        text.encode_texts(sentences, TextConfig(text_encoder=encoder), Cache(tmp_path))
    assert len(list((tmp_path / "texts").glob("*.np[yz]"))) == len(calls)


def test_a_crash_leaves_no_cache_entry(fake, tmp_path, monkeypatch):
    """The call after an interrupted save returns whole vectors."""

    def crash(file, array):
        file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", crash)
        with pytest.raises(KeyboardInterrupt):
            text.encode_texts(SENTENCES, TextConfig(), Cache(tmp_path))
    np.testing.assert_array_equal(
        text.encode_texts(SENTENCES, TextConfig(), Cache(tmp_path)),
        np.array(VECTORS, dtype=np.float32),
    )


def test_a_folders_identity_is_its_content(tmp_path):
    """A copy has the same identity, changed weights another; a pipe in the folder is refused."""
    folder = tmp_path / "encoder"
    folder.mkdir()
    (folder / "weights").write_text("1")
    before = text.encoder_identity(str(folder))
    shutil.copytree(folder, tmp_path / "copy")
    assert text.encoder_identity(str(tmp_path / "copy")) == before
    (folder / "weights").write_text("2")
    assert text.encoder_identity(str(folder)) != before
    assert text.encoder_identity("org/name") == "hub:org/name"
    os.mkfifo(folder / "pipe.json")
    with pytest.raises(UserError, match=r"pipe\.json: found a pipe or a device, expected an enc"):
        text.encoder_identity(str(folder))


@pytest.mark.parametrize("pooling", ["model", "cls"])
def test_a_plain_hugging_face_encoder_is_mean_pooled_or_read_at_cls(tmp_path, pooling):
    """Padding isn't pooled, and [CLS] is read from the last layer, not from BERT's pooler."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "bolt", "nut", "steel", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(vocab={word: i for i, word in enumerate(words)})
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=16,
    )
    model = BertModel(config).eval()
    model.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    encoder = TextConfig(text_encoder=str(tmp_path / "bert"), text_pooling=pooling)
    vectors = text.encode_texts(["bolt.", "steel nut bolt."], encoder, Cache(tmp_path))
    for vector, ids in zip(vectors, ([2, 5, 8, 3], [2, 7, 6, 5, 8, 3]), strict=True):
        with torch.inference_mode():
            hidden = model(torch.tensor([ids])).last_hidden_state[0]
        expected = hidden.mean(0) if pooling == "model" else hidden[0]
        np.testing.assert_allclose(vector, expected.numpy(), atol=1e-5)


def test_the_bundled_encoder_knows_what_is_alike(tmp_path):
    """A bolt is closer to a screw than to a novel, and the vectors have length 1."""
    sentences = ["Stainless steel hex bolt. ", "Metal screw and nut. ", "Romantic novel. "]
    vectors = text.encode_texts(sentences, TextConfig(), Cache(tmp_path))
    assert vectors.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    cosines = vectors @ vectors.T
    assert cosines[0, 1] > cosines[0, 2] + 0.2


def test_words_are_dropped_one_by_one_and_the_same_for_a_seed():
    """The words that stay keep their order, and another seed drops others."""
    sentences = [" ".join(f"w{word}" for word in range(100))] * 50
    dropped = text.drop_words(sentences, 0.15, seed=3)
    assert dropped == text.drop_words(sentences, 0.15, seed=3)
    assert dropped != text.drop_words(sentences, 0.15, seed=4)
    kept = [sentence.split() for sentence in dropped]
    assert np.mean([len(words) for words in kept]) == pytest.approx(85, abs=2)
    assert len({len(words) for words in kept}) > 5
    assert all(words == sorted(words, key=lambda word: int(word[1:])) for words in kept)


def test_pooling_is_part_of_the_cache_key():
    """Vectors read at [CLS] have another cache key than mean vectors."""
    config = TextConfig(text_encoder="org/name")
    assert text.text_identity(config) == "hub:org/name"
    assert text.text_identity(TextConfig(text_encoder="org/name", text_pooling="cls")) != (
        text.text_identity(config)
    )


def test_an_encoding_that_was_killed_goes_on(fake, tmp_path, monkeypatch):
    """Only the rest is encoded, and no parts stay in the cache."""
    monkeypatch.setattr(text, "CHUNK", 2)

    def stop(done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        text.encode_texts(SENTENCES, TextConfig(), Cache(tmp_path), stop)
    assert len(fake.seen) == 4
    vectors = text.encode_texts(SENTENCES, TextConfig(), Cache(tmp_path))
    np.testing.assert_array_equal(vectors, np.array(VECTORS, dtype=np.float32))
    assert sorted(fake.seen) == sorted(set(SENTENCES))
    assert [path.name for path in (tmp_path / "texts").iterdir() if path.is_dir()] == []
