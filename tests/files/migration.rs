//! A Linux guest as QEMU's migration stream: it answers as the core of the same moment does.

use crate::answers::{Answers, named};
use crate::guest::Stopped;

#[test]
fn a_migration_stream_answers_as_the_core_does() {
    let stopped = Stopped::get();
    let of_stream = Answers::of(&named(&stopped.migrate()));
    assert_eq!(of_stream.spaces(), stopped.answers.spaces());
    assert_eq!(of_stream.maps(), stopped.answers.maps());
    assert_eq!(of_stream.translations(), stopped.answers.translations());
}
