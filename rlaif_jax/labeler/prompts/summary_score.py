"""One summary graded from 1 to 10 (direct RLAIF)."""

from rlaif_jax.labeler import prompts

PROMPT = prompts.LabelPrompt(
  name='summary_score',
  task='summarization',
  kind='score',
  preamble=(
    'You are a careful judge of summaries. Give the SUMMARY of the text a '
    'SCORE from 1 to 10, where 1 is awful and 10 is perfect.'
  ),
  template='{text}\n\nSUMMARY: {response_1}',
  ending='SCORE=',
  labels=tuple(str(score) for score in range(1, 11)),
)
