"""Time fastcells' attention on a GPU beside torch's.

How: benchmarks/gpu_timing.py. The peer is torch's scaled_dot_product_attention where it can do the
case, which takes key lengths and windows as bool masks made beforehand, else attention written in
torch; the record names it. A plain 16-bit forward pass is torch's own kernel in fastcells, too,
which the text of fastcells.explain in the record says. A floor is the operations over the peak of a
large product in the same dtype, for one query the bytes over the rate of a large copy. Writes
benchmarks/results/<gpu>/<date>-attention.json after every case, the most telling first. Stops at a
time limit and says what is missing.

Run it with `python -m benchmarks.attention.gpu`; `--device cpu` rehearses it.
"""

import argparse
import itertools
import math
import sys
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
from torch.nn import functional as F

import fastcells
from benchmarks.attention.calls import additive_by_hand, attention_call
from benchmarks.attention.cases import FORWARD, TRAINING, AdditiveCase, DotCase
from benchmarks.experiments import SEED
from benchmarks.gpu_timing import DTYPES, Run, add_arguments, measure_calls, parse

# (B, N, T, E), each with all groups, in this order; then (B, N, Tk, E) of one query.
SHAPES = ((8, 8, 512, 64), (2, 16, 2048, 64), (1, 4, 64, 64))
DECODING = ((16, 8, 4096, 64), (16, 8, 8192, 64), (16, 8, 1024, 64))
# (B, T, D and E) of additive attention, whose tensor of [B, T, T, D] torch holds several times.
ADDITIVE_SHAPES = ((8, 512, 256), (2, 2048, 64), (1, 64, 64))
ODD_WIDTHS = (80, 72, 40, 96)
SOFTCAP, WINDOW = 20.0, 128
KEPT = 0.8  # the share of a bool mask that is True
TINY = 32  # sizes of a rehearsal are so many times smaller
HALF, SINGLE = "float16", "float32"


