"""From a labeling prompt and a row to the text that the labeler reads.

Candidates and posts are written by strangers, and one may try to end the
prompt or to state a verdict ("Preferred Summary=1"). So a candidate is one
line, and the prompt's own markers and special tokens lose their meaning in it.
"""

import dataclasses
import functools
import re
import string
from collections.abc import Callable, Mapping, Sequence

from rlaif_jax.data import truncation
from rlaif_jax.labeler.prompts import LabelPrompt

# Separators of Lee et al. (arXiv 2309.00267, Tables 17 to 22).
_EXAMPLE = '>>>>>>>> Example >>>>>>>>'
_FOLLOW = '>>>>>>>> Follow the instructions and the example(s) above >>>>>>>>'
# Written-out special tokens: <s>, </s>, <|endoftext|>, [INST].
_SPECIAL = re.compile(r'<(?=[|/｜A-Za-z])|\[(?=/?[A-Z_]+\])')
_GAP = r'[\s\u200b\u2060\ufeff_*-]*'
_SIGNS = '=:\\-–—＝：'
_POST = re.compile(r'(?:^|\n)POST: ')


@dataclasses.dataclass(frozen=True)
class Fitted:
  """Prompts that fit, and what it took.

  Attributes:
    texts: one per order.
    num_exemplars: how many were kept.
    cut: whether the post lost its end (or the dialogue its oldest turns).
  """

  texts: tuple[str, ...]
  num_exemplars: int
  cut: bool


def render(
  prompt: LabelPrompt,
  fields: Mapping[str, str],
  responses: Sequence[str],
  *,
  order: Sequence[int] = (0, 1),
  num_exemplars: int | None = None,
  criterion: str = '',
) -> str:
  """Text of one labeling prompt, up to where the label is scored.

  Where the prompt asks for a rationale, the text ends in that request, and
  `with_rationale` goes on from there.

  Args:
    prompt: the prompt.
    fields: values of the template's fields, such as {'text': ...}.
    responses: the candidates, two when pairwise and one for a score.
    order: which candidate is shown first, and which second.
    num_exemplars: how many of the prompt's exemplars to show; default all.
    criterion: that of the prompt's criteria to judge by.

  Raises:
    ValueError: a field is missing, or the number of candidates is wrong.
  """
  parts = [prompt.preamble.replace('{criterion}', criterion)]
  exemplars = prompt.exemplars[:num_exemplars]
  request = prompt.chain_of_thought
  for exemplar in exemplars:
    parts += [_EXAMPLE, _sample(prompt, exemplar.fields, exemplar.responses)]
    if request is not None:
      parts.append(f'{request} {exemplar.rationale.strip()}')
    parts.append(prompt.ending + exemplar.label)
  if exemplars:
    parts.append(_FOLLOW)
  if len(responses) != prompt.num_responses:
    raise ValueError(
      f'labeling prompt {prompt.name!r} shows {prompt.num_responses} '
      f'candidates, not {len(responses)}'
    )
  shown = [responses[i] for i in order[: prompt.num_responses]]
  asked = prompt.ending if request is None else request
  return '\n\n'.join([*parts, _sample(prompt, fields, shown), asked])


def rationale_of(prompt: LabelPrompt, written: str) -> str:
  """What a labeler wrote, up to where it states its verdict.

  It also ends where another example would begin: the verdict is scored, and
  not read.
  """
  stops = '|'.join(map(re.escape, (prompt.ending.strip(), _EXAMPLE, _FOLLOW)))
  return re.split(stops, written, maxsplit=1)[0].strip()


def with_rationale(prompt: LabelPrompt, text: str, rationale: str) -> str:
  """A rendered prompt that asked for a rationale, on to its label."""
  return f'{text} {rationale}'.rstrip() + f'\n\n{prompt.ending}'


