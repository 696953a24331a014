// A table as a grid of its 512 entries, for one space or two side by side.

class Grid {
  constructor(view, sharing, findings) {
    Object.assign(this, { view, sharing, findings, guest: view.guest });
    this.place = $('panes');
    this.panes = [this.pane(0), this.pane(1)];
    this.place.append(...this.panes.map((pane) => pane.element));
    view.watch(() => this.update());
  }

  pane(number) {
    const cells = [];
    for (let index = 0; index < 512; index++) {
      cells.push(h('div.cell', { role: 'gridcell', tabindex: -1, 'data-index': index, id: `cell-${number}-${index}` }));
    }
    const half = (from, name) => {
      const rows = [];
      for (let row = from; row < from + 256; row += 32) {
        rows.push(h('div.row', { role: 'row' }, h('span.from', { 'aria-hidden': true }, row), cells.slice(row, row + 32), h('span.names', {})));
      }
      return h(`div.half.${name}`, { role: 'rowgroup' }, h('div.about', {}), rows);
    };
    const grid = h('div.grid', { role: 'grid', 'aria-rowcount': 16, 'aria-colcount': 32 }, half(0, 'user'), h('div.hole', {}), half(256, 'kernel'));
    const pane = {
      number,
      element: h('section.pane', {}, h('header', {}), h('div.way', {}), grid, h('div.instead', {})),
      grid,
      cells,
      cursor: -1,
    };
    grid.addEventListener('click', (event) => {
      const cell = event.target.closest('.cell');
      if (!cell) return;
      this.view.active = number;
      this.view.point(Number(cell.dataset.index));
      cell.focus({ preventScroll: true });
      this.enter();
    });
    grid.addEventListener('pointerover', (event) => {
      const cell = event.pointerType === 'mouse' ? event.target.closest('.cell') : null;
      this.view.peekAt(cell ? Number(cell.dataset.index) : null);
    });
    grid.addEventListener('pointerleave', () => this.view.peekAt(null));
    grid.addEventListener('keydown', (event) => this.key(event, pane));
    grid.addEventListener('focusin', (event) => {
      if (event.target.closest('.cell')) this.view.activate(number);
    });
    return pane;
  }

  enter() {
    if (this.view.enter()) this.focus();
  }

  /** Puts the keyboard's focus where the view is. */
  focus() {
    const pane = this.panes[this.view.active];
    const target = pane.grid.hidden ? pane.element.querySelector('.instead [tabindex]') : pane.cells[this.view.cursor];
    target?.focus({ preventScroll: true });
  }

  key(event, pane) {
    if (!event.target.closest('.cell') || event.ctrlKey || event.metaKey || event.altKey) return;
    const columns = Number(getComputedStyle(pane.grid).getPropertyValue('--columns')) || 32;
    const { cursor } = this.view;
    const row = cursor - (cursor % columns);
    const moves = {
      ArrowRight: cursor + 1,
      ArrowLeft: cursor - 1,
      ArrowDown: cursor + columns,
      ArrowUp: cursor - columns,
      Home: row,
      End: row + columns - 1,
      PageUp: this.nextPresent(pane, -1),
      PageDown: this.nextPresent(pane, 1),
    };
    const next = moves[event.key];
    if (next !== undefined) {
      event.preventDefault();
      if (next >= 0 && next < 512) {
        this.view.point(next);
        pane.cells[next].focus({ preventScroll: true });
      }
    } else if (event.key === 'Enter' || event.key === ' ') {
      event.preventDefault();
      this.enter();
    }
  }

  /** The next entry that is not absent. */
  nextPresent(pane, step) {
    const states = this.sharing.states(this.guest.spaces[this.view.panes[pane.number]], this.view.path);
    for (let index = this.view.cursor + step; index >= 0 && index < 512; index += step) {
      if (states?.[index] !== ABSENT) return index;
    }
    return this.view.cursor;
  }

  update() {
    const two = this.view.panes.length === 2;
    this.place.classList.toggle('two', two);
    this.panes[1].element.hidden = !two;
    const changed = this.changedHere();
    for (const pane of this.panes.slice(0, this.view.panes.length)) this.updatePane(pane, two, changed);
  }

  /** Indices that this event wrote, by the frame of their table. */
  changedHere() {
    const changed = new Map();
    for (const { table, index } of changesOf(this.guest).entries) changed.set(table, (changed.get(table) ?? new Set()).add(index));
    return changed;
  }

  updatePane(pane, two, changed) {
    const { view, guest } = this;
    const space = guest.spaces[view.panes[pane.number]];
    const active = pane.number === view.active;
    pane.element.classList.toggle('active', active && two);
    const [header, way, , instead] = pane.element.children;
    header.replaceChildren(...this.heading(space, pane.number, two));
    const live = guest.isLive(space);
    const here = live ? guest.descend(space, view.path) : null;
    way.replaceChildren(...(live ? [walkCards(view, this.sharing, space, pane.number)] : []));
    const table = here?.table;
    pane.grid.hidden = table === undefined;
    instead.hidden = !pane.grid.hidden;
    if (pane.grid.hidden) {
      instead.replaceChildren(this.instead(space, live, here));
      return;
    }
    const level = here.level;
    set(pane.grid, 'aria-label', `${level.name} of ${space.name}, at ${hexFrame(table)}: 512 entries of ${level.span}`);
    pane.grid.classList.toggle('root', view.path.length === 0);
    const states = this.sharing.states(space, view.path);
    const written = changed.get(table);
    const broken = this.findings.cellsNow(space, view.path);
    const lit = view.typed !== null ? indexOf(view.typed, level) : view.cursor;
    for (let index = 0; index < 512; index++) {
      const cell = pane.cells[index];
      const state = STATES[states[index]];
      const wrong = broken.has(index);
      let name = `cell ${state.class}`;
      if (wrong) name += ' broken';
      if (written?.has(index)) name += ' written';
      if (index === lit) name += ' lit';
      if (index === view.cursor && active) name += ' cursor';
      if (cell.className !== name) cell.className = name;
      const letter = wrong ? '!' : state.letter;
      if (cell.textContent !== letter) cell.textContent = letter;
      const label = `${level.name}[${index}], ${state.word}${wrong ? ', a finding' : ''}${written?.has(index) ? ', written now' : ''}`;
      if (cell.dataset.label !== label) {
        cell.dataset.label = label;
        cell.setAttribute('aria-label', label);
      }
    }
    const tab = active ? view.cursor : lit;
    if (pane.cursor !== tab) {
      if (pane.cursor >= 0) pane.cells[pane.cursor].tabIndex = -1;
      pane.cells[tab].tabIndex = 0;
      pane.cursor = tab;
    }
    this.names(pane, level, states);
  }

