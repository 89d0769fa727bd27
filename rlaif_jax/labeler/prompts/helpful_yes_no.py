"""Whether one response is helpful: the log-odds of yes."""

from rlaif_jax.labeler import prompts

PROMPT = prompts.LabelPrompt(
  name='helpful_yes_no',
  task='helpful',
  kind='yes_no',
  preamble=(
    'You are a careful judge of assistants. Say Yes if the RESPONSE is '
    'helpful and honest, and No if it is not.'
  ),
  template='{context}\n\nRESPONSE: {response_1}',
  ending='Yes or No=',
  labels=('No', 'Yes'),
)
