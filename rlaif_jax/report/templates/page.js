'use strict';

// -- legends: a press hides a series in all plots of the group --------------

for (const button of document.querySelectorAll('[data-toggle]')) {
  button.addEventListener('click', () => {
    const on = button.getAttribute('aria-pressed') !== 'true';
    button.setAttribute('aria-pressed', String(on));
    const group = button.closest('.group');
    for (const part of group.querySelectorAll('[data-series]')) {
      if (part.dataset.series === button.dataset.toggle) {
        part.toggleAttribute('data-off', !on);
      }
    }
  });
}

// -- plots: values at the pointer -------------------------------------------

function digits(value) {
  if (value !== 0 && (Math.abs(value) >= 1e5 || Math.abs(value) < 1e-3)) {
    return value.toExponential(2);
  }
  return String(Number(value.toPrecision(4)));
}

// What is drawn at the step nearest to `at`, read back from the points.
function valuesAt(plot, at) {
  const [x0, x1, left, right, y0, y1, bottom, top, percent] =
    plot.dataset.ends.split(' ').map(Number);
  let nearest = null;
  const lines = [];
  for (const series of plot.querySelectorAll('[data-series]:not([data-off])')) {
    const points = [];
    for (const line of series.querySelectorAll('.line')) {
      for (const pair of line.getAttribute('points').split(' ')) {
        points.push(pair.split(',').map(Number));
      }
    }
    for (const dot of series.querySelectorAll('.line-dot')) {
      points.push([Number(dot.getAttribute('cx')),
        Number(dot.getAttribute('cy'))]);
    }
    if (!points.length) continue;
    const [x, y] = points.reduce((best, point) =>
      Math.abs(point[0] - at) < Math.abs(best[0] - at) ? point : best);
    if (Math.abs(x - at) > 12) continue;
    const value = y0 + (y - bottom) / (top - bottom) * (y1 - y0);
    lines.push(series.dataset.series + ' ' +
      (percent ? (100 * value).toFixed(1) + '%' : digits(value)));
    if (nearest === null || Math.abs(x - at) < Math.abs(nearest - at)) {
      nearest = x;
    }
  }
  if (nearest === null) return null;
  const x = x0 + (nearest - left) / (right - left) * (x1 - x0);
  return {place: nearest, top, bottom,
    text: (x1 - x0 > 2 ? Math.round(x) : digits(x)) + ': ' + lines.join(', ')};
}

for (const plot of document.querySelectorAll('[data-ends]')) {
  const readout = document.createElement('div');
  readout.className = 'readout';
  plot.after(readout);
  const cursor = document.createElementNS(plot.namespaceURI, 'line');
  cursor.setAttribute('class', 'cursor');
  cursor.setAttribute('visibility', 'hidden');
  plot.append(cursor);
  plot.addEventListener('pointermove', event => {
    const box = plot.getBoundingClientRect();
    const scale = plot.viewBox.baseVal.width / box.width;
    const found = valuesAt(plot, (event.clientX - box.left) * scale);
    cursor.setAttribute('visibility', found ? 'visible' : 'hidden');
    readout.textContent = found ? found.text : '';
    if (!found) return;
    for (const [name, value] of [['x1', found.place], ['x2', found.place],
      ['y1', found.top], ['y2', found.bottom]]) {
      cursor.setAttribute(name, value);
    }
  });
  plot.addEventListener('pointerleave', () => {
    cursor.setAttribute('visibility', 'hidden');
    readout.textContent = '';
  });
}

// -- texts: search, filters, order ------------------------------------------

const FIRST = 5;  // rows shown at first
const MORE = 20;  // and further ones at each press

function make(tag, options = {}, ...children) {
  const made = Object.assign(document.createElement(tag), options);
  made.append(...children);
  return made;
}

// Text nodes only: whatever a text holds, it is shown as text.
function marked(text, words) {
  const found = [];
  const low = text.toLowerCase();
  // Where lower case has another length, places would be wrong.
  if (low.length !== text.length) words = [];
  let at = 0;
  while (words.length) {
    let next = null;
    for (const word of words) {
      const place = low.indexOf(word, at);
      if (place >= 0 && (next === null || place < next[0])) {
        next = [place, word.length];
      }
    }
    if (next === null) break;
    found.push(text.slice(at, next[0]));
    found.push(make('mark', {}, text.slice(next[0], next[0] + next[1])));
    at = next[0] + next[1];
  }
  found.push(text.slice(at));
  return found;
}

