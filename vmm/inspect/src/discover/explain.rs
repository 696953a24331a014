//! Saying of each root what it is, when the tables of all are there.

use std::collections::HashMap;

use super::candidates::{Candidate, Role};
use super::clusters::{clusters, most_common};
use super::kind::OnCpu;
use super::part::SelfMap;
use super::reference::Reference;
use super::start::Start;
use super::{Discovery, Kind, Space, look, own, part, reused};
use crate::compare::Comparer;
use crate::layout::Layout;
use crate::snapshot::{Root, RootId, RootLabel};
use crate::tally::Tallier;
use heirloom_paging::addr::{Pfn, PhysAddr};
use heirloom_paging::bits::EntrySet;
use heirloom_paging::walk::Walk;

/// Recursive paging, by root.
type Maps = HashMap<RootId, Vec<SelfMap>>;

/// Roots that are looked at to see what only some have.
const MAX_LOOKED_AT: usize = 64;

impl Discovery {
    /// Whether a CPU on `root` finds the instruction that it is at; `None` if no CPU tells where it is.
    fn runs_on(&self, root: &Root) -> Option<bool> {
        let mut cpus = self
            .running_cpus()
            .filter(|(_, cpu)| cpu.cr3.root() == root.address && cpu.rip.get() != 0)
            .peekable();
        cpus.peek()?;
        Some(cpus.all(|(_, cpu)| {
            let walk = self.snapshot.translate(root.id, cpu.rip);
            walk.translation()
                .is_some_and(|found| found.rights.execute && (found.rights.user == (cpu.cpl == 3)))
        }))
    }

    /// Says of each root what it is.
    pub(super) fn explain(
        &mut self,
        candidates: &[Candidate],
        start: &Start,
        users: &HashMap<Pfn, Pfn>,
    ) {
        let kernels: Vec<RootId> = candidates
            .iter()
            .zip(self.snapshot.roots())
            .filter(|(candidate, _)| candidate.role == Role::Full)
            .map(|(_, root)| root.id)
            .collect();
        let maps = part::self_maps(&self.snapshot, &kernels);
        let open = self.open_identities(start.is_open_identity);
        let identity = self.find_part(start.reference.as_ref(), &kernels, &maps, &open);
        self.note_what_is_not_told_apart(identity);
        self.name(candidates, users, maps, identity);
        for space in &mut self.spaces {
            if let Some(evidence) = open.get(&space.root) {
                (space.kind, space.evidence) = (Kind::Identity, evidence.clone());
            }
        }
        let places = self.spaces.iter().enumerate();
        self.places = places.map(|(at, space)| (space.address, at)).collect();
        self.judge_pairs();
        self.user_reference = most_common(&self.spaces, |space| space.kind == Kind::UserRoot);
        if let Some(majority) = most_common(&self.spaces, |space| space.kind.has_kernel_half()) {
            // One that differs from the others must not be what these are compared with.
            self.reference = Some(majority);
        }
        self.compare();
        self.see_whether_protected();
    }

    /// Says so where no entry of the root is the kernel's alone.
    fn note_what_is_not_told_apart(&mut self, identity: bool) {
        let is_none = self.reference.is_some_and(|root| {
            let mut tallier = Tallier::new(&self.snapshot);
            tallier.count_entries(root, &self.kernel_part).pages() == 0
        });
        if is_none && !identity {
            self.notes.push(
                "the kernel and its processes have pages below the same entries of the root: which are the \
                 kernel's is not told apart there, and rules about the kernel half are not tried, but that each has \
                 what most have (kernel-mappings-equal)"
                    .into(),
            );
        }
    }

