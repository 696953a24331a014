//! The kernel half, as Linux builds it.

use heirloom_inspect::{Entry, Half, Level, PageSize, Pfn, PhysAddr, VirtAddr};

use super::{
    CPU_ENTRY_AREA, FIXMAP_DEVICES, GIB, Guest, IMAGE_CONSTANTS, IMAGE_DATA, IMAGE_ENTRY_TEXT,
    IMAGE_TEXT, MIB, MODULE_TEXT, MODULES, PAGE, TABLES, TRAMPOLINE, TSS, bits,
};

use PageSize::{Size1GiB, Size2MiB, Size4KiB};

/// A CPU's part of the cpu entry area.
const CPU_STRIDE: u64 = 0x3_b000;

impl Guest {
    pub(super) fn build_kernel(&mut self) {
        let root = self.init;
        self.memory.add(root.pfn());
        if self.plan.kpti {
            self.memory.add(self.user_root(root).pfn());
        }
        // The tables of the image stand beside the root, in the image's data.
        let mut below = root.pfn();
        let mut level = self.top();
        let mut next = Pfn::new(root.pfn().get() + 2);
        while level != Level::Pd {
            self.memory.add(next);
            let entry = Entry::pointing_to(next.base(), bits::TABLE);
            self.memory.poke(below, 511, entry);
            below = next;
            next = Pfn::new(next.get() + 1);
            level = level.next().expect("a level below");
        }
        self.memory.add(Pfn::new(TABLES));
        self.map_direct();
        self.map_image();
        self.map_vmalloc();
        self.map_vmemmap();
        self.map_entry_area();
        self.map(
            root,
            FIXMAP_DEVICES,
            PhysAddr::new(0xfec0_0000),
            Size4KiB,
            uncached(),
        );
        let lapic = FIXMAP_DEVICES.wrapping_add(PAGE);
        self.map(
            root,
            lapic,
            PhysAddr::new(0xfee0_0000),
            Size4KiB,
            uncached(),
        );
        self.finish_top_entries();
        if self.plan.kpti {
            self.build_user_half_of_kernel();
        }
        self.build_trampoline();
    }

    fn global(&self) -> Entry {
        if self.plan.kpti {
            Entry::ABSENT
        } else {
            Entry::GLOBAL
        }
    }

    fn map_direct(&mut self) {
        for (start, bytes) in self.plan.managed.clone() {
            let (mut at, end) = (start, start + bytes);
            while at < end {
                let fits =
                    |size: PageSize| at.is_multiple_of(size.bytes()) && at + size.bytes() <= end;
                // The first pages, with the real-mode code, and the first GiB, with the image, are split.
                let size = if self.plan.gigabyte_pages && fits(Size1GiB) && at > 0 {
                    Size1GiB
                } else if fits(Size2MiB) && at > 0 {
                    Size2MiB
                } else {
                    Size4KiB
                };
                let physical = PhysAddr::new(at);
                let flags = direct_map_rights(physical) | self.global();
                self.map(self.init, self.direct(physical), physical, size, flags);
                at += size.bytes();
            }
        }
    }

    fn map_image(&mut self) {
        let global = self.global();
        for (physical, flags) in [
            (IMAGE_TEXT, bits::TEXT | global),
            (IMAGE_ENTRY_TEXT, bits::TEXT | Entry::GLOBAL),
            (IMAGE_CONSTANTS, bits::CONSTANTS | global),
            (IMAGE_DATA, bits::DATA | global),
        ] {
            self.map(self.init, self.image(physical), physical, Size2MiB, flags);
        }
        self.map(
            self.init,
            MODULES,
            MODULE_TEXT,
            Size2MiB,
            bits::TEXT | global,
        );
        if self.plan.kpti {
            // Memory freed behind the image: no P, and the frame number inverted.
            let gap = self.image(IMAGE_DATA).wrapping_add(2 * MIB);
            let table = self.table(self.init, gap, Level::Pt);
            for index in 0..8 {
                let entry = Entry::new(0x800f_ffff_efb5_9062 - (u64::from(index) << 12));
                self.memory.poke(table, index, entry);
            }
        }
    }

    fn map_vmalloc(&mut self) {
        let (root, base) = (self.init, self.vmalloc());
        let (entries, end) = match self.top() {
            Level::Pml4 => (64, 32 << 40),
            _ => (51, 25 << 49),
        };
        let first = self.top_index(base);
        for index in first..first + entries {
            if !self.memory.peek(root.pfn(), index).present() {
                let table = self.memory.frame();
                let entry = Entry::pointing_to(table.base(), bits::TABLE);
                self.memory.poke(root.pfn(), index, entry);
            }
        }
        let flags = bits::DATA | self.global();
        for page in [0, 1, 2, 5, 6, 0x200, 0x1234] {
            let to = self.data_page();
            self.map(root, base.wrapping_add(page * PAGE), to, Size4KiB, flags);
        }
        let percpu = base.wrapping_add(end - 2 * MIB);
        for page in 0..4 {
            let to = self.data_page();
            self.map(root, percpu.wrapping_add(page * PAGE), to, Size4KiB, flags);
        }
        for (offset, to, size) in [
            (16 * PAGE, 0xfed0_0000, Size4KiB),
            (18 * PAGE, 0xfed0_0000, Size4KiB),
            (64 * MIB, 0xb000_0000, Size2MiB),
            (66 * MIB, 0xb020_0000, Size2MiB),
        ] {
            let va = base.wrapping_add(offset);
            self.map(root, va, PhysAddr::new(to), size, bits::DEVICE);
        }
    }

