"""Whether one summary is good: the log-odds of yes."""

from rlaif_jax.labeler import prompts

PROMPT = prompts.LabelPrompt(
  name='summary_yes_no',
  task='summarization',
  kind='yes_no',
  preamble=(
    'You are a careful judge of summaries. Say Yes if the SUMMARY is '
    'a good summary of the text, and No if it is not.'
  ),
  template='{text}\n\nSUMMARY: {response_1}',
  ending='Yes or No=',
  labels=('No', 'Yes'),
)
