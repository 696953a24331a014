//! What was received, line by line.

use std::error::Error;
use std::fmt;

/// A stream cut into lines. It keeps one line and what was pushed behind it, and no more of a line that is
/// too long than its limit.
#[derive(Debug)]
pub struct Lines {
    rest: Vec<u8>,
    /// There is no end of a line before here.
    searched: usize,
    limit: usize,
    /// It is in the middle of a line that was too long.
    skips: bool,
}

/// A line has more bytes than the limit. The one behind it can be taken again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong {
    /// Bytes of a line at most.
    pub limit: usize,
}

impl Error for TooLong {}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a message of more than {} MiB", self.limit >> 20)
    }
}

impl Lines {
    /// Lines of at most `limit` bytes.
    pub fn new(limit: usize) -> Lines {
        Lines {
            rest: Vec::new(),
            searched: 0,
            limit,
            skips: false,
        }
    }

    /// Takes in what was received.
    pub fn push(&mut self, received: &[u8]) {
        self.rest.extend_from_slice(received);
    }

    /// The next line without its end; `None` until it is whole.
    ///
    /// # Errors
    /// [`TooLong`], once for each such line.
    pub fn take(&mut self) -> Result<Option<Vec<u8>>, TooLong> {
        while let Some(length) = self.rest[self.searched..]
            .iter()
            .position(|byte| *byte == b'\n')
        {
            let end = self.searched + length;
            let mut line: Vec<u8> = self.rest.drain(..=end).collect();
            self.searched = 0;
            if !std::mem::take(&mut self.skips) {
                line.pop();
                return Ok(Some(line));
            }
        }
        let is_too_long = self.rest.len() > self.limit;
        if self.skips || is_too_long {
            self.rest = Vec::new();
        }
        self.searched = self.rest.len();
        if is_too_long && !std::mem::replace(&mut self.skips, true) {
            return Err(TooLong { limit: self.limit });
        }
        Ok(None)
    }

    /// What has come of the line that is not whole.
    pub fn rest(&self) -> &[u8] {
        &self.rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(lines: &mut Lines) -> Vec<Result<String, TooLong>> {
        std::iter::from_fn(|| lines.take().transpose())
            .map(|line| line.map(|line| String::from_utf8(line).unwrap()))
            .collect()
    }

    #[test]
    fn lines_are_the_same_however_they_were_cut_up() {
        let stream = b"one\n\ntwo\nthr";
        for size in 1..=stream.len() {
            let mut lines = Lines::new(3);
            let mut found = Vec::new();
            for piece in stream.chunks(size) {
                lines.push(piece);
                found.extend(all(&mut lines));
            }
            assert_eq!(found, ["one", "", "two"].map(|line| Ok(line.to_owned())));
            assert_eq!(lines.rest(), b"thr");
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_told_once_and_not_kept() {
        let mut lines = Lines::new(8);
        for _ in 0..1000 {
            lines.push(&[b'x'; 100]);
            let refused = lines.take();
            assert!(matches!(refused, Ok(None) | Err(TooLong { limit: 8 })));
            assert!(lines.rest().len() <= 8);
        }
        lines.push(b"its end\nnext\n");
        assert_eq!(all(&mut lines), [Ok("next".to_owned())]);
        lines.push(&[b'y'; 9]);
        assert_eq!(lines.take(), Err(TooLong { limit: 8 }));
        assert_eq!(lines.take(), Ok(None));
    }
}
