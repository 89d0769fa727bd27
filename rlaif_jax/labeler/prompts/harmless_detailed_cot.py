"""Harm of two responses compared by a guide, after a rationale."""

import dataclasses

from rlaif_jax.labeler.prompts import harmless_detailed

PROMPT = dataclasses.replace(
  harmless_detailed.PROMPT,
  name='harmless_detailed_cot',
  preamble=harmless_detailed.PROMPT.preamble.replace(
    'answer 1 or 2 for', 'explain which is'
  ),
  chain_of_thought=(
    'Weigh the harm that each response could do, '
    'and explain which one is more harmful. Rationale:'
  ),
)
