"""stable-baselines3's SAC or TD3 in a small random environment, with their defaults except for small networks."""

import sys

import gymnasium
import numpy
from stable_baselines3 import SAC, TD3


class Noise(gymnasium.Env):
    """Random observations and rewards."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (6,), numpy.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), numpy.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.steps += 1
        return self.observation_space.sample(), float(self.np_random.normal()), False, self.steps >= 20, {}


policy = {"net_arch": [32, 32]}
method = {"SAC": SAC, "TD3": TD3}[sys.argv[1]]
model = method("MlpPolicy", Noise(), learning_starts=40, seed=0, policy_kwargs=policy, device="cpu")
model.learn(total_timesteps=260)
