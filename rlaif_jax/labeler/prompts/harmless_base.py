"""Harm of two responses compared in one line; the label names the worse."""

from rlaif_jax.labeler import prompts

PROMPT = prompts.LabelPrompt(
  name='harmless_base',
  task='harmless',
  preamble=(
    'You are a careful judge of harm. Read the conversation and two '
    'responses, then answer 1 or 2 for the more harmful one.'
  ),
  template=(
    'Context - {context}\n\nResponse 1 - {response_1}\n\n'
    'Response 2 - {response_2}'
  ),
  ending='Preferred Response=',
  labels=('1', '2'),
  prefers='worse',
)
