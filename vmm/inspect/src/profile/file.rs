//! A profile as users write it: plain types, of whatever file format.

use serde::{Deserialize, Serialize};

use super::{AreaPlace, Mark, Name, PagePass, Profile};
use crate::check::Check;
use crate::discover::Discovery;
use crate::layout::Area;
use crate::rules::{EXCEPTIONS, Exception};
use heirloom_paging::addr::{VirtAddr, VirtRange};
use heirloom_paging::level::Depth;
use heirloom_paging::rights::Rights;

/// Marks, areas, pages, slots that a file may have, each.
const MOST: usize = 256;

/// A profile as a file has it. Addresses are texts, because not every format has numbers of 64 bits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ProfileFile {
    /// What the kernel is called.
    pub name: String,
    /// A built-in profile that this one begins with; `generic` if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub like: Option<String>,
    /// First and last address of the kernel half, `0xffff800000000000-0xffff87ffffffffff`; as the tables tell
    /// if it is not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_half: Option<String>,
    /// Entries of the root that point back to it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub self_map_slots: Vec<u16>,
    /// Exceptions that apply, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub let_pass: Vec<String>,
    /// Texts by which it is known.
    #[serde(rename = "mark", skip_serializing_if = "Vec::is_empty")]
    pub marks: Vec<MarkFile>,
    /// Its areas.
    #[serde(rename = "area", skip_serializing_if = "Vec::is_empty")]
    pub areas: Vec<AreaFile>,
    /// Pages that are let pass.
    #[serde(rename = "page", skip_serializing_if = "Vec::is_empty")]
    pub pages: Vec<PageFile>,
}

/// A text by which the kernel is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct MarkFile {
    /// What stands in the kernel's memory.
    pub text: String,
}

/// Where an area is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct AreaFile {
    /// What people call it.
    pub name: String,
    /// What it is to the rules: `direct-map`, `kernel-image` …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is: Option<String>,
    /// First and last address.
    pub range: String,
    /// With 4 or 5 levels only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub levels: Option<u8>,
    /// Each address space has its own there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub private: bool,
}

/// Pages that are let pass.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PageFile {
    /// The exception's name in reports.
    pub name: String,
    /// The rule that they would break.
    pub rule: String,
    /// First and last address.
    pub range: String,
    /// The most that they may allow: `r--u`.
    pub rights: String,
    #[serde(default)]
    /// Why the kernel has them.
    pub why: String,
}

/// Why a profile cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its variant is")]
pub enum ProfileError {
    #[error("a profile needs a name: name = \"mykernel\"")]
    NoName,
    #[error(
        "like = \"{0}\": there is no such profile; linux, xen, heirloom and generic are built in"
    )]
    Like(String),
    #[error(
        "{place}: `{text}` is no range of addresses; write first and last: 0xffff800000000000-0xffff87ffffffffff"
    )]
    Range { place: String, text: String },
    #[error("area {area}: is = \"{is}\" is no kind of area; write one of {known}")]
    Area {
        area: String,
        is: String,
        known: String,
    },
    #[error("area {area}: levels = {levels}; page tables have 4 or 5")]
    Levels { area: String, levels: u8 },
    #[error("let-pass: there is no exception `{name}`; the nearest is `{nearest}`")]
    Exception { name: String, nearest: &'static str },
    #[error("page {page}: there is no rule `{rule}`; the nearest is `{nearest}`")]
    Rule {
        page: String,
        rule: String,
        nearest: &'static str,
    },
    #[error("page {page}: `{rights}` are no rights; write r, then w, x and u, each or -: r--u")]
    Rights { page: String, rights: String },
    #[error("self-map-slots: {0} is no entry of a table; there are 512, from 0 on")]
    Slot(u16),
    #[error("mark: text = \"\" is in every memory; write a text that only this kernel has")]
    EmptyMark,
    #[error("the profile has more than {MOST} of one kind")]
    TooMuch,
}

impl ProfileFile {
    /// The profile.
    ///
    /// # Errors
    /// [`ProfileError`]: what is wrong in the file.
    pub fn read(&self) -> Result<Profile, ProfileError> {
        if self.name.trim().is_empty() {
            return Err(ProfileError::NoName);
        }
        let lengths = [
            self.marks.len(),
            self.areas.len(),
            self.pages.len(),
            self.let_pass.len(),
            self.self_map_slots.len(),
        ];
        if lengths.into_iter().any(|length| length > MOST) {
            return Err(ProfileError::TooMuch);
        }
        let like = self.like.as_deref().unwrap_or("generic");
        let mut profile =
            Profile::named(like).ok_or_else(|| ProfileError::Like(like.to_owned()))?;
        profile.name = Name::new(self.name.trim());
        if let Some(half) = &self.kernel_half {
            profile.kernel_half = Some(range("kernel-half", half)?);
        }
        for &slot in &self.self_map_slots {
            if slot > 511 {
                return Err(ProfileError::Slot(slot));
            }
            profile.self_maps.push(slot);
        }
        for name in &self.let_pass {
            let exception = EXCEPTIONS.iter().find(|known| known.name == name);
            let exception = exception.ok_or_else(|| ProfileError::Exception {
                name: name.clone(),
                nearest: nearest(name, EXCEPTIONS.iter().map(|known| known.name)),
            })?;
            if !profile.excepts(*exception) {
                profile.exceptions.push(*exception);
            }
        }
        profile.marks = Vec::new();
        for mark in &self.marks {
            if mark.text.is_empty() {
                return Err(ProfileError::EmptyMark);
            }
            profile.marks.push(Mark::Text {
                text: mark.text.clone(),
                digit_follows: false,
                range: None,
            });
        }
        // What the file says comes first.
        let mut areas = Vec::new();
        for area in &self.areas {
            areas.push(area.read(&mut profile)?);
        }
        areas.append(&mut profile.areas);
        profile.areas = areas;
        for page in &self.pages {
            profile.pages.push(page.read()?);
        }
        Ok(profile)
    }

