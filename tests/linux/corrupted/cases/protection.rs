//! Who may do what.

use super::*;

pub(super) const CASES: &[Case] = &[
    always("kernel text may be written", |image| {
        let place = image.leaf(image.kernel, image.text);
        image.add(place, Entry::WRITABLE);
        vec![shared("write-xor-execute", place)]
    }),
    always("kernel data may be executed", |image| {
        let page = image.page(image.kernel, image.text, |page| {
            page.rights.write && page.size == PageSize::Size2MiB
        });
        let place = image.leaf(image.kernel, page.va);
        image.set(place, image.entry(place).without(Entry::NO_EXECUTE));
        vec![
            shared("write-xor-execute", place),
            shared(
                "no-writable-text-alias",
                image.leaf(image.kernel, in_direct_map(image, page.pa)),
            ),
        ]
    }),
    always("the direct map may write to kernel text", |image| {
        let text = image.walk(image.kernel, image.text).result.unwrap();
        let place = image.leaf(image.kernel, in_direct_map(image, text.page));
        image.add(place, Entry::WRITABLE);
        vec![shared("no-writable-text-alias", place)]
    }),
    always("vmalloc has a writable alias of kernel text", |image| {
        let text = image.walk(image.kernel, image.text).result.unwrap();
        let place = image.leaf(image.kernel, some_vmalloc_page(image));
        image.point(place, text.page.pfn());
        vec![shared("no-writable-text-alias", place)]
    }),
    always("ring 3 may read a page of the direct map", |image| {
        let page = image.ordinary_page(0x1_0000);
        let place = for_ring_3(image, page.va);
        vec![shared("kernel-not-user", place)]
    }),
    always("a process may read its own page table", |image| {
        let page = user_page(image, image.process);
        let leaf = image.leaf(image.process, page);
        let place = image.empty(leaf.table, 0);
        image.set(place, Entry::pointing_to(leaf.table.base(), USER_PAGE));
        vec![of_process("tables-not-user-mapped", place, image.process)]
    }),
    always("the direct map may be executed", |image| {
        let page = image.ordinary_page(0x1_0000);
        let place = image.leaf(image.kernel, page.va);
        image.set(place, image.entry(place).without(Entry::NO_EXECUTE));
        vec![shared("write-xor-execute", place)]
    }),
];
