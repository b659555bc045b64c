"""The T-maze: a task of reinforcement learning that no actor without memory solves.

A corridor ends in a junction. At its start a cue says which turn is right there, and is not seen
again. Its length is random, so that counting steps does not help either.

Source: Bakker (2002), "Reinforcement learning with long short-term memory".
"""

import torch

AHEAD, LEFT, RIGHT = range(3)
ACTIONS = 3
SEEN = 2  # numbers that are seen at a step: the cue (-1, 1, else 0), whether this is the junction
PENALTY = 0.1  # for a turn in the corridor, and for walking on at the junction
PATIENCE = 3  # an episode ends after this many times its corridor's steps, too


class Corridors:
    """Many corridors walked at once; one that ends begins anew at the next step.

    A right turn at the junction gives 1 and a wrong one -1; both end the episode.
    """

    def __init__(self, count, longest, generator):
        """`count` corridors, each of longest/2 to `longest` steps."""
        self.longest, self.generator = longest, generator
        self.place = torch.zeros(count, dtype=torch.int64)
        self.age, self.length, self.cue = (torch.zeros_like(self.place) for _ in range(3))
        self._begin(torch.ones(count, dtype=torch.bool))

    def _begin(self, where):
        """Start new episodes in the rows `where`, bool [B]."""
        count = len(where)
        lengths = torch.randint(
            self.longest // 2, self.longest + 1, (count,), generator=self.generator
        )
        cues = 2 * torch.randint(2, (count,), generator=self.generator) - 1
        self.length = torch.where(where, lengths, self.length)
        self.cue = torch.where(where, cues, self.cue)
        self.place = self.place.masked_fill(where, 0)
        self.age = self.age.masked_fill(where, 0)

    def look(self):
        """Return what is seen, float32 [B, SEEN]: the cue at the first step alone."""
        cue = self.cue * (self.age == 0)
        return torch.stack([cue, self.place == self.length], dim=1).float()

    def act(self, action):
        """Take a step with `action`, int64 [B]; return rewards, float32 [B], and who ended."""
        junction, turn = self.place == self.length, action != AHEAD
        right = torch.where(action == RIGHT, 1, -1) == self.cue
        reward = torch.where(right, 1.0, -1.0) * (junction & turn) - PENALTY * (junction ^ turn)
        self.place = self.place + (~junction & ~turn)
        self.age = self.age + 1
        ended = (junction & turn) | (self.age >= PATIENCE * self.length)
        self._begin(ended)
        return reward, ended
