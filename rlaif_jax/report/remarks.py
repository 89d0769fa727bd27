"""At a glance: what the numbers say that is easily overlooked.

Every sentence follows from a rule that is written here, never from a guess.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlaif_jax.report import labelers, looks, policies, rewards
from rlaif_jax.report.blocks import Note, Section, is_number, percent, plain
from rlaif_jax.report.policies import WIN, Evaluation, mark
from rlaif_jax.report.runs import Run

# From here on a labeler that prefers a slot says little of the responses.
_BIASED = 0.5
# Log-probs of the sampler and of the trained program should be equal (nats).
_GAP = 0.05


def sections(runs: Sequence[Run]) -> Iterator[Section]:
  """One section, if there is anything to say."""
  found = (
    *_of_policies(policies.evaluations(runs)),
    *_of_rewards(rewards.found_models(runs)),
    *_of_labelers(labelers.found_labelers(runs)),
    *_of_training(runs),
  )
  if found:
    yield Section('glance', 'At a glance', '', found)


def _of_policies(found: Sequence[Evaluation]) -> Iterator[Note]:
  for evaluation in found:
    for name in evaluation.policies():
      yield from _policy_notes(evaluation, name)


def _policy_notes(evaluation: Evaluation, name: str) -> Iterator[Note]:
  m, title = evaluation.metrics, looks.title(evaluation.source, name)
  baseline = evaluation.summary.get('baseline', 'the baseline')
  won = mark(m, f'{WIN}/{name}', name)
  if won is None or math.isnan(won.low):
    return
  ends = f'{percent(won.low)} to {percent(won.high)}'
  if won.low <= 0.5 <= won.high:
    yield Note(
      f'{title}: cannot be told from {baseline}; its win rate is '
      f'{percent(won.value)} ({ends}).'
    )
    return
  better = 'beats' if won.low > 0.5 else 'loses to'
  text = f'{title} {better} {baseline}: win rate {percent(won.value)} ({ends})'
  fair = mark(m, f'eval_win_rate_lc/{name}', name)
  if fair is None or math.isnan(fair.low):
    yield Note(f'{text}.')
  elif won.low > 0.5 and fair.low <= 0.5:
    yield Note(
      f'{text}, but not clearly so at equal length: {percent(fair.value)} '
      f'({percent(fair.low)} to {percent(fair.high)}).',
      warning=True,
    )
  else:
    yield Note(f'{text}; {percent(fair.value)} at equal length.')


def _of_rewards(models: Mapping[tuple[str, str], Mapping]) -> Iterator[Note]:
  """Reward models that do not clearly beat a coin or the longer response."""
  for key, values in models.items():
    found = mark(values, rewards.ACCURACY, '')
    longer = values.get(rewards.LONGER)
    if found is None or math.isnan(found.low):
      continue
    text = (
      f'{looks.title(*key)}: accuracy on human pairs {percent(found.value)} '
      f'({percent(found.low)} to {percent(found.high)})'
    )
    if found.low <= 0.5:
      yield Note(f'{text}, which cannot be told from a coin.', warning=True)
    elif is_number(longer) and found.low <= longer:
      yield Note(
        f'{text}, not clearly more than preferring the longer response '
        f'({percent(longer)}).',
        warning=True,
      )


def _of_labelers(found: Mapping[tuple[str, str], Mapping]) -> Iterator[Note]:
  """Labelers that answer to the slot."""
  for key, values in found.items():
    bias = values.get(labelers.BIAS)
    if is_number(bias) and bias >= _BIASED:
      yield Note(
        f'{looks.title(*key)}: {percent(bias)} of the pairs got the same slot '
        'in both orders; most labels are about the place of a response.',
        warning=True,
      )


def _of_training(runs: Sequence[Run]) -> Iterator[Note]:
  """Steps with numbers that are none, and samplers that disagree."""
  for run in runs:
    for step in run.steps:
      title = looks.title(looks.source(run, runs), step.name)
      broken = [row['step'] for row in step.metrics if _not_finite(row)]
      if broken:
        yield Note(
          f'{title}: NaN or infinite metrics in {len(broken)} steps, first in '
          f'step {broken[0]}.',
          warning=True,
        )
      gaps = [row.get('val/sampler_gap') for row in step.metrics]
      gap = max(filter(is_number, gaps), default=0.0)
      if gap > _GAP:
        yield Note(
          f'{title}: sampled and recomputed log-probs differ by up to '
          f'{plain(gap)} nats a token.',
          warning=True,
        )


def _not_finite(row: Mapping[str, Any]) -> bool:
  return any(
    isinstance(v, float) and not math.isfinite(v) for v in row.values()
  )
