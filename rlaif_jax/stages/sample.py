"""Samples of a policy, scored and selected: data to learn from by SFT.

  1. K responses for each prompt from `policy`, with a score of any reward
     (rewards/), go to `samples/all.jsonl` as they are made
  2. samples of earlier rounds join (`pool`)
  3. a rule selects (stages/_selection.py); with `instructions` all prompts say
     in hindsight how good the response turned out to be (HIR, arXiv
     2302.05206)
  4. `samples/selected.jsonl` holds what is left, for the data set 'jsonl'

With the SFT stage that is rejection sampling, ReST, hindsight relabelling or,
with a labeler as policy, distillation of its own outputs; configs/sample.py
puts them together. A restart samples only what is missing.
"""

import collections
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from rlaif_jax import rewards, sharding
from rlaif_jax.core import masking
from rlaif_jax.data import _files
from rlaif_jax.data.datasets import Example
from rlaif_jax.rewards.reward_model import decode_responses
from rlaif_jax.stages import _rewards, _rows, _sampler, _selection, common
from rlaif_jax.training import workdir as workdir_lib

ALL = 'samples/all.jsonl'
SELECTED = 'samples/selected.jsonl'

Row = dict[str, Any]  # a line of `ALL`


def default_config() -> ConfigDict:
  """Four samples a prompt at T 1, of which the best by a reward is kept."""
  c = common.base_config('sample')
  c.policy = common.model_config('')  # '' = samples nothing: see `pool`
  c.data = common.data_config('tldr', 'train')
  c.max_prompt = 1024
  c.max_response = 128
  c.sampling = common.sampling_config(1.0)
  c.num_samples = 4  # K, of each prompt
  c.batch_size = 64  # rows sampled and scored at once
  c.chunk = 256  # prompts between two writes to disk
  c.reward = _rewards.config()
  c.reward.name = ''  # rlaif_jax/rewards/<name>.py; '' = no scores
  c.pool = ()  # workdirs of sample stages, whose samples join
  c.select = 'all'  # or 'best', 'threshold', 'quantile'
  c.threshold = 0.0  # of 'threshold': a score; of 'quantile': a share
  c.only_ended = True  # leaves out responses that were cut at max_response
  # Hindsight: texts put before the prompts, from worst to best, each for an
  # equal share of the scores.
  c.instructions = ()
  return c


def run(config: ConfigDict, workdir) -> None:
  """Writes `samples/all.jsonl`, `samples/selected.jsonl` and a summary."""
  with common.session(config, workdir) as s:
    if s is None:
      return
    check(config)
    made, speed = sample_all(s) if config.policy.path else ([], {})
    pooled = [row for path in config.pool for row in read_stage(path)]
    rows = [{**row, 'round': s.workdir.name} for row in made] + pooled
    selected, found = select(rows, config)
    text = ''.join(_rows.line(row) for row in selected)
    if jax.process_index() == 0:
      path = s.workdir / SELECTED
      path.parent.mkdir(exist_ok=True)
      workdir_lib.write_text_atomic(path, text)
    workdir_lib.finish(s.workdir, {**found, **speed})


def check(config: ConfigDict) -> None:
  """What can be known to be wrong before anything is loaded.

  Raises:
    ValueError: there is nothing to select from, no such rule, or a rule or
      instructions that need scores which are not made; names the key.
    FileNotFoundError: `config.pool` names a stage that has not finished.
  """
  _selection.check(config.select, config.threshold)
  if not config.policy.path and not config.pool:
    raise ValueError(
      'config.policy.path and config.pool are empty: name a policy to sample '
      'from, or earlier sample stages to select from'
    )
  if config.num_samples < 1:
    raise ValueError(
      f'config.num_samples={config.num_samples}; it must be at least 1'
    )
  if len(config.instructions) == 1:
    raise ValueError(
      'config.instructions has one text; give two or more, from worst to best'
    )
  if config.reward.name:
    _rewards.check(config.reward)
  elif config.policy.path and (config.select != 'all' or config.instructions):
    key = 'instructions' if config.select == 'all' else 'select'
    raise ValueError(
      f'config.{key} goes by scores; set config.reward.name and .path'
    )
  for path in config.pool:
    if workdir_lib.finished(path) is None:
      raise FileNotFoundError(
        f'config.pool: {path}: no finished sample stage here; run it first'
      )


# -- sampling -----------------------------------------------------------------


def sample_all(s: common.Session) -> tuple[list[Row], dict[str, float]]:
  """All samples, of which those not in `ALL` yet are made; and how fast.

  See `_rows.add_missing`.
  """
  config, path = s.config, s.workdir / ALL
  loaded = common.load_policy(config.policy, s)
  common.check_context(
    loaded.model, max_prompt=config.max_prompt, max_response=config.max_response
  )
  examples = common.load_prompts(
    config.data, loaded.tokenizer, config.max_prompt
  )
  rows = [row for _, row in read_rows(path)] if path.is_file() else []
  score, spent = make_scorer(s, loaded)
  rows, seconds, share = _rows.add_missing(
    path,
    rows,
    examples,
    config.chunk,
    make_sampler(s, loaded, score),
    ids_of=lambda e: [_name(e, k) for k in range(config.num_samples)],
    unit='samples',
  )
  took = {key: value * share for key, value in spent.items()}
  return rows, {'time/sample_s': seconds, **took}


