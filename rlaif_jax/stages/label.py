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
from rlaif_jax.data import datasets, records, transforms
from rlaif_jax.data import tokenizer as tokenizer_lib
from rlaif_jax.data.datasets import Example
from rlaif_jax.evaluators import alignment, statistics
from rlaif_jax.inference import decode
from rlaif_jax.labeler import Labeler, preference, prompts
from rlaif_jax.models import hf, locate, with_options
from rlaif_jax.rewards.reward_model import decode_responses
from rlaif_jax.stages import common
from rlaif_jax.training import progress
from rlaif_jax.training import workdir as workdir_lib


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
  # labels, and they are not a human's.
  c.source = 'labeler'
  c.labeler = ConfigDict(
    dict(
      path='',
      prompt='summary_detailed',  # rlaif_jax/labeler/prompts, or a JSON path
      max_tokens=4096,  # of a prompt; the post is cut at a line break to fit
      batch_size=64,
      dtype='float32',
    )
  )
  c.chunk = 256  # prompts between two writes to disk
  return c


def run(config: ConfigDict, workdir) -> None:
  """Writes `labels/preferences.jsonl` and a summary."""
  with common.session(config, workdir) as s:
    if s is None:
      return
    check(config)
    examples, pairs = make_pairs(s, common.load_examples(config.data))
    judge = make_judge(s, config)
    path = s.workdir / 'labels' / 'preferences.jsonl'
    path.parent.mkdir(exist_ok=True)
    speed = label_all(s, examples, pairs, judge, path)
    rows = records.read(path)
    skipped = len(examples) - len(rows)
    if skipped:
      common.say(
        f'{skipped} pairs skipped: identical, too long for the labeler, or '
        'without a label'
      )
    summary = summarise(rows, config)
    workdir_lib.finish(s.workdir, {'skipped': skipped, **speed, **summary})


def check(config: ConfigDict) -> None:
  """Raises ValueError for a source that there is not."""
  if config.source not in ('labeler', 'human', 'dataset'):
    raise ValueError(
      f"config.source={config.source!r}; use 'labeler', 'human' or 'dataset'"
    )
  if config.source == 'dataset' and config.pairs != 'dataset':
    raise ValueError(
      "config.source='dataset' takes labels of the data set's own pairs; set "
      "config.pairs to 'dataset'"
    )


def label_all(s, examples, pairs, judge, path) -> dict[str, float]:
  """Labels what `path` does not hold yet; returns how fast that was.

  Rows are written in order, chunk by chunk, so all chunks before that of the
  last row are done. That one is made again as a whole and what is missing of
  it written: labels then are those of an uninterrupted run to the last bit,
  which in batches of other rows they would not be.
  """
  done, chunk = records.done_ids(path), s.config.chunk
  last = max((i for i, e in enumerate(examples) if e.id in done), default=0)
  new, start = 0, time.monotonic()
  bar = progress.Progress(s.workdir.name, len(examples))
  for first in range(last - last % chunk, len(examples), chunk):
    rows = list(enumerate(examples[first : first + chunk], first))
    different = [e for e in pairs(rows) if e.pair[0] != e.pair[1]]
    made = judge(different) if different else []
    made = [record for record in made if record.id not in done]
    records.append(path, made)
    new += len(made)
    bar.update(first + len(rows), {'labels': new})
  bar.close()
  seconds = time.monotonic() - start
  return {
    'time/label_s': seconds,
    'perf/pairs_per_second': new / max(seconds, 1e-9),
  }


# -- where pairs come from ----------------------------------------------------


def make_pairs(s: common.Session, examples: Sequence[Example]):
  """(rows to label, pairs([(number, row)]) -> rows with `pair` set).

  Raises:
    ValueError: a row of the data set without two different responses, or
      whose prompt is too long to sample from; names the row.
  """
  config = s.config
  if config.pairs == 'dataset':
    for example in examples:
      _check_pair(example, common.source(config.data))
    return examples, lambda rows: [e for _, e in rows]
  if config.pairs != 'samples':
    raise ValueError(f"config.pairs={config.pairs!r}; use 'dataset', 'samples'")
  loaded = common.load_policy(config.policy, s)
  common.check_context(
    loaded.model, max_prompt=config.max_prompt, max_response=config.max_response
  )
  examples = common.fit_prompts(
    examples,
    loaded.tokenizer,
    config.max_prompt,
    config.data.overflow,
    common.source(config.data),
  )
  sample = make_sampler(s, config, loaded)
  keys = jax.random.split(jax.random.key(config.seed))

  def pairs(rows):
    numbers, prompts = zip(*rows, strict=True)
    first, second = (sample(prompts, numbers, key) for key in keys)
    return [
      dataclasses.replace(e, pair=(a, b), p_first=None)
      for e, a, b in zip(prompts, first, second, strict=True)
    ]

  return examples, pairs


