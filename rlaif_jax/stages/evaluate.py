"""Evaluation: how good did each policy become, and how good was the feedback?

Every policy answers the same held-out prompts; a judge (the tiny world's
oracle, a labeler or a reward model) compares the answers with the baseline's.
Beside win rates stand length-corrected win rates, KL to the reference, length
and repetition, the labelers' alignment with human labels and the reward
models' accuracy (paper section 3.3, App. B, I, J).
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np
import rich.console
import rich.table
from ml_collections import ConfigDict

from rlaif_jax import evaluators, sharding
from rlaif_jax.core import kl, masking
from rlaif_jax.data import datasets, transforms
from rlaif_jax.data.datasets import Example
from rlaif_jax.inference import decode, score
from rlaif_jax.inference.sampling import SamplingConfig
from rlaif_jax.labeler import direct, prompts
from rlaif_jax.rewards.reward_model import decode_responses
from rlaif_jax.stages import common, label, reward
from rlaif_jax.training import progress
from rlaif_jax.training import workdir as workdir_lib


def default_config() -> ConfigDict:
  """Sampling at the training temperature, baseline = reference = SFT."""
  c = common.base_config('evaluate')
  c.data = common.data_config('tldr', 'test')
  c.policies = ConfigDict(sort_keys=False)  # name -> path, the baseline too
  c.baseline = 'sft'  # also the KL reference
  c.dtype = 'float32'
  c.max_prompt = 1024
  c.max_response = 128
  c.batch_size = 64
  c.sampling = common.sampling_config(0.9)
  c.judge = ConfigDict(
    dict(
      name='oracle',  # 'oracle' (tiny world), 'labeler' or 'none'
      path='',  # of the labeler
      prompt='summary_score',
      max_tokens=4096,
      batch_size=64,
      dtype='float32',
    )
  )
  # rlaif_jax/evaluators/<name>.py -> fields of its Config
  c.evals = ConfigDict(
    dict(win_rate={}, length_control={}, text={}), sort_keys=False
  )
  c.head_to_head = ()  # pairs of policy names
  c.labels = ConfigDict(sort_keys=False)  # name -> path of a label stage
  c.reward_models = ConfigDict(sort_keys=False)  # name -> path
  c.human_data = common.data_config('tldr', 'valid')  # for reward models
  return c


def run(config: ConfigDict, workdir) -> None:
  """Writes `samples.jsonl` and `summary.json`, and prints the table."""
  with common.session(config, workdir) as s:
    if s is not None:
      _run(s)
  show(workdir_lib.finished(pathlib.Path(workdir)), str(workdir))


def _run(s: common.Session) -> None:
  config = s.config
  examples = common.load_examples(config.data)
  samples, divergence = {}, {}
  bar = progress.Progress(s.workdir.name, len(config.policies))
  for number, (name, path) in enumerate(config.policies.items(), 1):
    samples[name], divergence[name] = sample(s, name, path, examples)
    bar.update(number, {})
  bar.close()
  judge = make_judge(s, examples)
  scores = {n: judge(texts) for n, texts in samples.items()} if judge else {}
  write_samples(s.workdir / 'samples.jsonl', examples, samples, scores)
  context = evaluators.Context(
    examples=examples,
    samples=samples,
    baseline=config.baseline,
    scores=scores,
    kl=divergence,
  )
  summary = {
    'baseline': config.baseline,
    'policies': list(samples),
    'metrics': evaluate_all(context, config),
    'labelers': {
      name: workdir_lib.finished(path) for name, path in config.labels.items()
    },
    'reward_models': {
      name: reward_model_accuracy(s, path)
      for name, path in config.reward_models.items()
    },
  }
  workdir_lib.finish(s.workdir, summary)


def evaluate_all(context, config) -> dict[str, float]:
  """Metrics of all evaluators that `config.evals` names."""
  metrics = {}
  for name, options in config.evals.items():
    module = evaluators.load(name)
    fields = {f.name for f in dataclasses.fields(module.Config)}
    options = {'seed': config.seed, **options.to_dict()}
    if 'head_to_head' in fields:
      options['head_to_head'] = tuple(map(tuple, config.head_to_head))
    metrics |= module.evaluate(context, module.Config(**options))
  return metrics


# -- samples ------------------------------------------------------------------


def sample(s, name: str, path: str, examples: Sequence[Example]):
  """(responses, mean sequence KL to the baseline); kept in `samples/<name>`.

  A restart reads what was sampled before.
  """
  file = s.workdir / 'samples' / f'{name}.json'
  if file.is_file():
    kept = json.loads(file.read_text())
    return kept['responses'], kept['kl']
  config = s.config
  loaded = _load(s, path)
  reference = _load(s, config.policies[config.baseline])
  examples = common.fit_prompts(
    examples, loaded.tokenizer, config.max_prompt, config.data.overflow
  )
  generate = decode.make_generate(
    loaded.model,
    max_new_tokens=config.max_response,
    sampling=SamplingConfig(**config.sampling.to_dict()),
    eos_ids=loaded.tokenizer.eos_ids,
    pad_id=loaded.tokenizer.pad_id,
  )
  divergence = make_divergence(loaded, reference, config.sampling.temperature)
  key, size = jax.random.key(config.seed), config.batch_size
  texts, divergences = [], []
  for at in range(0, len(examples), size):
    part = list(examples[at : at + size])
    filled = part + part[-1:] * (size - len(part))
    batch = transforms.prompt_batch(filled, loaded.tokenizer, config.max_prompt)
    rollout = generate(
      loaded.params,
      sharding.shard_batch(batch, s.mesh),
      key,
      np.arange(at, at + size, dtype=np.int32),
    )
    texts += decode_responses(rollout, loaded.tokenizer)[: len(part)]
    divergences.append(
      sharding.to_host(divergence(loaded.params, reference.params, rollout))[
        : len(part)
      ]
    )
  mean = float(np.concatenate(divergences).mean())
  file.parent.mkdir(exist_ok=True)
  workdir_lib.write_json_atomic(file, {'kl': mean, 'responses': texts})
  return texts, mean


def _load(s, path: str) -> common.Loaded:
  block = common.model_config(path)
  block.dtype = s.config.dtype
  return common.load_policy(block, s)


def make_divergence(policy, reference, temperature: float):
  """Jitted sequence KL(policy || reference) [B] of a rollout, k1 estimator."""

  @jax.jit
  def divergence(params, ref_params, rollout):
    ours, theirs = (
      score.response_stats(
        loaded.model, p, rollout, temperature=temperature
      ).logprobs
      for loaded, p in ((policy, params), (reference, ref_params))
    )
    return masking.masked_sum(
      kl.k1(ours, theirs), rollout.response_mask, axis=-1
    )

  return divergence


def write_samples(path, examples, samples: Mapping, scores: Mapping) -> None:
  """Side-by-side texts, one prompt a line."""
  lines = []
  for i, example in enumerate(examples):
    row = {'id': example.id, 'prompt': example.prompt}
    row['responses'] = {name: texts[i] for name, texts in samples.items()}
    row['scores'] = {name: float(found[i]) for name, found in scores.items()}
    if example.response:
      row['reference'] = example.response
    lines.append(json.dumps(row, ensure_ascii=False))
  workdir_lib.write_text_atomic(path, '\n'.join(lines) + '\n')


# -- judges -------------------------------------------------------------------


def make_judge(s: common.Session, examples: Sequence[Example]):
  """judge(responses) -> scores [n], higher is better; None for 'none'."""
  block = s.config.judge
  if block.name == 'none':
    return None
  if block.name == 'oracle':
    module = datasets.load_module(s.config.data.name)
    if not hasattr(module, 'oracle'):
      raise ValueError(
        f'data set {s.config.data.name!r} has no oracle; set config.judge.name '
        "to 'labeler' or 'none'"
      )
    return lambda texts: np.array(
      [module.oracle(e, t) for e, t in zip(examples, texts, strict=True)]
    )
  if block.name == 'labeler':
    labeler = label.load_labeler(block, s)
    prompt = prompts.load_prompt(block.prompt)
    fields = [e.fields for e in examples]
    return lambda texts: direct.score_responses(labeler, prompt, fields, texts)
  raise ValueError(
    f"config.judge.name={block.name!r}; use 'oracle', 'labeler' or 'none'"
  )


def reward_model_accuracy(s: common.Session, path: str) -> dict[str, float]:
  """Accuracy of a reward model on the human pairs of `config.human_data`."""
  loaded = common.load_reward_model(path, s)
  pairs = reward.fit_pairs(
    s,
    loaded,
    common.load_examples(s.config.human_data),
    s.config.human_data.overflow,
  )
  return reward.evaluate_pairs(s, loaded, loaded.model, loaded.params, pairs)


# -- the table ----------------------------------------------------------------


def show(summary: Mapping, title: str) -> None:
  """Prints the summary as tables."""
  console = rich.console.Console(width=110, highlight=False)
  console.print(_table(title, policy_rows(summary)))
  for block, columns in (
    (
      'labelers',
      ('labeler/alignment', 'labeler/flip_rate', 'labeler/position_bias'),
    ),
    (
      'reward_models',
      (
        'eval_rewards/accuracies/model',
        'eval_rewards/accuracies/longer',
        'eval_rewards/ece/model',
      ),
    ),
  ):
    if summary.get(block):
      rows = {
        name: {_short(c): f'{row[c]:.1%}' for c in columns if c in row}
        for name, row in summary[block].items()
      }
      console.print(_table(block.replace('_', ' '), rows))


def policy_rows(summary: Mapping) -> dict[str, dict[str, str]]:
  """The headline table: one row a policy, then the head-to-head rows."""
  metrics, rows = summary['metrics'], {}
  names = list(summary['policies'])
  prefix = 'eval_win_rate/'
  names += [
    key.removeprefix(prefix)
    for key in metrics
    if key.startswith(prefix) and key.endswith('_p_value') and '_vs_' in key
  ]
  for name in names:
    name = name.removesuffix('_p_value')
    cells = {}
    for column, key, form in _COLUMNS:
      values = [metrics.get(k.format(name)) for k in key]
      if None not in values:
        cells[column] = form.format(*values)
    rows[name.replace('_vs_', ' vs ')] = cells
  return rows


_COLUMNS = (
  ('win rate', ('eval_win_rate/{}',), '{:.1%}'),
  (
    '95% CI',
    ('eval_win_rate/{}_ci_low', 'eval_win_rate/{}_ci_high'),
    '{:.1%} to {:.1%}',
  ),
  ('length-corrected', ('eval_win_rate_lc/{}',), '{:.1%}'),
  ('harmless', ('eval_harmless_rate/{}',), '{:.1%}'),
  ('KL to SFT', ('objective/kl/{}',), '{:.2f}'),
  ('words', ('text/words/{}',), '{:.1f}'),
  ('repeated 3-grams', ('text/repeated_3grams/{}',), '{:.1%}'),
)


def _short(key: str) -> str:
  """'eval_rewards/accuracies/model' -> 'accuracies'; 'longer' stays."""
  return key.removesuffix('/model').split('/')[-1].replace('_', ' ')


def _table(title: str, rows: Mapping[str, Mapping[str, str]]):
  """A rich table; columns that no row fills are left out."""
  table = rich.table.Table(title=title)
  columns = dict.fromkeys(c for row in rows.values() for c in row)
  table.add_column('')
  for column in columns:
    table.add_column(column, justify='right')
  for name, row in rows.items():
    table.add_row(name, *(row.get(c, '') for c in columns))
  return table
