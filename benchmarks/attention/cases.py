"""What is measured of attention: the cases, their sizes in FLOPs and bytes, and the lists.

Letters as in docs/attention.md: B rows, N heads, Tq queries, Tk keys, E width of a head, D units of
an additive score. A multiplication and an addition each count as one operation, and so does the
reciprocal in a tanh. Exponentials, masks and dropout count nothing. Nothing here needs torch.
"""

import math
from dataclasses import dataclass, replace

from benchmarks.dtypes import ITEM_BYTES

FORWARD, TRAINING = "forward", "training"  # training: forward and backward

# Of the forward pass: q k^T and w v; of the way back: q k^T again, and one for each of the
# gradients of v, w, q and k.
FORWARD_PRODUCTS, BACKWARD_PRODUCTS = 2, 5
# sum_d u_d tanh(q_d + k_d) with tanh(q + k) = 1 - 2 / (1 + e^2q e^2k): a unit costs a multiply-add,
# a reciprocal r and a multiply-add. The way back does it again, then r - r^2 and multiply-adds for
# the gradients of q, k and u.
ADDITIVE_FORWARD, ADDITIVE_BACKWARD = 5, 5 + 8
VALUE_FORWARD_PRODUCTS, VALUE_BACKWARD_PRODUCTS = 1, 2  # w v; the gradients of v and w
# Forward reads the inputs and writes the output; the way back reads both and the output's gradient,
# and writes the gradients of the inputs.
FORWARD_TRAFFIC, TRAINING_TRAFFIC = 1, 3

DOT_SHAPES = ((1, 6, 700, 64), (1, 8, 1024, 64), (4, 4, 256, 64), (16, 4, 80, 32), (2, 2, 900, 96))
MASKED_SHAPES = (DOT_SHAPES[0], DOT_SHAPES[2], DOT_SHAPES[3])  # with a bias, with dropout
QUICK_DOT_SHAPES = (DOT_SHAPES[0], DOT_SHAPES[3])
DROPOUT_P = 0.1


@dataclass(frozen=True)
class AttentionCase:
    """What the kinds share: sizes, and how the passes count."""

    B: int
    Tq: int
    Tk: int
    E: int
    mode: str = FORWARD
    dtype: str = "float32"

    @property
    def is_training(self) -> bool:
        return self.mode == TRAINING

    @property
    def times(self) -> str:
        """The lengths in words."""
        return f"T={self.Tq}" if self.Tq == self.Tk else f"Tq={self.Tq} Tk={self.Tk}"

    def total(self, forward, backward):
        """Return what both passes of the mode add up to."""
        return forward + backward if self.is_training else forward

    @property
    def bytes(self) -> int:
        """Those of inputs, output and their gradients, each read or written once a pass."""
        numbers = sum(map(math.prod, (*self.input_shapes, self.output_shape)))
        passes = TRAINING_TRAFFIC if self.is_training else FORWARD_TRAFFIC
        return passes * numbers * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class DotCase(AttentionCase):
    """scaled_dot_product_attention."""

    N: int = 1
    is_causal: bool = False
    has_bias: bool = False  # [1, N, Tq, Tk], with a gradient
    dropout_p: float = 0.0

    @property
    def label(self) -> str:
        text = f"B={self.B} N={self.N} {self.times} E={self.E}"
        return text + (" causal" if self.is_causal else "")

    @property
    def input_shapes(self):
        """Of query, key, value, and the bias."""
        keys = (self.B, self.N, self.Tk, self.E)
        bias = ((1, self.N, self.Tq, self.Tk),) if self.has_bias else ()
        return (self.output_shape, keys, keys, *bias)

    @property
    def output_shape(self):
        return (self.B, self.N, self.Tq, self.E)

    @property
    def flops(self) -> int:
        """Those of the products, of the pairs that see each other."""
        pairs = self.Tq * self.Tk
        if self.is_causal:
            pairs = sum(min(i + 1, self.Tk) for i in range(self.Tq))
        products = self.total(FORWARD_PRODUCTS, BACKWARD_PRODUCTS)
        return products * 2 * self.B * self.N * pairs * self.E


