"""The `monitor` block of the RL stage: limits, and a judge that looks on."""

import dataclasses
from collections.abc import Callable

import jax
from ml_collections import ConfigDict

from rlaif_jax.stages import _options, _rewards, common
from rlaif_jax.training.monitor import Monitor, MonitorConfig


def config() -> ConfigDict:
  """No limits and no judge."""
  c = ConfigDict(dataclasses.asdict(MonitorConfig()))
  # Scores the same responses now and then, and nothing is learned from it: a
  # labeler beside a reward model, say. As `reward`; path '' = none.
  c.judge = _rewards.config()
  c.judge_every = 10  # steps
  return c


def make_monitor(block: ConfigDict) -> Monitor:
  """The monitor of a block.

  Raises:
    ValueError: a limit out of range, or one that needs a judge without one.
  """
  fields = {f.name: block[f.name] for f in dataclasses.fields(MonitorConfig)}
  options = _options.build(MonitorConfig, fields, 'config.monitor')
  if options.max_gap and not block.judge.path:
    raise ValueError(
      f'config.monitor.max_gap={options.max_gap} compares the reward with a '
      'judge; name one in config.monitor.judge.path'
    )
  if block.judge_every < 1:
    raise ValueError(
      f'config.monitor.judge_every={block.judge_every} must be 1 or more'
    )
  return Monitor(options)


def make_judge(s: common.Session, loaded: common.Loaded) -> Callable:
  """look(rollout, examples, step) -> `judge/scores`, `judge/scores_std`.

  {} at steps at which it does not look.
  """
  block = s.config.monitor
  if not block.judge.path:
    return lambda rollout, examples, at: {}
  judge = _rewards.make(
    block.judge, policy_tokenizer=loaded.tokenizer, mesh=s.mesh, rules=s.rules
  )

  def look(rollout, examples, at: int) -> dict[str, jax.Array]:
    if at % block.judge_every:
      return {}
    scores = judge.score(rollout, examples)
    return {'judge/scores': scores.mean(), 'judge/scores_std': scores.std()}

  return look
