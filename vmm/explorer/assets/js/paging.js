// What the bits of entries and addresses mean (Intel SDM vol. 3A, 4.5).

const PRESENT = 1 << 0;
const WRITABLE = 1 << 1;
const USER = 1 << 2;
const ACCESSED = 1 << 5;
const DIRTY = 1 << 6;
const LARGE = 1 << 7;
const GLOBAL = 1 << 8;
/** Bit 63 of an entry. */
const NO_EXECUTE = 1 << 23;
/** A and D: the CPU sets them on its own. */
const BY_CPU = ACCESSED | DIRTY;

const PML5 = { name: 'PML5', shift: 48, span: '256 TiB' };
const PML4 = { name: 'PML4', shift: 39, span: '512 GiB' };
/** The PML4 where it is the root. */
const PGD = { ...PML4, name: 'PGD' };
const PDPT = { name: 'PDPT', shift: 30, span: '1 GiB', page: '1 GiB', frames: 512 * 512 };
const PD = { name: 'PD', shift: 21, span: '2 MiB', page: '2 MiB', frames: 512 };
const PT = { name: 'PT', shift: 12, span: '4 KiB', page: '4 KiB', frames: 1 };

/** The levels of a walk, from the root down. */
function levelsOf(mode) {
  return mode.depth === 'five' ? [PML5, PML4, PDPT, PD, PT] : [PGD, PDPT, PD, PT];
}

/** Bits of an address that are translated. */
function virtualBits(mode) {
  return mode.depth === 'five' ? 57 : 48;
}

const FLAG_NAMES = [
  ['P', PRESENT, 'present'],
  ['RW', WRITABLE, 'writable'],
  ['US', USER, 'ring 3 may use it'],
  ['PWT', 1 << 3, 'write-through'],
  ['PCD', 1 << 4, 'not cached'],
  ['A', ACCESSED, 'accessed'],
  ['D', DIRTY, 'dirty'],
  ['PS', LARGE, 'a large page'],
  ['G', GLOBAL, 'global'],
  ['NX', NO_EXECUTE, 'no execute'],
];

/** The flags that are set: name and meaning. */
function flagsOf(flags, level) {
  return FLAG_NAMES.filter(([, bit]) => flags & bit).map(([name, bit, meaning]) =>
    bit === LARGE && level === PT ? ['PAT', 'memory type'] : [name, meaning],
  );
}

/** The bits that are set and must be clear in a present entry, in words; empty if there are none. */
function reservedBits(flags, frame, level, mode) {
  const found = [];
  if (frame >= 2 ** (mode.phys_bits - 12)) found.push(`address bits above ${mode.phys_bits - 1}`);
  if (!mode.nxe && flags & NO_EXECUTE) found.push('bit 63 (NX is switched off)');
  if (flags & LARGE) {
    if (!level.page) found.push('bit 7');
    if (level === PDPT && !mode.gigabyte_pages) found.push('bit 7 (this CPU has no 1 GiB pages)');
    // Bit 12 of a large page is PAT; those above it, up to the page's size, must be clear.
    const low = level.page ? frame % level.frames : 0;
    if (Math.floor(low / 2) > 0) found.push('low address bits of a large page');
  }
  return found.join(', ');
}

/** The frame that an entry names: without the bit that says that it is encrypted (AMD's C-bit). */
function namedFrame(frame, mode) {
  mode.encryptedFrame ??= mode.encryption ? Number(BigInt(mode.encryption) >> 12n) : 0;
  const bit = mode.encryptedFrame;
  return bit && Math.floor(frame / bit) % 2 ? frame - bit : frame;
}

/** What an entry means to the CPU; `bits` are its bits 51–12. */
function decode(flags, bits, level, mode) {
  if (!(flags & PRESENT)) return { kind: 'absent' };
  const frame = namedFrame(bits, mode);
  const reserved = reservedBits(flags, frame, level, mode);
  if (reserved) return { kind: 'reserved', reserved };
  const leaf = level === PT || (flags & LARGE && level.page);
  return leaf
    ? { kind: 'page', frame: frame - (frame % level.frames) }
    : { kind: 'table', frame };
}

const ALL_RIGHTS = { write: true, user: true, execute: true };

/** Rights restricted by one more entry of a walk. */
function through(rights, flags) {
  return {
    write: rights.write && Boolean(flags & WRITABLE),
    user: rights.user && Boolean(flags & USER),
    execute: rights.execute && !(flags & NO_EXECUTE),
  };
}

/** `rwxu`, as the inspector writes them. */
function rightsText({ write, user, execute }) {
  return `r${write ? 'w' : '-'}${execute ? 'x' : '-'}${user ? 'u' : '-'}`;
}

function rightsInWords({ write, user, execute }) {
  const what = [write ? 'read and write' : 'read only', execute ? 'execute' : 'never execute'];
  return `${what.join(', ')}; ${user ? 'ring 3 too' : 'the kernel only'}`;
}

/** Bits above the translated ones repeat the highest of them. */
function signExtended(va, mode) {
  return BigInt.asUintN(64, BigInt.asIntN(virtualBits(mode), va));
}

/** Which entry of a table at this level translates the address. */
function indexOf(va, level) {
  return Number((va >> BigInt(level.shift)) & 0x1ffn);
}

/** The first address that these indices, from the root down, translate. */
function addressOf(path, mode) {
  const levels = levelsOf(mode);
  const va = path.reduce((sum, index, at) => sum + (BigInt(index) << BigInt(levels[at].shift)), 0n);
  return signExtended(va, mode);
}

/** First and last address that the last of these indices translates. */
function rangeOf(path, mode) {
  const first = addressOf(path, mode);
  const { shift } = levelsOf(mode)[path.length - 1];
  return [first, first + (1n << BigInt(shift)) - 1n];
}

/** An address out of text: hexadecimal, with or without 0x, `_` allowed; null if it is none. */
function parseAddress(text) {
  const digits = text.trim().toLowerCase().replace(/^0x/, '').replaceAll('_', '').replaceAll(' ', '');
  return /^[0-9a-f]{1,16}$/.test(digits) ? BigInt(`0x${digits}`) : null;
}

const hexVirtual = (va) => `0x${va.toString(16).padStart(16, '0')}`;
const hexFrame = (frame) => `0x${(frame * 4096).toString(16)}`;
const hexEntry = (flags, frame) =>
  `0x${(flags >>> 12).toString(16).padStart(3, '0')}${frame.toString(16).padStart(10, '0')}${(flags & 0xfff).toString(16).padStart(3, '0')}`;
