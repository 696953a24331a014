//! Direct maps as kernels have them, and kernels without NX.

use heirloom_inspect::discover::Kind;
use heirloom_inspect::layout::Area;
use heirloom_inspect::{Depth, Entry, PageSize, VirtAddr};

use super::ram::{CODE, DATA, LARGE, PAGE, Ram};

#[test]
fn large_pages_past_the_end_of_ram_are_a_note_with_the_range() {
    for (depth, at, size, pages, mib) in [
        (Depth::Four, 0xffff_8000_0000_0000, PageSize::Size1GiB, 4, 8),
        (
            Depth::Four,
            0xffff_8880_0000_0000,
            PageSize::Size2MiB,
            512,
            16,
        ),
        (
            Depth::Four,
            0xffff_c000_0000_0000,
            PageSize::Size1GiB,
            1,
            64,
        ),
        (
            Depth::Five,
            0xff11_0000_0000_0000,
            PageSize::Size1GiB,
            64,
            32,
        ),
    ] {
        let mut ram = Ram::new(mib, depth);
        let kernel = ram.root();
        for page in 0..pages {
            let pa = page * size.bytes();
            ram.map(kernel, at + pa, pa, size, DATA);
        }
        let image = 0xffff_ffff_8000_0000;
        ram.map(kernel, image, 0, PageSize::Size2MiB, CODE);
        ram.run(kernel);
        assert_eq!(ram.discover().space_at(kernel).unwrap().kind, Kind::Kernel);
        // That text has a writable alias is true.
        assert_eq!(ram.broken(), []);
        assert_eq!(ram.let_pass(), [("writable-direct-map", 1)]);
        let notes = ram.notes();
        let end = format!("–{:#x}", pages * size.bytes());
        assert!(
            notes.contains("past its end or over a hole") && notes.contains(&end),
            "{notes}"
        );
        // A page of it that leads elsewhere is a fault as ever.
        if size == PageSize::Size2MiB {
            ram.map(kernel, at + 2 * LARGE, 3 * LARGE, size, DATA);
            let rules: Vec<_> = ram.broken().into_iter().map(|(rule, _)| rule).collect();
            assert_eq!(rules, ["direct-map-exact"]);
        }
    }
}

#[test]
fn text_that_a_kernel_protects_elsewhere_in_the_direct_map_has_no_writable_alias_by_design() {
    for protected in [0, 1, 3] {
        let mut ram = Ram::new(16, Depth::Four);
        let kernel = ram.root();
        for page in 0..8 {
            let (pa, flags) = (page * LARGE, if page == protected { CODE } else { DATA });
            let flags = Entry::new(1 << 63) | flags;
            ram.map(
                kernel,
                0xffff_8000_0000_0000 + pa,
                pa,
                PageSize::Size2MiB,
                flags,
            );
        }
        for page in 0..4 {
            let pa = page * LARGE;
            ram.map(
                kernel,
                0xffff_ffff_8000_0000 + pa,
                pa,
                PageSize::Size2MiB,
                CODE,
            );
        }
        ram.run(kernel);
        assert_eq!(ram.broken(), [("no-writable-text-alias", 3)]);
        assert_eq!(ram.let_pass(), []);
    }
}

#[test]
fn a_mapping_that_is_not_linear_is_not_judged_as_one() {
    for stride in [3, 5, 7, 11] {
        let mut ram = Ram::new(16, Depth::Four);
        let kernel = ram.root();
        // Pages as they came: hardly two in a row.
        for page in 0..512 {
            let pa = (page * stride % 512 + 1024) * PAGE;
            let va = 0xffff_8000_0000_0000 + page * PAGE;
            ram.map(kernel, va, pa, PageSize::Size4KiB, DATA);
        }
        ram.map(kernel, 0xffff_ffff_8000_0000, 0, PageSize::Size4KiB, CODE);
        ram.run(kernel);
        assert_eq!(ram.broken(), [], "{stride}");
    }
}