@dataclass(frozen=True)
class GpuDotCase(DotCase):
    """A dot product with what else can be asked of it; of masks one at most."""

    has_mask: bool = False  # bool, [B, 1, Tq, Tk]
    has_lengths: bool = False
    softcap: float | None = None
    window: int | None = None  # so many keys before its own does a query see
    has_weights: bool = False  # returned

    @property
    def label(self) -> str:
        """The sizes, and what is asked for."""
        names = ("bias", "mask", "lengths", "weights")
        asked = [name for name in names if getattr(self, f"has_{name}")]
        numbers = [f"{n}={v}" for n in ("softcap", "window") if (v := getattr(self, n))]
        return " ".join([super().label, *asked, *numbers])

    @property
    def key_lengths(self):
        """Those of the rows, evenly spread up to all keys."""
        return [max(1, self.Tk * (row + 1) // self.B) for row in range(self.B)]

    @property
    def seen(self) -> float:
        """The share of the pairs that lengths and windows leave; masks leave out nothing."""
        if self.has_lengths:
            return sum(self.key_lengths) / (self.B * self.Tk)
        if self.window is not None:
            return sum(min(i, self.window) + 1 for i in range(self.Tq)) / (self.Tq * self.Tk)
        return 1.0

    @property
    def flops(self) -> int:
        """Those of the pairs that see each other."""
        return round(super().flops * self.seen)


def is_decoding(case):
    """Return whether there is one query, whose time is that of reading the keys."""
    return case.Tq == 1


# ---- the calls ----


def make_tensors(case, device):
    """Return query, key, value, and the bias or the scale; in training with gradients."""
    # Not torch's own generator, which a failed capture leaves unusable.
    generator = torch.Generator(device).manual_seed(SEED)
    options = {"generator": generator, "device": device}
    tensors = [torch.randn(shape, **options) for shape in case.input_shapes]
    if isinstance(case, AdditiveCase):
        tensors[-1] /= math.sqrt(case.D)
    return [t.to(DTYPES[case.dtype]).requires_grad_(case.is_training) for t in tensors]


def make_output_grad(case, device):
    """Return what the way back starts from, None for a forward pass."""
    if not case.is_training:
        return None
    generator = torch.Generator(device).manual_seed(SEED + 1)
    grad = torch.randn(case.output_shape, generator=generator, device=device)
    return grad.to(DTYPES[case.dtype])


def make_mask(case, device):
    """Return torch's bool mask of a mask, of lengths or of a window, None without one."""
    rows, keys = torch.arange(case.Tq, device=device), torch.arange(case.Tk, device=device)
    if case.has_lengths:
        lengths = torch.tensor(case.key_lengths, device=device)
        return (keys < lengths[:, None])[:, None, None]
    if case.window is not None:
        before = rows[:, None] - keys
        return (before >= 0) & (before <= case.window)
    if case.has_mask:
        generator = torch.Generator(device).manual_seed(SEED + 2)
        shape = (case.B, 1, case.Tq, case.Tk)
        mask = torch.rand(shape, generator=generator, device=device) < KEPT
        mask[..., 0] = True  # a query that sees nothing is another matter
        return mask
    return None


def our_options(case, device):
    """Return what fastcells' function is called with besides the tensors."""
    options = {"is_causal": case.is_causal, "softcap": case.softcap}
    if case.window is not None:
        options["window"] = (case.window, 0)
    if case.has_lengths:
        options["key_lengths"] = torch.tensor(case.key_lengths, device=device)
    if case.has_mask:
        options["attn_mask"] = make_mask(case, device)
    if case.has_weights:
        options["return_weights"] = True
    return options


def dot_by_hand(case):
    """Return attention as it is written in torch, with a softcap or with its weights."""

    def attend(query, key, value):
        scores = query @ key.mT * case.E**-0.5
        if case.softcap is not None:
            scores = case.softcap * torch.tanh(scores / case.softcap)
        weights = scores.softmax(-1)
        output = weights @ value
        return (output, weights) if case.has_weights else output

    return attend


def make_peer(case, device):
    """Return torch's function of the tensors, and its name."""
    if isinstance(case, AdditiveCase):
        return additive_by_hand, "written in torch"
    if case.softcap is not None or case.has_weights:
        return dot_by_hand(case), "written in torch"
    name, mask = "scaled_dot_product_attention", make_mask(case, device)

    def attend(query, key, value, bias=None):
        chosen = mask if bias is None else bias
        return F.scaled_dot_product_attention(query, key, value, chosen, is_causal=case.is_causal)

    given = "bool mask" if mask is not None else "float mask" if case.has_bias else ""
    return attend, f"{name}, {given}" if given else name


def make_ours(case, device, tensors):
    """Return fastcells' function of the tensors, and what explain says of it."""
    function, options = fastcells.additive_attention, {}
    if isinstance(case, DotCase):
        function, options = fastcells.scaled_dot_product_attention, our_options(case, device)

    def attend(*tensors):
        return function(*tensors, **options)

    asked = dict(options)
    if isinstance(case, DotCase) and case.has_bias:
        *tensors, asked["attn_mask"] = tensors
    with torch.set_grad_enabled(case.is_training):
        return attend, str(fastcells.explain(function, *tensors, **asked))


# ---- one case ----


def bytes_of(case):
    """Return those of the tensors, each read or written once a pass; keys past a length are not."""
    seen = case.seen if isinstance(case, GpuDotCase) else 1.0
    query, *others = case.input_shapes
    numbers = math.prod(query) + math.prod(case.output_shape)
    numbers += seen * sum(map(math.prod, others))
    return case.total(1, 2) * numbers * DTYPES[case.dtype].itemsize


def floor_of(case, peaks):
    """Return the least time, and whether operations or bytes make it."""
    if is_decoding(case):
        return {"floor_ms": bytes_of(case) / peaks["copy"] * 1e3, "floor_by": "bytes"}
    return {"floor_ms": case.flops / peaks[case.dtype] * 1e3, "floor_by": "operations"}


def run_case(group_and_case, run, peaks):
    """Time both libraries in turns; return the record of the case."""
    _, case = group_and_case
    tensors = make_tensors(case, run.device)
    grad = make_output_grad(case, run.device)
    theirs, peer = make_peer(case, run.device)
    ours, explanation = make_ours(case, run.device, tensors)
    calls = {
        "torch": attention_call(theirs, tensors, grad),
        "fastcells": attention_call(ours, tensors, grad),
    }
    facts = {"peer": peer, "explain": explanation, **floor_of(case, peaks)}
    return facts | measure_calls(calls, run.device, run.rounds)


# ---- the cases ----


def dot_cases(level, dtypes, modes=(FORWARD, TRAINING), **options):
    """Return self-attention of the level's shape, in each dtype and mode."""
    B, N, T, E = SHAPES[level]
    E = options.pop("E", E)
    return [
        GpuDotCase(B, T, T, E, mode=mode, dtype=dtype, N=N, **options)
        for dtype, mode in itertools.product(dtypes, modes)
    ]


def bias_cases(level):
    """Return a learned bias, with its gradient."""
    return dot_cases(level, (HALF, SINGLE, "bfloat16"), (TRAINING, FORWARD), has_bias=True)


def single_cases(level):
    """Return float32, where torch has no FlashAttention."""
    plain, causal = (dot_cases(level, (SINGLE,), is_causal=c) for c in (False, True))
    return plain + causal


def odd_cases(level):
    """Return widths that are no power of two."""
    found = []
    for width in ODD_WIDTHS:
        found += dot_cases(level, (HALF,), (TRAINING, FORWARD), E=width)
    return found


def additive_cases(level):
    """Return additive attention."""
    B, T, D = ADDITIVE_SHAPES[level]
    modes = itertools.product((HALF, SINGLE), (FORWARD, TRAINING))
    return [AdditiveCase(B, T, T, D, mode, dtype, D=D) for dtype, mode in modes]


def decoding_cases(level):
    """Return one query over a cache of keys, also of several lengths, and with additive scores."""
    B, N, Tk, E = DECODING[level]
    found = []
    for mode in (FORWARD, TRAINING):
        for dtype, has_lengths in itertools.product((HALF, "bfloat16", SINGLE), (False, True)):
            options = {"mode": mode, "dtype": dtype, "has_lengths": has_lengths}
            found.append(GpuDotCase(B, 1, Tk, E, N=N, **options))
        found.append(AdditiveCase(B, 1, Tk, 4 * E, mode, HALF, D=4 * E))
    return found


def plain_cases(level):
    """Return what torch has FlashAttention and cuDNN for."""
    found = []
    for width, is_causal in itertools.product((64, 128), (False, True)):
        found += dot_cases(level, (HALF, "bfloat16"), E=width, is_causal=is_causal)
    return found


GROUPS = {
    "bias": bias_cases,
    "float32": single_cases,
    "odd widths": odd_cases,
    "additive": additive_cases,
    "lengths": partial(dot_cases, dtypes=(HALF, SINGLE), has_lengths=True),
    "mask": partial(dot_cases, dtypes=(HALF, SINGLE), has_mask=True),
    "weights": partial(dot_cases, dtypes=(HALF, SINGLE), has_weights=True),
    "softcap": partial(dot_cases, dtypes=(HALF, SINGLE), softcap=SOFTCAP),
    "window": partial(dot_cases, dtypes=(HALF, SINGLE), window=WINDOW),
    "decoding": decoding_cases,
    "plain": plain_cases,
}


def tiny(case):
    """Return a case of a rehearsal, of the same kind."""
    sizes = {"B": min(case.B, 2)}
    sizes |= {name: -(-getattr(case, name) // TINY) for name in ("Tq", "Tk")}
    if isinstance(case, AdditiveCase):
        return replace(case, **sizes, D=8)
    window = None if case.window is None else case.window // TINY
    return replace(case, **sizes, N=min(case.N, 2), window=window)


def make_cases(options):
    """Return (group, case) of all, shape by shape; of a quick run the first shape."""
    levels = range(1 if options.quick else len(SHAPES))
    found = [
        (name, case) for level in levels for name in options.only for case in GROUPS[name](level)
    ]
    return [(name, tiny(case)) for name, case in found] if options.device == "cpu" else found


def describe(group_and_case):
    """Return what the results file says of a case."""
    group, case = group_and_case
    return {"group": group, "label": case.label, **asdict(case)}


def parse_arguments(arguments=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS))
    add_arguments(parser)
    return parse(parser, arguments)


def main(arguments=None):
    """Measure, write, print."""
    options = parse_arguments(arguments)
    run = Run("attention", options)
    peaks = run.measure_peaks(DTYPES)
    titles = {"of": "group", "case": "label", "dtype": "dtype", "mode": "mode"}
    columns = {title: lambda case, key=key: str(case[key]) for title, key in titles.items()}
    measure_case = partial(run_case, run=run, peaks=peaks)
    return run.run_all(make_cases(options), describe, columns, measure_case)


if __name__ == "__main__":
    sys.exit(main())
