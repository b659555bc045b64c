"""Who is measured: torch, torch.compile, ONNX Runtime, OpenVINO and fastcells.

Each has a `name`, a `version` (None where its package is not installed), `supports(case)`, and
`prepare(case)`, which returns a call without arguments on fixed weights and input. `arrays(result)`
turns what the call returns into numpy arrays in torch's layout: the output and, in training, the
gradient of the input, then maybe those of the parameters. Packages are imported in `prepare` alone.
Keras: peer_keras.py.
"""

import importlib.metadata
import io

import torch

import fastcells
from benchmarks.experiments import to_arrays
from benchmarks.recurrent.cases import MAIN_SHAPES
from benchmarks.recurrent.layers import layer_call, make_grad, make_input, make_layer


class Peer:
    """What the peers share."""

    name: str
    package: str  # its distribution
    needs: tuple[str, ...] = ()  # further distributions

    def __init__(self, threads):
        self.threads = threads

    @property
    def version(self):
        """The version of the package, None if it or what it needs is not installed."""
        try:
            versions = [importlib.metadata.version(p) for p in (self.package, *self.needs)]
        except importlib.metadata.PackageNotFoundError:
            return None
        return versions[0]

    def supports(self, case):
        """Whether the peer can run `case` at all."""
        raise NotImplementedError

    def prepare(self, case):
        """Return a call without arguments."""
        raise NotImplementedError

    def arrays(self, result):
        """Return what the call returned as numpy arrays in torch's layout."""
        return to_arrays(result)


class Torch(Peer):
    """torch.nn's layer, eager."""

    name, package = "torch", "torch"

    def supports(self, case):
        return case.dtype == "float32"

    def make_layer(self, case):
        """Return what is called."""
        return make_layer(case)

    def prepare(self, case):
        grad = make_grad(case) if case.mode == "training" else None
        return layer_call(self.make_layer(case), make_input(case), grad)


class TorchCompile(Torch):
    """torch.nn's layer in torch.compile, as a user has it: Dynamo breaks the graph at the layer,
    which then runs eagerly. The main shapes are enough to show it."""

    name = "torch.compile"

    def supports(self, case):
        return super().supports(case) and (case.B, case.H) in MAIN_SHAPES

    def make_layer(self, case):
        torch._dynamo.reset()  # else a new shape is compiled as a dynamic one
        return torch.compile(make_layer(case))


class Fastcells(Torch):
    """fastcells' layer, eager."""

    name, package = "fastcells", "fastcells"

    def supports(self, case):
        return True

    def make_layer(self, case):
        return make_layer(case, fastcells)


def onnxruntime_session(model, threads):
    """Return a session of ONNX Runtime's CPU provider on a serialized model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Its threads would spin for 50 ms after a call, on the cores of whoever is timed next. Its own
    # calls are as fast.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def openvino_request(model, threads, precision):
    """Return a request of OpenVINO's CPU plugin on a serialized model, "f32" or "bf16"."""
    import openvino

    core = openvino.Core()
    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
    }
    compiled = core.compile_model(core.read_model(io.BytesIO(model)), "CPU", hints)
    return compiled.create_infer_request()


class OnnxRuntime(Peer):
    """ONNX Runtime's CPU provider on a model of one node; its options as they come."""

    name, package, needs = "onnxruntime", "onnxruntime", ("onnx",)

    def supports(self, case):
        return case.mode == "inference" and case.dtype == "float32" and case.layers == 1

    def prepare(self, case):
        from benchmarks.recurrent.onnx_models import make_model

        model = make_model(case, make_layer(case)).SerializeToString()
        session = onnxruntime_session(model, self.threads)
        feeds = {"X": make_input(case).numpy()}
        return lambda: session.run(None, feeds)

    def arrays(self, result):
        from benchmarks.recurrent.onnx_models import to_torch_layout

        return [to_torch_layout(result[0])]


class OpenVino(OnnxRuntime):
    """OpenVINO's CPU plugin on the same model, with its latency hint."""

    name, package, needs = "openvino", "openvino", ("onnx",)

    def prepare(self, case):
        from benchmarks.recurrent.onnx_models import make_model

        model = make_model(case, make_layer(case)).SerializeToString()
        request = openvino_request(model, self.threads, "f32")
        feeds = {0: make_input(case).numpy()}
        return lambda: request.infer(feeds, share_inputs=True, share_outputs=True)
