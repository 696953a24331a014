//! Two boots of a kernel, or of two builds of it: what their kernels map, by area, by offset and by name.
//!
//! KASLR puts the same at other addresses, and another build at other offsets, so entries and addresses say
//! nothing. What can be compared is how much of each area is mapped with which rights; of the kernel's image, and
//! of areas whose place is fixed, what each offset may be used for; and what each function and variable may.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::discover::Discovery;
use crate::layout::Area;
use crate::profile::Name;
use heirloom_paging::addr::{VirtAddr, VirtRange};
use heirloom_paging::rights::Rights;

/// Offsets and names that are listed, of each kind.
const MAX_LISTED: usize = 1 << 16;
/// Entries that are passed to read one kernel half.
const MAX_STEPS: u32 = 1 << 24;

/// How two boots differ.
#[derive(Clone, Debug, Serialize)]
pub struct Boots {
    /// The areas that either has.
    pub areas: Vec<AreaChange>,
    /// What offsets of areas may be used for that one boot has so and the other not.
    pub offsets: Vec<OffsetChange>,
    /// The same by the names of functions and variables, where both kernels have them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub names: Option<NameChanges>,
    /// There is more than is listed.
    pub is_cut: bool,
}

/// An area, before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AreaChange {
    /// What people call it.
    pub name: Name,
    /// Where it was, and what of it was mapped.
    pub before: Option<Extent>,
    /// The same of the other boot.
    pub after: Option<Extent>,
}

/// What there is of an area.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Extent {
    /// Its first address.
    pub first: VirtAddr,
    /// Bytes mapped, by what they may be used for.
    pub bytes: Vec<(Rights, u64)>,
}

/// A piece of an area that is mapped otherwise than at the same offset in the other boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OffsetChange {
    /// The area.
    pub area: Name,
    /// Bytes from its first address.
    pub offset: u64,
    /// How many bytes it has.
    pub bytes: u64,
    /// What it might be used for.
    pub before: Option<Rights>,
    /// What it may be used for now.
    pub after: Option<Rights>,
    /// The function or variable that begins there, or what it lies in, if the later kernel has names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symbol: Option<String>,
}

/// What became of functions and variables. Names that several have are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NameChanges {
    /// How many names both have.
    pub both: usize,
    /// How many of them have another offset from the image's first address: another build.
    pub moved: usize,
    /// Names that only the earlier kernel has.
    pub gone: Vec<String>,
    /// Names that only the later kernel has.
    pub new: Vec<String>,
    /// Names whose page may be used for something else.
    pub rights: Vec<(String, Option<Rights>, Option<Rights>)>,
}

impl NameChanges {
    /// Whether the two kernels are of one build.
    pub fn is_one_build(&self) -> bool {
        self.moved == 0 && self.gone.is_empty() && self.new.is_empty()
    }
}

impl Boots {
    /// Whether these two are of different boots: the image or the direct map is elsewhere, or the image has another size.
    pub fn are_two(before: &Discovery, after: &Discovery) -> bool {
        let places = |found: &Discovery| {
            let image = found.layout.kernel_image;
            let image = image.map(|image| (image.range, image.pa));
            (image, found.layout.direct_map.map(|map| map.base))
        };
        before.reference.is_some() && after.reference.is_some() && places(before) != places(after)
    }

    /// How they differ.
    pub fn between(before: &Discovery, after: &Discovery) -> Boots {
        let sides = [Side::of(before), Side::of(after)];
        let names: BTreeMap<VirtAddr, Name> = sides
            .iter()
            .flat_map(|side| side.areas.iter().map(|(name, (first, _))| (*first, *name)))
            .collect();
        let mut boots = Boots {
            areas: Vec::new(),
            offsets: Vec::new(),
            names: NameChanges::between(before, after),
            is_cut: sides.iter().any(|side| side.is_cut),
        };
        // Another build has other things at the same offsets.
        let by_offset = boots.names.as_ref().is_none_or(NameChanges::is_one_build);
        let mut seen = Vec::new();
        for name in names.into_values() {
            if seen.contains(&name) {
                continue;
            }
            seen.push(name);
            let [one, other] = [0, 1].map(|at| sides[at].areas.get(&name));
            let extent = |side: Option<&(VirtAddr, Pieces)>| {
                side.map(|(first, pieces)| Extent {
                    first: *first,
                    bytes: totals(pieces),
                })
            };
            boots.areas.push(AreaChange {
                name,
                before: extent(one),
                after: extent(other),
            });
            if let (true, Some(one), Some(other)) = (by_offset, one, other)
                && sides.iter().all(|side| side.is_linked(name))
            {
                boots.add_offsets(name, &one.1, &other.1);
            }
        }
        boots.is_cut |= boots.offsets.len() > MAX_LISTED;
        boots.offsets.truncate(MAX_LISTED);
        for change in &mut boots.offsets {
            let first = sides[1].areas.get(&change.area).map(|(first, _)| *first);
            let va = first.map(|first| first.wrapping_add(change.offset));
            change.symbol = va.and_then(|va| after.symbol_at(va));
        }
        boots
    }

    /// Whether the two have the same, as far as two boots do: areas that a kernel fills while it runs may be of other
    /// sizes.
    pub fn is_same(&self) -> bool {
        let same = |change: &AreaChange| change.before.is_some() == change.after.is_some();
        let names = self.names.as_ref();
        self.offsets.is_empty()
            && self.areas.iter().all(same)
            && names.is_none_or(|names| names.is_one_build() && names.rights.is_empty())
    }

