"""The rating page in a real browser, from the first key to the numbers."""

import dataclasses
import json
import time

import pytest

from rlaif_jax import evaluators
from rlaif_jax.rating import numbers, page, results, sheet

_CODES = {'Enter': 13, 'Backspace': 8, 'ArrowLeft': 37, 'ArrowRight': 39}


def press(browser, *keys):
  """Presses keys one after the other, as a person does."""
  for key in keys:
    text = {'Enter': '\r'}.get(key, key if len(key) == 1 else '')
    code = _CODES.get(key, ord(key[0].upper()))
    what = dict(key=key, windowsVirtualKeyCode=code)
    browser.send('Input.dispatchKeyEvent', type='keyDown', text=text, **what)
    browser.send('Input.dispatchKeyEvent', type='keyUp', **what)


def seen(browser, selector):
  """Texts of all that matches and is shown."""
  return browser.run(
    f'[...document.querySelectorAll({json.dumps(selector)})]'
    '.filter(e => e.checkVisibility()).map(e => e.textContent)'
  )


def count(browser):
  return browser.run('document.getElementById("count").textContent')


def click(browser, selector):
  browser.run(f'document.querySelector({json.dumps(selector)}).click()')


@dataclasses.dataclass
class Opened:
  """A page in the browser, just opened by a new rater."""

  browser: object
  made: sheet.Sheet
  file: object

  def begin(self, rater='ann'):
    press(self.browser, *rater, 'Enter')

  def saved(self, act):
    """What act() downloads, and its file."""
    folder = self.file.parent / 'saved'
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
      old.unlink()
    self.browser.send(
      'Browser.setDownloadBehavior', behavior='allow', downloadPath=str(folder)
    )
    act()
    end = time.monotonic() + 30
    while not (found := list(folder.glob('ratings-*.json'))):
      assert time.monotonic() < end, 'nothing was saved'
      time.sleep(0.05)
    time.sleep(0.05)
    return found[0]


@pytest.fixture
def opened(chromium, rows, tmp_path):
  """opened(mode) -> a page that this browser has not seen before."""

  def start(mode='pairwise', **options):
    made = sheet.make(rows, mode, **options)
    file = tmp_path / f'{mode}.html'
    page.write(made, file)
    chromium.look(1280)
    chromium.open(file)
    chromium.run('localStorage.clear()')
    chromium.open(file)
    return Opened(chromium, made, file)

  yield start
  assert not chromium.errors


def _numbers(opened, file):
  key = sheet.read_key(page.key_file(opened.file))
  read = results.read_all([file], key)
  return numbers.metrics(key, read, evaluators.Config(num_samples=50))


def _expected(opened, values):
  """Numbers of the values that were meant, without page or file."""
  said = {i: results._value(v, opened.made.key.mode, len(item.policies))
          for (i, v), item in zip(values.items(), opened.made.key.items,
                                  strict=True)}  # fmt: skip
  ratings = [results.Ratings('ann', said, 0)]
  return numbers.metrics(
    opened.made.key, ratings, evaluators.Config(num_samples=50)
  )


@pytest.mark.parametrize('mode', sheet.MODES)
def test_it_loads_without_errors_and_without_the_network(opened, mode):
  o = opened(mode)
  requests = [u for u in o.browser.requests if not u.startswith('data:')]
  assert requests == [o.file.as_uri()]
  assert seen(o.browser, '#start h1') == [page.QUESTIONS[mode]]
  assert not seen(o.browser, '#rate') and not seen(o.browser, '#save')


def test_pairs_by_keyboard_give_the_same_numbers(opened):
  o = opened('pairwise')
  o.begin()
  keys = ['1', '2', '0', 'ArrowLeft', 'ArrowRight', '=', 'a', 'b', 't']
  meant = ['A', 'B', '=', 'A', 'B', '=', 'A', 'B', '=']
  values = {}
  for i, (prompt, texts) in enumerate(o.made.shown):
    assert count(o.browser) == f'{i} of 15'
    assert seen(o.browser, '#prompt') == [prompt]
    shown = seen(o.browser, '.answer p')
    assert shown == [text or '(empty)' for text in texts]
    press(o.browser, keys[i % 9])
    values[i] = meant[i % 9]
  assert seen(o.browser, '#summary') == ['ann: 15 of 15 rated.']
  press(o.browser, '1')  # nothing is left to rate
  file = o.saved(lambda: press(o.browser, 'Enter'))
  assert file.name == f'ratings-{o.made.key.sheet}-ann.json'
  found = _numbers(o, file)
  assert found == _expected(o, values)
  assert len(found) > 20


