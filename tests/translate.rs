//! The walker against KVM: `KVM_TRANSLATE` walks the tables of the CPU's present address space with
//! KVM's own code, and must find what [`Snapshot::translate`] finds.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::time::Instant;

use heirloom_abi::PAGE_SIZE;
use heirloom_abi::event::{DOORBELL_PORT, ProbePage};
use heirloom_abi::layout::Region;
use heirloom_abi::propagation::{Promise, Strategy};
use heirloom_harness::event::{Event, EventKind};
use heirloom_harness::machine_target::cpu_state;
use heirloom_inspect::memory::Words;
use heirloom_inspect::paging::mode::PhysBits;
use heirloom_inspect::{
    Capturer, Depth, Fault, Level, Mapping, Mode, PageSize, Pfn, PhysAddr, RootLabel, Snapshot,
    VirtAddr, VirtRange, Written,
};
use heirloom_machine::{Config, GuestAddress, GuestVirtual, KernelImage, Machine, Module, Stop};
use vm_memory::Bytes;
use zerocopy::FromBytes;

use common::AMPLE;
use common::guest::extract;

/// The second PGD entry of the vmalloc area, PGD[403], which nothing uses at first.
const SECOND_VMALLOC_ENTRY: u64 =
    Region::Vmalloc.start(Depth::Four) + Depth::Four.top().entry_span();
/// Just below it, as `heirloom run` has it, so that a large allocation crosses the boundary.
const VMALLOC_START: u64 = SECOND_VMALLOC_ENTRY - 8 * PAGE_SIZE;

/// The embedded guest on KVM, and the tables of the address space that its CPU has.
struct Guest {
    machine: Machine,
    capturer: Capturer,
    deadline: Instant,
    compared: Compared,
}

/// How many addresses KVM and the walker were asked about.
#[derive(Clone, Copy, Debug, Default)]
struct Compared {
    mapped: u64,
    unmapped: u64,
}

impl Guest {
    /// A family of twelve, before it runs.
    fn new(memory: &str, propagation: &str) -> Guest {
        let files = extract();
        let config = Config {
            memory: memory.parse().unwrap(),
            kernel: KernelImage::read(&files.kernel).unwrap(),
            command_line: format!(
                "init=family probe fresh-memory=zero propagation={propagation} \
                 vmalloc-start={VMALLOC_START:#x} -- 12"
            ),
            modules: vec![Module {
                name: "programs".into(),
                bytes: fs::read(&files.programs).unwrap().into(),
            }],
            console: Box::new(io::sink()),
            cpus: heirloom_machine::Cpus::default(),
            doorbell: Some(DOORBELL_PORT),
        };
        let mut machine =
            Machine::new(config).unwrap_or_else(|error| panic!("this test needs KVM: {error}"));
        machine.log_writes();
        Guest {
            machine,
            capturer: Capturer::new(),
            deadline: Instant::now() + AMPLE,
            compared: Compared::default(),
        }
    }

    /// Runs to the next event, and captures.
    fn next(&mut self) -> (Event, Snapshot) {
        let stop = self.machine.run(self.deadline).unwrap();
        let Stop::Doorbell { value: frame } = stop else {
            panic!("the guest did not ring: {stop:?}");
        };
        let mut bytes = [0; size_of::<ProbePage>()];
        let address = GuestAddress(u64::from(frame) * PAGE_SIZE);
        self.machine
            .memory()
            .read_slice(&mut bytes, address)
            .unwrap();
        let told = Event::decode(&ProbePage::read_from_bytes(&bytes).unwrap()).unwrap();

        let cpu = cpu_state(&self.machine.registers().unwrap());
        let phys_bits = PhysBits::new(self.machine.max_phys_addr().into()).unwrap();
        let mode = Mode::of_cpu(&cpu, phys_bits, self.machine.gigabyte_pages()).unwrap();
        let root = [(RootLabel::Cpu(told.cpu), cpu.cr3.root())];
        let written = self.machine.take_written_frames();
        let written = written
            .as_deref()
            .map_or(Written::Anything, Written::Frames);
        let memory = self.machine.memory();
        let snapshot = self.capturer.capture_written(memory, mode, &root, written);
        let fresh = Capturer::new().capture(memory, mode, &root);
        assert_eq!(
            tables(&snapshot),
            tables(&fresh),
            "KVM's log of writes (left) does not tell all that was written"
        );
        (told, snapshot)
    }

    /// What KVM makes of `va` now.
    fn kvm(&self, va: u64) -> Option<PhysAddr> {
        let found = self.machine.translate(GuestVirtual(va)).unwrap();
        found.map(|address| PhysAddr::new(address.0))
    }

    /// Asks both about canonical addresses.
    fn compare(&mut self, snapshot: &Snapshot, addresses: impl IntoIterator<Item = u64>) {
        let root = snapshot.roots()[0].id;
        for va in addresses {
            let walk = snapshot.translate(root, VirtAddr::new(va));
            let found = walk.translation().map(|page| page.pa);
            assert_eq!(
                self.kvm(va),
                found,
                "KVM (left) contradicts the walk {walk}"
            );
            match found {
                Some(_) => self.compared.mapped += 1,
                None => self.compared.unmapped += 1,
            }
        }
    }
}

