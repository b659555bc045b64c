"""sb3-contrib, torchrl: recurrent policies, one step at a time and over whole trajectories."""

import numpy as np
import torch

from benchmarks.clients.work import Work

STEPS = 128


def ppo(**options):
    from sb3_contrib import RecurrentPPO

    return RecurrentPPO(
        "MlpLstmPolicy", "CartPole-v1", n_steps=STEPS, batch_size=STEPS, n_epochs=4, seed=0,
        device="cpu", **options,
    )  # fmt: skip


def recurrent_ppo() -> Work:
    """A rollout of STEPS steps of one environment, and its four epochs."""
    agent = ppo()

    def run():
        agent.learn(STEPS, reset_num_timesteps=False)
        return [p.detach().clone() for p in agent.policy.parameters()]

    return Work(run, lambda: agent.policy)


def recurrent_ppo_acting() -> Work:
    """One action for one observation; the state after it."""
    agent = ppo()
    observation = np.float32([[0.01, -0.02, 0.03, -0.04]])
    states = (np.ones((1, 1, 256), dtype=np.float32),) * 2

    def run():
        return agent.predict(observation, states, np.zeros(1), deterministic=True)[1]

    return Work(run, lambda: agent.policy)


def trajectories(width: int):
    """A batch of 16 trajectories of 100 steps, in which episodes begin anew at one step of 20."""
    from tensordict import TensorDict

    is_init = torch.rand(16, 100, 1) < 0.05
    return TensorDict({"x": torch.randn(16, 100, width), "is_init": is_init}, [16, 100])


def recurrent_module(kind: str) -> Work:
    from torchrl import modules

    layer = getattr(modules, kind)(input_size=32, hidden_size=128, in_key="x", out_key="y")
    data = trajectories(32)

    def run():
        with torch.no_grad(), modules.set_recurrent_mode("recurrent"):
            return layer(data.clone())["y"]

    return Work(run, lambda: layer)


def lstm_module() -> Work:
    return recurrent_module("LSTMModule")


def gru_module() -> Work:
    return recurrent_module("GRUModule")
