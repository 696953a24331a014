// The end of a walk: a page, what all entries above it allow, and who else has it there.

function pageView(view, sharing, space, { leaf, steps }) {
  const { guest } = view;
  const [first, last] = rangeOf(view.path, guest.mode);
  const offset = view.typed === null ? null : view.typed - first;
  const sharers = sharing.sharers(space, view.path);
  const physical = BigInt(leaf.target) * 4096n;
  const rows = steps.map((step) => {
    const rights = through(ALL_RIGHTS, step.flags);
    return h('tr', {}, h('th', { scope: 'row' }, `${step.level.name}[${step.index}]`), h('td', {}, h('code', {}, hexEntry(step.flags, step.frame))), h('td', {}, h('code', {}, rightsText(rights))));
  });
  return h(
    'article.frame',
    { tabindex: 0 },
    h('h3', {}, `${leaf.level.page} page at `, h('code', {}, `0x${physical.toString(16)}`)),
    h('p.big', {}, h('code', {}, `${hexVirtual(first)} – ${hexVirtual(last)}`)),
    offset !== null && h('p', {}, 'The address typed is byte ', h('code', {}, `+0x${offset.toString(16)}`), ', at physical ', h('code', {}, `0x${(physical + offset).toString(16)}`), '.'),
    h('table', {}, h('caption', {}, 'What each entry allows, and all together'), h('tbody', {}, rows, h('tr.sum', {}, h('th', { scope: 'row' }, 'effective'), h('td', {}, rightsInWords(leaf.rights)), h('td', {}, h('code', {}, rightsText(leaf.rights)))))),
    h('p', {}, sharers.length > 1 ? `${sharers.length} of ${guest.live.length} address spaces have this very frame at this address:` : 'No other address space has this frame at this address.'),
    sharers.length > 1 && spaceChips(view, sharers),
  );
}

/** Names of spaces to click on, not too many. */
function spaceChips(view, spaces, most = 24) {
  const chips = spaces.slice(0, most).map((space) => h('button.chip', { type: 'button', onclick: () => view.show(space.id) }, space.name));
  const more = spaces.length - chips.length;
  return h('p.chips', {}, chips, more > 0 && h('span', {}, `and ${more.toLocaleString('en')} more`));
}
