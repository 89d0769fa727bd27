"""Preference labels (paper 2.1): which of two responses is better?

For each prompt there are two responses: the data set's own pair, or two fresh
samples of a policy. A labeler compares them in both orders and the averaged
probability becomes the soft label; or a human's label is taken (the data
set's, or the tiny world's simulated one), or that of whoever else labelled the
data set, such as GPT-4. Rows go to `labels/` as they are made; a restart
labels only what is missing.
"""

import dataclasses
import time
from collections.abc import Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from rlaif_jax import sharding
from rlaif_jax.data import datasets, records
from rlaif_jax.data.datasets import Example
from rlaif_jax.evaluators import alignment, label_report, statistics
from rlaif_jax.labeler import combine
from rlaif_jax.stages import _labelers, _pairs, _rows, common
from rlaif_jax.training import progress
from rlaif_jax.training import workdir as workdir_lib

COST = 'labeler/cost/'  # of one label, in the summary
SOURCES = ('labeler', 'human', 'dataset', 'random')


def default_config() -> ConfigDict:
  """The paper's labels: the data set's own pairs, whole training split."""
  c = common.base_config('label')
  c.data = common.data_config('tldr', 'train')
  c.pairs = 'dataset'  # or 'samples': two fresh samples of `policy`
  c.policy = common.model_config('')  # for pairs='samples'
  c.sampling = common.sampling_config(1.0)  # for pairs='samples' (App. K)
  c.max_prompt = 1024  # for pairs='samples'
  c.max_response = 128  # for pairs='samples'
  # Or 'human': the data set's (simulated) human labels; or 'dataset': its
  # labels, and they are not a human's; or 'random': a coin, as a control.
  c.source = 'labeler'
  c.labeler = _labelers.config()
  c.calibration_data = common.data_config(
    'tldr', 'valid'
  )  # pairs, human labels
  # Dollars for 1000 tokens read and written, to say what a label costs.
  c.prices = ConfigDict(dict(tokens_in=0.0, tokens_out=0.0))
  c.chunk = 256  # prompts between two writes to disk
  return c


def run(config: ConfigDict, workdir) -> None:
  """Writes `labels/preferences.jsonl` and a summary."""
  with common.session(config, workdir) as s:
    if s is None:
      return
    check(config)
    examples, pairs = _pairs.make_pairs(s, common.load_examples(config.data))
    panel = None
    if config.source == 'labeler':
      panel = _labelers.Panel(config.labeler, s)
    path = s.workdir / 'labels' / 'preferences.jsonl'
    path.parent.mkdir(exist_ok=True)
    fitted = calibrate(s, panel) if panel else {}
    judge = make_judge(s, config, panel)
    speed = label_all(s, examples, pairs, judge, path, panel)
    rows = records.read(path)
    skipped = len(examples) - len(rows)
    if skipped:
      common.say(
        f'{skipped} pairs skipped: identical, too long for the labeler, '
        'undecided or without a label'
      )
    cost = {k.removeprefix(COST): v for k, v in speed.items() if COST in k}
    summary = summarise(rows, config, cost)
    workdir_lib.finish(
      s.workdir, {'skipped': skipped, **speed, **fitted, **summary}
    )


def check(config: ConfigDict) -> None:
  """Raises ValueError for a source that there is not."""
  if config.source not in SOURCES:
    raise ValueError(
      f'config.source={config.source!r}; use one of {", ".join(SOURCES)}'
    )
  if config.source == 'dataset' and config.pairs != 'dataset':
    raise ValueError(
      "config.source='dataset' takes labels of the data set's own pairs; set "
      "config.pairs to 'dataset'"
    )
  if config.source == 'labeler':
    _labelers.check(config.labeler)


def label_all(
  s, examples, pairs, judge, path, panel=None, title=''
) -> dict[str, float]:
  """Labels what `path` does not hold yet; returns how fast that was.

  A restart is as `_rows.chunk_starts` says.
  """
  done, chunk = records.done_ids(path), s.config.chunk
  sharding.wait_for_all(f'{path} is read')
  new, start = 0, time.monotonic()
  before = panel.work() if panel else {}
  bar = progress.Progress(title or s.workdir.name, len(examples))
  for first in _rows.chunk_starts(examples, lambda e: e.id in done, chunk):
    rows = list(enumerate(examples[first : first + chunk], first))
    different = [e for e in pairs(rows) if e.pair[0] != e.pair[1]]
    made = judge(different) if different else []
    made = [record for record in made if record.id not in done]
    if jax.process_index() == 0:
      records.append(path, made)
    new += len(made)
    seconds = max(time.monotonic() - start, 1e-9)
    speed = {'perf/pairs_per_second': new / seconds}
    now = panel.work() if panel else {}
    used = {key: value - before[key] for key, value in now.items()}
    if used:
      tokens = used['tokens_in'] + used['tokens_out']
      speed['perf/tokens_per_second'] = tokens / seconds
    bar.update(first + len(rows), {'labels': new, **speed})
  bar.close()
  sharding.wait_for_all(f'{path} is written')
  result = {'time/label_s': time.monotonic() - start, **speed}
  if new:
    result |= {f'{COST}{key}': value / new for key, value in used.items()}
  return result


# -- who decides --------------------------------------------------------------