    /// Which entries are the kernel's, and what lies there. Whether there is no kernel at all, but memory at
    /// its own address alone.
    fn find_part(
        &mut self,
        reference: Option<&Reference>,
        kernels: &[RootId],
        maps: &Maps,
        open: &HashMap<RootId, String>,
    ) -> bool {
        if let Some(reference) = reference {
            let mut roots = self.snapshot.roots().iter();
            let root = roots.find(|root| root.address.pfn() == reference.pfn);
            self.reference = root.map(|root| root.id);
            let given = self.profile.kernel_entries(self.mode().depth);
            self.kernel_part =
                given.unwrap_or_else(|| part::of_all(&self.snapshot, &reference.part, kernels));
        }
        let alone = if self.identity_alone(kernels) {
            kernels.first().copied()
        } else {
            open.keys().min().copied()
        };
        if let Some(root) = alone {
            self.layout = Layout::of_identity(&self.snapshot, root);
            self.kernel_part = part::upper_half();
            self.reference = None;
            return true;
        }
        if let Some(reference) = self.reference {
            let of_reference = maps.get(&reference).into_iter().flatten();
            let slots: Vec<u16> = of_reference.map(|map| map.index).collect();
            let [kernel, _] = self.parts_less(maps.get(&reference));
            let entries = (&kernel, &slots[..]);
            self.layout =
                Layout::infer_in(&self.snapshot, reference, &self.ram, entries, &self.profile);
            if self.profile.kernel_half.is_some() {
                // What guests have is not in every root.
                for root in kernels.iter().take(MAX_LOOKED_AT) {
                    let layout = &mut self.layout;
                    layout.add_places_of(&self.snapshot, *root, &self.profile);
                }
            }
        }
        false
    }

    /// The kernel's entries of a root with these self-maps, and the others.
    pub(super) fn parts_less(&self, maps: Option<&Vec<SelfMap>>) -> [EntrySet; 2] {
        let (mut kernel, mut user) = (self.kernel_part, part::all_but(&self.kernel_part));
        for map in maps.into_iter().flatten() {
            kernel.remove(map.index);
            user.remove(map.index);
        }
        [kernel, user]
    }

    /// Makes an address space of each root.
    fn name(
        &mut self,
        candidates: &[Candidate],
        users: &HashMap<Pfn, Pfn>,
        mut maps: Maps,
        identity: bool,
    ) {
        let parts_of = |root: RootId| self.parts_less(maps.get(&root));
        let partners: HashMap<Pfn, Pfn> = users
            .iter()
            .flat_map(|(&user, &kernel)| [(user, kernel), (kernel, user)])
            .filter(|(one, other)| one != other)
            .collect();
        // Where no user root has a kernel root beside it, the kernel has one for all of them.
        let isolated = partners.is_empty();
        let clusters = clusters(&self.snapshot, |root| parts_of(root)[0]);
        let cpus_of = |root: &Root| -> Vec<u32> {
            self.running_cpus()
                .filter(|(_, cpu)| cpu.cr3.root() == root.address)
                .map(|(number, _)| number)
                .collect()
        };
        let lower = part::all_but(&part::upper_half());
        let reference = self.reference.map(|root| (root, parts_of(root)[0]));
        let mut looker = look::Looker::beside(&self.snapshot, reference);
        let looks: Vec<look::Look> = candidates
            .iter()
            .zip(self.snapshot.roots())
            .map(|(candidate, root)| {
                let [kernel, user] = parts_of(root.id);
                let user = match self.profile.kernel_half {
                    // What else is in the upper half is a guest's kernel.
                    Some(_) => user.intersection(&lower),
                    None => user,
                };
                looker.look(root.id, candidate.role, [&kernel, &user])
            })
            .collect();
        let own = own::kernels_own(&self.snapshot, &self.layout, &looks, |root| {
            cpus_of(root).len()
        });
        self.spaces = looks
            .iter()
            .zip(self.snapshot.roots())
            .map(|(look, root)| {
                let cpus = cpus_of(root);
                let partner = partners.get(&root.address.pfn()).map(|pfn| pfn.base());
                let (mut kind, mut evidence) = look.kind(
                    root,
                    partner,
                    !cpus.is_empty() || isolated,
                    own.get(&root.id).cloned(),
                    match self.runs_on(root) {
                        _ if cpus.is_empty() => OnCpu::No,
                        Some(true) => OnCpu::Runs,
                        _ => OnCpu::Said,
                    },
                );
                if identity && look.is_identity() {
                    (kind, evidence) = (Kind::Identity, look.identity());
                }
                if kind == Kind::Foreign && !cpus.is_empty() {
                    (kind, evidence) = self.of_a_cpu(look, root, evidence);
                }
                Space {
                    root: root.id,
                    address: root.address,
                    label: root.label,
                    kind,
                    evidence,
                    partner,
                    cpus,
                    cluster: clusters[root.id.0 as usize],
                    kernel_entries: look.kernel_entries,
                    user_entries: look.user_entries,
                    user_pages: look.user_pages,
                    differences: Vec::new(),
                    self_maps: Vec::new(),
                    is_way_in: look.role == Role::User,
                    is_boot_map: look.is_boot_map,
                    owners: Vec::new(),
                }
            })
            .collect();
        let kinds = self.spaces.iter().map(|space| space.kind);
        if reused::leaves_tables(looks.iter().map(|look| look.user_tables).zip(kinds)) {
            for (look, space) in looks.iter().zip(&mut self.spaces) {
                let is_said_to_live =
                    matches!(space.label, RootLabel::Kernel | RootLabel::Process(_));
                if space.kind == Kind::Process
                    && space.cpus.is_empty()
                    && !is_said_to_live
                    && let Some(evidence) = look.user_tables.leads_to_roots()
                {
                    (space.kind, space.evidence) = (Kind::Freed, evidence);
                }
            }
        }
        for space in &mut self.spaces {
            space.self_maps = maps.remove(&space.root).unwrap_or_default();
        }
        self.name_firmware();
        self.name_guests();
    }

