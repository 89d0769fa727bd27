"""Tokenizers: text to token ids and back, from any common file form.

One backend (the `tokenizers` library) runs them all; other forms are
converted when loaded, so that ids, padding and special tokens mean the same
everywhere:

  tokenizer.json                    with or without tokenizer_config.json
  *.model                           SentencePiece, unigram or BPE
  encoder.json + vocab.bpe          GPT-2's own files
  vocab.json + merges.txt           the same, as Hugging Face names them
  org/name                          downloaded from the hub, then as above

The boundary between prompt and response: the policy reads
`encode(prompt) + encode_plain(' ' + response) + [eos_id]`. Prompts end with
':', and a space after it starts a new piece in every vocabulary of this kind,
so the two parts can be tokenised apart.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence

import tokenizers

from rlaif_jax.data import _chat
from rlaif_jax.data import _tokenizer_files as files


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """A vocabulary with its rules; make one with `load_tokenizer`.

  Attributes:
    backend: the `tokenizers.Tokenizer` that does the work.
    name: folder name or hub id, for reports.
    prefix_ids: special tokens before every text, usually BOS or nothing.
    eos_id: ends a text; training appends it, `encode` never does.
    eos_ids: `eos_id`, and what else ends generation by generation_config.json.
    pad_id: fills batches. A vocabulary without padding token gets `eos_id`:
      masks say what is real, nothing relies on the id.
    bos_id: starts a text, or None.
    chat_template: Jinja text that came with the tokenizer, see `render_chat`.
  """

  backend: tokenizers.Tokenizer = dataclasses.field(repr=False, compare=False)
  name: str
  prefix_ids: tuple[int, ...]
  eos_id: int
  eos_ids: tuple[int, ...]
  pad_id: int
  bos_id: int | None = None
  chat_template: str | None = dataclasses.field(default=None, repr=False)

  def encode(self, text: str) -> list[int]:
    """Ids of a text from its start: BOS if there is one, never an EOS.

    Special tokens written out in the text become their ids, as chat templates
    need; a BOS that the text itself starts with is not doubled.
    """
    return self.encode_batch([text])[0]

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """`encode` of each text, in one call of the backend."""
    encoded = self.backend.encode_batch_fast(
      list(texts), add_special_tokens=False
    )
    return [self._with_prefix(e.ids) for e in encoded]

  def encode_plain(self, text: str) -> list[int]:
    """Ids of a text that continues another one.

    Nothing special is added or recognised: a written-out '</s>' is ordinary
    text, or lost, but never ends the text. SentencePiece's dummy space is
    left out:
    decode(encode('a:') + encode_plain(' b')) == 'a: b'.
    """
    return self.encode_plain_batch([text])[0]

  def encode_plain_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """`encode_plain` of each text, in one call of the backend."""
    encoded = self._continuation.encode_batch_fast(
      list(texts), add_special_tokens=False
    )
    # Unigram vocabularies recognise '</s>' in spite of all that.
    drop = {*self.eos_ids, self.bos_id}
    return [[i for i in e.ids if i not in drop] for e in encoded]

  def render_chat(self, messages: Sequence[Mapping[str, str]]) -> str:
    """Text of a conversation, by the template that came with the tokenizer.

    It ends where the assistant's next turn begins.

    Args:
      messages: each with a 'role' ('system', 'user', 'assistant') and its
        'content'.

    Raises:
      ValueError: there is no template, or it refuses these messages.
    """
    if self.chat_template is None:
      raise ValueError(
        f'{self.name}: the tokenizer has no chat template; it would be in '
        'chat_template.jinja or tokenizer_config.json'
      )
    ids = {'bos': self.bos_id, 'eos': self.eos_id, 'pad': self.pad_id}
    special = {
      f'{name}_token': self.id_to_token(i)
      for name, i in ids.items()
      if i is not None
    }
    return _chat.render(self.chat_template, messages, special)

  def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Ids of `render_chat`, with just the special tokens that it wrote."""
    text = self.render_chat(messages)
    return self.backend.encode(text, add_special_tokens=False).ids

  def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
    """Text of token ids; `skip_special` leaves BOS, EOS and padding out.

    A leading space survives or not as the vocabulary has it: strip responses.
    """
    return self.decode_batch([ids], skip_special)[0]

  def decode_batch(
    self, rows: Sequence[Sequence[int]], skip_special: bool = True
  ) -> list[str]:
    """`decode` of each row."""
    drop = {*self.eos_ids, self.pad_id, self.bos_id} if skip_special else set()
    kept = [[int(i) for i in row if int(i) not in drop] for row in rows]
    return self.backend.decode_batch(kept, skip_special_tokens=skip_special)

  def id_to_token(self, token_id: int) -> str | None:
    """The vocabulary's own spelling of an id, such as 'Ġthe'."""
    added = self.backend.get_added_tokens_decoder().get(token_id)
    return added.content if added else self.backend.id_to_token(token_id)

  @functools.cached_property
  def vocab_size(self) -> int:
    """One more than the largest id; a model may have more rows than this."""
    return 1 + max(self.backend.get_vocab(with_added_tokens=True).values())

  @functools.cached_property
  def fingerprint(self) -> str:
    """Hash of the table id <-> token, equal for equal vocabularies.

    Two models can exchange token ids exactly if their fingerprints agree.
    """
    vocab = self.backend.get_vocab(with_added_tokens=True)
    table = json.dumps(sorted((i, token) for token, i in vocab.items()))
    return hashlib.sha256(table.encode()).hexdigest()[:16]

  def save(self, directory: str | os.PathLike[str]) -> None:
    """Writes tokenizer.json and tokenizer_config.json, as transformers reads.

    Raises:
      OSError: the folder cannot be written.
    """
    folder = pathlib.Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    self.backend.save(str(folder / 'tokenizer.json'))
    config = {
      'tokenizer_class': 'PreTrainedTokenizerFast',
      'clean_up_tokenization_spaces': False,
      'eos_token': self.id_to_token(self.eos_id),
      'pad_token': self.id_to_token(self.pad_id),
      'bos_token': None
      if self.bos_id is None
      else self.id_to_token(self.bos_id),
    }
    if self.chat_template is not None:
      config['chat_template'] = self.chat_template
    text = json.dumps(config, indent=2, ensure_ascii=False) + '\n'
    (folder / 'tokenizer_config.json').write_text(text, encoding='utf-8')

  def _with_prefix(self, ids: list[int]) -> list[int]:
    if self.bos_id is not None and ids[:1] == [self.bos_id]:
      return ids
    return [*self.prefix_ids, *ids]

  @functools.cached_property
  def _continuation(self) -> tokenizers.Tokenizer:
    """The backend for the middle of a text: no dummy space, no specials."""
    spec = json.loads(self.backend.to_str())
    spec['normalizer'] = _without_dummy_space(spec['normalizer'])
    spec['pre_tokenizer'] = _without_dummy_space(spec['pre_tokenizer'])
    result = tokenizers.Tokenizer.from_str(json.dumps(spec))
    result.encode_special_tokens = True
    return result


