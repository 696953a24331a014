//! The roots of processes, and what is left of them.

use heirloom_inspect::{Depth, Entry, Half, Level, PageSize, PhysAddr, VirtAddr};

use super::{Guest, MIB, PAGE, USER_DATA, USER_HUGE, USER_NONE, USER_STACK, USER_TEXT, bits};

use PageSize::{Size2MiB, Size4KiB};

impl Guest {
    /// A root, or a pair, with the kernel half that all have.
    pub(crate) fn add_root(&mut self) -> PhysAddr {
        let root = self.root_frames();
        self.inherit(self.init, root);
        if self.plan.kpti {
            let (from, to) = (self.user_root(self.init), self.user_root(root));
            self.inherit(from, to);
        }
        root
    }

    /// A process: text, data, PROT_NONE, a stack, a huge page. The first has a page of a compiler.
    pub(crate) fn add_process(&mut self, number: usize) -> PhysAddr {
        let root = self.add_root();
        for (va, flags) in [
            (USER_TEXT, bits::USER_TEXT),
            (USER_TEXT.wrapping_add(PAGE), bits::USER_CONSTANTS),
            (USER_DATA, bits::USER_DATA),
            (USER_STACK, bits::USER_DATA),
        ] {
            let to = self.data_page();
            self.map(root, va, to, Size4KiB, flags);
        }
        // PROT_NONE: no P, bit 8, and the frame number inverted.
        let table = self.table(root, USER_NONE, Level::Pt);
        let none = Entry::new(0x000f_ffff_e7cc_9960);
        self.memory.poke(table, USER_NONE.index(Level::Pt), none);
        let huge = PhysAddr::new(56 * MIB);
        self.map(root, USER_HUGE, huge, Size2MiB, bits::USER_DATA);
        if number == 0 {
            let to = self.data_page();
            let jit = USER_DATA.wrapping_add(4 * PAGE);
            self.map(root, jit, to, Size4KiB, bits::USER_JIT);
        }
        if self.plan.depth == Depth::Five && number == 1 {
            let high = VirtAddr::new(16 << 48);
            let to = self.data_page();
            self.map(root, high, to, Size4KiB, bits::USER_DATA);
        }
        self.mirror(root);
        self.processes.push(root);
        root
    }

    /// `poking_mm`: a user half with tables and no page.
    pub(super) fn add_poking(&mut self) -> PhysAddr {
        let root = self.add_root();
        self.table(root, VirtAddr::new(0x3b2_41c0_7000), Level::Pt);
        self.mirror(root);
        root
    }

    /// A root whose process is gone: nobody has it, and its kernel half is still there.
    pub(crate) fn add_freed(&mut self) -> PhysAddr {
        self.add_root()
    }

    /// A freed root whose frame holds somebody's data now, up to the middle.
    pub(crate) fn add_reused(&mut self) -> PhysAddr {
        let root = self.add_root();
        for index in Half::User.indices() {
            let text = u64::from(index).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 << 7 | 1;
            self.memory.poke(root.pfn(), index, Entry::new(text));
        }
        root
    }

    /// Gives a process an LDT of `pages` pages with these rights.
    pub(crate) fn add_ldt(&mut self, root: PhysAddr, pages: u64, flags: Entry) {
        let (at, index) = (self.ldt(), self.top_index(self.ldt()));
        for page in 0..pages {
            let to = self.data_page();
            self.map(root, at.wrapping_add(page * PAGE), to, Size4KiB, flags);
        }
        let entry = self.memory.peek(root.pfn(), index);
        let entry = Entry::pointing_to(entry.address(), bits::TABLE);
        for root in self.pair(root) {
            self.memory.poke(root.pfn(), index, entry);
        }
    }
}
