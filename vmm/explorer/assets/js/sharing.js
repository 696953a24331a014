// Who shares what: every entry of a space as shared, private, absent or diverging.

const ABSENT = 0;
const SHARED = 1;
const PRIVATE = 2;
const DIVERGING = 3;

/** How a state is shown: a class of the style sheet, a letter, and a word. */
const STATES = [
  { class: 'absent', letter: '', word: 'absent' },
  { class: 'shared', letter: 'S', word: 'shared' },
  { class: 'private', letter: 'P', word: 'private' },
  { class: 'diverging', letter: 'D', word: 'diverging' },
];

class Sharing {
  constructor(guest) {
    this.guest = guest;
    /** Numbers for contents of PTs, which mean the same at every moment. */
    this.known = new Map();
    this.ofPage = new Map();
    /** Kernel halves by the pages of the root and of its reference, where nothing else decided. */
    this.halves = new Map();
  }

  /** The table at the end of a path in each living space: frame → spaces. */
  tablesAt(path) {
    return this.guest.once(`tables ${path}`, () => {
      const tables = new Map();
      for (const space of this.guest.live) {
        const frame = this.tableOf(space, path);
        if (frame === null) continue;
        const sharers = tables.get(frame);
        if (sharers) sharers.push(space);
        else tables.set(frame, [space]);
      }
      return tables;
    });
  }

  /** The frame of the table at the end of a path, or null. */
  tableOf(space, path) {
    let frame = space.frame;
    for (let at = 0; at < path.length; at++) {
      const page = this.guest.page(frame);
      const found = page ? page.find(path[at]) : -1;
      if (found < 0) return null;
      const next = decode(page.flags[found], page.frames[found], this.guest.levels[at], this.guest.mode);
      if (next.kind !== 'table') return null;
      frame = next.frame;
    }
    return this.guest.page(frame) ? frame : null;
  }

  /** The living spaces that are compared with each other. */
  peers(number) {
    return this.guest.once(`peers ${number}`, () => (number === undefined ? [] : this.guest.live.filter((space) => space.set === number)));
  }

  /** With whom a space's kernel half is compared below entry `index` of the root: the set's reference,
      or one of those that have what most have there. Null where there is nobody else. */
  reference(space, index) {
    return this.guest.once(`reference ${space.set} ${index}`, () => {
      const peers = this.peers(space.set);
      const named = peers.find((other) => other.reference);
      if (named || peers.length < 2) return named ?? null;
      const votes = new Map();
      for (const other of peers) {
        const key = this.entryKey(other.frame, index);
        const vote = votes.get(key) ?? { count: 0, first: other };
        vote.count++;
        votes.set(key, vote);
      }
      return [...votes.values()].reduce((most, vote) => (vote.count > most.count ? vote : most)).first;
    });
  }

  /** What software wrote to an entry, as something to compare. */
  entryKey(table, index) {
    const page = this.guest.page(table);
    const at = page ? page.find(index) : -1;
    return at < 0 || !(page.flags[at] & PRESENT) ? '' : `${page.frames[at]} ${page.flags[at] & ~BY_CPU}`;
  }

  /** The state of each of the 512 entries of the table at the end of a path; null where there is none. */
  states(space, path) {
    return this.guest.once(`states ${space.id} ${path}`, () => {
      const mine = this.tableOf(space, path);
      if (mine === null) return null;
      const states = new Uint8Array(512);
      const page = this.guest.page(mine);
      const tables = this.tablesAt(path);
      const alone = tables.get(mine).length < 2;
      const shared = new Uint8Array(512);
      if (!alone) shared.fill(1);
      else {
        for (const other of tables.keys()) if (other !== mine) markCommon(page, this.guest.page(other), shared);
      }
      for (let at = 0; at < page.indices.length; at++) {
        if (page.flags[at] & PRESENT) states[page.indices[at]] = shared[page.indices[at]] ? SHARED : PRIVATE;
      }
      if (path.length === 0) this.compareHalves(space, page, states);
      else if (path[0] >= 256) this.compare(space, this.reference(space, path[0]), path, page, states, 0);
      return states;
    });
  }

  compareHalves(space, page, states) {
    const peers = this.peers(space.set);
    const named = peers.find((other) => other.reference);
    if (named) return this.compare(space, named, [], page, states, 256);
    if (peers.length < 2) return;
    const present = new Set();
    for (const frame of new Set(peers.map((other) => other.frame))) {
      const other = this.guest.page(frame);
      if (other) for (const index of other.indices) if (index >= 256) present.add(index);
    }
    for (const index of present) this.compareEntry(this.reference(space, index), [], page, states, index);
  }

