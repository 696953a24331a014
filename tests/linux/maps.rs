//! `heirloom maps`: its ranges against QEMU's walk, page by page, and their rights against QEMU's own
//! reckoning of what all levels allow together (`info mem`).

use std::collections::BTreeSet;

use heirloom_inspect::{PageSize, PhysAddr};
use serde_json::Value;

use crate::command::{address, ask, list, number};
use crate::common::linux::Variant;
use crate::common::linux::tlb;
use crate::image::Image;

/// One of the command's ranges.
struct Range {
    first: u64,
    last: u64,
    pa: u64,
    user: bool,
    write: bool,
    execute: bool,
    pages: u64,
}

fn ranges(report: &Value) -> Vec<Range> {
    let range = |range: &Value| {
        let right = |name: &str| range["rights"][name].as_bool().unwrap();
        let counts = PageSize::ALL.iter().zip(["4KiB", "2MiB", "1GiB"]);
        let (mut pages, mut bytes) = (0, 0);
        for (size, name) in counts {
            let count = range["pages"][name].as_u64().unwrap();
            pages += count;
            bytes += count * size.bytes();
        }
        let found = Range {
            first: number(&range["range"]["first"]),
            last: number(&range["range"]["last"]),
            pa: number(&range["pa"]),
            user: right("user"),
            write: right("write"),
            execute: right("execute"),
            pages,
        };
        assert_eq!(bytes, found.last - found.first + 1, "{range}");
        found
    };
    list(report, "ranges").iter().map(range).collect()
}

/// A few roots of each kind, those with the most user pages and with a kernel half of their own among them.
fn some_roots(target: &str) -> BTreeSet<(PhysAddr, String)> {
    let report = ask(&["roots", target]);
    let mut chosen = BTreeSet::new();
    let roots = list(&report, "roots");
    let name = |root: &Value| {
        (
            address(&root["address"]),
            root["kind"].as_str().unwrap().to_owned(),
        )
    };
    for kind in ["kernel", "process", "user-root", "no-pages", "trampoline"] {
        let of_kind = || roots.iter().filter(|root| root["kind"] == kind);
        chosen.extend(of_kind().take(2).map(name));
        chosen.extend(
            of_kind()
                .max_by_key(|root| root["user_pages"].as_u64())
                .map(name),
        );
        let odd = of_kind().find(|root| !list(root, "differences").is_empty());
        chosen.extend(odd.map(name));
    }
    chosen
}

/// A stretch of addresses with equal rights, as `info mem` prints it.
#[derive(Debug, PartialEq, Eq)]
struct Stretch {
    first: u64,
    last: u64,
    user: bool,
    write: bool,
}

/// `0000000000400000-0000000000500000 0000000000100000 ur-`
fn info_mem(text: &str) -> Vec<Stretch> {
    let stretch = |line: &str| {
        let mut words = line.split_whitespace();
        let (first, end) = words.next()?.split_once('-')?;
        let rights = words.nth(1)?;
        Some(Stretch {
            first: u64::from_str_radix(first, 16).ok()?,
            last: u64::from_str_radix(end, 16).ok()?.wrapping_sub(1),
            user: rights.contains('u'),
            write: rights.contains('w'),
        })
    };
    text.lines()
        .map(|line| stretch(line).unwrap_or_else(|| panic!("no line of `info mem`: {line}")))
        .collect()
}

fn stretches(ranges: &[Range]) -> Vec<Stretch> {
    let mut stretches: Vec<Stretch> = Vec::new();
    for range in ranges {
        match stretches.last_mut() {
            Some(before)
                if before.last.wrapping_add(1) == range.first
                    && (before.user, before.write) == (range.user, range.write) =>
            {
                before.last = range.last;
            }
            _ => stretches.push(Stretch {
                first: range.first,
                last: range.last,
                user: range.user,
                write: range.write,
            }),
        }
    }
    stretches
}

fn ranges_are_what_qemu_finds(variant: Variant) {
    let image = Image::of(variant);
    let target = image.target();
    let mut machine = image.machine();
    for (root, kind) in some_roots(&target) {
        let report = ask(&["maps", &target, "--root", &format!("{root:#x}")]);
        assert_eq!(address(&report["root"]["address"]), root);
        let ranges = ranges(&report);
        let (lines, mem) = machine.with_root(root, |qmp| {
            let lines = tlb::parse(&qmp.monitor("info tlb"));
            // QEMU 7.2 prints nothing for five levels, after a long time.
            let mem = (!variant.la57).then(|| qmp.monitor("info mem"));
            (lines, mem)
        });
        // As many pages, and each of QEMU's inside: so none is missing and none too much.
        let pages: u64 = ranges.iter().map(|range| range.pages).sum();
        assert_eq!(pages, lines.len() as u64, "{}: {root}", variant.name);
        let mut ahead = ranges.iter().peekable();
        for line in &lines {
            while ahead.next_if(|range| range.last < line.va).is_some() {}
            let range = ahead.peek().unwrap();
            assert!(
                range.first <= line.va,
                "{}: {root}: {line:x?}",
                variant.name
            );
            assert_eq!(
                range.pa + (line.va - range.first),
                line.pa,
                "{root}: {line:x?}"
            );
            let is_forbidden_above =
                variant.pti && matches!(&*kind, "process" | "no-pages") && line.va >> 63 == 0;
            let execute = line.flags[0] != b'X' && !is_forbidden_above;
            assert_eq!(
                range.execute, execute,
                "{}: {root}: {line:x?}",
                variant.name
            );
        }
        if let Some(mem) = mem {
            assert_eq!(
                stretches(&ranges),
                info_mem(&mem),
                "{}: {root}",
                variant.name
            );
        }
    }
}

#[test]
fn with_kpti_the_ranges_of_a_map_are_the_pages_and_rights_that_qemu_finds() {
    ranges_are_what_qemu_finds(Variant::PTI_ON);
}

#[test]
fn without_kpti_the_ranges_of_a_map_are_the_pages_and_rights_that_qemu_finds() {
    ranges_are_what_qemu_finds(Variant::PTI_OFF);
}

#[test]
fn with_five_levels_the_ranges_of_a_map_are_the_pages_that_qemu_finds() {
    ranges_are_what_qemu_finds(Variant::LA57_PTI_ON);
}
