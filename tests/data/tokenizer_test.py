import gzip
import itertools
import json
import subprocess
import sys

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from rlaif_jax.data.tokenizer import load_tokenizer

TEXT = 'Preferred  Summary: héllo, wörld!\n\n\tTL;DR: 12 10\n'

# folder or file in ../shared/data, vocabulary, BOS, EOS, padding
REAL = {
  'gpt2': ('tokenizers/gpt2', 50257, 50256, 50256, 50256),
  't5': ('tokenizers/t5-cc-32k', 32101, None, 1, 0),
  'mistral': ('tokenizers/mistral-v1/tokenizer.model', 32000, 1, 2, 2),
  'stories260k': ('stories260k/tok512.model', 512, 1, 2, 2),
  'tinystories': ('tinystories-656k', 2048, 1, 2, 0),
}
SENTENCEPIECE = {
  't5': 'tokenizers/t5-cc-32k/sentencepiece.model',
  'mistral': 'tokenizers/mistral-v1/tokenizer.model',
  'stories260k': 'stories260k/tok512.model',
}


@pytest.fixture(scope='module')
def real(shared_data):
  return {k: load_tokenizer(shared_data / v[0]) for k, v in REAL.items()}


def posts(shared_data, count):
  path = 'summarize-from-feedback/tldr_posts_policy_ai_judged_dev.jsonl.gz'
  with gzip.open(shared_data / path, 'rt', encoding='utf-8') as file:
    return [json.loads(line)['query'] for line in itertools.islice(file, count)]


def write_wordlevel(folder, words, config=None, **files):
  """A tokenizer.json that knows these words, and JSON files beside it."""
  backend = tokenizers.Tokenizer(
    models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=words[0])
  )
  backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  folder.mkdir(exist_ok=True)
  backend.save(str(folder / 'tokenizer.json'))
  if config is not None:
    files['tokenizer_config'] = config
  for name, content in files.items():
    (folder / f'{name}.json').write_text(json.dumps(content))
  return folder


@pytest.mark.parametrize('name', REAL)
def test_real_special_ids(real, name):
  _, size, bos, eos, pad = REAL[name]
  tokenizer = real[name]
  assert tokenizer.vocab_size == size
  assert (tokenizer.bos_id, tokenizer.eos_id) == (bos, eos)
  assert tokenizer.pad_id == pad


@pytest.mark.parametrize('name', REAL)
def test_real_encode_starts_with_bos_and_never_ends_with_eos(real, name):
  tokenizer = real[name]
  ids = tokenizer.encode(TEXT)
  has_bos = name in ('mistral', 'stories260k', 'tinystories')
  assert (ids[0] == tokenizer.bos_id) == has_bos
  assert tokenizer.eos_id not in ids
  assert tokenizer.encode_batch([TEXT, 'x']) == [ids, tokenizer.encode('x')]


@pytest.mark.parametrize('name', REAL)
def test_real_continuation_joins_seamlessly(real, name):
  tokenizer = real[name]
  ids = tokenizer.encode('TL;DR:') + tokenizer.encode_plain(' so it goes')
  assert tokenizer.decode(ids) == 'TL;DR: so it goes'
  if name != 'tinystories':  # its pieces cross word boundaries
    assert ids == tokenizer.encode('TL;DR: so it goes')


@pytest.mark.parametrize('name', REAL)
def test_real_plain_text_holds_no_special_tokens(real, name):
  tokenizer = real[name]
  eos = tokenizer.id_to_token(tokenizer.eos_id)
  assert tokenizer.eos_id in tokenizer.encode(f'a {eos} b')
  assert tokenizer.eos_id not in tokenizer.encode_plain(f' a {eos} b')


@pytest.mark.parametrize('name', SENTENCEPIECE)
def test_converted_sentencepiece_gives_its_ids(real, shared_data, name):
  sentencepiece = pytest.importorskip('sentencepiece')
  reference = sentencepiece.SentencePieceProcessor(
    model_file=str(shared_data / SENTENCEPIECE[name])
  )
  texts = [*posts(shared_data, 100), TEXT, '', ' ', '日本 ~ ^']
  for text, ids in zip(texts, real[name].encode_batch(texts), strict=True):
    plain = ids[len(real[name].prefix_ids) :]
    assert plain == reference.encode(text)


def test_gpt2_known_ids(real):
  assert real['gpt2'].encode('Hello world') == [15496, 995]
  assert real['gpt2'].encode_plain(' 1') == [352]


def test_tinystories_reference_ids(real, shared_data):
  reference = json.loads(
    (shared_data / 'tinystories-656k/reference.json').read_text()
  )
  for case in reference['cases']:
    text = '<|start_story|>' + case['prompt']  # no second BOS is added
    assert real['tinystories'].encode(text) == case['prompt_ids']


