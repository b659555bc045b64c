"""The examples are tested on one thread: their tests are small, and several run side by side."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Compute on one thread, and give torch its own number back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
