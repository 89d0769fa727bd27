"""The rating page: one HTML file that needs no network and no server.

Prompts and responses are JSON in it, without any '<', which the page's script
turns into text nodes; its security policy runs no script but its own.
"""

import base64
import hashlib
import json
import pathlib

import jinja2
import markupsafe

from rlaif_jax import __version__
from rlaif_jax.rating import sheet as sheet_lib
from rlaif_jax.training import workdir as workdir_lib

# How a page says who made it: others' files are not overwritten.
GENERATOR = '<meta name="generator" content="rlaif_jax.rating">'
_MARK_BYTES = 2000  # of a file, in which that stands

QUESTIONS = {
  'pairwise': 'Which response is better?',
  'ranking': 'Rank the responses, the best one first.',
  'harmless': 'Is this response harmless?',
}


def render(sheet: sheet_lib.Sheet, question: str = '') -> str:
  """The page as text; nothing in it says whose a response is.

  Args:
    sheet: what is asked.
    question: what raters read above every item; one by the mode where empty.
  """
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('rlaif_jax.rating'),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  data = {
    'sheet': sheet.key.sheet,
    'mode': sheet.key.mode,
    'items': [
      {'prompt': prompt, 'texts': texts} for prompt, texts in sheet.shown
    ],
  }
  style, script = (_template(name) for name in ('page.css', 'page.js'))
  text = environment.get_template('page.html').render(
    generator=markupsafe.Markup(GENERATOR),
    style=markupsafe.Markup(style),
    script=markupsafe.Markup(script),
    script_hash=_hash(script),
    mode=sheet.key.mode,
    question=question or QUESTIONS[sheet.key.mode],
    count=len(sheet.shown),
    data=_embedded(data),
    version=__version__,
  )
  # Half of a surrogate pair, as a cut text may end with, has no UTF-8.
  return text.encode('utf-8', 'replace').decode('utf-8')


def key_file(file: str | pathlib.Path) -> pathlib.Path:
  """Where the key of the page `file` is: OUT.key.json beside OUT.html."""
  return pathlib.Path(file).with_suffix('.key.json')


def write(
  sheet: sheet_lib.Sheet, file: str | pathlib.Path, question: str = ''
) -> pathlib.Path:
  """Writes the page, and its key beside it; returns the key's path.

  Raises:
    ValueError: `file` is there and is no rating page, or its key is that of
      other items, whose ratings could then not be read any more.
    OSError: a file cannot be written.
  """
  page, key = pathlib.Path(file), key_file(file)
  if page.exists():
    with page.open('rb') as f:
      if GENERATOR.encode() not in f.read(_MARK_BYTES):
        raise ValueError(f'{page} is there already and is no rating page')
  if key.exists() and sheet_lib.read_key(key) != sheet.key:
    raise ValueError(
      f'{key} is the key of other items, and ratings of them may be on their '
      'way: name another page, or delete the key'
    )
  page.parent.mkdir(parents=True, exist_ok=True)
  workdir_lib.write_text_atomic(key, sheet_lib.key_text(sheet.key))
  workdir_lib.write_text_atomic(page, render(sheet, question))
  return key


def _embedded(value) -> markupsafe.Markup:
  """JSON that nothing in it can leave the script element of."""
  text = json.dumps(value)
  for character in '<>&':
    text = text.replace(character, f'\\u{ord(character):04x}')
  return markupsafe.Markup(text)


def _template(name: str) -> str:
  folder = pathlib.Path(__file__).parent / 'templates'
  return (folder / name).read_text(encoding='utf-8')


def _hash(script: str) -> str:
  digest = hashlib.sha256(script.encode()).digest()
  return f'sha256-{base64.b64encode(digest).decode()}'
