"""Reading tokenizer files of every form into one backend."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import tokenizers
from tokenizers import (
  AddedToken,
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  processors,
)

# What to fetch from the hub; weights stay there.
_HUB_PATTERNS = (
  'tokenizer*',
  '*.model',
  'vocab*',
  'merges.txt',
  'encoder.json',
  'added_tokens.json',
  'special_tokens_map.json',
  'chat_template*',
  'config.json',
  'generation_config.json',
)
_GPT2_FILES = (('encoder.json', 'vocab.bpe'), ('vocab.json', 'merges.txt'))
# Classes whose vocab.json + merges.txt are split by GPT-2's own rule.
_GPT2_CLASSES = ('GPT2', 'OPT', 'Roberta', 'CodeGen', 'Bart')
_GPT2_SPECIAL = '<|endoftext|>'
_SPIECE_SPACE = '▁'
LEADING_SPACES = r'\A +'  # what a converted SentencePiece removes first


@dataclasses.dataclass(frozen=True)
class Found:
  """Where a tokenizer lies: its main file, and the folder around it."""

  name: str
  kind: str  # 'json', 'sentencepiece', 'gpt2' or 'transformers'
  folder: pathlib.Path
  file: pathlib.Path | None = None
  merges: pathlib.Path | None = None


def locate(path_or_id: str | os.PathLike[str]) -> Found:
  """Finds the tokenizer files of a path, or fetches those of a hub id.

  Raises:
    FileNotFoundError: no such path, or no tokenizer in the folder.
  """
  path = pathlib.Path(path_or_id).expanduser()
  if path.is_file():
    kind = 'json' if path.suffix == '.json' else 'sentencepiece'
    return Found(path.parent.name, kind, path.parent, path)
  if path.is_dir():
    return _locate_in(path, path.resolve().name)
  name = str(path_or_id)
  if name.startswith(('/', '.', '~')) or name.count('/') > 1:
    raise FileNotFoundError(f'{name}: no such tokenizer file or folder')
  return _locate_in(_download(name), name)


def _locate_in(folder: pathlib.Path, name: str) -> Found:
  if (folder / 'tokenizer.json').is_file():
    return Found(name, 'json', folder, folder / 'tokenizer.json')
  pieces = sorted(folder.glob('*.model'))
  if len(pieces) > 1:
    raise ValueError(
      f'{folder}: several .model files ({", ".join(p.name for p in pieces)}); '
      'give the path of the one to use'
    )
  if pieces:
    return Found(name, 'sentencepiece', folder, pieces[0])
  for vocab, merges in _GPT2_FILES:
    if (folder / vocab).is_file() and (folder / merges).is_file():
      kind = 'gpt2' if _is_gpt2(folder) else 'transformers'
      return Found(name, kind, folder, folder / vocab, folder / merges)
  if (folder / 'tokenizer_config.json').is_file():
    return Found(name, 'transformers', folder)
  raise FileNotFoundError(
    f'{folder}: no tokenizer here. Expected tokenizer.json, a SentencePiece '
    '.model, encoder.json + vocab.bpe, or vocab.json + merges.txt'
  )


def _is_gpt2(folder: pathlib.Path) -> bool:
  kind = _read_json(folder / 'tokenizer_config.json').get('tokenizer_class')
  return kind is None or kind.startswith(_GPT2_CLASSES)


def _download(name: str) -> pathlib.Path:
  import huggingface_hub

  try:
    return pathlib.Path(
      huggingface_hub.snapshot_download(
        name, allow_patterns=list(_HUB_PATTERNS)
      )
    )
  except Exception as error:
    raise FileNotFoundError(
      f'{name}: not a local file or folder, and the hub did not give it '
      f'({type(error).__name__}: {str(error).splitlines()[0]}). Check the '
      'spelling, the network, and access to gated models'
    ) from error


def read_backend(found: Found) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
  """Reads the vocabulary; returns (backend, special tokens the form implies).

  Raises:
    ValueError: the file cannot be read as what its name says.
  """
  readers = {
    'json': _read_tokenizer_json,
    'sentencepiece': _read_sentencepiece,
    'gpt2': _read_gpt2,
    'transformers': _read_with_transformers,
  }
  try:
    return readers[found.kind](found)
  except ModuleNotFoundError:
    raise
  except Exception as error:
    raise ValueError(
      f'{found.file or found.folder}: cannot be read as a tokenizer ({error})'
    ) from error


def _read_tokenizer_json(found: Found):
  return tokenizers.Tokenizer.from_file(str(found.file)), {}


def _read_gpt2(found: Found):
  config = _read_json(found.folder / 'tokenizer_config.json')
  vocab = json.loads(found.file.read_text(encoding='utf-8'))
  lines = found.merges.read_text(encoding='utf-8').splitlines()
  merges = [
    tuple(line.split(' '))
    for line in lines
    if line and not line.startswith('#version')
  ]
  backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
  backend.pre_tokenizer = pre_tokenizers.ByteLevel(
    add_prefix_space=bool(config.get('add_prefix_space', False))
  )
  backend.decoder = decoders.ByteLevel()
  backend.post_processor = processors.ByteLevel(trim_offsets=False)
  if _GPT2_SPECIAL not in vocab:
    return backend, {}
  backend.add_special_tokens([AddedToken(_GPT2_SPECIAL, normalized=False)])
  return backend, {'eos_token': _GPT2_SPECIAL, 'bos_token': _GPT2_SPECIAL}


def _read_with_transformers(found: Found):
  """Rare classes, by the library that defines them."""
  import transformers

  slow = transformers.AutoTokenizer.from_pretrained(str(found.folder))
  return slow.backend_tokenizer, {}


# -- SentencePiece ----------------------------------------------------------


def _read_sentencepiece(found: Found):
  """Converts a SentencePiece model; ids are those that it would give."""
  from sentencepiece import sentencepiece_model_pb2

  proto = sentencepiece_model_pb2.ModelProto()
  proto.ParseFromString(found.file.read_bytes())
  if not proto.pieces:
    raise ValueError('not a SentencePiece model')
  trainer, pieces = proto.trainer_spec, proto.pieces
  backend = tokenizers.Tokenizer(_sentencepiece_model(proto))
  backend.normalizer = _sentencepiece_normalizer(proto.normalizer_spec)
  backend.decoder = _sentencepiece_decoder(proto.normalizer_spec)
  control, user = type(pieces[0]).CONTROL, type(pieces[0]).USER_DEFINED
  backend.add_tokens(
    [
      AddedToken(p.piece, normalized=False, special=p.type == control)
      for p in pieces
      if p.type in (control, user)
    ]
  )
  # By name: an edited model may keep stale ids in its trainer's settings.
  index = {p.piece: i for i, p in enumerate(pieces) if p.type == control}
  hints = {
    f'{name}_token': getattr(trainer, f'{name}_piece')
    for name in ('bos', 'eos', 'pad')
    if getattr(trainer, f'{name}_id') >= 0
  }
  hints = {name: piece for name, piece in hints.items() if piece in index}
  if 'bos_token' in hints:
    add_bos(backend, index[hints['bos_token']])
  return backend, hints


def _sentencepiece_model(proto):
  trainer = proto.trainer_spec
  scores = [(p.piece, p.score) for p in proto.pieces]
  unknown = type(proto.pieces[0]).UNKNOWN
  unk_id = next(i for i, p in enumerate(proto.pieces) if p.type == unknown)
  if trainer.model_type == type(trainer).UNIGRAM:
    return models.Unigram(
      scores, unk_id=unk_id, byte_fallback=trainer.byte_fallback
    )
  if trainer.model_type == type(trainer).BPE:
    return models.BPE(
      vocab={piece: i for i, (piece, _) in enumerate(scores)},
      merges=_merges(proto.pieces),
      unk_token=proto.pieces[unk_id].piece,
      fuse_unk=True,
      byte_fallback=trainer.byte_fallback,
    )
  raise ValueError('SentencePiece models are read if unigram or BPE')


def _merges(pieces) -> list[tuple[str, str]]:
  """Merge list that a SentencePiece BPE's scores stand for, best first."""
  normal = type(pieces[0]).NORMAL
  index = {p.piece: i for i, p in enumerate(pieces)}
  ranked = []
  for piece in pieces:
    if piece.type != normal:
      continue
    text = piece.piece
    for cut in range(1, len(text)):
      left, right = text[:cut], text[cut:]
      if left in index and right in index:
        ranked.append((-piece.score, index[left], index[right], left, right))
  return [(left, right) for *_, left, right in sorted(ranked)]


