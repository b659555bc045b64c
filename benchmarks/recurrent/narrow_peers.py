"""Other runtimes on narrow weights: ONNX Runtime's dynamic int8 and OpenVINO in bfloat16.

Each takes a case and torch's float32 layer and returns a call without arguments, whose result is
the output [T, B, H] as torch has it; None where its package is not installed or cannot do it.
"""

import importlib.util
import io
import tempfile
from pathlib import Path

import torch

from benchmarks.recurrent.layers import make_input


def has_packages(*names):
    """Return whether all of them are installed."""
    return all(importlib.util.find_spec(name) is not None for name in names)


def to_torch(y):
    """Y [T, 1, B, H] as [T, B, H]."""
    return torch.from_numpy(y[:, 0].copy())


def onnxruntime_int8(case, layer, threads):
    """ONNX Runtime's quantize_dynamic, which knows LSTM alone of the two cells."""
    if case.cell != "lstm" or not has_packages("onnxruntime", "onnx", "sympy"):
        return None
    import onnx
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from benchmarks.recurrent.onnx_models import make_model

    with tempfile.TemporaryDirectory() as folder:
        plain, narrow = Path(folder, "plain.onnx"), Path(folder, "narrow.onnx")
        onnx.save(make_model(case, layer), plain)
        quantize_dynamic(plain, narrow, weight_type=QuantType.QInt8, per_channel=True)
        if not any(node.op_type == "DynamicQuantizeLSTM" for node in onnx.load(narrow).graph.node):
            return None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.force_spinning_stop", "1")  # as in peers.py
        session = onnxruntime.InferenceSession(
            narrow.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
    feeds = {"X": make_input(case).numpy()}
    return lambda: to_torch(session.run(None, feeds)[0])


def openvino_bf16(case, layer, threads):
    """OpenVINO's CPU plugin, asked for bfloat16 products."""
    if not has_packages("openvino", "onnx"):
        return None
    import openvino

    from benchmarks.recurrent.onnx_models import make_model

    core = openvino.Core()
    model = core.read_model(io.BytesIO(make_model(case, layer).SerializeToString()))
    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "bf16",
    }
    request = core.compile_model(model, "CPU", hints).create_infer_request()
    feeds = {0: make_input(case).numpy()}
    return lambda: to_torch(request.infer(feeds, share_inputs=True, share_outputs=True)[0])


PEERS = {"ONNX Runtime int8": onnxruntime_int8, "OpenVINO bf16": openvino_bf16}
