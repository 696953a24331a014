//! The dumps that QEMU writes, which needs no other tool.

use crate::answers::{Answers, named, notes};
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