def _sentencepiece_normalizer(spec):
  steps = []
  if spec.precompiled_charsmap:
    steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
  if spec.remove_extra_whitespaces:
    # Not Strip: only spaces go, a line break at the end is a token.
    rules = ((LEADING_SPACES, ''), (r' +\z', ''), (' {2,}', ' '))
    for pattern, text in rules:
      steps.append(normalizers.Replace(tokenizers.Regex(pattern), text))
  if spec.add_dummy_prefix:
    steps.append(normalizers.Prepend(_SPIECE_SPACE))
  return normalizers.Sequence([*steps, normalizers.Replace(' ', _SPIECE_SPACE)])


def _sentencepiece_decoder(spec):
  steps = [
    decoders.Replace(_SPIECE_SPACE, ' '),
    decoders.ByteFallback(),
    decoders.Fuse(),
  ]
  if spec.add_dummy_prefix:
    steps.append(decoders.Strip(content=' ', left=1))
  return decoders.Sequence(steps)


def add_bos(backend: tokenizers.Tokenizer, bos_id: int) -> None:
  """Makes the backend start every text with `bos_id`."""
  bos = backend.id_to_token(bos_id)
  backend.post_processor = processors.TemplateProcessing(
    single=[bos, '$A'], pair=[bos, '$A', '$B'], special_tokens=[(bos, bos_id)]
  )