/// Every table with its words, A and D included.
fn tables(snapshot: &Snapshot) -> BTreeMap<(Pfn, Level), &Words> {
    let tables = snapshot.tables();
    let keyed = tables.map(|table| ((table.pfn(), table.level()), &**table.words()));
    keyed.collect()
}

/// Every page that the address space maps.
fn pages(snapshot: &Snapshot) -> impl Iterator<Item = Mapping> {
    snapshot.leaves(snapshot.roots()[0].id, VirtRange::ALL)
}

/// The canonical addresses that tell most about an address space: ends and neighbours of every page,
/// the inside of large ones, and the borders of regions, of PGD entries and of the canonical hole.
fn telling_addresses(snapshot: &Snapshot) -> BTreeSet<u64> {
    let mut addresses = BTreeSet::new();
    for page in pages(snapshot) {
        let VirtRange { first, last } = page.range();
        addresses.extend(around(first.get(), last.get()));
        if page.size != PageSize::Size4KiB {
            let part = page.size.bytes() / 8;
            addresses.extend((1..8).map(|number| first.get() + number * part + 0x123));
        }
    }
    for region in Region::ALL {
        let VirtRange { first, last } =
            heirloom_harness::region::range_of_region(region, Depth::Four);
        addresses.extend(around(first.get(), last.get()));
    }
    for entry in 0..512 {
        let VirtRange { first, last } = VirtRange::of_top_entry(entry, Depth::Four);
        addresses.extend([first.get(), last.get()]);
    }
    addresses.retain(|va| VirtAddr::new(*va).is_canonical(Depth::Four));
    addresses
}

/// Both ends, and the addresses next to them outside.
fn around(first: u64, last: u64) -> [u64; 4] {
    [first.wrapping_sub(1), first, last, last.wrapping_add(1)]
}

/// Whether the event changes something about the tables, or is an access across the PGD boundary; the
/// others would only repeat.
fn is_telling(claim: &EventKind) -> bool {
    match claim {
        EventKind::KernelAccess { address, .. } => *address >= SECOND_VMALLOC_ENTRY,
        _ => true,
    }
}

#[test]
fn on_kvm_cpu_and_walker_agree_on_every_page_and_its_neighbours_throughout_a_run() {
    let mut guest = Guest::new("64M", "prealloc");
    let mut stops = BTreeSet::new();
    loop {
        let (told, snapshot) = guest.next();
        if !is_telling(&told.claim) {
            continue;
        }
        let addresses = telling_addresses(&snapshot);
        assert!(pages(&snapshot).all(|page| addresses.contains(&page.va.get())));
        let before = guest.compared;
        guest.compare(&snapshot, addresses);
        assert!(guest.compared.mapped - before.mapped > 1000, "{told:?}");
        assert!(guest.compared.unmapped - before.unmapped > 900, "{told:?}");
        let name = match told.claim {
            EventKind::Boot { .. } => "the kernel is up",
            EventKind::KernelMapped { .. } => "kernel memory was mapped",
            EventKind::KernelProtected { .. } => "kernel memory was made read-only",
            EventKind::KernelUnmapped { .. } => "kernel memory was freed",
            EventKind::KernelAccess { .. } => {
                assert!(told.counters.processes_live >= 12, "{told:?}");
                "twelve processes see memory across the PGD boundary"
            }
            EventKind::Done { .. } => break,
            _ => continue,
        };
        stops.insert(name);
    }
    assert_eq!(stops.len(), 5, "{stops:?}");
    assert!(guest.compared.mapped > 100_000, "{:?}", guest.compared);
}

#[test]
fn on_kvm_cpu_and_walker_agree_in_whose_tables_a_new_pgd_entry_is_missing() {
    let mut guest = Guest::new("64M", "none");
    let (mut present, mut missing) = (0, 0);
    loop {
        let (told, snapshot) = guest.next();
        match told.claim {
            EventKind::Done { .. } => break,
            EventKind::KernelAccess { address, fault, .. } if address >= SECOND_VMALLOC_ENTRY => {
                guest.compare(&snapshot, telling_addresses(&snapshot));
                guest.compare(&snapshot, [address]);
                // KVM, the walker and the CPU itself are of one mind.
                assert_eq!(guest.kvm(address).is_none(), fault.is_some(), "{told:?}");
                match fault {
                    None => present += 1,
                    Some(_) => missing += 1,
                }
            }
            _ => {}
        }
    }
    assert!(present >= 1 && missing >= 11, "{present} {missing}");
}

