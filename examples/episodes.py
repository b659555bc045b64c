"""Episodes inside a rollout: reinforcement learning of a memory task with `resets=`.

A corridor ends in a junction. At its start a cue says which way is right there, and is not seen
again: an actor without memory is right half of the time. Many corridors are walked at once, each of
a random length, so that in a rollout of 128 steps every row holds several episodes, which begin at
steps of their own.

Who learns from such a rollout must not let the state of one episode into the next. Libraries write
a loop for it: one step, then the states times a mask. With `resets=` it is one call. Both are
computed here from the same weights on the same rollout: the answers and gradients must agree, and
both are timed. The actor learns by PPO with the one call.

The task is in examples/corridors.py; PPO is that of Schulman et al. (2017),
https://arxiv.org/abs/1707.06347.

The script prints both, draws examples/output/episodes.png, and ends with exit code 1 if a claim
does not hold. Run it with `python examples/episodes.py`.
"""

import argparse
import os
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn.functional import mse_loss
from tqdm import tqdm

import fastcells
from corridors import ACTIONS, PATIENCE, SEEN, Corridors

HERE = Path(__file__).resolve().parent
CORRIDORS, STEPS = 64, 128  # rows and steps of a rollout
UNITS = 64
EPOCHS, PARTS = 4, 4  # a rollout is learned from so many times, in parts of its rows
LEARNING_RATE = 2e-3
DISCOUNT, TRACE = 0.99, 0.95  # gamma and lambda of the advantages
CLIP, VALUE_SHARE, ENTROPY_SHARE = 0.2, 0.5, 0.01

ROUNDS = 9  # of timing
RETURN_CLAIM = 0.9  # of 1, which is the best; guessing at the junction gives 0
GRADIENT_CLAIM = 1e-4  # the largest difference over the largest gradient, in float32


# ---- Actor


class Actor(nn.Module):
    """A recurrent layer, and on it the scores of the actions and the value of the state."""

    def __init__(self, library, cell="LSTM"):
        """`library` is torch.nn or fastcells, `cell` is "LSTM" or "GRU"."""
        super().__init__()
        self.layer = getattr(library, cell)(SEEN, UNITS)
        self.head = nn.Linear(UNITS, ACTIONS + 1)

    def one_call(self, seen, starts, state):
        """Return scores [T, B, ACTIONS], values [T, B] and the last state, of fastcells.

        Args: seen [T, B, SEEN]; starts, bool [T, B], is set where an episode begins; state, that
        in front of the first step.
        """
        output, state = self.layer(seen, state, resets=starts)
        return *self._read(output), state

    def loop(self, seen, starts, state):
        """Return the same by a loop with masked states, of torch.nn or fastcells."""
        outputs = []
        for x, start in zip(seen, starts, strict=True):
            keep = (~start).to(x.dtype)[:, None]
            state = tuple(s * keep for s in state) if isinstance(state, tuple) else state * keep
            output, state = self.layer(x[None], state)
            outputs.append(output)
        return *self._read(torch.cat(outputs)), state

    def _read(self, output):
        scores, value = self.head(output).split([ACTIONS, 1], dim=-1)
        return scores, value.squeeze(-1)


class Rollout(NamedTuple):
    """What STEPS steps in all corridors brought."""

    seen: Tensor  # [T, B, SEEN]
    starts: Tensor  # [T, B], bool
    actions: Tensor  # [T, B], int64
    log_chances: Tensor  # [T, B], of the actions, when they were taken
    advantages: Tensor  # [T, B]
    returns: Tensor  # [T, B]: what the values should have been
    state: tuple | Tensor  # in front of the first step: h, or h and c, each [1, B, UNITS]

    def rows(self, rows):
        """Return the Rollout of some corridors."""
        *steps, state = self
        some = tuple(s[:, rows] for s in state) if isinstance(state, tuple) else state[:, rows]
        return Rollout(*(x[:, rows] for x in steps), some)


# ---- Learning


def advantages_of(rewards, values, ends, last_value):
    """Return generalised advantages [T, B] (Schulman et al. 2016), with no step over an end."""
    advantages, following = torch.empty_like(rewards), torch.zeros_like(last_value)
    for t in reversed(range(len(rewards))):
        goes_on = (~ends[t]).to(rewards.dtype)
        error = rewards[t] + DISCOUNT * last_value * goes_on - values[t]
        following = error + DISCOUNT * TRACE * goes_on * following
        advantages[t], last_value = following, values[t]
    return advantages


