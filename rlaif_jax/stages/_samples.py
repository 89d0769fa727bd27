"""What policies answer to the prompts of an evaluation: sampled or from a file.

`samples.jsonl` holds it side by side, a prompt a line: `id`, `prompt`,
`responses` {policy: text}, their `scores`, and of the example `reference`,
`fields` and `meta`, so that the file alone can be judged again.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from rlaif_jax import sharding
from rlaif_jax.core import kl, masking
from rlaif_jax.data import pipeline, transforms
from rlaif_jax.data import tokenizer as tokenizer_lib
from rlaif_jax.data.datasets import Example
from rlaif_jax.inference import score
from rlaif_jax.models import locate
from rlaif_jax.rating import sheet
from rlaif_jax.rewards.reward_model import decode_responses
from rlaif_jax.stages import _sampler, _selection, common
from rlaif_jax.training import workdir as workdir_lib

FILE = 'samples.jsonl'


@dataclasses.dataclass(frozen=True)
class Sampled:
  """What one policy answered.

  Attributes:
    responses: one text per prompt.
    ended: whether each came to its end token, and was not cut; None where
      nobody knows.
    kl: mean sequence KL to the baseline in nats; None where the baseline has
      other tokens, and so no probability of these ones.
  """

  responses: list[str]
  ended: list[bool] | None = None
  kl: float | None = None


def collect(s: common.Session, bar) -> tuple[list[Example], dict[str, Sampled]]:
  """Prompts and what each policy answered; `bar` is told of each policy."""
  if s.config.samples:
    return from_file(s.config)
  examples = load_prompts(s.config)
  sampled = {}
  for number, (name, path) in enumerate(s.config.policies.items(), 1):
    sampled[name] = sample(s, name, path, examples)
    bar.update(number, {})
  return examples, sampled


# -- from a file --------------------------------------------------------------


def file_of(config: ConfigDict) -> pathlib.Path:
  """The file that `config.samples` names, itself or by its workdir."""
  path = pathlib.Path(config.samples).expanduser()
  return path / FILE if path.is_dir() else path


def names_in(config: ConfigDict) -> list[str]:
  """The policies: those of `config.policies`, or all of the samples file."""
  if not config.samples:
    return list(config.policies)
  first = sheet.read_samples(file_of(config))[0]
  return list(first['responses'])


def from_file(config: ConfigDict) -> tuple[list[Example], dict[str, Sampled]]:
  """The rows of a samples file as examples, and the responses of each policy.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: a row is broken, or lacks a policy of the first one; names it.
  """
  file = file_of(config)
  rows = sheet.read_samples(file)[: config.data.size or None]
  names = list(rows[0]['responses'])
  examples = []
  for number, row in enumerate(rows, 1):
    for name in names:
      if name not in row['responses']:
        raise ValueError(f'{file}:{number}: no response of policy {name!r}')
    prompt = row['prompt']
    examples.append(
      Example(
        id=str(row.get('id', number)),
        prompt=prompt,
        response=row.get('reference'),
        fields=row.get('fields') or {'text': prompt, 'context': prompt},
        meta=row.get('meta') or {},
      )
    )
  responses = {n: [row['responses'][n] for row in rows] for n in names}
  return examples, {name: Sampled(texts) for name, texts in responses.items()}


def scores_in(config: ConfigDict) -> dict[str, np.ndarray]:
  """Scores [n] of each policy that the samples file has.

  Raises:
    ValueError: a row lacks the score of a policy; names it.
  """
  file = file_of(config)
  rows = sheet.read_samples(file)[: config.data.size or None]
  found: dict[str, list[float]] = {name: [] for name in rows[0]['responses']}
  for number, row in enumerate(rows, 1):
    for name, values in found.items():
      score = (row.get('scores') or {}).get(name)
      if isinstance(score, bool) or not isinstance(score, int | float):
        raise ValueError(f'{file}:{number}: no score of policy {name!r}')
      values.append(float(score))
  return {name: np.array(values) for name, values in found.items()}


def write(path, examples, samples: Mapping, scores: Mapping) -> None:
  """Side-by-side texts, one prompt a line; a score that is NaN is left out."""
  lines = []
  for i, example in enumerate(examples):
    row = {'id': example.id, 'prompt': example.prompt}
    row['responses'] = {name: texts[i] for name, texts in samples.items()}
    found = {name: float(values[i]) for name, values in scores.items()}
    row['scores'] = {n: v for n, v in found.items() if np.isfinite(v)}
    if example.response:
      row['reference'] = example.response
    row['fields'], row['meta'] = dict(example.fields), dict(example.meta)
    lines.append(json.dumps(row, ensure_ascii=False, default=str))
  workdir_lib.write_text_atomic(path, '\n'.join(lines) + '\n')


# -- sampled ------------------------------------------------------------------


def load_prompts(config: ConfigDict) -> list[Example]:
  """The prompts, as they fit every policy: all answer the same ones."""
  examples = common.load_examples(config.data)
  for name, path in config.policies.items():
    text = config.instructions.get(name, '')
    tokenizer = tokenizer_lib.load_tokenizer(locate.resolve(path))
    room = len(tokenizer.encode_plain(f'{text}\n\n')) if text else 0
    examples = common.fit_prompts(
      examples,
      tokenizer,
      config.max_prompt - room,
      config.data.overflow,
      common.source(config.data),
    )
  return repeated(examples, config.num_samples)


def repeated(examples: Sequence[Example], count: int) -> list[Example]:
  """Each example `count` times in a row; copies say so in their id."""
  return [
    dataclasses.replace(e, id=f'{e.id}#{k}') if k else e
    for e in examples
    for k in range(count)
  ]


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
  rollouts = _sampler.make_rollouts(s, loaded, config.batch_size)
  same_tokens = loaded.tokenizer.fingerprint == reference.tokenizer.fingerprint
  divergence = make_divergence(loaded, reference, config.sampling.temperature)
  key, eos_ids = jax.random.key(config.seed), loaded.tokenizer.eos_ids
  # The policy may be told more than the reference, which KL is against.
  instruction = config.instructions.get(name, '')
  told = [_selection.instruct(e, instruction) for e in examples]
  texts, ended, divergences = [], [], []
  for rows, count, rollout in rollouts(told, range(len(told)), key):
    texts += decode_responses(rollout, loaded.tokenizer)[:count]
    last = masking.has_end(
      rollout.response_tokens, rollout.response_mask, eos_ids
    )
    ended += sharding.to_host(last)[:count].tolist()
    if same_tokens:
      asked = [examples[i] for i in rows]
      plain = transforms.prompt_batch(
        asked, loaded.tokenizer, config.max_prompt, among=asked
      )
      plain = sharding.shard_batch(plain, s.mesh, whole=True)
      other = dataclasses.replace(
        rollout, prompt_tokens=plain.tokens, prompt_mask=plain.mask
      )
      found = divergence(loaded.params, reference.params, rollout, other)
      divergences.append(sharding.to_host(found)[:count])
  mean = float(np.concatenate(divergences).mean()) if divergences else None
  sampled = Sampled(texts, ended, mean)
  file.parent.mkdir(exist_ok=True)
  workdir_lib.write_json_atomic(file, dataclasses.asdict(sampled))
  return sampled


def _load(s, path: str) -> common.Loaded:
  block = common.model_config(path)
  block.dtype = s.config.dtype
  return common.load_policy(block, s)


def make_divergence(policy, reference, temperature: float):
  """Jitted sequence KL(policy || reference) [B] of a rollout, k1 estimator.

  It takes the responses twice: as answers to what the policy was asked, and to
  what the reference is.
  """

  @jax.jit
  def divergence(params, ref_params, rollout, ref_rollout):
    ours, theirs = (
      score.response_stats(
        loaded.model, p, asked, temperature=temperature
      ).logprobs
      for loaded, p, asked in (
        (policy, params, rollout),
        (reference, ref_params, ref_rollout),
      )
    )
    return masking.masked_sum(
      kl.k1(ours, theirs), rollout.response_mask, axis=-1
    )

  return divergence


# -- read by a language model -------------------------------------------------


def read(
  s: common.Session, examples: Sequence[Example], samples: Mapping
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """What `config.reader` thinks of the responses: (nats, tokens) [n] each.

  The cost -log p of each response with its end token, after its prompt; a
  response over `max_response` tokens counts up to there. {} without a reader.
  """
  path = s.config.reader.path
  if not path:
    return {}
  loaded = common.load_policy(s.config.reader, s)

  @jax.jit
  def costs(params, batch):
    logprobs = score.sequence_logprobs(
      loaded.model, params, batch.tokens, batch.mask, batch.loss_mask
    )
    return -logprobs, batch.loss_mask.sum(-1)

  found = {}
  for name, texts in samples.items():
    parts = []
    for rows, _ in pipeline.eval_batches(len(texts), s.config.batch_size):
      batch = transforms.sft_batch(
        [dataclasses.replace(examples[i], response=texts[i]) for i in rows],
        loaded.tokenizer,
        s.config.max_prompt,
        s.config.max_response,
        overflow='truncate',
      )
      batch = sharding.shard_batch(batch, s.mesh, whole=True)
      parts.append(tuple(map(sharding.to_host, costs(loaded.params, batch))))
    columns = zip(*parts, strict=True)
    found[name] = tuple(np.concatenate(c)[: len(texts)] for c in columns)
  return found
