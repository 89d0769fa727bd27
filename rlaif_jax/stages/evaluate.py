"""Evaluation: how good did each policy become, and how good was the feedback?

Every policy answers the same held-out prompts, or has answered them in a file;
a judge (the tiny world's oracle, a labeler, a reward model, people) compares
the answers with the baseline's. Beside win rates stand length-corrected win
rates, KL to the reference, length and repetition, the labelers' alignment with
human labels and the reward models' accuracy (paper section 3.3, App. B, I, J).
It leaves a report, and a page on which people rate the same answers blindly.
"""

import dataclasses

import jax
import numpy as np
from ml_collections import ConfigDict

from rlaif_jax import evaluators
from rlaif_jax.data.datasets import Example
from rlaif_jax.evaluators import reward_accuracy
from rlaif_jax.rating import page as rating_page
from rlaif_jax.rating import sheet
from rlaif_jax.report import write as report
from rlaif_jax.stages import (
  _axes,
  _cost,
  _judges,
  _options,
  _report,
  _samples,
  common,
  reward,
)
from rlaif_jax.training import progress
from rlaif_jax.training import workdir as workdir_lib

RATING_PAGE = 'rating.html'


def default_config() -> ConfigDict:
  """Sampling at the training temperature, baseline = reference = SFT."""
  c = common.base_config('evaluate')
  c.data = common.data_config('tldr', 'test')
  # Answers in a file instead of policies: samples.jsonl of another
  # evaluation, or of your own; rows of `prompt` and `responses` {name: text}
  c.samples = ''
  c.policies = ConfigDict(sort_keys=False)  # name -> path, the baseline too
  # Policy -> text before its prompts, such as the best of sample.instructions
  c.instructions = ConfigDict(sort_keys=False)
  c.notes = ConfigDict(sort_keys=False)  # policy -> what a reader should know
  c.baseline = 'sft'  # also the KL reference
  c.dtype = 'float32'
  c.max_prompt = 1024
  c.max_response = 128
  c.batch_size = 64
  c.sampling = common.sampling_config(0.9)
  c.num_samples = 1  # of each prompt, by each policy; best_of_n wants several
  c.judge = _judges.config()
  c.axes = ConfigDict(sort_keys=False)  # name -> what scores it; see _axes.py
  c.reader = common.model_config('')  # model whose perplexity is reported
  # rlaif_jax/evaluators/<name>.py -> fields of its Config
  c.evals = ConfigDict(
    dict(win_rate={}, length_control={}, text={}), sort_keys=False
  )
  c.head_to_head = ()  # pairs of policy names
  c.labels = ConfigDict(sort_keys=False)  # name -> path of a label stage
  c.reward_models = ConfigDict(sort_keys=False)  # name -> path
  c.human_data = common.data_config('tldr', 'valid')  # for reward models
  # The page for people: 'pairwise', 'ranking', 'harmless', '' for none; 'auto'
  # compares two policies, and ranks more
  c.rating = ConfigDict(dict(mode='auto', limit=50))
  return c


def run(config: ConfigDict, workdir) -> None:
  """Writes samples, summary, rating page and report, and prints the table."""
  with common.session(config, workdir) as s:
    if s is not None:
      _run(s)
  if jax.process_index() == 0:
    _report.show(workdir_lib.finished(workdir), str(workdir))


def _run(s: common.Session) -> None:
  config = s.config
  check(config)
  bar = progress.Progress(s.workdir.name, max(1, len(config.policies)))
  examples, sampled = _samples.collect(s, bar)
  bar.close()
  samples = {name: found.responses for name, found in sampled.items()}
  verdicts = _judges.judge(s, examples, samples)
  if jax.process_index() == 0:
    _samples.write(
      s.workdir / _samples.FILE, examples, samples, verdicts.scores
    )
    write_rating_page(s)
  context = make_context(s, examples, sampled, verdicts)
  summary = {
    'baseline': config.baseline,
    'policies': list(samples),
    'notes': config.notes.to_dict(),
    'judge': _judges.describe(config),
    'axes': _axes.describe(config),
    'metrics': {**evaluate_all(context, config), **costs(config)},
    'labelers': {
      name: finished_labels(name, path) for name, path in config.labels.items()
    },
    'reward_models': {
      name: reward_model_accuracy(s, path)
      for name, path in config.reward_models.items()
    },
  }
  workdir_lib.finish(s.workdir, summary)
  report.quietly(s.workdir)