    /// Whether all that the roots map is memory at its own address, for ring 0 alone, and no CPU finds its code anywhere
    /// else: then it is no kernel's lower half that processes share.
    fn identity_alone(&self, kernels: &[RootId]) -> bool {
        let upper = part::upper_half();
        let lower = part::all_but(&upper);
        let mut looker = look::Looker::new(&self.snapshot);
        !kernels.is_empty()
            && self.kernel_part != upper
            && !self.has_cpu_elsewhere(kernels)
            && kernels.iter().all(|root| {
                let table = self.snapshot.root_table(*root);
                let own = table.map_or(EntrySet::default(), |table| part::self_entries(table));
                let [upper, lower] = [&upper, &lower].map(|half| part::less(half, &own));
                let look = looker.look(*root, Role::Named, [&upper, &lower]);
                look.is_identity() && look.kernel_entries == 0
            })
    }

    /// Whether a CPU is in ring 0 on one of these roots, and its code is not at its own address.
    fn has_cpu_elsewhere(&self, roots: &[RootId]) -> bool {
        self.running_cpus().any(|(_, cpu)| {
            let mut roots = roots.iter().map(|root| self.snapshot.root(*root));
            let root = roots.find(|root| root.address == cpu.cr3.root());
            let walk = root.map(|root| self.snapshot.translate(root.id, cpu.rip));
            let code = walk.as_ref().and_then(Walk::translation);
            cpu.cpl == 0
                && code.is_some_and(|code| code.rights.execute && code.pa.get() != cpu.rip.get())
        })
    }

