"""One summary graded from 1 to 10 on each line of a rubric."""

from rlaif_jax.labeler import prompts

PROMPT = prompts.LabelPrompt(
  name='summary_rubric',
  task='summarization',
  kind='score',
  preamble=(
    'You are a careful judge of summaries. Give the SUMMARY of the text a '
    'SCORE from 1 to 10 for one thing alone: {criterion}.'
  ),
  template='{text}\n\nSUMMARY: {response_1}',
  ending='SCORE=',
  labels=tuple(str(score) for score in range(1, 11)),
  criteria=(
    prompts.Criterion('coherence, how clear it is on its own'),
    prompts.Criterion('accuracy, that all it says is in the text', 2.0),
    prompts.Criterion('coverage, that it keeps the main facts', 2.0),
    prompts.Criterion('overall quality, how hard it is to improve'),
  ),
)
