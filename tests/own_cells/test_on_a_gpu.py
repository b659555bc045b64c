"""Cells from equations on a GPU: compiled by NVRTC, run by the CUDA engines."""

import pytest
import torch

import fastcells
from test_cuda_engines import GIVEN, LAYERS, assert_same, make, outputs_and_gradients

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        not torch.cuda.is_available() or not fastcells.is_compiled(), reason="needs a GPU"
    ),
]

ENGINES = {"dense": "stepwise", "lltm": "stepwise", "a vector": "elementwise"}
ENGINES["no recurrent part"] = "elementwise"


@pytest.mark.parametrize("name", list(LAYERS))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_layer_is_that_of_the_cpu(name, dtype):
    layer = make(name, num_layers=2, bidirectional=True).to(dtype)
    expected = outputs_and_gradients(layer.double(), **GIVEN)
    layer = layer.to("cuda", dtype)
    given = {key: value.cuda() for key, value in GIVEN.items()}
    told = fastcells.explain(layer, torch.randn(6, 5, 4, device="cuda", dtype=dtype))
    assert told.kernel == f"cuda {ENGINES.get(name, 'rowwise')}"
    found = outputs_and_gradients(layer, **given, dtype=dtype)
    bounds = {torch.float64: 1e-11, torch.float32: 2e-4, torch.float16: 3e-2, torch.bfloat16: 2e-1}
    assert_same([x.cpu() for x in found], expected, bounds[dtype])


def test_inference_graphs_and_second_derivatives():
    layer = make("dense").cuda()
    input = torch.randn(6, 5, 4, device="cuda", dtype=torch.float64)
    expected = layer.cpu()(input.cpu())[0]
    layer.cuda()
    with torch.no_grad():
        assert_same([layer(input)[0].cpu()], [expected], 1e-11)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_same([compiled(input)[0].cpu()], [expected], 1e-11)
    small = torch.randn(2, 2, 4, device="cuda", dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: layer(x)[0], (small,), fast_mode=True)
