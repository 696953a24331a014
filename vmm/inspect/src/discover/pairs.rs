//! The two roots of a process under KPTI: kernel root in an even frame, user root in the next.
//!
//! Both have the same tables in the user half (the kernel root with NX on top); the user root's kernel
//! half holds only what ring 3's way into the kernel needs (Linux's arch/x86/mm/pti.c).

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use crate::memory::{PhysicalMemory, Words, translate_in_memory};
use crate::target::Target;
use heirloom_paging::addr::{Pfn, VirtAddr, VirtRange};
use heirloom_paging::bits::EntrySet;
use heirloom_paging::entry::Entry;
use heirloom_paging::level::{Depth, Half};
use heirloom_paging::mode::Mode;

use super::part::upper_half;
use super::reference::{Alike, Reference};
use super::{Candidate, KernelHalf, Role, kernel_half_of, scan};

/// The kernel root beside `user`, if `user` is the user root of a pair.
pub(super) fn kernel_root_of<M: PhysicalMemory + ?Sized>(
    memory: &M,
    user: Pfn,
    user_words: &Words,
) -> Option<Reference> {
    if user.get().is_multiple_of(2) {
        return None;
    }
    let kernel = Pfn::new(user.get() - 1);
    let mut words = [0; 512];
    memory.read_table(kernel, &mut words).ok()?;
    let reference = Reference::new(kernel, &words, upper_half())?;
    let half = kernel_half_of(user_words, &reference.part);
    let is_pair = same_user_half(&words, user_words, &reference.part) == Some(true);
    (is_smaller(&half, &reference) && is_pair).then_some(reference)
}

/// The user roots of the candidates, each with its kernel root; one whose kernel root was not found
/// with itself. `alike`: none if the roots are given.
pub(super) fn user_roots(
    target: &Target,
    reference: &Reference,
    candidates: &[Candidate],
    alike: Option<&Alike<'_>>,
) -> HashMap<Pfn, Pfn> {
    let memory = &*target.memory;
    let mut words = [0; 512];
    let mut user_words = [0; 512];
    let mut pairs: HashMap<Pfn, Pfn> = HashMap::new();
    let mut unsure: Vec<(Pfn, KernelHalf)> = Vec::new();
    // How often each user root's kernel half was met, and where first.
    let mut halves: HashMap<KernelHalf, (usize, Reverse<Pfn>)> = HashMap::new();
    for candidate in candidates {
        let kernel = candidate.pfn;
        let user = Pfn::new(kernel.get() + 1);
        if !kernel.get().is_multiple_of(2)
            || memory.read_table(kernel, &mut words).is_err()
            || reference.role_of(&words) != Some(Role::Full)
            || memory.read_table(user, &mut user_words).is_err()
        {
            continue;
        }
        let half = kernel_half_of(&user_words, &reference.part);
        if !is_smaller(&half, reference) {
            continue;
        }
        match same_user_half(&words, &user_words, &reference.part) {
            Some(true) => {
                halves.entry(half).or_insert((0, Reverse(user))).0 += 1;
                pairs.insert(user, kernel);
            }
            // Empty user halves say nothing, and one that has lost its entries is to be found, too: the
            // kernel half must do.
            None | Some(false) => unsure.push((user, half)),
        }
    }
    let Some((common, _)) = halves.into_iter().max_by_key(|(_, met)| *met) else {
        return pairs;
    };
    for (user, half) in unsure {
        if is_like(&half, &common) {
            pairs.insert(user, Pfn::new(user.get() - 1));
        }
    }
    if let Some(alike) = alike {
        // User roots that lost their kernel root.
        let last = common.iter().rposition(|entry| entry.present());
        let column = last.and_then(|at| u16::try_from(at).ok());
        if let (Some(at), Some(column)) = (last, column) {
            let wanted = common[at];
            for user in alike.with_entry(target, column, wanted) {
                if pairs.contains_key(&user) || memory.read_table(user, &mut user_words).is_err() {
                    continue;
                }
                let half = kernel_half_of(&user_words, &reference.part);
                if is_like(&half, &common) && reference.role_of(&user_words) != Some(Role::Full) {
                    pairs.insert(user, user);
                }
            }
        }
    }
    pairs
}

