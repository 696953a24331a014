//! Recordings: what is recorded is what is played, and a file that is not what it was says so.

mod chunks;
mod file;
mod forged;
mod guest;
mod keys;
mod play;