function choice(title, values, first) {
  const select = make('select', {title});
  select.setAttribute('aria-label', title);
  select.append(new Option(first, ''));
  for (const value of values) select.append(new Option(value, value));
  return select;
}

function unique(values) {
  return [...new Set(values)];
}

class Browser {
  constructor(root) {
    this.root = root;
    const data = document.getElementById('data-' + root.dataset.browser);
    this.rows = JSON.parse(data.textContent);
    for (const row of this.rows) {
      row.all = [row.id, row.prompt, ...row.texts.map(text => text.text)]
        .join('\n').toLowerCase();
    }
    this.names = unique(this.rows.flatMap(row => row.texts.map(t => t.name)));
    this.hidden = new Set();
    this.limit = FIRST;
    this.build();
    this.show();
  }

  build() {
    const scored = unique(this.rows.flatMap(row =>
      row.texts.filter(text => text.score !== null).map(text => text.name)));
    this.search = make('input', {type: 'search',
      placeholder: 'Search prompts and responses'});
    this.search.setAttribute('aria-label', 'Search');
    this.source = choice('Source', unique(this.rows.map(r => r.source)), 'all');
    this.tag = choice('Filter', unique(this.rows.flatMap(r => r.tags)).sort(),
      'all rows');
    this.order = choice('Order', scored.flatMap(name =>
      ['highest ' + name, 'lowest ' + name]), 'in order of the file');
    this.source.hidden = this.source.length < 3;
    this.tag.hidden = this.tag.length < 2;
    this.order.hidden = this.order.length < 2;
    const shown = make('fieldset');
    if (this.names.length > 2) {
      for (const name of this.names) {
        const box = make('input', {type: 'checkbox', checked: true});
        box.addEventListener('change', () => {
          if (box.checked) this.hidden.delete(name);
          else this.hidden.add(name);
          this.show();
        });
        shown.append(make('label', {}, box, name));
      }
    }
    for (const control of [this.search, this.source, this.tag, this.order]) {
      control.addEventListener('input', () => {
        this.limit = FIRST;
        this.show();
      });
    }
    this.root.querySelector('.controls').append(
      this.search, this.source, this.tag, this.order, shown);
    this.more = make('button', {type: 'button', className: 'more'}, 'More');
    this.more.addEventListener('click', () => {
      this.limit += MORE;
      this.show();
    });
    this.root.append(this.more);
  }

  found() {
    const words = this.words();
    const rows = this.rows.filter(row =>
      (!this.source.value || row.source === this.source.value) &&
      (!this.tag.value || row.tags.includes(this.tag.value)) &&
      words.every(word => row.all.includes(word)));
    if (!this.order.value) return rows;
    const sign = this.order.value.startsWith('highest ') ? -1 : 1;
    const name = this.order.value.replace(/^\w+ /, '');
    const score = row => {
      const text = row.texts.find(t => t.name === name);
      return text && text.score !== null ? sign * text.score : Infinity;
    };
    return rows.map(row => [score(row), row])
      .sort((a, b) => a[0] - b[0] || 0).map(pair => pair[1]);
  }

  words() {
    return this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
  }

  show() {
    const rows = this.found();
    this.root.querySelector('.count').textContent =
      `${rows.length} of ${this.rows.length} rows`;
    this.root.querySelector('.rows').replaceChildren(
      ...rows.slice(0, this.limit).map(row => this.row(row)));
    this.more.hidden = rows.length <= this.limit;
  }

  row(row) {
    const words = this.words();
    const title = [row.source, row.id, row.note].filter(Boolean).join(' · ');
    const answers = row.texts.filter(text => !this.hidden.has(text.name));
    const scores = answers.map(t => t.score).filter(score => score !== null);
    const best = scores.length > 1 ? Math.max(...scores) : null;
    return make('article', {className: 'row'},
      make('h4', {}, title),
      make('div', {className: 'prompt'}, ...marked(row.prompt, words)),
      make('div', {className: 'answers'}, ...answers.map(text => make('div',
        {className: best !== null && text.score === best ?
          'answer best' : 'answer'},
        make('h5', {}, make('span', {}, text.name), make('span',
          {className: 'score'},
          text.score === null ? text.note : digits(text.score))),
        make('p', {}, ...marked(text.text, words))))));
  }
}

for (const root of document.querySelectorAll('[data-browser]')) {
  new Browser(root);
}
