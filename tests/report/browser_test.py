"""The page in a real browser: it loads, it is searched, it runs no text."""

import re

import pytest

from rlaif_jax.report import page, runs


@pytest.fixture(scope='module')
def file(tmp_path_factory, write):
  """A page of two runs, one of them not finished."""
  root = tmp_path_factory.mktemp('report')
  write.pipeline(root / 'first')
  write.pipeline(root / 'second')
  (root / 'second' / 'summary.json').unlink()
  (root / 'second' / 'evaluate' / 'summary.json').unlink()
  text = page.render(runs.load_all([root / 'first', root / 'second']))
  return page.write(text, root / 'report')


@pytest.fixture
def opened(chromium, file):
  """The browser with the page freshly loaded, as wide as a desktop."""
  chromium.look(1280)
  chromium.open(file)
  return chromium


def rows(browser, name='samples'):
  """(rows shown, what the page says of their number)."""
  root = f'document.querySelector("[data-browser={name}]")'
  return (
    browser.run(f'{root}.querySelectorAll(".row").length'),
    browser.run(f'{root}.querySelector(".count").textContent'),
  )


def put(browser, control: str, value: str, name='samples'):
  """Sets a control as a person would, by an input event."""
  browser.run(
    f'(() => {{ const c = document.querySelector('
    f"'[data-browser={name}] {control}'); c.value = {value!r};"
    f" c.dispatchEvent(new Event('input', {{bubbles: true}})); }})()"
  )


def test_it_loads_without_errors_and_without_the_network(opened, file):
  assert not opened.errors
  requests = [url for url in opened.requests if not url.startswith('data:')]
  assert requests == [file.as_uri()]
  assert opened.run('document.querySelectorAll("svg.plot").length') > 20


@pytest.mark.parametrize(
  ('width', 'media'), [(1280, ''), (390, ''), (320, ''), (720, 'print')]
)
def test_it_never_scrolls_sideways(opened, width, media):
  opened.look(width, media=media)
  # Also with all that is folded.
  opened.run(
    'document.querySelectorAll("details").forEach(d => { d.open = true; })'
  )
  seen = opened.run('document.documentElement.scrollWidth')
  assert seen <= width
  assert not opened.errors


def test_dark_mode(opened):
  colour = 'getComputedStyle(document.body).backgroundColor'
  light = opened.run(colour)
  opened.look(1280, dark=True)
  assert light == 'rgb(255, 255, 255)' and opened.run(colour) != light
  # Paper is white whatever the screen is.
  opened.look(1280, dark=True, media='print')
  assert opened.run(colour) == light


def test_search_filters_rows(opened):
  assert rows(opened) == (5, '6 of 6 rows')
  put(opened, 'input[type=search]', 'NUMBER 3')
  assert rows(opened) == (1, '1 of 6 rows')
  assert 'question about number 3' in opened.run(
    'document.querySelector("[data-browser=samples] .prompt").textContent'
  )
  marked = 'document.querySelector("[data-browser=samples] mark").textContent'
  assert opened.run(marked) == 'number'
  put(opened, 'input[type=search]', 'no such words')
  assert rows(opened) == (0, '0 of 6 rows')
  put(opened, 'input[type=search]', '')
  assert rows(opened) == (5, '6 of 6 rows')


def test_filter_order_and_more(opened):
  opened.run('document.querySelector("[data-browser=samples] .more").click()')
  assert rows(opened)[0] == 6
  put(opened, 'select[title=Filter]', 'first · rlaif beats sft')
  assert rows(opened) == (3, '3 of 6 rows')
  put(opened, 'select[title=Filter]', '')
  put(opened, 'select[title=Order]', 'highest first · rlaif')
  ids = opened.run(
    '[...document.querySelectorAll("[data-browser=samples] h4")]'
    '.map(h => h.textContent)'
  )
  assert ids[:3] == ['test-1', 'test-3', 'test-5']
  put(opened, 'select[title=Source]', 'second · labels_ai', 'pairs')
  assert rows(opened, 'pairs') == (5, '150 of 300 rows')


def test_policies_can_be_hidden(opened):
  count = 'document.querySelectorAll("[data-browser=samples] .answer").length'
  before = opened.run(count)
  opened.run(
    'document.querySelector("[data-browser=samples] fieldset input").click()'
  )
  assert opened.run(count) == before - 5


def test_markup_of_a_model_shows_as_text(opened, write):
  shown = opened.run(
    '[...document.querySelectorAll("[data-browser=samples] .answer p")]'
    '.map(p => p.textContent)'
  )
  assert write.HOSTILE in shown
  assert opened.run('window.broken') is None
  assert opened.run('document.querySelectorAll(".answer b").length') == 0
  # Nor does a search put it there.
  put(opened, 'input[type=search]', '</script>')
  assert rows(opened)[1] == '1 of 6 rows'
  assert opened.run('window.broken') is None


def test_what_gets_in_all_the_same_is_not_run(opened):
  opened.run(
    '(() => { const s = document.createElement("script");'
    ' s.textContent = "window.broken = 1"; document.body.append(s); })()'
  )
  assert opened.run('window.broken') is None
  assert any('Content Security Policy' in error for error in opened.errors)


def test_a_legend_hides_and_shows_a_series(opened):
  def hidden():
    return opened.run(
      "document.querySelectorAll(\"#rl [data-series='first · rlaif']"
      '[data-off]").length'
    )

  button = (
    'document.querySelector("#rl [data-toggle=\'first · rlaif\']").click()'
  )
  assert hidden() == 0
  opened.run(button)
  assert hidden() == 6  # in all plots of the group
  opened.run(button)
  assert hidden() == 0


def test_values_at_the_pointer(opened):
  opened.run('document.querySelector("#rl svg.plot").scrollIntoView()')
  box = opened.run(
    '(() => { const b = document.querySelector("#rl svg.plot")'
    '.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; })()'
  )
  left, top, width, height = box
  opened.send(
    'Input.dispatchMouseEvent',
    type='mouseMoved', x=left + 0.962 * width, y=top + height / 2,
  )  # fmt: skip
  text = opened.run('document.querySelector("#rl .readout").textContent')
  # Means of the last two steps of the ways to 1 and to 0.5.
  numbers = re.findall(r'first · (\w+) ([\d.]+)', text)
  assert text.startswith('50: ')
  assert {name: float(x) for name, x in numbers} == {
    'rlaif': pytest.approx(0.99, abs=0.005),
    'rlhf': pytest.approx(0.495, abs=0.005),
  }