/// The tables of a user half.
type UserHalf = Vec<(u16, Pfn)>;

fn user_half_of(target: &Target, reference: &Reference, words: &Words) -> UserHalf {
    Half::User
        .indices()
        .filter(|index| !reference.part.contains(*index))
        .map(|index| (index, Entry::new(words[usize::from(index)])))
        .filter(|(_, entry)| entry.present())
        .map(|(index, entry)| (index, entry.without(target.encryption).address().pfn()))
        .collect()
}

/// Adds the pairs that do not lie side by side: of two roots with the very same user half, the one that has fewer
/// of the reference's entries, and nothing else in its kernel half, is the other's user root. A root that is in
/// a pair already is left alone. One on which the kernel could go on where a CPU is in it has only lost something, and
/// so has one that is a pair's among many processes that have one root each.
pub(super) fn add_by_user_half(
    target: &Target,
    mode: &Mode,
    reference: &Reference,
    candidates: &[Candidate],
    pairs: &mut HashMap<Pfn, Pfn>,
) {
    let mut words = [0; 512];
    let mut by_user_half: HashMap<UserHalf, Vec<(Pfn, bool)>> = HashMap::new();
    let known: HashSet<Pfn> = pairs
        .iter()
        .flat_map(|(one, other)| [*one, *other])
        .collect();
    for candidate in candidates {
        if candidate.role != Role::Full
            || known.contains(&candidate.pfn)
            || target.memory.read_table(candidate.pfn, &mut words).is_err()
        {
            continue;
        }
        let half = kernel_half_of(&words, &reference.part);
        let is_window = is_smaller(&half, reference) && reference.has_all_of(&half);
        let user = user_half_of(target, reference, &words);
        if !user.is_empty() {
            let same = by_user_half.entry(user).or_default();
            if same.iter().all(|(pfn, _)| *pfn != candidate.pfn) {
                same.push((candidate.pfn, is_window));
            }
        }
    }
    let processes = by_user_half.len();
    let mut found: HashMap<Pfn, Pfn> = HashMap::new();
    for same in by_user_half.into_values() {
        if let [(one, true), (other, false)] | [(other, false), (one, true)] = same[..]
            && !has_the_kernel_that_runs(target, mode, [one, other])
        {
            found.insert(one, other);
        }
    }
    if 2 * found.len() >= processes {
        pairs.extend(found);
    }
}

/// Whether some CPU in ring 0 has its code and its stack by both of two roots, at the same addresses. A user root has
/// neither, but for the way in.
fn has_the_kernel_that_runs(target: &Target, mode: &Mode, roots: [Pfn; 2]) -> bool {
    let leads_to = |root: Pfn, va: VirtAddr| {
        let walk = translate_in_memory(&*target.memory, mode, root.base(), va);
        walk.translation().map(|found| found.pa)
    };
    let is_in_both = |va: VirtAddr| {
        let [one, other] = roots.map(|root| leads_to(root, va));
        one.is_some() && one == other
    };
    let mut cpus = target.cpus.iter().filter(|cpu| cpu.cpl == 0);
    cpus.any(|cpu| is_in_both(cpu.rip) && is_in_both(cpu.rsp))
}

