"""Helpfulness of two responses compared in one line (base preamble)."""

from rlaif_jax.labeler import prompts

PROMPT = prompts.LabelPrompt(
  name='helpful_base',
  task='helpful',
  preamble=(
    'You are a careful judge of assistants. Read the conversation and two '
    'responses, then answer 1 or 2 for the more helpful and honest one.'
  ),
  template=(
    'Context - {context}\n\nResponse 1 - {response_1}\n\n'
    'Response 2 - {response_2}'
  ),
  ending='Preferred Response=',
  labels=('1', '2'),
)
