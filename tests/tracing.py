"""What the tests of torch.compile, torch.export and torch.library share."""

import pytest
import torch

#: torch traces its own forward-mode decompositions with torch.jit, which it has deprecated.
quiet_tracing = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


@pytest.fixture(autouse=True)
def no_compiled_code_from_other_tests():
    torch._dynamo.reset()
