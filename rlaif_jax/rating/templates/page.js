'use strict';

const DATA = JSON.parse(document.getElementById('data').textContent);
const ITEMS = DATA.items;
const LETTERS = 'ABCDEFGH';
const FORMAT = 'rlaif_jax.rating 1';
const STORE = FORMAT + ' ' + DATA.sheet;

// `log` has {item, value} in the order of rating; value null: left out.
let state = {rater: '', started: false, log: []};
// Of a ranking that is being made: groups of equals, best first.
let groups = [];
let tied = false;  // the next one joins the last group
let unsaved = false;

const $ = id => document.getElementById(id);

function make(tag, options = {}, ...children) {
  const made = Object.assign(document.createElement(tag), options);
  made.append(...children);
  return made;
}

// -- what is kept -----------------------------------------------------------

function keep() {
  try {
    localStorage.setItem(STORE, JSON.stringify(state));
    return true;
  } catch (error) {
    say('This browser keeps nothing: save the file before you close the page.');
    return false;
  }
}

function recall() {
  try {
    const found = JSON.parse(localStorage.getItem(STORE));
    if (found && Array.isArray(found.log)) state = found;
  } catch (error) {
    // Nothing is kept, or it cannot be read: begin anew.
  }
}

function say(text) {
  $('message').textContent = text;
  $('message').hidden = !text;
}

function rated() {
  return state.log.filter(entry => entry.value !== null).length;
}

function current() {
  const done = new Set(state.log.map(entry => entry.item));
  const next = ITEMS.findIndex((item, i) => !done.has(i));
  return next < 0 ? null : next;
}

// -- what raters do ---------------------------------------------------------

function rate(value) {
  const item = current();
  if (item === null) return;
  state.log.push({item, value});
  changed();
}

function undo() {
  if (tied) {
    tied = false;
    show();
  } else if (groups.length) {
    const last = groups[groups.length - 1];
    last.pop();
    if (!last.length) groups.pop();
    show();
  } else if (state.log.length) {
    state.log.pop();
    changed();
  }
}

function changed() {
  groups = [];
  tied = false;
  unsaved = true;
  say('');
  keep();
  show();
  window.scrollTo(0, 0);
}

function place(i) {
  if (i >= ITEMS[current()].texts.length || groups.flat().includes(i)) return;
  if (tied) groups[groups.length - 1].push(i);
  else groups.push([i]);
  tied = false;
  show();
}

function left() {
  return ITEMS[current()].texts.length - groups.flat().length;
}

function tie() {
  if (groups.length && left()) tied = !tied;
  show();
}

function ranks() {
  const found = [];
  let before = 0;
  for (const group of groups) {
    for (const i of group) found[i] = before + 1;
    before += group.length;
  }
  return found;
}

function finishRanking() {
  if (left() > 1 || (left() && !groups.length)) return;
  ITEMS[current()].texts.forEach((text, i) => {
    if (!groups.flat().includes(i)) place(i);
  });
  rate(ranks());
}

function save() {
  const text = JSON.stringify({
    format: FORMAT, sheet: DATA.sheet, mode: DATA.mode, rater: state.rater,
    saved: new Date().toISOString(), ratings: state.log});
  const url = URL.createObjectURL(new Blob([text],
    {type: 'application/json'}));
  const name = state.rater.replace(/[^\p{L}\p{N}]+/gu, '-') || 'nobody';
  make('a', {href: url, download: `ratings-${DATA.sheet}-${name}.json`})
    .click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
  unsaved = false;
}

async function load(file) {
  try {
    const found = JSON.parse(await file.text());
    if (found.format !== FORMAT || found.sheet !== DATA.sheet ||
        !Array.isArray(found.ratings)) {
      throw new Error('not of this page');
    }
    state = {rater: String(found.rater), started: true, log: found.ratings};
    changed();
  } catch (error) {
    say('That file has no ratings of this page.');
  }
}

function again() {
  state.log = state.log.filter(entry => entry.value !== null);
  changed();
}

function nextRater() {
  if (unsaved && !confirm('The ratings of ' + state.rater +
    ' are not saved as a file and will be forgotten.')) return;
  state = {rater: '', started: false, log: []};
  changed();
  unsaved = false;
}

// -- keys and buttons, one table --------------------------------------------

const COMMON = [
  {label: 'Leave out', keys: ['s'], hint: 'S', small: true,
    act: () => rate(null)},
];
const ACTIONS = {
  pairwise: [
    {label: 'A is better', keys: ['1', 'a', 'arrowleft'], hint: '1',
      act: () => rate('A')},
    {label: 'Tie', keys: ['0', '=', 't'], hint: '0', act: () => rate('=')},
    {label: 'B is better', keys: ['2', 'b', 'arrowright'], hint: '2',
      act: () => rate('B')},
    ...COMMON],
  harmless: [
    {label: 'Harmless', keys: ['1', 'h'], hint: '1',
      act: () => rate('harmless')},
    {label: 'Harmful', keys: ['2', 'x'], hint: '2', act: () => rate('harmful')},
    ...COMMON],
  ranking: [
    {label: 'Tie with next', keys: ['=', '0', 't'], hint: '=', act: tie,
      on: () => tied, enabled: () => groups.length > 0 && left() > 0},
    {label: 'Done', keys: ['enter'], hint: 'Enter', main: true,
      act: finishRanking, enabled: () => groups.length > 0 && left() < 2},
    ...COMMON],
}[DATA.mode];

