"""Summaries compared, after a rationale."""

import dataclasses

from rlaif_jax.labeler.prompts import summary_base

PROMPT = dataclasses.replace(
  summary_base.PROMPT,
  name='summary_base_cot',
  preamble=summary_base.PROMPT.preamble.replace(
    'answer 1 or 2 for', 'explain which is'
  ),
  chain_of_thought=(
    'Weigh the coherence, accuracy, coverage and overall quality of each '
    'summary, and explain which one is better. Rationale:'
  ),
)
