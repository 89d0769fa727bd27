"""Summaries compared by a guide, after a rationale."""

import dataclasses

from rlaif_jax.labeler.prompts import summary_detailed

PROMPT = dataclasses.replace(
  summary_detailed.PROMPT,
  name='summary_detailed_cot',
  preamble=summary_detailed.PROMPT.preamble.replace(
    'answer 1 or 2 for', 'explain which is'
  ),
  chain_of_thought=(
    'Weigh the coherence, accuracy, coverage and overall quality of each '
    'summary, and explain which one is better. Rationale:'
  ),
)
