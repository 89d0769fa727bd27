"""Scores of responses on several axes, such as harmlessness and empathy.

`config.axes` maps the name of an axis to what scores it:

  PROMPT        a scoring prompt, by name or JSON path, that the labeler of
                `config.judge` answers: 1 to 10, or P(yes) of a yes-or-no one
  oracle:AXIS   an axis of the data set's own oracle (the tiny world's)
  has:a|b       1 where the response has one of these phrases, else 0
  lacks:a|b     the other way round
"""

from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from rlaif_jax.data import datasets
from rlaif_jax.data.datasets import Example
from rlaif_jax.evaluators import statistics
from rlaif_jax.labeler import direct
from rlaif_jax.stages import _judges, _labelers, common


def check(config: ConfigDict) -> None:
  """Raises for an axis that nothing can score; names its key."""
  for name, rule in config.axes.items():
    kind, rest = _parts(rule)
    key = f'config.axes.{name}={rule!r}'
    if kind == 'oracle':
      module = datasets.load_module(config.data.name)
      if not hasattr(module, 'oracle_axes'):
        raise ValueError(f'{key}: {config.data.name!r} has no oracle')
    elif kind in ('has', 'lacks'):
      if not all(rest.split('|')):
        raise ValueError(f'{key}: phrases are separated by |, none is empty')
    else:
      direct.check(_labelers.load_prompt(config.judge, rule))
      if not config.judge.path:
        raise ValueError(
          f'{key} is a labeling prompt: name the labeler that answers it as '
          'config.judge.path'
        )


def describe(config: ConfigDict) -> dict[str, str]:
  """What scored each axis, in words."""
  labeler = config.judge.path.rstrip('/').rpartition('/')[2]

  def words(rule: str) -> str:
    kind, rest = _parts(rule)
    if kind == 'oracle':
      return f"the oracle's {rest}"
    if kind:
      return f'{kind} one of: {", ".join(rest.split("|"))}'
    return f'labeler {labeler} with the prompt {rule}'

  return {name: words(rule) for name, rule in config.axes.items()}


def score(
  s: common.Session, examples: Sequence[Example], samples: _judges.Samples
) -> dict[str, dict[str, np.ndarray]]:
  """Scores [n] by axis and policy."""
  block, labeler, found = s.config.judge, None, {}
  for name, rule in s.config.axes.items():
    kind, rest = _parts(rule)
    if kind:
      scorer = _judges.each(_rule(s.config, kind, rest), examples)
    else:
      labeler = labeler or _labelers.load(block, block.path, s)
      prompt = _labelers.load_prompt(block, rule)
      scorer = _judges.labeler_scorer(s, prompt, examples, labeler)
      if prompt.kind == 'yes_no':
        scorer = _probability(scorer)
    found[name] = {policy: scorer(texts) for policy, texts in samples.items()}
  return found


def _parts(rule: str) -> tuple[str, str]:
  """('oracle', 'has' or 'lacks', what follows), or ('', a prompt)."""
  kind, colon, rest = rule.partition(':')
  return (kind, rest) if colon and kind in _KINDS else ('', rule)


_KINDS = ('oracle', 'has', 'lacks')


def _rule(config: ConfigDict, kind: str, rest: str):
  if kind == 'oracle':
    axes = datasets.load_module(config.data.name).oracle_axes
    return lambda example, text: axes(example, text)[rest]
  phrases, wanted = rest.lower().split('|'), kind == 'has'
  return lambda example, text: wanted == any(p in text.lower() for p in phrases)


def _probability(scorer: _judges.Scorer) -> _judges.Scorer:
  return lambda texts: statistics.sigmoid(scorer(texts))