#[test]
fn on_kvm_cpu_and_walker_agree_with_every_strategy_on_memory_below_a_new_pgd_entry() {
    for strategy in Strategy::ALL {
        if !strategy.propagates() {
            continue;
        }
        let mut guest = Guest::new("64M", strategy.name());
        let mut roots = BTreeSet::new();
        let mut reads = 0;
        loop {
            let (told, snapshot) = guest.next();
            match told.claim {
                EventKind::Done { .. } => break,
                EventKind::KernelAccess { address, .. } if address >= SECOND_VMALLOC_ENTRY => {
                    guest.compare(&snapshot, telling_addresses(&snapshot));
                    assert!(guest.kvm(address).is_some(), "{strategy:?}: {told:?}");
                    roots.insert(snapshot.roots()[0].address);
                    reads += 1;
                }
                _ => {}
            }
        }
        assert!(reads >= 12, "{strategy:?}: {reads}");
        // With a root of its own, the kernel is in that one whoever called it.
        let expected = if strategy.promise() == Promise::EntryAreaOnly {
            1
        } else {
            12
        };
        assert_eq!(roots.len(), expected, "{strategy:?}");
    }
}

#[test]
fn on_kvm_cpu_and_walker_agree_on_ram_above_four_gibibytes() {
    const GIB: u64 = 1 << 30;
    let mut guest = Guest::new("6G", "prealloc");
    let (told, snapshot) = guest.next();
    assert!(matches!(told.claim, EventKind::Boot { .. }), "{told:?}");
    guest.compare(&snapshot, telling_addresses(&snapshot));
    let at = |physical: u64| Region::DirectMap.start(Depth::Four) + physical;
    for physical in [4 * GIB, 5 * GIB + 0x1234, 7 * GIB - 1] {
        guest.compare(&snapshot, [at(physical)]);
        assert_eq!(guest.kvm(at(physical)), Some(PhysAddr::new(physical)));
    }
    for outside in [3 * GIB, 4 * GIB - 1, 7 * GIB] {
        guest.compare(&snapshot, [at(outside)]);
        assert_eq!(guest.kvm(at(outside)), None);
    }
}

/// The other comparisons take their addresses from the tables; this one takes them from the layout, so
/// that a page that the walker does not list is found too.
#[test]
fn on_kvm_cpu_and_walker_agree_page_by_page_where_the_layout_puts_things() {
    const MIB: u64 = 1 << 20;
    let mut guest = Guest::new("64M", "prealloc");
    let snapshot = loop {
        let (told, snapshot) = guest.next();
        if matches!(told.claim, EventKind::KernelAccess { address, .. } if address >= SECOND_VMALLOC_ENTRY)
        {
            break snapshot;
        }
    };
    for (start, bytes) in [
        (0, 8 * MIB),
        (Region::User.end(Depth::Four) - MIB, MIB),
        (Region::DirectMap.start(Depth::Four), 66 * MIB),
        (VMALLOC_START - 64 * PAGE_SIZE, 128 * PAGE_SIZE),
        (Region::Vmemmap.start(Depth::Four), 2 * MIB),
        (Region::CpuEntryArea.start(Depth::Four), 2 * MIB),
        (Region::KernelImage.start(Depth::Four), 6 * MIB),
    ] {
        let addresses = (0..bytes / PAGE_SIZE).map(|page| start + page * PAGE_SIZE);
        guest.compare(&snapshot, addresses);
    }
    let listed: u64 = pages(&snapshot)
        .map(|page| page.size.bytes() / PAGE_SIZE)
        .sum();
    assert_eq!(
        guest.compared.mapped, listed,
        "pages found and pages listed"
    );
}

/// KVM's only answer that is not the CPU's: the CPU refuses a non-canonical address before it looks at
/// a table (Intel SDM vol. 1, 3.3.7.1), but `KVM_TRANSLATE` starts at the tables, where bits 63–48 are
/// not used. So KVM may find there what the canonical address with the same low bits maps.
#[test]
fn on_kvm_more_is_found_than_by_the_walker_only_of_addresses_that_are_not_canonical() {
    let mut guest = Guest::new("64M", "prealloc");
    let (_, snapshot) = guest.next();
    let root = snapshot.roots()[0].id;
    let borders = [Region::User.end(Depth::Four), 0xffff_7fff_ffff_ffff];
    let aliases = pages(&snapshot)
        .step_by(7)
        .flat_map(|page| [63, 48, 47].map(|bit| page.va.get() ^ 1 << bit));
    let mut compared = 0;
    for va in aliases.chain(borders) {
        let address = VirtAddr::new(va);
        let walk = snapshot.translate(root, address);
        assert_eq!(
            walk.result,
            Err(Fault::NonCanonical { depth: Depth::Four }),
            "{walk}"
        );
        let canonical = VirtAddr::sign_extended(va, Depth::Four);
        let without_high_bits = snapshot.translate(root, canonical);
        let found = guest.kvm(va);
        assert!(
            found.is_none() || found == without_high_bits.translation().map(|page| page.pa),
            "KVM found {found:?}, but: {without_high_bits}"
        );
        compared += 1;
    }
    assert!(compared > 300, "{compared}");
}
