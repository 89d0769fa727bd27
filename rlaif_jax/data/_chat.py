"""Conversations as text, by a tokenizer's own chat template."""

from collections.abc import Mapping, Sequence

import jinja2


def render(
  template: str,
  messages: Sequence[Mapping[str, str]],
  special: Mapping[str, str],
) -> str:
  """The text of `messages`, up to where the assistant speaks next.

  Args:
    template: Jinja, as transformers runs it (in a sandbox).
    messages: each with a 'role' and its 'content'.
    special: 'bos_token', 'eos_token' and so on, for the template to write.

  Raises:
    ValueError: the template is broken, or refuses these messages.
  """
  from transformers.utils import chat_template_utils

  try:
    (text,), _ = chat_template_utils.render_jinja_template(
      [[dict(m) for m in messages]],
      chat_template=template,
      add_generation_prompt=True,
      **special,
    )
  except jinja2.TemplateError as e:
    raise ValueError(f'the chat template refuses: {e}') from e
  return text
