"""Random attention against plain torch in float64; what masks and windows hide."""

import torch
from comparing import (
    NAN,
    assert_near,
    assert_same_bits,
    dtypes,
    gradients,
    leaf,
    normal,
    sizes,
    strided,
    strides,
    wide_sizes,
)
from hypothesis import strategies as st

import fastcells

INF = float("inf")


@st.composite
def calls(draw):
    B, Nk = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    return {
        "score": draw(st.sampled_from(["dot", "dot", "additive"])),
        "B": B, "N": Nk * draw(st.integers(1, 2)), "Nk": Nk, "Tq": draw(wide_sizes),
        "Tk": draw(wide_sizes), "E": draw(sizes), "Ev": draw(sizes), "dtype": draw(dtypes),
        "mask": draw(st.sampled_from([None, "bool", "own", "wide", "low"])),
        "mask_shape": draw(st.tuples(*[st.booleans()] * 4)),
        "has_lengths": draw(st.booleans()), "left": draw(st.none() | st.integers(0, 20)),
        "right": draw(st.none() | st.integers(0, 20)), "bottom": draw(st.booleans()),
        "softcap": draw(st.sampled_from([None, None, 2.0])), "stride": draw(strides),
        "seed": draw(st.integers(0, 2**20)), "threads": draw(st.integers(1, 2)),
    }  # fmt: skip


def make(case):
    """Tensors, mask (hiding every fourth key from all), lengths, and which pairs see each other."""
    generator = torch.Generator().manual_seed(case["seed"])
    c = case
    is_dot = c["score"] == "dot"
    N, Nk = (c["N"], c["Nk"]) if is_dot else (1, 1)
    Ek = c["E"]
    shapes = [(c["B"], N, c["Tq"], Ek), (c["B"], Nk, c["Tk"], Ek), (c["B"], Nk, c["Tk"], c["Ev"])]
    tensors = [normal(generator, *s, dtype=c["dtype"]) for s in shapes]
    full = (c["B"], N, c["Tq"], c["Tk"])
    seen = torch.ones(full, dtype=torch.bool)
    mask = None
    if c["mask"] is not None:
        kept = [has or d == 3 for d, has in enumerate(c["mask_shape"])]
        shape = [size if has else 1 for size, has in zip(full, kept, strict=True)]
        shown = torch.rand(shape, generator=generator) < 0.7
        shown[..., 1::4] = False
        mask = shown
        if c["mask"] != "bool":
            bias = normal(generator, *shape)
            if c["mask"] == "low":
                bias[torch.rand(shape, generator=generator) < 0.5] = torch.finfo(torch.float32).min
            mask = bias.masked_fill(~shown, -INF)
            mask = mask.to(c["dtype"] if c["mask"] == "own" else torch.float32)
        seen = seen & shown
    lengths = None
    if c["has_lengths"]:
        lengths = torch.randint(0, c["Tk"] + 1, (c["B"],), generator=generator)
        seen = seen & (torch.arange(c["Tk"]) < lengths[:, None, None, None])
    window = None
    if is_dot and (c["left"] is not None or c["right"] is not None):
        window = (c["left"], c["right"])
        offset = c["Tk"] - c["Tq"] if c["bottom"] else 0
        off = torch.arange(c["Tk"]) - (torch.arange(c["Tq"])[:, None] + offset)
        if c["left"] is not None:
            seen = seen & (off >= -c["left"])
        if c["right"] is not None:
            seen = seen & (off <= c["right"])
    scale = normal(generator, Ek, dtype=c["dtype"]) if not is_dot else None
    return tensors, mask, lengths, window, scale, seen


