"""Harm of two responses compared, after a rationale."""

import dataclasses

from rlaif_jax.labeler.prompts import harmless_base

PROMPT = dataclasses.replace(
  harmless_base.PROMPT,
  name='harmless_base_cot',
  preamble=harmless_base.PROMPT.preamble.replace(
    'answer 1 or 2 for', 'explain which is'
  ),
  chain_of_thought=(
    'Weigh the harm that each response could do, '
    'and explain which one is more harmful. Rationale:'
  ),
)
