//! Tables as such, and where pages lead.

use super::*;

pub(super) const BREAKS: &[Break] = &[
    always("a root maps itself", |patient| {
        let root = patient.process.pfn();
        let place = patient.empty(root, 260);
        patient.set(place, Entry::pointing_to(root.base(), KERNEL_TABLE));
        vec![
            only("no-loop", place, patient.process),
            only("kernel-mappings-equal", place, patient.process),
        ]
    }),
    always("a table points to one above it", |patient| {
        let va = some_vmalloc_page(patient);
        let below_top = patient.top().next().unwrap();
        let above = patient.place(patient.kernel, va, below_top).table;
        let table = patient
            .place(patient.kernel, va, below_top.next().unwrap())
            .table;
        let place = patient.empty(table, 0);
        patient.set(place, Entry::pointing_to(above.base(), KERNEL_TABLE));
        vec![shared("no-loop", place)]
    }),
    always(
        "a kernel table is used at a second address by all",
        |patient| {
            let used = patient.place(patient.kernel, some_vmalloc_page(patient), Level::Pd);
            let place = patient.empty(used.table, used.index);
            let table = patient.below(used);
            patient.set(place, Entry::pointing_to(table.base(), KERNEL_TABLE));
            vec![shared("kernel-tables-once", place)]
        },
    ),
    always("an entry of a root has a reserved bit", |patient| {
        let place = empty_kernel_entry(patient);
        patient.add(place, Entry::LARGE);
        vec![
            only("reserved-bits-clear", place, patient.process),
            only("kernel-mappings-equal", place, patient.process),
        ]
    }),
    always("a large leaf has a reserved bit", |patient| {
        let page = patient.large_page();
        let place = patient.leaf(patient.kernel, page.va);
        patient.add(place, Entry::new(1 << 13));
        vec![shared("reserved-bits-clear", place)]
    }),
    always("a kernel table is beyond RAM", |patient| {
        let va = some_vmalloc_page(patient);
        let pd = patient.place(patient.kernel, va, Level::Pd);
        let place = patient.empty(pd.table, pd.index);
        patient.set(place, Entry::pointing_to(BEYOND_RAM.base(), KERNEL_TABLE));
        vec![shared("tables-in-ram", place)]
    }),
    always("a process's table is beyond RAM", |patient| {
        let place = patient.place(
            patient.process,
            user_page(patient, patient.process),
            Level::Pd,
        );
        patient.point(place, BEYOND_RAM);
        vec![of_process("tables-in-ram", place, patient.process)]
    }),
    always("a page of the direct map leads elsewhere", |patient| {
        let page = patient.ordinary_page(0x1_0000);
        let place = patient.leaf(patient.kernel, page.va);
        patient.point(place, Pfn::new(page.pa.pfn().get() + 1));
        vec![shared("direct-map-exact", place)]
    }),
    always(
        "the first page of the direct map leads elsewhere",
        |patient| {
            let page = patient.ordinary_page(0);
            let place = patient.leaf(patient.kernel, page.va);
            patient.point(place, Pfn::new(page.pa.pfn().get() + 1));
            vec![shared("direct-map-exact", place)]
        },
    ),
    always(
        "a page of a process leads out of RAM and is cached",
        |patient| {
            let place = patient.leaf(patient.process, user_page(patient, patient.process));
            patient.point(place, BEYOND_RAM);
            vec![of_process("user-pages-in-ram", place, patient.process)]
        },
    ),
];
