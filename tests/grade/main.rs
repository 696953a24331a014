//! `heirloom grade`: stubs fail, solutions pass, wrong kernels of many kinds get what a teacher would give, and no
//! kernel gets points by lying, by hiding or by hanging.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/tiny.rs"]
#[allow(dead_code, unused_imports, reason = "these tests use a part of it")]
mod tiny;

mod assignments;
mod elsewhere;
mod hostile;
mod kernels;
mod wrong;

use std::path::Path;

use serde_json::Value;

use common::heirloom;

/// A grade, as JSON.
struct Grade(Value);

impl Grade {
    /// Of a kernel by an assignment.
    fn of(kernel: &Path, assignment: &Path) -> Grade {
        let run = heirloom(&[
            "grade",
            kernel.to_str().unwrap(),
            "--assignment",
            assignment.to_str().unwrap(),
            "--format",
            "json",
        ]);
        let grade: Value = serde_json::from_str(&run.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}{}", run.stdout, run.stderr));
        let grade = Grade(grade);
        let all = grade.points() == grade.of_all();
        assert_eq!(run.code, Some(i32::from(!all)), "{:#}", grade.0);
        grade
    }

    fn points(&self) -> u64 {
        self.0["points"].as_u64().unwrap()
    }

    fn of_all(&self) -> u64 {
        self.0["of"].as_u64().unwrap()
    }

    fn items(&self) -> &[Value] {
        self.0["items"].as_array().unwrap()
    }

    /// The names of what did not get all points, with a reason for each.
    fn lost(&self) -> Vec<&str> {
        let items = self.items().iter();
        items
            .filter(|item| item["points"] != item["of"])
            .map(|item| {
                assert_ne!(item["reasons"].as_array().unwrap().len(), 0, "{item:#}");
                item["name"].as_str().unwrap()
            })
            .collect()
    }

    fn lies(&self) -> Vec<&str> {
        let lies = self.0["lies"].as_array().unwrap().iter();
        lies.map(|lie| lie.as_str().unwrap()).collect()
    }
}
