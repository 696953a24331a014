//! What users say of CPUs that a source is silent about, and what is assumed of the rest.

use heirloom_inspect::paging::mode::PhysBits;
use heirloom_inspect::{CpuState, Cr3, Entry, PhysAddr, PhysRange, RootLabel, Target};

/// Registers that the user gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Registers {
    pub(crate) cr3: Vec<Cr3>,
    pub(crate) cr4: Option<u64>,
    /// The bit of entries and of CR3 that says that a frame is encrypted.
    pub(crate) encryption: Option<Entry>,
    /// MAXPHYADDR.
    pub(crate) phys_bits: Option<PhysBits>,
}

/// PE, MP, ET, NE, WP, AM, PG: what 64-bit kernels run with.
const CR0: u64 = 0x8005_0033;
/// SCE, LME, LMA, NXE.
pub(crate) const EFER: u64 = 0xd01;

/// The root that a CR3 names lies in no RAM: this one.
pub(crate) struct RootOutside(pub(crate) Cr3);

impl Registers {
    /// Adds to `target` what the user gave. A CR3 alone is a root whose depth is not known; with CR4
    /// it is a CPU.
    ///
    /// # Errors
    /// [`RootOutside`] if there is no RAM where a CR3 points.
    pub(crate) fn add_to(&self, target: &mut Target) -> Result<(), RootOutside> {
        if let Some(encryption) = self.encryption {
            target.encryption = encryption;
        }
        target.phys_bits = self.phys_bits.or(target.phys_bits);
        for cr3 in &self.cr3 {
            if target.encryption.is_zero()
                && !holds_frame(&target.ram, cr3.root())
                && let Some(bit) = encryption_bit_of(target, *cr3)
            {
                target.encryption = Entry::new(1 << bit);
                target.notes.push(format!(
                    "bit {bit} is taken for the encryption bit and for no part of an address: CR3 has it, \
                     all entries of its root have it, and there is no RAM so high; encrypt-bit=N says \
                     which it is"
                ));
            }
            let root = cr3.without(target.encryption).root();
            if !holds_frame(&target.ram, root) {
                return Err(RootOutside(*cr3));
            }
            // Behind the CPUs that the source knows there are no more: what is given then is a
            // root that somebody found.
            let label = if target.cpus.is_empty() || self.cr4.is_some() {
                RootLabel::Cpu(next(target.cpus.len() + target.roots.len()))
            } else {
                RootLabel::Found(root)
            };
            match self.cr4 {
                Some(cr4) => target.cpus.push(CpuState {
                    cr0: CR0,
                    cr3: *cr3,
                    cr4,
                    efer: EFER,
                    rflags: 2,
                    ..CpuState::default()
                }),
                None => target.roots.push((label, root)),
            }
        }
        if self.cr3.is_empty() {
            return Ok(());
        }
        target.notes.push(match self.cr4 {
            Some(cr4) => format!(
                "CR3 and CR4 ({cr4:#x}) are as given; CR0 is assumed to be {CR0:#x} (WP set) and EFER \
                 {EFER:#x} (NXE set)"
            ),
            None => "CR3 is as given, without CR4: the number of levels is not known from the \
                     registers; give cr4=0x… to say it"
                .to_string(),
        });
        Ok(())
    }
}

/// The bit of a CR3 beyond RAM that says that the root is encrypted: without it the root is RAM, and every
/// present entry there has it, too.
fn encryption_bit_of(target: &Target, cr3: Cr3) -> Option<u32> {
    let bit = cr3.root().get().checked_ilog2()?;
    let encryption = Entry::new(1 << bit);
    let root = cr3.without(encryption).root();
    if bit < 32 || !holds_frame(&target.ram, root) {
        return None;
    }
    let mut words = [0; 512];
    target.memory.read_table(root.pfn(), &mut words).ok()?;
    let mut present = words
        .iter()
        .map(|word| Entry::new(*word))
        .filter(|entry| entry.present())
        .peekable();
    (present.peek().is_some() && present.all(|entry| entry.has(encryption))).then_some(bit)
}

/// Whether the frame at `at` is all RAM.
pub(crate) fn holds_frame(ram: &[PhysRange], at: PhysAddr) -> bool {
    let behind = ram.partition_point(|range| range.start <= at);
    behind
        .checked_sub(1)
        .and_then(|index| ram.get(index))
        .is_some_and(|range| range.whole_frames().contains(&at.get()))
}

fn next(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
