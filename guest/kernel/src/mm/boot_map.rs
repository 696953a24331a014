//! The kernel's own page tables, built once at boot: direct map, vmemmap, kernel image.
//!
//! Two rules are kept from the first table on: nothing is writable and executable (the image's
//! segments have their own permissions, everything else is NX), and text and constants have no
//! writable alias (the direct map shows them read-only).

use super::entry::{Entry, Flags, Level};
use super::frame::{FrameAllocator, PAGE_INFO_SIZE, Use};
use super::propagation::Propagation;
use super::table::Table;
use super::{Frame, OutOfFrames, PhysAddr, VirtAddr, direct_map, page_down, page_up};
use crate::arch::cpu::Features;
use crate::arch::{apic, entry_area};
use crate::boot::memory_map::{Range, Ranges};
use crate::bug;
use heirloom_abi::PAGE_SIZE;
use heirloom_abi::bugs::Bug;
use heirloom_abi::layout::{KERNEL_IMAGE_OFFSET, Region};

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
    let at = |symbol: *const u8| VirtAddr(symbol as u64);
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
    let number = |address| direct_map::physical_in_image(address).0 / PAGE_SIZE;
    Range {
        start: number(start),
        end: number(end),
    }
}

/// Builds the kernel's PGD and everything below it.
pub fn build(
    ram: &Ranges,
    features: Features,
    propagation: &'static dyn Propagation,
    frames: &mut FrameAllocator,
) -> Result<Table, OutOfFrames> {
    let frame = frames.allocate_at_boot(Use::Table, 1)?;
    // SAFETY: a fresh frame of zeros is an empty PGD.
    let root = unsafe { Table::new(frame, Level::Pgd) };
    let mut builder = Builder {
        root,
        features,
        propagation,
        frames,
    };
    builder.direct_map(ram)?;
    builder.vmemmap(ram)?;
    builder.kernel_image()?;
    builder.make_mistake(ram)?;
    for (at, in_image, length, flags) in entry_area::parts() {
        builder.map(at, direct_map::physical_in_image(in_image), length, flags)?;
    }
    if !features.x2apic {
        let registers = PhysAddr(apic::memory_mapped_at());
        let flags = Flags::KERNEL_DATA.with(Flags::UNCACHED);
        builder.map(apic::REGISTERS, registers, PAGE_SIZE, flags)?;
    }
    Ok(root)
}

