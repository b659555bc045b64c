"""quantize: copies of recurrent layers and cells whose weights are int8 or bfloat16."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence

from ..checks import recurrent as checks
from ..functional.autocast import without_autocast
from ..functional.graphs import Proxy
from ..functional.recurrent_calls import trust_weights
from ..functional.regularisation import Regularisation
from ..functional.routing import needs_grad
from .cells import GRUCell, LSTMCell, RecurrentCell, RNNCell
from .elementwise_base import ElementwiseLayer
from .normalised_cells import LayerNormCell
from .recurrent import GRU, LSTM, RNN
from .recurrent_base import RecurrentLayer
from .shaped import ShapedLayer
from .torch_instances import TorchGRU, TorchLSTM, TorchRNN

__all__ = [
    "QuantizedGRU",
    "QuantizedGRUCell",
    "QuantizedLSTM",
    "QuantizedLSTMCell",
    "QuantizedRNN",
    "QuantizedRNNCell",
    "quantize",
]

DTYPES = (torch.int8, torch.bfloat16)


def quantize(module: nn.Module, dtype: torch.dtype = torch.int8) -> nn.Module:
    r"""A copy of `module` for inference on a CPU, in which the weights of every recurrent layer and
    cell are narrow: a quarter of float32's bytes in int8, half in bfloat16.

    A row of int8 weights has one scale, :math:`W_{rk} = s_r q_{rk}`, the largest of the row 127. In
    front of each product x and h are brought to 8 bits, each row of a batch at each step over its
    own range, :math:`h_k = a + b\, u_k, u_k = 0 \dots 255`; the products are exact sums of
    integers. bfloat16 weights are rounded to the nearest; where the processor multiplies bfloat16
    (``explain`` says avx512_bf16 or amx) x and h are rounded, too. Biases, gates, cell and states
    are float32.

    The copy is called as the original, and returns the original's dtype. Its `state_dict` holds
    the narrow weights and, for int8, their scales; it is pickled and copied as any module. Weights
    are packed once, as of a frozen layer (:func:`fastcells.freeze`).

    Args:
        module: a layer or cell of fastcells or of torch.nn (RNN, LSTM, GRU, RNNCell, LSTMCell,
            GRUCell), or any module that holds some. It is left as it is. Layers without a recurrent
            matrix (:class:`fastcells.SRU` and its like) are copied as they are.
        dtype: torch.int8 or torch.bfloat16.

    Returns:
        A copy with a QuantizedLSTM in the place of an LSTM, and so on.

    Raises:
        TypeError: `module` is no module, or holds no such layer; a layer is of a subclass.
        ValueError: another dtype; a layer with proj_size or variant="reset_before", whose weights
            are on another device than a CPU or hold NaN or infinity.
        RuntimeError: of the copy, where a gradient is asked for.

    Source: the scheme is that of :func:`torch.ao.quantization.quantize_dynamic`, with a scale a row
    in the place of one a matrix, for weights and for activations.

    Example:
        >>> small = fastcells.quantize(fastcells.LSTM(16, 32).eval())
        >>> with torch.no_grad():
        ...     output, (h_n, c_n) = small(torch.randn(5, 3, 16))
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"quantize: module must be a torch.nn.Module, got {type(module).__name__}")
    if dtype not in DTYPES:
        raise ValueError(f"quantize: dtype must be torch.int8 or torch.bfloat16, got {dtype}")
    kinds = (RecurrentLayer, RecurrentCell, nn.RNNBase, nn.RNNCellBase)
    found = {
        name: m
        for name, m in module.named_modules()
        if isinstance(m, kinds)
        and not isinstance(m, ElementwiseLayer)
        and getattr(m, "has_narrow_form", True)  # but for cells from equations
    }
    if not found:
        raise TypeError(
            f"quantize: {type(module).__name__} holds no recurrent layer or cell with a recurrent "
            "matrix (RNN, LSTM, GRU)"
        )
    # In the place of the originals before the rest is copied, so that they are not.
    memo: dict[int, Any] = {
        id(layer): _quantized(layer, dtype, name or type(layer).__name__)
        for name, layer in found.items()
    }
    return copy.deepcopy(module, memo)


