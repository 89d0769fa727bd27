"""Scores by conversational context: where does a policy do well, and where not?

What helps in small talk may harm in a crisis. So prompts are put into contexts
(everyday, emotional support, sensitive questions, mental health), and the mean
of every axis that a judge has scored (such as harmlessness, helpfulness,
sentiment and empathy) is given for each, with the paired gain over the
baseline on the same prompts.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlaif_jax import evaluators
from rlaif_jax.evaluators import statistics

EVERYDAY, EMOTIONAL, SENSITIVE, MENTAL = CONTEXTS = (
  'everyday',
  'emotional_support',
  'sensitive',
  'mental_health',
)
ALL = 'all'

# What the person's last turn speaks of, as stems of words.
_MENTAL = re.compile(
  r'\b(depress(ed|ion|ive)|anxiety|anxious|panic attack|suicid|self[- ]harm'
  r'|(kill|hurt|cut)(ing)? myself|therap(y|ist)|psychiatr|antidepress|bipolar'
  r'|schizo|ptsd|ocd\b|adhd|anorexi|bulimi|eating disorder|mental(ly)? (health'
  r"|ill)|burn(ed|t)? ?out|want to die|don['’]?t want to live)",
  re.IGNORECASE,
)
_EMOTIONAL = re.compile(
  r'\b(i(\W{1,2}m| am| feel| felt) (\w+ ){0,2}(sad|lonely|alone|upset|angry'
  r'|hurt|scared|afraid|worried|nervous|jealous|guilty|ashamed|stressed|tired'
  r'|overwhelmed|hopeless|heartbroken|devastated|unhappy|miserable)|grie(f|v)'
  r'|heartbr|broke up|break ?up\b|passed away|lonel|(makes|made) me (\w+ )?(sad'
  r'|cry|angry|nervous|jealous|tired)|crying|feel(ing)? (down|bad|low)\b)',
  re.IGNORECASE,
)
_SENSITIVE = re.compile(
  r'\b(murder|kill|steal|stole|shoplift|hack|bomb|weapon|gun\b|guns\b|drugs?\b'
  r'|cocaine|heroin|meth\b|marijuana|weed\b|sex(ual|ually|y)?\b|porn|rap(e|ed|'
  r'ist)\b|abus(e|ed|ive)|abortion|racis|racial|nazi|gays?\b|lesbian'
  r'|transgender|immigra|religio|muslim|jew(s|ish)?\b|terroris|illegal|prison'
  r'|torture|poison|slur|hate\b|fraud|forge|stalk|politic|vote for)',
  re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class Config(evaluators.Config):
  """Options of the scores by context.

  Attributes:
    key: entry of the examples' `meta` that names the context; prompts without
      it are put into one by what is said in them.
    harmful_key: entry that is true where a prompt asks for harm, which is a
      sensitive one whatever its words.
  """

  key: str = 'context'
  harmful_key: str = 'harmful'


def context_of(prompt: str) -> str:
  """The context of a dialogue, by the words of its last human turn.

  Word lists, checked from the rarest context to the most common: repeatable
  and cheap, and blind to what is only implied.
  """
  turn = prompt.rpartition('Human:')[2].partition('\n\nAssistant:')[0]
  for name, words in (
    (MENTAL, _MENTAL),
    (EMOTIONAL, _EMOTIONAL),
    (SENSITIVE, _SENSITIVE),
  ):
    if words.search(turn):
      return name
  return EVERYDAY


def contexts(examples: Sequence[Any], config: Config) -> np.ndarray:
  """The context of each example [n]."""

  def of(example) -> str:
    named = example.meta.get(config.key)
    if isinstance(named, str) and named:
      return named
    found = context_of(example.prompt)
    asks_for_harm = bool(example.meta.get(config.harmful_key))
    return SENSITIVE if asks_for_harm and found == EVERYDAY else found

  return np.array([of(example) for example in examples])


def evaluate(context: evaluators.Context, config: Config) -> dict[str, float]:
  """`context/<context>/<axis>/<policy>` with `_ci_low` and `_ci_high`.

  Of contestants `context_gain/...` too, the mean paired difference to the
  baseline, with its interval and the `_p_value` of the exact sign test over
  prompts. The context 'all' has all of them; `context/<context>/prompts` says
  how many examples it has.

  Raises:
    ValueError: no axis was scored, or a score is not finite.
  """
  if not context.axes:
    raise ValueError(
      'contexts needs scores of an axis, such as empathy; name what scores it '
      '(of the evaluate stage: config.axes)'
    )
  member = contexts(context.examples, config)
  clusters = context.clusters()
  names = [n for n in CONTEXTS if n in member]
  names += sorted(set(member.tolist()) - set(CONTEXTS))
  metrics: dict[str, float] = {}
  for name in (*names, ALL):
    rows = np.flatnonzero((member == name) | (name == ALL))
    metrics[f'context/{name}/prompts'] = len(rows)
    for axis, scores in context.axes.items():
      found = {p: _scores(scores, p, axis)[rows] for p in context.samples}
      metrics |= _of_one(
        f'{name}/{axis}', found, context.baseline, clusters[rows], config
      )
  return metrics


def _of_one(
  place: str,
  scores: Mapping[str, np.ndarray],
  baseline: str,
  clusters: np.ndarray,
  config: Config,
) -> dict[str, float]:
  """Means and gains of all policies on one axis in one context."""
  metrics = {}
  for policy, values in scores.items():
    made = {f'context/{place}/{policy}': values}
    if policy != baseline:
      made[f'context_gain/{place}/{policy}'] = values - scores[baseline]
    for key, each in made.items():
      ci = statistics.bootstrap_ci(
        each, clusters=clusters, **config.bootstrap()
      )
      metrics |= {key: float(each.mean()), **evaluators.interval(key, ci)}
      if key.startswith('context_gain'):
        metrics[f'{key}_p_value'] = statistics.sign_test(each, clusters)
  return metrics


def _scores(scores: Mapping[str, Any], policy: str, axis: str) -> np.ndarray:
  if policy not in scores:
    raise ValueError(f'{axis}: policy {policy!r} was not scored')
  return statistics.finite(scores[policy], f'{axis} of policy {policy!r}')
