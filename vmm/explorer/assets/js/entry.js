// The entry that is looked at: where it stands, what it says, and who shares what it points to.

class EntryPanel {
  constructor(view, sharing, findings, grid) {
    Object.assign(this, { view, sharing, findings, grid, guest: view.guest });
    this.panel = $('entry');
    view.look(() => this.update());
  }

  update() {
    const parts = this.view.panes.map((id, pane) => this.part(this.guest.spaces[id], pane));
    this.panel.replaceChildren(...parts);
  }

  part(space, pane) {
    const { view, guest } = this;
    const two = view.panes.length === 2;
    const place = view.looked;
    const level = guest.levels[place.length - 1];
    const heading = h('h2', {}, two && h('span.badge', {}, 'AB'[pane]), `${level.name}[${place.at(-1)}]`, two && h('small', {}, space.name));
    const box = (...content) => h('section.about-entry', {}, heading, content);
    if (!guest.isLive(space)) return box(h('p.dim', {}, `${space.name} is not there at this event.`));
    const { steps, table, end } = guest.descend(space, place);
    const step = steps[place.length - 1];
    if (!step) return box(h('p.dim', {}, `No such table: ${end}.`));
    const states = this.sharing.states(space, place.slice(0, -1));
    const state = STATES[states[place.at(-1)]];
    const [first, last] = rangeOf(place, guest.mode);
    const regions = guest.regionsIn(first, last).map((region) => region.name);
    const facts = [];
    const fact = (name, ...value) => facts.push(h('dt', {}, name), h('dd', {}, value));
    fact('translates', h('code', {}, hexVirtual(first)), h('br', {}), h('code', {}, `–${hexVirtual(last)}`), ` ${level.span}${regions.length ? `, ${regions.join(', ')}` : ''}`);
    fact('stands at', h('code', {}, `0x${(BigInt(step.table) * 4096n + BigInt(step.index) * 8n).toString(16)}`), ` in the ${level.name} at `, h('code', {}, hexFrame(step.table)));
    fact('holds', h('code', {}, hexEntry(step.flags, step.frame)));
    if (step.kind === 'absent') fact('means', step.flags || step.frame ? 'not present; software’s own bits' : 'nothing: not present');
    if (step.kind === 'reserved') fact('means', `the CPU faults: ${step.reserved}`);
    if (step.kind === 'page') fact('maps', `a ${level.page} page at `, h('code', {}, hexFrame(step.target)));
    if (step.kind === 'table') fact('points to', `the ${guest.levels[place.length].name} at `, h('code', {}, hexFrame(step.target)), table === undefined && ` (${end})`);
    if (step.kind === 'table') {
      const others = this.sharing.elsewhere(step.target, `${level.name}[${step.index}]`);
      const more = others.length > 6 ? ` and ${others.length - 6} more` : '';
      if (others.length) fact('also from', `${others.slice(0, 6).join(', ')}${more}: the same table at other addresses`);
    }
    if (step.kind === 'page' || step.kind === 'table') {
      fact('flags', flagsOf(step.flags, level).map(([name, meaning]) => h('abbr', { title: meaning }, name)));
      fact('allows so far', h('code', {}, rightsText(step.rights)), ` ${rightsInWords(step.rights)}`);
    }
    const rules = new Set(this.findings.at(space, place).map((finding) => finding.rule));
    const wrong = rules.size ? h('p.wrong', {}, `a rule is broken here: ${[...rules].join(', ')}`) : null;
    const content = [h(`p.state.${state.class}`, {}, h('span.swatch', { 'aria-hidden': true }, state.letter || '·'), this.stateInWords(space, place, states[place.at(-1)], step)), wrong, h('dl', {}, facts)];
    if (step.kind === 'page' || step.kind === 'table') {
      const sharers = this.sharing.sharers(space, place);
      const others = sharers.filter((other) => other !== space);
      const what = step.kind === 'table' ? 'table' : 'page';
      content.push(h('h3', {}, others.length ? `This very ${what} is also in` : `No other address space has this ${what} here`));
      if (others.length) content.push(spaceChips(view, others, 12));
    }
    if (!two && !view.onPage && view.peek === null && (table !== undefined || step.kind === 'page')) {
      content.push(h('button.primary', { type: 'button', onclick: () => this.grid.enter() }, step.kind === 'page' ? 'Look at the page' : `Open the ${guest.levels[place.length].name}`, h('kbd', {}, 'Enter')));
    }
    return box(content);
  }

  stateInWords(space, place, state, step) {
    const reference = place[0] >= 256 ? this.sharing.reference(space, place[0]) : null;
    const like = reference && reference !== space ? reference.name : null;
    if (state === DIVERGING) {
      if (step.kind === 'absent') return `Diverging: absent here, present in ${like ?? 'the others'}`;
      const theirs = like ? this.guest.descend(reference, place).steps[place.length - 1] : null;
      if (!theirs || theirs.kind === 'absent') return `Diverging: absent in ${like ?? 'the others'}`;
      return step.frame === theirs.frame ? `Diverging: other rights than in ${like}` : `Diverging: not what ${like} maps`;
    }
    if (state === PRIVATE) return like ? `Private: a table of its own that maps what ${like} maps` : 'Private: only this address space has it';
    if (state === SHARED) return like ? `Shared: the same as in ${like}` : 'Shared with other address spaces';
    return 'Absent';
  }
}