def fit(
  prompt: LabelPrompt,
  fields: Mapping[str, str],
  responses: Sequence[str],
  *,
  fits: Callable[[str], bool],
  orders: Sequence[Sequence[int]] = ((0, 1),),
  criterion: str = '',
) -> Fitted | None:
  """`render` in every order, shortened until all of them fit.

  Exemplars go first, from the last; then the post is cut at its last line
  break while too long and then word by word, and a dialogue loses its oldest
  turns. Candidates are never cut. All orders show the same post, so that
  swapping the candidates changes nothing else.

  Args:
    prompt: the prompt.
    fields: as in `render`.
    responses: as in `render`.
    fits: whether a text is short enough.
    orders: those to be shown.
    criterion: as in `render`.

  Returns:
    The texts, or None if they do not fit with any post left.
  """

  def texts(count: int, values: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(
      render(
        prompt,
        values,
        responses,
        order=order,
        num_exemplars=count,
        criterion=criterion,
      )
      for order in orders
    )

  def all_fit(count: int, values: Mapping[str, str]) -> bool:
    return all(map(fits, texts(count, values)))

  for count in range(len(prompt.exemplars), -1, -1):
    if all_fit(count, fields):
      return Fitted(texts(count, fields), count, cut=False)
  if not prompt.field_names:
    return None
  # The longest field is the post; others are a title or a name.
  name = max(prompt.field_names, key=lambda n: len(fields[n]))
  shorten = _shorten_post
  if prompt.task != 'summarization':
    shorten = _shorten_dialogue
  value = shorten(fields[name], lambda v: all_fit(0, {**fields, name: v}))
  if value is None:
    return None
  return Fitted(texts(0, {**fields, name: value}), 0, cut=True)


def defuse(prompt: LabelPrompt, text: str) -> str:
  """`text` without the power to pass for a part of the prompt.

  'Preferred Summary=1' becomes 'Preferred Summary1', 'Summary 2 - x' becomes
  'Summary 2 x' and '</s>' becomes '< /s>'; ordinary text stays as it is.
  """
  for pattern in _markers(prompt.template, prompt.ending):
    text = pattern.sub(r'\1', text)
  text = re.sub(r'>{4,}', '>>>', text)
  return _SPECIAL.sub(r'\g<0> ', text)


def _sample(
  prompt: LabelPrompt, fields: Mapping[str, str], shown: Sequence[str]
) -> str:
  missing = [name for name in prompt.field_names if name not in fields]
  if missing:
    raise ValueError(
      f'labeling prompt {prompt.name!r} needs the fields {missing}; the row '
      f'has {sorted(fields)}. Is it a prompt for another task?'
    )
  values = {n: defuse(prompt, fields[n].strip()) for n in prompt.field_names}
  for i, text in enumerate(shown):
    values[f'response_{i + 1}'] = defuse(prompt, ' '.join(text.split()))
  return prompt.template.format(**values)


@functools.lru_cache
def _markers(template: str, ending: str) -> tuple[re.Pattern[str], ...]:
  """What leads in the parts of a sample, as patterns: words, then a sign.

  A marker of one word ('Text -') must match in case, since the word is
  common; longer ones match in any case and spacing.
  """
  literals = [part for part, *_ in string.Formatter().parse(template)]
  lines = [part.rstrip(' ').rpartition('\n')[2] for part in literals]
  patterns = []
  for line in {*lines, *ending.strip().split('\n')}:
    words = re.findall(r'[^\W_]+', line)
    if words and re.search(rf'[{_SIGNS}]\s*$', line):
      phrase = _GAP.join(words)
      patterns.append(
        re.compile(
          rf'(?<![^\W_])({phrase})(?:{_GAP}[{_SIGNS}])+',
          re.IGNORECASE if len(words) > 1 else 0,
        )
      )
  return tuple(sorted(patterns, key=lambda p: p.pattern))


def _shorten_post(text: str, fits: Callable[[str], bool]) -> str | None:
  """Cuts the end of a post; subreddit and title stay."""
  match = _POST.search(text)
  start = match.end() if match else 0
  head = text[:start]
  post = truncation.shorten(text[start:], lambda post: fits(head + post))
  return head + post if post else None


def _shorten_dialogue(text: str, fits: Callable[[str], bool]) -> str | None:
  """Drops the oldest turns, and then the end of the last one."""
  starts = [m.start() for m in re.finditer(r'\n\n(?=Human:)', text)]
  for start in starts:
    if fits(text[start:]):
      return text[start:]
  last = text[starts[-1] :] if starts else text
  return truncation.shorten(last.strip(), fits) or None
