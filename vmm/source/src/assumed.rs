//! What users say of CPUs that a source is silent about, and what is assumed of the rest.

use heirloom_inspect::{CpuState, Cr3, PhysAddr, PhysRange, RootLabel, Target};

/// Registers that the user gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Registers {
    pub(crate) cr3: Vec<Cr3>,
    pub(crate) cr4: Option<u64>,
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
        for cr3 in &self.cr3 {
            if !holds_frame(&target.ram, cr3.root()) {
                return Err(RootOutside(*cr3));
            }
            // Behind the CPUs that the source knows there are no more: what is given then is a
            // root that somebody found.
            let label = if target.cpus.is_empty() || self.cr4.is_some() {
                RootLabel::Cpu(next(target.cpus.len() + target.roots.len()))
            } else {
                RootLabel::Found(cr3.root())
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
                None => target.roots.push((label, cr3.root())),
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
