//! `heirloom profile`: a file that says what is known of a kernel, to begin with; and reading such files.

use std::fs::File;
use std::io::Read as _;

use heirloom_inspect::Profile;
use heirloom_inspect::check::{Check, Strictness};
use heirloom_inspect::profile::ProfileFile;

use crate::exit::{Exit, Failure};
use crate::output::Output;

/// Bytes that a profile has at most.
const LONGEST: u64 = 1 << 20;

/// What stands above the file that is printed.
const HEAD: &str = "\
# What heirloom knows of this kernel: `--profile FILE` of roots, check, maps, layout and others reads it.
# like        a built-in profile that this one begins with: linux, xen, heirloom, generic
# let-pass    deviations from the rules that the kernel means; `heirloom check --help` lists them
# [[mark]]    text = \"…\": a text in the kernel's memory by which it is known
# [[area]]    name, range; is = \"direct-map\" tells what it is to the rules; private = true where each
#             address space has its own
# [[page]]    name, rule, range, rights, why: pages that are let pass, if they allow no more than rights
";

/// Options of `heirloom profile`.
#[derive(clap::Args)]
#[command(after_help = super::TARGETS)]
pub(crate) struct Options {
    #[command(flatten)]
    common: super::Options,
}

/// Prints a file for the kernel at hand.
pub(crate) fn run(options: &Options) -> Result<Exit, Failure> {
    let (_, discovery) = options.common.discover()?;
    let check = Check::of(&discovery, Strictness::default());
    let file = ProfileFile::of(&discovery, &check);
    if options.common.json {
        super::Options::print_json(&file)?;
    } else {
        let text = toml::to_string(&file).map_err(|error| {
            Failure::new(Exit::Usage, format!("the profile cannot be TOML: {error}"))
        })?;
        Output::new()?.line(format!("{HEAD}\n{text}").trim_end())?;
    }
    Ok(Exit::Good)
}

/// The profile that the user names: a built-in one, or a file.
pub(super) fn named(name: &str) -> Result<Profile, Failure> {
    if let Some(profile) = Profile::named(name) {
        return Ok(profile);
    }
    let refused = |why: String| Failure::new(Exit::Usage, format!("profile {name}: {why}"));
    let mut text = String::new();
    File::open(name)
        .and_then(|file| file.take(LONGEST + 1).read_to_string(&mut text))
        .map_err(|error| {
            refused(format!(
                "{error}; write linux, xen, heirloom, generic, or the name of a file"
            ))
        })?;
    if text.len() as u64 > LONGEST {
        return Err(refused("no profile has more than 1 MiB".into()));
    }
    let file: ProfileFile = toml::from_str(&text).map_err(|error| {
        let what = error.message();
        let line = error.span().map(|span| {
            let before = text.as_bytes().iter().take(span.start);
            before.filter(|byte| **byte == b'\n').count() + 1
        });
        refused(match line {
            Some(line) => format!("line {line}: {what}"),
            None => what.to_owned(),
        })
    })?;
    file.read().map_err(|error| refused(error.to_string()))
}
