//! What a kernel that isolates itself does with its pairs of roots.

use super::*;

pub(super) const BREAKS: &[Break] = &[
    with_kpti("a kernel root lacks NX on its user half", |patient| {
        let place = top_user_entry(patient, patient.process);
        patient.set(place, patient.entry(place).without(Entry::NO_EXECUTE));
        vec![only("user-half-nx", place, patient.process)]
    }),
    with_kpti("a user root has the direct map", |patient| {
        let user = patient.user_root(patient.process);
        let kernels = patient.place(patient.process, patient.direct_map, patient.top());
        let place = patient.place(user, patient.direct_map, patient.top());
        patient.set(place, patient.entry(kernels));
        let first = patient.leaf(patient.kernel, patient.direct_map);
        vec![
            only("user-root-minimal", first, user),
            only("kernel-mappings-equal", place, user),
        ]
    }),
    with_kpti(
        "a user root has a kernel entry that the others do not have",
        |patient| {
            let user = patient.user_root(patient.process);
            let va = some_vmalloc_page(patient);
            let kernels = patient.place(patient.kernel, va, patient.top());
            let place = Place {
                table: user.pfn(),
                index: kernels.index,
            };
            patient.set(place, patient.entry(kernels));
            vec![
                only("user-root-minimal", patient.leaf(patient.kernel, va), user),
                only("kernel-mappings-equal", place, user),
            ]
        },
    ),
    with_kpti(
        "the tables that all user roots share show one page more",
        |patient| {
            let user = patient.user_root(patient.process);
            // Beside the page that each CPU needs there. Frames of the cpu entry area may be shown, and those
            // of text may not be written to, which would be another break.
            let shown = patient.page(user, patient.direct_map, |_| true);
            let beside = patient.place(user, shown.va, Level::Pt);
            let pages = patient.kernel_pages(user);
            let first = shown.va.get() & !(Level::Pd.entry_span() - 1);
            let (index, pa) = (0..512_u16)
                .find_map(|index| {
                    let va = VirtAddr::new(first + u64::from(index) * 4096);
                    let kernels = patient.walk(patient.kernel, va).result.ok()?;
                    let is_new = pages.iter().all(|page| page.pa != kernels.pa);
                    (kernels.rights.write && is_new).then_some((index, kernels.pa))
                })
                .unwrap();
            let place = Place {
                table: beside.table,
                index,
            };
            patient.set(place, Entry::pointing_to(pa, KERNEL_PAGE));
            vec![shared("user-root-minimal", place)]
        },
    ),
    with_kpti("a user root has lost a part of its user half", |patient| {
        let user = patient.user_root(patient.process);
        let place = top_user_entry(patient, user);
        patient.set(place, Entry::ABSENT);
        vec![only("user-halves-mirrored", place, user)]
    }),
    with_kpti("a process may write to its LDT", |patient| {
        let root = patient.with_ldt.unwrap();
        let ldt = patient.page(root, VirtAddr::new(1 << 63), |_| true);
        let place = patient.place(root, ldt.va, patient.top());
        patient.add(patient.leaf(root, ldt.va), Entry::WRITABLE);
        vec![
            only("kernel-mappings-equal", place, root),
            only(
                "user-root-minimal",
                patient.leaf(root, ldt.va),
                patient.user_root(root),
            ),
        ]
    }),
    with_kpti("a user root has another process's user half", |patient| {
        let user = patient.user_root(patient.process);
        let theirs = top_user_entry(patient, patient.user_root(patient.other_process));
        let place = Place {
            table: user.pfn(),
            index: theirs.index,
        };
        patient.set(place, patient.entry(theirs));
        vec![only("user-halves-mirrored", place, user)]
    }),
];
