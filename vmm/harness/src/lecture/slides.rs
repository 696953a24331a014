//! The lecture's slides, and each claim in two sentences for somebody who knows little.

/// What stands on the slide of a claim.
pub struct Slide {
    /// The claim's number.
    pub claim: u8,
    /// The title of the lecture's slide that it is from.
    pub title: &'static str,
    /// What it means.
    pub explanation: &'static str,
}

/// The course, the lecture and its teacher.
pub const COURSE: &str = "Topics in Operating Systems";
/// What the lecture is called.
pub const TITLE: &str = "Kernel Virtual Address";
/// Who gives it.
pub const TEACHER: &str = "Debadatta Mishra, CSE, IITK";

const MEMORY: &str = "Kernel Virtual Memory";
const PROPAGATION: &str = "Issue of Kernel VM propagation";
const FAMILY: &str = "Linux strives on family values!";
const SOLUTION: &str = "Solution overview";
const LAYOUT: &str = "Virtual memory layout (x86_64)";

/// In the order of the lecture's slides.
pub const SLIDES: [Slide; 13] = [
    Slide {
        claim: 1,
        title: MEMORY,
        explanation: "If the kernel had page tables all of its own, every system call would have to load them, and load the \
            program's again on the way back. And a few pages must stay in the program's tables all the same: those \
            that the CPU itself touches before any kernel code can switch.",
    },
    Slide {
        claim: 2,
        title: MEMORY,
        explanation: "While it serves a system call, the kernel reads and writes the memory of the program that called, and \
            sometimes that of another one. It has to find both, though each program has its own page tables.",
    },
    Slide {
        claim: 13,
        title: MEMORY,
        explanation: "So the kernel uses the tables of the program that called, and is mapped there while the program runs. One bit in \
            each entry, U/S, keeps the program out: it faults on every access, but what it must not see is there.",
    },
    Slide {
        claim: 3,
        title: PROPAGATION,
        explanation: "Kernel memory belongs to the kernel, not to the process that happened to ask for it. So what is mapped during one \
            process's system call must be there, on the same frames, when the kernel runs on another process's tables.",
    },
    Slide {
        claim: 12,
        title: PROPAGATION,
        explanation: "Processes are born and die all the time, and kernel memory comes and goes with them. Whatever the design \
            is, nothing may be left over: no mapping of what was freed, no frame that nobody owns.",
    },
    Slide {
        claim: 5,
        title: FAMILY,
        explanation: "A new process gets the kernel's part of its parent's PGD: a few entries of 8 bytes, which point to the same \
            tables. Parent and child then share the kernel, and so does everybody who descends from the first process.",
    },
    Slide {
        claim: 4,
        title: FAMILY,
        explanation: "If each process had its own copy of the kernel's tables, every change would have to be written into every copy. \
            That is work for each process that lives, and a bug for each one that is forgotten.",
    },
    Slide {
        claim: 6,
        title: SOLUTION,
        explanation: "One PGD entry covers 512 GiB, so a kernel needs only a few of them. How many is arithmetic: the size of its part \
            of the address space, divided by that.",
    },
    Slide {
        claim: 7,
        title: SOLUTION,
        explanation: "All PGDs have the same entry E1, which points to one table. A mapping made below it is one write to one table, \
            and everybody who walks through E1 sees it at once.",
    },
    Slide {
        claim: 8,
        title: SOLUTION,
        explanation: "A mapping beyond what the shared entries cover needs a new PGD entry, and PGDs are not shared. Somebody must \
            bring it to all of them: at once, at the first fault, or by making all entries at boot.",
    },
    Slide {
        claim: 9,
        title: LAYOUT,
        explanation: "The walk uses 48 bits of an address, and bits 48 to 63 must repeat bit 47. So the addresses fall into two halves \
            with a hole between them: programs have the lower one, the kernel the upper one.",
    },
    Slide {
        claim: 10,
        title: LAYOUT,
        explanation: "One part of the kernel's half shows all physical memory, frame after frame. Whatever frame the kernel wants to touch, \
            its address there is a sum: the start of the direct map plus the frame's own address.",
    },
    Slide {
        claim: 11,
        title: LAYOUT,
        explanation: "Page tables hold physical addresses, but the kernel can only write to virtual ones. It reaches every page table through \
            the direct map: that is how its page-fault handler fills in the entry that was missing.",
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lecture::claims;

    #[test]
    fn every_claim_has_its_slide_and_two_sentences() {
        let mut numbers: Vec<u8> = SLIDES.iter().map(|slide| slide.claim).collect();
        numbers.sort_unstable();
        assert!(
            numbers
                .into_iter()
                .eq(claims().iter().map(|claim| claim.number))
        );
        for slide in &SLIDES {
            let ends = slide.explanation.matches(['.', '?', '!']).count();
            assert_eq!(ends, 2, "{}", slide.explanation);
            assert!(!slide.explanation.contains("  "), "{}", slide.explanation);
        }
    }
}
