"""Who labels pairs: labelers by config, alone or as a panel, calibrated.

A labeler is a model in the mesh or, with `endpoint.url`, one that somebody
else runs; with `cache` it asks nothing twice.
"""

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from rlaif_jax.data import records
from rlaif_jax.data import tokenizer as tokenizer_lib
from rlaif_jax.data.datasets import Example
from rlaif_jax.inference.sampling import SamplingConfig
from rlaif_jax.labeler import (
  Labeler,
  ask,
  cache,
  combine,
  endpoint,
  in_mesh,
  preference,
  prompts,
)
from rlaif_jax.models import locate
from rlaif_jax.stages import common

_log = logging.getLogger(__name__)
# Fields that `load` reads: blocks of others that load one have them, too.
LOADED = (
  'max_tokens', 'batch_size', 'dtype', 'param_dtype', 'offload', 'cache',
  'endpoint',
)  # fmt: skip


def config() -> ConfigDict:
  """A labeler block; the paper's labeler reads 4096 and thinks 512 tokens."""
  return ConfigDict(
    dict(
      path='',  # of the model; its name for the server with `endpoint.url`
      # rlaif_jax/labeler/prompts or a JSON path; '_2shot' shows two exemplars
      prompt='summary_detailed',
      # JSON file of them, or a folder of <task>.json; '' = what ships
      exemplars='',
      max_tokens=4096,  # of a prompt; the post is cut at a line break to fit
      batch_size=64,
      dtype='float32',
      # Of its weights: '' = as in the file, 'bfloat16', 'int8', ...
      param_dtype='',
      offload=False,  # they wait in host memory until they are used
      # Of prompts that ask for one. Temperature 0 is greedy; several samples
      # (self-consistency) need one above 0.
      rationale=dict(max_tokens=512, samples=1, temperature=0.0, top_k=40),
      clamp=(0.0, 1.0),  # labels are kept within; (0.4, 0.6) against certainty
      panel=(),  # paths of further labelers that are asked the same
      combine='mean',  # of the panel; or 'log_odds', 'majority'
      band=0.0,  # labels this close to 0.5 are undecided:
      in_band='tie',  # ... they become 0.5, or 'skip': are left out
      # 'temperature' or 'platt', fitted on `calibration_data`'s human labels
      calibration='',
      cache='',  # file of answers, so that nothing is asked twice
      endpoint=dict(
        url='',  # up to '/completions', such as http://localhost:8000/v1
        mode='auto',  # 'echo' or 'top'; see labeler/endpoint.py
        top_logprobs=20,  # of mode 'top'; servers have a limit
        key_variable='LABELER_API_KEY',  # environment variable with the key
        tokenizer='',  # folder or hub id, to count tokens; '' = an estimate
        revision='',  # of the weights, for records and the cache
        concurrency=16,
        requests_per_second=0.0,  # 0 = any number
        timeout=120.0,
        retries=6,
      ),
    )
  )


def load_prompt(block: ConfigDict, name: str = '') -> prompts.LabelPrompt:
  """The prompt of a labeler block, or `name` in its place, with exemplars."""
  exemplars = block.exemplars
  if exemplars.startswith('tiny:'):
    exemplars = locate.resolve(exemplars)
  return prompts.load_prompt(name or block.prompt, exemplars)


def check(block: ConfigDict) -> None:
  """Raises for what can be known to be wrong before anything is loaded."""
  prompt = load_prompt(block)
  preference.check(prompt, block.clamp)
  thinking(block, 0)
  combine.undecided([0.5], block.band)
  for key, allowed in (
    ('combine', combine.METHODS),
    ('in_band', combine.BANDS),
    ('calibration', ('', *combine.CALIBRATIONS)),
  ):
    if block[key] not in allowed:
      raise ValueError(
        f'config.labeler.{key}={block[key]!r}; use one of {allowed}'
      )


def thinking(block: ConfigDict, seed: int) -> ask.Thinking:
  """How rationales are written, from a labeler block."""
  options = block.rationale
  sampling = dict(greedy=True)
  if options.temperature > 0:
    sampling = dict(temperature=options.temperature, top_k=options.top_k)
  return ask.Thinking(
    max_tokens=options.max_tokens,
    samples=options.samples,
    sampling=SamplingConfig(**sampling),
    seed=seed,
  )


