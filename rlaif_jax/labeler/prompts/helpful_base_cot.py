"""Helpfulness of two responses compared, after a rationale."""

import dataclasses

from rlaif_jax.labeler.prompts import helpful_base

PROMPT = dataclasses.replace(
  helpful_base.PROMPT,
  name='helpful_base_cot',
  preamble=helpful_base.PROMPT.preamble.replace(
    'answer 1 or 2 for', 'explain which is'
  ),
  chain_of_thought=(
    'Weigh how helpful and how honest each response is, '
    'and explain which one is better. Rationale:'
  ),
)