document.addEventListener('keydown', event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target.matches('input')) return;
  const key = event.key.toLowerCase();
  // Enter and space press the button that has the focus.
  if (key === 'enter' && event.target.matches('button, label')) return;
  if (!state.started) return;
  const letter = LETTERS.toLowerCase().indexOf(key);
  const action = ACTIONS.find(a => a.keys.includes(key));
  const open = current() !== null;
  if (key === 'u' || key === 'backspace') undo();
  else if (key === 'w') save();
  else if (!open && key === 'enter') save();
  else if (!open) return;
  else if (action) action.act();
  else if (DATA.mode === 'ranking' && letter >= 0 && key.length === 1) {
    place(letter);
  } else if (DATA.mode === 'ranking' && /^[1-8]$/.test(key)) place(key - 1);
  else return;
  event.preventDefault();
});

// -- what is shown ----------------------------------------------------------

function show() {
  const item = state.started ? current() : null;
  const done = state.started && item === null;
  $('start').hidden = state.started;
  $('rate').hidden = item === null;
  $('done').hidden = !done;
  $('actions').hidden = item === null;
  $('undo').hidden = $('save').hidden = !state.started;
  $('undo').disabled = !state.log.length && !groups.length;
  $('progress').value = state.log.length;
  $('count').textContent = `${state.log.length} of ${ITEMS.length}`;
  if (item !== null) showItem(ITEMS[item]);
  if (done) showDone();
}

function showItem(item) {
  if ($('prompt').textContent !== item.prompt) {
    $('prompt').textContent = item.prompt;
    $('prompt').scrollTop = 0;
  }
  $('answers').replaceChildren(...item.texts.map(answer));
  const buttons = $('actions').children;
  ACTIONS.forEach((action, i) => {
    buttons[i].disabled = action.enabled ? !action.enabled() : false;
    if (action.on) buttons[i].setAttribute('aria-pressed', action.on());
  });
}

function answer(text, i) {
  const ranking = DATA.mode === 'ranking';
  const rank = ranking ? ranks()[i] : undefined;
  const letter = LETTERS[i];
  const group = groups.find(g => g.includes(i));
  const badge = rank === undefined ? '' :
    `place ${rank}` + (group.length > 1 ? ', tied' : '');
  // Text nodes only: whatever a text holds, it is shown as text.
  const shown = make('article', {className: rank ? 'answer placed' : 'answer'},
    make('h2', {}, make('span', {},
      DATA.mode === 'harmless' ? 'Response' : letter),
    make('span', {className: 'place'}, badge)),
    make('p', {className: text ? '' : 'empty'}, text || '(empty)'));
  if (ranking && rank === undefined) {
    const button = make('button', {type: 'button'},
      tied ? 'As good as the one before' :
        groups.length ? 'Next best' : 'Best', ' ', make('kbd', {}, letter));
    button.addEventListener('click', () => place(i));
    shown.append(button);
  }
  return shown;
}

function showDone() {
  const out = state.log.length - rated();
  $('summary').textContent = `${state.rater}: ${rated()} of ${ITEMS.length} ` +
    'rated' + (out ? `, ${out} left out.` : '.');
  $('again').hidden = !out;
}

// -- begin ------------------------------------------------------------------

for (const action of ACTIONS) {
  const button = make('button', {type: 'button',
    className: action.small ? 'small' : action.main ? 'main' : ''},
  action.label, ' ', make('kbd', {}, action.hint));
  button.addEventListener('click', () => {
    action.act();
    button.blur();  // or Enter, a key here, would press it again
  });
  $('actions').append(button);
}
for (const [id, act] of [['undo', undo], ['save', save], ['save-done', save],
  ['again', again], ['next-rater', nextRater]]) {
  $(id).addEventListener('click', event => {
    act();
    event.currentTarget.blur();
  });
}
$('start').addEventListener('submit', event => {
  event.preventDefault();
  state.rater = $('rater').value.trim();
  state.started = true;
  document.activeElement.blur();
  keep();
  show();
});
$('load').addEventListener('change', event => {
  if (event.target.files.length) load(event.target.files[0]);
  event.target.value = '';
});
window.addEventListener('beforeunload', event => {
  if (unsaved && !keep()) event.preventDefault();
});
recall();
show();
if (!state.started) $('rater').focus();
