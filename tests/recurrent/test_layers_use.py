"""How layers are used: dropout, modes, accumulated gradients, checkpoints, threads, processes."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

import fastcells
from pairs import (
    CELLS,
    B,
    H,
    I,
    T,
    assert_near,
    assert_pair_agrees,
    each_batch_first,
    each_kind,
    each_layer,
    evaluate,
    float64,
    make_hx,
    make_input,
    make_pair,
    one_thread,  # noqa: F401 (an autouse fixture)
    quiet_projections,
    tensors_of,
)
from ways import through_python

pytestmark = quiet_projections


# ---- dropout ----


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}], ids=["one_way", "both_ways"])
@pytest.mark.parametrize("p", [0.4, 1.0])
@each_batch_first
@each_layer
def test_dropout_zeroes_what_torch_zeroes_with_the_same_seed(kind, batch_first, p, options):
    options = {"num_layers": 3, "dropout": p, "batch_first": batch_first, **options}
    ours, theirs = make_pair(kind, **options, **float64)
    input = torch.randn(*((B, T) if batch_first else (T, B)), I, **float64)
    found = []
    for module in (ours, theirs):
        torch.manual_seed(7)
        found.append(evaluate(module, input))
    assert_near(*found)
    without = evaluate(ours.eval(), input)
    assert not torch.equal(found[0]["result 0"], without["result 0"])
    assert_near(without, evaluate(theirs.eval(), input))


@each_layer
def test_dropout_of_rows_with_lengths_is_scaled_and_between_layers_only(kind):
    """The elements differ from torch's PackedSequence, which draws for fewer of them."""
    layer = getattr(fastcells, kind)(I, H, num_layers=2, dropout=0.5, **float64)
    with torch.no_grad():  # the upper layer sees its input through one weight: 2 * input or 0
        state = layer.state_dict()
        layer.load_state_dict({n: v if n.endswith("l0") else v * 0 for n, v in state.items()})
    lower = getattr(fastcells, kind)(I, H, **float64)
    lower.load_state_dict({n: v for n, v in layer.state_dict().items() if n.endswith("l0")})
    input, lengths = torch.randn(T, B, I, **float64), torch.tensor([5, 2, 0, 3])
    seen = []
    torch.manual_seed(0)
    expected = nn.functional.dropout(lower(input, lengths=lengths)[0], 0.5)
    original = fastcells.functional.recurrent_calls.run_layer

    def spy(cell, directions, input, *rest):
        seen.append(input)
        return original(cell, directions, input, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fastcells.functional.recurrent_calls, "run_layer", spy)
        through_python(patch)
        torch.manual_seed(0)
        layer(input, lengths=lengths)
    assert torch.equal(seen[0], input)
    assert torch.equal(seen[1], expected)
    kept = expected[expected != 0].numel() / (10 * H)
    assert 0.2 < kept < 0.8


# ---- modes ----


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode], ids=lambda m: m.__name__)
@each_kind
def test_results_without_gradients_are_those_with_them(kind, mode):
    module = getattr(fastcells, kind)(I, H, **float64)
    input, hx = make_input(kind), make_hx(module, B)
    expected = tensors_of(module(input, hx))
    assert all(t.requires_grad for t in expected)
    with mode():
        found = tensors_of(module(input, hx))
    assert not any(t.requires_grad for t in found)
    assert all(t.is_inference() == (mode is torch.inference_mode) for t in found)
    assert_near(dict(enumerate(found)), {i: t.detach() for i, t in enumerate(expected)})


@each_kind
def test_gradients_in_eval_mode_are_those_of_training(kind):
    """cuDNN refuses them."""
    ours, theirs = make_pair(kind, **float64)
    assert_pair_agrees(ours.eval(), theirs.eval(), make_input(kind), make_hx(ours, B))


@each_kind
def test_gradients_add_up_over_calls(kind):
    found = []
    inputs = [make_input(kind) for _ in range(3)]
    for module in make_pair(kind, **float64):
        for input in inputs:
            tensors_of(module(input))[0].pow(2).sum().backward()
        found.append({name: p.grad for name, p in module.named_parameters()})
    assert_near(*found)


