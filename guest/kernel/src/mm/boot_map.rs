//! The kernel's own page tables, built once at boot: direct map, vmemmap, kernel image.
//!
//! Two rules are kept from the first table on: nothing is writable and executable (the image's
//! segments have their own permissions, everything else is NX), and text and constants have no
//! writable alias (the direct map shows them read-only).

use super::frame::{FrameAllocator, PAGE_INFO_SIZE, Use};
use super::half::{AddressHalf, KernelHalf, UserHalf};
use super::propagation::Propagation;
use super::root::{KernelRoot, Root};
use super::table::{Node, Table};
use super::{
    Entry, Level, OutOfFrames, Pfn, PhysAddr, VirtAddr, depth, direct_map, page_down, page_up,
    protection,
};
use crate::arch::apic;
use crate::arch::cpu::Features;
use crate::arch::descriptors::Data;
use crate::arch::entry_area::{self, Place};
use crate::boot::memory_map::{Range, Ranges};
use crate::fault_injection::inject;
use crate::probe;
use heirloom_abi::PAGE_SIZE;
use heirloom_abi::bugs::Bug;
use heirloom_abi::event::ProbePage;
use heirloom_abi::layout::Region;

unsafe extern "C" {
    static __text_start: u8;
    static __text_end: u8;
    static __rodata_start: u8;
    static __rodata_end: u8;
    static __data_start: u8;
    static __data_end: u8;
}

/// Where the segments of the kernel image lie, virtual, whole pages.
#[derive(Clone, Copy)]
pub struct Image {
    pub text: (VirtAddr, VirtAddr),
    pub rodata: (VirtAddr, VirtAddr),
    pub data: (VirtAddr, VirtAddr),
}

/// The running kernel's image, as the linker script laid it out.
pub fn image() -> Image {
    let at = |symbol: *const u8| VirtAddr::new(symbol as u64);
    Image {
        text: (at(&raw const __text_start), at(&raw const __text_end)),
        rodata: (at(&raw const __rodata_start), at(&raw const __rodata_end)),
        data: (at(&raw const __data_start), at(&raw const __data_end)),
    }
}

impl Image {
    /// The frames of the whole image.
    pub fn frames(self) -> Range {
        frames_of(self.text.0, self.data.1)
    }

    /// The frames that nobody may write to: text and constants.
    fn read_only_frames(self) -> Range {
        frames_of(self.text.0, self.rodata.1)
    }
}

fn frames_of(start: VirtAddr, end: VirtAddr) -> Range {
    let number = |address| direct_map::physical_in_image(address).pfn().get();
    Range {
        start: number(start),
        end: number(end),
    }
}

/// Builds the kernel's root and everything below it.
pub fn build(
    ram: &Ranges,
    features: Features,
    propagation: &'static dyn Propagation,
    cpus: usize,
    frames: &mut FrameAllocator,
) -> Result<KernelRoot, OutOfFrames> {
    let frame = frames.allocate_at_boot(Use::Table, 1)?;
    // SAFETY: a fresh frame of zeros is an empty root.
    let root = unsafe { Root::new(frame) };
    let mut builder = Builder {
        root,
        features,
        propagation,
        frames,
    };
    builder.direct_map(ram)?;
    builder.vmemmap(ram)?;
    builder.kernel_image()?;
    builder.inject_bugs(ram)?;
    for (at, in_image, length, attributes) in entry_area::parts() {
        builder.map_kernel(
            at,
            direct_map::physical_in_image(in_image),
            length,
            attributes,
        )?;
    }
    for cpu in 1..cpus {
        builder.cpu_part(cpu)?;
    }
    if !features.x2apic {
        let registers = PhysAddr::new(apic::memory_mapped_at());
        builder.map_kernel(
            apic::REGISTERS,
            registers,
            PAGE_SIZE,
            protection::KERNEL_DEVICE,
        )?;
    }
    // SAFETY: the boot's frames never go back to the allocator, and of the tables that will be made below
    // this root's kernel half none does.
    Ok(unsafe { KernelRoot::new(root) })
}

struct Builder<'a> {
    root: Root,
    features: Features,
    propagation: &'static dyn Propagation,
    frames: &'a mut FrameAllocator,
}

