//! Claim 2: "in kernel context, user data is accessed (a lot!)", "user data of many processes".

use crate::event::EventKind;
use heirloom_abi::PAGE_SIZE;
use heirloom_abi::options::Strategy;
use heirloom_abi::syscall::Errno;
use heirloom_inspect::{PhysAddr, PhysicalMemory, VirtAddr};

use super::Claim;
use super::proof::{ClaimError, Proof, missing};
use super::runner::{Experiment, Runner, observation};
use super::trace::Observation;
use crate::run::Seen;

pub(crate) const CLAIM: Claim = Claim {
    number: 2,
    statement: "In kernel context, user data is accessed (a lot!); even worse, user data of many processes",
    experiment: "process_vm_readv and _writev between two processes, under prealloc and isolated",
    prove,
};

// Where the program maps what, see its `copy`.
const RESULTS: u64 = 0x10_0000_0000;
pub(super) const BUFFER: u64 = 0x10_0001_0000;
const SHARED: u64 = 0x10_0002_0000;
pub(super) const THEIRS: u64 = 0x10_0003_0000;

/// Bytes that the program copies across a page boundary, and half of them.
const ACROSS: usize = 1024;
const HALF: u64 = ACROSS as u64 / 2;
/// Bytes of a copy that come before a page which cannot be reached.
const PARTIAL: usize = 64;
/// Process 1 and its child.
const MINE: u32 = 1;
const OTHER: u32 = 2;

/// What the two processes' memory holds at one moment, read through their tables.
struct Memory {
    /// The bytes that process 1 copies, across its page boundary.
    buffer: Vec<u8>,
    /// The two writable pages of process 2.
    theirs: Vec<u8>,
    /// The first word of the page from before the fork, in both.
    shared: [Vec<u8>; 2],
    /// Its frame in both.
    shared_frames: [Option<PhysAddr>; 2],
    results: Vec<u8>,
}

fn prove(runner: &mut Runner, proof: &mut Proof) -> Result<(), ClaimError> {
    let addresses = [RESULTS, BUFFER, SHARED, THEIRS].map(|address| address.to_string());
    let arguments: Vec<&str> = ["copy"]
        .into_iter()
        .chain(addresses.iter().map(String::as_str))
        .collect();
    for strategy in [Strategy::Prealloc, Strategy::Isolated] {
        let mut shown = Vec::new();
        runner.watch(&Experiment::new(strategy, &arguments), |seen| {
            if matches!(seen.event.claim, EventKind::Checkpoint { .. }) {
                shown.push(observation(seen).and_then(|now| Some((read(seen, &now)?, now))));
            }
        })?;
        let [
            Some((filled, at_first)),
            Some((read, _)),
            Some((written, at_last)),
        ] = &shown[..]
        else {
            return Err(missing("the memory of both processes at three checkpoints"));
        };
        judge(strategy.name(), filled, read, written, proof)?;
        if strategy == Strategy::Prealloc {
            proof.cpu(format!(
                "prealloc: CR3 {} before, {} after",
                at_first.cr3, at_last.cr3
            ));
            let own = at_last.process(MINE)?.address;
            proof.require(at_first.cr3 == own && at_last.cr3 == own, || {
                format!(
                    "CR3 should stay process 1's: {} then {}",
                    at_first.cr3, at_last.cr3
                )
            });
        }
    }
    Ok(())
}

/// Reads the memory of both processes.
fn read(seen: &Seen<'_>, now: &Observation) -> Option<Memory> {
    let bytes = |pid, at, length| bytes_of(seen, now, pid, VirtAddr::new(at), length);
    let frame = |pid| {
        let root = now.process(pid).ok()?;
        let walk = now.walk(root, VirtAddr::new(SHARED));
        walk.translation().map(|found| found.page)
    };
    let results = 64;
    Some(Memory {
        // Before the first copy, process 1 has not touched either.
        buffer: bytes(MINE, BUFFER + PAGE_SIZE - HALF, ACROSS).unwrap_or_default(),
        results: bytes(MINE, RESULTS, results).unwrap_or_default(),
        theirs: bytes(OTHER, THEIRS, 2 * PAGE)?,
        shared: [bytes(MINE, SHARED, 8)?, bytes(OTHER, SHARED, 8)?],
        shared_frames: [frame(MINE), frame(OTHER)],
    })
}

const PAGE: usize = 4096;

/// `length` bytes at `at` of process `pid`.
fn bytes_of(
    seen: &Seen<'_>,
    now: &Observation,
    pid: u32,
    at: VirtAddr,
    length: usize,
) -> Option<Vec<u8>> {
    let root = now.process(pid).ok()?;
    let mut bytes = vec![0; length];
    for (offset, byte) in (0..).zip(&mut bytes) {
        let walk = now.walk(root, at.wrapping_add(offset));
        let from = walk.translation()?.pa;
        let memory = seen.machine.memory();
        memory.read_bytes(from, std::slice::from_mut(byte)).ok()?;
    }
    Some(bytes)
}

