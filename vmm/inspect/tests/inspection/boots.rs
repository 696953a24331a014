//! Two boots, of which KASLR put the second elsewhere.

use heirloom_inspect::boots::Boots;
use heirloom_inspect::symbols::Symbols;
use heirloom_inspect::{Discovery, Level, PageSize, Rights};

use crate::scene::{Bases, Guest, IMAGE_CONSTANTS, IMAGE_DATA, IMAGE_TEXT, MIB, PAGE, Plan, bits};

fn boots(plan: Plan) -> [Guest; 2] {
    let fixed = Bases::fixed(plan.depth);
    let second = Plan {
        bases: fixed,
        ..plan.clone()
    };
    [Guest::new(plan), Guest::new(second)]
}

fn between(guests: &[Guest; 2]) -> Boots {
    let [one, other] = guests.each_ref().map(Guest::discover);
    Boots::between(&one, &other)
}

#[test]
fn two_boots_are_told_from_two_moments_and_have_the_same() {
    for plan in Plan::all() {
        let guests = boots(plan);
        let [one, other] = guests.each_ref().map(Guest::discover);
        assert!(Boots::are_two(&one, &other));
        assert!(!Boots::are_two(&one, &one) && !Boots::are_two(&other, &other));
        let boots = Boots::between(&one, &other);
        assert_eq!(boots.offsets, []);
        assert!(boots.is_same() && !boots.is_cut, "{boots:?}");
        let image = boots
            .areas
            .iter()
            .find(|area| area.name.as_str() == "kernel image")
            .unwrap();
        let [before, after] = [&image.before, &image.after].map(|side| side.clone().unwrap());
        assert_eq!(before.bytes, after.bytes);
        assert_ne!(before.first, after.first);
        let all: u64 = before.bytes.iter().map(|(_, bytes)| bytes).sum();
        assert_eq!(all, 8 * MIB);
    }
}

#[test]
fn what_an_offset_may_be_used_for_in_one_of_them_alone_is_found() {
    for plan in Plan::all() {
        let mut guests = boots(plan);
        let later = &mut guests[1];
        let va = later.image(IMAGE_CONSTANTS);
        later.change(later.init, va, Level::Pd, |entry| {
            entry | heirloom_inspect::Entry::WRITABLE
        });
        let boots = between(&guests);
        let [change] = &boots.offsets[..] else {
            panic!("{:?}", boots.offsets)
        };
        assert_eq!((change.offset, change.bytes), (4 * MIB, 2 * MIB));
        let writes = |rights: Option<Rights>| rights.unwrap().write;
        assert!(!writes(change.before) && writes(change.after));
        assert!(!boots.is_same());
    }
}

#[test]
fn an_area_that_one_alone_has_is_told() {
    for plan in Plan::all() {
        let [one, mut other] = boots(plan);
        let va = other.ldt();
        other.map(
            other.init,
            va,
            IMAGE_DATA,
            PageSize::Size4KiB,
            bits::CONSTANTS,
        );
        let boots = between(&[one, other]);
        let lone: Vec<_> = boots
            .areas
            .iter()
            .filter(|area| area.before.is_none())
            .collect();
        assert_eq!(lone.len(), 1, "{lone:?}");
        assert!(!boots.is_same());
    }
}

/// With names: text, constants, and a variable whose offset from the image this is.
fn named(guest: &Guest, names: &[(&'static str, u64)]) -> Discovery {
    let mut discovery = guest.discover();
    let base = guest.image(IMAGE_TEXT);
    let symbols = names.iter();
    discovery.symbols = Symbols::new(symbols.map(|(name, at)| (base.wrapping_add(*at), *name)));
    discovery
}

#[test]
fn functions_and_variables_are_compared_by_name() {
    let [one, mut other] = boots(Plan::all().remove(0));
    let names = [
        ("_text", 0),
        ("start_kernel", PAGE),
        ("twice", 2 * PAGE),
        ("twice", 3 * PAGE),
        ("sys_call_table", 4 * MIB + 64),
        ("jiffies", 6 * MIB),
    ];
    let before = named(&one, &names);
    let same = Boots::between(&before, &named(&other, &names));
    assert!(same.is_same(), "{same:?}");
    assert_eq!(same.names.as_ref().unwrap().both, 5 - 1);
    // Another build has them elsewhere, and the table is writable.
    let va = other.image(IMAGE_CONSTANTS);
    other.change(other.init, va, Level::Pd, |entry| {
        entry | heirloom_inspect::Entry::WRITABLE
    });
    let later = [
        ("_text", 0),
        ("start_kernel", 9 * PAGE),
        ("sys_call_table", 4 * MIB + 640),
        ("jiffies", 6 * MIB),
        ("added", 7 * PAGE),
    ];
    let boots = Boots::between(&before, &named(&other, &later));
    let found = boots.names.clone().unwrap();
    assert_eq!((found.both, found.moved), (4, 2));
    assert_eq!(found.new, ["added"]);
    let [(name, was, is)] = &found.rights[..] else {
        panic!("{:?}", found.rights)
    };
    assert_eq!(name, "sys_call_table");
    assert!(!was.unwrap().write && is.unwrap().write);
    // Offsets of another build mean something else.
    assert_eq!(boots.offsets, []);
    assert!(!boots.is_same());
}
