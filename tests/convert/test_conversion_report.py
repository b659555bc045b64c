"""conversion_report: the whole table, with and without a call."""

import pytest
import torch
from torch import nn

import fastcells
from pairs import (
    B,
    H,
    I,
    T,
    one_thread,  # noqa: F401
)

needs_kernels = pytest.mark.skipif(not fastcells.is_compiled(), reason="kernels are not compiled")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = fastcells.RNN(I, H, batch_first=True)
        self.twice = self.rnn
        self.cell = fastcells.LSTMCell(H, H)
        self.theirs = nn.GRU(H, H)
        self.idle = fastcells.GRU(H, H)
        self.attention = fastcells.AdditiveAttention(H, H, 2)
        self.odd = type("Odd", (nn.LSTM,), {"__module__": "package"})(I, H)

    def forward(self, x, lengths):
        output, _ = self.rnn(x, lengths=lengths)
        h, _ = self.cell(output[:, -1])
        return self.attention(h[:, None], output)


TABLE = """\
layer      class                        runs on
rnn        fastcells.RNN                {rnn}
cell       fastcells.LSTMCell           {cell}
theirs     torch.nn.GRU                 torch: convert would take it
idle       fastcells.GRU                {idle}
attention  fastcells.AdditiveAttention  {attention}
odd        package.Odd                  torch: it is a subclass of torch.nn.LSTM, whose own ways \
would be lost. Convert the layer before it is wrapped, or derive its class from the other one
4 of 6 layers are fastcells'"""


@needs_kernels
def test_without_a_call_it_says_what_device_and_dtype_allow():
    general = "cpu kernels, torch.float32: compiled kernels"
    assert str(fastcells.conversion_report(Net())) == TABLE.format(
        rnn=general,
        cell=general,
        idle=general,
        attention="a kernel that depends on the input: pass one",
    )
    half = fastcells.MultiheadAttention(H, 2, dtype=torch.float16)
    assert str(fastcells.conversion_report(half)) == (
        "layer     class                         runs on\n"
        "(itself)  fastcells.MultiheadAttention  reference: this build of fastcells has no "
        "attention kernels for torch.float16\n"
        "1 of 1 layers are fastcells'"
    )


@needs_kernels
def test_with_a_call_each_layer_tells_its_kernel_and_the_model_is_as_before():
    model, lengths = Net(), torch.tensor([5, 0, 3, 1])
    before = [dict(vars(m)) for m in model.modules()]
    report = fastcells.conversion_report(model, torch.randn(B, T, I), lengths=lengths)
    assert before == [dict(vars(m)) for m in model.modules()]
    assert str(report) == TABLE.format(
        rnn="cpu sequence: compiled kernels",
        cell="cpu step: compiled kernels",
        idle="not called by this input, or passed over by torch's own fast path",
        attention="cpu additive attention: compiled kernels",
    )
    explained = fastcells.explain(model.rnn, torch.randn(B, T, I), lengths=lengths)
    assert report.layers[0].explanation == explained
    assert report.layers[2].explanation is None and not report.layers[2].is_fastcells


@needs_kernels
def test_torchs_own_fast_path_of_an_encoder_layer_is_told():
    layer = fastcells.convert(nn.TransformerEncoderLayer(H, 2, batch_first=True)).eval()
    x = torch.randn(B, T, H)
    assert fastcells.conversion_report(layer, x).layers[0].runs_on.startswith("cpu dot attention")
    with torch.no_grad():
        told = fastcells.conversion_report(layer, x).layers[0].runs_on
    assert told == "not called by this input, or passed over by torch's own fast path"


def test_a_call_that_fails_leaves_the_model_as_it_was():
    model = fastcells.convert(nn.Sequential(nn.GRU(I, H)))
    model[0].forward = forward = model[0].forward
    with pytest.raises(RuntimeError):
        fastcells.conversion_report(model, torch.randn(T, B, I + 1))
    assert vars(model[0])["forward"] is forward
    with pytest.raises(TypeError) as error:
        fastcells.conversion_report("model")
    assert str(error.value) == "conversion_report: module must be a torch.nn.Module, got str"