fn judge(
    name: &str,
    filled: &Memory,
    read: &Memory,
    written: &Memory,
    proof: &mut Proof,
) -> Result<(), ClaimError> {
    let middle = PAGE - ACROSS / 2..PAGE + ACROSS / 2;
    let before = filled.theirs.get(middle.clone());
    let after = written.theirs.get(middle);
    let (Some(before), Some(after)) = (before, after) else {
        return Err(missing("process 2's pages"));
    };
    proof.require(before.iter().any(|byte| *byte != 0), || {
        format!("{name}: process 2's memory should not be zero at first")
    });
    proof.require(read.buffer == before, || {
        format!("{name}: process 1 should have read what process 2 had")
    });
    proof.require(written.buffer != read.buffer, || {
        format!("{name}: what process 1 writes should differ from what it read")
    });
    proof.require(after == written.buffer, || {
        format!("{name}: process 2 should have what process 1 wrote")
    });
    let end = written.theirs.get(2 * PAGE - PARTIAL..);
    proof.require(
        end.is_some() && end == written.buffer.get(..PARTIAL),
        || format!("{name}: the bytes before the read-only page should be written"),
    );

    let [mine, theirs] = &written.shared;
    proof.require(*mine == filled.shared[0], || {
        format!("{name}: process 1's copy of the shared page changed: {mine:x?}")
    });
    proof.require_equal(
        "process 2's copy of the shared page",
        theirs,
        &vec![0xee; 8],
    );
    let [first, second] = filled.shared_frames;
    proof.require(first.is_some() && first == second, || {
        format!("{name}: after the fork both should have one frame: {first:?}, {second:?}")
    });
    let [first_after, second_after] = written.shared_frames;
    proof.require(
        first_after == first && second_after.is_some() && second_after != second,
        || {
            format!(
                "{name}: process 2 should have its own frame: {first_after:?}, {second_after:?}"
            )
        },
    );

    let fault = Errno::Fault.to_result();
    let partial = PARTIAL as u64;
    let expected = [
        ACROSS as u64,
        ACROSS as u64,
        partial,
        fault,
        partial,
        fault,
        8,
        Errno::NoSuchProcess.to_result(),
    ];
    let returned: Vec<u64> = written
        .results
        .chunks_exact(8)
        .map(|word| {
            word.iter()
                .rev()
                .fold(0, |number, byte| number << 8 | u64::from(*byte))
        })
        .collect();
    proof.require(returned == expected, || {
        format!("{name}: the calls should return {expected:x?}, found {returned:x?}")
    });
    let equal = |one: &[u8], other: &[u8]| one.iter().zip(other).filter(|(a, b)| a == b).count();
    proof.tables(format!(
        "{name}: across a page boundary, {} of {ACROSS} bytes read are process 2's, {} of {ACROSS} written \
         arrived; of a page shared copy-on-write, process 1 has frame {} before and {} after the write to \
         process 2's, process 2 {} and {}",
        equal(&read.buffer, before),
        equal(&written.buffer, after),
        frame_of(first),
        frame_of(first_after),
        frame_of(second),
        frame_of(second_after),
    ));
    let signed: Vec<String> = returned
        .iter()
        .map(|value| value.cast_signed().to_string())
        .collect();
    proof.cpu(format!(
        "{name}: read and write return {}; write to read-only, read of unmapped {}; shared {}; no process {}",
        signed.get(..2).unwrap_or_default().join(", "),
        signed.get(2..6).unwrap_or_default().join(", "),
        signed.get(6).map_or("", String::as_str),
        signed.get(7).map_or("", String::as_str),
    ));
    Ok(())
}

fn frame_of(page: Option<PhysAddr>) -> String {
    page.map_or("none".into(), |page| page.pfn().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(theirs: u8, buffer: u8, frames: [u64; 2]) -> Memory {
        Memory {
            buffer: vec![buffer; ACROSS],
            theirs: vec![theirs; 2 * PAGE],
            shared: [vec![1; 8], vec![1; 8]],
            shared_frames: frames.map(|frame| Some(PhysAddr::new(frame))),
            results: Vec::new(),
        }
    }

    fn good() -> [Memory; 3] {
        let mut written = memory(5, 5, [0x1000, 0x2000]);
        written.shared[1] = vec![0xee; 8];
        let words = [1024, 1024, 64, -14_i64, 64, -14, 8, -3];
        written.results = words.into_iter().flat_map(i64::to_le_bytes).collect();
        [
            memory(7, 0, [0x1000, 0x1000]),
            memory(7, 7, [0x1000, 0x1000]),
            written,
        ]
    }

    fn holds(memories: &[Memory; 3]) -> bool {
        let [filled, read, written] = memories;
        let mut proof = Proof::default();
        judge("prealloc", filled, read, written, &mut proof).is_ok() && proof.holds()
    }

    #[test]
    fn every_single_byte_frame_or_result_that_is_wrong_breaks_the_claim() {
        assert!(holds(&good()));
        let doctored: [fn(&mut [Memory; 3]); 8] = [
            |memories| memories[1].buffer[ACROSS - 1] = 0,
            |memories| memories[2].theirs[PAGE] = 0,
            |memories| memories[2].theirs[2 * PAGE - 1] = 0,
            |memories| memories[2].shared[0][0] = 0xee,
            |memories| memories[2].shared[1][7] = 1,
            |memories| memories[2].shared_frames[1] = Some(PhysAddr::new(0x1000)),
            |memories| memories[2].results[0] = 1,
            |memories| memories[0].theirs = vec![0; 2 * PAGE],
        ];
        for (number, doctor) in doctored.into_iter().enumerate() {
            let mut memories = good();
            doctor(&mut memories);
            assert!(!holds(&memories), "{number}");
        }
    }
}
