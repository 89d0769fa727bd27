"""Reward model distilled from soft labels (paper 2.2.1, App. G).

Cross-entropy between the labels and the softmax over the two scores:
L = -p log s(r1 - r2) - (1 - p) log s(r2 - r1). The same stage trains on human
labels (p is 0 or 1). Accuracy is reported on human pairs, beside what
"the longer response is better" would reach.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rlaif_jax import evaluators, sharding
from rlaif_jax.core import losses
from rlaif_jax.data import pipeline, records, transforms
from rlaif_jax.data.datasets import Example
from rlaif_jax.evaluators import reward_accuracy
from rlaif_jax.models import lora
from rlaif_jax.rewards.reward_model import STATS_FILE, score_tokens
from rlaif_jax.stages import common
from rlaif_jax.training import loop, step, train_state
from rlaif_jax.training import workdir as workdir_lib

# The metric by which a checkpoint is kept as the best one.
BEST = 'eval_rewards/accuracies/model'


def default_config() -> ConfigDict:
  """The paper's reward model: batch 128, 2-3 epochs, Adafactor 1e-5, 1152."""
  c = common.base_config('reward')
  c.model = common.model_config('')  # start of the trunk: the SFT model
  c.labels = ''  # preference file, or workdir of a label stage; '' = data's own
  c.data = common.data_config('tldr', 'train')  # used where labels = ''
  c.eval_data = common.data_config('tldr', 'valid')  # human pairs
  c.max_prompt = 1024
  c.max_response = 128
  c.hard_labels = False  # labels become 0 or 1, ties stay
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
    loaded = common.load_policy(config.model, s)
    common.check_context(
      loaded.model,
      max_prompt=config.max_prompt,
      max_response=config.max_response,
    )
    train = fit_pairs(
      s,
      loaded,
      load_labels(config),
      config.data.overflow,
      config.labels or common.source(config.data),
    )
    human = human_pairs(s, loaded, config.eval_data)
    model, params = fit(s, loaded, train, human)
    last = loop.last_metrics(s.workdir)
    summary = {k: v for k, v in last.items() if k.startswith('eval_rewards/')}
    if not summary:  # the loop evaluates at its last step, if at all
      summary = evaluate_pairs(s, loaded, model, params, human)
    common.export_model(s, loaded, model, params)
    write_stats(s, loaded, model, params, train[:512])
    workdir_lib.finish(s.workdir, {'pairs': len(train), **summary})


def load_labels(config: ConfigDict) -> list[Example]:
  """Labelled pairs from a label stage, a preference file, or the data set."""
  if not config.labels:
    return common.load_examples(config.data)
  return [
    Example(
      id=r.id,
      prompt=r.prompt,
      pair=(r.response_1, r.response_2),
      p_first=r.p_first,
      fields=r.fields,
      meta=r.meta,
    )
    for r in records.read_preferences(preference_file(config.labels))
  ]


def preference_file(path: str) -> str:
  """The file that `config.labels` names, itself or by a label stage's workdir.

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


def fit(s: common.Session, loaded: common.Loaded, train, human):
  """The training loop; returns (ScalarModel, params)."""
  config, key = s.config, jax.random.key(s.config.seed)
  num_steps = config.num_steps or max(
    1, config.num_epochs * len(train) // config.batch_size
  )
  model, params = common.scalar_from(loaded, s, key)
  frozen, trained = lora.split(model, params)
  tx = common.make_optimizer(config.optimizer, num_steps)
  train_step = step.make_train_step(
    lora.joined(make_loss(model)),
    tx,
    num_microbatches=config.num_microbatches,
  )
  state = train_state.create(trained, tx, s.mesh)

  def batch(at: int):
    rows = pipeline.batch_indices(
      config.seed, at, config.batch_size, len(train),
      process_index=jax.process_index(), process_count=jax.process_count(),
    )  # fmt: skip
    pairs = pair_batch(config, loaded, [train[i] for i in rows])
    if config.hard_labels:
      return dataclasses.replace(pairs, p_first=harden(pairs.p_first))
    return pairs

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
      tokens_per_step=2
      * config.batch_size
      * (config.max_prompt + config.max_response),
    )
  return model, lora.join(frozen, state.params)


def harden(p_first: np.ndarray) -> np.ndarray:
  """Labels as 0 or 1; a tie stays a tie."""
  return 0.5 + 0.5 * np.sign(p_first - np.float32(0.5))


def pair_batch(config: ConfigDict, loaded: common.Loaded, rows):
  """PairBatch of Examples; a response over `max_response` is cut there."""
  return transforms.pair_batch(
    rows,
    loaded.tokenizer,
    config.max_prompt,
    config.max_response,
    overflow='truncate',
  )


def make_loss(model):
  """loss(params, PairBatch, key) -> (soft cross-entropy, metrics)."""

  def loss_fn(params, batch, key):
    del key
    scores_1, scores_2 = score_pairs(model, params, batch)
    loss, metrics = losses.soft_preference(
      scores_1, scores_2, batch.p_first, batch.weight
    )
    return loss, {'loss/reward': loss, **metrics}

  return loss_fn


def score_pairs(model, params, batch):
  """Scores ([B], [B]) of both responses, in one forward over 2B rows."""
  scores = model.apply(
    params,
    jnp.concatenate([batch.tokens_1, batch.tokens_2]),
    mask=jnp.concatenate([batch.mask_1, batch.mask_2]),
  )
  return jnp.split(scores, 2)


def all_scores(s, loaded, model, params, pairs) -> np.ndarray:
  """Raw scores [n, 2] of both responses of all pairs, on the host."""
  found = []
  for rows, _ in pipeline.eval_batches(len(pairs), s.config.batch_size):
    batch = pair_batch(s.config, loaded, [pairs[i] for i in rows])
    batch = sharding.shard_batch(batch, s.mesh)
    found.append(
      np.stack(
        [
          sharding.to_host(score_tokens(model, params, tokens, mask))
          for tokens, mask in (
            (batch.tokens_1, batch.mask_1),
            (batch.tokens_2, batch.mask_2),
          )
        ],
        axis=1,
      )
    )
  return np.concatenate(found)[: len(pairs)]


def evaluate_pairs(s, loaded, model, params, pairs) -> dict[str, float]:
  """Accuracy on human pairs ('.../model'), beside the longer-is-better rule.

  Keys as in evaluators/reward_accuracy.py.
  """
  scores = all_scores(s, loaded, model, params, pairs)
  context = evaluators.Context(pairs=pairs, pair_scores={'model': scores})
  return reward_accuracy.evaluate(context, reward_accuracy.Config())


def write_stats(s, loaded, model, params, pairs) -> None:
  """Mean and std of the scores of training responses, beside the model."""
  scores = all_scores(s, loaded, model, params, pairs)
  stats = {'mean': float(scores.mean()), 'std': float(scores.std() or 1.0)}
  workdir_lib.write_json_atomic(s.workdir / 'model' / STATS_FILE, stats)
