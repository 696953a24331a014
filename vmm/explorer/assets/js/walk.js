// A walk as a row of small tables, the entry that it takes lit up in each, and how it ends.

/** A table as a picture of 32 by 16 entries. */
function thumbnail(states, lit) {
  const paths = ['', '', '', ''];
  for (let index = 0; index < 512; index++) {
    const state = states[index];
    if (state !== ABSENT) paths[state] += `M${index % 32} ${index >> 5}h1v1h-1z`;
  }
  const drawing = svg('svg.thumbnail', { viewBox: '-0.5 -0.5 33 17', 'aria-hidden': true });
  drawing.append(svg('rect.ground', { x: 0, y: 0, width: 32, height: 16 }));
  for (const state of [SHARED, PRIVATE, DIVERGING]) {
    if (paths[state]) drawing.append(svg(`path.${STATES[state].class}`, { d: paths[state] }));
  }
  if (lit !== null) {
    const [x, y] = [lit % 32, lit >> 5];
    drawing.append(svg('path.cross', { d: `M${x + 0.5} 0V16M0 ${y + 0.5}H32` }));
    drawing.append(svg('rect.lit', { x: x - 0.5, y: y - 0.5, width: 2, height: 2 }));
  }
  return drawing;
}

/** The cards of one pane. */
function walkCards(view, sharing, space, pane) {
  const { guest } = view;
  const indices = view.typed === null ? view.place : guest.levels.map((level) => indexOf(view.typed, level));
  const walk = guest.isCanonical(view.address) ? guest.descend(space, indices) : guest.walk(space, view.address);
  const shown = view.path.length;
  const cards = [];
  const card = (depth, level, table, index, entry) => {
    const path = indices.slice(0, depth);
    const states = sharing.states(space, path);
    const current = depth === shown;
    cards.push(
      h(
        'button.card',
        {
          type: 'button',
          'aria-current': current ? 'step' : null,
          'data-depth': depth,
          title: `The ${level.name} at ${hexFrame(table)}`,
          onclick: () => {
            view.active = pane;
            view.climb(depth);
          },
        },
        states && thumbnail(states, index),
        h('span.label', {}, h('b', {}, index === null ? level.name : `${level.name}[${index}]`), h('span.at', {}, hexFrame(table)), entry && h('span.flags', {}, flagsOf(entry.flags, level).map(([name]) => name).join(' '))),
      ),
    );
  };
  for (const [depth, step] of walk.steps.entries()) card(depth, step.level, step.table, step.index, step);
  if (walk.table !== undefined && cards.length === shown) card(shown, walk.level, walk.table, null, null);
  if (walk.leaf) {
    const { leaf } = walk;
    const depth = walk.steps.length;
    const offset = view.typed === null ? 0n : view.typed & ((1n << BigInt(leaf.level.shift)) - 1n);
    cards.push(
      h(
        'button.card.page',
        { type: 'button', 'aria-current': shown === depth ? 'step' : null, 'data-depth': depth, onclick: () => { view.active = pane; view.climb(depth); } },
        h('span.label', {}, h('b', {}, `${leaf.level.page} page`), h('span.at', {}, `0x${(BigInt(leaf.target) * 4096n + offset).toString(16)}`), h('span.flags', {}, rightsText(leaf.rights))),
      ),
    );
  } else if (walk.end) {
    cards.push(h('p.card.end', {}, h('span.label', {}, h('b', {}, 'the walk ends'), h('span.reason', {}, walk.end))));
  }
  return h(`nav.walk.${guest.levels.length > 4 ? 'five' : 'four'}`, { 'aria-label': `Walk in ${space.name}` }, cards.flatMap((element, at) => (at ? [h('span.arrow', { 'aria-hidden': true }, '→'), element] : [element])));
}
