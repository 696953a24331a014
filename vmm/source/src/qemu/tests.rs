//! What QEMU's monitor prints, from real runs, and what it must not be mistaken for.

use super::flat_view::{self, Kind};

/// QEMU 7.2, two NUMA backends and RAM above 4 GiB; the address space `memory` is not the first.
const FLAT_VIEW: &str = include_str!("tests/flat_view.txt");

#[test]
fn the_address_space_of_the_cpus_is_read_with_what_is_ram_and_what_rom() {
    let ranges = flat_view::parse(FLAT_VIEW).unwrap();
    let found: Vec<_> = ranges
        .iter()
        .map(|range| {
            (
                range.range.start.get(),
                range.range.end().get(),
                range.region.as_str(),
                range.kind,
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            (0, 0xc_0000, "a", Kind::Ram),
            (0xc_0000, 0xe_0000, "pc.rom", Kind::Rom),
            (0xe_0000, 0x10_0000, "pc.bios", Kind::Rom),
            (0x10_0000, 0x4000_0000, "a", Kind::Ram),
            (0x4000_0000, 0xc000_0000, "b", Kind::Ram),
            (0xfffc_0000, 0x1_0000_0000, "pc.bios", Kind::Rom),
            (0x1_0000_0000, 0x1_8000_0000, "b", Kind::Ram),
        ]
    );
}

#[test]
fn the_accelerators_name_does_not_belong_to_the_region() {
    let text = FLAT_VIEW
        .replace("ram): a\n", "ram): a KVM\n")
        .replace("@0000000000100000\n", "@0000000000100000 KVM\n");
    assert_ne!(text, FLAT_VIEW);
    assert_eq!(flat_view::parse(&text), flat_view::parse(FLAT_VIEW));
}

#[test]
fn memory_of_no_backend_is_a_devices_unless_no_ram_is_a_backends() {
    let kinds = |backends: &[&str]| {
        let backends: Vec<String> = backends.iter().map(ToString::to_string).collect();
        let mut ranges = flat_view::parse(FLAT_VIEW).unwrap();
        flat_view::set_devices_apart(&mut ranges, &backends);
        let of = |name: &str| {
            ranges
                .iter()
                .find(|range| range.region == name)
                .map(|range| range.kind)
        };
        ["a", "b", "pc.bios"].map(|name| of(name).unwrap())
    };
    assert_eq!(kinds(&["a", "b"]), [Kind::Ram, Kind::Ram, Kind::Rom]);
    assert_eq!(kinds(&["x", "a"]), [Kind::Ram, Kind::Device, Kind::Rom]);
    assert_eq!(kinds(&[]), [Kind::Ram, Kind::Ram, Kind::Rom]);
}

#[test]
fn a_view_of_another_form_is_refused() {
    for (from, to, problem) in [
        ("\"memory\"", "\"cpu\"", "no address space `memory`"),
        ("-00000000000bffff", "-bffff", "no range"),
        (
            "0000000100000000-000000017f",
            "0000000180000000-000000017f",
            "no range",
        ),
        ("(prio 0, ram): ", "(prio 0, ram) ", "no range"),
        ("ram): ", "i/o): ", "no RAM"),
        ("0000000100000000-", "0000000000000000-", "not in order"),
        (
            "000000017fffffff",
            "7fffffffffffffff",
            "more than any machine",
        ),
        ("000000017fffffff", "ffffffffffffffff", "no range"),
        ("@0000000080000000", "@x", "no range"),
    ] {
        let text = FLAT_VIEW.replace(from, to);
        assert_ne!(text, FLAT_VIEW, "{from}");
        let found = flat_view::parse(&text).unwrap_err();
        assert!(found.contains(problem), "{from}: {found}");
    }
    assert!(flat_view::parse("").is_err());
}
