//! Page tables as a picture: one HTML file to explore them in, moment by moment.
//!
//! A [`Timeline`] is filled moment by moment: the tables of every address space, what happened ([`Event`]),
//! and what is wrong ([`Finding`]). It keeps the tables as differences, so that thousands of moments fit.
//! [`render`] makes one HTML file of it that opens from disk and loads nothing: style and script are the
//! small files in `assets/`, put together when this crate is built; the data stand beside them, the tables
//! deflated. The page decides nothing: it walks and compares tables, and shows findings that others made.
//!
//! ```
//! use heirloom_explorer::{About, Event, Group, Sign, SpaceInfo, Timeline, render};
//! use heirloom_inspect::testing::FakeMemory;
//! use heirloom_inspect::{Capturer, Depth, Mode, RootLabel};
//!
//! let mut memory = FakeMemory::new();
//! let root = memory.root();
//! let snapshot = Capturer::new().capture(
//!     &memory,
//!     Mode::typical(Depth::Four),
//!     &[(RootLabel::Kernel, root)],
//! );
//! let about = About {
//!     title: "an empty address space".into(),
//!     ..About::default()
//! };
//! let all = Group {
//!     name: "all".into(),
//!     note: String::new(),
//! };
//! let mut timeline = Timeline::new(about, vec![all]);
//! timeline.moment(&snapshot, Event::new(0, Sign::Found, "found"), |root| SpaceInfo {
//!     name: root.label.to_string(),
//!     ..SpaceInfo::default()
//! });
//! assert!(render(timeline).unwrap().starts_with("<!doctype html>"));
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod deck;
mod document;
mod event;
mod finding;
mod history;
mod page;
mod pages;
pub mod theme;
mod timeline;

pub use event::{Event, Sign};
pub use finding::Finding;
pub use page::{DATA_VERSION, RenderError, render};
pub use timeline::{About, Group, NamedRange, SpaceId, SpaceInfo, Timeline};
