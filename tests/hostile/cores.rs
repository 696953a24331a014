//! Cores that are no good: tables without end, roots without number, memory that is claimed and not there, and
//! a file that gets shorter while it is read.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::elf::{CoreBuilder, qemu_note};
use crate::file;
use crate::running::Running;

const PAGE: usize = 4096;
/// P, R/W.
const POINTER: u64 = 3;
/// PAE, PGE and more.
const CR4: u64 = 0x6b0;

/// CPU time in which any of these must be told: the bound of the specification.
const BOUND: Duration = Duration::from_secs(10);
/// The same where a budget of 2^30 entries is spent to the last, by a command that is built with little
/// optimization, on a CPU that two threads share: four times what it takes (22 to 30 s).
const BOUND_OF_THE_BUDGET: Duration = Duration::from_secs(120);

fn table(entry: impl Fn(u64) -> u64) -> Vec<u8> {
    (0..512)
        .flat_map(|index| entry(index).to_le_bytes())
        .collect()
}

/// A core with `cpus` CPUs, each on a root of its own, whose kernel half is tables that are all full: each
/// root has three tables of its own, and in each all entries lead to the next one, so that there are 256 ·
/// 2^27 pages to compare.
pub(crate) fn table_bomb(cpus: u64) -> Vec<u8> {
    let mut memory = vec![0; PAGE];
    let mut core = CoreBuilder::default();
    for cpu in 0..cpus {
        let first = memory.len() as u64;
        let next = |table: u64| first + table * PAGE as u64;
        memory.extend(table(
            |index| if index < 256 { 0 } else { next(1) | POINTER },
        ));
        memory.extend(table(|_| next(2) | POINTER));
        memory.extend(table(|_| next(3) | POINTER));
        // Each other root maps other frames.
        memory.extend(table(|_| (cpu << 12) | POINTER));
        core = core.note("QEMU", &qemu_note(first, CR4, 0x10));
    }
    core.load(0, &memory).build()
}

/// A core with `cpus` CPUs and `tables` tables, each of which is full of all the others: whoever compares what
/// two roots map comes to each pair of tables at each level.
pub(crate) fn table_web(cpus: u64, tables: u64) -> Vec<u8> {
    let first = PAGE as u64;
    let mut memory = vec![0; PAGE];
    for number in 0..tables {
        let to = move |index: u64| first + (number * 7 + index) % tables * PAGE as u64;
        memory.extend(table(|index| to(index) | POINTER));
    }
    let mut core = CoreBuilder::default();
    for cpu in 0..cpus {
        let root = first + cpu * PAGE as u64;
        core = core.note("QEMU", &qemu_note(root, CR4, 0x10));
    }
    core.load(0, &memory).build()
}

fn target(path: &Path) -> String {
    format!("core:{}", path.display())
}

#[test]
fn tables_that_are_full_down_to_the_pages_are_compared_within_the_bound_or_said_not_to_be() {
    for bytes in [
        table_bomb(2),
        table_bomb(64),
        table_web(2, 512),
        table_web(64, 512),
    ] {
        let (_folder, core) = file("core", &bytes);
        for command in ["check", "roots", "layout"] {
            let ended = Running::start(&[command, &target(&core)]);
            let ended = ended.ends_within(BOUND_OF_THE_BUDGET);
            assert!(ended.code.is_some(), "{command}: {}", ended.said());
        }
    }
}

/// Never 0 with nothing checked.
fn assert_holds_nothing_unchecked(target: &str) {
    let ended = Running::start(&["check", "--json", target]).ends_within(BOUND);
    let report: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap_or_default();
    let rules = report["rules"].as_array();
    let checks: u64 = rules.map_or(0, |rules| {
        rules
            .iter()
            .map(|rule| rule["checks"].as_u64().unwrap())
            .sum()
    });
    let is_sound = ended.code == Some(0) && checks > 0;
    let is_said = matches!(ended.code, Some(1 | 2));
    assert!(
        is_sound || is_said,
        "{target}: {:?}, {checks} checks",
        ended.code
    );
}

