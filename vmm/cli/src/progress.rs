//! How far a command is, on standard error: a line that changes on a terminal, and elsewhere a plain line
//! now and then once it takes longer than a few seconds.

mod beside;
mod lines;

use std::cell::Cell;
use std::io::Write;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::escape::Escaping;
use crate::exit::Failure;
use crate::output::Output;
use crate::ui;
use beside::Beside;
use lines::Lines;

/// Time between two updates of the line that changes; messages in between are not made.
const TICK: Duration = Duration::from_millis(100);

/// Ends, and clears its line, when it is dropped.
pub(crate) struct Progress {
    way: Way,
    /// When a message was made last.
    told: Cell<Option<Instant>>,
}

enum Way {
    Silent,
    /// A guest's console may write on the same terminal.
    Bar(ProgressBar, Option<Beside>),
    Lines(Lines),
}

impl Progress {
    /// Of something that has no known end.
    pub(crate) fn spinner() -> Progress {
        Progress::new(None, || {
            let style = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
            ProgressBar::new_spinner().with_style(style)
        })
    }

    /// Of `total` parts, which are counted by [`Progress::advance`].
    pub(crate) fn bar(total: u64) -> Progress {
        Progress::new(Some(total), || {
            let style = ProgressStyle::with_template("{wide_bar} {elapsed}, {eta} to go: {msg}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(total).with_style(style)
        })
    }

    /// Shows nothing.
    pub(crate) fn silent() -> Progress {
        Progress {
            way: Way::Silent,
            told: Cell::new(None),
        }
    }

    fn new(total: Option<u64>, bar: impl FnOnce() -> ProgressBar) -> Progress {
        let way = if ui::quiet() || log::log_enabled!(log::Level::Info) {
            // Those who follow every event see how far it is.
            Way::Silent
        } else if ui::error_is_terminal() {
            let bar = bar();
            bar.enable_steady_tick(TICK);
            Way::Bar(bar, None)
        } else {
            Lines::start(total).map_or(Way::Silent, Way::Lines)
        };
        Progress {
            way,
            told: Cell::new(None),
        }
    }

    /// Says what is being done. May be called as often as one likes.
    pub(crate) fn tell(&self, message: impl FnOnce() -> String) {
        let now = Instant::now();
        if self
            .told
            .get()
            .is_some_and(|told| now.duration_since(told) < TICK)
        {
            return;
        }
        self.told.set(Some(now));
        match &self.way {
            Way::Silent => {}
            Way::Bar(bar, _) => bar.set_message(message()),
            Way::Lines(lines) => lines.tell(message()),
        }
    }

    /// Says what is being done from now on, and that `parts` are done with the message before.
    pub(crate) fn advance(&self, parts: u64) {
        self.told.set(None);
        match &self.way {
            Way::Silent => {}
            Way::Bar(bar, _) => bar.inc(parts),
            Way::Lines(lines) => lines.advance(parts),
        }
    }

    /// Writes a part of a report, unless only its verdict is wanted.
    ///
    /// # Errors
    /// The device is full, or such.
    pub(crate) fn print(&self, out: &mut Output, part: &str) -> Result<(), Failure> {
        if ui::quiet() {
            return Ok(());
        }
        match &self.way {
            Way::Silent | Way::Lines(_) => out.tables(&part),
            Way::Bar(bar, _) => bar.suspend(|| out.tables(&part)),
        }
    }

    /// Where a guest's console goes that is meant for `out`: past the line that changes, and nowhere if
    /// only verdicts are wanted. Unless it is wanted `raw`, a terminal does nothing but show it.
    pub(crate) fn console(&mut self, out: Output, raw: bool) -> Box<dyn Write + Send> {
        let out = self.raw_console(out);
        if raw {
            out
        } else {
            Box::new(Escaping::new(out))
        }
    }

    fn raw_console(&mut self, out: Output) -> Box<dyn Write + Send> {
        if ui::quiet() {
            return Box::new(std::io::sink());
        }
        match &mut self.way {
            Way::Silent | Way::Lines(_) => Box::new(out),
            Way::Bar(bar, console) => {
                let beside = Beside::new(bar.clone(), out);
                *console = Some(beside.clone());
                Box::new(beside)
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Way::Bar(bar, console) = &self.way {
            bar.finish_and_clear();
            if let Some(console) = console {
                console.finish();
            }
        }
    }
}
