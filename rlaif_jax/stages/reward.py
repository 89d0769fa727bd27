"""Reward model distilled from soft labels (paper 2.2.1, App. G).

Cross-entropy between the labels and the softmax over the two scores:
L = -p log s(r1 - r2) - (1 - p) log s(r2 - r1). The same stage trains on human
labels (p is 0 or 1), or on both; and by the losses of others: with a margin
(Llama 2) or on rankings (InstructGPT). Accuracy is reported on human pairs,
beside what "the longer response is better" would reach.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from rlaif_jax import evaluators, models, sharding
from rlaif_jax.core import losses
from rlaif_jax.core.types import PairBatch
from rlaif_jax.data import pipeline, records
from rlaif_jax.data.datasets import Example
from rlaif_jax.evaluators import reward_accuracy
from rlaif_jax.models import lora
from rlaif_jax.stages import _margins, _mixes, _options, _rankings, common
from rlaif_jax.stages._reward_stats import (
  all_scores,
  pair_batch,
  score_pairs,
  write_stats,
)
from rlaif_jax.training import loop, step, train_state
from rlaif_jax.training import workdir as workdir_lib

LOSSES = ('soft', 'margin', 'kway')
# The metric by which a checkpoint is kept as the best one.
BEST = 'eval_rewards/accuracies/model'


def default_config() -> ConfigDict:
  """The paper's reward model: batch 128, 2-3 epochs, Adafactor 1e-5, 1152."""
  c = common.base_config('reward')
  c.model = common.model_config('')  # start of the trunk: the SFT model
  c.labels = ''  # preference file, or workdir of a label stage; '' = data's own
  c.mix = _mixes.config()  # further labels to learn from
  c.data = common.data_config('tldr', 'train')  # used where labels = ''
  c.eval_data = common.data_config('tldr', 'valid')  # human pairs
  # Rows whose responses score 0 on average when all is done (InstructGPT's
  # demonstrations); name '' = the training responses do.
  c.demonstrations = common.data_config('', 'train')
  c.max_prompt = 1024
  c.max_response = 128
  c.hard_labels = False  # labels become 0 or 1, ties stay
  c.length_gap = 1.0  # only pairs whose lengths differ by at most this share
  c.loss = 'soft'  # or 'margin': _margins.py; or 'kway': _rankings.py
  # Of 'margin': --config.loss_options="{'grades': 'large'}"
  c.loss_options = ConfigDict(convert_dict=False)
  c.batch_size = 128  # pairs
  c.num_microbatches = 1
  c.num_steps = 0  # 0 = num_epochs over the pairs
  c.num_epochs = 3
  c.optimizer = common.optimizer_config(1e-5)
  c.checkpoint = common.checkpoint_config(every=100)
  c.eval_every = 100
  return c


def run(config: ConfigDict, workdir) -> None:
  """Trains a reward model; leaves it in `workdir/model` with its statistics."""
  with common.session(config, workdir) as s:
    if s is None:
      return
    check(config)  # what is wrong with it is said before models load
    loaded = common.load_policy(config.model, s)
    common.check_context(
      loaded.model,
      max_prompt=config.max_prompt,
      max_response=config.max_response,
    )
    train = load_mix(s, loaded)
    human = human_pairs(s, loaded, config.eval_data)
    model, params = fit(s, loaded, train, human)
    last = loop.last_metrics(s.workdir)
    summary = {k: v for k, v in last.items() if k.startswith('eval_rewards/')}
    if not summary:  # the loop evaluates at its last step, if at all
      summary = evaluate_pairs(s, loaded, model, params, human)
    common.export_model(s, loaded, model, params)
    write_stats(s, loaded, model, params, stats_pairs(config, train.every))
    curve = reliability(scored_pairs(s, loaded, model, params, human))
    workdir_lib.finish(
      s.workdir, {'pairs': len(train), **summary, 'reliability': curve}
    )


