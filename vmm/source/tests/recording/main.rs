//! Recordings: what is recorded is what is played, and a file that is not what it was says so.

mod file;
mod play;
mod story;
