"""verl's replay buffer with a shorter poll: its 2.0 seconds (fixed in verl 0.9.1) are most of a tiny model's step."""

from __future__ import annotations

from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer


class QuickPollReplayBuffer(ReplayBuffer):
    """The synchronous trainer's sampler, looking for finished rollouts every 0.1 s.

    verl gives a custom sampler no ``filter_groups`` settings, so dynamic sampling needs verl's own sampler (drop the two
    ``trainer.v1.sampler.custom_sampler`` overrides).
    """

    def __init__(self, *args, **kwargs):
        kwargs["poll_interval"] = 0.1
        super().__init__(*args, **kwargs)