def check(config: ConfigDict) -> None:
  """Raises ValueError for options that cannot be, with those that can."""
  if config.loss not in LOSSES:
    raise ValueError(
      f'config.loss={config.loss!r}; use one of {", ".join(LOSSES)}'
    )
  if config.loss == 'margin':
    margin_options(config)
  else:
    _options.check_known(config.loss_options, (), 'config.loss_options')
  if not 0 <= config.length_gap <= 1:
    raise ValueError(f'config.length_gap={config.length_gap} is outside [0, 1]')
  _mixes.check(config.mix)


def margin_options(config: ConfigDict) -> _margins.Config:
  """Options of the loss 'margin'."""
  return _options.build(
    _margins.Config, config.loss_options, 'config.loss_options'
  )


def load_mix(s: common.Session, loaded: common.Loaded) -> _mixes.Mix:
  """What the reward model learns from: of all sources, what is of use."""
  config, parts = s.config, []
  paths = [config.labels, *config.mix.labels]
  names = [path or common.source(config.data) for path in paths]
  fit_rows = _rankings.fit if config.loss == 'kway' else fit_pairs
  for path, name in zip(paths, names, strict=True):
    rows = read_labels(path) if path else common.load_examples(config.data)
    if config.length_gap < 1:
      rows = _mixes.match_lengths(rows, config.length_gap, name)
    parts.append(fit_rows(s, loaded, rows, config.data.overflow, name))
  return _mixes.take(config.mix, parts, names)


def stats_pairs(config: ConfigDict, rows: Sequence[Example]) -> list[Example]:
  """Pairs of responses to take the scores' mean and deviation over."""
  if config.loss != 'kway':
    return list(rows)
  return _rankings.as_pairs(rows[:512], _rankings.largest(rows))


def load_labels(config: ConfigDict) -> list[Example]:
  """Labelled pairs from a label stage, a preference file, or the data set."""
  if not config.labels:
    return common.load_examples(config.data)
  return read_labels(config.labels)


def read_labels(path: str) -> list[Example]:
  """Labelled pairs of a preference file, or of a label stage's workdir."""
  return [
    Example(
      id=r.id,
      prompt=r.prompt,
      pair=(r.response_1, r.response_2),
      p_first=r.p_first,
      fields=r.fields,
      meta=r.meta,
    )
    for r in records.read_preferences(preference_file(path))
  ]


def preference_file(path: str) -> str:
  """The file that a path names, itself or by a label stage's workdir.

  Raises:
    FileNotFoundError: the label stage has not finished.
  """
  folder = pathlib.Path(path)
  if not (folder / 'config.json').is_file():
    return path
  if workdir_lib.finished(folder) is None:
    raise FileNotFoundError(
      f'{path}: this label stage has not finished; run it first'
    )
  return str(folder / 'labels' / 'preferences.jsonl')


def human_pairs(s, loaded, block: ConfigDict) -> list[Example]:
  """`fit_pairs` of a data block."""
  return fit_pairs(
    s,
    loaded,
    common.load_examples(block),
    block.overflow,
    common.source(block),
  )


def fit_pairs(
  s, loaded, examples: Sequence[Example], overflow: str, source: str
) -> list[Example]:
  """Labelled pairs whose prompt fits; those without a label are left out.

  `overflow` and `source` as in `common.fit_prompts`.
  """
  labelled = [
    e for e in examples if e.pair is not None and e.p_first is not None
  ]
  if not labelled:
    raise ValueError(
      f'{source}: the reward model needs pairs with a label; there are none'
    )
  return common.fit_prompts(
    labelled, loaded.tokenizer, s.config.max_prompt, overflow, source
  )


