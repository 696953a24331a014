//! Claim 9: 47 bits of user addresses, the canonical hole, and the kernel half above it.

use heirloom_abi::options::Strategy;
use heirloom_inspect::{Depth, Fault, Level, VirtAddr};

use super::Claim;
use super::proof::{Proof, Trouble};
use super::stage::Stage;
use super::tries::{self, Access, Fate, GENERAL_PROTECTION, How, PAGE_FAULT, Trial};

pub(crate) const CLAIM: Claim = Claim {
    words: "User virtual addresses use the LSB 47 bits; kernel virtual address does not start from \
            0x8000000000, but from 0xffff800000000000",
    experiment: "ring 3 and the walker at each border, under prealloc",
    prove,
};

/// What lies at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lies {
    /// In the user half, mapped: the program's own text.
    Mapped,
    /// In the user half, where nothing is mapped.
    User,
    /// In neither half.
    Hole,
    /// In the kernel half, where nothing is mapped; there is not even a PGD entry below the first.
    Kernel,
}

/// Both sides of each border.
const BORDERS: [(u64, Lies); 9] = [
    (0, Lies::User),
    // Where the programs are linked.
    (0x40_0000, Lies::Mapped),
    (0x80_0000_0000, Lies::User),
    (0x0000_7fff_ffff_fff8, Lies::User),
    (0x0000_8000_0000_0000, Lies::Hole),
    (0xffff_7fff_ffff_fff8, Lies::Hole),
    (0xffff_8000_0000_0000, Lies::Kernel),
    (0xffff_ffff_ffff_fff8, Lies::Kernel),
    (0x8000_0000_0000_0000, Lies::Hole),
];

/// The first address of the kernel half, below which PGD entry nothing hangs.
const KERNEL_HALF: u64 = 0xffff_8000_0000_0000;

fn prove(stage: &mut Stage, proof: &mut Proof) -> Result<(), Trouble> {
    let accesses = BORDERS.map(|(address, _)| Access {
        how: How::Read,
        address: VirtAddr::new(address),
    });
    let footage = stage.footage(&tries::experiment(Strategy::Prealloc, &accesses))?;
    let trials = tries::trials(&footage, &accesses)?;
    for (trial, (_, lies)) in trials.iter().zip(BORDERS) {
        judge(trial, lies, proof)?;
    }
    Ok(())
}

fn judge(trial: &Trial<'_>, lies: Lies, proof: &mut Proof) -> Result<(), Trouble> {
    let Access { address, .. } = trial.access;
    let process = trial.before.process(1)?;
    let walk = trial.before.walk(process, address);
    proof.require(walk_is(&walk.result, address, lies), || {
        format!("{address} should be {lies:?} to the walker: {walk}")
    });
    proof.require(fate_is(trial, lies), || {
        format!("ring 3 at {address}, which is {lies:?}: {:?}", trial.fate)
    });
    let shown = match &walk.result {
        Ok(found) => format!("frame {}", found.pa.pfn()),
        Err(Fault::NonCanonical { .. }) => "not canonical".into(),
        Err(Fault::NotPresent { level }) => format!("not in {}", walk.depth.name(*level)),
        Err(fault) => fault.display(walk.depth).to_string(),
    };
    proof.tables(format!("{address:#x} = {}: {shown}", split(address)));
    proof.cpu(match trial.fate {
        Fate::Survived => format!("{address:#x}: read"),
        Fate::Ended { status } => format!("{address:#x}: ended with {status:#x}"),
        Fate::Killed {
            vector: PAGE_FAULT,
            error_code,
            ..
        } => format!("{address:#x}: #PF, code {error_code:#x}"),
        Fate::Killed {
            vector: GENERAL_PROTECTION,
            ..
        } => format!("{address:#x}: #GP"),
        Fate::Killed { vector, .. } => format!("{address:#x}: exception {vector}"),
    });
    Ok(())
}

/// Whether the walker says of an address what it must say there.
fn walk_is<T>(result: &Result<T, Fault>, address: VirtAddr, lies: Lies) -> bool {
    match (lies, result) {
        (Lies::Mapped, Ok(_))
        | (Lies::User, Err(Fault::NotPresent { .. }))
        | (Lies::Hole, Err(Fault::NonCanonical { depth: Depth::Four })) => true,
        (Lies::Kernel, Err(Fault::NotPresent { level })) => {
            address.get() != KERNEL_HALF || *level == Level::Pml4
        }
        _ => false,
    }
}

/// Whether a process that reads there ends as it must.
fn fate_is(trial: &Trial<'_>, lies: Lies) -> bool {
    match lies {
        Lies::Mapped => trial.fate == Fate::Survived,
        Lies::User | Lies::Kernel => trial.is_page_fault(false),
        // The CPU refuses before it looks at a table, and tells no address.
        Lies::Hole => matches!(
            trial.fate,
            Fate::Killed {
                vector: GENERAL_PROTECTION,
                error_code: 0,
                ..
            }
        ),
    }
}

/// The address as the tables see it: 9, 9, 9, 9 and 12 bits.
fn split(address: VirtAddr) -> String {
    let [pgd, pdpt, pd, pt] =
        [Level::Pml4, Level::Pdpt, Level::Pd, Level::Pt].map(|level| address.index(level));
    let offset = address.offset_in(Level::Pt);
    format!("{pgd}·{pdpt}·{pd}·{pt}·{offset:#x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_as_nine_nine_nine_nine_and_twelve_bits() {
        assert_eq!(
            split(VirtAddr::new(0x7fff_ffff_fff8)),
            "255·511·511·511·0xff8"
        );
        assert_eq!(split(VirtAddr::new(KERNEL_HALF)), "256·0·0·0·0x0");
    }

    #[test]
    fn a_table_below_the_first_entry_of_the_kernel_half_is_noticed() {
        let first = VirtAddr::new(KERNEL_HALF);
        let at = |level| Err::<(), _>(Fault::NotPresent { level });
        assert!(walk_is(&at(Level::Pml4), first, Lies::Kernel));
        assert!(!walk_is(&at(Level::Pdpt), first, Lies::Kernel));
        assert!(walk_is(
            &at(Level::Pt),
            VirtAddr::new(u64::MAX - 7),
            Lies::Kernel
        ));
    }
}
