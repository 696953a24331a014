// The tables as they come: base64, deflated, numbers of seven bits a byte, pages as differences.

/** The bytes behind base64 text. */
function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let at = 0; at < raw.length; at++) bytes[at] = raw.charCodeAt(at);
  return bytes;
}

/** Undoes deflate. */
async function inflate(packed) {
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('deflate-raw'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Reads numbers off bytes. */
class Reader {
  constructor(bytes, at = 0) {
    this.bytes = bytes;
    this.at = at;
    this.high = 0;
    this.low = 0;
  }

  /** A number below 2^53. */
  number() {
    let byte = this.bytes[this.at++];
    if (byte < 0x80) return byte;
    let value = byte & 0x7f;
    let unit = 0x80;
    do {
      byte = this.bytes[this.at++];
      value += (byte & 0x7f) * unit;
      unit *= 0x80;
    } while (byte >= 0x80);
    return value;
  }

  /** A number below 2^53 that is written as its difference from another. */
  after(from) {
    const folded = this.number();
    const half = Math.floor(folded / 2);
    return folded % 2 ? from - half - 1 : from + half;
  }

  /** A number of 64 bits: `high` and `low` are then its halves. */
  wide() {
    let [high, low, byte, shift] = [0, 0, 0, 0];
    do {
      byte = this.bytes[this.at++];
      const bits = byte & 0x7f;
      if (shift < 28) low |= bits << shift;
      else if (shift === 28) {
        low |= bits << 28;
        high |= bits >> 4;
      } else high |= bits << (shift - 32);
      shift += 7;
    } while (byte >= 0x80);
    this.high = high >>> 0;
    this.low = low >>> 0;
  }
}

/** Forms of a page. */
const WHOLE_PAGE = 1;
const CHANGED_WORDS = 2;

/** Reads what makes an earlier page to this one, and changes its words accordingly: 512, each as its high
    and its low 32 bits (vmm/source/src/codec). */
function readPage(reader, words) {
  const form = reader.number();
  if (form === WHOLE_PAGE) {
    const view = new DataView(reader.bytes.buffer, reader.bytes.byteOffset + reader.at, 4096);
    for (let entry = 0; entry < 512; entry++) {
      words[2 * entry] = view.getUint32(8 * entry + 4, true);
      words[2 * entry + 1] = view.getUint32(8 * entry, true);
    }
    reader.at += 4096;
    return;
  }
  if (form !== CHANGED_WORDS) throw new Error(`a page has the form ${form}`);
  let entry = 0;
  for (let runs = reader.number(); runs > 0; runs--) {
    entry += reader.number();
    let [high, low] = [0, 0];
    for (let length = reader.number(); length > 0; length--, entry++) {
      reader.wide();
      // The lowest bit is the sign, the others the difference to the word before.
      const sign = -(reader.low & 1);
      const sum = low + ((((reader.low >>> 1) | (reader.high << 31)) ^ sign) >>> 0);
      high = (high + (((reader.high >>> 1) ^ sign) >>> 0) + (sum > 0xffffffff ? 1 : 0)) >>> 0;
      low = sum >>> 0;
      words[2 * entry] = high;
      words[2 * entry + 1] = low;
    }
  }
}
