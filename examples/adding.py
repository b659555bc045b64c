"""The adding problem: which model holds what it has seen, and for how long?

Every step of a series brings a number between 0 and 1 and a mark, which is 1 at two steps and else
0, one of them in each half. The answer is the sum of the two marked numbers. Who always answers 1
is wrong by 1/6 in the mean square; who holds two numbers over the whole series can be right.

Source: Hochreiter, Schmidhuber (1997), "Long short-term memory", experiment 4.
"""

import statistics
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import mse_loss
from tqdm import tqdm

import fastcells

STEPS = {50: 1500, 200: 1000, 800: 150}  # of training, by the length of the series
GUESS = 1 / 6  # the mean square error of answering 1
UNITS, BATCH = 32, 32
LEARNING_RATE = 1e-2
TEST_BATCHES = 8


def make_series(count, length, generator):
    """Return `count` series, [count, length, 2], and their answers, [count]."""
    numbers = torch.rand(count, length, generator=generator)
    marks = torch.zeros(count, length)
    half = length // 2
    for first, size in ((0, half), (half, length - half)):
        at = first + torch.randint(size, (count, 1), generator=generator)
        marks.scatter_(1, at, 1.0)
    return torch.stack([numbers, marks], dim=-1), (numbers * marks).sum(dim=1)


class Adder(nn.Module):
    """One layer of fastcells, its final state (of self-attention its mean), one linear unit."""

    def __init__(self, kind, units=UNITS):
        """`kind` is "RNN", "LSTM", "GRU" or "SelfAttention"."""
        super().__init__()
        self.has_state = kind != "SelfAttention"
        options = {"batch_first": True} if self.has_state else {}
        self.layer = getattr(fastcells, kind)(2, units, **options)
        self.head = nn.Linear(units, 1)

    def forward(self, series):
        """Return the answers, [N], to series [N, T, 2]."""
        if not self.has_state:
            return self.head(self.layer(series).mean(dim=1)).squeeze(1)
        _, state = self.layer(series)
        h = state[0] if isinstance(state, tuple) else state  # an LSTM returns (h, c)
        return self.head(h[-1]).squeeze(1)


@dataclass
class Answer:
    """How well one kind of model adds at one length."""

    kind: str
    length: int
    error: float  # mean square, on series that were not learned from


def learn_to_add(kind, length, steps, seed):
    """Train a model of `kind` on new series at each of `steps` steps and return its Answer."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = Adder(kind)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in tqdm(range(steps), desc=f"{kind}, {length} steps", unit="batch", disable=None):
        series, answers = make_series(BATCH, length, generator)
        loss = mse_loss(model(series), answers)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    errors = []
    with torch.no_grad():
        for _ in range(TEST_BATCHES):
            series, answers = make_series(BATCH, length, generator)
            errors.append(mse_loss(model(series), answers).item())
    return Answer(kind, length, statistics.mean(errors))


def ask(kind, share, seed):
    """Return the Answers of `kind` at all lengths, after this share of the training."""
    return [
        learn_to_add(kind, length, max(1, round(share * steps)), seed)
        for length, steps in STEPS.items()
    ]
