// What an event changed: entries written, tables made and freed, and where they stand.

/** Entries that are looked for; an event that changes more is told in numbers only. */
const MAX_CHANGES = 400;

/** What changed between the moment before this one and this one. */
function changesOf(guest) {
  return guest.once('changes', () => {
    const { frames, before, after } = guest.tables.changes[guest.moment];
    const found = { entries: [], made: 0, freed: 0, written: 0 };
    if (guest.moment === 0) return found;
    const places = new Map();
    const note = (table, written) => {
      if (!written.length || found.entries.length >= MAX_CHANGES) return;
      places.set(table, null);
      for (const entry of written) found.entries.push({ table, ...entry });
    };
    for (let change = 0; change < frames.length; change++) {
      const [old, now] = [guest.tables.page(before[change]), guest.tables.page(after[change])];
      if (old && now) {
        const written = differences(old, now);
        found.written += written.length;
        note(frames[change], written);
      } else if (now) {
        found.made++;
        // What a new table holds is told as far as the event is about it.
        if (guest.event.range) note(frames[change], differences(NO_ENTRIES, now).map((entry) => ({ ...entry, made: true })));
      } else if (old) {
        found.freed++;
      }
    }
    locate(guest, places);
    found.entries = found.entries
      .filter((entry) => places.get(entry.table))
      .map((entry) => ({ ...entry, ...places.get(entry.table) }))
      .filter((entry) => !entry.made || isAbout(guest, entry));
    found.written += found.entries.filter((entry) => entry.made).length;
    // Kernel tables first, and those that are nearest to the root.
    found.entries.sort((a, b) => inKernel(b) - inKernel(a) || a.path.length - b.path.length || a.space.id - b.space.id);
    return found;
  });
}

const NO_ENTRIES = new Page(new Uint16Array(), new Uint32Array(), new Float64Array());

/** Whether an entry translates an address that the present event is about. */
function isAbout(guest, { path, index }) {
  const [first, last] = rangeOf([...path, index], guest.mode);
  const { range } = guest.event;
  return first <= BigInt(range.last) && BigInt(range.first) <= last;
}

function inKernel({ path, index }) {
  return Number((path[0] ?? index) >= 256);
}

/** The entries in which two pages differ in what software wrote. */
function differences(old, now) {
  const found = [];
  const indices = new Set([...old.indices, ...now.indices]);
  for (const index of indices) {
    const [was, is] = [entryAt(old, index), entryAt(now, index)];
    if (was.frame !== is.frame || (was.flags ^ is.flags) & ~BY_CPU) found.push({ index, was, is });
  }
  return found.sort((a, b) => a.index - b.index);
}

/** Fills in where tables stand: a space that has the table, and the path to it. */
function locate(guest, places) {
  let missing = places.size;
  const seen = new Set();
  const visit = (space, frame, path) => {
    const key = frame * 8 + path.length;
    if (seen.has(key)) return;
    seen.add(key);
    if (places.has(frame) && places.get(frame) === null) {
      places.set(frame, { space, path });
      missing--;
    }
    const level = guest.levels[path.length];
    const page = level === PT ? null : guest.page(frame);
    if (!page) return;
    for (let at = 0; at < page.indices.length && missing > 0; at++) {
      const next = decode(page.flags[at], page.frames[at], level, guest.mode);
      if (next.kind === 'table') visit(space, next.frame, [...path, page.indices[at]]);
    }
  };
  for (const space of guest.live) if (missing > 0) visit(space, space.frame, []);
}