def _quantized(layer: nn.Module, dtype: torch.dtype, name: str) -> nn.Module:
    if isinstance(layer, _Quantized):
        return copy.deepcopy(layer)
    kind = type(layer)
    if parametrize.is_parametrized(layer):
        kind = kind.__mro__[1]
    if isinstance(layer, ShapedLayer | LayerNormCell):
        raise TypeError(f"quantize: {name} is a {kind.__name__}, for which there are no kernels")
    if kind not in _KINDS:
        raise TypeError(
            f"quantize: {name} is a {kind.__name__}, a subclass whose own ways a copy would not "
            "have. Quantize the layer before it is wrapped"
        )
    refused = f"quantize: {name} is a {kind.__name__} with "
    rates = layer.regularisation if isinstance(layer, RecurrentLayer) else Regularisation()
    if rates.is_at_work(is_training=False):
        raise ValueError(
            f"{refused}zoneout, which counts in evaluation and for which there are no kernels"
        )
    if getattr(layer, "proj_size", 0):
        raise ValueError(f"{refused}proj_size={layer.proj_size}, for which there are no kernels")
    if getattr(layer, "variant", None) == "reset_before":
        raise ValueError(f"{refused}variant='reset_before', for which there are no kernels")
    with torch.no_grad():
        copied = _KINDS[kind](**_options_of(layer))
        copied.train(layer.training)
        copied.take_weights(layer, dtype, name)
    return copied


def _options_of(layer: Any) -> dict[str, Any]:
    """The constructor's arguments of a layer or cell like this one."""
    names = ["input_size", "hidden_size", "bias"]
    if isinstance(layer, nn.RNNBase):
        names += ["num_layers", "batch_first", "dropout", "bidirectional"]
    names += [name for name in ("nonlinearity", "variant") if hasattr(layer, name)]
    options = {name: getattr(layer, name) for name in names}
    if getattr(layer, "mode", "").startswith("RNN_"):  # which a call reads
        options["nonlinearity"] = layer.mode.removeprefix("RNN_").lower()
    return {**options, "device": "meta"}  # nothing is initialised


def quantized_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """W `[R, K]` as int8 and the scale of each row `[R]`: W = scale * int8, the largest 127."""
    largest = weight.abs().amax(1) if weight.shape[1] else weight.new_zeros(weight.shape[0])
    scale = torch.where(largest > 0, largest / 127, torch.ones_like(largest))
    return (weight / scale[:, None]).round().clamp(-127, 127).to(torch.int8), scale


if TYPE_CHECKING:
    _InFrontOf = nn.Module
    _InFrontOfLayer = RecurrentLayer
    _InFrontOfCell = RecurrentCell
else:
    _InFrontOf = _InFrontOfLayer = _InFrontOfCell = object


class _Quantized(_InFrontOf):
    """What quantized layers and cells share: their weights are buffers, none of them learns."""

    weight_dtype: torch.dtype
    _like: Tensor

    def take_weights(self, layer: nn.Module, dtype: torch.dtype, name: str) -> None:
        """Those of `layer`, in the place of the parameters that the constructor made."""
        self.weight_dtype = dtype
        for key in list(self._parameters):
            value = getattr(layer, key)
            del self._parameters[key]
            if value is None:
                self.register_buffer(key, None)
                continue
            if value.device.type != "cpu":
                raise ValueError(f"quantize: {name} is on {value.device}, expected a CPU")
            value = value.detach().float()
            if not value.isfinite().all():
                raise ValueError(f"quantize: {key} of {name} holds NaN or infinity")
            if not key.startswith("weight"):
                self.register_buffer(key, value.clone())
            elif dtype == torch.int8:
                narrow, scale = quantized_rows(value)
                self.register_buffer(key, narrow)
                self.register_buffer(key.replace("weight", "scale"), scale)
            else:
                self.register_buffer(key, value.to(dtype))
        like = next(layer.parameters()).new_empty(0)
        self.register_buffer("_like", like.detach(), persistent=False)
        self._list_weights()

    def _list_weights(self) -> None:
        """Called wherever the weights are other tensors than before."""
        trust_weights(
            [b for n, b in self._buffers.items() if b is not None and n.startswith("weight")]
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # A dtype is for what comes in and goes out: the weights keep theirs.
        def keep_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            is_like = tensor is self._buffers["_like"]
            return moved if is_like or moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(keep_dtype, recurse)
        self._list_weights()
        return self

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        self._list_weights()

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        metadata: Any,
        strict: bool,
        missing: list[str],
        extra: list[str],
        errors: list[str],
    ) -> None:
        for name, own in self._buffers.items():
            given = state_dict.get(prefix + name)
            if own is not None and isinstance(given, Tensor) and given.dtype != own.dtype:
                errors.append(
                    f"{prefix}{name} must be {own.dtype}, as quantize made it, got {given.dtype}. "
                    "Load a checkpoint of the original layer there, and quantize it"
                )
                return
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, extra, errors)

    def _refuse_training(self, *tensors: Tensor | None) -> None:
        tensors = tuple(t for t in tensors if isinstance(t, Tensor))
        if needs_grad(tensors):
            raise RuntimeError(
                f"{type(self).__name__} is for inference, and an input asks for a gradient. Call "
                "it within torch.no_grad() or torch.inference_mode(); train the layer that it was "
                "made of"
            )

    def _check_dtypes(self, input: Tensor, states: Sequence[Any]) -> None:
        for state in states:
            if isinstance(state, Tensor) and state.dtype != input.dtype:
                raise ValueError(
                    f"{type(self).__name__}: hx must have the input's dtype {input.dtype}, got "
                    f"{state.dtype}"
                )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, dtype={self.weight_dtype}"