@dataclass(frozen=True)
class AdditiveCase(AttentionCase):
    """additive_attention."""

    D: int = 1

    @property
    def label(self) -> str:
        return f"B={self.B} {self.times} D={self.D} E={self.E}"

    @property
    def input_shapes(self):
        """Of query, key, value and scale."""
        B, Tq, Tk, D = self.B, self.Tq, self.Tk, self.D
        return ((B, Tq, D), (B, Tk, D), (B, Tk, self.E), (D,))

    @property
    def output_shape(self):
        return (self.B, self.Tq, self.E)

    @property
    def flops(self) -> int:
        """Those of the scores and of the products with v."""
        units = self.total(ADDITIVE_FORWARD, ADDITIVE_BACKWARD) * self.D
        products = self.total(VALUE_FORWARD_PRODUCTS, VALUE_BACKWARD_PRODUCTS) * 2 * self.E
        return self.B * self.Tq * self.Tk * (units + products)


@dataclass(frozen=True)
class MultiheadCase(AttentionCase):
    """MultiheadAttention of one input with itself, which returns the weights, too."""

    N: int = 1

    @property
    def width(self) -> int:
        """That of the input: all heads."""
        return self.N * self.E

    @property
    def label(self) -> str:
        return f"B={self.B} N={self.N} {self.times} E={self.E}"

    @property
    def input_shapes(self):
        """Of the input; the parameters are left out."""
        return (self.output_shape,)

    @property
    def output_shape(self):
        return (self.B, self.Tq, self.width)

    @property
    def flops(self) -> int:
        """Those of four projections, whose way back is two products each, and of attention."""
        attention = DotCase(self.B, self.Tq, self.Tk, self.E, self.mode, N=self.N).flops
        return attention + self.total(1, 2) * 4 * 2 * self.B * self.Tq * self.width**2


def dot(shape, **options):
    """Return the case of (B, N, T, E)."""
    B, N, T, E = shape
    return DotCase(B, T, T, E, N=N, **options)


def in_both(cases):
    """Return each case in a forward pass, and all of them in training."""
    return [*cases, *(replace(case, mode=TRAINING) for case in cases)]


def dot_cases(quick=False):
    """Return self-attention, causal and not, and one query at the end of a cache."""
    shapes = QUICK_DOT_SHAPES if quick else DOT_SHAPES
    cases = [dot(shape, is_causal=is_causal) for shape in shapes for is_causal in (False, True)]
    return in_both([*cases, DotCase(B=8, Tq=1, Tk=512, E=64, N=8)])


def bias_cases(quick=False):
    """Return a learned bias, which is for training."""
    shapes = MASKED_SHAPES[-1:] if quick else MASKED_SHAPES
    return [dot(shape, has_bias=True, mode=TRAINING) for shape in shapes]


def dropout_cases(quick=False):
    """Return dropout of the weights, of which no copy can be kept in a forward pass either."""
    shapes = MASKED_SHAPES[-1:] if quick else MASKED_SHAPES
    return in_both([dot(shape, dropout_p=DROPOUT_P) for shape in shapes])


# The one whose memory is measured, a smaller one, and a decoder's step.
MEMORY_CASE = AdditiveCase(B=8, Tq=128, Tk=200, E=256, D=256, mode=TRAINING)
ADDITIVE = (
    replace(MEMORY_CASE, mode=FORWARD),
    AdditiveCase(B=4, Tq=48, Tk=64, E=128, D=128),
    AdditiveCase(B=32, Tq=1, Tk=200, E=256, D=256),
)


def additive_cases(quick=False):
    """Return additive attention; a quick run waits for torch.compile just twice."""
    return [ADDITIVE[2], MEMORY_CASE] if quick else in_both(ADDITIVE)


def multihead_cases(quick=False):
    """Return layers with need_weights=True."""
    cases = [MultiheadCase(16, 80, 80, 32, N=8), MultiheadCase(4, 256, 256, 64, N=8)]
    return in_both(cases[:1] if quick else cases)


CASES = {
    "dot": dot_cases,
    "bias": bias_cases,
    "dropout": dropout_cases,
    "additive": additive_cases,
    "multihead": multihead_cases,
}