    /// A file to begin with, for the kernel that was found.
    pub fn of(discovery: &Discovery, check: &Check) -> ProfileFile {
        let like = discovery.profile.name.as_str();
        let mut slots: Vec<u16> = Vec::new();
        for map in discovery.spaces.iter().flat_map(|space| &space.self_maps) {
            if !slots.contains(&map.index) {
                slots.push(map.index);
            }
        }
        slots.truncate(MOST);
        let mut let_pass: Vec<String> = Vec::new();
        let met = check.rules.iter().flat_map(|rule| &rule.exceptions);
        for name in met.map(|met| met.exception.name) {
            let is_built_in = EXCEPTIONS.iter().any(|known| known.name == name);
            if is_built_in && !let_pass.iter().any(|known| known == name) {
                let_pass.push(name.to_owned());
            }
        }
        let regions = discovery.layout.regions.iter();
        let areas = regions
            .filter(|region| !matches!(region.area, Area::User | Area::SelfMap))
            .take(MOST)
            .map(|region| AreaFile {
                name: region.name.to_string(),
                is: match region.area {
                    Area::Other(_) => None,
                    area => Some(area.word().to_owned()),
                },
                range: format!(
                    "{:#x}-{:#x}",
                    region.range.first.get(),
                    region.range.last.get()
                ),
                levels: None,
                private: false,
            });
        ProfileFile {
            name: if like == "generic" { "mykernel" } else { like }.to_owned(),
            like: Some(like.to_owned()),
            kernel_half: discovery
                .profile
                .kernel_half
                .map(|half| format!("{:#x}-{:#x}", half.first.get(), half.last.get())),
            self_map_slots: slots,
            let_pass,
            marks: Vec::new(),
            areas: areas.collect(),
            pages: Vec::new(),
        }
    }
}

impl AreaFile {
    fn read(&self, profile: &mut Profile) -> Result<AreaPlace, ProfileError> {
        let name = Name::new(&self.name);
        let area = match &self.is {
            None => Area::Other(name),
            Some(is) => {
                let known = Area::KNOWN.into_iter().find(|area| area.word() == is);
                let area = known.ok_or_else(|| ProfileError::Area {
                    area: self.name.clone(),
                    is: is.clone(),
                    known: Area::KNOWN.map(Area::word).join(", "),
                })?;
                profile.names.retain(|(known, _)| *known != area);
                profile.names.push((area, name));
                area
            }
        };
        let depth = match self.levels {
            None => None,
            Some(4) => Some(Depth::Four),
            Some(5) => Some(Depth::Five),
            Some(levels) => {
                let area = self.name.clone();
                return Err(ProfileError::Levels { area, levels });
            }
        };
        Ok(AreaPlace {
            area,
            range: range(&format!("area {}", self.name), &self.range)?,
            depth,
            private: self.private,
        })
    }
}

impl PageFile {
    fn read(&self) -> Result<PagePass, ProfileError> {
        let rules = || Check::rules().map(|rule| rule.name);
        if !rules().any(|rule| rule == self.rule) {
            return Err(ProfileError::Rule {
                page: self.name.clone(),
                rule: self.rule.clone(),
                nearest: nearest(&self.rule, rules()),
            });
        }
        let refused = || ProfileError::Rights {
            page: self.name.clone(),
            rights: self.rights.clone(),
        };
        let mut letters = self.rights.chars();
        if letters.next() != Some('r') {
            return Err(refused());
        }
        let mut at_most = Rights {
            write: false,
            user: false,
            execute: false,
        };
        for letter in letters {
            match letter {
                'w' => at_most.write = true,
                'x' => at_most.execute = true,
                'u' => at_most.user = true,
                '-' => {}
                _ => return Err(refused()),
            }
        }
        Ok(PagePass {
            exception: Exception {
                name: Name::new(&self.name).as_str(),
                what: Name::new(&self.why).as_str(),
                source: "the profile's file",
            },
            rule: Name::new(&self.rule),
            range: range(&format!("page {}", self.name), &self.range)?,
            at_most,
        })
    }
}

/// `0xffff800000000000-0xffff87ffffffffff`.
fn range(place: &str, text: &str) -> Result<VirtRange, ProfileError> {
    let number = |text: &str| {
        let digits = text.trim().strip_prefix("0x")?;
        u64::from_str_radix(&digits.replace('_', ""), 16).ok()
    };
    let parts = text.split_once('-').or_else(|| text.split_once('–'));
    let both = parts.and_then(|(first, last)| Some((number(first)?, number(last)?)));
    both.filter(|(first, last)| first <= last)
        .map(|(first, last)| VirtRange {
            first: VirtAddr::new(first),
            last: VirtAddr::new(last),
        })
        .ok_or_else(|| ProfileError::Range {
            place: place.to_owned(),
            text: text.to_owned(),
        })
}

/// The name that is most like `text`: fewest letters to change, add or take away.
pub fn nearest(text: &str, names: impl Iterator<Item = &'static str>) -> &'static str {
    // Who writes more means no name at all.
    let text: String = text.chars().take(64).collect();
    names
        .min_by_key(|name| strsim::damerau_levenshtein(&text, name))
        .unwrap_or_default()
}