struct Builder<'a> {
    root: Table,
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
            self.direct_map_part(below, Flags::KERNEL_DATA)?;
            let alias = if bug::is(Bug::WritableTextAlias) {
                Flags::KERNEL_DATA
            } else {
                Flags::KERNEL_READ_ONLY
            };
            self.direct_map_part(inside, alias)?;
            self.direct_map_part(above, Flags::KERNEL_DATA)?;
        }
        Ok(())
    }

    fn direct_map_part(&mut self, range: Range, flags: Flags) -> Result<(), OutOfFrames> {
        if range.start >= range.end {
            return Ok(());
        }
        let physical = Frame(range.start).start();
        let flags = if bug::is(Bug::ExecutableDirectMap) {
            flags.without(Flags::NO_EXECUTE)
        } else {
            flags
        };
        self.map(
            direct_map::address_of(physical),
            physical,
            range.frames() * PAGE_SIZE,
            flags,
        )
    }

    /// Backs the `struct page` of every frame that the allocator may own.
    fn vmemmap(&mut self, ram: &Ranges) -> Result<(), OutOfFrames> {
        let large = Level::Pd.span();
        for range in ram.iter() {
            let mut at = page_down(Region::Vmemmap.start() + range.start * PAGE_INFO_SIZE);
            let end = page_up(Region::Vmemmap.start() + range.end * PAGE_INFO_SIZE)
                .expect("the vmemmap ends far below the end of the address space");
            while at < end {
                let size = if at.is_multiple_of(large) && end - at >= large {
                    large
                } else {
                    PAGE_SIZE
                };
                // Two ranges of RAM may meet in one page of vmemmap.
                if self.root.leaf(VirtAddr(at)).is_none() {
                    let frame = self
                        .frames
                        .allocate_at_boot(Use::Unmanaged, size / PAGE_SIZE)?;
                    self.map(VirtAddr(at), frame.start(), size, Flags::KERNEL_DATA)?;
                }
                at += size;
            }
        }
        Ok(())
    }

    fn kernel_image(&mut self) -> Result<(), OutOfFrames> {
        let image = image();
        let text = if bug::is(Bug::WritableText) {
            Flags::KERNEL_TEXT.with(Flags::WRITABLE)
        } else {
            Flags::KERNEL_TEXT
        };
        for ((start, end), flags) in [
            (image.text, text),
            (image.rodata, Flags::KERNEL_READ_ONLY),
            (image.data, Flags::KERNEL_DATA),
        ] {
            self.map(
                start,
                PhysAddr(start.0 - KERNEL_IMAGE_OFFSET),
                end.0 - start.0,
                flags,
            )?;
        }
        Ok(())
    }

    /// The deliberate mistakes that are made when all is in place. Low memory is chosen where a
    /// frame must not matter: the allocator never gives it out.
    fn make_mistake(&mut self, ram: &Ranges) -> Result<(), OutOfFrames> {
        const LOW: Frame = Frame(0x50);
        let place = |frame: Frame| direct_map::address_of(frame.start());
        let last = ram.iter().last().map_or(LOW, |range| Frame(range.end - 1));
        let root = self.root;
        let set = |address, entry| {
            if let Some((table, index, _)) = root.leaf(address) {
                table.set_kernel(index, entry);
            }
        };
        if bug::is(Bug::DirectMapHole) {
            set(place(LOW), Entry::ABSENT);
        } else if bug::is(Bug::DirectMapShort) {
            set(place(last), Entry::ABSENT);
        } else if bug::is(Bug::DirectMapWrongFrame) {
            set(place(LOW), Entry::new(Frame(LOW.0 + 1), Flags::KERNEL_DATA));
        } else if bug::is(Bug::DirectMapOverrun) {
            let beyond = Frame(last.0 + 1);
            self.map(place(beyond), beyond.start(), PAGE_SIZE, Flags::KERNEL_DATA)?;
        } else if bug::is(Bug::IdentityMapLeft) {
            self.map(
                VirtAddr(0),
                PhysAddr(0),
                Level::Pd.span(),
                Flags::KERNEL_DATA,
            )?;
        }
        Ok(())
    }

    /// Maps `length` bytes with the largest pages that fit.
    fn map(
        &mut self,
        start: VirtAddr,
        physical: PhysAddr,
        length: u64,
        flags: Flags,
    ) -> Result<(), OutOfFrames> {
        let flags = self.propagation.leaf(flags);
        let mut done = 0;
        while done < length {
            let (at, from, left) = (start.0 + done, physical.0 + done, length - done);
            let fits =
                |level: Level| (at | from).is_multiple_of(level.span()) && left >= level.span();
            let level = if self.features.gigabyte_pages && fits(Level::Pdpt) {
                Level::Pdpt
            } else if fits(Level::Pd) {
                Level::Pd
            } else {
                Level::Pt
            };
            let table = self.table(VirtAddr(at), level)?;
            let flags = if level == Level::Pt {
                flags
            } else {
                flags.with(Flags::LARGE)
            };
            // Fill this table as far as pages of this size go.
            let first = level.index(VirtAddr(at));
            let pages = (left / level.span()).min(512 - first as u64);
            for page in 0..pages {
                let frame = Frame::containing(PhysAddr(from + page * level.span()));
                table.set_kernel(
                    first + usize::try_from(page).unwrap_or(0),
                    Entry::new(frame, flags),
                );
            }
            done += pages * level.span();
        }
        Ok(())
    }

    /// The table of `level` that maps `address`, made where it is missing.
    fn table(&mut self, address: VirtAddr, level: Level) -> Result<Table, OutOfFrames> {
        let mut table = self.root;
        while table.level() != level {
            let index = table.level().index(address);
            table = if let Some(child) = table.child(index) {
                child
            } else {
                let frame = self.frames.allocate_at_boot(Use::Table, 1)?;
                table.set_kernel(index, Entry::new(frame, Flags::KERNEL_TABLE));
                table.child(index).expect("the entry was just written")
            };
        }
        Ok(table)
    }
}
