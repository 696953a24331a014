//! A Linux guest as QEMU's migration stream: it answers as the core of the same moment does.

use crate::answers::{Answers, named};
use crate::guest::Stopped;

#[test]
fn a_migration_stream_answers_as_the_core_does() {
    let stopped = Stopped::get();
    let stream = named(&stopped.migrate());
    assert_eq!(Answers::of(&stream), stopped.answers);
}