/// The kernel root of each of the `users`, which were found alone, by their way into the kernel: the one candidate that
/// has the very same user half. Where not every one of them has such a root, the kernel does not work in pairs.
pub(super) fn find_partners(
    target: &Target,
    reference: &Reference,
    candidates: &[Candidate],
    users: &mut HashMap<Pfn, Pfn>,
) {
    let user_half = |pfn: Pfn| -> Option<UserHalf> {
        let mut words = [0; 512];
        target.memory.read_table(pfn, &mut words).ok()?;
        let half = user_half_of(target, reference, &words);
        (!half.is_empty()).then_some(half)
    };
    let mut kernels: HashMap<UserHalf, HashSet<Pfn>> = HashMap::new();
    let full = candidates.iter();
    for candidate in full.filter(|candidate| candidate.role == Role::Full) {
        if let Some(half) = user_half(candidate.pfn) {
            kernels.entry(half).or_default().insert(candidate.pfn);
        }
    }
    let found: Option<HashMap<Pfn, Pfn>> = users
        .keys()
        .map(|user| {
            let same = kernels.get(&user_half(*user)?)?;
            let mut others = same.iter().filter(|kernel| *kernel != user);
            let kernel = *others.next()?;
            others.next().is_none().then_some((*user, kernel))
        })
        .collect();
    if let Some(found) = found {
        let distinct: HashSet<&Pfn> = found.values().collect();
        // Of two with one process's tables, one is another's.
        if distinct.len() == found.len() {
            *users = found;
        }
    }
}

/// The roots that ring 3 runs on where the kernel has one root of its own, for all processes: by the area that
/// they share with it, `way_in`, which has what the CPU needs to come into the kernel. Of the kernel half they have that, and perhaps other entries of
/// the reference's, but far from all.
pub(super) fn isolated_roots(
    target: &Target,
    reference: &Reference,
    (way_in, depth): (VirtRange, Depth),
) -> Vec<Pfn> {
    let memory = &*target.memory;
    let column = way_in.first.index(depth.top());
    let wanted = reference.entry(column);
    if !wanted.present() {
        return Vec::new();
    }
    let mut words = [0; 512];
    scan::frames_where(memory, &target.ram, &[column], |_, entry| {
        entry.present() && entry.as_written() == wanted
    })
    .into_iter()
    .filter(|pfn| {
        memory.read_table(*pfn, &mut words).is_ok()
            && reference.role_of(&words).is_none()
            && reference.has_all_of(&kernel_half_of(&words, &reference.part))
            && is_user_half(&words)
    })
    .collect()
}

/// Whether there are user entries, and all are such as kernels write for ring 3.
fn is_user_half(words: &Words) -> bool {
    let mut entries = words[..256]
        .iter()
        .map(|&word| Entry::new(word))
        .filter(|entry| entry.present())
        .peekable();
    entries.peek().is_some() && entries.all(|entry| entry.user() && !entry.has(Entry::LARGE))
}

/// Whether `half` has fewer entries than the reference, and, of several, at most one where that has none:
/// the LDT of a process that has one is in both of its roots and in no other.
pub(super) fn is_smaller(half: &KernelHalf, reference: &Reference) -> bool {
    let present = half.iter().filter(|entry| entry.present()).count();
    let strange = reference.lacks(half);
    present > strange && present < reference.present() && strange <= 1
}

/// Whether most entries of `common` are in `half`, too.
fn is_like(half: &KernelHalf, common: &KernelHalf) -> bool {
    let wanted = common.iter().filter(|entry| entry.present()).count();
    let same = half
        .iter()
        .zip(common.iter())
        .filter(|(its, ours)| ours.present() && its == ours)
        .count();
    2 * same >= wanted
}

/// Whether most entries of the user halves, which are those of the lower half that are not the kernel's (`part`),
/// lead to the same tables; `None` if both are empty.
fn same_user_half(kernel: &Words, user: &Words, part: &EntrySet) -> Option<bool> {
    let (mut all, mut same) = (0, 0);
    for index in Half::User.indices().filter(|index| !part.contains(*index)) {
        let at = usize::from(index);
        let (kernel, user) = (Entry::new(kernel[at]), Entry::new(user[at]));
        if kernel.present() || user.present() {
            all += 1;
            same += usize::from(
                kernel.present() && user.present() && kernel.address() == user.address(),
            );
        }
    }
    (all > 0).then_some(2 * same >= all)
}