def make_sampler(
  s: common.Session, loaded: common.Loaded, score: Callable
) -> Callable[[Sequence[tuple[int, Example]]], Iterator[Row]]:
  """make([(number, example)]) -> K rows of each, in fixed-size batches.

  A response depends on the seed and its own number only.
  """
  config, count = s.config, s.config.num_samples
  key, eos_ids = jax.random.key(config.seed), loaded.tokenizer.eos_ids
  rollouts = _sampler.make_rollouts(s, loaded, config.batch_size)

  def make(prompts: Sequence[tuple[int, Example]]) -> Iterator[Row]:
    numbers = [i * count + k for i, _ in prompts for k in range(count)]
    examples = [e for _, e in prompts for _ in range(count)]
    for places, real, rollout in rollouts(examples, numbers, key):
      scores = score(rollout, [examples[i] for i in places])
      ended = masking.has_end(
        rollout.response_tokens, rollout.response_mask, eos_ids
      )
      texts = decode_responses(rollout, loaded.tokenizer)
      scores, ended = sharding.to_host((scores, ended))
      for at, i in enumerate(places[:real]):
        k = numbers[i] % count
        yield _row(examples[i], k, texts[at], ended[at], scores, at)

  return make


def make_scorer(
  s: common.Session, loaded: common.Loaded
) -> tuple[Callable, dict[str, int]]:
  """(score(rollout, examples) -> scores [B], what it took of a labeler so far).

  Without a reward the scores are None.
  """
  if not s.config.reward.name:
    return lambda rollout, examples: None, {}
  reward = _rewards.make(
    s.config.reward,
    policy_tokenizer=loaded.tokenizer,
    mesh=s.mesh,
    rules=s.rules,
  )
  total: dict[str, int] = collections.Counter()

  def score(rollout, examples):
    scores = reward.score(rollout, examples)
    total.update({k: int(v) for k, v in rewards.spent(reward).items()})
    return scores

  return score, total


def _row(example: Example, k: int, text: str, ended, scores, at: int) -> Row:
  row = {
    'id': _name(example, k),
    'prompt_id': example.id,
    'prompt': example.prompt,
    'response': text,
    'ended': bool(ended),
    'fields': dict(example.fields),
  }
  return row if scores is None else {**row, 'score': float(scores[at])}


def _name(example: Example, k: int) -> str:
  return f'{example.id}/{k}'


# -- selecting ----------------------------------------------------------------


def read_stage(path: str) -> list[Row]:
  """What the sample stage at `path` sampled, as rows of that round.

  Raises:
    FileNotFoundError: it sampled nothing.
  """
  file = pathlib.Path(path) / ALL
  if not file.is_file():
    raise FileNotFoundError(
      f'config.pool: {file} is missing: that stage has sampled nothing'
    )
  name = pathlib.Path(path).name
  return [{**row, 'round': name} for _, row in read_rows(file)]


def read_rows(path: pathlib.Path) -> Iterator[tuple[str, Row]]:
  """(place, row) of a file of samples; a half-written last line is left out.

  Raises:
    ValueError: a broken line, or one without a needed column; names it.
  """
  for place, line in _files.whole_lines(path):
    row = _files.parse_line(line, place)
    for key in ('id', 'prompt_id', 'prompt', 'response'):
      _files.need_text(row, key, place)
    yield place, row


def select(
  rows: Sequence[Row], config: ConfigDict
) -> tuple[list[Row], dict[str, float]]:
  """(rows to learn from, numbers for the summary).

  Empty responses are never selected.

  Raises:
    ValueError: a row has no score where one is needed, or none is left.
  """
  known = [r for r in rows if r['response']]
  if config.only_ended:
    known = [r for r in known if r['ended']]
  scored = all('score' in r for r in known)
  if not scored and (config.select != 'all' or config.instructions):
    name = next(r['id'] for r in known if 'score' not in r)
    raise ValueError(
      f'sample {name} has no score, which select={config.select!r} and '
      'instructions go by; sample with a reward'
    )
  scores = np.array([r['score'] if scored else 0.0 for r in known])
  if not len(known):
    raise ValueError(
      f'none of {len(rows)} samples can be learned from: they are empty, or '
      'have no end (config.only_ended); raise config.max_response'
    )
  kept, limit = _selection.choose(
    scores,
    [(r['round'], r['prompt_id']) for r in known],
    config.select,
    config.threshold,
  )
  if not len(kept):
    raise ValueError(
      f'no sample is above config.threshold={config.threshold}; their scores '
      f'go from {scores.min():.3f} to {scores.max():.3f}'
    )
  selected = [known[i] for i in kept]
  found = {'samples': len(rows), 'usable': len(known), 'selected': len(kept)}
  if scored:
    found |= {'score/mean': scores.mean(), 'score/max': scores.max()}
    found |= {'score/selected': scores[kept].mean()}
  if limit is not None:
    found['score/limit'] = limit
  if config.instructions:
    selected = relabelled(selected, scores[kept], config.instructions)
  return selected, {key: float(value) for key, value in found.items()}


def relabelled(
  rows: Sequence[Row], scores: np.ndarray, instructions: Sequence[str]
) -> list[Row]:
  """Rows whose prompts ask for what their responses turned out to be.

  `other_prompts` are those that ask for what they are not.
  """
  chosen = _selection.grades(scores, len(instructions))
  result = []
  for row, grade in zip(rows, chosen, strict=True):
    example = Example(id=row['id'], prompt=row['prompt'])
    asked = [_selection.instruct(example, text).prompt for text in instructions]
    own = asked.pop(grade)
    grade = {'grade': int(grade), 'other_prompts': asked}
    result.append({**row, 'prompt': own, **grade})
  return result
