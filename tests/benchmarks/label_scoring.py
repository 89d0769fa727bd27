"""Pairs per second of label scoring, beside Hugging Face torch on one CPU.

  pip install torch transformers
  python tests/benchmarks/label_scoring.py [--threads=1] [--pairs=32]

A 6-layer, 256-wide, 8k-vocabulary GPT-Neo of random weights reads labeling
prompts of about 700 tokens, of which all share 500 (instructions, exemplars);
then comes a post of about 150 and two summaries of about 20, in both orders.
Float32, and the same threads and texts for all:

  ours          InMeshLabeler.score_texts
  torch full    each prompt by itself, as model(ids).logits
  torch prefix  the 500 tokens kept as past_key_values and expanded, the rest in
                batches sorted by length, only last positions unembedded

Both with a prefix keep it for the next repeat, as for the next rows of a
labeling run. Repeats take turns, so that what else the machine does hits all
alike; medians are shown. Compile time and the first run of each are apart.
Ends with an error if the probabilities differ by more than 1e-4.
"""

import argparse
import copy
import os
import statistics
import tempfile
import time

import jax
import numpy as np
import tokenizers
import torch
import transformers

from rlaif_jax.data import tokenizer as tokenizer_lib
from rlaif_jax.labeler.in_mesh import InMeshLabeler
from rlaif_jax.models import hf

VOCAB, WIDTH, LAYERS, HEADS = 8192, 256, 6, 8
SHARED, POST, SUMMARY = 500, 150, 20  # tokens, on average
LABELS = ('1', '2')
ENDING = 'Preferred Summary='


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--pairs', type=int, default=32)
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--batch', type=int, default=16, help='texts in one pass')
  parser.add_argument(
    '--torch-batch', type=int, default=8, help='the same for torch prefix'
  )
  parser.add_argument(
    '--clock',
    choices=['wall', 'cpu'],
    default='wall',
    help="cpu: the process's own seconds, for a machine that others use too",
  )
  cores = sorted(os.sched_getaffinity(0))
  parser.add_argument('--threads', type=int, default=len(cores))
  args = parser.parse_args()
  # XLA takes as many threads as there are cores that it may run on.
  os.sched_setaffinity(0, cores[-args.threads :])
  torch.set_num_threads(args.threads)
  with tempfile.TemporaryDirectory() as folder:
    save_model(folder)
    save_tokenizer(folder)
    tokenizer = tokenizer_lib.load_tokenizer(folder)
    texts = make_texts(args.pairs)
    ours = Ours(folder, tokenizer, args.batch)
    peer = Torch(folder, tokenizer, args.torch_batch)
  lengths = [len(ids) for ids in tokenizer.encode_batch(texts)]
  print(
    f'{args.pairs} pairs, prompts of {min(lengths)} to {max(lengths)} tokens '
    f'(mean {np.mean(lengths):.0f}), {args.threads} threads'
  )
  programs = {
    'ours': ours,
    'torch full': peer.full,
    'torch prefix': peer.prefix,
  }
  clock = time.process_time if args.clock == 'cpu' else time.perf_counter
  compare(programs, texts, args.repeats, clock)


def compare(programs, texts, repeats: int, clock):
  """Runs all in turns; prints first runs, medians and ratios."""
  found, first = {}, {}
  for name, program in programs.items():
    found[name], first[name] = timed(program, texts, clock)
  worst = max(np.abs(p - found['ours']).max() for p in found.values())
  seconds = {name: [] for name in programs}
  for _ in range(repeats):
    for name, program in programs.items():
      seconds[name].append(timed(program, texts, clock)[1])
  medians = {name: statistics.median(s) for name, s in seconds.items()}
  print(f'{"":14}{"first run":>10}{"pairs/s":>9}{"ours is":>9}  by repeat')
  for name in programs:
    ratios = [
      b / a for a, b in zip(seconds['ours'], seconds[name], strict=True)
    ]
    each = ' '.join(f'{r:.2f}' for r in ratios)
    print(
      f'{name:14}{first[name]:9.1f}s{len(texts) / 2 / medians[name]:9.2f}'
      f'{statistics.median(ratios):8.2f}x  {each}'
    )
  print(f'largest difference of a probability: {worst:.1e}')
  if not worst <= 1e-4:
    raise SystemExit('the probabilities are not equal')


def timed(program, texts, clock) -> tuple[np.ndarray, float]:
  """(probabilities [n, 2], seconds)."""
  start = clock()
  found = program(texts)
  return found, clock() - start


class Ours:
  """The labeler of this project."""

  def __init__(self, folder: str, tokenizer, batch: int):
    model, params = hf.load(folder)
    self.labeler = InMeshLabeler(model, params, tokenizer, batch_size=batch)

  def __call__(self, texts):
    logprobs = self.labeler.score_texts(texts, LABELS)
    return np.asarray(jax.nn.softmax(logprobs, axis=-1))