@each_kind
def test_a_graph_may_be_used_twice(kind):
    module = getattr(fastcells, kind)(I, H, **float64)
    loss = tensors_of(module(make_input(kind)))[0].pow(2).sum()
    first = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True)
    second = torch.autograd.grad(loss, list(module.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@each_layer
def test_truncated_backpropagation_carries_the_state_between_calls(kind):
    """The state of one call, detached, is the hx of the next."""
    ours, theirs = make_pair(kind, num_layers=2, **float64)
    inputs = [make_input(kind) for _ in range(3)]
    found = []
    for module in (ours, theirs):
        hx = None
        for input in inputs:
            output, hx = module(input, hx)
            output.pow(2).sum().backward()
            hx = tuple(s.detach() for s in hx) if kind == "LSTM" else hx.detach()
        found.append({name: p.grad for name, p in module.named_parameters()})
    assert_near(*found)


@each_kind
def test_hooks_see_the_results_and_their_gradients(kind):
    found = []
    input = make_input(kind).requires_grad_()
    for module in make_pair(kind, **float64):
        seen = {}
        module.register_forward_hook(
            lambda m, args, result, seen=seen: seen.update(result=tensors_of(result)[0])
        )
        module.register_full_backward_hook(
            lambda m, grads, out, seen=seen: seen.update(input=grads[0], output=out[0])
        )
        tensors_of(module(input))[0].pow(2).sum().backward()
        found.append(seen)
    assert_near(*found)


@pytest.mark.parametrize("use_reentrant", [False, True], ids=["saved_hooks", "reentrant"])
@each_kind
def test_a_checkpointed_module_has_the_same_gradients(kind, use_reentrant):
    module = getattr(fastcells, kind)(I, H, **float64)
    input, hx = make_input(kind), make_hx(module, B)

    def flat(input, *hx):
        return tuple(tensors_of(module(input, hx if len(hx) == 2 else hx[0])))

    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, input, hx):
            return checkpoint(flat, input, *tensors_of(hx), use_reentrant=use_reentrant)

    if use_reentrant:  # it knows backward() alone
        found = []
        for call in (flat, Checkpointed()):
            leaf = input.clone().requires_grad_()
            results = call(leaf, *tensors_of(hx)) if call is flat else call(leaf, hx)
            sum(r.pow(2).sum() for r in results).backward()
            found.append({n: p.grad for n, p in module.named_parameters()} | {"input": leaf.grad})
            module.zero_grad(set_to_none=True)
        assert_near(*found)
    else:
        expected = evaluate(module, input, hx)
        found = evaluate(Checkpointed(), input, hx)
        assert_near({n.replace("inner.", ""): t for n, t in found.items()}, expected)


# ---- changes in place ----

CHANGED = ["input", "hx", "weight", "result 0", "result 1", "result 2"]


@pytest.mark.parametrize("what", CHANGED)
@each_kind
def test_a_change_in_place_never_spoils_a_gradient(kind, what):
    """Before the way back: either the gradients are right, or autograd refuses."""
    module = getattr(fastcells, kind)(I, H, **float64)
    input, hx = make_input(kind), make_hx(module, B)
    weight = next(module.parameters())
    leaves = [*module.parameters()]
    loss = tensors_of(module(input, hx))[0].sum()
    expected = torch.autograd.grad(loss, leaves)
    results = tensors_of(module(input, hx))
    loss = results[0].sum()
    named = {"input": input, "hx": tensors_of(hx)[0], "weight": weight}
    named |= {f"result {i}": result for i, result in enumerate(results)}
    if what in named:  # an RNN cell has one result
        with torch.no_grad():
            named[what].add_(1.0)
    try:
        found = torch.autograd.grad(loss, leaves)
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            raise
    else:
        assert_near(dict(enumerate(found)), dict(enumerate(expected)))


@each_kind
def test_results_share_no_memory_with_each_other_or_with_arguments(kind):
    module = getattr(fastcells, kind)(I, H, **float64)
    input, hx = make_input(kind)[:1], make_hx(module, 1 if kind in CELLS else B)
    for masks in [{}] if kind in CELLS else [{}, {"lengths": torch.zeros(B, dtype=torch.int64)}]:
        with torch.no_grad():
            results = tensors_of(module(input, hx, **masks))
        everything = [*results, input, *tensors_of(hx), *module.parameters()]
        places = [tensor.untyped_storage().data_ptr() for tensor in everything]
        assert len(set(places)) == len(places)


# ---- memory layouts ----


@each_layer
def test_arguments_of_any_strides_give_the_same_results(kind):
    """Transposed, sliced, expanded and reversed-by-flip arguments."""
    layer = getattr(fastcells, kind)(I, H, **float64)
    input = torch.randn(T, B, I, **float64)
    arrangements = {
        "transposed": input.transpose(0, 1).contiguous().transpose(0, 1),
        "features first": input.permute(2, 0, 1).contiguous().permute(1, 2, 0),
        "sliced": torch.randn(2 * T, B, I + 2, **float64)[::2, :, 1:-1].copy_(input),
    }
    expected = evaluate(layer, input, make_hx_once(layer))
    for name, arranged in arrangements.items():
        assert not arranged.is_contiguous()
        found = evaluate(layer, arranged, make_hx_once(layer))
        assert_near(found, expected, what=name)
    one_state = make_hx_once(layer, 1)
    spread = [s.expand(-1, B, -1) for s in tensors_of(one_state)]
    whole = [s.contiguous() for s in spread]
    unpacked = (lambda s: tuple(s)) if kind == "LSTM" else (lambda s: s[0])
    assert_near(evaluate(layer, input, unpacked(spread)), evaluate(layer, input, unpacked(whole)))


def make_hx_once(layer, batch=B):
    torch.manual_seed(2)
    return make_hx(layer, batch)


@each_layer
def test_a_gradient_of_any_strides_may_come_in(kind):
    """As that of output.sum(), which has no strides at all, and of a transposed output."""
    ours, theirs = make_pair(kind, **float64)
    input = torch.randn(T, B, I, **float64)
    weight = torch.randn(H, T, B, **float64)
    for loss in (
        lambda output: output.sum(),
        lambda output: (output.permute(2, 0, 1) * weight).sum(),
        lambda output: output[-1].sum(),
    ):
        grads = []
        for module in (ours, theirs):
            value = loss(module(input)[0])
            grads.append(dict(enumerate(torch.autograd.grad(value, list(module.parameters())))))
        assert_near(*grads)


# ---- threads and processes ----


@pytest.fixture
def two_threads(one_thread):  # noqa: F811 (the fixture, which comes first and puts things back)
    torch.set_num_threads(2)


def big_problem(kind):
    """Large enough for the kernels to share a step among threads: they take 2048 elements each."""
    layer = getattr(fastcells, kind)(8, 64)
    return layer, torch.randn(4, 48, 8)


@each_layer
def test_six_threads_may_call_one_layer(kind, two_threads):
    layer, input = big_problem(kind)
    inputs = [torch.randn_like(input) for _ in range(6)]

    def work(input):
        results = []
        for _ in range(3):
            output, _ = layer(input)
            (grad,) = torch.autograd.grad(output.sum(), [layer.weight_hh_l0])
            results.append((output.detach(), grad))
        return results

    expected = [work(input)[0] for input in inputs]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(work, inputs))
    for results, (output, grad) in zip(found, expected, strict=True):
        assert len(results) == 3
        for a, b in results:
            torch.testing.assert_close(a, output)
            torch.testing.assert_close(b, grad, rtol=0, atol=1e-5 * grad.abs().max())


