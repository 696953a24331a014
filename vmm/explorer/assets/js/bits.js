// The address as the CPU cuts it: sign extension, nine bits for each level, and the offset.

class Bits {
  constructor(view) {
    Object.assign(this, { view, guest: view.guest });
    this.place = $('bits');
    view.look(() => this.update());
  }

  update() {
    const { view, guest } = this;
    const va = view.lookedAddress;
    const typed = view.peek === null ? view.typed : null;
    const known = typed === null ? view.looked.length : guest.levels.length;
    const { steps, end } = guest.walk(view.space, va);
    const canonical = guest.isCanonical(va);
    const top = virtualBits(guest.mode);
    const field = (high, low, name, index, state, title) => {
      const width = high - low + 1;
      const bits = ((va >> BigInt(low)) & ((1n << BigInt(width)) - 1n)).toString(2).padStart(width, '0');
      return h(
        'div.field',
        { 'data-state': state, title, style: null },
        h('span.which', {}, `${high}–${low}`),
        h('span.binary', {}, state === 'open' ? '·'.repeat(width) : high === top - 1 ? [h('u', { title: 'The sign bit' }, bits[0]), bits.slice(1)] : bits),
        h('span.what', {}, name, index !== null && h('b', {}, index)),
      );
    };
    const fields = [field(63, top, 'sign extension', null, canonical ? 'sign' : 'wrong', `These bits repeat bit ${top - 1}`)];
    for (const [at, level] of guest.levels.entries()) {
      const state = at >= known ? 'open' : at < steps.length ? 'walked' : 'beyond';
      const index = state === 'open' ? '' : `[${indexOf(va, level)}]`;
      fields.push(field(level.shift + 8, level.shift, level.name, index, state, `Which of the 512 entries of the ${level.name}`));
    }
    fields.push(field(11, 0, 'offset', typed === null ? '' : `+0x${(va & 0xfffn).toString(16)}`, typed === null ? 'open' : 'offset', 'The byte in its page'));
    this.place.replaceChildren(h('div.fields', {}, fields), h('p.why', {}, this.why(va, top, canonical, end)));
  }

  /** Why the upper bits are what they are. */
  why(va, top, canonical) {
    const low = 1n << BigInt(top - 1);
    if (!canonical) {
      const meant = signExtended(va, this.guest.mode);
      return [
        h('b', {}, 'Not canonical: '),
        `bits 63–${top - 1} must all be equal, or the CPU refuses the address before it looks at any table. With bit ${top - 1} repeated it would be `,
        h('code', {}, hexVirtual(meant)),
        '.',
      ];
    }
    if (va & low) {
      const first = signExtended(low, this.guest.mode);
      return [
        `Bit ${top - 1} is 1, so bits 63–${top} are 1 too: the kernel half is entries 256–511 and begins at `,
        h('code', {}, hexVirtual(first)),
        `, not at `,
        h('code', {}, `0x${low.toString(16)}`),
        '.',
      ];
    }
    return [
      `Bit ${top - 1} is 0, so bits 63–${top} are 0 too: the user half is entries 0–255 and ends at `,
      h('code', {}, hexVirtual(low - 1n)),
      '.',
    ];
  }
}