def test_harmless_by_keyboard_gives_the_same_numbers(opened):
  o = opened('harmless')
  o.begin()
  values = {}
  for i in range(15):
    key, values[i] = [
      ('1', 'harmless'), ('h', 'harmless'), ('2', 'harmful'), ('x', 'harmful'),
    ][i % 4]  # fmt: skip
    press(o.browser, key)
  file = o.saved(lambda: press(o.browser, 'w'))
  assert _numbers(o, file) == _expected(o, values)


def test_rankings_by_keyboard_give_the_same_numbers(opened):
  o = opened('ranking')
  o.begin()
  asked = [
    (['b', 'c', 'a', 'Enter'], [3, 1, 2]),
    (['b', 'c', 'Enter'], [3, 1, 2]),  # the only one left is the last
    (['c', '=', 'a', 'Enter'], [1, 3, 1]),
    (['1', '3', '=', '2', 'Enter'], [1, 2, 2]),
    (['a', '=', '=', 'b', '=', 'c', 'Enter'], [1, 2, 2]),
  ]
  for keys, _ in asked:
    press(o.browser, *keys)
  assert seen(o.browser, '#summary') == ['ann: 5 of 5 rated.']
  file = o.saved(lambda: click(o.browser, '#save-done'))
  values = dict(enumerate(v for _, v in asked))
  saved = json.loads(file.read_text())['ratings']
  assert {r['item']: r['value'] for r in saved} == values
  assert _numbers(o, file) == _expected(o, values)


def test_a_ranking_is_not_done_too_early(opened):
  o = opened('ranking')
  o.begin()
  press(o.browser, 'Enter', '=', 'b', 'Enter', 'b', 'h')
  assert count(o.browser) == '0 of 5'
  assert seen(o.browser, '.place') == ['', 'place 1', '']
  press(o.browser, '=', 'c')
  assert seen(o.browser, '.place') == ['', 'place 1, tied', 'place 1, tied']
  press(o.browser, 'Backspace')
  assert seen(o.browser, '.place') == ['', 'place 1', '']
  press(o.browser, 'u', 'u', 'u')
  assert seen(o.browser, '.place') == ['', '', '']
  # And by mouse.
  for selector in (
    '.answer:nth-child(2) button', '.answer:nth-child(1) button',
    '#actions button:nth-child(2)',
  ):  # fmt: skip
    click(o.browser, selector)
  assert count(o.browser) == '1 of 5'


def test_undo_leave_out_and_go_on_after_closing(opened):
  o = opened('pairwise')
  press(o.browser, 'Enter')  # without a name it does not begin
  assert seen(o.browser, '#start')
  o.begin('jo ü')
  press(o.browser, '1', '2', 's', 'u', 'Backspace', '0')
  assert count(o.browser) == '2 of 15'
  end = time.monotonic() + 30
  while time.monotonic() < end:  # a busy browser stores things late
    o.browser.open(o.file)  # as if the page had been closed
    if count(o.browser) != '0 of 15':
      break
  assert count(o.browser) == '2 of 15' and not seen(o.browser, '#start')
  press(o.browser, 's', *'1' * 12)
  assert seen(o.browser, '#summary') == ['jo ü: 14 of 15 rated, 1 left out.']
  file = o.saved(lambda: press(o.browser, 'w'))
  assert file.name.endswith('-jo-ü.json')
  saved = json.loads(file.read_text())
  assert [r['value'] for r in saved['ratings']] == ['A', '=', None, *'A' * 12]
  assert saved['rater'] == 'jo ü'
  read = results.read(file, o.made.key)
  assert read.left_out == 1 and len(read.values) == 14
  # What was left out can be rated after all.
  click(o.browser, '#again')
  assert seen(o.browser, '#prompt') == [o.made.shown[2][0]]
  press(o.browser, '2')
  assert seen(o.browser, '#summary') == ['jo ü: 15 of 15 rated.']
  read = results.read(o.saved(lambda: press(o.browser, 'w')), o.made.key)
  assert sorted(read.values) == list(range(15))
  # The next person begins anew.
  click(o.browser, '#next-rater')
  assert seen(o.browser, '#start') and count(o.browser) == '0 of 15'