  /** Marks where a kernel half is not that of the reference. */
  compare(space, reference, path, page, states, from) {
    if (!reference || reference === space) return;
    const theirs = this.tableOf(reference, path);
    const other = theirs === null ? null : this.guest.page(theirs);
    if (other === page) return;
    const indices = new Set(page.indices);
    if (other) for (const index of other.indices) indices.add(index);
    for (const index of indices) if (index >= from) this.compareEntry(reference, path, page, states, index);
  }

  compareEntry(reference, path, page, states, index) {
    const theirs = reference ? this.tableOf(reference, path) : null;
    const wanted = theirs === null ? NOTHING : entryAt(this.guest.page(theirs), index);
    const verdict = this.verdict(entryAt(page, index), wanted, this.guest.levels[path.length]);
    if (verdict === PRIVATE || verdict === DIVERGING) states[index] = verdict;
  }

  /** How an entry stands to the one that it is compared with: the very same, a copy that maps the
      same, or diverging; absent if neither is there. */
  verdict(mine, wanted, level) {
    const [has, should] = [mine.flags & PRESENT, wanted.flags & PRESENT];
    if (!has && !should) return ABSENT;
    if (!has || !should) return DIVERGING;
    const same = mine.frame === wanted.frame;
    if (same && !((mine.flags ^ wanted.flags) & ~BY_CPU)) return SHARED;
    if (this.meaning(mine, level, ALL_RIGHTS) !== this.meaning(wanted, level, ALL_RIGHTS)) return DIVERGING;
    return same ? SHARED : PRIVATE;
  }

  /** A number for all that is mapped below an entry that is reached with some rights: equal where every
      address is translated to the same byte with the same rights, in pages of whatever size. */
  meaning({ flags, frame }, level, above) {
    const decoded = decode(flags, frame, level, this.guest.mode);
    if (decoded.kind === 'absent') return 0;
    if (decoded.kind === 'reserved') return this.number(`reserved ${flags & ~BY_CPU} ${frame}`);
    const rights = through(above, flags);
    if (decoded.kind === 'page') return this.number(pageName(level, rights, decoded.frame));
    return this.meaningOfTable(decoded.frame, this.guest.levels[this.guest.levels.indexOf(level) + 1], rights);
  }

  meaningOfTable(frame, level, rights) {
    const content = this.guest.tables.content(frame);
    const page = this.guest.tables.page(content);
    if (!page) return this.number(`no table ${frame}`);
    const find = () => this.meaningOfPage(page, level, rights);
    if (level !== PT) return this.guest.once(`meaning ${frame} ${level.name} ${rightsText(rights)}`, find);
    // A PT means the same at every moment.
    const key = `${content} ${rightsText(rights)}`;
    let number = this.ofPage.get(key);
    if (number === undefined) this.ofPage.set(key, (number = find()));
    return number;
  }

  meaningOfPage(page, level, rights) {
    const parts = [];
    const whole = { count: 0, first: 0, rights: null };
    for (let at = 0; at < page.indices.length; at++) {
      const entry = { flags: page.flags[at], frame: page.frames[at] };
      const number = this.meaning(entry, level, rights);
      if (number === 0) continue;
      parts.push(`${page.indices[at]}:${number}`);
      const part = level.page && decode(entry.flags, entry.frame, level, this.guest.mode);
      if (part?.kind !== 'page') continue;
      const allowed = rightsText(through(rights, entry.flags));
      if (whole.count === 0) Object.assign(whole, { first: part.frame, rights: allowed });
      if (part.frame === whole.first + whole.count * level.frames && allowed === whole.rights) whole.count++;
    }
    // Nothing but absent entries is as good as no table.
    if (!parts.length) return 0;
    const next = this.guest.levels[this.guest.levels.indexOf(level) - 1];
    // 512 pages in a row are as good as a large one.
    if (whole.count === 512 && next.page && whole.first % next.frames === 0) return this.number(`page ${next.name} ${whole.rights} ${whole.first}`);
    return this.number(`${level.name} ${parts.join(' ')}`);
  }

  number(text) {
    let number = this.known.get(text);
    if (number === undefined) this.known.set(text, (number = this.known.size + 1));
    return number;
  }

