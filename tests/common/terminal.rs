//! A command on a terminal of its own: a pseudo-terminal, and what its screen shows in the end.

use std::fs::File;
use std::io::Read;
use std::process::Command;

use nix::pty::{Winsize, openpty};

const COLUMNS: u16 = 120;
const ROWS: u16 = 50;

/// What a command left on its terminal.
pub(crate) struct Screen {
    pub(crate) code: Option<i32>,
    /// Every byte that was written, escape sequences included.
    pub(crate) text: String,
    /// The lines as they stand in the end: what was cleared or overwritten is not there.
    pub(crate) lines: Vec<String>,
}

/// Runs `command` with all three standard streams on a terminal.
pub(crate) fn on_terminal(command: &mut Command) -> Screen {
    let size = Winsize {
        ws_row: ROWS,
        ws_col: COLUMNS,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let terminal = openpty(Some(&size), None).unwrap();
    let mut child = command
        .stdin(terminal.slave.try_clone().unwrap())
        .stdout(terminal.slave.try_clone().unwrap())
        .stderr(terminal.slave)
        .spawn()
        .unwrap();
    // The command keeps handles of the terminal for its children; ours must go, or reading never ends.
    command
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    let mut bytes = Vec::new();
    // It ends with EIO when the last handle is closed.
    let _ = File::from(terminal.master).read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Screen {
        code: child.wait().unwrap().code(),
        lines: shown(&text),
        text,
    }
}

/// What a terminal without an end shows: line feeds, carriage returns, cursor movements up and down, and
/// clearing are followed, colours are not.
fn shown(text: &str) -> Vec<String> {
    let mut lines: Vec<Vec<char>> = vec![Vec::new()];
    let (mut row, mut column) = (0_usize, 0_usize);
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\r' => column = 0,
            '\n' => row += 1,
            '\x1b' => {
                letters.next_if_eq(&'[');
                let mut number = String::new();
                while let Some(digit) = letters.next_if(|next| !next.is_ascii_alphabetic()) {
                    number.push(digit);
                }
                let count = number.parse().unwrap_or(1);
                match letters.next() {
                    Some('A') => row = row.saturating_sub(count),
                    Some('B') => row += count,
                    Some('K') if number == "2" => lines[row].clear(),
                    Some('K') => lines[row].truncate(column),
                    _ => {}
                }
            }
            letter => {
                let line = &mut lines[row];
                if line.len() <= column {
                    line.resize(column + 1, ' ');
                }
                line[column] = letter;
                column += 1;
            }
        }
        while lines.len() <= row {
            lines.push(Vec::new());
        }
    }
    lines
        .into_iter()
        .map(|line| line.into_iter().collect())
        .collect()
}
