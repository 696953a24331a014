//! Every file that a guest's memory comes in, made by the tools that people make it with: all answer as the
//! ELF core of the same moment does.

#[path = "../common/mod.rs"]
mod common;

mod answers;
mod drgn;
mod guest;
mod kexec;
mod libvirt;
mod live;
mod makedumpfile;
mod migration;
mod packed;
mod qemu;
mod rewritten;
mod shrinking;
mod vmcore;