  /** The living spaces in which the entry at the end of a path leads to the same frame. */
  sharers(space, path) {
    const above = path.slice(0, -1);
    const index = path.at(-1);
    const mine = this.tableOf(space, above);
    if (mine === null) return [];
    const wanted = entryAt(this.guest.page(mine), index);
    if (!(wanted.flags & PRESENT)) return [];
    const found = [];
    for (const [frame, spaces] of this.tablesAt(above)) {
      const entry = frame === mine ? wanted : entryAt(this.guest.page(frame), index);
      if (entry.flags & PRESENT && entry.frame === wanted.frame) found.push(...spaces);
    }
    return found.sort((a, b) => a.id - b.id);
  }

  /** From where entries point to tables, in all living spaces: frame → place (`PDPT[3]`) → how many. */
  pointers() {
    return this.guest.once('pointers', () => {
      const { guest } = this;
      const found = new Map();
      const seen = new Set();
      const pending = guest.live.map((space) => [space.frame, 0]);
      while (pending.length) {
        const [frame, depth] = pending.pop();
        const level = guest.levels[depth];
        const page = level === PT ? null : guest.page(frame);
        const key = frame * 8 + depth;
        if (!page || seen.has(key)) continue;
        seen.add(key);
        for (let at = 0; at < page.indices.length; at++) {
          const next = decode(page.flags[at], page.frames[at], level, guest.mode);
          if (next.kind !== 'table') continue;
          const place = `${level.name}[${page.indices[at]}]`;
          const places = found.get(next.frame) ?? new Map();
          places.set(place, (places.get(place) ?? 0) + 1);
          found.set(next.frame, places);
          pending.push([next.frame, depth + 1]);
        }
      }
      return found;
    });
  }

  /** Other places from which entries point to a table: none for one that is shared as it should be. */
  elsewhere(frame, place) {
    return [...(this.pointers().get(frame)?.keys() ?? [])].filter((other) => other !== place);
  }

  /** How a space's kernel half stands to its reference: how many entries are the same, are copies, are
      missing, or differ. */
  kernelHalf(space) {
    return this.guest.once(`half ${space.id}`, () => {
      const { tables } = this.guest;
      const page = this.guest.page(space.frame);
      if (!page) return { unreadable: true };
      const peers = this.peers(space.set);
      const named = peers.find((other) => other.reference);
      const key = named && named !== space ? `${tables.content(space.frame)} ${tables.content(named.frame)}` : null;
      const known = this.halves.get(key);
      if (known) return known;
      const half = { same: 0, copies: 0, lacking: 0, diverging: [], reference: named === space, alone: peers.length < 2 };
      let byTablesBelow = false;
      const indices = new Set(page.indices);
      for (const other of named ? [named] : peers) for (const index of this.guest.page(other.frame)?.indices ?? []) indices.add(index);
      for (const index of indices) {
        if (index < 256) continue;
        const mine = entryAt(page, index);
        const wanted = this.wanted(space, index);
        const verdict = wanted ? this.verdict(mine, wanted, this.guest.levels[0]) : mine.flags & PRESENT ? SHARED : ABSENT;
        if (verdict === SHARED) {
          half.same++;
          if (wanted && (mine.flags ^ wanted.flags) & ~BY_CPU) byTablesBelow = true;
        } else if (verdict === PRIVATE) {
          half.copies++;
        } else if (verdict === DIVERGING) {
          half.diverging.push(index);
          if (!(mine.flags & PRESENT)) half.lacking++;
        }
      }
      half.diverging.sort((a, b) => a - b);
      if (key && !byTablesBelow && half.copies === 0 && half.lacking === half.diverging.length) this.halves.set(key, half);
      return half;
    });
  }

  /** The root's entry that a space is compared with; null where there is nobody to compare with. */
  wanted(space, index) {
    const reference = this.reference(space, index);
    const page = reference ? this.guest.page(reference.frame) : null;
    return page ? entryAt(page, index) : null;
  }
}

function pageName(level, rights, frame) {
  return `page ${level.name} ${rightsText(rights)} ${frame}`;
}

const NOTHING = { flags: 0, frame: 0 };

function entryAt(page, index) {
  const at = page.find(index);
  return at < 0 ? NOTHING : { flags: page.flags[at], frame: page.frames[at] };
}

/** Marks the entries that lead to the same frame in both pages. */
function markCommon(page, other, marks) {
  let at = 0;
  for (let theirs = 0; theirs < other.indices.length; theirs++) {
    const index = other.indices[theirs];
    while (at < page.indices.length && page.indices[at] < index) at++;
    if (at === page.indices.length) return;
    const both = page.indices[at] === index && page.frames[at] === other.frames[theirs];
    if (both && page.flags[at] & other.flags[theirs] & PRESENT) marks[index] = 1;
  }
}
