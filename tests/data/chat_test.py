"""Chat templates: the text and the ids that transformers gives, and errors."""

import dataclasses
import json

import pytest

from rlaif_jax.data.tokenizer import load_tokenizer

# Byte-level BPE, SentencePiece BPE with and without byte fallback.
REAL = {
  'gpt2': 'tokenizers/gpt2',
  'mistral': 'tokenizers/mistral-v1/tokenizer.model',
  'stories260k': 'stories260k/tok512.model',
}
# As in the hub's folders: Gemma's shape, Qwen's and Llama 2's.
TEMPLATES = {
  'turns': (
    "{{ bos_token }}{% for m in messages %}{{ '<turn>' + m['role'] + '\n' + "
    "m['content'] | trim + '<end>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<turn>model\n' }}{% endif %}"
  ),
  'no_bos': (
    '{%- for m in messages %}\n  {{- m.role ~ ": " ~ m.content }}\n'
    '{%- endfor %}\n{%- if add_generation_prompt %} assistant:{% endif %}'
  ),
  'strict': (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ raise_exception('no system role') }}{% elif m['role'] == 'user' %}"
    "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}"
    "{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
  ),
}
CHAT = [
  {'role': 'user', 'content': 'Which is better, 1 or 2? '},
  {'role': 'assistant', 'content': 'Summary 1'},
  {'role': 'user', 'content': 'And now?'},
]


@pytest.fixture(scope='module', params=REAL)
def tokenizer(request, shared_data):
  return load_tokenizer(shared_data / REAL[request.param])


@pytest.mark.parametrize('template', TEMPLATES)
def test_text_and_ids_are_those_of_transformers(tokenizer, template, tmp_path):
  """From the folder that is saved."""
  transformers = pytest.importorskip('transformers')
  dataclasses.replace(tokenizer, chat_template=TEMPLATES[template]).save(
    tmp_path
  )
  ours = load_tokenizer(tmp_path)
  theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))

  def expected(**options):
    return theirs.apply_chat_template(
      CHAT, add_generation_prompt=True, **options
    )

  assert ours.render_chat(CHAT) == expected(tokenize=False)
  ids = ours.encode_chat(CHAT)
  assert ids == expected(return_dict=False)
  if ours.bos_id != ours.eos_id:
    assert ids.count(ours.bos_id) == (template != 'no_bos')
  if template == 'strict':  # an end of text that the template wrote is one
    assert ours.eos_id in ids


def test_what_cannot_be_rendered(tokenizer):
  with pytest.raises(ValueError, match='no chat template; it would be in'):
    tokenizer.render_chat(CHAT)
  strict = dataclasses.replace(tokenizer, chat_template=TEMPLATES['strict'])
  with pytest.raises(ValueError, match='refuses: no system role'):
    strict.render_chat([{'role': 'system', 'content': 'Be brief.'}])


def test_the_default_of_several(tokenizer, tmp_path):
  tokenizer.save(tmp_path)
  path = tmp_path / 'tokenizer_config.json'
  named = [
    {'name': 'tool_use', 'template': 'tools'},
    {'name': 'default', 'template': '{{ messages[0].content }}'},
  ]
  config = json.loads(path.read_text()) | {'chat_template': named}
  path.write_text(json.dumps(config))
  found = load_tokenizer(tmp_path).render_chat(CHAT[:1])
  assert found == CHAT[0]['content']
  named.pop()
  path.write_text(json.dumps(config))
  assert load_tokenizer(tmp_path).chat_template is None