def answer(layer, input, queue):
    """As a worker of torch's DataLoader: GNU OpenMP's threads do not survive a fork, and any
    product on several of them would wait for ever, torch's own too."""
    torch.set_num_threads(1)
    output, _ = layer(input)
    (grad,) = torch.autograd.grad(output.sum(), [layer.weight_hh_l0])
    queue.put((output.tolist(), grad.tolist()))


# Python 3.12 and later warn of any fork beside threads, which this test is about.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@each_layer
def test_a_forked_process_computes_after_its_parent_has(kind, two_threads):
    layer, input = big_problem(kind)
    output, _ = layer(input)
    (grad,) = torch.autograd.grad(output.sum(), [layer.weight_hh_l0])
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=answer, args=(layer, input, queue), daemon=True)
    child.start()
    try:
        found = queue.get(timeout=30)
        child.join(30)
        assert child.exitcode == 0
    finally:
        child.kill()
    torch.testing.assert_close(torch.tensor(found[0]), output.detach())
    torch.testing.assert_close(torch.tensor(found[1]), grad, rtol=0, atol=1e-5 * grad.abs().max())


# ---- sequences packed, padded and back ----


@each_batch_first
@each_layer
def test_a_packed_output_is_padded_again_by_torch(kind, batch_first):
    ours, theirs = make_pair(kind, **float64)
    padded = torch.randn(*((B, T) if batch_first else (T, B)), I, **float64)
    packed = pack_padded_sequence(
        padded, torch.tensor([2, 5, 1, 5]), batch_first=batch_first, enforce_sorted=False
    )
    found, expected = (
        dict(enumerate(pad_packed_sequence(module(packed)[0], batch_first=batch_first)))
        for module in (ours, theirs)
    )
    assert found[0].shape[:2] == padded.shape[:2]
    assert_near(found, expected)