@dataclass
class Learner:
    """An actor in its corridors, what trains it, and the returns on the way."""

    actor: Actor
    corridors: Corridors
    generator: torch.Generator
    updates: int
    finished: list = field(default_factory=list)  # one mean return an update
    collecting: list = field(default_factory=list)  # seconds, one an update
    learning: list = field(default_factory=list)

    def __post_init__(self):
        """Adam, and a learning rate that sinks to zero in a straight line."""
        self.optimizer = torch.optim.Adam(self.actor.parameters(), lr=LEARNING_RATE, eps=1e-5)
        self.schedule = torch.optim.lr_scheduler.LinearLR(
            self.optimizer, 1.0, 0.0, total_iters=self.updates
        )
        count = len(self.corridors.place)
        self.running = torch.zeros(count)  # the return of the episode that is under way
        self.start = torch.ones(count, dtype=torch.bool)
        h = torch.zeros(1, count, UNITS)
        self.state = (h, h) if self.actor.layer.mode == "LSTM" else h

    @torch.no_grad()
    def collect(self):
        """Walk STEPS steps in all corridors and return the Rollout."""
        began, before, steps, episodes = time.perf_counter(), self.state, [], []
        for _ in range(STEPS):
            seen, start = self.corridors.look(), self.start
            scores, value, self.state = self.actor.one_call(seen[None], start[None], self.state)
            chances = torch.softmax(scores[0], dim=-1)
            action = torch.multinomial(chances, 1, generator=self.generator)
            log_chance = chances.gather(1, action).log().squeeze(1)
            reward, self.start = self.corridors.act(action.squeeze(1))
            self.running += reward
            episodes.append(self.running[self.start])
            self.running = self.running.masked_fill(self.start, 0)
            steps.append((seen, start, action.squeeze(1), log_chance, reward, value[0], self.start))
        *taken, rewards, values, ends = (torch.stack(x) for x in zip(*steps, strict=True))
        _, last, _ = self.actor.one_call(self.corridors.look()[None], ends[-1:], self.state)
        advantages = advantages_of(rewards, values, ends, last[0])
        self.finished.append(torch.cat(episodes).mean().item())
        self.collecting.append(time.perf_counter() - began)
        return Rollout(*taken, advantages, advantages + values, before)

    def learn(self, rollout):
        """Learn from a Rollout: whole rows of it at a time, each one call."""
        began = time.perf_counter()
        count = len(self.running)
        for _ in range(EPOCHS):
            for rows in torch.randperm(count, generator=self.generator).chunk(PARTS):
                loss = loss_of(self.actor.one_call, rollout.rows(rows))
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.actor.parameters(), 0.5)
                self.optimizer.step()
        self.schedule.step()
        self.learning.append(time.perf_counter() - began)


def loss_of(compute, rollout):
    """Return PPO's loss on a Rollout; `compute` is Actor.one_call or Actor.loop."""
    scores, values, _ = compute(rollout.seen, rollout.starts, rollout.state)
    chances = Categorical(logits=scores)
    ratio = (chances.log_prob(rollout.actions) - rollout.log_chances).exp()
    advantages = rollout.advantages
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    gains = torch.minimum(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages)
    value_loss = mse_loss(values, rollout.returns)
    return VALUE_SHARE * value_loss - gains.mean() - ENTROPY_SHARE * chances.entropy().mean()


def train(cell, longest, updates, seed):
    """Train an actor of fastcells and return its Learner and the last Rollout."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    learner = Learner(
        Actor(fastcells, cell), Corridors(CORRIDORS, longest, generator), generator, updates
    )
    progress = tqdm(range(updates), desc=f"{cell}, seed {seed}", unit="update", disable=None)
    for _ in progress:
        rollout = learner.collect()
        learner.learn(rollout)
        progress.set_postfix({"return": f"{learner.finished[-1]:.2f}"})
    return learner, rollout


# ---- One call beside the loop


class Way(NamedTuple):
    """How a Rollout is computed, and what it costs."""

    name: str
    actor: Actor
    compute: object  # Actor.one_call or Actor.loop, bound


@dataclass
class Measured:
    """What one Way gave."""

    name: str
    scores: Tensor
    gradients: Tensor  # of all parameters, in one row
    seconds: list = field(default_factory=list)


def compare(actor, rollout, rounds=ROUNDS):
    """Compute a Rollout's loss and gradients in one call and by loops, in turn; one warms up."""
    by_torch = Actor(nn, actor.layer.mode).to(rollout.seen.dtype)
    by_torch.load_state_dict(actor.state_dict())
    ways = (
        Way("torch.nn, a loop with masks", by_torch, by_torch.loop),
        Way("fastcells, a loop with masks", actor, actor.loop),
        Way("fastcells, one call with resets=", actor, actor.one_call),
    )
    measured = []
    for name, model, compute in ways:
        with torch.no_grad():
            scores, _, _ = compute(rollout.seen, rollout.starts, rollout.state)
        gradients = torch.autograd.grad(loss_of(compute, rollout), list(model.parameters()))
        measured.append(Measured(name, scores, torch.cat([g.flatten() for g in gradients])))
    for _ in range(rounds):
        for (_, model, compute), result in zip(ways, measured, strict=True):
            model.zero_grad()
            began = time.perf_counter()
            loss_of(compute, rollout).backward()
            result.seconds.append(time.perf_counter() - began)
    return measured