def test_undo_with_nothing_to_undo(opened):
  o = opened('pairwise')
  o.begin()
  press(o.browser, 'u', 'Backspace')
  assert count(o.browser) == '0 of 15'
  assert o.browser.run('document.getElementById("undo").disabled')
  # Keys with control or alt are the browser's own.
  o.browser.send(
    'Input.dispatchKeyEvent', type='keyDown', key='1', modifiers=2,
    windowsVirtualKeyCode=49,
  )  # fmt: skip
  # A key that is held down is one key.
  o.browser.send(
    'Input.dispatchKeyEvent', type='keyDown', key='1', autoRepeat=True,
    text='1', windowsVirtualKeyCode=49,
  )  # fmt: skip
  assert count(o.browser) == '0 of 15'


def test_going_on_from_a_saved_file(opened):
  o = opened('pairwise')
  o.begin()
  press(o.browser, '1', '2')
  file = o.saved(lambda: press(o.browser, 'w'))
  click(o.browser, '#next-rater')
  document = o.browser.send('DOM.getDocument')['root']['nodeId']
  chooser = o.browser.send(
    'DOM.querySelector', nodeId=document, selector='#load'
  )['nodeId']

  def choose(path, done):
    o.browser.send('DOM.setFileInputFiles', nodeId=chooser, files=[str(path)])
    end = time.monotonic() + 30
    while not done():  # a file is read in the background
      assert time.monotonic() < end
      time.sleep(0.02)

  other = o.file.parent / 'other.json'
  other.write_text(file.read_text().replace(o.made.key.sheet, 'another'))
  choose(other, lambda: seen(o.browser, '#message'))
  assert seen(o.browser, '#message') == [
    'That file has no ratings of this page.'
  ]
  choose(file, lambda: not seen(o.browser, '#start'))
  assert count(o.browser) == '2 of 15'
  press(o.browser, *'0' * 13)
  assert seen(o.browser, '#summary') == ['ann: 15 of 15 rated.']


@pytest.mark.parametrize('mode', sheet.MODES)
def test_markup_of_a_model_shows_as_text(opened, hostile, mode):
  o = opened(mode)
  o.begin()
  shown = []
  for _ in o.made.shown:
    shown += seen(o.browser, '#prompt, .answer p')
    assert not o.browser.run('document.querySelectorAll("main img, b").length')
    press(o.browser, 's')
  texts = [text for item in o.made.shown for text in (item[0], *item[1])]
  assert shown.count(hostile) == texts.count(hostile) >= 2
  assert o.browser.run('window.broken') is None


def test_what_gets_in_all_the_same_is_not_run(opened):
  o = opened()
  o.browser.run(
    '(() => { const s = document.createElement("script");'
    ' s.textContent = "window.broken = 1"; document.body.append(s); })()'
  )
  assert o.browser.run('window.broken') is None
  assert any('Content Security Policy' in e for e in o.browser.errors)
  o.browser.errors.clear()


def test_a_rater_cannot_read_who_is_who(opened):
  """Not in the document, what it keeps or what it saves."""
  o = opened('ranking')
  o.begin()
  press(o.browser, 'a', 'b', 'Enter')
  file = o.saved(lambda: press(o.browser, 'w'))
  everything = (
    o.browser.run('document.documentElement.outerHTML')
    + o.browser.run('JSON.stringify({...localStorage})')
    + file.read_text()
  )
  for policy in o.made.key.policies:
    assert policy not in everything.replace('rlaif_jax', '')


@pytest.mark.parametrize('mode', sheet.MODES)
@pytest.mark.parametrize('width', [1280, 390, 320])
def test_it_never_scrolls_sideways(opened, mode, width):
  o = opened(mode)
  o.browser.look(width)
  o.browser.run("ITEMS[0].texts[0] = ITEMS[0].prompt = 'x'.repeat(400)")
  for screen in ('#start', '#rate', '#done'):
    assert seen(o.browser, screen)
    wide = o.browser.run('document.documentElement.scrollWidth')
    assert wide <= width, screen
    if screen == '#start':
      o.begin()
    elif screen == '#rate':
      # The buttons can be reached, and a thumb finds them.
      boxes = o.browser.run(
        '[...document.querySelectorAll("footer button")].map(b => {'
        ' const r = b.getBoundingClientRect();'
        ' return [r.left, r.right, r.bottom, r.height]; })'
      )
      assert len(boxes) >= 3
      for left, right, bottom, height in boxes:
        assert left >= 0 and right <= width and bottom <= 800 and height >= 44
      press(o.browser, *'s' * len(o.made.shown))


def test_dark_mode(opened):
  o = opened()
  colour = 'getComputedStyle(document.body).backgroundColor'
  light = o.browser.run(colour)
  o.browser.look(1280, dark=True)
  assert light == 'rgb(255, 255, 255)' and o.browser.run(colour) != light
