// What happened: a track of all events, the present one in words, and what it changed.

/** The track's rows: which events they show, and by what sign. */
const LANES = [
  { name: 'processes', signs: { boot: '●', created: '▲', executed: '△', exited: '▼', killed: '✕', crash: '✕', done: '●', found: '●' } },
  { name: 'kernel memory', signs: { mapped: '■', protected: '◧', unmapped: '□' } },
  { name: 'access', signs: { read: '○', written: '◉', refused: '✕', faulted: '◇', checkpoint: '·' } },
];

const STEP_MILLISECONDS = 900;

class Timeline {
  constructor(view, sharing, findings, grid) {
    Object.assign(this, { view, sharing, findings, grid, guest: view.guest });
    this.events = this.guest.data.events;
    this.slider = $('moment');
    this.slider.max = this.events.length - 1;
    this.slider.addEventListener('input', () => this.seek(Number(this.slider.value)));
    this.timer = null;
    $('first').addEventListener('click', () => this.seek(0));
    $('back').addEventListener('click', () => this.step(-1));
    $('play').addEventListener('click', () => this.play());
    $('forward').addEventListener('click', () => this.step(1));
    $('last').addEventListener('click', () => this.seek(this.events.length - 1));
    const follow = $('follow');
    follow.checked = view.follow;
    follow.addEventListener('change', () => (view.follow = follow.checked));
    $('timeline').hidden = this.events.length < 2;
    this.track = $('track');
    this.track.addEventListener('click', (event) => this.pick(event));
    this.drawn = null;
    new ResizeObserver(() => this.update()).observe(this.track);
    view.watch(() => this.update());
  }

  step(by) {
    this.seek(this.guest.moment + by);
  }

  /** Goes to a moment; following the event, it shows where it happened. */
  seek(moment) {
    const wanted = Math.min(Math.max(moment, 0), this.events.length - 1);
    if (wanted === this.guest.moment) return;
    if (!this.view.follow) return this.view.seek(wanted);
    this.guest.seek(wanted);
    this.followEvent();
    this.view.changed();
  }

  /** Turns to the one who acts, and to the root's entry that it is about. */
  followEvent() {
    const { view, guest } = this;
    const { who, range } = guest.event;
    const space = who === undefined ? null : guest.spaces[who];
    if (space && guest.isLive(space) && !view.panes.includes(space.id)) {
      // Of two panes the second turns; the first is what it is compared with.
      if (view.panes.length === 2) view.panes[1] = space.id;
      else view.panes[0] = space.id;
    }
    if (space && view.panes.includes(space.id)) view.active = view.panes.indexOf(space.id);
    if (range) {
      view.typed = BigInt(range.first);
      view.path = [];
      view.cursor = indexOf(view.typed, guest.levels[0]);
    }
  }

  play() {
    if (this.timer !== null) return this.pause();
    if (this.guest.moment === this.events.length - 1) this.seek(0);
    $('play').setAttribute('aria-pressed', 'true');
    $('play').textContent = '❚❚';
    this.timer = setInterval(() => {
      this.step(1);
      if (this.guest.moment === this.events.length - 1) this.pause();
    }, STEP_MILLISECONDS);
  }

  pause() {
    clearInterval(this.timer);
    this.timer = null;
    $('play').setAttribute('aria-pressed', 'false');
    $('play').textContent = '▶';
  }

  /** The moments that the track shows: all, or a window around the present one. */
  window() {
    const room = Math.max(Math.floor(this.track.clientWidth / 14), 12);
    const all = this.events.length;
    if (all <= room) return [0, all];
    const from = Math.min(Math.max(this.guest.moment - (room >> 1), 0), all - room);
    return [from, from + room];
  }

  pick(event) {
    const [from, until] = this.window();
    const box = this.track.getBoundingClientRect();
    this.seek(from + Math.floor(((event.clientX - box.left) / box.width) * (until - from)));
  }

  update() {
    if (this.events.length < 2) return;
    this.slider.value = this.guest.moment;
    const { event } = this.guest;
    this.slider.setAttribute('aria-valuetext', `event ${event.number}: ${event.text}`);
    this.draw();
    this.tell();
  }

