"""Online AI feedback: a labeler compares the two samples of each prompt.

Guo et al. 2024 (OAIF, arXiv 2402.04792): no reward model; the pair is shown in
both orders, and its averaged soft label p is what the first one is worth, 1 - p
the other (section 2.1.1 of arXiv 2309.00267). For algorithms with groups of
two, such as algorithms/online_dpo.py.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rlaif_jax import rewards
from rlaif_jax.core.types import Rollout
from rlaif_jax.data import tokenizer as tokenizer_lib
from rlaif_jax.data.datasets import Example
from rlaif_jax.labeler import Labeler, preference, prompts
from rlaif_jax.rewards import _labeler, reward_model


@dataclasses.dataclass(frozen=True)
class Pairwise:
  """Labeler with its pairwise prompt."""

  labeler: Labeler
  prompt: prompts.LabelPrompt
  policy_tokenizer: tokenizer_lib.Tokenizer
  spent: dict[str, float] = dataclasses.field(default_factory=dict)

  def score(self, rollout: Rollout, examples: Sequence[Example]) -> jax.Array:
    """Probabilities [B] of being the better one of rows 2 i and 2 i + 1.

    Responses that are the same, or do not fit the labeler, get 0.5 each.

    Raises:
      ValueError: rows 2 i and 2 i + 1 answer different prompts.
    """
    check_pairs(examples)
    texts = reward_model.decode_responses(rollout, self.policy_tokenizer)
    pairs = list(zip(texts[::2], texts[1::2], strict=True))
    asked = [i for i, (first, second) in enumerate(pairs) if first != second]
    before = self.labeler.counters.tokens
    labels = preference.label_pairs(
      self.labeler,
      self.prompt,
      [(examples[2 * i].id, examples[2 * i].fields, pairs[i]) for i in asked],
    )
    tokens = self.labeler.counters.tokens - before
    self.spent.update({rewards.LABELS: len(asked), rewards.TOKENS: tokens})
    p_first = np.full(len(pairs), 0.5, np.float32)
    for i, label in zip(asked, labels, strict=True):
      if label is not None:
        p_first[i] = label.p_first
    return jnp.asarray(np.stack([p_first, 1 - p_first], axis=1).reshape(-1))


def make(config, *, policy_tokenizer, mesh, rules) -> Pairwise:
  """Loads the labeler at `config.path` with the prompt `config.prompt`."""
  prompt = prompts.load_prompt(config.prompt)
  preference.check(prompt)
  labeler = _labeler.load(config, mesh=mesh, rules=rules)
  return Pairwise(labeler, prompt, policy_tokenizer)


def check_pairs(examples: Sequence[Example]) -> None:
  """Raises ValueError unless rows 2 i and 2 i + 1 have the same prompt."""
  names = [e.id for e in examples]
  if names[::2] != names[1::2]:
    raise ValueError(
      "reward 'pairwise' compares the two samples of a prompt, but the rows "
      'beside each other answer different ones; use an algorithm with '
      'algorithm_config.group_size=2, such as online_dpo'
    )
