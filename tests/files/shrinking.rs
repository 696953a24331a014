//! A file that becomes shorter while it is read: said with the offset, whatever the moment.

use std::fs::File;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::answers::named;
use crate::guest::Stopped;

/// How often a file is cut, each time a little later.
const TIMES: u32 = 16;

#[test]
fn a_core_that_shrinks_while_it_is_read_is_exit_code_2_and_never_a_signal() {
    let stopped = Stopped::get();
    let copy = stopped.path("shrinking");
    let length = std::fs::metadata(&stopped.core).unwrap().len();
    let mut said = 0;
    for time in 0..TIMES {
        std::fs::copy(&stopped.core, &copy).unwrap();
        let command = Command::new(env!("CARGO_BIN_EXE_heirloom"))
            .args(["check", &named(&copy)])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(u64::from(time) * 8));
        let file = File::options().write(true).open(&copy).unwrap();
        file.set_len(length / 8).unwrap();
        let output = command.wait_with_output().unwrap();
        let [out, err] =
            [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        // It was cut before it was opened, while it was read, or when all was over.
        match output.status.code() {
            Some(2) if err.contains("became shorter") => {
                assert!(err.contains("at byte ") && out.is_empty(), "{out}{err}");
                said += 1;
            }
            Some(2) => assert!(
                err.contains("not understood") || err.contains("no page tables"),
                "{err}"
            ),
            Some(0) => assert!(out.contains("HOLDS"), "{out}{err}"),
            code => panic!("{code:?}: {out}{err}"),
        }
    }
    std::fs::remove_file(copy).unwrap();
    // Of so many at least one was cut in the middle.
    assert!(said > 0);
}