  draw() {
    const [from, until] = this.window();
    const width = this.track.clientWidth || 600;
    const step = width / (until - from);
    const key = `${from} ${until} ${width}`;
    if (this.drawn !== key) {
      this.drawn = key;
      const signs = [];
      for (let moment = from; moment < until; moment++) {
        const { sign } = this.events[moment];
        const lane = LANES.findIndex((lane) => lane.signs[sign]);
        if (lane >= 0) signs.push(svg(`text.sign.${sign}`, { x: (moment - from + 0.5) * step, y: 13 + lane * 17 }, LANES[lane].signs[sign]));
        if (this.brokenFrom(moment)) signs.push(svg('path.wrong', { d: `M${(moment - from + 0.5) * step - 4} 54h8l-4 -7z` }));
      }
      const lines = LANES.map((_, lane) => svg('line', { x1: 0, x2: width, y1: 8.5 + lane * 17, y2: 8.5 + lane * 17 }));
      this.now = svg('rect.now', { y: 0, height: 56, width: Math.max(step, 3), rx: 3 });
      this.track.setAttribute('viewBox', `0 0 ${width} 56`);
      this.track.replaceChildren(...lines, this.now, ...signs);
    }
    this.now.setAttribute('x', (this.guest.moment - from + 0.5) * step - Math.max(step, 3) / 2);
  }

  /** Whether something is wrong for the first time at a moment. */
  brokenFrom(moment) {
    this.firsts ??= new Set(this.findings.all.map((finding) => finding.moments[0][0]));
    return this.firsts.has(moment);
  }

  /** The present event in words. */
  tell() {
    const { event } = this.guest;
    $('event-number').textContent = `event ${event.number}`;
    $('event-count').textContent = `of ${this.events.at(-1).number}`;
    $('event-text').replaceChildren(event.text, ...this.outcome(event));
    const { entries, made, freed, written } = changesOf(this.guest);
    const rows = entries.slice(0, 6).map((entry) => this.change(entry));
    const rest = written - rows.length;
    const sums = [rest > 0 && count(rest, 'more entry', 'more entries'), made && `${count(made, 'table')} made`, freed && `${count(freed, 'table')} freed`].filter(Boolean);
    if (!rows.length && !sums.length) sums.push('No entry was written.');
    $('changes').replaceChildren(...rows, ...(sums.length ? [h('li.sum', {}, sums.join(' · '))] : []));
  }

  /** What the CPU did, and what the tables say to it. */
  outcome(event) {
    const parts = [];
    if (event.value !== undefined) parts.push(': ', h('code.value', {}, event.value));
    if (event.fault !== undefined) parts.push(': page fault, error code ', h('code', {}, event.fault));
    const space = event.who === undefined ? null : this.guest.spaces[event.who];
    if (event.range && space && this.guest.isLive(space)) {
      const { leaf, end } = this.guest.walk(space, BigInt(event.range.first));
      parts.push(h('span.tables', {}, ` By its tables there: ${leaf ? `page at ${hexFrame(leaf.target)}, ${rightsText(leaf.rights)}` : end}.`));
    }
    return parts;
  }

  change({ space, path, table, index, was, is }) {
    const { guest, view } = this;
    const level = guest.levels[path.length];
    const sharers = this.sharing.tablesAt(path).get(table) ?? [];
    const whose = sharers.length > 1 ? `${sharers.length} spaces` : space.name;
    const say = ({ flags, frame }) => {
      const { kind, frame: target } = decode(flags, frame, level, guest.mode);
      if (kind === 'absent') return 'absent';
      if (kind === 'reserved') return 'reserved bits';
      return `${kind === 'table' ? 'table' : 'page'} ${hexFrame(target)} ${rightsText(through(ALL_RIGHTS, flags))}`;
    };
    return h(
      'li',
      {},
      h(
        'button.change',
        {
          type: 'button',
          onclick: () => {
            if (!sharers.includes(view.space)) view.panes[view.active] = space.id;
            view.go(path, index);
            this.grid.focus();
          },
        },
        h('b', {}, `${level.name}[${index}]`),
        h('span.whose', {}, whose),
        h('span.was', {}, say(was)),
        h('span', { 'aria-label': 'becomes' }, '→'),
        h('span.is', {}, say(is)),
      ),
    );
  }
}
