"""The report as one HTML page that needs nothing else: no network, no file.

Everything but the SVG of `plots.py` and the page's own style and script is
escaped by jinja. Texts of models are not in the HTML at all: they are JSON,
without any '<', which the script turns into text nodes. Should markup get
through all the same, the page's security policy runs no script but its own.
"""

import base64
import dataclasses
import datetime
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jinja2
import markupsafe

from rlaif_jax import __version__
from rlaif_jax.report import blocks, build, svg
from rlaif_jax.report.runs import Run
from rlaif_jax.training import workdir as workdir_lib

# How a page says who made it: others' files are not overwritten.
GENERATOR = '<meta name="generator" content="rlaif_jax.report">'
_MARK_BYTES = 2000  # of a file, in which that stands


def render(runs: Sequence[Run]) -> str:
  """The page as text."""
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('rlaif_jax.report'),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.tests['table'] = lambda b: isinstance(b, blocks.Table)
  environment.tests['figures'] = lambda b: isinstance(b, blocks.Figures)
  environment.tests['note'] = lambda b: isinstance(b, blocks.Note)
  environment.tests['code'] = lambda b: isinstance(b, blocks.Code)
  environment.filters['svg'] = markupsafe.Markup  # it is escaped already
  environment.filters['swatch'] = lambda style, bar: markupsafe.Markup(
    svg.swatch(style, bar)
  )
  environment.filters['data'] = embedded
  style, script = (_template(name) for name in ('page.css', 'page.js'))
  text = environment.get_template('page.html').render(
    title=build.title(runs),
    generator=markupsafe.Markup(GENERATOR),
    style=markupsafe.Markup(style),
    script=markupsafe.Markup(script),
    script_hash=_hash(script),
    runs=runs,
    sections=build.sections(runs),
    version=__version__,
    made=f'{datetime.datetime.now():%Y-%m-%d %H:%M}',
  )
  # Half of a surrogate pair, as a cut text may end with, has no UTF-8.
  return text.encode('utf-8', 'replace').decode('utf-8')


def write(text: str, folder: pathlib.Path) -> pathlib.Path:
  """Writes a page to `folder/index.html`, over an older report only.

  Raises:
    ValueError: there is an index.html that is no report.
    OSError: the folder cannot be made or written.
  """
  file = folder / 'index.html'
  if file.exists():
    with file.open('rb') as f:
      if GENERATOR.encode() not in f.read(_MARK_BYTES):
        raise ValueError(
          f'{file} is there already and is no report of this program; name '
          'another folder with --out'
        )
  folder.mkdir(parents=True, exist_ok=True)
  workdir_lib.write_text_atomic(file, text)
  return file


def embedded(value: Any) -> markupsafe.Markup:
  """`value` as JSON that nothing in it can leave the script element of.

  Dataclasses become objects.
  """
  text = json.dumps(value, default=dataclasses.asdict, allow_nan=False)
  for character in '<>&':
    text = text.replace(character, f'\\u{ord(character):04x}')
  return markupsafe.Markup(text)


def _template(name: str) -> str:
  folder = pathlib.Path(__file__).parent / 'templates'
  return (folder / name).read_text(encoding='utf-8')


def _hash(script: str) -> str:
  digest = hashlib.sha256(script.encode()).digest()
  return f'sha256-{base64.b64encode(digest).decode()}'
