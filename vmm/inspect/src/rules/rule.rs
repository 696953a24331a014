//! What a rule is.

use std::any::Any;
use std::fmt;

use serde::Serialize;

use super::context::{Context, PageAt};
use super::evidence::Evidence;
use super::exceptions::Exception;
use crate::discover::Discovery;
use crate::history::History;

/// A rule's name and meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RuleInfo {
    /// In kebab case.
    pub name: &'static str,
    /// What must hold, in one sentence.
    pub statement: &'static str,
    /// Where the rule comes from.
    pub source: &'static str,
}

/// Something that must hold.
///
/// A rule is a constant: what it says, and one [`Clause`] or several that are each held against the
/// tables. It holds if all of them do.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Its name, statement and source.
    pub info: RuleInfo,
    /// Why there may be nothing to hold it against: what is missing then.
    pub untried: &'static str,
    /// What its verdict is made of; all of them must hold.
    pub clauses: &'static [Clause],
}

/// A part of a rule that is evaluated by itself.
#[derive(Clone, Copy, Debug)]
pub struct Clause {
    /// What decides the answer: as long as none of it changes, the last answer stands.
    pub reads: Reads,
    /// What judges.
    pub judge: Judge,
}

/// What a clause is held against.
#[derive(Clone, Copy)]
pub enum Judge {
    /// The tables, as they are indexed.
    Tables(fn(&Context<'_>, &mut Evidence)),
    /// The tables, and what was found out of their address spaces.
    Found(fn(&Context<'_>, &Discovery, &mut Evidence)),
    /// The tables, and what must be so.
    History(fn(&Context<'_>, &History, &mut Evidence)),
    /// Each leaf of the kernel half by itself.
    KernelPages(fn(&Context<'_>, PageAt<'_>) -> Fact),
    /// Each leaf of user halves by itself.
    UserPages(fn(&Context<'_>, PageAt<'_>) -> Fact),
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Judge::Tables(_) => "Tables",
            Judge::Found(_) => "Found",
            Judge::History(_) => "History",
            Judge::KernelPages(_) => "KernelPages",
            Judge::UserPages(_) => "UserPages",
        })
    }
}

/// What a rule says of one page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// It is none of the rule's concern.
    Other,
    /// It is as it must be.
    Holds,
    /// It would be wrong, but is meant.
    Excepted(Exception),
    /// It is wrong: what was expected. The page is not counted as one that was looked at.
    Found(Broken),
    /// It is wrong, and counted as one that was looked at.
    Broken(Broken),
}

/// What is wrong with a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// In a word or two, the same from run to run: it is part of the finding's identity.
    pub what: &'static str,
    /// What should be there.
    pub expected: String,
    /// What was found, where the page's own description does not say it.
    pub found: Option<String>,
    /// An address whose walk shows it, too.
    pub beside: Option<super::Place>,
}

impl Broken {
    /// What is wrong, and what was expected.
    pub fn new(what: &'static str, expected: impl Into<String>) -> Broken {
        Broken {
            what,
            expected: expected.into(),
            found: None,
            beside: None,
        }
    }
}

/// What decides a clause's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reads(u8);

impl Reads {
    /// Kernel halves.
    pub const KERNEL: Reads = Reads(1);
    /// User halves.
    pub const USER: Reads = Reads(2);
    /// Which address spaces there are. A clause that counts by [`Evidence::checked_each`] need not say
    /// so.
    pub const SPACES: Reads = Reads(4);
    /// Any table.
    pub const TABLES: Reads = Reads(8);
    /// What kernel memory there is, by the history.
    pub const MEMORY: Reads = Reads(16);
    /// The present event, the CPUs, an extension: it is asked each time.
    pub const EVENT: Reads = Reads(32);

    /// Both.
    #[must_use]
    pub const fn and(self, other: Reads) -> Reads {
        Reads(self.0 | other.0)
    }

    pub(super) const fn has(self, other: Reads) -> bool {
        self.0 & other.0 != 0
    }
}

/// The rules that a guest is held to: the built-in ones, and others' own.
#[derive(Clone, Debug)]
pub struct RuleSet {
    rules: Vec<Rule>,
}

impl RuleSet {
    /// These rules, in the order in which they are shown.
    pub fn new(rules: impl IntoIterator<Item = Rule>) -> RuleSet {
        RuleSet {
            rules: rules.into_iter().collect(),
        }
    }

    /// One more rule, behind the others.
    #[must_use]
    pub fn with(mut self, rule: Rule) -> RuleSet {
        self.rules.push(rule);
        self
    }

    /// One more rule, in front of the one called `name`, or behind all.
    #[must_use]
    pub fn with_before(mut self, name: &str, rule: Rule) -> RuleSet {
        let at = self.rules.iter().position(|known| known.info.name == name);
        self.rules.insert(at.unwrap_or(self.rules.len()), rule);
        self
    }

    /// Without the rule called `name`.
    #[must_use]
    pub fn without(mut self, name: &str) -> RuleSet {
        self.rules.retain(|rule| rule.info.name != name);
        self
    }

    /// The rules.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter()
    }
}

/// Facts that rules of one's own are held against: see [`Context::extension`].
pub type Extension<'a> = Option<&'a dyn Any>;
