import pytest
import torch

from teachers_torch.items import inputs
from tests.teachers_torch.worlds import TEXT_SIZE, ring_world, text_vectors


@pytest.fixture(autouse=True)
def one_thread():
    """Matrices of a few rows are no work for two threads, least of all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def ring(monkeypatch):
    """The ring world, its texts encoded by hash in place of a language model."""
    monkeypatch.setattr(inputs, "encode_texts", text_vectors)
    monkeypatch.setattr(inputs, "vector_width", lambda *_: TEXT_SIZE)
    return ring_world()