#[test]
fn what_has_no_live_root_never_holds() {
    // An image of zeroes; then 5,000 roots that are all the same, with CR3 at one of them or at nothing.
    let mut memory = vec![0; PAGE];
    memory.extend(table(|index| {
        if index < 2 {
            (0x1000 * index) | POINTER
        } else {
            0
        }
    }));
    for _ in 0..5000 {
        memory.extend(table(
            |index| if index == 511 { 0x1000 | POINTER } else { 0 },
        ));
    }
    for (bytes, cr3) in [
        (vec![0; 16 * PAGE], "0x1000"),
        (memory.clone(), "0x2000"),
        (memory.clone(), "0x0"),
    ] {
        let (_folder, image) = file("ram", &bytes);
        assert_holds_nothing_unchecked(&format!("raw:{},cr3={cr3}", image.display()));
        let note = qemu_note(u64::from_str_radix(&cr3[2..], 16).unwrap(), CR4, 0x10);
        let core = CoreBuilder::default().note("QEMU", &note).load(0, &bytes);
        let (_folder, core) = file("core", &core.build());
        assert_holds_nothing_unchecked(&target(&core));
    }
}

#[test]
fn looking_for_roots_costs_what_is_there_and_not_what_is_claimed() {
    // Every page looks like a root: entry 511 leads to the next page.
    let frames = (8 << 20) / PAGE as u64;
    let page = |frame: u64| {
        table(move |index| {
            if index < 256 {
                0
            } else {
                ((frame + 1) % frames) << 12 | POINTER
            }
        })
    };
    let all_roots: Vec<u8> = (0..frames).flat_map(page).collect();
    let claims = CoreBuilder::default().load_longer(0, &vec![7; 300 << 10], 16 << 40);
    for bytes in [
        CoreBuilder::default().load(0, &all_roots).build(),
        claims.build(),
    ] {
        let (_folder, core) = file("core", &bytes);
        let ended = Running::start(&["roots", "--blind", &target(&core)]).ends_within(BOUND);
        assert!(matches!(ended.code, Some(0..=2)), "{}", ended.said());
    }
    // Four TiB of holes.
    let (_folder, image) = file("ram", &[1; PAGE]);
    fs::File::options()
        .write(true)
        .open(&image)
        .unwrap()
        .set_len(4 << 40)
        .unwrap();
    let raw = format!("raw:{}", image.display());
    let ended = Running::start(&["roots", "--blind", &raw]).ends_within(BOUND);
    assert!(matches!(ended.code, Some(0..=2)), "{}", ended.said());
}

#[test]
fn a_core_that_is_cut_while_it_is_read_is_exit_code_two_with_the_offset_or_read_before() {
    // Tables at the end of a large file, which is cut before them.
    let bomb = table_bomb(64);
    let mut said = 0;
    for delay in 0..25_u32 {
        let padding = vec![1; 64 << 20];
        let mut core = CoreBuilder::default().load(8 << 30, &padding);
        core.notes = {
            let mut notes = CoreBuilder::default();
            for cpu in 0..64_u64 {
                notes = notes.note("QEMU", &qemu_note(0x1000 + cpu * 0x4000, CR4, 0x10));
            }
            notes.notes
        };
        let (_folder, path) = file(
            "core",
            &core
                .load(0, &bomb[bomb.len() - (1 + 64 * 4) * PAGE..])
                .build(),
        );
        let mut running = Running::start(&["check", &target(&path)]);
        running.until_used(Duration::from_millis(u64::from(delay) * 10));
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(1 << 20)
            .unwrap();
        let ended = running.ends_within(BOUND);
        assert!(
            matches!(ended.code, Some(0..=2)),
            "cut after {delay}0 ms, it ended with {:?}: {}",
            ended.code,
            ended.said()
        );
        // It may have been cut before it was opened, or after all was read.
        said += u32::from(ended.code == Some(2) && ended.said().contains("byte "));
    }
    assert!(said > 0, "it was cut, and no offset was said");
}
