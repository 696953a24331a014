//! How page tables become few bytes, for recordings and for the explorer's page.
//!
//! - A *number* ([`Put::put_varint`]) has seven bits a byte, the lowest first, and bit 7 set in every byte
//!   but the last (LEB128).
//! - A *difference* ([`Put::put_difference`]) of two numbers `d`, modulo 2^64 and taken for a signed number,
//!   is the number `(d << 1) ^ (d >> 63)`.
//! - A *page* ([`page::put`]), 512 words of 8 bytes, is written as what makes an earlier page to it. First a
//!   byte:
//!   - 0: the page is gone. Nothing follows.
//!   - 1: the whole page follows, 4096 bytes, little-endian.
//!   - 2: a number, the runs of words that change, and for each run: a number, the words that stay since
//!     the end of the run before; a number, the words of the run; and each word as its difference to the
//!     word before it in the run, 0 before the first. Entries of neighbouring frames are small this way.
//!
//! Readers take bytes that may be anything: what they cannot be is an error ([`Malformed`]), and nothing is
//! allocated for what a number promises.

mod bytes;
pub mod page;

pub use bytes::{Get, Malformed, Put};
