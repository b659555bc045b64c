"""What is measured of layers: the cases, their sizes in FLOPs and bytes, the lists of each mode.

Letters as in docs/notation.md: T steps, B rows, I input width, H units, G gates, D directions.
Nothing here needs torch.
"""

from dataclasses import dataclass

from benchmarks.dtypes import ITEM_BYTES

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1}
STEPS = 60
TRAINING_PASSES = 3  # forward; the gradient of input and states; the gradient of the weights

# (B, H). The first list is what a user has, from a stream to a large batch; the second fits no
# tile of a kernel, and shows what its edges cost.
MAIN_SHAPES = ((1, 128), (1, 512), (16, 128), (32, 256), (64, 512), (64, 1024))
TILE_MISSING_SHAPES = ((3, 96), (7, 200), (24, 333), (24, 640))
CURVE_BATCHES = (1, 32)
CURVE_UNITS = (64, 128, 256, 512, 1024)
DIRECTION_SHAPES = ((1, 128), (1, 512), (16, 128), (32, 256))
LENGTHS_SHAPES = ((16, 128), (32, 256), (64, 512))
RECOMPUTE_SHAPES = ((32, 256), (64, 512))
STREAM_UNITS = (64, 128, 256, 512)
QUICK_SHAPES = ((1, 128), (1, 512), (16, 128), (32, 256))


@dataclass(frozen=True)
class Case:
    """One layer, one input and what is done with them."""

    cell: str  # "lstm", "gru" or "rnn_tanh"
    B: int
    T: int
    I: int
    H: int
    directions: int = 1
    layers: int = 1
    dtype: str = "float32"
    mode: str = "inference"  # or "training": forward and backward
    lengths: str = "full"  # or "random": uniform in 1..T

    @property
    def label(self) -> str:
        """The shape in words, without cell and mode, which stand beside it everywhere."""
        text = f"B={self.B} H={self.H}"
        return text + (f" I={self.I}" if self.I != self.H else "")

    def _blocks(self):
        """(rows, columns) of every weight matrix pair [W_ih, W_hh], one a layer and direction."""
        rows = GATES[self.cell] * self.H
        for layer in range(self.layers):
            width = self.directions * self.H if layer else self.I
            yield from [(rows, width + self.H)] * self.directions

    @property
    def flops(self) -> int:
        """Those of the matrix products alone, a multiplication and an addition each."""
        passes = TRAINING_PASSES if self.mode == "training" else 1
        return passes * sum(2 * r * c * self.B * self.T for r, c in self._blocks())

    @property
    def weight_bytes(self) -> int:
        """All weight matrices; biases are left out."""
        return ITEM_BYTES[self.dtype] * sum(r * c for r, c in self._blocks())

    @property
    def recurrent_bytes(self) -> int:
        """W_hh of all layers and directions: what every step must read."""
        one = GATES[self.cell] * self.H * self.H
        return ITEM_BYTES[self.dtype] * one * self.layers * self.directions


def square(cell, B, H, **options):
    """Return the case of a layer whose input is as wide as its state."""
    return Case(cell, B=B, T=options.pop("T", STEPS), I=H, H=H, **options)


def cases_of(cells, shapes, **options):
    """Return a case for each cell and shape."""
    return [square(cell, B, H, **options) for cell in cells for B, H in shapes]


def inference_cases(cells, quick=False):
    """Return shapes that matter, shapes that miss tiles, and what the curves need besides."""
    if quick:
        return cases_of(cells, QUICK_SHAPES)
    curves = [(B, H) for B in CURVE_BATCHES for H in CURVE_UNITS]
    return cases_of(cells, dict.fromkeys((*MAIN_SHAPES, *TILE_MISSING_SHAPES, *curves)))


def training_cases(cells, quick=False):
    """Return the shapes of inference without the curves' own."""
    shapes = QUICK_SHAPES if quick else (*MAIN_SHAPES, *TILE_MISSING_SHAPES)
    return cases_of(cells, shapes, mode="training")


def bidirectional_cases(cells, quick=False):
    """Return two directions in one call."""
    shapes = DIRECTION_SHAPES[2:3] if quick else DIRECTION_SHAPES
    return cases_of(cells, shapes, directions=2)


def lengths_cases(cells, quick=False):
    """Return rows of random length; training is slow enough at the first shapes."""
    shapes = LENGTHS_SHAPES[:1] if quick else LENGTHS_SHAPES
    inference = cases_of(cells, shapes, lengths="random")
    trained = () if quick else LENGTHS_SHAPES[:-1]
    return inference + cases_of(cells, trained, mode="training", lengths="random")


def streaming_cases(cells, quick=False):
    """Return one step of one row."""
    units = STREAM_UNITS[1:2] if quick else STREAM_UNITS
    return cases_of(cells, [(1, H) for H in units], T=1)


def recompute_cases(cells, quick=False):
    """Return training with the gates computed again in the backward pass."""
    shapes = RECOMPUTE_SHAPES[:1] if quick else RECOMPUTE_SHAPES
    return cases_of(cells, shapes, mode="training")


def bfloat16_cases(cells, quick=False):
    """Return inference on 16-bit weights and inputs."""
    return cases_of(cells, QUICK_SHAPES[2:3] if quick else MAIN_SHAPES, dtype="bfloat16")


CASES = {
    "inference": inference_cases,
    "training": training_cases,
    "bidirectional": bidirectional_cases,
    "lengths": lengths_cases,
    "streaming": streaming_cases,
    "recompute": recompute_cases,
    "bfloat16": bfloat16_cases,
}
