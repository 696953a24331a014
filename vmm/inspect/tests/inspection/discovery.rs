//! Every root of the guest is found and named for what it is, whatever the search begins with.

use std::collections::BTreeMap;

use heirloom_inspect::check::Strictness;
use heirloom_inspect::discover::{Basis, DiscoverError, Kind};
use heirloom_inspect::{Check, Cr3, Depth, Discovery, Entry, PhysAddr, RootLabel};

use crate::scene::{Guest, PAGE, Plan, TRAMPOLINE};

pub(crate) fn kinds(discovery: &Discovery) -> BTreeMap<PhysAddr, Kind> {
    let spaces = discovery.spaces.iter();
    spaces.map(|space| (space.address, space.kind)).collect()
}

/// What the guest has: each root with its kind.
pub(crate) fn expected(guest: &Guest) -> BTreeMap<PhysAddr, Kind> {
    let mut roots: BTreeMap<_, _> = guest
        .processes
        .iter()
        .map(|root| (*root, Kind::Process))
        .collect();
    roots.insert(guest.init, Kind::Kernel);
    roots.insert(guest.poking, Kind::NoPages);
    if guest.plan.kpti {
        let kernels: Vec<_> = roots.keys().copied().collect();
        roots.extend(
            kernels
                .iter()
                .map(|root| (guest.user_root(*root), Kind::UserRoot)),
        );
    }
    roots.insert(TRAMPOLINE.base(), Kind::Trampoline);
    roots
}

#[track_caller]
fn assert_complete(guest: &Guest, basis: Basis) -> Discovery {
    let discovery = guest.discover();
    assert_eq!(kinds(&discovery), expected(guest), "{}", guest.plan);
    assert_eq!(discovery.basis, basis, "{}", guest.plan);
    assert_eq!(discovery.mode().depth, guest.plan.depth);
    for space in &discovery.spaces {
        let partner = match (guest.plan.kpti, space.kind) {
            (false, _) | (_, Kind::Trampoline) => None,
            (true, Kind::UserRoot) => Some(PhysAddr::new(space.address.get() - PAGE)),
            (true, _) => Some(guest.user_root(space.address)),
        };
        assert_eq!(space.partner, partner, "{}: {space:?}", guest.plan);
        assert_eq!(space.differences, [], "{}: {space:?}", guest.plan);
    }
    assert_eq!(
        discovery
            .reference
            .map(|root| discovery.space(root).address),
        Some(guest.init)
    );
    discovery
}

pub(crate) fn guests() -> impl Iterator<Item = Guest> {
    Guest::all().into_iter()
}

#[test]
fn the_root_that_a_cpu_is_on_leads_to_all_others() {
    for mut guest in guests() {
        guest.cpus.truncate(1);
        let discovery = assert_complete(&guest, Basis::Cr3);
        let of_cpu: Vec<_> = discovery
            .spaces
            .iter()
            .filter(|space| !space.cpus.is_empty())
            .collect();
        assert_eq!(of_cpu.len(), 1);
        assert_eq!(
            (of_cpu[0].address, &of_cpu[0].cpus[..]),
            (guest.processes[0], &[0][..])
        );
    }
}

#[test]
fn a_cpu_that_was_stopped_in_ring_3_is_on_a_user_root_which_is_paired_first() {
    for mut guest in guests().filter(|guest| guest.plan.kpti) {
        // As Linux writes CR3 on the way to ring 3: no flush, and the PCID of the user root.
        let user = guest.user_root(guest.processes[1]);
        guest.cpus.truncate(1);
        guest.cpus[0].cr3 = Cr3::new(1 << 63 | user.get() | 0x803);
        guest.cpus[0].cr4 |= 1 << 17;
        guest.cpus[0].cpl = 3;
        let discovery = assert_complete(&guest, Basis::Cr3);
        assert_eq!(discovery.space_at(user).unwrap().cpus, [0]);
        let map = discovery.layout.direct_map.unwrap();
        assert_eq!(map.base, guest.plan.bases.direct_map);
    }
}

#[test]
fn an_idle_cpu_is_on_the_kernels_own_root() {
    for mut guest in guests() {
        guest.cpus = vec![guest.cpu(guest.init)];
        let discovery = assert_complete(&guest, Basis::Cr3);
        assert_eq!(discovery.space_at(guest.init).unwrap().cpus, [0]);
    }
}

#[test]
fn a_cpu_without_paging_or_with_another_depth_is_left_out_and_said_to_be() {
    for mut guest in guests() {
        let mut off = guest.cpu(PhysAddr::new(0));
        off.cr0 = 0x6000_0010;
        let mut other = guest.cpu(PhysAddr::new(0x5000));
        other.cr4 ^= 1 << 12;
        let on = guest.cpu(guest.processes[0]);
        guest.cpus = vec![off, on, other];
        let discovery = assert_complete(&guest, Basis::Cr3);
        let notes = discovery.notes.join("\n");
        assert!(notes.contains("CPU 0 is left out"), "{notes}");
        let (ours, theirs) = match guest.plan.depth {
            Depth::Four => (4, 5),
            Depth::Five => (5, 4),
        };
        let wanted = format!("CPU 2 pages with {theirs} levels, CPU 1 with {ours}");
        assert!(notes.contains(&wanted), "{notes}");
        // Nor is it told of a root that it is on.
        assert_eq!(discovery.space_at(guest.processes[0]).unwrap().cpus, [1]);
        assert!(Check::of(&discovery, Strictness::default()).holds);
    }
}