#[test]
fn nx_that_is_off_is_one_finding() {
    for (mib, kernels) in [(8, 1), (64, 2), (512, 3)] {
        let mut ram = Ram::new(mib, Depth::Four);
        let kernel = ram.root();
        for page in 0..mib / 2 {
            let flags = Entry::new(0x63);
            let at = 0xffff_8000_0000_0000 + page * LARGE;
            ram.map(kernel, at, page * LARGE, PageSize::Size2MiB, flags);
        }
        for _ in 1..kernels {
            let root = ram.root();
            ram.share(kernel, root, 256..512);
        }
        let cpu = ram.run(kernel);
        cpu.efer &= !(1 << 11);
        assert_eq!(ram.broken(), [("write-xor-execute", 1)]);
        let found = ram.findings("write-xor-execute");
        assert_eq!(found[0].place, "EFER.NXE");
        // Where it is on, that is not all that is to be mended; a core need not tell it, and the place is the same.
        ram.cpus[0].efer |= 1 << 11;
        assert_eq!(ram.broken(), [("write-xor-execute", 1)]);
        let found = ram.findings("write-xor-execute");
        assert_eq!(found[0].place, "EFER.NXE");
        assert!(found[0].expected.contains("NX in the entries"));
        assert!(
            found[0]
                .found
                .starts_with("no entry of the kernel half has NX")
        );
    }
}

#[test]
fn small_pages_that_lead_where_no_ram_is_are_let_pass_by_name_and_a_note_says_where() {
    for (mib, pages) in [(8, 2048 + 16), (4, 1024 + 1), (6, 1536 + 300)] {
        let mut ram = Ram::new(mib, Depth::Four);
        let kernel = ram.root();
        for page in 0..pages {
            let va = 0xffff_ffff_8000_0000 + page * PAGE;
            let flags = if page == 0 { CODE } else { DATA };
            ram.map(kernel, va, page * PAGE, PageSize::Size4KiB, flags);
        }
        ram.run(kernel);
        let beyond = pages - mib * 256;
        assert_eq!(ram.broken(), []);
        assert_eq!(ram.let_pass(), [("linear-map-beyond-ram", beyond)]);
        let range = format!("{:#x}–{:#x}", mib << 20, pages * PAGE);
        assert!(ram.notes().contains(&range), "{}", ram.notes());
        // One that leads elsewhere is wrong.
        let va = 0xffff_ffff_8000_0000 + 100 * PAGE;
        ram.map(kernel, va, 101 * PAGE, PageSize::Size4KiB, DATA);
        assert_eq!(ram.broken(), [("direct-map-exact", 1)]);
    }
}

#[test]
fn devices_are_no_kernel_code_where_nothing_has_nx() {
    for at in [
        0xffff_ffff_fe00_0000,
        0xffff_ffff_4000_0000,
        0xffff_c000_0000_0000,
    ] {
        let mut ram = Ram::new(16, Depth::Four);
        let kernel = ram.root();
        for page in 0..8 {
            let va = 0xffff_ffff_8000_0000 + page * LARGE;
            ram.map(
                kernel,
                va,
                page * LARGE,
                PageSize::Size2MiB,
                Entry::new(0x63),
            );
        }
        for page in 0..4 {
            let pa = 0xfe00_0000 + page * LARGE;
            ram.map(
                kernel,
                at + page * LARGE,
                pa,
                PageSize::Size2MiB,
                Entry::new(0x7b),
            );
        }
        ram.run(kernel);
        let layout = ram.discover().layout;
        let area = layout.area_of(VirtAddr::new(at));
        assert_eq!(area, Some(Area::Devices), "{:?}", layout.regions);
    }
}

#[test]
fn a_kernel_half_without_nx_is_one_finding_whatever_processes_have() {
    for (mib, processes) in [(8, 1), (64, 3), (16, 2)] {
        let mut ram = Ram::new(mib, Depth::Four);
        let kernel = ram.root();
        for page in 0..mib / 2 {
            let va = 0xffff_ffff_8000_0000 + page * LARGE;
            ram.map(
                kernel,
                va,
                page * LARGE,
                PageSize::Size2MiB,
                Entry::new(0x63),
            );
        }
        for number in 0..processes {
            let root = ram.root();
            ram.share(kernel, root, 256..512);
            ram.user(root, 0x40_0000, 0x60_0000 + number * 0x1_0000);
        }
        ram.run(kernel);
        assert_eq!(ram.broken(), [("write-xor-execute", 1)]);
    }
}
