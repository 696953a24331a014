// Puts the page together, and listens to keys.

/** `light` or `dark`, chosen by hand; else the system decides. */
function theme() {
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const root = document.documentElement;
  const show = () => {
    const now = root.dataset.theme ?? (dark.matches ? 'dark' : 'light');
    const next = now === 'dark' ? 'light' : 'dark';
    set($('theme'), 'aria-label', `Switch to ${next} colours`);
    $('theme').textContent = now === 'dark' ? '☀' : '☾';
    return next;
  };
  $('theme').addEventListener('click', () => {
    root.dataset.theme = show();
    show();
  });
  dark.addEventListener('change', show);
  show();
}

function keys(view, timeline, grid) {
  document.addEventListener('keydown', (event) => {
    const typing = event.target.matches('input:not([type=range]):not([type=checkbox])');
    if (event.key === 'Escape' && typing) {
      event.target.blur();
      grid.focus();
      return;
    }
    if (typing || event.ctrlKey || event.metaKey || event.altKey || $('help').open) return;
    const act = {
      '/': () => $('address').select(),
      '[': () => timeline.step(-1),
      ']': () => timeline.step(1),
      '{': () => timeline.seek(0),
      '}': () => timeline.seek(timeline.events.length - 1),
      p: () => timeline.play(),
      c: () => view.panes.length === 2 && view.compare(view.panes[1]),
      x: () => view.activate(1 - view.active),
      t: () => $('theme').click(),
      '?': () => $('help').showModal(),
      g: () => grid.focus(),
      Escape: () => view.leave() && grid.focus(),
      Backspace: () => view.leave() && grid.focus(),
    }[event.key];
    if (act) {
      event.preventDefault();
      act();
    }
  });
}

function addressBox(view, grid) {
  const box = $('address');
  $('find').addEventListener('submit', (event) => {
    event.preventDefault();
    const va = parseAddress(box.value);
    box.setCustomValidity(va === null ? 'A virtual address in hexadecimal, such as 0xffffc98000000000' : '');
    if (va === null) return box.reportValidity();
    view.find(va);
    grid.focus();
  });
  box.addEventListener('input', () => box.setCustomValidity(''));
  view.watch(() => {
    if (document.activeElement !== box) box.value = hexVirtual(view.address);
  });
}

function verdict(data) {
  const badge = $('verdict');
  badge.hidden = data.holds === null;
  badge.textContent = data.holds ? 'holds' : 'broken';
  badge.dataset.holds = data.holds;
  badge.title = data.verdict;
  $('verdict-text').textContent = data.verdict;
}

/** Keeps the view in the page's address, once it has come to rest: browsers count such changes. */
function keepAddress(view) {
  let timer = null;
  view.watch(() => {
    clearTimeout(timer);
    timer = setTimeout(() => history.replaceState(null, '', `#${view.toHash()}`), 300);
  });
  addEventListener('hashchange', () => view.fromHash(location.hash));
}

async function start() {
  const data = JSON.parse($('data').textContent);
  const tables = new TableHistory(await inflate(fromBase64($('tables').textContent.trim())));
  const guest = new Guest(data, tables);
  const sharing = new Sharing(guest);
  const findings = new Findings(guest);
  const view = new View(guest);
  const grid = new Grid(view, sharing, findings);
  const spaces = new SpaceList(view, sharing, findings);
  new Bits(view);
  new EntryPanel(view, sharing, findings, grid);
  const timeline = new Timeline(view, sharing, findings, grid);
  const panel = new FindingsPanel(view, findings, grid);
  addressBox(view, grid);
  theme();
  keys(view, timeline, grid);
  verdict(data);
  $('notes').replaceChildren(...data.notes.map((note) => h('p', {}, note)));
  $('notes').hidden = !data.notes.length;
  $('show-help').addEventListener('click', () => $('help').showModal());
  view.cursor = tables.page(tables.content(view.space.frame))?.indices.find((index) => index >= 256) ?? 0;
  if (location.hash.length > 1) view.fromHash(location.hash);
  else view.changed();
  keepAddress(view);
  // For the console, and for tests of the parts.
  window.explorer = { guest, sharing, view, tables, timeline, grid, panel, spaces, parseAddress, addressOf, indexOf, decode, levelsOf, through, rightsText, rangeOf, signExtended, Reader, readPage, hexEntry, changesOf };
  // Milliseconds since the page was asked for, until it is laid out.
  if (document.body.offsetHeight > 0) document.documentElement.dataset.ready = Math.round(performance.now());
}

start().catch((error) => {
  $('failed').hidden = false;
  $('failed').textContent = `This page could not read its own data: ${error.message}`;
  throw error;
});