    /// What the roots are, where each is a CPU's that runs in ring 0 in memory at its own address that ring 3 could
    /// use as well: a kernel, or what comes before one, that knows no processes. Or the one that was found as such
    /// where no CPU tells (`is_found`).
    fn open_identities(&self, is_found: bool) -> HashMap<RootId, String> {
        let mut looker = look::Looker::new(&self.snapshot);
        let roots = self.snapshot.roots().iter();
        let all: Option<HashMap<RootId, String>> = roots
            .map(|root| {
                let mut cpus = self.running_cpus();
                let runs = cpus.any(|(_, cpu)| {
                    let walk = self.snapshot.translate(root.id, cpu.rip);
                    cpu.cr3.root() == root.address
                        && cpu.cpl == 0
                        && walk.translation().is_some_and(|found| {
                            found.rights.user && found.pa.get() == cpu.rip.get()
                        })
                });
                let is_one = runs || is_found;
                let evidence = is_one
                    .then(|| looker.open_identity(root.id, runs))
                    .flatten();
                Some((root.id, evidence?))
            })
            .collect();
        all.unwrap_or_default()
    }

    /// What the root of a CPU is that has nothing in common with the others.
    fn of_a_cpu(&self, look: &look::Look, root: &Root, evidence: String) -> (Kind, String) {
        if look.kernel_entries + look.user_entries == 0 {
            return (Kind::NotUnderstood, evidence);
        }
        match self.runs_on(root) {
            Some(true) => (
                Kind::Separate,
                "a CPU runs on it and finds its code there; nothing else in common with the others"
                    .into(),
            ),
            Some(false) => (
                Kind::NotUnderstood,
                format!("the CPU's RIP is no code by it, and {evidence}"),
            ),
            None => (Kind::NotUnderstood, evidence),
        }
    }

    /// The user root of a freed kernel root is freed, too, and that of an idle one idle; unless a CPU runs on
    /// it, and finds its code there.
    fn judge_pairs(&mut self) {
        let kinds: HashMap<PhysAddr, Kind> = self
            .spaces
            .iter()
            .filter(|space| matches!(space.kind, Kind::Freed | Kind::Idle))
            .filter_map(|space| Some((space.partner?, space.kind)))
            .collect();
        let mut alive = Vec::new();
        for at in 0..self.spaces.len() {
            let space = &self.spaces[at];
            let Some(kind) = kinds.get(&space.address).copied() else {
                continue;
            };
            if space.kind != Kind::UserRoot {
                continue;
            }
            let (kind, evidence) = if space.cpus.is_empty() {
                let evidence = match kind {
                    Kind::Idle => "the user root of a pair that is idle or freed",
                    _ => "the user root of a freed pair",
                };
                (kind, evidence)
            } else if self.runs_on(self.snapshot.root(space.root)) == Some(false) {
                let evidence = "the user root of a pair that is idle or freed, and the CPU's RIP is no code by it";
                (Kind::NotUnderstood, evidence)
            } else {
                alive.extend(space.partner);
                continue;
            };
            let space = &mut self.spaces[at];
            (space.kind, space.evidence) = (kind, evidence.into());
        }
        for space in &mut self.spaces {
            if alive.contains(&space.address) {
                space.kind = Kind::NoPages;
                space.evidence = "a CPU runs on its user root".into();
            }
        }
    }

    fn compare(&mut self) {
        let mut comparer = Comparer::within(&self.snapshot);
        // What the reference has for a moment of another root's tables, the others need not have.
        let passing: Vec<u16> = self
            .reference
            .map(|root| &self.spaces[root.0 as usize])
            .into_iter()
            .flat_map(|space| space.self_maps.iter().map(move |map| (map, space.address)))
            .filter(|(map, own)| map.to != *own)
            .map(|(map, _)| map.index)
            .collect();
        let [kernel, user] = [self.reference, self.user_reference];
        for space in &mut self.spaces {
            let Some(reference) = space.compared_with(kernel, user) else {
                continue;
            };
            let part = &self.kernel_part;
            space.differences = comparer.compare_entries(reference, space.root, part.iter());
            let is_self_map = |index| space.self_maps.iter().any(|map| map.index == index);
            space.differences.retain(|difference| {
                !is_self_map(difference.index) && !passing.contains(&difference.index)
            });
        }
    }
}
