"""Direct RLAIF: the labeler's own score is the reward (paper 2.2.2).

The finished text is put into a labeling prompt, the ten score strings are
scored by log-probability, and s = sum_i i P(i) is mapped to [-1, 1]; a
yes-or-no prompt gives its log-odds. No reward model is there to go stale.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from rlaif_jax.core.types import Rollout
from rlaif_jax.data import tokenizer as tokenizer_lib
from rlaif_jax.data.datasets import Example
from rlaif_jax.labeler import Labeler, direct, in_mesh, prompts
from rlaif_jax.rewards import reward_model


@dataclasses.dataclass(frozen=True)
class Direct:
  """Labeler with its scoring prompt."""

  labeler: Labeler
  prompt: prompts.LabelPrompt
  policy_tokenizer: tokenizer_lib.Tokenizer

  def score(self, rollout: Rollout, examples: Sequence[Example]) -> jax.Array:
    """Rewards [B] in [-1, 1], or log-odds of a yes-or-no prompt."""
    texts = reward_model.decode_responses(rollout, self.policy_tokenizer)
    scores = direct.score_responses(
      self.labeler, self.prompt, [e.fields for e in examples], texts
    )
    return jnp.asarray(direct.to_reward(scores, self.prompt), jnp.float32)


def make(config, *, policy_tokenizer, mesh, rules) -> Direct:
  """Loads the labeler at `config.path` with the prompt `config.prompt`."""
  labeler = in_mesh.load(
    config.path,
    mesh=mesh,
    rules=rules,
    dtype=config.dtype,
    max_tokens=config.max_tokens,
    batch_size=config.batch_size,
  )
  return Direct(labeler, prompts.load_prompt(config.prompt), policy_tokenizer)
