"""One torch layer as an ONNX model of one LSTM, GRU or RNN node, for any ONNX runtime."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.recurrent.cases import GATES
from benchmarks.recurrent.gate_orders import ONNX_BLOCKS, reorder
from benchmarks.summary import TITLES

OPSET = 17  # LSTM, GRU and RNN as of opset 14
IR_VERSION = 8  # opset 17's: older runtimes read it too


def onnx_weights(case, parameters):
    """Return W [D, G*H, I], R [D, G*H, H], B [D, 2*G*H] from torch's parameters by name."""
    blocks = ONNX_BLOCKS[case.cell]
    stacks = {"W": [], "R": [], "B": []}
    for suffix in ("", "_reverse")[: case.directions]:
        w_ih, w_hh, b_ih, b_hh = (
            reorder(parameters[f"{name}_l0{suffix}"], blocks)
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        stacks["W"].append(w_ih)
        stacks["R"].append(w_hh)
        stacks["B"].append(np.concatenate([b_ih, b_hh]))
    return {name: np.stack(arrays) for name, arrays in stacks.items()}


def make_model(case, layer):
    """Return a ModelProto, X [T, B, I] -> Y [T, D, B, H] and the final states, for `layer`."""
    parameters = {name: p.detach().numpy() for name, p in layer.named_parameters()}
    weights = onnx_weights(case, parameters)
    states = ["Y_h", "Y_c"] if case.cell == "lstm" else ["Y_h"]
    options = {"linear_before_reset": 1} if case.cell == "gru" else {}
    direction = "bidirectional" if case.directions == 2 else "forward"
    node = helper.make_node(
        TITLES[case.cell], ["X", "W", "R", "B"], ["Y", *states],
        hidden_size=case.H, direction=direction, **options,
    )  # fmt: skip
    T, B, H, D = case.T, case.B, case.H, case.directions
    assert weights["W"].shape == (D, GATES[case.cell] * H, case.I)
    kind = TensorProto.FLOAT
    graph = helper.make_graph(
        [node],
        case.cell,
        [helper.make_tensor_value_info("X", kind, (T, B, case.I))],
        [helper.make_tensor_value_info("Y", kind, (T, D, B, H))]
        + [helper.make_tensor_value_info(name, kind, (D, B, H)) for name in states],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    imports = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return model


def to_torch_layout(y):
    """Return Y [T, D, B, H] as torch's output [T, B, D*H]."""
    T, D, B, H = y.shape
    return y.transpose(0, 2, 1, 3).reshape(T, B, D * H)
