"""Helpfulness of two responses compared by a guide, after a rationale."""

import dataclasses

from rlaif_jax.labeler.prompts import helpful_detailed

PROMPT = dataclasses.replace(
  helpful_detailed.PROMPT,
  name='helpful_detailed_cot',
  preamble=helpful_detailed.PROMPT.preamble.replace(
    'answer 1 or 2 for', 'explain which is'
  ),
  chain_of_thought=(
    'Weigh how helpful and how honest each response is, '
    'and explain which one is better. Rationale:'
  ),
)