class Torch:
  """The same with transformers' own model."""

  def __init__(self, folder: str, tokenizer, batch: int):
    self.model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    self.model.eval()
    self.tokenizer, self.batch = tokenizer, batch
    self.labels = [tokenizer.encode(label)[0] for label in LABELS]
    self.kept = None  # ids that all begin with, past_key_values

  @torch.inference_mode()
  def full(self, texts):
    """One prompt after another, from its start."""
    found = []
    for ids in self.tokenizer.encode_batch(texts):
      logits = self.model(torch.tensor([ids]), use_cache=False).logits[0, -1]
      found.append(logits[self.labels].softmax(-1).numpy())
    return np.stack(found)

  @torch.inference_mode()
  def prefix(self, texts):
    """The tokens that all share, once; the rest of each after them."""
    rows = self.tokenizer.encode_batch(texts)
    shared = next(
      i for i, ids in enumerate(zip(*rows, strict=False)) if len(set(ids)) > 1
    )
    start = rows[0][:shared]
    if self.kept is None or self.kept[0] != start:
      out = self.model.transformer(torch.tensor([start]), use_cache=True)
      self.kept = start, out.past_key_values
    past = self.kept[1]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    found = np.zeros((len(rows), len(LABELS)), np.float32)
    for at in range(0, len(order), self.batch):
      part = order[at : at + self.batch]
      found[part] = self._after(past, [rows[i][shared:] for i in part], shared)
    return found

  def _after(self, past, rows, shared):
    """Probabilities [b, 2] of rows of ids that continue the cache."""
    cache = copy.deepcopy(past)
    cache.batch_repeat_interleave(len(rows))
    lengths = [len(row) for row in rows]
    tokens = torch.zeros((len(rows), max(lengths)), dtype=torch.long)
    for i, row in enumerate(rows):
      tokens[i, : len(row)] = torch.tensor(row)
    hidden = self.model.transformer(
      tokens,
      past_key_values=cache,
      # Right padding comes after all that counts and needs no mask.
      position_ids=shared + torch.arange(tokens.shape[1])[None],
      use_cache=True,
    ).last_hidden_state
    last = hidden[torch.arange(len(rows)), torch.tensor(lengths) - 1]
    return self.model.lm_head(last)[:, self.labels].softmax(-1).numpy()


def save_model(folder: str):
  """A GPT-Neo of random weights, its layers global and local in turn."""
  torch.manual_seed(0)
  config = transformers.GPTNeoConfig(
    vocab_size=VOCAB,
    hidden_size=WIDTH,
    num_layers=LAYERS,
    num_heads=HEADS,
    attention_types=[[['global', 'local'], LAYERS // 2]],
    max_position_embeddings=1024,
    window_size=256,
    initializer_range=0.1,  # so that labels depend on the text
    bos_token_id=0,
    eos_token_id=0,
  )
  transformers.GPTNeoForCausalLM(config).save_pretrained(folder)


def save_tokenizer(folder: str):
  """One token a word, and '=' one by itself."""
  words = ['</s>', '<unk>', '=', *LABELS, 'Preferred', 'Summary', 'Text', '-']
  words += [f'w{i}' for i in range(VOCAB - len(words))]
  backend = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(
      {w: i for i, w in enumerate(words)}, unk_token='<unk>'
    )
  )
  backend.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
    [
      tokenizers.pre_tokenizers.WhitespaceSplit(),
      tokenizers.pre_tokenizers.Split('=', 'isolated'),
    ]
  )
  transformers.PreTrainedTokenizerFast(
    tokenizer_object=backend, eos_token='</s>', unk_token='<unk>'
  ).save_pretrained(folder)


def make_texts(pairs: int) -> list[str]:
  """Both orders of each pair, one after the other."""
  rng = np.random.default_rng(0)

  def words(mean: int) -> str:
    size = rng.integers(mean * 3 // 4, mean * 5 // 4 + 1)
    return ' '.join(f'w{i}' for i in rng.integers(0, VOCAB - 100, size))

  preamble = ' '.join(f'w{i}' for i in rng.integers(0, 8000, SHARED - 2))
  texts = []
  for _ in range(pairs):
    post, one, two = words(POST), words(SUMMARY), words(SUMMARY)
    for first, second in ((one, two), (two, one)):
      texts.append(
        f'{preamble}\n\nText - {post}\n\nSummary 1 - {first}\n\n'
        f'Summary 2 - {second}\n\n{ENDING}'
      )
  return texts


if __name__ == '__main__':
  main()
