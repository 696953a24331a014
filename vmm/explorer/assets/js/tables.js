// The tables of every moment: which frame holds which page, forward and back.

/** One content of a table: its entries that are not zero, by ascending index. */
class Page {
  constructor(indices, flags, frames) {
    this.indices = indices;
    /** Bits 11–0, and above them bits 63–52. */
    this.flags = flags;
    /** Bits 51–12. */
    this.frames = frames;
  }

  /** Where the entry with this index stands in the lists; negative where it is zero. */
  find(index) {
    let low = 0;
    let high = this.indices.length - 1;
    while (low <= high) {
      const middle = (low + high) >> 1;
      const found = this.indices[middle];
      if (found === index) return middle;
      if (found < index) low = middle + 1;
      else high = middle - 1;
    }
    return -1;
  }
}

/** What a frame holds, where it is no table, or one that guest memory does not have. */
const NO_TABLE = 0;
const MISSING = 1;
const FIRST_PAGE = 2;

class TableHistory {
  constructor(bytes) {
    this.bytes = bytes;
    const reader = new Reader(bytes);
    const count = reader.number();
    const lengths = new Uint32Array(count);
    for (let page = 0; page < count; page++) lengths[page] = reader.number();
    this.starts = new Uint32Array(count);
    let start = reader.at;
    for (let page = 0; page < count; page++) {
      this.starts[page] = start;
      start += lengths[page];
    }
    this.pages = new Array(count);
    reader.at = start;
    this.frames = new Map();
    this.changes = [];
    /** 512 words, each as its high and its low 32 bits, high first. */
    this.words = new Uint32Array(1024);
    this.read(reader);
  }

  /** Reads the moments; afterwards the tables are those of the last one. */
  read(reader) {
    const moments = reader.number();
    for (let moment = 0; moment < moments; moment++) {
      const count = reader.number();
      const frames = new Float64Array(count);
      const before = new Uint32Array(count);
      const after = new Uint32Array(count);
      let frame = 0;
      for (let change = 0; change < count; change++) {
        frame = reader.after(frame);
        frames[change] = frame;
        before[change] = this.frames.get(frame) ?? NO_TABLE;
        after[change] = reader.number();
        this.put(frame, after[change]);
      }
      this.changes.push({ frames, before, after });
    }
    this.moment = moments - 1;
  }

  put(frame, content) {
    if (content === NO_TABLE) this.frames.delete(frame);
    else this.frames.set(frame, content);
  }

  /** Goes to a moment. */
  seek(moment) {
    while (this.moment < moment) {
      const { frames, after } = this.changes[++this.moment];
      for (let change = 0; change < frames.length; change++) this.put(frames[change], after[change]);
    }
    while (this.moment > moment) {
      const { frames, before } = this.changes[this.moment--];
      for (let change = 0; change < frames.length; change++) this.put(frames[change], before[change]);
    }
  }

  /** What a frame holds at this moment. */
  content(frame) {
    return this.frames.get(frame) ?? NO_TABLE;
  }

  /** The page behind a content, unpacked when it is first asked for; null where there is none. */
  page(content) {
    if (content < FIRST_PAGE) return null;
    const number = content - FIRST_PAGE;
    return (this.pages[number] ??= this.unpack(number));
  }

  unpack(number) {
    const reader = new Reader(this.bytes, this.starts[number]);
    const distance = reader.number();
    const base = distance ? this.page(number - distance + FIRST_PAGE) : null;
    const { words } = this;
    words.fill(0);
    if (base) {
      for (let entry = 0; entry < base.indices.length; entry++) {
        const at = 2 * base.indices[entry];
        const [flags, frame] = [base.flags[entry], base.frames[entry]];
        words[at] = ((flags >>> 12) << 20) | Math.floor(frame / 0x100000);
        words[at + 1] = (frame % 0x100000) * 0x1000 + (flags & 0xfff);
      }
    }
    readPage(reader, words);
    const indices = [];
    for (let entry = 0; entry < 512; entry++) {
      if (words[2 * entry] !== 0 || words[2 * entry + 1] !== 0) indices.push(entry);
    }
    return new Page(
      Uint16Array.from(indices),
      Uint32Array.from(indices, (entry) => ((words[2 * entry] >>> 20) << 12) | (words[2 * entry + 1] & 0xfff)),
      Float64Array.from(indices, (entry) => (words[2 * entry] & 0xfffff) * 0x100000 + (words[2 * entry + 1] >>> 12)),
    );
  }
}
