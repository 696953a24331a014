//! The inspector against others, on real Linux: QEMU's own page-table walker, the guest's own account of
//! its processes, its kernel's own list of roots.

#[path = "../common/mod.rs"]
mod common;

mod changes;
mod command;
mod corrupted;
mod explorer;
mod image;
mod layout;
mod live;
mod maps;
mod moment;
mod names;
mod reverse;
mod roots;
mod rows;
mod walks;
