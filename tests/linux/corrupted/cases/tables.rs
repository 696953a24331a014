//! Tables as such, and where pages lead.

use super::*;

pub(super) const CASES: &[Case] = &[
    always("a root maps itself", |image| {
        let root = image.process.pfn();
        let place = image.empty(root, 260);
        image.set(place, Entry::pointing_to(root.base(), KERNEL_TABLE));
        vec![
            only("no-loop", place, image.process),
            only("kernel-mappings-equal", place, image.process),
        ]
    }),
    always("a table points to one above it", |image| {
        let va = some_vmalloc_page(image);
        let below_top = image.top().next().unwrap();
        let above = image.place(image.kernel, va, below_top).table;
        let table = image
            .place(image.kernel, va, below_top.next().unwrap())
            .table;
        let place = image.empty(table, 0);
        image.set(place, Entry::pointing_to(above.base(), KERNEL_TABLE));
        vec![shared("no-loop", place)]
    }),
    always(
        "a kernel table is used at a second address by all",
        |image| {
            let used = image.place(image.kernel, some_vmalloc_page(image), Level::Pd);
            let place = image.empty(used.table, used.index);
            let table = image.below(used);
            image.set(place, Entry::pointing_to(table.base(), KERNEL_TABLE));
            vec![shared("kernel-tables-once", place)]
        },
    ),
    always("an entry of a root has a reserved bit", |image| {
        let place = empty_kernel_entry(image);
        image.add(place, Entry::LARGE);
        vec![
            only("reserved-bits-clear", place, image.process),
            only("kernel-mappings-equal", place, image.process),
        ]
    }),
    always("a large leaf has a reserved bit", |image| {
        let page = image.large_page();
        let place = image.leaf(image.kernel, page.va);
        image.add(place, Entry::new(1 << 13));
        vec![shared("reserved-bits-clear", place)]
    }),
    always("a kernel table is beyond RAM", |image| {
        let va = some_vmalloc_page(image);
        let pd = image.place(image.kernel, va, Level::Pd);
        let place = image.empty(pd.table, pd.index);
        image.set(place, Entry::pointing_to(BEYOND_RAM.base(), KERNEL_TABLE));
        vec![shared("tables-in-ram", place)]
    }),
    always("a process's table is beyond RAM", |image| {
        let place = image.place(image.process, user_page(image, image.process), Level::Pd);
        image.point(place, BEYOND_RAM);
        vec![of_process("tables-in-ram", place, image.process)]
    }),
    always("a page of the direct map leads elsewhere", |image| {
        let page = image.ordinary_page(0x1_0000);
        let place = image.leaf(image.kernel, page.va);
        image.point(place, Pfn::new(page.pa.pfn().get() + 1));
        vec![shared("direct-map-exact", place)]
    }),
    always(
        "the first page of the direct map leads elsewhere",
        |image| {
            let page = image.ordinary_page(0);
            let place = image.leaf(image.kernel, page.va);
            image.point(place, Pfn::new(page.pa.pfn().get() + 1));
            vec![shared("direct-map-exact", place)]
        },
    ),
    always(
        "a page of a process leads out of RAM and is cached",
        |image| {
            let place = image.leaf(image.process, user_page(image, image.process));
            image.point(place, BEYOND_RAM);
            vec![of_process("user-pages-in-ram", place, image.process)]
        },
    ),
];
