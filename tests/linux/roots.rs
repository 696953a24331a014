//! The roots that `heirloom roots` finds without symbols, against what the guest says of its processes and
//! what its kernel keeps of roots.

use std::collections::BTreeMap;

use heirloom_inspect::{CpuState, Half, Mapping, PageSize, PhysAddr, RootId, Snapshot, VirtRange};
use serde_json::Value;

use crate::command::{address, ask, list};
use crate::common::linux::Variant;
use crate::common::linux::listing::{Area, Process};
use crate::image::{Image, Partner, partner_of};

/// What a root that was found is said to be.
struct Found {
    kind: String,
    user_pages: u64,
    partner: Option<PhysAddr>,
    cpus: Vec<u64>,
}

/// What `heirloom roots` finds.
fn found(target: &str) -> BTreeMap<PhysAddr, Found> {
    let report = ask(&["roots", target]);
    let root = |root: &Value| {
        let found = Found {
            kind: root["kind"].as_str().unwrap().to_owned(),
            user_pages: root["user_pages"].as_u64().unwrap(),
            partner: root.get("partner").map(address),
            cpus: list(root, "cpus")
                .iter()
                .filter_map(Value::as_u64)
                .collect(),
        };
        (address(&root["address"]), found)
    };
    list(&report, "roots").iter().map(root).collect()
}

/// Every root is what the guest's kernel says it is: in use, the kernel's own, or free memory.
fn every_root_is_known_to_the_kernel(variant: Variant) {
    let image = Image::of(variant);
    let memory = image.moment.open_core();
    let kernel_data = image.kernel_data(&memory);
    let mut found = found(&image.target());
    let in_use = kernel_data.roots();
    let mut take = |root: PhysAddr, expected: &str| {
        let space = found
            .remove(&root)
            .unwrap_or_else(|| panic!("{}: the root {root} was not found", variant.name));
        let kind = &space.kind;
        assert_eq!(kind, expected, "{}: {root}", variant.name);
        assert_eq!(
            space.partner,
            variant.pti.then(|| partner_of(root, Partner::User))
        );
        let Some(partner) = space.partner else {
            return;
        };
        let user = found
            .remove(&partner)
            .unwrap_or_else(|| panic!("{}: no user root of {root}", variant.name));
        let expected = match kind.as_str() {
            same @ ("freed" | "idle") => same,
            _ => "user-root",
        };
        assert_eq!(user.kind, expected, "{}: {partner}", variant.name);
        assert_eq!(user.partner, Some(root));
    };
    take(kernel_data.init_top_pgt(), "kernel");
    let snapshot = image.capture();
    let mut kept = 0;
    for (root, mm) in &in_use {
        let id = id_of(&snapshot, *root);
        let table = snapshot.root_table(id).unwrap();
        let has_user_half = table
            .present()
            .iter()
            .any(|index| Half::of_index(index) == Half::User);
        match (*mm == kernel_data.poking_mm(), has_user_half) {
            (true, _) => take(*root, "no-pages"),
            (false, true) => take(*root, "process"),
            // A process has ended, and a CPU that idles has kept its root for a while. Where a CPU is on
            // it, it is in use; else nothing in the tables tells it from a freed one.
            (false, false) => {
                kept += 1;
                let is_on = |cpu: &CpuState| cpu.cr3.root() == *root;
                let is_used = image.moment.cpus.iter().any(is_on);
                take(*root, if is_used { "kernel" } else { "idle" });
            }
        }
    }
    assert!(kept <= image.moment.cpus.len(), "one for each CPU at most");
    // What nobody owns: the root that CPUs come up on, and free memory that was a root.
    let mut trampolines = 0;
    for (root, space) in &found {
        if space.kind == "trampoline" {
            let table = snapshot_of_one(&memory, *root);
            assert_eq!(table[0], kernel_data.trampoline_entry(), "{}", variant.name);
            trampolines += 1;
            continue;
        }
        assert!(
            ["freed", "idle"].contains(&space.kind.as_str()),
            "{}: {root} is {}",
            variant.name,
            space.kind
        );
        assert!(
            kernel_data.is_free(root.pfn()),
            "{}: {root} is said to be idle or freed, but is in use",
            variant.name
        );
    }
    assert_eq!(trampolines, 1, "{}", variant.name);
    assert!(
        found
            .values()
            .any(|space| ["freed", "idle"].contains(&space.kind.as_str())),
        "{}: the guest has left no freed root to find",
        variant.name
    );
}

fn snapshot_of_one(memory: &impl heirloom_inspect::PhysicalMemory, root: PhysAddr) -> [u64; 512] {
    let mut words = [0; 512];
    memory.read_table(root.pfn(), &mut words).unwrap();
    words
}

fn id_of(snapshot: &Snapshot, address: PhysAddr) -> RootId {
    let root = snapshot.roots().iter().find(|root| root.address == address);
    root.unwrap().id
}

#[test]
fn with_kpti_every_root_is_what_the_kernel_itself_knows_it_to_be() {
    every_root_is_known_to_the_kernel(Variant::PTI_ON);
}

