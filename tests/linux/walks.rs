//! Every leaf that we find, and single translations, against QEMU's own walker, in every address space.

use std::fmt::Write as _;

use heirloom_inspect::{Depth, Mapping, PageSize, PhysAddr, RootId, Snapshot, VirtAddr, VirtRange};

use crate::common::linux::Variant;
use crate::common::linux::qmp::Qmp;
use crate::common::linux::tlb::{self, Line};
use crate::image::Image;

/// Translations that are tried in each address space, at least.
const FEWEST_TRANSLATIONS: usize = 60;

/// Where the two lists differ, as a person wants to read it.
fn differences(ours: &[Line], qemus: &[Line]) -> String {
    let mut text = String::new();
    let at = ours
        .iter()
        .zip(qemus)
        .position(|(ours, qemus)| ours != qemus);
    let at = at.unwrap_or(ours.len().min(qemus.len()));
    let _ = write!(
        text,
        "{} leaves, QEMU has {}; the first difference is number {at}: {:x?}, QEMU: {:x?}",
        ours.len(),
        qemus.len(),
        ours.get(at),
        qemus.get(at)
    );
    text
}

fn pages(snapshot: &Snapshot, root: RootId) -> Vec<Mapping> {
    snapshot.leaves(root, VirtRange::ALL).collect()
}

/// Every leaf of every address space, both ways: nothing is missing and nothing is too much.
fn leaves_are_those_of_qemu(variant: Variant) {
    let image = Image::of(variant);
    let snapshot = image.capture();
    let mut machine = image.machine();
    for root in snapshot.roots() {
        let ours: Vec<Line> = pages(&snapshot, root.id).iter().map(tlb::line_of).collect();
        let text = machine.with_root(root.address, |qmp| qmp.monitor("info tlb"));
        let qemus = tlb::parse(&text);
        assert!(!qemus.is_empty());
        assert!(
            ours == qemus,
            "{}, root {}: {}",
            variant.name,
            root.address,
            differences(&ours, &qemus)
        );
    }
}

#[test]
fn with_kpti_every_leaf_of_both_roots_of_every_process_is_the_one_that_qemu_finds() {
    leaves_are_those_of_qemu(Variant::PTI_ON);
}

#[test]
fn without_kpti_every_leaf_of_every_process_is_the_one_that_qemu_finds() {
    leaves_are_those_of_qemu(Variant::PTI_OFF);
}

#[test]
fn with_five_levels_and_kpti_every_leaf_is_the_one_that_qemu_finds() {
    leaves_are_those_of_qemu(Variant::LA57_PTI_ON);
}

#[test]
fn with_five_levels_every_leaf_is_the_one_that_qemu_finds() {
    leaves_are_those_of_qemu(Variant::LA57_PTI_OFF);
}

/// Addresses worth trying in an address space with these pages: inside pages of each size, at their
/// borders, between them, and where no address can be.
fn addresses(pages: &[Mapping], depth: Depth) -> Vec<VirtAddr> {
    let mut addresses = Vec::new();
    for size in PageSize::ALL {
        let some: Vec<&Mapping> = pages.iter().filter(|page| page.size == size).collect();
        for page in some.iter().step_by((some.len() / 12).max(1)) {
            let inside = page.va.get() / 7 % size.bytes();
            addresses.extend([
                page.va,
                page.va.wrapping_add(inside),
                page.va.wrapping_add(size.bytes() - 1),
                page.va.wrapping_add(size.bytes()),
                page.va.wrapping_add(size.bytes().wrapping_neg()),
            ]);
        }
    }
    let hole = 1_u64 << (depth.virtual_bits() - 1);
    let edges = [
        0,
        0xfff,
        hole - 1,
        hole,
        hole + 0x1234,
        0u64.wrapping_sub(hole) - 1,
        0u64.wrapping_sub(hole),
        1 << 63,
        u64::MAX,
    ];
    addresses.extend(edges.map(VirtAddr::new));
    addresses
}

/// What `gva2gpa` says.
fn qemus_translation(qmp: &mut Qmp, va: VirtAddr) -> Option<PhysAddr> {
    let answer = qmp.monitor(&format!("gva2gpa {va:#x}"));
    if answer.trim() == "Unmapped" {
        return None;
    }
    // Zero comes without `0x`.
    let number = answer.trim().strip_prefix("gpa: ");
    let number = number.unwrap_or_else(|| panic!("gva2gpa {va:#x}: {answer}"));
    let digits = number.trim_start_matches("0x");
    Some(PhysAddr::new(u64::from_str_radix(digits, 16).unwrap()))
}

fn translations_are_those_of_qemu(variant: Variant) {
    let image = Image::of(variant);
    let snapshot = image.capture();
    let mut machine = image.machine();
    let (mut mapped, mut unmapped) = (0, 0);
    for root in snapshot.roots() {
        let addresses = addresses(&pages(&snapshot, root.id), snapshot.mode().depth);
        assert!(addresses.len() >= FEWEST_TRANSLATIONS);
        machine.with_root(root.address, |qmp| {
            for va in addresses {
                let walk = snapshot.translate(root.id, va);
                let ours = walk.translation().map(|translation| translation.pa);
                assert_eq!(ours, qemus_translation(qmp, va), "{}: {walk}", variant.name);
                match ours {
                    Some(_) => mapped += 1,
                    None => unmapped += 1,
                }
            }
        });
    }
    assert!(mapped > 1000 && unmapped > 500, "{mapped}, {unmapped}");
}

#[test]
fn with_four_levels_addresses_translate_as_qemu_translates_them() {
    translations_are_those_of_qemu(Variant::PTI_OFF);
}

#[test]
fn with_five_levels_addresses_translate_as_qemu_translates_them() {
    translations_are_those_of_qemu(Variant::LA57_PTI_ON);
}
