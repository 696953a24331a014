//! What address spaces share, and what they must not.

use super::*;

pub(super) const BREAKS: &[Break] = &[
    always("a process lacks a kernel entry", |patient| {
        let va = some_vmalloc_page(patient);
        let place = patient.place(patient.process, va, patient.top());
        patient.set(place, Entry::ABSENT);
        vec![only("kernel-mappings-equal", place, patient.process)]
    }),
    always(
        "a process lacks a kernel entry below which nothing is mapped yet",
        |patient| {
            let place = empty_kernel_entry(patient);
            patient.set(place, Entry::ABSENT);
            vec![only("kernel-tables-shared", place, patient.process)]
        },
    ),
    always(
        "a process has a private copy of a kernel table",
        |patient| {
            let va = some_vmalloc_page(patient);
            let place = patient.place(patient.process, va, patient.top());
            let copy = patient.copy_table(patient.below(place));
            patient.point(place, copy);
            vec![only("kernel-tables-shared", place, patient.process)]
        },
    ),
    always(
        "a private copy of a kernel table has missed a change",
        |patient| {
            let va = some_vmalloc_page(patient);
            let place = patient.place(patient.process, va, patient.top());
            let copy = private_path(patient, patient.process, va);
            patient.set(copy, Entry::ABSENT);
            vec![only("kernel-mappings-equal", place, patient.process)]
        },
    ),
    always(
        "a process maps another frame at a kernel address",
        |patient| {
            let va = some_vmalloc_page(patient);
            let place = patient.place(patient.process, va, patient.top());
            let copy = private_path(patient, patient.process, va);
            patient.point(copy, patient.free_frame());
            vec![only("kernel-mappings-equal", place, patient.process)]
        },
    ),
    always(
        "a process may write where the others may only read",
        |patient| {
            let text = patient.text;
            let place = patient.place(patient.process, text, patient.top());
            let copy = private_path(patient, patient.process, text);
            patient.add(copy, Entry::WRITABLE);
            vec![
                only("kernel-mappings-equal", place, patient.process),
                only("write-xor-execute", copy, patient.process),
            ]
        },
    ),
    always(
        "a process's entry for one kernel area leads to another area's table",
        |patient| {
            let place = patient.place(patient.process, patient.direct_map, patient.top());
            patient.point(place, patient.below(empty_kernel_entry(patient)));
            vec![
                only("kernel-mappings-equal", place, patient.process),
                only("kernel-tables-once", place, patient.process),
            ]
        },
    ),
    always(
        "two processes share a table of their user halves",
        |patient| {
            let (ours, theirs) = (patient.process, patient.other_process);
            let page = user_page(patient, ours);
            let place = patient.place(ours, page, Level::Pd);
            let theirs_place = patient.place(theirs, user_page(patient, theirs), Level::Pd);
            patient.point(place, patient.below(theirs_place));
            // Of the two who have it the one with the lower root counts as the owner.
            vec![only("user-tables-private", theirs_place, theirs)]
        },
    ),
    always("a user half leads into the kernel half", |patient| {
        let page = user_page(patient, patient.process);
        let pd = patient.place(patient.process, page, Level::Pd);
        let place = patient.empty(pd.table, 0);
        let table = patient
            .place(patient.kernel, some_vmalloc_page(patient), Level::Pt)
            .table;
        patient.set(place, Entry::pointing_to(table.base(), USER_TABLE));
        vec![of_process("halves-separate", place, patient.process)]
    }),
    always(
        "the kernel's own root lacks what all others have",
        |patient| {
            let va = some_vmalloc_page(patient);
            let place = patient.place(patient.kernel, va, patient.top());
            patient.set(place, Entry::ABSENT);
            vec![only("kernel-mappings-equal", place, patient.kernel)]
        },
    ),
    always("a process may not execute what the others may", |patient| {
        let place = patient.place(patient.process, patient.text, patient.top());
        patient.add(place, Entry::NO_EXECUTE);
        vec![only("kernel-mappings-equal", place, patient.process)]
    }),
    always("a process has other flags that change nothing", |patient| {
        let va = some_vmalloc_page(patient);
        let place = patient.place(patient.process, va, patient.top());
        patient.set(place, patient.entry(place).without(Entry::USER));
        vec![only("kernel-tables-shared", place, patient.process)]
    }),
];
