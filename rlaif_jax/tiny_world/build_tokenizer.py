"""Builds the tokenizer of the tiny world.

A byte-level BPE of 1024 tokens that encodes any text. Every word of the tiny
world and of the labeling prompts is one token; words it has never seen fall
back to merges learned from common English, and to bytes in the end. Digits
and punctuation marks always stand alone, so that "10" is two tokens.

Usage: python -m rlaif_jax.tiny_world.build_tokenizer [folder]
"""

import ast
import collections
import json
import pathlib
import re
import string
import sys
from collections.abc import Iterable

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from rlaif_jax.data.datasets import load_dataset

FOLDER = pathlib.Path(__file__).parent / 'tokenizer'
PROMPTS = pathlib.Path(__file__).parents[1] / 'labeler' / 'prompts'
# Endings of the names of the prompts whose words become tokens.
PLAIN = ('base', 'detailed', 'score')
SPECIALS = ('<pad>', '<s>', '</s>')
VOCAB_SIZE = 1024
FIRST_MERGES = 64
# Words take their leading space along; digits never do, so that the token
# boundary before a label such as '1' is where the text before it ends.
PIECES = r'\n\n|\n|\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]|\s+(?!\S)|\s'
# For merges that spell unknown words in fewer pieces than bytes.
ENGLISH = """
the of and to in is that for it as was with be by on not he his but at are
this have from or had an they which one you were her all she there would their
we him been has when who will more no if out so said what up its about into
than them can only other new some could time these two may then do first any
my now such like our over man me even most made after also did many before
must through back years where much your way well down should because each just
those people how too little state good very make world still own see men work
long get here between both life being under never day same another know while
last might us great old year off come since against go came right used take
three small something question government important number different person
reading without answer system again because place during always everything
summary response human assistant context helpful harmless harmful coherent
accurate information explain better worse request conversation language
"""
# What frames a sample in the paper's labeling prompts (Tables 15-22).
ANATOMY = """Text - a
Summary 1 - a
Preferred Summary=1
Context - a
Response 2 - a
Preferred Response=2
More Harmful Response=1
TEXT: a SUMMARY: a SCORE: a RESPONSE: a CONTEXT: a
SUMMARY: a
SCORE: a
RESPONSE: a
CONTEXT: a
Score=1
Example: a
Rationale: a
You are an expert rater. A good summary is short. Output 1 or 2.
Assistant: a
Human: a"""


def texts() -> list[str]:
  """Returns generated text of both tiny data sets, the same at each call."""
  rows = []
  for split in ('train', 'labeler'):
    rows += load_dataset('tiny_tldr', None, split, size=3000)
    for task in ('helpful', 'harmless'):
      rows += load_dataset('tiny_dialogue', None, split, size=2000, task=task)
  result = [ANATOMY]
  for row in rows:
    result.append(f'{row.prompt} {row.response}')
    result.extend(' ' + response for response in row.pair or ())
  return result


def prompt_texts(folder: pathlib.Path = PROMPTS) -> list[str]:
  """Returns the string constants of a folder's prompts, without {fields}.

  Only of plain prompts: the room for words would not hold those of all, and
  the labelers that ship have learned with these.
  """
  result = []
  files = [
    file
    for file in sorted(folder.glob('[!_]*.py'))
    if file.stem.rpartition('_')[2] in PLAIN
  ]
  for file in files:
    tree = ast.parse(file.read_text(encoding='utf-8'))
    docstrings = {
      id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)
    }
    result += [
      re.sub(r'{\w*}', 'a', node.value)
      for node in ast.walk(tree)
      if isinstance(node, ast.Constant)
      and isinstance(node.value, str)
      and id(node) not in docstrings
    ]
  return result


def _pieces(rows: Iterable[str]) -> collections.Counter[str]:
  """Counts the pieces of the rows, in the alphabet of byte-level BPE."""
  split = _pre_tokenizer()
  counts: collections.Counter[str] = collections.Counter()
  for row in rows:
    counts.update(piece for piece, _ in split.pre_tokenize_str(row))
  return counts