def make_context(
  s: common.Session,
  examples: list[Example],
  sampled: dict[str, _samples.Sampled],
  verdicts: _judges.Verdicts,
) -> evaluators.Context:
  """What the evaluators look at; of people's scores the prompts they rated."""
  rows = verdicts.rows(len(examples))
  examples = [examples[i] for i in rows]
  samples = {n: [x.responses[i] for i in rows] for n, x in sampled.items()}
  return evaluators.Context(
    examples=examples,
    samples=samples,
    baseline=s.config.baseline,
    scores={n: np.asarray(v)[rows] for n, v in verdicts.scores.items()},
    preferred=verdicts.preferred,
    averaged=verdicts.averaged,
    flipped=verdicts.flipped,
    axes=_axes.score(s, examples, samples),
    nats=_samples.read(s, examples, samples),
    kl={n: x.kl for n, x in sampled.items() if x.kl is not None},
    ended={
      n: [x.ended[i] for i in rows]
      for n, x in sampled.items()
      if x.ended is not None
    },
  )


def check(config: ConfigDict) -> None:
  """What can be known to be wrong before anything is loaded or sampled.

  Raises:
    ValueError: the baseline or a head-to-head names no policy, the judge,
      an evaluator or an option of one does not exist; names the key.
    FileNotFoundError: `config.labels` names a stage that has not finished.
  """
  if config.samples and config.policies:
    raise ValueError(
      'config.samples and config.policies are both set; responses come from '
      'one of them'
    )
  names = _samples.names_in(config)
  pairs = {n for pair in config.head_to_head for n in pair}
  for key, wanted in (
    ('baseline', {config.baseline}),
    ('head_to_head', pairs),
    ('instructions', set(config.instructions)),
    ('notes', set(config.notes)),
  ):
    if missing := sorted(wanted - set(names)):
      raise ValueError(
        f'config.{key} names {missing[0]!r}, which is not in config.policies; '
        f'there are: {", ".join(names) or "none"}'
      )
  if config.rating.mode not in ('', 'auto', *sheet.MODES):
    raise ValueError(
      f'config.rating.mode={config.rating.mode!r}; use one of auto, '
      f"{', '.join(sheet.MODES)}, or '' for no page"
    )
  for name, path in config.labels.items():
    finished_labels(name, path)
  evaluator_configs(config)
  _judges.check(config, names)
  _axes.check(config)


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


def costs(config: ConfigDict) -> dict[str, float]:
  """`cost/<what>/<policy>`: what it took from the baseline to each policy."""
  start = config.policies.get(config.baseline, '')
  return {
    f'cost/{key}/{name}': value
    for name, path in config.policies.items()
    for key, value in _cost.of(path, start).items()
  }


def finished_labels(name: str, path: str) -> dict:
  """The summary of a label stage."""
  summary = workdir_lib.finished(path)
  if summary is None:
    raise FileNotFoundError(
      f'config.labels.{name}: {path}: no finished label stage here; run it '
      'first'
    )
  return summary


def write_rating_page(s: common.Session) -> None:
  """The page on which people rate these samples, with its key beside it.

  One policy alone has nothing to be compared with, and gets none.
  """
  block, file = s.config.rating, s.workdir / RATING_PAGE
  rows = sheet.read_samples(s.workdir / _samples.FILE)
  count, mode = len(rows[0]['responses']), block.mode
  if mode == 'auto':
    mode = 'ranking' if 2 < count <= len(sheet.LETTERS) else 'pairwise'
  if not mode or file.exists() or (count == 1 and mode != 'harmless'):
    return
  made = sheet.make(rows, mode, (), block.limit, s.config.seed)
  rating_page.write(made, file)
  common.say(f'rate the samples yourself: {file}')


def reward_model_accuracy(s: common.Session, path: str) -> dict:
  """Accuracy of a reward model on the human pairs of `config.human_data`."""
  loaded = common.load_reward_model(path, s)
  pairs = reward.human_pairs(s, loaded, s.config.human_data)
  context = reward.scored_pairs(s, loaded, loaded.model, loaded.params, pairs)
  return {
    **reward_accuracy.evaluate(context, reward_accuracy.Config()),
    'reliability': reward.reliability(context),
  }
