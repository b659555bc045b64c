"""Other runtimes on narrow weights: ONNX Runtime's dynamic int8 and OpenVINO in bfloat16.

Each takes a case and torch's float32 layer and returns a call without arguments, whose result is
the output [T, B, H] as torch has it; None where its package is not installed or cannot do it.
"""

import importlib.util
import tempfile
from pathlib import Path

import torch

from benchmarks.machine import CPUINFO, read_cpuinfo
from benchmarks.recurrent.layers import make_input
from benchmarks.recurrent.peers import onnxruntime_session, openvino_request


def has_packages(*names):
    """Return whether all of them are installed."""
    return all(importlib.util.find_spec(name) is not None for name in names)


def has_vnni():
    """Return whether the processor sums four products of bytes without saturating."""
    info = read_cpuinfo(CPUINFO.read_text()) if CPUINFO.exists() else {}
    flags = (info.get("flags") or info.get("Features", "")).split()
    return not {"avx512_vnni", "avx_vnni", "asimddp"}.isdisjoint(flags)


def onnxruntime_int8(case, layer, threads):
    """ONNX Runtime's quantize_dynamic, which knows LSTM alone of the two cells."""
    if case.cell != "lstm" or not has_packages("onnxruntime", "onnx"):
        return None
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from benchmarks.recurrent.onnx_models import make_model, to_torch_layout

    with tempfile.TemporaryDirectory() as folder:
        plain, narrow = Path(folder, "plain.onnx"), Path(folder, "narrow.onnx")
        onnx.save(make_model(case, layer), plain)
        # Without VNNI pairs of its products saturate in 16 bits: it has 7 bits for that.
        quantize_dynamic(
            plain,
            narrow,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=not has_vnni(),
        )
        model = onnx.load(narrow)
    if not any(node.op_type == "DynamicQuantizeLSTM" for node in model.graph.node):
        return None
    session = onnxruntime_session(model.SerializeToString(), threads)
    feeds = {"X": make_input(case).numpy()}
    return lambda: torch.from_numpy(to_torch_layout(session.run(None, feeds)[0]))


def openvino_bf16(case, layer, threads):
    """OpenVINO's CPU plugin, asked for bfloat16 products."""
    if not has_packages("openvino", "onnx"):
        return None
    from benchmarks.recurrent.onnx_models import make_model, to_torch_layout

    request = openvino_request(make_model(case, layer).SerializeToString(), threads, "bf16")
    feeds = {0: make_input(case).numpy()}

    def call():
        done = request.infer(feeds, share_inputs=True, share_outputs=True)
        return torch.from_numpy(to_torch_layout(done[0]))

    return call


PEERS = {"ONNX Runtime int8": onnxruntime_int8, "OpenVINO bf16": openvino_bf16}
