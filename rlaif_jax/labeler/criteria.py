"""Which criteria a row is judged by: a rubric's lines, or drawn principles."""

import hashlib

import numpy as np

from rlaif_jax.labeler.prompts import Criterion, LabelPrompt


def of_row(
  prompt: LabelPrompt, name: str, seed: int = 0
) -> tuple[Criterion, ...]:
  """The criteria for one row; a single empty one where the prompt has none.

  With `prompt.num_drawn` they are drawn without replacement, by seed and name:
  a row gets the same ones wherever and whenever it is labelled.

  Args:
    prompt: the prompt.
    name: of the row.
    seed: of the draws.
  """
  if not prompt.criteria:
    return (Criterion(''),)
  if not prompt.num_drawn:
    return prompt.criteria
  digest = hashlib.sha256(f'{seed} {name}'.encode()).digest()
  rng = np.random.default_rng(int.from_bytes(digest[:8], 'big'))
  chosen = rng.choice(len(prompt.criteria), prompt.num_drawn, replace=False)
  return tuple(prompt.criteria[i] for i in sorted(chosen))
