//! Claim 9: 47 bits of user addresses, the canonical hole, and the kernel half above it.

use heirloom_abi::options::Strategy;
use heirloom_inspect::{Depth, Fault, Level, VirtAddr};

use super::Claim;
use super::attempts::{self, Access, AccessKind, Attempt, GENERAL_PROTECTION, Outcome, PAGE_FAULT};
use super::proof::{ClaimError, Proof};
use super::runner::Runner;

pub(crate) const CLAIM: Claim = Claim {
    number: 9,
    statement: "User virtual addresses use the LSB 47 bits; kernel virtual address does not start from \
            0x8000000000, but from 0xffff800000000000",
    experiment: "ring 3 and the walker at each border, under prealloc",
    prove,
};

/// What lies at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Location {
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
const BORDERS: [(u64, Location); 9] = [
    (0, Location::User),
    // Where the programs are linked.
    (0x40_0000, Location::Mapped),
    (0x80_0000_0000, Location::User),
    (0x0000_7fff_ffff_fff8, Location::User),
    (0x0000_8000_0000_0000, Location::Hole),
    (0xffff_7fff_ffff_fff8, Location::Hole),
    (0xffff_8000_0000_0000, Location::Kernel),
    (0xffff_ffff_ffff_fff8, Location::Kernel),
    (0x8000_0000_0000_0000, Location::Hole),
];

/// The first address of the kernel half, below which PGD entry nothing hangs.
const KERNEL_HALF: u64 = 0xffff_8000_0000_0000;

fn prove(runner: &mut Runner, proof: &mut Proof) -> Result<(), ClaimError> {
    let accesses = BORDERS.map(|(address, _)| Access {
        how: AccessKind::Read,
        address: VirtAddr::new(address),
    });
    let trace = runner.trace(&attempts::experiment(Strategy::Prealloc, &accesses))?;
    let tried = attempts::find(&trace, &accesses)?;
    for (attempt, (_, location)) in tried.iter().zip(BORDERS) {
        judge(attempt, location, proof)?;
    }
    Ok(())
}

fn judge(attempt: &Attempt<'_>, location: Location, proof: &mut Proof) -> Result<(), ClaimError> {
    let Access { address, .. } = attempt.access;
    let process = attempt.before.process(1)?;
    let walk = attempt.before.walk(process, address);
    proof.require(walk_is(&walk.result, address, location), || {
        format!("{address} should be {location:?} to the walker: {walk}")
    });
    proof.require(outcome_is(attempt, location), || {
        format!(
            "ring 3 at {address}, which is {location:?}: {:?}",
            attempt.outcome
        )
    });
    let shown = match &walk.result {
        Ok(found) => format!("frame {}", found.pa.pfn()),
        Err(Fault::NonCanonical { .. }) => "not canonical".into(),
        Err(Fault::NotPresent { level }) => format!("not in {}", walk.depth.name(*level)),
        Err(fault) => fault.display(walk.depth).to_string(),
    };
    proof.tables(format!("{address:#x} = {}: {shown}", split(address)));
    proof.cpu(match attempt.outcome {
        Outcome::Survived => format!("{address:#x}: read"),
        Outcome::Ended { status } => format!("{address:#x}: ended with {status:#x}"),
        Outcome::Killed {
            vector: PAGE_FAULT,
            error_code,
            ..
        } => format!("{address:#x}: #PF, code {error_code:#x}"),
        Outcome::Killed {
            vector: GENERAL_PROTECTION,
            ..
        } => format!("{address:#x}: #GP"),
        Outcome::Killed { vector, .. } => format!("{address:#x}: exception {vector}"),
    });
    Ok(())
}

/// Whether the walker says of an address what it must say there.
fn walk_is<T>(result: &Result<T, Fault>, address: VirtAddr, location: Location) -> bool {
    match (location, result) {
        (Location::Mapped, Ok(_))
        | (Location::User, Err(Fault::NotPresent { .. }))
        | (Location::Hole, Err(Fault::NonCanonical { depth: Depth::Four })) => true,
        (Location::Kernel, Err(Fault::NotPresent { level })) => {
            address.get() != KERNEL_HALF || *level == Level::Pml4
        }
        _ => false,
    }
}

/// Whether a process that reads there ends as it must.
fn outcome_is(attempt: &Attempt<'_>, location: Location) -> bool {
    match location {
        Location::Mapped => attempt.outcome == Outcome::Survived,
        Location::User | Location::Kernel => attempt.is_page_fault(false),
        // The CPU refuses before it looks at a table, and reports no address.
        Location::Hole => matches!(
            attempt.outcome,
            Outcome::Killed {
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
        assert!(walk_is(&at(Level::Pml4), first, Location::Kernel));
        assert!(!walk_is(&at(Level::Pdpt), first, Location::Kernel));
        assert!(walk_is(
            &at(Level::Pt),
            VirtAddr::new(u64::MAX - 7),
            Location::Kernel
        ));
    }
}
