"""Who judges the policies in an evaluation.

The tiny world's oracle, a reward model or a labeler with a scoring prompt give
every response a score; a labeler with a pairwise prompt compares two responses
in both orders; people do either, on the rating page. Or the samples are of a
file that has their scores.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from rlaif_jax import sharding
from rlaif_jax.core import logprobs as logprobs_lib
from rlaif_jax.data import datasets, pipeline
from rlaif_jax.data.datasets import Example
from rlaif_jax.evaluators import _agreement
from rlaif_jax.labeler import direct, preference, prompts
from rlaif_jax.rewards import reward_model
from rlaif_jax.stages import _labelers, _people, _samples, common
from rlaif_jax.training import workdir as workdir_lib

NAMES = ('oracle', 'labeler', 'reward_model', 'human', 'file', 'none')
_SHARED = ('exemplars', 'rationale', *_labelers.LOADED)

Samples = Mapping[str, Sequence[str]]
Scorer = Callable[[Sequence[str]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Verdicts:
  """What the judge said of n prompts; NaN where nothing.

  Attributes:
    scores: of the responses of each policy [n].
    preferred: preference for the first of two policies [n].
    averaged: the same by the mean of both orders [n].
    flipped: whether the verdict changed with the order [n].
  """

  scores: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  preferred: dict[tuple, np.ndarray] = dataclasses.field(default_factory=dict)
  averaged: dict[tuple, np.ndarray] = dataclasses.field(default_factory=dict)
  flipped: dict[tuple, np.ndarray] = dataclasses.field(default_factory=dict)

  def rows(self, count: int) -> np.ndarray:
    """Places of the prompts where all that is scored has a score [m].

    People score some prompts only, and policies are compared on the same ones.
    """
    if not self.scores:
      return np.arange(count)
    return np.flatnonzero(np.isfinite(list(self.scores.values())).all(0))


def config() -> ConfigDict:
  """A judge block: who, and of a labeler how it is asked."""
  shared = _labelers.config()
  return ConfigDict(
    dict(
      # 'oracle' (tiny world), 'labeler', 'reward_model', 'human', 'file' (the
      # scores that `config.samples` has) or 'none'
      name='oracle',
      # Of the labeler or reward model; of 'human' the key of the rating page
      path='',
      ratings=(),  # of 'human': the files that raters saved
      # Of a labeler. One that scores, or a pairwise one, which compares
      prompt='summary_score',
      **{key: shared[key] for key in _SHARED},
    )
  )


def check(config: ConfigDict, policies: Sequence[str]) -> None:
  """What can be known to be wrong with `config.judge` before it is loaded.

  Raises:
    ValueError: there is no such judge or prompt, it has no path, or the data
      has no oracle.
    FileNotFoundError: a file of ratings is not there.
  """
  block = config.judge
  if block.name not in NAMES:
    *most, last = map(repr, NAMES)
    raise ValueError(
      f'config.judge.name={block.name!r}; use {", ".join(most)} or {last}'
    )
  module = datasets.load_module(config.data.name)
  if block.name == 'oracle' and not hasattr(module, 'oracle'):
    raise ValueError(
      f'data set {config.data.name!r} has no oracle; set config.judge.name to '
      "'labeler', 'reward_model', 'human' or 'none'"
    )
  if block.name == 'labeler':
    prompt = _labelers.load_prompt(block)
    pairwise = prompt.kind == 'pairwise'
    (preference if pairwise else direct).check(prompt)
  wanted = {
    'labeler': 'the labeler that judges',
    'reward_model': 'the reward model that judges',
    'human': 'the key of the rating page',
  }
  if block.name in wanted and not block.path:
    raise ValueError(f'config.judge.path is empty: name {wanted[block.name]}')
  if block.name == 'human':
    _people.load(block, policies)
  if block.name == 'file':
    if not config.samples:
      raise ValueError(
        "config.judge.name='file' takes the scores of config.samples, which is "
        'empty'
      )
    _samples.scores_in(config)


def describe(config: ConfigDict) -> dict:
  """Name of the judge, and how good it is as far as that is known.

  A reward model that the reward stage left says what it reached on the pairs
  that were held out from it.
  """
  block = config.judge
  found = {'name': block.name}
  if block.name == 'labeler':
    found |= {'of': pathlib.Path(block.path).name, 'prompt': block.prompt}
    if _labelers.load_prompt(block).kind == 'pairwise':
      found['orders'] = 'both'
  if block.name == 'human':
    found['ratings'] = [pathlib.Path(file).name for file in block.ratings]
  if block.name == 'reward_model':
    found['of'] = pathlib.Path(block.path).name
    if (pathlib.Path(block.path) / 'config.json').is_file():
      found |= workdir_lib.finished(block.path) or {}
  return found


def judge(
  s: common.Session, examples: Sequence[Example], samples: Samples
) -> Verdicts:
  """What the judge of the config says of all samples."""
  block = s.config.judge
  if block.name == 'none':
    return Verdicts()
  if block.name == 'file':
    return Verdicts(_samples.scores_in(s.config))
  if block.name == 'human':
    scores, preferred = _people.verdicts(block, examples, list(samples))
    return Verdicts(scores, preferred)
  if block.name == 'labeler':
    prompt = _labelers.load_prompt(block)
    if prompt.kind == 'pairwise':
      return by_comparison(s, prompt, examples, samples)
    scorer = labeler_scorer(s, prompt, examples)
  elif block.name == 'oracle':
    oracle = datasets.load_module(s.config.data.name).oracle
    scorer = each(oracle, examples)
  else:
    scorer = by_reward_model(s, examples)
  return Verdicts({name: scorer(texts) for name, texts in samples.items()})


def each(
  rule: Callable[[Example, str], float], examples: Sequence[Example]
) -> Scorer:
  """scorer(responses) -> scores [n] of a rule for one response."""
  return lambda texts: np.array(
    [rule(e, t) for e, t in zip(examples, texts, strict=True)], float
  )


def labeler_scorer(
  s: common.Session,
  prompt: prompts.LabelPrompt,
  examples: Sequence[Example],
  labeler=None,
) -> Scorer:
  """scorer(responses) -> scores [n] by a scoring prompt, higher is better."""
  block = s.config.judge
  labeler = labeler or _labelers.load(block, block.path, s)
  fields, ids = [e.fields for e in examples], [e.id for e in examples]
  thinking = _labelers.thinking(block, s.config.seed)
  return lambda texts: direct.score_responses(
    labeler, prompt, fields, texts, ids=ids, thinking=thinking
  )


def by_reward_model(s: common.Session, examples: Sequence[Example]) -> Scorer:
  """Scores less their mean over the comparisons it was trained on, over std.

  So 0 is as good as the average response of those comparisons.
  """
  block, size = s.config.judge, s.config.judge.batch_size
  model = reward_model.make(
    block, policy_tokenizer=None, mesh=s.mesh, rules=s.rules
  )
  examples = common.fit_prompts(
    examples,
    model.tokenizer,
    s.config.max_prompt,
    s.config.data.overflow,
    common.source(s.config.data),
  )

  def scorer(texts: Sequence[str]) -> np.ndarray:
    scores = []
    for rows, _ in pipeline.eval_batches(len(texts), size):
      found = model.score_texts(
        [examples[i] for i in rows], [texts[i] for i in rows]
      )
      scores.append(sharding.to_host(found))
    return np.concatenate(scores)[: len(texts)]

  return scorer


# -- comparisons --------------------------------------------------------------


def pairs_of(config: ConfigDict, policies: Sequence[str]) -> list[tuple]:
  """Which policies are compared: all with the baseline, then head to head.

  All with each other where the ranking wants it.
  """
  if 'ranking' in config.evals:
    return list(itertools.combinations(policies, 2))
  rest = [(n, config.baseline) for n in policies if n != config.baseline]
  return list(dict.fromkeys([*rest, *map(tuple, config.head_to_head)]))


def by_comparison(
  s: common.Session,
  prompt: prompts.LabelPrompt,
  examples: Sequence[Example],
  samples: Samples,
) -> Verdicts:
  """Every pair of responses in both orders; a win needs both, else a tie.

  The same response twice is a tie that nobody is asked about. What does not
  fit the labeler is left out, with a warning of its own.
  """
  block, found = s.config.judge, Verdicts()
  labeler = _labelers.load(block, block.path, s)
  thinking = _labelers.thinking(block, s.config.seed)
  for a, b in pairs_of(s.config, list(samples)):
    texts = list(zip(samples[a], samples[b], strict=True))
    asked = [i for i, (x, y) in enumerate(texts) if x != y]
    labels = preference.label_pairs(
      labeler,
      prompt,
      [(examples[i].id, examples[i].fields, texts[i]) for i in asked],
      thinking=thinking,
    )
    orders = np.full((len(texts), 2), 0.5)  # p of A, in either order
    for i, label in zip(asked, labels, strict=True):
      orders[i] = np.nan if label is None else _orders(label, prompt.prefers)
    known = np.isfinite(orders[:, 0])
    p_12, p_21 = orders[known].T
    place = a, b
    for table, values in (
      (found.preferred, _agreement.both_orders(p_12, p_21)),
      (found.averaged, _agreement.averaged_orders(p_12, p_21)),
      (found.flipped, (p_12 - 0.5) * (p_21 - 0.5) < 0),
    ):
      table[place] = np.full(len(texts), np.nan)
      table[place][known] = values
  return found


def _orders(label: preference.PairLabel, prefers: str) -> tuple[float, float]:
  """Probability that the first response is better, by each order alone."""
  logprobs = np.array([label.logprobs_12, label.logprobs_21])
  first = np.asarray(logprobs_lib.label_distribution(logprobs))
  p_12, p_21 = first[0, 0], first[1, 1]
  return (p_12, p_21) if prefers == 'better' else (1 - p_12, 1 - p_21)
