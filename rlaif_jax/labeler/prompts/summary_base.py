"""Summaries compared in one line (base preamble)."""

from rlaif_jax.labeler import prompts

PROMPT = prompts.LabelPrompt(
  name='summary_base',
  task='summarization',
  preamble=(
    'You are a careful judge of summaries. Read the text and its two '
    'summaries, then answer 1 or 2 for the better one.'
  ),
  template=(
    'Text - {text}\n\nSummary 1 - {response_1}\n\nSummary 2 - {response_2}'
  ),
  ending='Preferred Summary=',
  labels=('1', '2'),
)
