"""One response graded from 1 to 10 on each line of a rubric."""

from rlaif_jax.labeler import prompts

PROMPT = prompts.LabelPrompt(
  name='helpful_rubric',
  task='helpful',
  kind='score',
  preamble=(
    'You are a careful judge of assistants. Give the RESPONSE a SCORE from 1 '
    'to 10 for one thing alone: {criterion}.'
  ),
  template='{context}\n\nRESPONSE: {response_1}',
  ending='SCORE=',
  labels=tuple(str(score) for score in range(1, 11)),
  criteria=(
    prompts.Criterion('how well it answers what was asked', 2.0),
    prompts.Criterion('how true it is, and how open about doubt', 2.0),
    prompts.Criterion('how fitting its tone and length are'),
  ),
)
