//! Kernels that are not Linux: each kind made by hand in several forms, because what was seen of one must not
//! be what is recognized of all.

mod alone;
mod boot_maps;
mod cpu_roots;
mod direct_map;
mod early;
mod encryption;
mod identity;
mod idle;
mod loaders;
mod lower_half;
mod one_entry;
mod own_areas;
mod private_copies;
mod profiles;
mod programs;
mod ram;
mod reused;
mod self_map;
mod shadow;
mod symbols;
mod windows;
mod words;
mod xen;