impl Builder<'_> {
    /// "Direct map virtual address maps the whole physical memory" (the lecture).
    fn direct_map(&mut self, ram: &Ranges) -> Result<(), OutOfFrames> {
        let read_only = image().read_only_frames();
        for range in ram.iter() {
            let below = Range {
                start: range.start,
                end: range.end.min(read_only.start),
            };
            let inside = Range {
                start: range.start.max(read_only.start),
                end: range.end.min(read_only.end),
            };
            let above = Range {
                start: range.start.max(read_only.end),
                end: range.end,
            };
            self.direct_map_part(below, protection::KERNEL_DATA)?;
            let alias = if inject(Bug::WritableTextAlias) {
                protection::KERNEL_DATA
            } else {
                protection::KERNEL_READ_ONLY
            };
            self.direct_map_part(inside, alias)?;
            self.direct_map_part(above, protection::KERNEL_DATA)?;
        }
        Ok(())
    }

    fn direct_map_part(&mut self, range: Range, attributes: Entry) -> Result<(), OutOfFrames> {
        if range.start >= range.end {
            return Ok(());
        }
        let physical = Pfn::new(range.start).base();
        let attributes = if inject(Bug::ExecutableDirectMap) {
            attributes.without(Entry::NO_EXECUTE)
        } else {
            attributes
        };
        self.map_kernel(
            direct_map::address_of(physical),
            physical,
            range.frames() * PAGE_SIZE,
            attributes,
        )
    }

    /// Backs the `struct page` of every frame that the allocator may own, in blocks as large as they fit
    /// below one entry of a PD.
    fn vmemmap(&mut self, ram: &Ranges) -> Result<(), OutOfFrames> {
        let large = Level::Pd.entry_span();
        for range in ram.iter() {
            let mut at = page_down(Region::Vmemmap.start(depth()) + range.start * PAGE_INFO_SIZE);
            let end = page_up(Region::Vmemmap.start(depth()) + range.end * PAGE_INFO_SIZE)
                .expect("the vmemmap ends far below the end of the address space");
            while at < end {
                // Two ranges of RAM may meet in one page of vmemmap.
                if self.root.leaf::<KernelHalf>(VirtAddr::new(at)).is_some() {
                    at += PAGE_SIZE;
                    continue;
                }
                let pages = (end - at).min(large - at % large) / PAGE_SIZE;
                let block = 1 << pages.ilog2();
                let frame = self.frames.allocate_at_boot(Use::Unmanaged, block)?;
                self.map_kernel(
                    VirtAddr::new(at),
                    frame.start(),
                    block * PAGE_SIZE,
                    protection::KERNEL_DATA,
                )?;
                at += block * PAGE_SIZE;
            }
        }
        Ok(())
    }

    fn kernel_image(&mut self) -> Result<(), OutOfFrames> {
        let image = image();
        let text = if inject(Bug::WritableText) {
            protection::KERNEL_TEXT.with(Entry::WRITABLE)
        } else {
            protection::KERNEL_TEXT
        };
        for ((start, end), attributes) in [
            (image.text, text),
            (image.rodata, protection::KERNEL_READ_ONLY),
            (image.data, protection::KERNEL_DATA),
        ] {
            self.map_kernel(
                start,
                direct_map::physical_in_image(start),
                end.get() - start.get(),
                attributes,
            )?;
        }
        Ok(())
    }

    /// Memory of a CPU that is not the first: its part of the entry area, a kernel stack and a probe page.
    fn cpu_part(&mut self, cpu: usize) -> Result<(), OutOfFrames> {
        /// Frames of the kernel stack: as many bytes as the first CPU's has.
        const STACK: u64 = 8;
        let [data, entry_stack, double_fault_stack, probe] =
            [(); 4].map(|()| self.frames.allocate_at_boot(Use::Unmanaged, 1));
        let (data, probe) = (data?, probe?);
        let stack = self.frames.allocate_at_boot(Use::Unmanaged, STACK)?;
        let frames = [data, entry_stack?, double_fault_stack?];
        for (at, frame) in entry_area::pages_of(cpu).into_iter().zip(frames) {
            self.map_kernel(at, frame.start(), PAGE_SIZE, protection::KERNEL_DATA)?;
        }
        let stack_top = direct_map::address_of(stack.start()).get() + STACK * PAGE_SIZE;
        let [data, probe] = [data, probe].map(|frame| direct_map::words(frame) as u64);
        // SAFETY: frames that were just allocated for this, in the direct map of the boot's tables; pages hold
        // these types, and the CPU has not been started.
        unsafe {
            (data as *mut Data).write(Data::empty());
            (probe as *mut ProbePage).write(probe::EMPTY);
            let local = (*(data as *const Data)).local();
            local.set_stacks(Place::Area.entry_stack_top(cpu), stack_top);
            local.set_identity(u32::try_from(cpu).expect("there are few CPUs"), probe);
        }
        Ok(())
    }

    /// The deliberate bugs that are made when all is in place. Low memory is chosen where a
    /// frame must not matter: the allocator never gives it out.
    fn inject_bugs(&mut self, ram: &Ranges) -> Result<(), OutOfFrames> {
        const LOW: Pfn = Pfn::new(0x50);
        const BESIDE_LOW: Pfn = Pfn::new(0x51);
        let place = |pfn: Pfn| direct_map::address_of(pfn.base());
        let last = ram.iter().last().map_or(LOW.get(), |range| range.end - 1);
        let root = self.root;
        let set = |pfn: Pfn, entry| {
            if let Some(leaf) = root.leaf::<KernelHalf>(place(pfn)) {
                // SAFETY: the deliberate bugs: one page of the direct map is gone or wrong. The kernel
                // uses neither low memory nor, in so short a run, the last frame of RAM.
                unsafe { leaf.replace(entry) };
            }
        };
        if inject(Bug::DirectMapHole) {
            set(LOW, Entry::ABSENT);
        } else if inject(Bug::DirectMapShort) {
            set(Pfn::new(last), Entry::ABSENT);
        } else if inject(Bug::DirectMapWrongFrame) {
            let wrong = Entry::pointing_to(BESIDE_LOW.base(), protection::KERNEL_DATA);
            set(LOW, wrong);
        } else if inject(Bug::DirectMapOverrun) {
            let beyond = Pfn::new(last + 1);
            self.map_kernel(
                place(beyond),
                beyond.base(),
                PAGE_SIZE,
                protection::KERNEL_DATA,
            )?;
        } else if inject(Bug::IdentityMapLeft) {
            self.map::<UserHalf>(
                VirtAddr::new(0),
                PhysAddr::new(0),
                Level::Pd.entry_span(),
                protection::KERNEL_DATA,
                protection::KERNEL_TABLE,
            )?;
        }
        Ok(())
    }

    fn map_kernel(
        &mut self,
        start: VirtAddr,
        physical: PhysAddr,
        length: u64,
        attributes: Entry,
    ) -> Result<(), OutOfFrames> {
        self.map::<KernelHalf>(start, physical, length, attributes, KernelHalf::TABLE)
    }

    /// Maps `length` bytes of half `H` with the largest pages that fit.
    fn map<H: AddressHalf>(
        &mut self,
        start: VirtAddr,
        physical: PhysAddr,
        length: u64,
        attributes: Entry,
        table_attributes: Entry,
    ) -> Result<(), OutOfFrames> {
        let attributes = self.propagation.leaf_attributes(attributes);
        let mut done = 0;
        while done < length {
            let (at, from, left) = (
                start.wrapping_add(done),
                physical.wrapping_add(done),
                length - done,
            );
            let fits = |level: Level| {
                let span = level.entry_span();
                (at.get() | from.get()).is_multiple_of(span) && left >= span
            };
            let (level, attributes) = if self.features.gigabyte_pages && fits(Level::Pdpt) {
                (Level::Pdpt, attributes.with(Entry::LARGE))
            } else if fits(Level::Pd) {
                (Level::Pd, attributes.with(Entry::LARGE))
            } else {
                (Level::Pt, attributes)
            };
            let table = self.table::<H>(at, level, table_attributes)?;
            // Fill this table as far as pages of this size go.
            let first = table.index(at);
            let fitting = left / level.entry_span();
            let pages = u16::try_from(fitting)
                .unwrap_or(u16::MAX)
                .min(Table::<H>::entries_from(first));
            // SAFETY: the tables are not loaded yet. When they are, everything of the kernel is where it is
            // in the boot's tables, with no more rights than it needs.
            unsafe { table.fill(first, pages, Entry::pointing_to(from, attributes)) };
            done += u64::from(pages) * level.entry_span();
        }
        Ok(())
    }

    /// The table of `level` that maps `address`, made where it is missing.
    fn table<H: AddressHalf>(
        &mut self,
        address: VirtAddr,
        level: Level,
        attributes: Entry,
    ) -> Result<Table<H>, OutOfFrames> {
        let mut table = self.child(self.root.half::<H>(), address, attributes)?;
        while table.level() != level {
            table = self.child(table, address, attributes)?;
        }
        Ok(table)
    }

    /// The table below `node` for `address`, made where it is missing.
    fn child<N: Node>(
        &mut self,
        node: N,
        address: VirtAddr,
        attributes: Entry,
    ) -> Result<Table<N::Half>, OutOfFrames> {
        let index = node.index(address);
        if let Some(child) = node.child(index) {
            return Ok(child);
        }
        let level = node.level().next().expect("a PT has no tables below it");
        let frame = self.frames.allocate_at_boot(Use::Table, 1)?;
        // SAFETY: a fresh frame of zeros is an empty table of any level, and there was no entry.
        unsafe {
            node.set(index, Entry::pointing_to(frame.start(), attributes));
            Ok(Table::new(frame, level))
        }
    }
}
