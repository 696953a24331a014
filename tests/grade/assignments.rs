//! Each assignment: what students are given fails, and our answer passes.

use std::fs;

use crate::Grade;
use crate::kernels::{SOLUTIONS, STUBS, top};

/// What is lost with the stub alone, and so what it is about.
const ABOUT: [(&str, &[&str]); 4] = [
    ("share", &["kernel-half-shared", "propagated", "5"]),
    ("reach", &["kernel-half-shared", "propagated"]),
    ("revoke", &["revoked", "propagated", "4"]),
    ("isolate", &["user-root-isolated", "1", "13"]),
];

#[test]
fn on_kvm_every_stub_fails_where_its_assignment_is_about_and_every_solution_passes() {
    for (name, about) in ABOUT {
        let file = top().join(format!("guest/assignments/{name}/assignment.toml"));
        let stub = Grade::of(&STUBS, &file);
        // It boots and lives through the whole scenario: students see what is wrong, not a crash.
        let lost = stub.lost();
        assert!(!lost.contains(&"scenario"), "{name}: {:#}", stub.0);
        for what in about {
            assert!(lost.contains(what), "{name}, {what}: {lost:?}");
        }
        assert!(stub.points() <= 50, "{name}: {}", stub.points());
        assert_eq!(stub.lies(), [""; 0], "{name}");
        let solution = Grade::of(&SOLUTIONS, &file);
        assert_eq!(solution.points(), 100, "{name}: {:#}", solution.0);
        assert_eq!(solution.of_all(), 100, "{name}");
    }
}

#[test]
fn every_assignment_has_a_text_that_teaches_a_stub_and_a_solution() {
    let folder = top().join("guest/assignments");
    let mut names: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    let mut about: Vec<&str> = ABOUT.iter().map(|(name, _)| *name).collect();
    about.sort_unstable();
    assert_eq!(names, about);
    let all = fs::read_to_string(folder.join("README.md")).unwrap();
    for name in names {
        let read = |file: &str| fs::read_to_string(folder.join(&name).join(file)).unwrap();
        assert!(all.contains(&format!("({name}/README.md)")), "{name}");
        let text = read("README.md");
        let command = format!("--assignment assignments/{name}/assignment.toml");
        assert!(text.contains(&command), "{name}");
        assert!(read("answer.rs").contains("// TODO: "), "{name}");
        assert!(!read("solution.rs").contains("TODO"), "{name}");
    }
}