    /// 64 bytes for each frame, for whole sections of 128 MiB.
    fn map_vmemmap(&mut self) {
        if !self.plan.vmemmap {
            return;
        }
        let section = 128 * MIB;
        let mut mapped = None;
        for (start, bytes) in self.plan.managed.clone() {
            for number in start / section..(start + bytes).div_ceil(section) {
                if mapped.replace(number) == Some(number) {
                    continue;
                }
                // Which frames hold the array does not matter; they are not read.
                let va = self.plan.bases.vmemmap.wrapping_add(number * 2 * MIB);
                let to = PhysAddr::new(52 * MIB);
                self.map(self.init, va, to, Size2MiB, bits::DATA | self.global());
            }
        }
    }

    fn map_entry_area(&mut self) {
        let root = self.init;
        let to = self.data_page();
        self.map(
            root,
            CPU_ENTRY_AREA,
            to,
            Size4KiB,
            bits::CONSTANTS | Entry::GLOBAL,
        );
        for cpu in 0..u64::from(self.plan.cpus) {
            let area = CPU_ENTRY_AREA.wrapping_add(PAGE + cpu * CPU_STRIDE);
            // GDT, a guard, the entry stack, the TSS; guards between the exceptions' stacks.
            for (page, writable) in [(0, false), (2, true), (3, false), (8, true), (10, true)] {
                let to = match page {
                    3 => TSS.wrapping_add(cpu * PAGE),
                    _ => self.data_page(),
                };
                let flags = if writable {
                    bits::DATA
                } else {
                    bits::CONSTANTS
                };
                let va = area.wrapping_add(page * PAGE);
                self.map(root, va, to, Size4KiB, flags | Entry::GLOBAL);
            }
        }
    }

    fn finish_top_entries(&mut self) {
        for index in Half::Kernel.indices() {
            let entry = self.memory.peek(self.init.pfn(), index);
            if entry.present() {
                let entry = Entry::pointing_to(entry.address(), bits::TABLE);
                self.memory.poke(self.init.pfn(), index, entry);
            }
        }
    }

    /// `pti_init`: what all user roots have of the kernel half.
    fn build_user_half_of_kernel(&mut self) {
        let user = self.user_root(self.init);
        for cpu in 0..u64::from(self.plan.cpus) {
            let to = TSS.wrapping_add(cpu * PAGE);
            self.map(user, self.direct(to), to, Size4KiB, bits::DATA);
        }
        let text = self.image(IMAGE_ENTRY_TEXT);
        let flags = bits::TEXT | Entry::GLOBAL;
        self.map(user, text, IMAGE_ENTRY_TEXT, Size2MiB, flags);
        for index in Half::Kernel.indices() {
            let entry = self.memory.peek(user.pfn(), index);
            if entry.present() {
                let entry = Entry::pointing_to(entry.address(), bits::KERNEL_TABLE);
                self.memory.poke(user.pfn(), index, entry);
            }
        }
        // The cpu entry area is shared from the PGD entry down.
        let shared = self.entry(self.init, CPU_ENTRY_AREA, Level::Pml4);
        let table = self.table(user, CPU_ENTRY_AREA, Level::Pml4);
        self.memory
            .poke(table, CPU_ENTRY_AREA.index(Level::Pml4), shared);
    }

    /// `trampoline_pgd`: the kernel half, and low memory at its own address by the direct map's tables.
    fn build_trampoline(&mut self) {
        self.memory.add(TRAMPOLINE);
        let root = TRAMPOLINE.base();
        self.inherit(self.init, root);
        let zero = VirtAddr::new(0);
        let pds = self.table(root, zero, Level::Pdpt);
        let low = self.entry(self.init, self.direct(PhysAddr::new(0)), Level::Pdpt);
        self.memory.poke(pds, 0, low);
        self.change(root, zero, self.top(), |entry| {
            Entry::pointing_to(entry.address(), bits::KERNEL_TABLE)
        });
    }

    /// Copies the kernel half.
    pub(crate) fn inherit(&mut self, from: PhysAddr, to: PhysAddr) {
        for index in Half::Kernel.indices() {
            let entry = self.memory.peek(from.pfn(), index);
            self.memory.poke(to.pfn(), index, entry);
        }
    }
}

fn uncached() -> Entry {
    bits::DEVICE | Entry::WRITE_THROUGH
}

/// Text and constants have no writable alias; real-mode code for CPUs that come up may be executed.
fn direct_map_rights(at: PhysAddr) -> Entry {
    let at = at.get();
    let image = IMAGE_TEXT.get()..IMAGE_DATA.get();
    let module = MODULE_TEXT.get()..MODULE_TEXT.get() + 2 * MIB;
    if (0x9_9000..0x9_b000).contains(&at) {
        bits::TEXT
    } else if image.contains(&at) || module.contains(&at) || (0x9_8000..0x9_9000).contains(&at) {
        bits::CONSTANTS
    } else {
        debug_assert!(at < GIB || at.is_multiple_of(2 * MIB));
        bits::DATA
    }
}
