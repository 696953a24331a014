// The address spaces: a family tree of processes, or groups of roots.

/** Ended processes are shown as long as there are at most so many. */
const MAX_ENDED = 64;

class SpaceList {
  constructor(view, sharing, findings) {
    Object.assign(this, { view, sharing, findings, guest: view.guest });
    this.list = $('spaces');
    this.rows = new Map();
    this.ended = this.guest.spaces.filter((space) => space.until !== Infinity).length <= MAX_ENDED;
    this.build();
    const toggle = $('show-ended');
    toggle.checked = this.ended;
    toggle.closest('label').hidden = this.guest.spaces.every((space) => space.until === Infinity);
    toggle.addEventListener('change', () => {
      this.ended = toggle.checked;
      this.update();
    });
    $('find-space').addEventListener('input', () => this.update());
    this.list.addEventListener('click', (event) => {
      const row = event.target.closest('.space');
      if (!row) return;
      const space = Number(row.dataset.space);
      if (event.shiftKey || event.target.closest('.beside')) this.view.compare(space);
      else this.view.show(space);
    });
    this.list.addEventListener('keydown', (event) => this.key(event));
    view.watch(() => this.update());
  }

  build() {
    const children = new Map();
    for (const space of this.guest.spaces) {
      const parent = space.parent ?? -1;
      if (children.has(parent)) children.get(parent).push(space);
      else children.set(parent, [space]);
    }
    for (const [number, group] of this.guest.data.groups.entries()) {
      const heading = h('div.group', { id: `group-${number}` }, h('h3', {}, group.name), group.note && h('p', {}, group.note));
      const rows = [];
      // A stack, not recursion: a family can be deep.
      const pending = (children.get(-1) ?? []).filter((space) => space.group === number).map((space) => [space, 0]).reverse();
      while (pending.length) {
        const [space, depth] = pending.pop();
        rows.push(this.row(space, depth));
        for (const child of (children.get(space.id) ?? []).toReversed()) pending.push([child, depth + 1]);
      }
      this.list.append(h('div', { role: 'group', 'aria-labelledby': `group-${number}` }, heading, rows));
    }
  }

  row(space, depth) {
    const mark = h('span.mark', {});
    const other = h('button.beside', { type: 'button', tabindex: -1, title: 'Side by side (c)', 'aria-label': `Compare with ${space.name}` });
    const row = h(
      'div.space',
      { role: 'treeitem', 'aria-level': depth + 1, tabindex: -1, 'data-space': space.id },
      h('span.stem', { style: null }),
      h('span.name', {}, space.name),
      space.kind && h('span.kind', {}, space.kind),
      mark,
      other,
    );
    row.style.setProperty('--depth', Math.min(depth, 12));
    this.rows.set(space.id, { row, mark, space });
    return row;
  }

  update() {
    const wanted = $('find-space').value.trim().toLowerCase();
    const actor = this.guest.event.who;
    const broken = this.findings.spacesNow();
    let [shown, living] = [0, 0];
    let [same, others] = [0, 0];
    for (const { row, mark, space } of this.rows.values()) {
      const live = this.guest.isLive(space);
      const ended = !live && this.guest.moment >= space.until;
      const hidden = (!live && !(ended && this.ended)) || (wanted !== '' && !`${space.name} ${space.kind ?? ''} ${space.root}`.toLowerCase().includes(wanted));
      if (row.hidden !== hidden) row.hidden = hidden;
      if (live) living++;
      if (hidden) continue;
      shown++;
      const pane = this.view.panes.indexOf(space.id);
      set(row, 'aria-selected', pane >= 0);
      set(row, 'tabindex', pane === this.view.active ? 0 : -1);
      set(row, 'data-pane', pane >= 0 && this.view.panes.length > 1 ? 'AB'[pane] : null);
      row.classList.toggle('ended', ended);
      row.classList.toggle('acts', space.id === actor);
      const [kind, text, title] = ended ? ['ended', 'ended', `${space.name} has ended`] : this.markOf(space);
      const wrong = live && broken.has(space.id);
      if (live) kind === 'same' ? same++ : others++;
      set(mark, 'data-mark', wrong ? 'broken' : kind);
      if (mark.textContent !== text + (wrong ? ' !' : '')) mark.textContent = text + (wrong ? ' !' : '');
      set(mark, 'title', wrong ? `${title}; a rule is broken here` : title);
      set(row, 'aria-label', `${space.name}${space.kind ? `, ${space.kind}` : ''}: ${mark.title}${space.id === actor ? '; it acts in this event' : ''}`);
    }
    $('spaces-count').textContent = `${living} now`;
    $('no-space').hidden = shown > 0;
  }

  /** How a space's kernel half stands to those it is compared with: a kind, a sign, a sentence. */
  markOf(space) {
    const half = this.sharing.kernelHalf(space);
    if (half.unreadable) return ['diverging', '?', 'its root table is outside guest memory'];
    if (half.reference) return ['reference', 'reference', 'the others are compared with this one'];
    if (half.alone) return ['reference', `${half.same}`, `${half.same} kernel entries; there is nothing to compare it with`];
    if (half.diverging.length) {
      const top = this.guest.levels[0].name;
      const where = half.diverging.length === 1 ? `${top}[${half.diverging[0]}]` : `${half.diverging.length} entries`;
      if (half.lacking === half.diverging.length) return ['diverging', `−${half.lacking}`, `lacks ${where}`];
      return ['diverging', `≠${half.diverging.length}`, `differs at ${where}`];
    }
    if (half.copies) return ['copies', `≈${half.copies}`, `tables of its own at ${half.copies} kernel entries, which map the same`];
    return ['same', `=${half.same}`, `the same ${half.same} kernel entries, the same tables`];
  }

  key(event) {
    const row = event.target.closest('.space');
    if (!row) return;
    const rows = [...this.rows.values()].filter(({ row }) => !row.hidden).map(({ row }) => row);
    const at = rows.indexOf(row);
    const next = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1 }[event.key];
    if (next !== undefined) {
      event.preventDefault();
      rows[Math.min(Math.max(next, 0), rows.length - 1)].focus();
    } else if (event.key === 'Enter' || event.key === ' ') {
      event.preventDefault();
      this.view.show(Number(row.dataset.space));
    } else if (event.key === 'c') {
      event.preventDefault();
      event.stopPropagation();
      this.view.compare(Number(row.dataset.space));
    }
  }
}
