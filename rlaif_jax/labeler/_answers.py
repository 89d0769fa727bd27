"""Label log-probs out of what a completions endpoint answers.

Positions are told by tokens alone: `text_offset` counts a BOS that the text
does not have (vLLM) or is -1 throughout (SGLang).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rlaif_jax.inference import score

Choice = Mapping[str, Any]

_LEAST = 2.0**-24  # a probability below this is a rounding error of the server
_UNKNOWN = '\ufffd'  # part of a character, as servers spell it


class NoEchoError(ValueError):
  """The endpoint gives no log-probs of the prompt that it echoes."""


def echo_logprobs(
  choices: Sequence[Choice],
  prompts: Sequence[str],
  labels: Sequence[str],
  where: str,
) -> list[float]:
  """Log-probability of each label, from echoed prompts.

  Labels begin where their tokens leave those of the bare prompt, so a token
  that spans the boundary ('=1') is scored whole, given what comes before it. A
  label that begins another one is scored as in `score.label_logprobs`.

  Args:
    choices: what the endpoint gave for each prompt, one more token generated.
    prompts: a text, and that text with each label.
    labels: N strings.
    where: row and address, for messages.

  Raises:
    NoEchoError: prompts are not echoed, or their log-probs are missing.
    ValueError: the vocabulary does not tell the labels apart, or leaves nothing
      of the text before them.
  """
  read = {
    prompt: _echoed(choice, prompt, label, where)
    for choice, prompt, label in zip(
      choices, prompts, ('', *labels), strict=True
    )
  }
  # The server's spelling of tokens does as well as their ids would.
  found = score.labels_to_tokens(lambda p: read[p][0], prompts[0], labels)
  start = len(read[prompts[0]][0]) - found.drop
  logprobs = [read[prompt][1][start:] for prompt in prompts[1:]]
  if not all(_is_finite(value) for row in logprobs for value in row):
    raise NoEchoError(
      f'{where} echoes the prompt, but gives no log-probs of its tokens'
    )
  return [
    sum(row) + _log_away(i, found.tokens, logprobs)
    for i, row in enumerate(logprobs)
  ]


def likeliest(choice: Choice, where: str) -> dict[str, float]:
  """Log-probs of the likeliest first tokens, by their text.

  Raises:
    ValueError: there are none.
  """
  found = choice.get('logprobs') or {}
  pairs: Any = []
  if found.get('top_logprobs'):
    pairs = (found['top_logprobs'][0] or {}).items()
  elif found.get('content'):  # as chat completions have it; llama.cpp
    tops = found['content'][0].get('top_logprobs') or []
    pairs = [(top.get('token'), top.get('logprob')) for top in tops]
  result: dict[str, float] = {}
  for token, logprob in pairs:
    if isinstance(token, str) and _is_finite(logprob):
      text = _plain(token)
      result[text] = max(logprob, result.get(text, logprob))
  if not result:
    raise ValueError(
      f'{where} returns no log-probs, and a label is scored by nothing else. '
      'Use a completions endpoint that has them, such as those of vLLM and '
      'SGLang; a chat endpoint cannot label'
    )
  return result


def top_logprobs(
  found: Mapping[str, float], labels: Sequence[str], k: int
) -> tuple[list[float], bool]:
  """(log-probability of each label, whether any label was found).

  A label that is not found gets the log-prob of the k-th token, or an even
  share of what the k leave over, whichever is less: so the probabilities of all
  labels sum to at most 1.

  Args:
    found: log-probs of at least one token.
    labels: N strings of one token each.
    k: how many of the tokens count.
  """
  best = sorted(found.values(), reverse=True)[:k]
  missing = [label for label in labels if label not in found]
  rest = max(1 - sum(map(math.exp, best)), _LEAST)
  bound = min(best[-1], math.log(rest / max(len(missing), 1)))
  values = [found.get(label, bound) for label in labels]
  return values, len(missing) < len(labels)


def _echoed(
  choice: Choice, prompt: str, label: str, where: str
) -> tuple[tuple[str, ...], list[float | None]]:
  """Tokens of a prompt and their log-probs, less the one that was generated."""
  text, found = choice['text'], choice.get('logprobs') or {}
  tokens = tuple(found.get('tokens') or ())
  logprobs = list(found.get('token_logprobs') or ())
  if not text.startswith(prompt):
    raise NoEchoError(f'{where} does not echo the prompt')
  if not tokens or len(tokens) != len(logprobs):
    raise NoEchoError(f'{where} gives no log-probs with the prompt it echoes')
  # An end of text adds nothing to the text; some servers list it nonetheless.
  if len(text) > len(prompt) or not (tokens[-1] and _ends(tokens, label)):
    tokens, logprobs = tokens[:-1], logprobs[:-1]
  readable = not all(t.startswith('token_id:') for t in tokens)
  if readable and not _ends(tokens, label) and _UNKNOWN not in tokens[-1]:
    raise NoEchoError(
      f'{where} echoes {(prompt)[-20:]!r} as tokens that end in '
      f'{tokens[-5:]}, which is something else'
    )
  return tokens, logprobs


def _log_away(
  i: int,
  tokens: Sequence[tuple[Any, ...]],
  logprobs: Sequence[Sequence[float]],
) -> float:
  """Log-prob that what follows label i is the rest of no other label."""
  size = len(tokens[i])
  longer = [
    j
    for j, other in enumerate(tokens)
    if len(other) > size and other[:size] == tokens[i]
  ]
  # One that goes on from another longer one is part of that one's case.
  first = [
    j
    for j in longer
    if not any(
      k != j and tokens[j][: len(tokens[k])] == tokens[k] for k in longer
    )
  ]
  rest = sum(math.exp(sum(logprobs[j][size:])) for j in first)
  return math.log(max(1 - rest, _LEAST))


def _ends(tokens: Sequence[str], label: str) -> bool:
  """Whether tokens end in the label; some servers lose white space."""
  return _squeezed(_plain(''.join(tokens))).endswith(_squeezed(label))


def _squeezed(text: str) -> str:
  return ''.join(text.split())


def _plain(token: str) -> str:
  """Text of a token that may be spelled as its vocabulary does."""
  return token.replace('Ġ', ' ').replace('▁', ' ').replace('Ċ', '\n')


def _is_finite(value: Any) -> bool:
  return isinstance(value, int | float) and math.isfinite(value)