def make_judge(s: common.Session, config: ConfigDict, panel):
  """judge(Examples with pairs) -> PreferenceRecords."""
  human = human_labels(config)
  if config.source == 'random':
    return lambda rows: [
      _record(e, coin(config.seed, e), human=p, labeler='random')
      for e, p in zip(rows, human(rows), strict=True)
    ]
  if panel is None:
    by_human = config.source == 'human'
    return lambda rows: [
      _record(
        e,
        p,
        human=p if by_human else None,
        labeler=str(e.meta.get('labeler') or config.source),
        prompt_name=str(e.meta.get('prompt_name') or ''),
      )
      for e, p in zip(rows, human(rows), strict=True)
      if p is not None
    ]

  def judge(rows: Sequence[Example]) -> list[records.PreferenceRecord]:
    return [
      _record(
        e,
        verdict.p_first,
        human=p,
        labeler=' + '.join((config.labeler.path, *config.labeler.panel)),
        labeler_hash=panel.fingerprint,
        prompt_name=panel.prompt.name,
        logprobs_12=verdict.label.logprobs_12,
        logprobs_21=verdict.label.logprobs_21,
        rationales=verdict.label.rationales,
        meta=verdict.meta(panel.prompt),
      )
      for e, p, verdict in zip(rows, human(rows), panel(rows), strict=True)
      if verdict is not None
    ]

  return judge


def calibrate(s: common.Session, panel: _labelers.Panel) -> dict[str, float]:
  """Fits the panel's calibration to human labels, if the config wants one.

  The labels are kept in `labels/calibration.jsonl`, for a restart.

  Returns:
    Scale, shift and number of pairs, for the summary.
  """
  method, block = s.config.labeler.calibration, s.config.calibration_data
  if not method:
    return {}
  examples = common.load_examples(block)
  for example in examples:
    _pairs.check_pair(example, common.source(block))
  known = [e for e in examples if e.p_first is not None]
  path = s.workdir / 'labels' / 'calibration.jsonl'
  config = s.config.copy_and_resolve_references()
  config.pairs = 'dataset'
  judge = make_judge(s, config, panel)
  label_all(s, known, lambda rows: [e for _, e in rows], judge, path, panel)
  rows = records.read(path)
  panel.calibration = combine.calibrate(
    [r.p_first for r in rows], [r.meta['human_p_first'] for r in rows], method
  )
  return {
    'calibration/scale': panel.calibration.scale,
    'calibration/shift': panel.calibration.shift,
    'calibration/pairs': len(rows),
  }


def human_labels(config: ConfigDict):
  """labels(Examples) -> human p_first of each, None where nobody said."""
  simulate = getattr(
    datasets.load_module(config.data.name), 'human_prefers', None
  )

  def labels(rows: Sequence[Example]) -> list[float | None]:
    if config.pairs == 'dataset':
      return [e.p_first for e in rows]
    if simulate is None:
      return [None] * len(rows)
    # A generator of its own for each row: what a human says of a pair does not
    # depend on which other pairs there are.
    return [
      float(
        simulate(
          e, *e.pair, np.random.default_rng([config.seed, *e.id.encode()])
        )
      )
      for e in rows
    ]

  return labels


def coin(seed: int, example: Example) -> float:
  """0 or 1, a function of the seed and the example's id alone.

  Not of the numbers that a simulated human draws for it.
  """
  seeds = [*b'coin', seed, *example.id.encode()]
  return float(np.random.default_rng(seeds).integers(2))


def _record(example: Example, p_first: float, human, meta=(), **kwargs):
  return records.PreferenceRecord(
    id=example.id,
    prompt=example.prompt,
    response_1=example.pair[0],
    response_2=example.pair[1],
    p_first=float(p_first),
    fields=dict(example.fields),
    meta={'human_p_first': human, **_shown(example), **dict(meta)},
    **kwargs,
  )


def _shown(example: Example) -> dict[str, int]:
  shown = example.meta.get('first_shown')
  return {} if shown is None else {'first_shown': shown}


# -- summary ------------------------------------------------------------------


def summarise(
  rows: Sequence[records.PreferenceRecord],
  config: ConfigDict,
  cost: dict[str, float] | None = None,
) -> dict:
  """Counts, and alignment and biases where they can be known.

  `report` has all that evaluators/label_report.py can say, with the `cost` of
  one label as this run has measured it.


  `labeler/longer_rate` is the share of labels for the longer response, and
  `labeler/first_shown_rate` for the one that was shown first, where the data
  set says which that was; a 50/50 label counts half.
  """
  if not rows:
    raise ValueError('no pair could be labelled; see the notes above')
  result: dict[str, float] = {
    'pairs': len(rows),
    'cut': sum(bool(r.meta.get('cut')) for r in rows),
    'fewer_exemplars': sum('fewer_exemplars' in r.meta for r in rows),
  }
  result |= alignment.length_bias(
    np.array([r.p_first for r in rows]), [r.pair for r in rows]
  )
  shown = [r for r in rows if 'first_shown' in r.meta]
  if shown and config.source == 'dataset':
    result['labeler/first_shown_rate'] = float(
      statistics.agreement(
        np.array([r.p_first - 0.5 for r in shown]),
        np.array([0.5 - r.meta['first_shown'] for r in shown]),
      ).mean()
    )
  judged = [r for r in rows if r.logprobs_12 is not None]
  known = [r for r in judged if r.meta.get('human_p_first') is not None]
  if judged:
    result |= alignment.position_bias(
      np.array([r.logprobs_12 for r in judged]),
      np.array([r.logprobs_21 for r in judged]),
      _labelers.load_prompt(config.labeler).prefers,
    )
  if known:
    result |= alignment.alignment(
      np.array([r.p_first for r in known]),
      np.array([r.meta['human_p_first'] for r in known]),
    )
  data = label_report.from_records(rows)
  if cost:
    data = dataclasses.replace(data, cost=cost)
  options = label_report.Config(
    price_in=config.prices.tokens_in, price_out=config.prices.tokens_out
  )
  return {**result, 'report': label_report.report(data, options)}