def make_sampler(s: common.Session, config: ConfigDict, loaded: common.Loaded):
  """sample(examples, row ids, key) -> response texts, in fixed-size batches.

  A row's text depends on the key and its row id only, so a restart that
  samples the rest of a chunk gets what the first run would have got.
  """
  size = config.labeler.batch_size
  generate = decode.make_generate(
    loaded.model,
    max_new_tokens=config.max_response,
    sampling=common.make_sampling(config.sampling),
    eos_ids=loaded.tokenizer.eos_ids,
    pad_id=loaded.tokenizer.pad_id,
  )

  def sample(examples: Sequence[Example], row_ids, key) -> list[str]:
    texts = []
    for at in range(0, len(examples), size):
      part = list(examples[at : at + size])
      ids = list(row_ids[at : at + size])
      missing = size - len(part)
      prompt = transforms.prompt_batch(
        part + part[-1:] * missing, loaded.tokenizer, config.max_prompt
      )
      rollout = generate(
        loaded.params,
        sharding.shard_batch(prompt, s.mesh),
        key,
        np.asarray(ids + ids[-1:] * missing, np.int32),
      )
      texts += decode_responses(rollout, loaded.tokenizer)[: len(part)]
    return texts

  return sample


def _check_pair(example: Example, source: str) -> None:
  if example.pair is None:
    raise ValueError(
      f'{source}: row {example.id} has no pair of responses to compare; set '
      "config.pairs to 'samples' or use a data set with pairs"
    )
  if example.pair[0] == example.pair[1]:
    raise ValueError(
      f'{source}: row {example.id}: its responses are identical, so neither '
      'can be preferred; remove this row'
    )


# -- who decides --------------------------------------------------------------


def make_judge(s: common.Session, config: ConfigDict):
  """judge(Examples with pairs) -> PreferenceRecords."""
  human = human_labels(config)
  if config.source != 'labeler':
    by_human = config.source == 'human'
    return lambda rows: [
      _record(e, p, human=p if by_human else None, labeler=config.source)
      for e, p in zip(rows, human(rows), strict=True)
      if p is not None
    ]
  prompt = prompts.load_prompt(config.labeler.prompt)
  labeler = load_labeler(config.labeler, s)

  def judge(rows: Sequence[Example]) -> list[records.PreferenceRecord]:
    labels = preference.label_pairs(
      labeler, prompt, [(e.id, e.fields, e.pair) for e in rows]
    )
    return [
      _record(
        e,
        label.p_first,
        human=p,
        labeler=config.labeler.path,
        prompt_name=prompt.name,
        logprobs_12=label.logprobs_12,
        logprobs_21=label.logprobs_21,
      )
      for e, p, label in zip(rows, human(rows), labels, strict=True)
      if label is not None
    ]

  return judge


def load_labeler(block: ConfigDict, s: common.Session) -> Labeler:
  """The in-mesh labeler of a labeler block."""
  path = locate.resolve(block.path)
  model, params = hf.load(path, mesh=s.mesh, rules=s.rules)
  return Labeler(
    model=with_options(model, dtype=block.dtype),
    params=params,
    tokenizer=tokenizer_lib.load_tokenizer(path),
    max_tokens=block.max_tokens,
    batch_size=block.batch_size,
  )


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


def _record(example: Example, p_first: float, human, **kwargs):
  return records.PreferenceRecord(
    id=example.id,
    prompt=example.prompt,
    response_1=example.pair[0],
    response_2=example.pair[1],
    p_first=float(p_first),
    fields=dict(example.fields),
    meta={'human_p_first': human, **_shown(example)},
    **kwargs,
  )


def _shown(example: Example) -> dict[str, int]:
  shown = example.meta.get('first_shown')
  return {} if shown is None else {'first_shown': shown}


# -- summary ------------------------------------------------------------------


def summarise(
  rows: Sequence[records.PreferenceRecord], config: ConfigDict
) -> dict[str, float]:
  """Counts, and alignment and biases where they can be known.

  `labeler/longer_rate` is the share of labels for the longer response, and
  `labeler/first_shown_rate` for the one that was shown first, where the data
  set says which that was; a 50/50 label counts half.
  """
  if not rows:
    raise ValueError('no pair could be labelled; see the notes above')
  result: dict[str, float] = {'pairs': len(rows)}
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
      prompts.load_prompt(config.labeler.prompt).prefers,
    )
  if known:
    result |= alignment.alignment(
      np.array([r.p_first for r in known]),
      np.array([r.meta['human_p_first'] for r in known]),
    )
  return result
