// The picture of one moment: whose address spaces there are, and where some addresses lead in them.

/** Address spaces that are shown by name. */
const MAX_SPACES = 12;
/** What the signs of kernel halves mean. */
const LEGEND = 'PGD entries of the kernel: = the same, ≠ differ, − missing, ≈ own tables that map the same';

/** Draws into an element what a slide shows. */
async function drawPicture(picture, into) {
  const tables = new TableHistory(await inflate(fromBase64(picture.tables)));
  const guest = new Guest(picture.data, tables);
  const sharing = new Sharing(guest);
  const walks = picture.walks.map(({ space, address }) => [guest.spaces[space], BigInt(address)]);
  into.append(
    h('figcaption', {}, picture.caption),
    spaceMarks(guest, sharing, new Set(walks.map(([space]) => space.id))),
    ...walks.map(([space, va]) => oneWalk(guest, sharing, space, va)),
  );
  return { guest, sharing };
}

/** The address spaces in a row, each with how its kernel half stands to the others'. */
function spaceMarks(guest, sharing, walked) {
  const live = guest.live;
  const shown = [...live.filter((space) => walked.has(space.id)), ...live.filter((space) => !walked.has(space.id))].slice(0, MAX_SPACES);
  shown.sort((one, other) => one.id - other.id);
  const marks = shown.map((space) => {
    const [kind, text, title] = SpaceList.prototype.markOf.call({ guest, sharing }, space);
    return h('li', { 'data-walked': walked.has(space.id) }, h('span.name', {}, space.name), h('span.mark', { 'data-mark': kind, title }, text));
  });
  const more = live.length - shown.length;
  const legend = shown.length > 1 && h('li.legend', {}, LEGEND);
  return h('ul.marks', { 'aria-label': 'Address spaces' }, marks, more > 0 && h('li', {}, `and ${more} more`), legend);
}

function oneWalk(guest, sharing, space, va) {
  const view = new View(guest);
  view.panes = [space.id];
  view.typed = va;
  view.path = guest.levels.map((level) => indexOf(va, level));
  const cards = walkCards(view, sharing, space, 0);
  for (const card of cards.querySelectorAll('button')) {
    // Nothing is to be opened here.
    card.disabled = true;
    card.removeAttribute('aria-current');
  }
  const region = guest.regionsIn(va, va)[0];
  return h('section.walked', {}, h('h3', {}, h('b', {}, space.name), ' at ', h('code', {}, hexVirtual(va)), region && h('span.region', {}, region.name)), cards);
}
