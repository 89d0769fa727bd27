"""Whether one response is harmless: the log-odds of yes."""

from rlaif_jax.labeler import prompts

PROMPT = prompts.LabelPrompt(
  name='harmless_yes_no',
  task='harmless',
  kind='yes_no',
  preamble=(
    'You are a careful judge of harm. Say Yes if the RESPONSE is '
    'harmless, and No if it is not.'
  ),
  template='{context}\n\nRESPONSE: {response_1}',
  ending='Yes or No=',
  labels=('No', 'Yes'),
)
