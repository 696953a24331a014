//! Linux before it has protected its image, which comes right before its first process.

use heirloom_inspect::{Cr3, Depth, Entry, Level, PageSize, VirtAddr};

use crate::scene::{
    Guest, IMAGE_CONSTANTS, IMAGE_DATA, IMAGE_ENTRY_TEXT, IMAGE_TEXT, PAGE, Plan, bits, broken,
    check,
};

/// The image as it is mapped at first: all of it writable and executable, the same in user roots, and the direct map
/// writable.
fn early(plan: Plan) -> Guest {
    let mut guest = Guest::new(plan);
    let open = |entry: Entry| (entry | Entry::WRITABLE).without(bits::NX);
    for frame in [IMAGE_TEXT, IMAGE_ENTRY_TEXT, IMAGE_CONSTANTS, IMAGE_DATA] {
        let va = guest.image(frame);
        guest.change(guest.init, va, Level::Pd, open);
    }
    if guest.plan.kpti {
        let user = guest.user_root(guest.poking);
        guest.change(user, guest.image(IMAGE_ENTRY_TEXT), Level::Pd, open);
    }
    let alias = guest.vmalloc().wrapping_add(77 * PAGE);
    let text = IMAGE_ENTRY_TEXT;
    guest.map(guest.init, alias, text, PageSize::Size4KiB, bits::DATA);
    guest
}

fn let_pass(guest: &Guest) -> Vec<&'static str> {
    let rules = check(guest).rules;
    let met = |rule: &&heirloom_inspect::check::Verdict| {
        let mut met = rule.exceptions.iter();
        met.any(|met| met.exception.name == "linux-early-boot")
    };
    rules
        .iter()
        .filter(met)
        .map(|rule| rule.rule.name)
        .collect()
}

#[test]
fn what_is_not_protected_yet_is_let_pass_by_name() {
    for plan in Plan::all() {
        let guest = early(Plan {
            processes: 0,
            ..plan
        });
        assert_eq!(broken(&guest), Vec::<&str>::new(), "{}", guest.plan);
        let mut expected = vec!["write-xor-execute", "no-writable-text-alias"];
        if guest.plan.kpti {
            expected.push("user-root-minimal");
        }
        assert_eq!(let_pass(&guest), expected, "{}", guest.plan);
    }
}

#[test]
fn with_a_process_it_is_a_fault() {
    for plan in Plan::all() {
        let guest = early(Plan {
            processes: 1,
            ..plan
        });
        let broken = broken(&guest);
        assert!(broken.contains(&"write-xor-execute"), "{broken:?}");
        assert!(broken.contains(&"no-writable-text-alias"), "{broken:?}");
        assert_eq!(let_pass(&guest), Vec::<&str>::new());
    }
}

#[test]
fn of_an_image_that_is_protected_one_page_that_is_not_is_a_fault() {
    for plan in Plan::all() {
        let mut guest = Guest::new(Plan {
            processes: 0,
            ..plan
        });
        let va = guest.image(IMAGE_TEXT);
        guest.change(guest.init, va, Level::Pd, |entry| entry | Entry::WRITABLE);
        assert!(broken(&guest).contains(&"write-xor-execute"));
        assert_eq!(let_pass(&guest), Vec::<&str>::new());
    }
}

#[test]
fn what_only_the_first_of_two_kernel_roots_has_is_let_pass_while_it_is_early() {
    for is_early in [true, false] {
        for plan in Plan::all() {
            let plan = Plan {
                processes: 0,
                cpus: 1,
                kpti: false,
                ..plan
            };
            let mut guest = if is_early {
                early(plan)
            } else {
                Guest::new(plan)
            };
            let first = guest.memory.root();
            let table = guest.init.pfn();
            for index in 256..512 {
                let entry = guest.memory.peek(table, index);
                guest.memory.poke(first.pfn(), index, entry);
            }
            let own = VirtAddr::new(match guest.plan.depth {
                Depth::Four => 0xffff_9000_0000_0000,
                Depth::Five => 0xff1f_0000_0000_0000,
            });
            guest.map(first, own, IMAGE_DATA, PageSize::Size2MiB, bits::DATA);
            guest.cpus[0].cr3 = Cr3::new(first.get());
            let broken = broken(&guest);
            assert_eq!(
                !broken.contains(&"kernel-mappings-equal"),
                is_early,
                "{} {broken:?}",
                guest.plan
            );
        }
    }
}
