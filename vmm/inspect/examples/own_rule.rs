//! A rule of one's own, held against a guest together with the built-in ones: the kernel half uses 2 MiB pages
//! for nothing that is executable.
//!
//! ```sh
//! cargo run -p heirloom-inspect --example own_rule -- IMAGE [CR3]
//! ```

mod raw_image;

use std::error::Error;

use heirloom_inspect::PageSize;
use heirloom_inspect::check::{Check, Strictness};
use heirloom_inspect::rules::{
    Broken, Clause, Context, FOR_ANY, Fact, Judge, PageAt, Reads, Rule, RuleInfo, RuleSet,
};

const NO_LARGE_TEXT: Rule = Rule {
    info: RuleInfo {
        name: "no-large-text",
        statement: "no large page of the kernel half is executable",
        source: "a policy of our own",
    },
    untried: "no large page in the kernel half",
    clauses: &[Clause {
        reads: Reads::KERNEL,
        judge: Judge::KernelPages(no_large_text),
    }],
};

fn no_large_text(_: &Context<'_>, at: PageAt<'_>) -> Fact {
    match at.page.size {
        PageSize::Size4KiB => Fact::Other,
        _ if at.page.rights.execute => Fact::Broken(Broken::new("large text", "NX")),
        _ => Fact::Holds,
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (file, cr3) = match arguments.as_slice() {
        [file] => (file, None),
        [file, cr3] => (file, Some(cr3.as_str())),
        _ => return Err("usage: own_rule IMAGE [CR3]".into()),
    };
    let discovery = raw_image::discover(file, cr3)?;
    let rules = RuleSet::new(FOR_ANY).with(NO_LARGE_TEXT);
    let check = Check::by(&rules, &discovery, Strictness::default());
    for verdict in &check.rules {
        println!("{:<24} {:?}", verdict.rule.name, verdict.outcome);
        for finding in &verdict.findings {
            println!(
                "  {}: expected {}, found {}",
                finding.place, finding.expected, finding.found
            );
        }
    }
    Ok(())
}
