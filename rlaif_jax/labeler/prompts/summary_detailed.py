"""Summaries compared on four explained axes (detailed preamble)."""

from rlaif_jax.labeler import prompts

PROMPT = prompts.LabelPrompt(
  name='summary_detailed',
  task='summarization',
  preamble=(
    'A good summary is short and serves the reader in place of the text. '
    'Coherence: it is clear on its own, which matters more than grammar. '
    'Accuracy: all it says is in the text and about the right people, '
    'and nothing misleads. Coverage: it keeps the main facts and the '
    'purpose, such as the advice asked for. Overall quality: all of these '
    'together; a summary hard to improve is good.\n\n'
    'You are a careful judge of summaries. Compare the two summaries on '
    'coherence, accuracy, coverage and overall quality, then answer 1 or '
    '2 for the better one.'
  ),
  template=(
    'Text - {text}\n\nSummary 1 - {response_1}\n\nSummary 2 - {response_2}'
  ),
  ending='Preferred Summary=',
  labels=('1', '2'),
)
