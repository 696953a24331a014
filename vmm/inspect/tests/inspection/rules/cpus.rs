//! On which tables CPUs run.

use heirloom_inspect::{Cr3, Entry, PageSize, PhysAddr, VirtAddr};

use super::{assert_breaks, isolated};
use crate::scene::{Guest, UNUSED, bits, broken, finding};

#[test]
fn a_cpu_on_a_freed_root_is_found() {
    // Its frame has been used again.
    assert_breaks(&["cr3-known"], |guest| {
        let reused = guest.add_reused();
        guest.cpus[1].cr3 = Cr3::new(reused.get());
        let finding = finding(guest, "cr3-known");
        assert_eq!(finding.place, "CR3 of CPU 1");
        assert_eq!(finding.spaces.roots, [reused]);
        assert!(finding.found.contains("not understood"), "{finding:?}");
        assert!(finding.found.contains("has been used again"), "{finding:?}");
    });
    for mut guest in isolated() {
        let freed = guest.add_freed();
        let user = guest.user_root(freed);
        guest.cpus[1].cr3 = Cr3::new(user.get());
        assert_eq!(broken(&guest), ["cr3-known"], "{}", guest.plan);
    }
}

#[test]
fn a_cpu_on_a_root_of_another_making_is_found() {
    assert_breaks(&["cr3-known"], |guest| {
        let foreign = guest.memory.root();
        for (va, flags) in [
            (VirtAddr::new(0x40_0000), bits::USER_TEXT),
            (VirtAddr::new(0xffff_fd00_0000_0000), bits::DATA),
        ] {
            let page = guest.data_page();
            guest.map(foreign, va, page, PageSize::Size4KiB, flags);
        }
        guest.cpus[1].cr3 = Cr3::new(foreign.get());
        let finding = finding(guest, "cr3-known");
        assert!(finding.found.contains("not understood"), "{finding:?}");
        assert!(finding.found.contains("RIP is no code"), "{finding:?}");
    });
}

#[test]
fn what_a_cpus_garbage_would_make_of_other_frames_is_not_judged() {
    assert_breaks(&["cr3-known"], |guest| {
        let garbage = guest.memory.frame();
        for index in 0..512 {
            // Half of them lead to frames that are there.
            let word = u64::from(index).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let entry = match index % 2 {
                0 => Entry::new(word),
                _ => Entry::pointing_to(guest.init, bits::USER_JIT),
            };
            guest.memory.poke(garbage, index, entry);
        }
        guest.cpus[1].cr3 = Cr3::new(garbage.base().get());
    });
}

#[test]
fn a_cpu_whose_cr3_leads_nowhere_is_found() {
    for nowhere in [UNUSED, PhysAddr::new(0x9_0000_0000)] {
        assert_breaks(&["cr3-known"], |guest| {
            guest.cpus[1].cr3 = Cr3::new(nowhere.get());
        });
    }
}

#[test]
fn a_cpu_whose_root_lacks_its_code_or_its_interrupt_table_is_found() {
    const RING_0: (u8, u64) = (0, 2);
    let nowhere = VirtAddr::new(0xffff_fff0_0000_0000);
    for (cpl, rflags) in [RING_0, (0, 0x202), (3, 0x202)] {
        for place in ["RIP of CPU 1", "IDT of CPU 1"] {
            let is_needed = match place {
                "RIP of CPU 1" => cpl == 0,
                _ => (cpl, rflags) != RING_0,
            };
            let broken: &[&str] = if is_needed { &["cr3-known"] } else { &[] };
            assert_breaks(broken, |guest| {
                let cpu = &mut guest.cpus[1];
                (cpu.cpl, cpu.rflags) = (cpl, rflags);
                match place {
                    "RIP of CPU 1" => cpu.rip = nowhere,
                    _ => cpu.idt = Some(nowhere),
                }
                if is_needed {
                    let finding = finding(guest, "cr3-known");
                    assert_eq!(finding.place, place);
                    assert_eq!(finding.address, Some(nowhere));
                    assert!(finding.found.contains("not mapped"), "{finding:?}");
                }
            });
        }
    }
}

#[test]
fn a_cpu_with_pcid_and_the_no_flush_bit_is_on_the_root_that_the_address_bits_name() {
    assert_breaks(&[], |guest| {
        let root = guest.processes[1];
        guest.cpus[1].cr3 = Cr3::new(root.get() | 1 << 63 | 0x7ff);
        guest.cpus[1].cr4 |= 1 << 17;
    });
}

#[test]
fn a_cpu_that_does_not_page_is_on_no_root() {
    assert_breaks(&[], |guest| {
        guest.cpus[1].cr0 = 0x6000_0010;
        guest.cpus[1].cr3 = Cr3::new(0);
    });
}

#[test]
fn a_recording_whose_cpu_is_on_a_root_that_it_does_not_name_says_so() {
    let mut guest = Guest::all().remove(0);
    guest.roots = vec![
        (heirloom_inspect::RootLabel::Kernel, guest.init),
        (heirloom_inspect::RootLabel::Process(1), guest.processes[1]),
    ];
    assert_eq!(broken(&guest), ["cr3-known"]);
    assert!(
        finding(&guest, "cr3-known")
            .found
            .contains("none of the known roots")
    );
    guest.cpus[0].cr3 = Cr3::new(guest.processes[1].get());
    assert_eq!(broken(&guest), [""; 0]);
}
