//! The dumps that QEMU writes, which needs no other tool.

use crate::answers::{Answers, named, notes, run};
use crate::guest::Stopped;

#[test]
fn a_core_needs_no_prefix_and_says_what_it_was_taken_for() {
    let stopped = Stopped::get();
    let core = named(&stopped.core);
    assert_eq!(Answers::of(&format!("core:{core}")), stopped.answers);
    assert!(notes(&core).iter().any(|note| note.contains("an ELF core")));
}

#[test]
fn dumps_that_qemu_compresses_answer_as_its_core_does() {
    let stopped = Stopped::get();
    let formats = stopped.formats();
    // How much of it there is depends on how QEMU was built.
    let packed: Vec<&String> = formats
        .iter()
        .filter(|format| format.starts_with("kdump"))
        .collect();
    assert!(!packed.is_empty(), "{formats:?}");
    for format in packed {
        let dump = stopped.dump(format);
        let dump = named(&dump);
        assert_eq!(Answers::of(&dump), stopped.answers, "{format}");
        let said = notes(&dump).join("\n");
        assert!(
            said.contains("kdump-compressed dump (header version 6"),
            "{said}"
        );
    }
}

#[test]
fn a_core_of_a_part_of_ram_breaks_no_rule() {
    const MIB: u64 = 1 << 20;
    let stopped = Stopped::get();
    // Without the end, without the beginning, a small part; the whole has 512 MiB.
    for (begin, length) in [(0, 480 * MIB), (64 * MIB, 448 * MIB), (0, 64 * MIB)] {
        let part = stopped.dump_part("part", begin, length);
        let (code, report) = run(&["check", &named(&part)]);
        // Where the tables that a CPU runs on are elsewhere, nothing can be concluded.
        assert!(matches!(code, Some(0 | 2)), "{begin:#x}: {code:?} {report}");
        assert_eq!(report["holds"], true, "{begin:#x}: {report}");
        let said = report["notes"].to_string();
        assert!(said.contains("is unknown"), "{begin:#x}: {said}");
        std::fs::remove_file(part).unwrap();
    }
}
