//! Claim 9: 47 bits of user addresses, the canonical hole, and the kernel half above it.

use heirloom_abi::layout::{kernel_half, user_end};
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

/// Where the programs are linked.
const TEXT: u64 = 0x40_0000;

/// Both sides of each border.
fn borders(depth: Depth) -> [u64; 9] {
    [
        0,
        TEXT,
        0x80_0000_0000,
        user_end(depth) - 8,
        user_end(depth),
        kernel_half(depth) - 8,
        kernel_half(depth),
        0xffff_ffff_ffff_fff8,
        0x8000_0000_0000_0000,
    ]
}

/// What lies at one of them.
fn location(address: u64, depth: Depth) -> Location {
    if address == TEXT {
        Location::Mapped
    } else if address < user_end(depth) {
        Location::User
    } else if address < kernel_half(depth) {
        Location::Hole
    } else {
        Location::Kernel
    }
}

fn prove(runner: &mut Runner, proof: &mut Proof) -> Result<(), ClaimError> {
    // How deep the tables are is seen when the guest runs: the borders of both depths are tried, and those
    // shown that are some.
    let mut addresses = borders(Depth::Four).to_vec();
    let more = borders(Depth::Five).into_iter();
    addresses.extend(more.filter(|address| !borders(Depth::Four).contains(address)));
    let accesses: Vec<Access> = addresses
        .iter()
        .map(|address| Access {
            how: AccessKind::Read,
            address: VirtAddr::new(*address),
        })
        .collect();
    let trace = runner.trace(&attempts::experiment(Strategy::Prealloc, &accesses))?;
    let tried = attempts::find(&trace, &accesses)?;
    let depth = trace.depth()?;
    for (attempt, address) in tried.iter().zip(addresses) {
        judge(attempt, location(address, depth), proof)?;
        if borders(depth).contains(&address) {
            show(attempt, proof)?;
        }
    }
    Ok(())
}

fn judge(attempt: &Attempt<'_>, location: Location, proof: &mut Proof) -> Result<(), ClaimError> {
    let Access { address, .. } = attempt.access;
    let process = attempt.before.process(1)?;
    let walk = attempt.before.walk(process, address);
    proof.require(walk_is(&walk.result, address, location, walk.depth), || {
        format!("{address} should be {location:?} to the walker: {walk}")
    });
    proof.require(outcome_is(attempt, location), || {
        format!(
            "ring 3 at {address}, which is {location:?}: {:?}",
            attempt.outcome
        )
    });
    Ok(())
}

fn show(attempt: &Attempt<'_>, proof: &mut Proof) -> Result<(), ClaimError> {
    let Access { address, .. } = attempt.access;
    let process = attempt.before.process(1)?;
    let walk = attempt.before.walk(process, address);
    let shown = match &walk.result {
        Ok(found) => format!("frame {}", found.pa.pfn()),
        Err(Fault::NonCanonical { .. }) => "not canonical".into(),
        Err(Fault::NotPresent { level }) => format!("not in {}", walk.depth.name(*level)),
        Err(fault) => fault.display(walk.depth).to_string(),
    };
    proof.tables(format!(
        "{address:#x} = {}: {shown}",
        split(address, walk.depth)
    ));
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
fn walk_is<T>(
    result: &Result<T, Fault>,
    address: VirtAddr,
    location: Location,
    depth: Depth,
) -> bool {
    match (location, result) {
        (Location::Mapped, Ok(_)) | (Location::User, Err(Fault::NotPresent { .. })) => true,
        (Location::Hole, Err(Fault::NonCanonical { depth: found })) => *found == depth,
        // Nothing hangs below the first PGD entry of the kernel half.
        (Location::Kernel, Err(Fault::NotPresent { level })) => {
            address.get() != kernel_half(depth) || *level == depth.top()
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

/// The address as the tables see it: 9 bits for each level, and 12.
fn split(address: VirtAddr, depth: Depth) -> String {
    let levels = Level::ALL.into_iter().filter(|level| *level >= depth.top());
    let mut parts: Vec<String> = levels
        .map(|level| address.index(level).to_string())
        .collect();
    parts.push(format!("{:#x}", address.offset_in(Level::Pt)));
    parts.join("·")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_as_nine_nine_nine_nine_and_twelve_bits() {
        assert_eq!(
            split(VirtAddr::new(0x7fff_ffff_fff8), Depth::Four),
            "255·511·511·511·0xff8"
        );
        for (depth, parts) in [
            (Depth::Four, "256·0·0·0·0x0"),
            (Depth::Five, "256·0·0·0·0·0x0"),
        ] {
            let first = VirtAddr::new(kernel_half(depth));
            assert_eq!(split(first, depth), parts);
        }
    }

    #[test]
    fn a_table_below_the_first_entry_of_the_kernel_half_is_noticed() {
        for depth in [Depth::Four, Depth::Five] {
            let first = VirtAddr::new(kernel_half(depth));
            let last = VirtAddr::new(u64::MAX - 7);
            let is = |level, at| {
                let result = Err::<(), _>(Fault::NotPresent { level });
                walk_is(&result, at, Location::Kernel, depth)
            };
            assert!(is(depth.top(), first));
            assert!(!is(Level::Pdpt, first));
            assert!(is(Level::Pt, last));
        }
    }
}