    fn add_offsets(&mut self, area: Name, one: &Pieces, other: &Pieces) {
        let mut cuts: Vec<u64> = one
            .iter()
            .chain(other)
            .flat_map(|(offset, bytes, _)| [*offset, offset + bytes])
            .collect();
        cuts.sort_unstable();
        cuts.dedup();
        let at = |pieces: &Pieces, offset: u64| {
            let behind = pieces.partition_point(|(first, ..)| *first <= offset);
            let (first, bytes, rights) = *pieces.get(behind.checked_sub(1)?)?;
            (offset - first < bytes).then_some(rights)
        };
        for pair in cuts.windows(2) {
            let (offset, bytes) = (pair[0], pair[1] - pair[0]);
            let (before, after) = (at(one, offset), at(other, offset));
            if before == after {
                continue;
            }
            match self.offsets.last_mut() {
                Some(last)
                    if last.area == area
                        && last.offset + last.bytes == offset
                        && (last.before, last.after) == (before, after) =>
                {
                    last.bytes += bytes;
                }
                _ => self.offsets.push(OffsetChange {
                    area,
                    offset,
                    bytes,
                    before,
                    after,
                    symbol: None,
                }),
            }
        }
    }
}

/// Offset, length, and what may be done: neighbours of the same rights as one.
type Pieces = Vec<(u64, u64, Rights)>;

fn totals(pieces: &Pieces) -> Vec<(Rights, u64)> {
    let mut totals: Vec<(Rights, u64)> = Vec::new();
    for (_, bytes, rights) in pieces {
        match totals.iter_mut().find(|(known, _)| known == rights) {
            Some((_, all)) => *all += bytes,
            None => totals.push((*rights, *bytes)),
        }
    }
    totals.sort_by_key(|(rights, _)| rights.to_string());
    totals
}

/// One of the two.
struct Side {
    areas: HashMap<Name, (VirtAddr, Pieces)>,
    /// Areas in which an offset means the same in each boot.
    linked: Vec<Name>,
    is_cut: bool,
}

impl Side {
    fn of(found: &Discovery) -> Side {
        let mut side = Side {
            areas: HashMap::new(),
            linked: Vec::new(),
            is_cut: false,
        };
        let Some(root) = found.reference else {
            return side;
        };
        let mut steps = MAX_STEPS;
        for region in &found.layout.regions {
            if region.area == Area::User {
                continue;
            }
            if matches!(
                region.area,
                Area::KernelImage | Area::Fixmap | Area::Vsyscall
            ) {
                side.linked.push(region.name);
            }
            let VirtRange { first, last } = region.range;
            let (_, pieces) = side
                .areas
                .entry(region.name)
                .or_insert((first, Pieces::new()));
            let mut leaves = found.snapshot.leaves(root, region.range).limited(steps);
            for page in leaves.by_ref() {
                let from = page.va.max(first);
                let end = page.range().last.min(last);
                let offset = from.get().wrapping_sub(first.get());
                let bytes = end.get().wrapping_sub(from.get()).saturating_add(1);
                match pieces.last_mut() {
                    Some((begin, so_far, rights))
                        if *begin + *so_far == offset && *rights == page.rights =>
                    {
                        *so_far += bytes;
                    }
                    _ => pieces.push((offset, bytes, page.rights)),
                }
            }
            side.is_cut |= leaves.stopped_at().is_some();
            steps = leaves.steps_left();
        }
        side
    }

    fn is_linked(&self, name: Name) -> bool {
        self.linked.contains(&name)
    }
}

impl NameChanges {
    /// By the names that both have; `None` if one has none.
    fn between(before: &Discovery, after: &Discovery) -> Option<NameChanges> {
        if before.symbols.is_empty() || after.symbols.is_empty() {
            return None;
        }
        let unique = |found: &Discovery| -> HashMap<String, Option<u64>> {
            let mut names: HashMap<String, Option<u64>> = HashMap::new();
            for (name, va) in found.symbols.iter() {
                let entry = names.entry(name.to_owned());
                entry
                    .and_modify(|known| *known = None)
                    .or_insert(Some(va.get()));
            }
            names
        };
        let (one, other) = (unique(before), unique(after));
        let base = |found: &Discovery| {
            let image = found.layout.kernel_image;
            image.map_or(0, |image| image.range.first.get())
        };
        let (first, second) = (base(before), base(after));
        let mut changes = NameChanges::default();
        for (name, va) in &one {
            let (Some(va), Some(now)) = (va, other.get(name)) else {
                if va.is_some() {
                    changes.gone.push(name.clone());
                }
                continue;
            };
            let Some(now) = now else { continue };
            changes.both += 1;
            // What is no address, as a variable of a CPU's, has no offset.
            let is_address = |va: u64| va >> 63 == 1;
            if !is_address(*va) || !is_address(*now) {
                continue;
            }
            changes.moved += usize::from(va.wrapping_sub(first) != now.wrapping_sub(second));
            let rights = |found: &Discovery, va: u64| {
                let walk = found
                    .snapshot
                    .translate(found.reference?, VirtAddr::new(va));
                walk.translation().map(|end| end.rights)
            };
            let (was, is) = (rights(before, *va), rights(after, *now));
            if was != is {
                changes.rights.push((name.clone(), was, is));
            }
        }
        let is_new =
            |(name, va): &(&String, &Option<u64>)| va.is_some() && !one.contains_key(*name);
        let new = other.iter().filter(is_new).map(|(name, _)| name.clone());
        changes.new = new.collect();
        changes.gone.sort_unstable();
        changes.new.sort_unstable();
        changes
            .rights
            .sort_unstable_by(|one, other| one.0.cmp(&other.0));
        Some(changes)
    }
}
