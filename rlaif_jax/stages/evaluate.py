"""Evaluation: how good did each policy become, and how good was the feedback?

Every policy answers the same held-out prompts; a judge (the tiny world's
oracle, a labeler or a reward model) compares the answers with the baseline's.
Beside win rates stand length-corrected win rates, KL to the reference, length
and repetition, the labelers' alignment with human labels and the reward
models' accuracy (paper section 3.3, App. B, I, J).
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rlaif_jax import evaluators, sharding
from rlaif_jax.core import kl, masking
from rlaif_jax.data import tokenizer as tokenizer_lib
from rlaif_jax.data import transforms
from rlaif_jax.data.datasets import Example
from rlaif_jax.inference import decode, score
from rlaif_jax.models import locate
from rlaif_jax.rewards.reward_model import decode_responses
from rlaif_jax.stages import _judges, _options, _report, common, reward
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
      # 'oracle' (tiny world), 'labeler', 'reward_model' or 'none'
      name='oracle',
      path='',  # of the labeler or the reward model
      prompt='summary_score',  # of the labeler, as is what follows
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
  if jax.process_index() == 0:
    _report.show(workdir_lib.finished(workdir), str(workdir))


def _run(s: common.Session) -> None:
  config = s.config
  check(config)
  examples = load_prompts(config)
  sampled = {}
  bar = progress.Progress(s.workdir.name, len(config.policies))
  for number, (name, path) in enumerate(config.policies.items(), 1):
    sampled[name] = sample(s, name, path, examples)
    bar.update(number, {})
  bar.close()
  samples = {name: found.responses for name, found in sampled.items()}
  judge = _judges.make(s, examples)
  scores = {n: judge(texts) for n, texts in samples.items()} if judge else {}
  write_samples(s.workdir / 'samples.jsonl', examples, samples, scores)
  context = evaluators.Context(
    examples=examples,
    samples=samples,
    baseline=config.baseline,
    scores=scores,
    kl={n: x.kl for n, x in sampled.items() if x.kl is not None},
    ended={n: x.ended for n, x in sampled.items()},
  )
  summary = {
    'baseline': config.baseline,
    'policies': list(samples),
    'judge': _judges.describe(config),
    'metrics': evaluate_all(context, config),
    'labelers': {
      name: finished_labels(name, path) for name, path in config.labels.items()
    },
    'reward_models': {
      name: reward_model_accuracy(s, path)
      for name, path in config.reward_models.items()
    },
  }
  workdir_lib.finish(s.workdir, summary)


def check(config: ConfigDict) -> None:
  """What can be known to be wrong before anything is loaded or sampled.

  Raises:
    ValueError: the baseline or a head-to-head names no policy, the judge,
      an evaluator or an option of one does not exist; names the key.
    FileNotFoundError: `config.labels` names a stage that has not finished.
  """
  names = list(config.policies)
  pairs = {n for pair in config.head_to_head for n in pair}
  for key, wanted in (('baseline', {config.baseline}), ('head_to_head', pairs)):
    if missing := sorted(wanted - set(names)):
      raise ValueError(
        f'config.{key} names {missing[0]!r}, which is not in config.policies; '
        f'there are: {", ".join(names) or "none"}'
      )
  for name, path in config.labels.items():
    finished_labels(name, path)
  evaluator_configs(config)
  _judges.check(config)


def evaluator_configs(config: ConfigDict) -> dict:
  """Evaluator name -> its Config, for all that `config.evals` names."""
  configs = {}
  for name, options in config.evals.items():
    cls = evaluators.load(name).Config
    options = {'seed': config.seed, **options.to_dict()}
    if 'head_to_head' in {f.name for f in dataclasses.fields(cls)}:
      options.setdefault('head_to_head', tuple(map(tuple, config.head_to_head)))
    configs[name] = _options.build(cls, options, f'config.evals.{name}')
  return configs


def evaluate_all(context, config: ConfigDict) -> dict[str, float]:
  """Metrics of all evaluators that `config.evals` names."""
  metrics = {}
  for name, options in evaluator_configs(config).items():
    metrics |= evaluators.load(name).evaluate(context, options)
  return metrics


def finished_labels(name: str, path: str) -> dict:
  """The summary of a label stage."""
  summary = workdir_lib.finished(path)
  if summary is None:
    raise FileNotFoundError(
      f'config.labels.{name}: {path}: no finished label stage here; run it '
      'first'
    )
  return summary


# -- samples ------------------------------------------------------------------


def load_prompts(config: ConfigDict) -> list[Example]:
  """The prompts, as they fit every policy: all answer the same ones."""
  examples = common.load_examples(config.data)
  for path in dict.fromkeys(config.policies.values()):
    examples = common.fit_prompts(
      examples,
      tokenizer_lib.load_tokenizer(locate.resolve(path)),
      config.max_prompt,
      config.data.overflow,
      common.source(config.data),
    )
  return examples


@dataclasses.dataclass(frozen=True)
class Sampled:
  """What one policy answered.

  Attributes:
    responses: one text per prompt.
    ended: whether each came to its end token, and was not cut.
    kl: mean sequence KL to the baseline in nats; None where the baseline has
      other tokens, and so no probability of these ones.
  """

  responses: list[str]
  ended: list[bool]
  kl: float | None


def sample(
  s: common.Session, name: str, path: str, examples: Sequence[Example]
) -> Sampled:
  """Answers of the policy at `path`; a restart reads what was sampled."""
  file = s.workdir / 'samples' / f'{name}.json'
  if file.is_file():
    return Sampled(**json.loads(file.read_text()))
  config = s.config
  loaded = _load(s, path)
  reference = _load(s, config.policies[config.baseline])
  common.check_context(
    loaded.model, max_prompt=config.max_prompt, max_response=config.max_response
  )
  generate = decode.make_generate(
    loaded.model,
    max_new_tokens=config.max_response,
    sampling=common.make_sampling(config.sampling),
    eos_ids=loaded.tokenizer.eos_ids,
    pad_id=loaded.tokenizer.pad_id,
  )
  same_tokens = loaded.tokenizer.fingerprint == reference.tokenizer.fingerprint
  divergence = make_divergence(loaded, reference, config.sampling.temperature)
  key, size = jax.random.key(config.seed), config.batch_size
  texts, ended, divergences = [], [], []
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
    last = sharding.to_host(has_ended(rollout, loaded.tokenizer.eos_ids))
    ended += last[: len(part)].tolist()
    if same_tokens:
      found = divergence(loaded.params, reference.params, rollout)
      divergences.append(sharding.to_host(found)[: len(part)])
  mean = float(np.concatenate(divergences).mean()) if divergences else None
  sampled = Sampled(texts, ended, mean)
  file.parent.mkdir(exist_ok=True)
  workdir_lib.write_json_atomic(file, dataclasses.asdict(sampled))
  return sampled


def has_ended(rollout, eos_ids: Sequence[int]) -> jax.Array:
  """Whether each response holds an end token, bool [B]."""
  ends = jnp.isin(rollout.response_tokens, jnp.array(eos_ids))
  return (ends & rollout.response_mask).any(-1)


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


# -- reward models -----------------------------------------------------------


def reward_model_accuracy(s: common.Session, path: str) -> dict[str, float]:
  """Accuracy of a reward model on the human pairs of `config.human_data`."""
  loaded = common.load_reward_model(path, s)
  pairs = reward.human_pairs(s, loaded, s.config.human_data)
  return reward.evaluate_pairs(s, loaded, loaded.model, loaded.params, pairs)