def load(block: ConfigDict, path: str, s: common.Session) -> Labeler:
  """One labeler: `path` in the mesh or behind the endpoint, with its cache."""
  if block.endpoint.url:
    labeler = _endpoint(block, path)
  else:
    labeler = in_mesh.load(
      path,
      mesh=s.mesh,
      rules=s.rules,
      dtype=block.dtype,
      param_dtype=block.param_dtype,
      offload=block.offload,
      max_tokens=block.max_tokens,
      batch_size=block.batch_size,
    )
  return cache.CachedLabeler(labeler, block.cache) if block.cache else labeler


def _endpoint(block: ConfigDict, path: str) -> endpoint.EndpointLabeler:
  options, tokenizer = block.endpoint, None
  if options.tokenizer:
    tokenizer = tokenizer_lib.load_tokenizer(locate.resolve(options.tokenizer))
  client = endpoint.Client(
    options.url,
    options.key_variable,
    concurrency=options.concurrency,
    requests_per_second=options.requests_per_second,
    timeout=options.timeout,
    retries=options.retries,
  )
  return endpoint.EndpointLabeler(
    client,
    path,
    mode=options.mode,
    top_logprobs=options.top_logprobs,
    max_tokens=block.max_tokens,
    tokenizer=tokenizer,
    revision=options.revision,
  )


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What the panel says of one pair.

  Attributes:
    p_first: combined label, calibrated if it is to be, ties at 0.5.
    label: that of the first labeler.
    members: `p_first` of each labeler.
  """

  p_first: float
  label: preference.PairLabel
  members: tuple[float, ...]

  def meta(self, prompt: prompts.LabelPrompt) -> dict:
    """What records note beside the label: only what is out of the ordinary."""
    found = {}
    if self.label.cut:
      found['cut'] = True
    if self.label.num_exemplars < len(prompt.exemplars):
      found['fewer_exemplars'] = self.label.num_exemplars
    if len(self.members) > 1:
      found['panel'] = list(self.members)
    return found


class Panel:
  """The labelers of a block; one alone is a panel too."""

  def __init__(
    self,
    block: ConfigDict,
    s: common.Session,
    labelers: Sequence[Labeler] | None = None,
  ):
    """Loads the labelers, unless they are given."""
    self._block = block
    self._thinking = thinking(block, s.config.seed)
    self.prompt = load_prompt(block)
    self.labelers = labelers or [
      load(block, path, s) for path in (block.path, *block.panel)
    ]
    self.calibration = combine.Calibration()

  @property
  def identity(self) -> str:
    """Who they are, in order."""
    return ' + '.join(labeler.identity for labeler in self.labelers)

  @property
  def fingerprint(self) -> str:
    """16 hex digits of `identity`."""
    return records.stable_hash(self.identity)

  def work(self) -> dict[str, float]:
    """Tokens read and written and seconds so far, by all."""
    counters = [labeler.counters for labeler in self.labelers]
    written = sum(c.written for c in counters)
    return {
      'tokens_in': sum(c.tokens for c in counters) - written,
      'tokens_out': written,
      'seconds': sum(c.seconds for c in counters),
    }

  def __call__(self, rows: Sequence[Example]) -> list[Verdict | None]:
    """Verdicts on rows with pairs; None where one of them has none."""
    pairs = [(e.id, e.fields, e.pair) for e in rows]
    by_labeler = [
      preference.label_pairs(
        labeler,
        self.prompt,
        pairs,
        thinking=self._thinking,
        clamp=self._block.clamp,
      )
      for labeler in self.labelers
    ]
    verdicts: list[Verdict | None] = []
    for labels in zip(*by_labeler, strict=True):
      known = None not in labels
      verdicts.append(self._verdict(labels) if known else None)
    return verdicts

  def _verdict(self, labels) -> Verdict | None:
    members = tuple(label.p_first for label in labels)
    p_first = self._combined(members)
    if combine.undecided(p_first, self._block.band):
      if self._block.in_band == 'skip':
        _log.warning(
          '%s: skipped, undecided at %.3f', labels[0].id, float(p_first)
        )
        return None
      p_first = 0.5
    return Verdict(float(p_first), labels[0], members)

  def _combined(self, members) -> float:
    p = members[0]
    if len(members) > 1:
      p = combine.panel(np.array(members)[:, None], self._block.combine)[0]
    identity = self.calibration == combine.Calibration()
    return p if identity else float(self.calibration(p))