def test_stories260k_reference_ids(real, shared_data):
  reference = json.loads(
    (shared_data / 'stories260k/reference.json').read_text()
  )
  for case in reference['cases']:
    assert real['stories260k'].encode(case['prompt']) == case['prompt_ids']


def test_decode_leaves_special_tokens_out(real):
  tokenizer = real['gpt2']
  ids = [*tokenizer.encode('Hi there'), tokenizer.eos_id, tokenizer.eos_id]
  assert tokenizer.decode(ids) == 'Hi there'
  assert tokenizer.decode(ids, skip_special=False).endswith('<|endoftext|>')
  assert tokenizer.decode_batch([ids, []]) == ['Hi there', '']


def test_fingerprint_tells_vocabularies_apart(real, shared_data):
  again = load_tokenizer(shared_data / SENTENCEPIECE['mistral'])
  assert again.fingerprint == real['mistral'].fingerprint
  assert len({t.fingerprint for t in real.values()}) == len(real)


@pytest.mark.parametrize('name', REAL)
def test_save_and_load_again(real, name, tmp_path):
  real[name].save(tmp_path)
  again = load_tokenizer(tmp_path)
  assert again.fingerprint == real[name].fingerprint
  assert again.encode(TEXT) == real[name].encode(TEXT)
  assert again.encode_plain(TEXT) == real[name].encode_plain(TEXT)
  special = (again.bos_id, again.eos_id, again.pad_id)
  assert special == (real[name].bos_id, real[name].eos_id, real[name].pad_id)


def test_saved_folder_loads_in_transformers(real, tmp_path, monkeypatch):
  monkeypatch.setenv('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')
  transformers = pytest.importorskip('transformers')
  real['mistral'].save(tmp_path)
  theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
  assert theirs(TEXT)['input_ids'] == real['mistral'].encode(TEXT)
  assert theirs.eos_token_id == real['mistral'].eos_id
  assert theirs.pad_token_id == real['mistral'].pad_id


def test_gpt2_files_by_either_name(tmp_path):
  # 'ab' is a merge; 'Ġ' is the byte-level space.
  vocab = {'a': 0, 'b': 1, 'ab': 2, 'Ġ': 3, '<|endoftext|>': 4}
  for folder, names in {
    'original': ('encoder.json', 'vocab.bpe'),
    'hub': ('vocab.json', 'merges.txt'),
  }.items():
    (tmp_path / folder).mkdir()
    (tmp_path / folder / names[0]).write_text(json.dumps(vocab))
    (tmp_path / folder / names[1]).write_text('#version: 0.2\na b\n')
    tokenizer = load_tokenizer(tmp_path / folder)
    assert tokenizer.encode('ab ba') == [2, 3, 1, 0]
    assert tokenizer.eos_id == tokenizer.pad_id == 4


def test_bos_switch_of_gpt2_files(tmp_path):
  vocab = {'a': 0, '</s>': 1, '<pad>': 2}
  (tmp_path / 'vocab.json').write_text(json.dumps(vocab))
  (tmp_path / 'merges.txt').write_text('#version: 0.2\n')
  (tmp_path / 'tokenizer_config.json').write_text(
    json.dumps(
      {
        'tokenizer_class': 'GPT2Tokenizer',
        'add_bos_token': True,
        'bos_token': '</s>',
        'eos_token': {'content': '</s>', '__type': 'AddedToken'},
        'pad_token': '<pad>',
      }
    )
  )
  tokenizer = load_tokenizer(tmp_path)
  assert tokenizer.encode('aa') == [1, 0, 0]
  assert (tokenizer.eos_id, tokenizer.pad_id) == (1, 2)


def test_other_classes_are_read_by_transformers(tmp_path, capfd):
  vocab = {'a': 0, 'Ġ': 1, 'Ġa': 2, '<|endoftext|>': 3}
  (tmp_path / 'vocab.json').write_text(json.dumps(vocab))
  (tmp_path / 'merges.txt').write_text('#version: 0.2\nĠ a\n')
  (tmp_path / 'tokenizer_config.json').write_text(
    '{"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|endoftext|>"}'
  )
  tokenizer = load_tokenizer(tmp_path)
  assert tokenizer.encode('a a') == [0, 2]
  assert tokenizer.eos_id == 3
  assert 'PyTorch' not in ''.join(capfd.readouterr())


