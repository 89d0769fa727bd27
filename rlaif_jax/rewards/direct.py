"""Direct RLAIF: the labeler's own score is the reward (paper 2.2.2).

The finished text is put into a labeling prompt, the ten score strings are
scored by log-probability, and s = sum_i i P(i) is mapped to [-1, 1]; a
yes-or-no prompt gives its log-odds. No reward model is there to go stale. Where
policy and labeler share their tokens nothing leaves the devices.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rlaif_jax import rewards
from rlaif_jax.core.types import Rollout
from rlaif_jax.data import tokenizer as tokenizer_lib
from rlaif_jax.data.datasets import Example
from rlaif_jax.labeler import Labeler, direct, on_device, prompts
from rlaif_jax.rewards import _labeler, reward_model


@dataclasses.dataclass(frozen=True)
class Direct:
  """Labeler with its scoring prompt."""

  labeler: Labeler
  prompt: prompts.LabelPrompt
  policy_tokenizer: tokenizer_lib.Tokenizer
  on_device: bool
  spent: dict[str, Any] = dataclasses.field(default_factory=dict)
  scorers: dict[int, on_device.OnDevice] = dataclasses.field(
    default_factory=dict
  )

  def score(self, rollout: Rollout, examples: Sequence[Example]) -> jax.Array:
    """Rewards [B] in [-1, 1], or log-odds of a yes-or-no prompt."""
    fields, ids = [e.fields for e in examples], [e.id for e in examples]
    before, read = self.labeler.counters.tokens, 0
    if self.on_device:
      # Kept from step to step: it reads the whole vocabulary once.
      length = rollout.response_tokens.shape[1]
      scorer = self.scorers.setdefault(
        length, on_device.OnDevice(self.labeler, self.prompt, length)
      )
      scores, read = scorer.scores_and_read(rollout, fields, ids)
    else:
      texts = reward_model.decode_responses(rollout, self.policy_tokenizer)
      scores = direct.score_responses(
        self.labeler, self.prompt, fields, texts, ids=ids
      )
    tokens = self.labeler.counters.tokens - before + read
    self.spent.update({rewards.LABELS: len(ids), rewards.TOKENS: tokens})
    return jnp.asarray(direct.to_reward(scores, self.prompt), jnp.float32)


def make(config, *, policy_tokenizer, mesh, rules) -> Direct:
  """Loads the labeler at `config.path` with the prompt `config.prompt`."""
  prompt = prompts.load_prompt(config.prompt)
  direct.check(prompt)
  labeler = _labeler.load(config, mesh=mesh, rules=rules)
  same = labeler.tokenizer.fingerprint == policy_tokenizer.fingerprint
  return Direct(
    labeler, prompt, policy_tokenizer, same and on_device.supports(prompt)
  )