def apart(a, b):
    """Return the largest difference of two tensors over the largest number in them."""
    return ((a - b).abs().max() / a.abs().max()).item()


# ---- Report


def make_table(measured):
    """Return the table of the ways to compute a rollout."""
    table = Table(
        title=f"Forward and backward over a rollout of {STEPS} steps in {CORRIDORS} corridors",
        caption=f"Milliseconds: median of {len(measured[0].seconds)}, in turn. Apart: the largest "
        "difference from the first row, over the largest number.",
    )
    table.add_column("computed by", no_wrap=True)
    for column in ("ms", "speed", "scores apart", "gradients apart"):
        table.add_column(column, justify="right")
    first = measured[0]
    for m in measured:
        seconds = statistics.median(m.seconds)
        speed = statistics.median(first.seconds) / seconds
        table.add_row(
            m.name, f"{1e3 * seconds:.1f}", f"{speed:.2f}",
            f"{apart(first.scores, m.scores):.1e}", f"{apart(first.gradients, m.gradients):.1e}",
        )  # fmt: skip
    return table


def draw(learners, path):
    """Draw the returns along the steps that were walked."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for seed, learner in learners.items():
        steps = [STEPS * CORRIDORS * n for n in range(1, learner.updates + 1)]
        axis.plot(steps, learner.finished, label=f"seed {seed}")
    axis.axhline(1, color="grey", linestyle=":", label="the best")
    axis.axhline(0, color="grey", linestyle="--", label="guessing at the junction")
    axis.set(title="T-maze", xlabel="steps walked", ylabel="mean return of an episode")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def final_return(learner):
    """Return the mean return over the last tenth of the updates."""
    return statistics.mean(learner.finished[-max(1, learner.updates // 10) :])


def failed_claims(learners, measured):
    """Return a sentence for each claim that does not hold."""
    failures = [
        f"The return with seed {seed} reached {final_return(learner):.2f}; at least "
        f"{RETURN_CLAIM} was claimed."
        for seed, learner in learners.items()
        if not final_return(learner) >= RETURN_CLAIM
    ]
    for m in measured[1:]:
        difference = apart(measured[0].gradients, m.gradients)
        if not difference <= GRADIENT_CLAIM:  # a gradient that is not a number fails too
            failures.append(
                f"The gradients of {m.name} differ by {difference:.1e} from torch.nn's; at most "
                f"{GRADIENT_CLAIM:.0e} was claimed."
            )
    return failures


# ---- Command line


def parse_arguments(arguments=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--cell", choices=("LSTM", "GRU"), default="LSTM", help="default: %(default)s")
    add("--longest", type=int, default=20, help="steps of a corridor; default: %(default)s")
    add("--updates", type=int, default=60, help="rollouts to learn from; default: %(default)s")
    add("--seeds", type=int, nargs="+", default=[0], help="an actor each; default: 0")
    add("--output", type=Path, default=HERE / "output" / "episodes.png")
    options = parser.parse_args(arguments)
    most = STEPS // PATIENCE  # so that every corridor ends within a rollout
    if not 2 <= options.longest <= most:
        parser.error(f"--longest must be 2 to {most}")
    if options.updates < 1:
        parser.error("--updates must be at least 1")
    return options


def main(arguments=None):
    """Train, compare, report, check; return the exit code."""
    options = parse_arguments(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(
        f"Walking corridors of up to {options.longest} steps; torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads."
    )
    learners = {}
    for seed in options.seeds:
        learners[seed], rollout = train(options.cell, options.longest, options.updates, seed)
    for seed, learner in learners.items():
        console.print(
            f"Seed {seed}: return {final_return(learner):.2f} of 1; walking took "
            f"{sum(learner.collecting):.0f} s, learning {sum(learner.learning):.0f} s."
        )
    measured = compare(learner.actor, rollout)
    console.print(make_table(measured))
    draw(learners, options.output)
    console.print(f"Returns: {os.path.relpath(options.output)}")
    failures = failed_claims(learners, measured)
    for sentence in failures:
        console.print(f"[bold red]Claim not met:[/] {sentence}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