def ours(case, tensors, mask, lengths, window, scale):
    if case["score"] == "dot":
        return fastcells.scaled_dot_product_attention(
            *tensors, mask, enable_gqa=True, softcap=case["softcap"], window=window,
            key_lengths=lengths, return_weights=True,
            causal_alignment="bottom_right" if case["bottom"] else "top_left",
        )  # fmt: skip
    if mask is not None:
        mask = mask.squeeze(1)
    found = fastcells.additive_attention(
        *(t.squeeze(1) for t in tensors), scale, attn_mask=mask, key_lengths=lengths,
        return_weights=True,
    )  # fmt: skip
    return tuple(t.unsqueeze(1) for t in found)


def plain(case, tensors, mask, scale, seen):
    """The equations in plain torch."""
    query, key, value = tensors
    group = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(group, 1) for t in (key, value))
    if case["score"] == "dot":
        s = query @ key.mT * query.shape[-1] ** -0.5
        s = s if case["softcap"] is None else case["softcap"] * torch.tanh(s / case["softcap"])
    else:
        s = torch.tanh(query[:, :, :, None] + key[:, :, None]) @ scale
    if mask is not None and mask.dtype != torch.bool:
        s = s + mask.masked_fill(mask == -INF, 0.0).to(s.dtype)
    sees = seen.any(-1, keepdim=True)
    s = s.masked_fill(~seen, -INF)
    weights = torch.softmax(torch.where(sees, s, 0.0), -1).masked_fill(~sees, 0.0)
    return weights @ value, weights


def run(call, tensors, mask, scale):
    is_bias = mask is not None and mask.is_floating_point()
    leaves = [leaf(t) for t in tensors]
    bias = leaf(mask) if is_bias else mask
    units = None if scale is None else leaf(scale)
    results = call(leaves, bias, units)
    extra = [x for x in (units, bias if is_bias else None) if x is not None]
    return [r.detach() for r in results], gradients(results, [*leaves, *extra], 5)


def attention_equals_plain_torch(case):
    torch.set_num_threads(case["threads"])
    tensors, mask, lengths, window, scale, seen = make(case)
    given = [strided(t, case["stride"]) for t in tensors]

    def call(leaves, bias, units):
        return ours(case, leaves, bias, lengths, window, units)

    def exactly(leaves, bias, units):
        return plain(case, leaves, bias, units, seen)

    def double(t):
        return t if t is None or t.dtype == torch.bool else t.double()

    found = run(call, given, mask, scale)
    single = torch.float64 if case["dtype"] == torch.float64 else torch.float32
    exact = run(exactly, [t.double() for t in tensors], double(mask), double(scale))
    peers = run(
        exactly, [t.to(single) for t in tensors],
        mask if mask is None or mask.dtype == torch.bool else mask.to(single),
        None if scale is None else scale.to(single),
    )  # fmt: skip
    for a, b, c, what in zip(found, exact, peers, ("result", "gradient"), strict=True):
        assert_near(a, b, c, what, case["dtype"])


def hidden_keys_leave_no_trace(case):
    """What no query sees may hold NaN: the same bits as of zeros, and gradients of 0."""
    tensors, mask, lengths, window, scale, seen = make(case)
    group = seen.shape[1] // tensors[1].shape[1]
    of_keys = seen.any(2).unflatten(1, (-1, group)).any(2)
    hidden = ~of_keys[..., None]
    found = []
    for value in (0.0, NAN, INF):
        query, *keys = tensors
        filled = [
            query,
            *(torch.where(hidden, torch.tensor(value, dtype=k.dtype), k) for k in keys),
        ]
        results, grads = run(
            lambda leaves, bias, units: ours(case, leaves, bias, lengths, window, units),
            filled, mask, scale,
        )  # fmt: skip
        found.append(results + grads)
        for gradient in grads[1:3]:
            assert (torch.where(hidden, gradient, 0.0) == 0).all()
    assert_same_bits(found[1], found[0], "NaN in hidden keys")
    assert_same_bits(found[2], found[0], "infinity in hidden keys")


TARGETS = {
    "attention": (calls(), attention_equals_plain_torch),
    "hidden keys": (calls(), hidden_keys_leave_no_trace),
}
