//! Discovery, layout, generic rules, reports: what is told of a guest that is not ours. A guest like Linux
//! stands in a memory of its own; a test changes one thing in it and says what must be told.

mod boots;
mod difference;
mod discovery;
mod hostile;
mod kernels;
mod kinds;
mod layout;
mod reports;
mod reverse;
mod rules;
mod scene;
mod sound;