def fit(s: common.Session, loaded: common.Loaded, train: _mixes.Mix, human):
  """The training loop; returns (ScalarModel, params)."""
  config, key = s.config, jax.random.key(s.config.seed)
  num_steps = config.num_steps or max(
    1, config.num_epochs * len(train) // config.batch_size
  )
  model, params = common.scalar_from(loaded, s, key)
  frozen, trained = lora.split(model, params)
  tx = common.make_optimizer(config.optimizer, num_steps)
  train_step = step.make_train_step(
    lora.joined(make_loss(model, config.max_response, config.loss)),
    tx,
    num_microbatches=config.num_microbatches,
  )
  state = train_state.create(trained, tx, s.mesh)

  kway = config.loss == 'kway'
  texts = _rankings.largest(train.every) if kway else 2  # of a row

  def batch(at: int):
    rows = train.rows(config.seed, at, config.batch_size, num_steps)
    if kway:
      return _rankings.make_batch(config, loaded, rows, texts)
    return train_batch(config, loaded, rows)

  batches = pipeline.prefetch(batch)

  def step_fn(state, at: int):
    pairs = sharding.shard_batch(batches(at), s.mesh)
    return train_step(state, pairs, jax.random.fold_in(key, at), frozen)

  def evaluate(state) -> dict[str, float]:
    params = lora.join(frozen, state.params)
    return evaluate_pairs(s, loaded, model, params, human)

  with common.checkpointer_for(s, BEST) as checkpointer:
    state = loop.run_loop(
      state,
      step_fn,
      num_steps=num_steps,
      checkpointer=checkpointer,
      writer=common.writer_for(s),
      save_every=config.checkpoint.every,
      log_every=config.log_every,
      eval_every=config.eval_every,
      evaluate=evaluate,
      describe=batch,
      title=s.workdir.name,
      tokens_per_step=texts
      * config.batch_size
      * (config.max_prompt + config.max_response),
    )
  return model, lora.join(frozen, state.params)


def harden(p_first: np.ndarray) -> np.ndarray:
  """Labels as 0 or 1; a tie stays a tie."""
  return 0.5 + 0.5 * np.sign(p_first - np.float32(0.5))


class MarginBatch(NamedTuple):
  """Pairs, and by how much the better response of each is to win."""

  pairs: PairBatch
  margin: Float[Array, ' B']


def train_batch(config: ConfigDict, loaded: common.Loaded, rows):
  """Batch of labelled pairs for the loss 'soft' or 'margin'."""
  pairs = pair_batch(config, loaded, rows)
  if config.hard_labels:
    pairs = dataclasses.replace(pairs, p_first=harden(pairs.p_first))
  if config.loss == 'soft':
    return pairs
  return MarginBatch(pairs, _margins.margins(rows, margin_options(config)))


def make_loss(model, max_response: int, loss: str = 'soft'):
  """loss(params, batch, key) -> (one of `LOSSES`, metrics).

  The batch is a PairBatch, a MarginBatch or _rankings.Rankings.
  """
  model = models.for_training(model)
  if loss == 'kway':
    return _rankings.make_loss(model)

  def loss_fn(params, batch, key):
    del key
    pairs = batch.pairs if loss == 'margin' else batch
    scores = score_pairs(model, params, pairs, max_response)
    if loss == 'margin':
      value, metrics = losses.margin_preference(
        *scores, pairs.p_first, batch.margin, pairs.weight
      )
    else:
      value, metrics = losses.soft_preference(
        *scores, pairs.p_first, pairs.weight
      )
    return value, {'loss/reward': value, **metrics}

  return loss_fn


def evaluate_pairs(s, loaded, model, params, pairs) -> dict[str, float]:
  """Accuracy on human pairs ('.../model'), beside the longer-is-better rule.

  Keys as in evaluators/reward_accuracy.py.
  """
  context = scored_pairs(s, loaded, model, params, pairs)
  return reward_accuracy.evaluate(context, reward_accuracy.Config())


def scored_pairs(s, loaded, model, params, pairs) -> evaluators.Context:
  """The pairs with what the reward model 'model' says of them."""
  scores = all_scores(s, loaded, model, params, pairs)
  return evaluators.Context(pairs=pairs, pair_scores={'model': scores})


def reliability(context: evaluators.Context) -> dict[str, list[list[float]]]:
  """Curve of agreement by confidence, as reports draw it, of 'model'."""
  return {'model': reward_accuracy.reliability_of(context, 'model')}
