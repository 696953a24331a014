// What is looked at: the moment, one or two spaces, a table, an entry. All of it is in the address of the
// page, so that a view can be kept and passed on.

class View {
  constructor(guest) {
    this.guest = guest;
    this.watchers = [];
    this.lookers = [];
    /** The entry under the mouse, while there is one: its facts are shown, nothing else changes. */
    this.peek = null;
    /** Numbers of the spaces that are shown, side by side if there are two. */
    this.panes = [guest.data.opened ?? (guest.live.find((space) => space.reference) ?? guest.live[0])?.id ?? 0];
    /** Which of them has the focus. */
    this.active = 0;
    /** Indices from the root down to the table that is shown … */
    this.path = [];
    /** … and the entry that is looked at there. */
    this.cursor = 0;
    /** The address that was asked for, while it is what is looked at. */
    this.typed = null;
    this.follow = true;
  }

  watch(watcher) {
    this.watchers.push(watcher);
  }

  /** Watches what is looked at, the entry under the mouse first. */
  look(looker) {
    this.lookers.push(looker);
    this.watch(looker);
  }

  peekAt(index) {
    if (this.peek === index) return;
    this.peek = index;
    for (const looker of this.lookers) looker();
  }

  changed() {
    this.peek = null;
    for (const watcher of this.watchers) watcher();
  }

  get space() {
    return this.guest.spaces[this.panes[this.active]];
  }

  /** Indices down to the entry that is looked at, or to the page when that is shown. */
  get place() {
    return this.onPage ? this.path : [...this.path, this.cursor];
  }

  /** The same of the entry whose facts are shown. */
  get looked() {
    return this.peek === null || this.onPage ? this.place : [...this.path, this.peek];
  }

  /** Whether the path ends at a page, so that there is no table to show. */
  get onPage() {
    return this.path.length > 0 && Boolean(this.guest.descend(this.space, this.path).leaf);
  }

  /** The address that is shown cut into its bits. */
  get lookedAddress() {
    return this.peek === null ? this.address : addressOf(this.looked, this.guest.mode);
  }

  /** The address that is looked at. */
  get address() {
    return this.typed ?? addressOf(this.place, this.guest.mode);
  }

  seek(moment) {
    const last = this.guest.data.events.length - 1;
    const wanted = Math.min(Math.max(moment, 0), last);
    if (wanted === this.guest.moment) return;
    this.guest.seek(wanted);
    this.changed();
  }

  /** Shows a space in the active pane. */
  show(space) {
    const other = this.panes[1 - this.active];
    if (this.panes.length === 2 && other === space) this.active = 1 - this.active;
    else this.panes[this.active] = space;
    this.changed();
  }

  /** Puts a space beside the first, or takes it away. */
  compare(space) {
    if (space === this.panes[0] && this.panes.length === 1) return;
    if (this.panes.includes(space) && this.panes.length === 2) {
      this.panes = this.panes.filter((shown) => shown !== space);
      this.active = 0;
    } else {
      this.panes = [this.panes[0], space];
      this.active = 1;
    }
    this.changed();
  }

  activate(pane) {
    if (this.active === pane || pane >= this.panes.length) return;
    this.active = pane;
    this.changed();
  }

  /** Looks at an entry of the table that is shown. */
  point(cursor) {
    this.typed = null;
    this.cursor = cursor;
    this.changed();
  }

  /** Goes to what the entry points to; whether there is something. */
  enter() {
    if (this.onPage) return false;
    const below = this.guest.descend(this.space, this.place);
    if (below.table === undefined && !below.leaf) return false;
    const typed = this.typed;
    this.path = this.place;
    this.cursor = typed === null || this.path.length === this.guest.levels.length ? 0 : indexOf(typed, this.guest.levels[this.path.length]);
    if (below.page && typed === null) this.cursor = below.page.indices[0] ?? 0;
    this.changed();
    return true;
  }

  /** Goes up one table; whether there was one. */
  leave() {
    if (!this.path.length) return false;
    this.cursor = this.path.at(-1);
    this.path = this.path.slice(0, -1);
    this.changed();
    return true;
  }

  /** Shows the table at the end of a path, and an entry there. */
  go(path, cursor) {
    this.path = path;
    this.cursor = cursor;
    this.typed = null;
    this.changed();
  }

  /** Shows where the walk of an address ends. */
  find(va) {
    this.typed = va;
    const { steps } = this.guest.walk(this.space, va);
    const indices = steps.map((step) => indexOf(va, step.level));
    if (!indices.length) indices.push(indexOf(va, this.guest.levels[0]));
    this.path = indices.slice(0, -1);
    this.cursor = indices.at(-1);
    this.changed();
  }

  /** The level of a table on the way that is looked at, keeping the address. */
  climb(depth) {
    const indices = this.typed === null ? this.place : this.guest.levels.map((level) => indexOf(this.typed, level));
    this.path = indices.slice(0, depth);
    this.cursor = indices[depth] ?? 0;
    this.changed();
  }

  /** As the part of the page's address behind `#`. */
  toHash() {
    const parts = [`event=${this.guest.event.number}`, `moment=${this.guest.moment}`, `in=${this.panes.join(',')}`];
    if (this.typed !== null) parts.push(`va=${hexVirtual(this.typed)}`);
    parts.push(`at=${[...this.path, this.cursor].join('.')}`);
    return parts.join('&');
  }

  fromHash(hash) {
    const given = new URLSearchParams(hash.replace(/^#/, ''));
    const numbers = (text, separator) => (text ?? '').split(separator).filter(Boolean).map(Number);
    const moment = Number(given.get('moment') ?? NaN);
    if (Number.isInteger(moment) && this.guest.data.events[moment]) this.guest.seek(moment);
    const panes = numbers(given.get('in'), ',').filter((id) => this.guest.spaces[id]);
    if (panes.length) this.panes = [...new Set(panes)].slice(0, 2);
    this.active = 0;
    const at = numbers(given.get('at'), '.').filter((index) => index >= 0 && index < 512);
    if (at.length && at.length <= this.guest.levels.length + 1) {
      this.path = at.slice(0, -1);
      this.cursor = at.at(-1);
    }
    this.typed = parseAddress(given.get('va') ?? '');
    this.changed();
  }
}