def load_tokenizer(
  path_or_id: str | os.PathLike[str], *, eos_token: str | None = None
) -> Tokenizer:
  """Loads a tokenizer from a folder, a file or the hub.

  Args:
    path_or_id: folder, tokenizer.json, SentencePiece .model, or hub id.
    eos_token: the token that ends a text, where the files do not say.

  Raises:
    FileNotFoundError: nothing there, or a folder without tokenizer files.
    ValueError: no end-of-text token can be found, or a broken file.
  """
  found = files.locate(path_or_id)
  backend, hints = files.read_backend(found)
  side = files.read_side(found)
  special = files.special_tokens(side, hints, backend)
  eos_ids = _eos_ids(backend, special, side, found, eos_token)
  bos_id = _token_id(backend, special.get('bos_token'))
  backend.no_padding()
  backend.no_truncation()
  _apply_bos_switch(backend, side.get('add_bos_token'), bos_id)
  return Tokenizer(
    backend=backend,
    name=found.name,
    prefix_ids=_prefix(backend),
    eos_id=eos_ids[0],
    eos_ids=eos_ids,
    pad_id=_pad_id(backend, special, eos_ids[0]),
    bos_id=bos_id,
    chat_template=side.get('chat_template'),
  )


def _eos_ids(backend, special, side, found, eos_token) -> tuple[int, ...]:
  wanted = eos_token or special.get('eos_token')
  ids = []
  if wanted is not None:
    ids.append(_token_id(backend, wanted))
    if ids[0] is None:
      raise ValueError(
        f'{found.name}: the end-of-text token {wanted!r} is not in the '
        'vocabulary; correct eos_token in tokenizer_config.json'
      )
  if eos_token is None:
    ids += [i for i in side['eos_token_ids'] if i not in ids]
  if not ids:
    raise ValueError(
      f'{found.name}: no end-of-text token. Neither the tokenizer files nor '
      'config.json beside them name one: add "eos_token" to '
      'tokenizer_config.json or "eos_token_id" to config.json'
    )
  return tuple(ids)


def _pad_id(backend, special: Mapping[str, str], eos_id: int) -> int:
  pad_id = _token_id(backend, special.get('pad_token'))
  return eos_id if pad_id is None else pad_id


def _token_id(backend, token: str | None) -> int | None:
  return None if token is None else backend.token_to_id(token)


def _apply_bos_switch(backend, add_bos: bool | None, bos_id: int | None):
  """Makes `add_bos_token` of tokenizer_config.json true, either way.

  Some folders (GPT-2 style files of OPT, for one) say it only there.
  """
  if add_bos is None or bos_id is None:
    return
  has_bos = bos_id in _prefix(backend)
  if add_bos and not has_bos:
    files.add_bos(backend, bos_id)
  elif has_bos and not add_bos:
    backend.post_processor = tokenizers.processors.Sequence([])


def _prefix(backend) -> tuple[int, ...]:
  """Special tokens that the backend's own template puts before a text."""
  encoded = backend.encode('a', add_special_tokens=True)
  count = 0
  while encoded.special_tokens_mask[count] and count + 1 < len(encoded.ids):
    count += 1
  return tuple(encoded.ids[:count])


def _without_dummy_space(step):
  """A normalizer or pre-tokenizer spec that adds no space at the start."""
  if step is None:
    return None
  kind = step['type']
  for name in ('normalizers', 'pretokenizers'):
    if kind == 'Sequence' and name in step:
      parts = step[name]
      # Split at white space first, every word gets its mark: leave it alone.
      if any(p['type'] == 'WhitespaceSplit' for p in parts):
        return step
      parts = [_without_dummy_space(p) for p in parts]
      return {**step, name: [p for p in parts if p is not None]}
  if kind == 'Prepend' or step.get('pattern') == {
    'Regex': files.LEADING_SPACES
  }:
    return None
  if kind == 'Strip':
    return {**step, 'strip_left': False}
  if kind == 'Metaspace':
    return {**step, 'prepend_scheme': 'never'}
  if kind == 'ByteLevel':
    return {**step, 'add_prefix_space': False}
  return step
