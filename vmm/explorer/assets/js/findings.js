// What is wrong, as the rules found it; the page itself judges nothing.

class Findings {
  constructor(guest) {
    this.guest = guest;
    this.all = guest.data.findings.map((finding, id) => ({ ...finding, id, va: finding.address ? BigInt(finding.address) : null }));
  }

  isNow(finding) {
    return finding.moments.some(([from, until]) => from <= this.guest.moment && this.guest.moment < until);
  }

  now() {
    return this.guest.once('findings', () => this.all.filter((finding) => this.isNow(finding)));
  }

  /** Numbers of the spaces that are wrong at this moment. */
  spacesNow() {
    return new Set(this.now().flatMap((finding) => finding.spaces));
  }

  /** What is wrong at this moment at an entry of a space. */
  at(space, place) {
    const wrong = (finding) =>
      finding.va !== null &&
      finding.spaces.includes(space.id) &&
      place.length - 1 <= this.depth(finding) &&
      place.every((index, at) => indexOf(finding.va, this.guest.levels[at]) === index);
    return this.now().filter(wrong);
  }

  /** How many levels above the entry that a finding is about; the last level where it names none. */
  depth(finding) {
    const named = /^(PML5|PML4|PGD|PDPT|PD|PT)\[/.exec(finding.place)?.[1];
    const depth = this.guest.levels.findIndex((level) => level.name === named);
    return depth < 0 ? this.guest.levels.length - 1 : depth;
  }

  /** Entries of a space's table, at the end of a path, under which something is wrong at this moment. */
  cellsNow(space, path) {
    const cells = new Set();
    for (const { va } of this.now()) {
      if (va === null) continue;
      const index = indexOf(va, this.guest.levels[path.length]);
      if (!cells.has(index) && this.at(space, [...path, index]).length) cells.add(index);
    }
    return cells;
  }
}

class FindingsPanel {
  constructor(view, findings, grid) {
    Object.assign(this, { view, findings, grid, guest: view.guest });
    this.list = $('findings');
    this.items = findings.all.map((finding) => this.item(finding));
    this.list.replaceChildren(...this.items.map(({ element }) => element));
    $('findings-panel').hidden = !findings.all.length;
    $('findings-count').textContent = findings.all.length;
    view.watch(() => this.update());
  }

  item(finding) {
    const [from] = finding.moments[0];
    const { number } = this.guest.data.events[from];
    const element = h(
      'li',
      {},
      h(
        'details',
        {},
        h('summary', {}, h('span.rule', {}, finding.rule), h('span.where', {}, [finding.whose, finding.place, finding.address].filter(Boolean).join(' · '))),
        h('p', {}, finding.statement),
        h('dl', {}, h('dt', {}, 'expected'), h('dd', {}, finding.expected), h('dt', {}, 'found'), h('dd', {}, finding.found)),
        finding.walks.map((walk) => h('pre', {}, walk)),
      ),
      h('button.go', { type: 'button', onclick: () => this.go(finding) }, this.guest.data.events.length > 1 ? `Show at event ${number}` : 'Show'),
    );
    return { element, finding };
  }

  /** Goes to the entry, at the first moment at which the finding was there. */
  go(finding) {
    const { view, guest } = this;
    if (!this.findings.isNow(finding)) guest.seek(finding.moments[0][0]);
    const [space] = finding.spaces;
    if (space !== undefined) {
      const evidence = this.other(finding, guest.spaces[space]);
      view.panes = evidence === null ? [space] : [evidence, space];
      view.active = view.panes.length - 1;
    }
    if (finding.va === null) view.go([], view.cursor);
    else {
      view.find(finding.va);
      if (view.path.length > this.findings.depth(finding)) view.climb(this.findings.depth(finding));
    }
    this.grid.focus();
  }

  /** A space to put beside the wrong one: one whose walk goes further, or the one that it is compared with. */
  other(finding, space) {
    if (finding.va === null) return null;
    const length = (other) => this.guest.walk(other, finding.va).steps.length;
    const mine = length(space);
    const better = this.guest.live.find((other) => other.set === space.set && length(other) > mine);
    const reference = this.guest.live.find((other) => other.set === space.set && other.reference && other !== space);
    return (better ?? reference)?.id ?? null;
  }

  update() {
    for (const { element, finding } of this.items) element.classList.toggle('now', this.findings.isNow(finding));
  }
}
