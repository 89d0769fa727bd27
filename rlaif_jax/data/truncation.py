"""Cutting prompts that are too long, the way each task wants it."""

import re
from collections.abc import Callable

from rlaif_jax.data.tokenizer import Tokenizer

_TLDR_ENDING = '\n\nTL;DR:'
_HUMAN = '\n\nHuman:'
_ASSISTANT = '\n\nAssistant:'


def truncate_query(
  prompt: str, max_tokens: int, tokenizer: Tokenizer, place: str = ''
) -> str:
  """Cuts a prompt to `max_tokens`, the way its task wants it.

  A TL;DR query loses the end of its post: at the last line break while it is
  too long, then word by word; subreddit, title and ending stay (Stiennon et
  al. 2020). A dialogue loses its oldest turns, and then the end
  of the last human turn.

  Args:
    prompt: a whole prompt, as in `Example.prompt`.
    max_tokens: allowed length of `tokenizer.encode(result)`.
    tokenizer: counts the tokens.
    place: where the prompt stands, for messages.

  Raises:
    ValueError: nothing is left to cut, or the prompt is of neither form; names
      the place.
  """

  def fits(text: str) -> bool:
    return len(tokenizer.encode(text)) <= max_tokens

  if fits(prompt):
    return prompt
  what = f'{place}: its prompt' if place else 'a prompt'
  if prompt.endswith(_TLDR_ENDING):
    result = _truncate_post(prompt, fits)
  elif prompt.endswith(_ASSISTANT) and _HUMAN in prompt:
    result = _truncate_dialogue(prompt, fits)
  else:
    raise ValueError(
      f'{what} of {len(tokenizer.encode(prompt))} tokens is over the limit '
      f'of {max_tokens}, and it ends in neither TL;DR: nor Assistant:, so '
      f'there is no rule for cutting it: {prompt[:60]!r}...'
    )
  if result is None:
    raise ValueError(
      f'{what} cannot be cut to {max_tokens} tokens: its fixed part alone is '
      f'longer. Raise the limit: {prompt[:60]!r}...'
    )
  return result


def shorten(text: str, fits: Callable[[str], bool]) -> str | None:
  """Longest beginning of `text` that fits, by lines, then by words.

  Cuts at the last line break while too long; where even the first line is too
  long, drops its words from the end. White space before a cut goes too.

  Args:
    text: what to cut.
    fits: whether a beginning is short enough; once true, true for shorter.

  Returns:
    The beginning ('' if no word fits), or None if not even '' fits.
  """
  lines = [m.start() for m in re.finditer(r'\n', text)]
  first = text[: lines[0]] if lines else text
  words = [m.start() for m in re.finditer(r'\s+', first)]
  cuts = [len(text), *reversed(lines), *reversed(words), 0]
  # Longest first, so the first that fits is found by bisection.
  low, high = 0, len(cuts)
  while low < high:
    middle = (low + high) // 2
    if fits(text[: cuts[middle]].rstrip()):
      high = middle
    else:
      low = middle + 1
  return text[: cuts[low]].rstrip() if low < len(cuts) else None


def _truncate_post(prompt: str, fits) -> str | None:
  body = prompt.removesuffix(_TLDR_ENDING)
  match = re.search(r'(^|\n\n)POST: ', body)
  start = match.end() if match else 0
  head = body[:start]
  post = shorten(
    body[start:], lambda text: fits((head + text).rstrip() + _TLDR_ENDING)
  )
  return None if post is None else (head + post).rstrip() + _TLDR_ENDING


def _truncate_dialogue(prompt: str, fits) -> str | None:
  starts = [m.start() for m in re.finditer(re.escape(_HUMAN), prompt)]
  for start in starts:
    if fits(prompt[start:]):
      return prompt[start:]
  last = prompt[starts[-1] :].removesuffix(_ASSISTANT)
  turn = shorten(last[len(_HUMAN) :], lambda t: fits(_HUMAN + t + _ASSISTANT))
  return None if turn is None else _HUMAN + turn + _ASSISTANT
