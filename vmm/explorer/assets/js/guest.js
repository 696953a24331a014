// The guest at one moment: who is there, and what a walk finds.

class Guest {
  constructor(data, tables) {
    this.data = data;
    this.tables = tables;
    this.spaces = data.spaces.map((space, id) => ({
      ...space,
      id,
      frame: Number(BigInt(space.root) >> 12n),
      until: space.until ?? Infinity,
    }));
    this.regions = data.regions.map((region) => ({
      name: region.name,
      first: BigInt(region.first),
      last: BigInt(region.last),
    }));
    this.seek(data.start);
  }

  /** Moves to a moment; what was remembered of another one is forgotten. */
  seek(moment) {
    this.moment = moment;
    this.tables.seek(moment);
    this.mode = this.data.modes.findLast((mode) => mode.from <= moment);
    this.levels = levelsOf(this.mode);
    this.live = this.spaces.filter((space) => this.isLive(space));
    this.memo = new Map();
  }

  isLive(space) {
    return space.from <= this.moment && this.moment < space.until;
  }

  get event() {
    return this.data.events[this.moment];
  }

  /** The table in a frame, or null. */
  page(frame) {
    return this.tables.page(this.tables.content(frame));
  }

  /** A thing that is costly to find out and stays so for this moment. */
  once(key, find) {
    let found = this.memo.get(key);
    if (found === undefined) this.memo.set(key, (found = find()));
    return found;
  }

  /** Follows indices from a space's root: the entries read, and the table that the last one leads to,
      or why there is none. Rights are those of all entries together. */
  descend(space, path) {
    const steps = [];
    let table = space.frame;
    let rights = ALL_RIGHTS;
    for (let at = 0; ; at++) {
      const level = this.levels[at];
      const page = this.page(table);
      if (!page) return { steps, end: this.whyNoTable(table, level) };
      if (at === path.length) return { steps, table, page, level, rights };
      const step = this.step(table, page, level, path[at], rights);
      rights = step.rights;
      steps.push(step);
      if (step.kind !== 'table') return { steps, end: endOf(step), leaf: step.kind === 'page' ? step : null };
      table = step.target;
    }
  }

  /** One entry, decoded. */
  step(table, page, level, index, rights) {
    const at = page.find(index);
    const flags = at < 0 ? 0 : page.flags[at];
    const frame = at < 0 ? 0 : page.frames[at];
    const { kind, frame: target, reserved } = decode(flags, frame, level, this.mode);
    return { level, table, index, flags, frame, kind, target, reserved, rights: through(rights, flags) };
  }

  whyNoTable(frame, level) {
    return this.tables.content(frame) === MISSING
      ? `the ${level.name} would be at ${hexFrame(frame)}, which is outside guest memory`
      : `the ${level.name} at ${hexFrame(frame)} was not captured`;
  }

  isCanonical(va) {
    return signExtended(va, this.mode) === va;
  }

  /** Translates an address: the entries read, and the page or the reason why there is none. */
  walk(space, va) {
    if (!this.isCanonical(va)) {
      const bits = virtualBits(this.mode);
      return { steps: [], end: `not canonical: bits 63–${bits - 1} are not all equal, so the CPU raises #GP before it looks at any table` };
    }
    return this.descend(space, this.levels.map((level) => indexOf(va, level)));
  }

  /** The names of the regions that a range has a part of. */
  regionsIn(first, last) {
    return this.regions.filter((region) => region.first <= last && first <= region.last);
  }
}

/** Why a walk ends at an entry that points to no table. */
function endOf({ kind, level, reserved }) {
  if (kind === 'page') return `a ${level.page} page`;
  if (kind === 'reserved') return `reserved bits set in the ${level.name} entry: ${reserved}`;
  return `not present in the ${level.name}`;
}