def _by_count(counts: collections.Counter[str]) -> list[tuple[str, int]]:
  """Returns the pieces, most frequent first and then in byte order."""
  return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
  return pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(tokenizers.Regex(PIECES), 'isolated'),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )


def build(
  world: Iterable[str], prompts: Iterable[str], vocab_size: int = VOCAB_SIZE
) -> tokenizers.Tokenizer:
  """Builds the tokenizer from the texts of the tiny world and of its prompts.

  All words of the world become tokens; of the prompts' words the most frequent
  ones, as long as there is room.

  Raises:
    ValueError: more words in the world than the vocabulary can hold.
  """
  vocab = dict.fromkeys(SPECIALS)
  vocab |= dict.fromkeys(sorted(pre_tokenizers.ByteLevel.alphabet()))
  vocab |= dict.fromkeys(sorted(_pieces(world)))
  if len(vocab) + FIRST_MERGES > vocab_size:
    raise ValueError(
      f'{len(vocab)} words and bytes do not fit a vocabulary of {vocab_size}; '
      'use fewer words in the tiny world, or a larger vocabulary.'
    )
  merges = _english_merges()
  # Prompts come after the first merges, so that rewording a prompt leaves the
  # ids of everything before unchanged.
  used = _add_merges(vocab, merges, len(vocab) + FIRST_MERGES)
  for piece, _ in _by_count(_pieces(prompts)):
    if len(vocab) < vocab_size:
      vocab[piece] = None
  used += _add_merges(vocab, merges[len(used) :], vocab_size)
  # `ignore_merges`: a piece that is a token needs no merges that spell it.
  tokenizer = tokenizers.Tokenizer(
    models.BPE(
      vocab={token: index for index, token in enumerate(vocab)},
      merges=used,
      ignore_merges=True,
    )
  )
  tokenizer.pre_tokenizer = _pre_tokenizer()
  tokenizer.decoder = decoders.ByteLevel()
  tokenizer.post_processor = processors.TemplateProcessing(
    single='<s> $A', pair='<s> $A <s> $B', special_tokens=[('<s>', 1)]
  )
  tokenizer.add_special_tokens(list(SPECIALS))
  return tokenizer


def _add_merges(
  vocab: dict[str, None], merges: list[tuple[str, str]], vocab_size: int
) -> list[tuple[str, str]]:
  """Adds merges in order until the vocabulary is full; returns those added."""
  added = []
  for pair in merges:
    if len(vocab) == vocab_size and ''.join(pair) not in vocab:
      break
    vocab[''.join(pair)] = None
    added.append(pair)
  return added


def _english_merges() -> list[tuple[str, str]]:
  """Learns merges from common words, most useful first."""
  words = ENGLISH.split() + sorted(string.ascii_lowercase)
  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = _pre_tokenizer()
  trainer = trainers.BpeTrainer(
    vocab_size=VOCAB_SIZE,
    show_progress=False,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
  )
  tokenizer.train_from_iterator([' ' + ' '.join(words), *words], trainer)
  merges = json.loads(tokenizer.to_str())['model']['merges']
  return [tuple(merge) for merge in merges]


def save(tokenizer: tokenizers.Tokenizer, folder: pathlib.Path) -> None:
  """Writes tokenizer.json and tokenizer_config.json into the folder."""
  folder.mkdir(parents=True, exist_ok=True)
  tokenizer.save(str(folder / 'tokenizer.json'))
  config = {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'pad_token': SPECIALS[0],
    'bos_token': SPECIALS[1],
    'eos_token': SPECIALS[2],
    'clean_up_tokenization_spaces': False,
    'model_max_length': 1024,
    'padding_side': 'left',
  }
  text = json.dumps(config, indent=2) + '\n'
  (folder / 'tokenizer_config.json').write_text(text, encoding='utf-8')


if __name__ == '__main__':
  save(
    build(texts(), prompt_texts()),
    pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER,
  )
