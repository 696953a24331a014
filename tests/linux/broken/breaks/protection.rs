//! Who may do what.

use super::*;

pub(super) const BREAKS: &[Break] = &[
    always("kernel text may be written", |patient| {
        let place = patient.leaf(patient.kernel, patient.text);
        patient.add(place, Entry::WRITABLE);
        vec![shared("write-xor-execute", place)]
    }),
    always("kernel data may be executed", |patient| {
        let page = patient.page(patient.kernel, patient.text, |page| {
            page.rights.write && page.size == PageSize::Size2MiB
        });
        let place = patient.leaf(patient.kernel, page.va);
        patient.set(place, patient.entry(place).without(Entry::NO_EXECUTE));
        vec![
            shared("write-xor-execute", place),
            shared(
                "no-writable-text-alias",
                patient.leaf(patient.kernel, in_direct_map(patient, page.pa)),
            ),
        ]
    }),
    always("the direct map may write to kernel text", |patient| {
        let text = patient.walk(patient.kernel, patient.text).result.unwrap();
        let place = patient.leaf(patient.kernel, in_direct_map(patient, text.page));
        patient.add(place, Entry::WRITABLE);
        vec![shared("no-writable-text-alias", place)]
    }),
    always("vmalloc has a writable alias of kernel text", |patient| {
        let text = patient.walk(patient.kernel, patient.text).result.unwrap();
        let place = patient.leaf(patient.kernel, some_vmalloc_page(patient));
        patient.point(place, text.page.pfn());
        vec![shared("no-writable-text-alias", place)]
    }),
    always("ring 3 may read a page of the direct map", |patient| {
        let page = patient.ordinary_page(0x1_0000);
        let place = for_ring_3(patient, page.va);
        vec![shared("kernel-not-user", place)]
    }),
    always("a process may read its own page table", |patient| {
        let page = user_page(patient, patient.process);
        let leaf = patient.leaf(patient.process, page);
        let place = patient.empty(leaf.table, 0);
        patient.set(place, Entry::pointing_to(leaf.table.base(), USER_PAGE));
        vec![of_process("tables-not-user-mapped", place, patient.process)]
    }),
    always("the direct map may be executed", |patient| {
        let page = patient.ordinary_page(0x1_0000);
        let place = patient.leaf(patient.kernel, page.va);
        patient.set(place, patient.entry(place).without(Entry::NO_EXECUTE));
        vec![shared("write-xor-execute", place)]
    }),
];