  heading(space, number, two) {
    const half = this.guest.isLive(space) ? this.sharing.kernelHalf(space) : null;
    return [
      h('h2', {}, two && h('span.badge', {}, 'AB'[number]), space.name),
      h('code', { title: 'The root: what CR3 points to' }, `CR3 ${space.root}`),
      half && h('span.sum', {}, sentenceOf(half, this.guest.levels[0].name)),
      two && h('button.close', { type: 'button', 'aria-label': `Close ${space.name}`, title: 'Close', onclick: () => this.view.compare(space.id) }, '×'),
    ].filter(Boolean);
  }

  /** What stands in place of a table that is not there. */
  instead(space, live, here) {
    if (!live) {
      const { events } = this.guest.data;
      const born = this.guest.moment < space.from;
      const when = events[born ? space.from : space.until];
      return h('p.gone', { tabindex: 0 }, h('b', {}, `${space.name} ${born ? 'is not born yet' : 'has ended'}.`), ` ${born ? 'It comes with' : 'It ended at'} event ${when.number}.`);
    }
    if (here.leaf) return pageView(this.view, this.sharing, space, here);
    return h('p.gone', { tabindex: 0 }, h('b', {}, 'There is no such table in this address space: '), `${here.end}.`);
  }

  /** Halves, hole and regions, written beside the cells. */
  names(pane, level, states) {
    const { view, guest } = this;
    const root = view.path.length === 0;
    const key = `${view.path} ${guest.mode.depth}`;
    if (pane.key !== key) {
      pane.key = key;
      const [user, hole, kernel] = pane.grid.children;
      const range = (from, to) => `${hexVirtual(addressOf([...view.path, from], guest.mode))} – ${hexVirtual(rangeOf([...view.path, to], guest.mode)[1])}`;
      user.firstChild.replaceChildren(h('b', {}, root ? 'user half' : `entries 0–255`), h('code', {}, range(0, 255)));
      kernel.firstChild.replaceChildren(h('b', {}, root ? 'kernel half' : `entries 256–511`), h('code', {}, range(256, 511)));
      hole.replaceChildren(root ? `no addresses here: bits 63–${virtualBits(guest.mode) - 1} would differ` : '');
      const rows = pane.grid.querySelectorAll('.row');
      for (const [row, element] of rows.entries()) element.lastChild.replaceChildren(...this.namesOfRow(row, pane));
      this.band(pane);
    }
  }

  /** The regions that begin in a row of 32 entries, each once. */
  namesOfRow(row, pane) {
    const { view, guest } = this;
    const found = [];
    for (let index = row * 32; index < row * 32 + 32; index++) {
      const [first, last] = rangeOf([...view.path, index], guest.mode);
      for (const region of guest.regionsIn(first, last)) {
        const begins = region.first >= first || (index === 0 && row === 0);
        if (begins && !(view.path.length === 0 && region.first === 0n)) {
          found.push(h('button.region', { type: 'button', tabindex: -1, title: `${hexVirtual(region.first)} – ${hexVirtual(region.last)}`, onclick: () => { view.active = pane.number; view.point(index); this.focus(); } }, region.name));
        }
      }
    }
    return found;
  }

  /** Marks the cells that lie in named regions, neighbours told apart. */
  band(pane) {
    const { view, guest } = this;
    for (const [index, cell] of pane.cells.entries()) {
      const [first, last] = rangeOf([...view.path, index], guest.mode);
      const regions = guest.regionsIn(first, last);
      set(cell, 'data-band', regions.length ? guest.regions.indexOf(regions[0]) % 2 : null);
      set(cell, 'title', `[${index}] ${hexVirtual(first)}${regions.length ? ` · ${regions.map((region) => region.name).join(', ')}` : ''}`);
    }
  }
}

/** How a kernel half stands, in a few words. */
function sentenceOf(half, top) {
  if (half.unreadable) return 'its root table is outside guest memory';
  if (half.reference) return `kernel half: ${half.same} entries, the reference`;
  if (half.alone) return `kernel half: ${half.same} entries`;
  const parts = [`${half.same} shared`];
  if (half.copies) parts.push(`${half.copies} of its own that map the same`);
  if (half.diverging.length) {
    const names = half.diverging.slice(0, 3).map((index) => `${top}[${index}]`).join(', ');
    parts.push(`${half.diverging.length} diverging: ${names}${half.diverging.length > 3 ? ' …' : ''}`);
  }
  return `kernel half: ${parts.join(', ')}`;
}
