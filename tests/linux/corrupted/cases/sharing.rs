//! What address spaces share, and what they must not.

use super::*;

pub(super) const CASES: &[Case] = &[
    always("a process lacks a kernel entry", |image| {
        let va = some_vmalloc_page(image);
        let place = image.place(image.process, va, image.top());
        image.set(place, Entry::ABSENT);
        vec![only("kernel-mappings-equal", place, image.process)]
    }),
    always(
        "a process lacks a kernel entry below which nothing is mapped yet",
        |image| {
            let place = empty_kernel_entry(image);
            image.set(place, Entry::ABSENT);
            vec![only("kernel-tables-shared", place, image.process)]
        },
    ),
    always("a process has a private copy of a kernel table", |image| {
        let va = some_vmalloc_page(image);
        let place = image.place(image.process, va, image.top());
        let copy = image.copy_table(image.below(place));
        image.point(place, copy);
        vec![only("kernel-tables-shared", place, image.process)]
    }),
    always(
        "a private copy of a kernel table has missed a change",
        |image| {
            let va = some_vmalloc_page(image);
            let place = image.place(image.process, va, image.top());
            let copy = private_path(image, image.process, va);
            image.set(copy, Entry::ABSENT);
            vec![only("kernel-mappings-equal", place, image.process)]
        },
    ),
    always(
        "a process maps another frame at a kernel address",
        |image| {
            let va = some_vmalloc_page(image);
            let place = image.place(image.process, va, image.top());
            let copy = private_path(image, image.process, va);
            image.point(copy, image.free_frame());
            vec![only("kernel-mappings-equal", place, image.process)]
        },
    ),
    always(
        "a process may write where the others may only read",
        |image| {
            let text = image.text;
            let place = image.place(image.process, text, image.top());
            let copy = private_path(image, image.process, text);
            image.add(copy, Entry::WRITABLE);
            vec![
                only("kernel-mappings-equal", place, image.process),
                only("write-xor-execute", copy, image.process),
            ]
        },
    ),
    always(
        "a process's entry for one kernel area leads to another area's table",
        |image| {
            let place = image.place(image.process, image.direct_map, image.top());
            image.point(place, image.below(empty_kernel_entry(image)));
            vec![
                only("kernel-mappings-equal", place, image.process),
                only("kernel-tables-once", place, image.process),
            ]
        },
    ),
    always(
        "two processes share a table of their user halves",
        |image| {
            let (ours, theirs) = (image.process, image.other_process);
            let page = user_page(image, ours);
            let place = image.place(ours, page, Level::Pd);
            let theirs_place = image.place(theirs, user_page(image, theirs), Level::Pd);
            image.point(place, image.below(theirs_place));
            // Of the two who have it the one with the lower root counts as the owner.
            vec![only("user-tables-private", theirs_place, theirs)]
        },
    ),
    always("a user half leads into the kernel half", |image| {
        let page = user_page(image, image.process);
        let pd = image.place(image.process, page, Level::Pd);
        let place = image.empty(pd.table, 0);
        let table = image
            .place(image.kernel, some_vmalloc_page(image), Level::Pt)
            .table;
        image.set(place, Entry::pointing_to(table.base(), USER_TABLE));
        vec![of_process("halves-separate", place, image.process)]
    }),
    always(
        "the kernel's own root lacks what all others have",
        |image| {
            let va = some_vmalloc_page(image);
            let place = image.place(image.kernel, va, image.top());
            image.set(place, Entry::ABSENT);
            vec![only("kernel-mappings-equal", place, image.kernel)]
        },
    ),
    always("a process may not execute what the others may", |image| {
        let place = image.place(image.process, image.text, image.top());
        image.add(place, Entry::NO_EXECUTE);
        vec![only("kernel-mappings-equal", place, image.process)]
    }),
    always("a process has other flags that change nothing", |image| {
        let va = some_vmalloc_page(image);
        let place = image.place(image.process, va, image.top());
        image.set(place, image.entry(place).without(Entry::USER));
        vec![only("kernel-tables-shared", place, image.process)]
    }),
];