def _to(value: Any, dtype: torch.dtype) -> Any:
    """A tensor, a PackedSequence or a tuple of them in another dtype; anything else as it is."""
    if isinstance(value, PackedSequence):
        return value._replace(data=value.data.to(dtype))
    if isinstance(value, tuple | list):
        return type(value)(_to(item, dtype) for item in value)
    return value.to(dtype) if isinstance(value, Tensor) else value


class _QuantizedLayer(_Quantized, _InFrontOfLayer):
    def _list_weights(self) -> None:
        super()._list_weights()
        if self.weight_dtype == torch.int8 and not self._all_weights[0][-1].startswith("scale"):
            for names in self._all_weights:
                names += [n.replace("weight", "scale") for n in names if n.startswith("weight")]
            self._flat_weights_names = [name for names in self._all_weights for name in names]
        self._init_flat_weights()

    def _run(
        self,
        input: Any,
        hx: Any,
        lengths: Tensor | None,
        resets: Tensor | None,
        want_cells: bool = False,
    ) -> Any:
        data = input.data if isinstance(input, PackedSequence) else input
        if isinstance(input, Proxy) or not isinstance(data, Tensor):
            return super()._run(input, hx, lengths, resets, want_cells)
        if self._like.dtype == torch.float32 and data is input:
            done = self._run_at_once(input, hx, lengths, resets, want_cells)
            if done is not None:
                return done
        states = hx if isinstance(hx, tuple | list) else (hx,)
        self._refuse_training(data, *states)
        checks.check_input(type(self).__name__, data, self._like)
        self._check_dtypes(data, states)
        with without_autocast(data):
            found: Any = super()._run(
                _to(input, torch.float32), _to(hx, torch.float32), lengths, resets, want_cells
            )
        return tuple(_to(result, data.dtype) for result in found)

    def _stored_weights(self) -> Any:
        return self._buffers

    def _typical(self, weight: Tensor) -> Tensor:
        return self._like.float()


class _QuantizedCell(_Quantized, _InFrontOfCell):
    scale_ih: Tensor
    scale_hh: Tensor

    def _step(
        self, input: Tensor, states: list[Tensor] | None, count: int, names: list[str]
    ) -> Any:
        given = states or []
        self._refuse_training(input, *given)
        checks.check_cell_input(type(self).__name__, input, self._like, self.input_size)
        self._check_dtypes(input, given)
        with without_autocast(input):
            done = super()._step(input.float(), _to(states, torch.float32), count, names)
        return tuple(_to(result, input.dtype) for result in done)

    def _weights(self) -> dict[str, Tensor]:
        weights = super()._weights()
        if self.weight_dtype == torch.int8:
            weights |= {"scale_ih": self.scale_ih, "scale_hh": self.scale_hh}
        return weights

    def _stored_weights(self) -> Any:
        # Nothing to compute with at once where tensors are converted first.
        return self._buffers if self._like.dtype == torch.float32 else {}

    def _typical(self) -> Tensor:
        return self._like.float()


class QuantizedRNN(_QuantizedLayer, RNN):
    """What :func:`fastcells.quantize` makes of an RNN."""


class QuantizedLSTM(_QuantizedLayer, LSTM):
    """What :func:`fastcells.quantize` makes of an LSTM."""


class QuantizedGRU(_QuantizedLayer, GRU):
    """What :func:`fastcells.quantize` makes of a GRU."""


class QuantizedRNNCell(_QuantizedCell, RNNCell):
    """What :func:`fastcells.quantize` makes of an RNNCell."""


class QuantizedLSTMCell(_QuantizedCell, LSTMCell):
    """What :func:`fastcells.quantize` makes of an LSTMCell."""


class QuantizedGRUCell(_QuantizedCell, GRUCell):
    """What :func:`fastcells.quantize` makes of a GRUCell."""


_KINDS: dict[type, type] = {
    RNN: QuantizedRNN,
    LSTM: QuantizedLSTM,
    GRU: QuantizedGRU,
    RNNCell: QuantizedRNNCell,
    LSTMCell: QuantizedLSTMCell,
    GRUCell: QuantizedGRUCell,
    TorchRNN: QuantizedRNN,
    TorchLSTM: QuantizedLSTM,
    TorchGRU: QuantizedGRU,
    nn.RNN: QuantizedRNN,
    nn.LSTM: QuantizedLSTM,
    nn.GRU: QuantizedGRU,
    nn.RNNCell: QuantizedRNNCell,
    nn.LSTMCell: QuantizedLSTMCell,
    nn.GRUCell: QuantizedGRUCell,
}