# -- settings beside the vocabulary -----------------------------------------


def read_side(found: Found) -> dict[str, Any]:
  """Settings around the vocabulary, from all the files that may hold them.

  Keys: those of tokenizer_config.json over special_tokens_map.json,
  `chat_template`, `eos_token_ids` (from generation_config.json, config.json)
  and `added` {id: AddedToken}.
  """
  folder = found.folder
  side = _read_json(folder / 'special_tokens_map.json')
  config = _read_json(folder / 'tokenizer_config.json')
  side.update({k: v for k, v in config.items() if v is not None})
  template = folder / 'chat_template.jinja'
  if template.is_file():
    side['chat_template'] = template.read_text(encoding='utf-8')
  if isinstance(named := side.get('chat_template'), list):
    found = {t['name']: t['template'] for t in named}
    side['chat_template'] = found.get('default')
  side['eos_token_ids'] = []
  for name in ('generation_config.json', 'config.json'):
    ids = _read_json(folder / name).get('eos_token_id')
    if ids is not None and not side['eos_token_ids']:
      side['eos_token_ids'] = ids if isinstance(ids, list) else [ids]
  extra = _read_json(folder / 'added_tokens.json')
  side['added'] = {i: AddedToken(t, normalized=False) for t, i in extra.items()}
  for i, token in config.get('added_tokens_decoder', {}).items():
    side['added'][int(i)] = AddedToken(
      **{k: v for k, v in token.items() if k != '__type'}
    )
  return side


def special_tokens(
  side: Mapping[str, Any], hints: Mapping[str, str], backend
) -> dict[str, str]:
  """Special tokens by name; adds those that the vocabulary file lacks.

  Raises:
    ValueError: an added token whose id would not be the one that it states.
  """
  for i, token in sorted(side['added'].items()):
    if backend.token_to_id(token.content) is None:
      backend.add_tokens([token])
    if backend.token_to_id(token.content) != i:
      raise ValueError(
        f'added token {token.content!r} should have id {i} but gets '
        f'{backend.token_to_id(token.content)}: the files do not fit together'
      )
  named = dict(hints)
  for key in ('bos_token', 'eos_token', 'pad_token'):
    token = side.get(key)
    if isinstance(token, dict):
      token = token.get('content')
    if token is not None:
      named[key] = token
  known = {t.content for t in backend.get_added_tokens_decoder().values()}
  for token in sorted(set(named.values()) - known):
    if backend.token_to_id(token) is not None:
      backend.add_special_tokens([AddedToken(token, normalized=False)])
  return named


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  if not path.is_file():
    return {}
  try:
    result = json.loads(path.read_text(encoding='utf-8'))
  except json.JSONDecodeError as error:
    raise ValueError(f'{path}: not valid JSON ({error})') from error
  if not isinstance(result, dict):
    raise ValueError(f'{path}: expected a JSON object')
  return result