def test_template_that_appends_eos_is_not_followed(tmp_path):
  folder = write_wordlevel(
    tmp_path, ['<unk>', '<s>', '</s>', 'a'], {'eos_token': '</s>'}
  )
  backend = tokenizers.Tokenizer.from_file(str(folder / 'tokenizer.json'))
  backend.post_processor = processors.TemplateProcessing(
    single='<s> $A </s>', special_tokens=[('<s>', 1), ('</s>', 2)]
  )
  backend.save(str(folder / 'tokenizer.json'))
  tokenizer = load_tokenizer(folder)
  assert tokenizer.encode('a a') == [1, 3, 3]
  assert tokenizer.encode('') == [1]


def test_eos_from_config_beside_a_bare_tokenizer(tmp_path):
  words = ['<unk>', 'a', '<end>', '<turn>']
  folder = write_wordlevel(
    tmp_path,
    words,
    generation_config={'eos_token_id': [2, 3]},
    config={'model_type': 'llama'},
  )
  tokenizer = load_tokenizer(folder / 'tokenizer.json')
  assert tokenizer.eos_id == 2
  assert tokenizer.eos_ids == (2, 3)
  assert tokenizer.pad_id == 2


def test_added_tokens_of_the_config(tmp_path):
  folder = write_wordlevel(
    tmp_path,
    ['<unk>', 'a'],
    {
      'eos_token': '<|im_end|>',
      'added_tokens_decoder': {'2': {'content': '<|im_end|>', 'special': True}},
    },
  )
  tokenizer = load_tokenizer(folder)
  assert tokenizer.eos_id == 2
  assert tokenizer.vocab_size == 3
  assert tokenizer.encode('a <|im_end|>') == [1, 2]


def test_chat_template_is_kept(tmp_path):
  folder = write_wordlevel(
    tmp_path / 'from', ['<unk>', 'a', '</s>'], {'eos_token': '</s>'}
  )
  (folder / 'chat_template.jinja').write_text('{{ messages }}')
  load_tokenizer(folder).save(tmp_path / 'to')
  assert load_tokenizer(tmp_path / 'to').chat_template == '{{ messages }}'


@pytest.mark.parametrize('name', REAL)
def test_real_label_boundaries(real, name):
  """After 'Answer:' a label is ' 1', which is not '1': ids join as one text.

  The labeler scores the ids of ' 1' there, and at a line's start those of '1'.
  """
  tokenizer = real[name]
  for before in ('Preferred Summary:', 'Preferred Summary=\n'):
    start = tokenizer.encode(before)
    for label in (' 1', '1', ' 2', ' 10', '10'):
      ids = tokenizer.encode_plain(label)
      assert ids, label
      assert tokenizer.decode(start + ids) == tokenizer.decode(start) + label
  spaced, bare = tokenizer.encode_plain(' 1'), tokenizer.encode_plain('1')
  assert spaced != bare
  if name != 'tinystories':  # its pieces cross word boundaries
    assert tokenizer.encode('Preferred Summary: 1') == (
      tokenizer.encode('Preferred Summary:') + spaced
    )


def test_no_eos_anywhere(tmp_path):
  folder = write_wordlevel(tmp_path, ['<unk>', 'a'])
  with pytest.raises(ValueError, match='no end-of-text token.*config.json'):
    load_tokenizer(folder)
  assert load_tokenizer(folder, eos_token='a').eos_id == 1


def test_unknown_eos(tmp_path):
  folder = write_wordlevel(tmp_path, ['<unk>'], {'eos_token': '<gone>'})
  with pytest.raises(ValueError, match="'<gone>' is not in the vocabulary"):
    load_tokenizer(folder)


def test_bad_paths(tmp_path):
  with pytest.raises(FileNotFoundError, match='no such tokenizer'):
    load_tokenizer(tmp_path / 'missing')
  with pytest.raises(FileNotFoundError, match='no tokenizer here'):
    load_tokenizer(tmp_path)
  with pytest.raises(FileNotFoundError, match='hub did not give it'):
    load_tokenizer('nobody/nothing')
  (tmp_path / 'tokenizer.json').write_text('{"model": ')
  with pytest.raises(ValueError, match='cannot be read as a tokenizer'):
    load_tokenizer(tmp_path)


def test_ambiguous_model_files(tmp_path):
  for name in ('source.model', 'target.model'):
    (tmp_path / name).write_bytes(b'x')
  with pytest.raises(ValueError, match='several .model files'):
    load_tokenizer(tmp_path)


def test_importing_stays_light(repo):
  code = (
    'import sys; import rlaif_jax.data.tokenizer; '
    'assert not {"transformers", "datasets", "jax"} & set(sys.modules)'
  )
  subprocess.run([sys.executable, '-c', code], check=True, cwd=repo)
