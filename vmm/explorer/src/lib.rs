//! Page tables as a picture: one HTML file to explore them in, moment by moment.
//!
//! A [`Story`] is told moment by moment: the tables of every address space, what happened, and what is
//! wrong. It keeps the tables as differences, so that thousands of moments fit. [`render`] makes one
//! HTML file of it that opens from disk and loads nothing: style and script are the small files in
//! `assets/`, put together when this crate is built; the data stand beside them, the tables deflated.
//! The page decides nothing: it walks and compares tables, and shows findings that others made.
#![forbid(unsafe_code)]

mod film;
mod finding;
mod guest;
pub mod looks;
mod page;
mod pages;
mod run;
mod story;
mod varint;

pub use guest::story_of;
pub use page::{DATA_VERSION, RenderError, render};
pub use run::{Family, event_of, regions_of_our_layout};
pub use story::{About, Described, Event, Group, Kind, NamedRange, Story};