#[test]
fn a_root_that_is_where_a_cpu_without_paging_has_its_cr3_is_not_that_cpus() {
    let mut guest = Guest::new(Plan::new(Depth::Four, false));
    let mut off = guest.cpu(guest.processes[1]);
    off.cr0 = 0x11;
    guest.cpus = vec![guest.cpu(guest.processes[0]), off];
    let discovery = guest.discover();
    assert_eq!(discovery.space_at(guest.processes[1]).unwrap().cpus, [0; 0]);
}

#[test]
fn guests_whose_cpus_all_have_paging_off_are_an_error_that_says_so() {
    let mut guest = Guest::new(Plan::new(Depth::Four, false));
    for cpu in &mut guest.cpus {
        cpu.cr0 = 0x11;
    }
    let error = Discovery::of(&guest.target()).unwrap_err();
    assert!(matches!(error, DiscoverError::Mode { .. }));
    let text = error.to_string();
    assert!(
        text.contains("raw:guest") && text.contains("paging off"),
        "{text}"
    );
}

#[test]
fn a_root_without_cr4_is_read_with_the_depth_that_shows_most_of_ram() {
    for mut guest in guests() {
        guest.cpus.clear();
        guest.roots = vec![(RootLabel::Cpu(0), guest.processes[0])];
        let discovery = assert_complete(&guest, Basis::Cr3);
        let notes = discovery.notes.join("\n");
        let wanted = format!("CR4 is not known: {} levels", guest.plan.depth.levels());
        assert!(notes.contains(&wanted), "{notes}");
        // What the target knows of the depth is not weighed against anything.
        guest.depth = Some(guest.plan.depth);
        let discovery = assert_complete(&guest, Basis::Cr3);
        assert_eq!(discovery.notes, [""; 0]);
    }
}

#[test]
fn without_any_cr3_kernel_halves_are_found_by_what_they_show() {
    for mut guest in guests() {
        guest.cpus.clear();
        assert_complete(&guest, Basis::Blind);
        guest.depth = Some(guest.plan.depth);
        assert_complete(&guest, Basis::Blind);
    }
}

#[test]
fn a_kernel_that_does_not_use_the_last_entry_is_found_without_a_cr3_too() {
    for mut guest in guests().filter(|guest| !guest.plan.kpti) {
        guest.cpus.clear();
        for root in [guest.init, guest.poking]
            .into_iter()
            .chain(guest.processes.clone())
        {
            guest.memory.poke(root.pfn(), 511, Entry::ABSENT);
        }
        let discovery = guest.discover();
        assert_eq!(discovery.basis, Basis::Blind);
        for root in &guest.processes {
            assert_eq!(discovery.space_at(*root).unwrap().kind, Kind::Process);
        }
    }
}

#[test]
fn memory_without_page_tables_is_a_clear_error() {
    let mut guest = Guest::new(Plan::new(Depth::Four, false));
    guest.cpus.clear();
    guest.memory = heirloom_inspect::testing::FakeMemory::new();
    let error = Discovery::of(&guest.target()).unwrap_err();
    assert_eq!(
        error,
        DiscoverError::Nothing {
            name: "raw:guest".into(),
            mib: 64
        }
    );
    let text = error.to_string();
    assert!(
        text.contains("no page tables found in 64 MiB") && text.contains("cr3="),
        "{text}"
    );
    guest.ram.clear();
    assert!(Discovery::of(&guest.target()).is_err());
}

#[test]
fn a_recording_has_the_roots_that_it_names_in_its_order_and_no_others() {
    for mut guest in guests() {
        guest.cpus.truncate(1);
        guest.roots = vec![(RootLabel::Kernel, guest.init)];
        for (pid, root) in (1..).zip(guest.processes.iter().rev().take(2)) {
            guest.roots.push((RootLabel::Process(pid), *root));
        }
        // A process that has nothing yet; its recording knows that it lives.
        let young = guest.add_root();
        guest.roots.push((RootLabel::Process(9), young));
        let discovery = guest.discover();
        assert_eq!(discovery.basis, Basis::Given);
        let found: Vec<_> = discovery
            .spaces
            .iter()
            .map(|space| (space.label, space.address))
            .collect();
        assert_eq!(found, guest.roots, "{}", guest.plan);
        let kinds: Vec<_> = discovery.spaces.iter().map(|space| space.kind).collect();
        assert_eq!(
            kinds,
            [Kind::Kernel, Kind::Process, Kind::Process, Kind::NoPages,]
        );
    }
}
