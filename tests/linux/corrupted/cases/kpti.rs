//! What a kernel that isolates itself does with its pairs of roots.

use super::*;

pub(super) const CASES: &[Case] = &[
    with_kpti("a kernel root lacks NX on its user half", |image| {
        let place = top_user_entry(image, image.process);
        image.set(place, image.entry(place).without(Entry::NO_EXECUTE));
        vec![only("user-half-nx", place, image.process)]
    }),
    with_kpti("a user root has the direct map", |image| {
        let user = image.user_root(image.process);
        let kernels = image.place(image.process, image.direct_map, image.top());
        let place = image.place(user, image.direct_map, image.top());
        image.set(place, image.entry(kernels));
        let first = image.leaf(image.kernel, image.direct_map);
        vec![
            only("user-root-minimal", first, user),
            only("kernel-mappings-equal", place, user),
        ]
    }),
    with_kpti(
        "a user root has a kernel entry that the others do not have",
        |image| {
            let user = image.user_root(image.process);
            let va = some_vmalloc_page(image);
            let kernels = image.place(image.kernel, va, image.top());
            let place = Place {
                table: user.pfn(),
                index: kernels.index,
            };
            image.set(place, image.entry(kernels));
            vec![
                only("user-root-minimal", image.leaf(image.kernel, va), user),
                only("kernel-mappings-equal", place, user),
            ]
        },
    ),
    with_kpti(
        "the tables that all user roots share show one page more",
        |image| {
            let user = image.user_root(image.process);
            // Beside the page that each CPU needs there. Frames of the cpu entry area may be shown, and those
            // of text may not be written to, which would be another corruption.
            let shown = image.page(user, image.direct_map, |_| true);
            let beside = image.place(user, shown.va, Level::Pt);
            let pages = image.kernel_pages(user);
            let first = shown.va.get() & !(Level::Pd.entry_span() - 1);
            let (index, pa) = (0..512_u16)
                .find_map(|index| {
                    let va = VirtAddr::new(first + u64::from(index) * 4096);
                    let kernels = image.walk(image.kernel, va).result.ok()?;
                    let is_new = pages.iter().all(|page| page.pa != kernels.pa);
                    (kernels.rights.write && is_new).then_some((index, kernels.pa))
                })
                .unwrap();
            let place = Place {
                table: beside.table,
                index,
            };
            image.set(place, Entry::pointing_to(pa, KERNEL_PAGE));
            vec![shared("user-root-minimal", place)]
        },
    ),
    with_kpti("a user root has lost a part of its user half", |image| {
        let user = image.user_root(image.process);
        let place = top_user_entry(image, user);
        image.set(place, Entry::ABSENT);
        vec![only("user-halves-mirrored", place, user)]
    }),
    with_kpti("a process may write to its LDT", |image| {
        let root = image.with_ldt.unwrap();
        let ldt = image.page(root, VirtAddr::new(1 << 63), |_| true);
        let place = image.place(root, ldt.va, image.top());
        image.add(image.leaf(root, ldt.va), Entry::WRITABLE);
        vec![
            only("kernel-mappings-equal", place, root),
            only(
                "user-root-minimal",
                image.leaf(root, ldt.va),
                image.user_root(root),
            ),
        ]
    }),
    with_kpti("a user root has another process's user half", |image| {
        let user = image.user_root(image.process);
        let theirs = top_user_entry(image, image.user_root(image.other_process));
        let place = Place {
            table: user.pfn(),
            index: theirs.index,
        };
        image.set(place, image.entry(theirs));
        vec![only("user-halves-mirrored", place, user)]
    }),
];