#[test]
fn without_kpti_every_root_is_what_the_kernel_itself_knows_it_to_be() {
    every_root_is_known_to_the_kernel(Variant::PTI_OFF);
}

#[test]
fn with_five_levels_and_kpti_every_root_is_what_the_kernel_itself_knows_it_to_be() {
    every_root_is_known_to_the_kernel(Variant::LA57_PTI_ON);
}

#[test]
fn with_five_levels_every_root_is_what_the_kernel_itself_knows_it_to_be() {
    every_root_is_known_to_the_kernel(Variant::LA57_PTI_OFF);
}

/// The pages that ring 3 can access in the user half.
fn user_pages(snapshot: &Snapshot, root: PhysAddr) -> Vec<Mapping> {
    snapshot
        .leaves(id_of(snapshot, root), VirtRange::half(Half::User))
        .filter(|page| page.rights.user)
        .collect()
}

/// Whether all these pages are the process's: its stack among them, and none outside of its areas.
fn fits(pages: &[Mapping], process: &Process) -> bool {
    let is_stack = |page: &Mapping| {
        let area = process.area_of(page.va.get());
        area.is_some_and(|area| area.name == "[stack]")
    };
    pages.iter().any(is_stack)
        && pages.iter().all(|page| {
            let area = process.area_of(page.va.get());
            area.is_some_and(|area| page.range().last.get() < area.end)
        })
}

/// Every process that the guest lists has one root, whose pages lie in the process's areas with no
/// more rights than these have; and every process root is one of theirs. Processes that forked have
/// the same areas, so a group of such has as many roots as processes.
fn every_process_has_its_root(variant: Variant) {
    let image = Image::of(variant);
    let snapshot = image.capture();
    let mut groups: BTreeMap<&[Area], Vec<&Process>> = BTreeMap::new();
    for (_, process) in image.guest.listing.with_memory() {
        groups.entry(&process.areas).or_default().push(process);
    }
    let mut roots: BTreeMap<&[Area], Vec<PhysAddr>> = BTreeMap::new();
    let mut large = false;
    let found = found(&image.target());
    for (root, space) in found.iter().filter(|(_, space)| space.kind == "process") {
        let pages = user_pages(&snapshot, *root);
        assert_eq!(space.user_pages, pages.len() as u64);
        let mut owners = groups.iter().filter(|(_, group)| fits(&pages, group[0]));
        let (areas, group) = owners
            .next()
            .unwrap_or_else(|| panic!("{}: {root} is no process's", variant.name));
        assert!(owners.next().is_none(), "{root} fits two processes");
        roots.entry(areas).or_default().push(*root);
        // What ring 3 may do is in the user root, where there is one.
        let ring_3 = match space.partner {
            Some(user) => user_pages(&snapshot, user),
            None => pages,
        };
        for page in ring_3 {
            large |= page.size != PageSize::Size4KiB;
            let area = group[0].area_of(page.va.get()).unwrap();
            let may = |letter| area.rights.contains(letter);
            assert!(
                may('r') && (may('w') || !page.rights.write) && (may('x') || !page.rights.execute),
                "{}: {root} has {page:?} in {area:?}",
                variant.name
            );
        }
    }
    for (areas, group) in &groups {
        let spaces = match group[0].name.as_str() {
            // The child of vfork is in its parent's address space.
            "vfork" => group.len() - 1,
            _ => group.len(),
        };
        let roots = roots.get(areas).map_or(0, Vec::len);
        assert_eq!(
            roots, spaces,
            "{}: roots of {}",
            variant.name, group[0].name
        );
    }
    // What the workload's names promise is there.
    let processes = image.guest.listing.with_memory().count();
    assert_eq!(processes, 64, "{}", variant.name);
    assert!(large, "{}: no process has a large page", variant.name);
}

#[test]
fn with_kpti_every_process_that_the_guest_lists_has_its_root_with_its_pages_and_no_others() {
    every_process_has_its_root(Variant::PTI_ON);
}

#[test]
fn without_kpti_every_process_that_the_guest_lists_has_its_root_with_its_pages_and_no_others() {
    every_process_has_its_root(Variant::PTI_OFF);
}

#[test]
fn with_five_levels_every_process_that_the_guest_lists_has_its_root_with_its_pages_and_no_others() {
    every_process_has_its_root(Variant::LA57_PTI_ON);
    every_process_has_its_root(Variant::LA57_PTI_OFF);
}

#[test]
fn every_cpu_is_on_the_root_that_its_cr3_says_in_ring_3_on_a_user_root() {
    for variant in Variant::ALL {
        let image = Image::of(variant);
        let found = found(&image.target());
        for (number, cpu) in (0..).zip(&image.moment.cpus) {
            let space = &found[&cpu.cr3.root()];
            assert!(space.cpus.contains(&number), "{}", variant.name);
            if variant.pti && cpu.cpl == 3 {
                assert_eq!(space.kind, "user-root", "{}", variant.name);
            }
        }
        let named: usize = found.values().map(|space| space.cpus.len()).sum();
        assert_eq!(named, image.moment.cpus.len(), "{}", variant.name);
    }
}
