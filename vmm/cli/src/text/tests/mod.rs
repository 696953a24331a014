//! Reports, as people read them.

use super::check::let_pass;
use super::maps::HEADER;
use super::rules::Rules;
use super::{Shown, Text};
use heirloom_inspect::check::{Check, Strictness};
use heirloom_inspect::report::{
    CheckReport, LayoutReport, NamedRange, ReverseReport, Roots, TranslateReport,
};
use heirloom_inspect::{Cr3, Depth, Discovery, Entry, Level, PhysAddr, VirtAddr, VirtRange};
use scene::{Guest, IMAGE_TEXT, PAGE, Plan, USER_DATA, bits};

/// The same hand-made guests that the inspector's own tests look at.
#[path = "../../../../inspect/tests/inspection/scene/mod.rs"]
#[allow(dead_code, unused_imports)]
mod scene;

mod changes;
mod hostile;

/// Columns as a terminal counts them: `–` and `×` are one.
fn column_of(line: &str, word: &str) -> Option<usize> {
    let at = line.find(word)?;
    Some(line[..at].chars().count())
}

fn isolated() -> Guest {
    Guest::new(Plan::new(Depth::Four, true))
}

fn shown(report: &impl Text) -> String {
    Shown(report).to_string()
}

fn report(discovery: &Discovery) -> CheckReport {
    let check = Check::of(discovery, Strictness::default());
    CheckReport::new("raw:guest", discovery, check)
}

#[track_caller]
fn assert_tidy(text: &str) {
    for line in text.lines() {
        assert_eq!(line.trim_end(), line, "blanks at the end");
        assert!(!line.contains('\t'));
    }
    assert!(!text.ends_with('\n'));
}

#[test]
fn roots_are_a_line_for_each_pair_and_name_what_is_different() {
    let mut guest = isolated();
    let (first, lacking) = (guest.processes[0], guest.processes[1]);
    let (private, diverging) = (guest.processes[2], guest.processes[3]);
    let va = guest.vmalloc();
    guest
        .memory
        .poke(lacking.pfn(), guest.top_index(va), Entry::ABSENT);
    guest.privatize(private, va, Level::Pt);
    let table = guest.privatize(diverging, va, Level::Pt);
    guest.memory.poke(table, va.index(Level::Pt), Entry::ABSENT);
    guest.add_ldt(first, 1, bits::CONSTANTS);
    let text = shown(&Roots::new("raw:guest", &guest.discover()));
    assert_tidy(&text);
    let line = |root: PhysAddr| {
        let address = root.to_string();
        let line = text
            .lines()
            .find(|line| line.trim_start().starts_with(&address));
        line.unwrap_or_else(|| panic!("{root}: {text}"))
    };
    let place = guest.top_place(va);
    for (root, words) in [
        (lacking, format!("LACKS {place} (vmalloc)")),
        (private, format!("PRIVATE COPY at {place} (vmalloc)")),
        (diverging, format!("DIVERGES at {place} (vmalloc)")),
        (
            first,
            format!("{} (LDT) of its own", guest.top_place(guest.ldt())),
        ),
        (guest.init, "1    cluster 1".to_owned()),
    ] {
        let line = line(root);
        assert!(line.contains(&words), "{line}");
        // Its user root is in the same line, and in no other.
        let user = guest.user_root(root).to_string();
        assert!(line.contains(&user), "{line}");
        let lines = text
            .lines()
            .filter(|line| line.trim_start().starts_with(&user));
        assert_eq!(lines.count(), 0);
    }
    // All words of a column begin at one place.
    let header = text
        .lines()
        .find(|line| line.contains("kernel half"))
        .unwrap();
    for word in ["kind", "kernel half"] {
        let column = column_of(header, word).unwrap();
        let blank = line(lacking).chars().nth(column - 1);
        assert_eq!(blank, Some(' '), "{word}: {text}");
        assert_ne!(
            line(lacking).chars().nth(column),
            Some(' '),
            "{word}: {text}"
        );
    }
    let clusters = text
        .split_once("clusters of equal kernel halves")
        .unwrap()
        .1;
    assert!(
        clusters.contains("\n  0: 3 entries, 5 roots: 5 user root"),
        "{clusters}"
    );
}

#[test]
fn a_cpu_on_a_user_root_stands_in_the_line_of_its_pair() {
    let mut guest = isolated();
    let user = guest.user_root(guest.processes[2]);
    guest.cpus[0].cr3 = Cr3::new(user.get());
    let text = shown(&Roots::new("raw:guest", &guest.discover()));
    let address = guest.processes[2].to_string();
    let line = text
        .lines()
        .find(|line| line.trim_start().starts_with(&address))
        .unwrap();
    assert!(line.contains("0 (user root)"), "{line}");
}

#[test]
fn a_sound_guests_check_ends_with_the_verdict() {
    for guest in Guest::all() {
        let discovery = guest.discover();
        let report = report(&discovery);
        let text = shown(&report);
        assert_tidy(&text);
        let last = text.lines().last().unwrap();
        let roots = discovery.spaces.len();
        let (hold, why) = if guest.plan.kpti {
            (19, ", 1 not tried: no self-map")
        } else {
            let why = ", 4 not tried: no user root: the kernel is not isolated, no pair of a \
                       kernel root and a user root, no self-map";
            (16, why)
        };
        assert!(
            last.starts_with(&format!(
                "HOLDS: {hold} of 20 rules hold{why}; in all {roots} live roots ("
            )),
            "{last}"
        );
        assert!(last.ends_with(" checks)."), "{last}");
        let full = Rules::new(&report.check.rules, "exceptions", let_pass).all();
        let full = full.to_string();
        assert_tidy(full.trim_end());
        assert_eq!(full.matches(" not tried ").count(), 20 - hold, "{full}");
        assert!(
            text.contains("3 × trampoline-identity-map")
                || text.contains("1 × trampoline-identity-map"),
            "{text}"
        );
        assert!(!text.contains("BROKEN"));
        // Names to the left, numbers to the right.
        let header = full
            .lines()
            .find(|line| line.contains("exceptions"))
            .unwrap();
        let end = column_of(header, "checks").unwrap() + "checks".len();
        for rule in Check::rules().filter(|rule| rule.name != "user-write-xor-execute") {
            let start = format!(" {} ", rule.name);
            let line = full.lines().find(|line| line.starts_with(&start)).unwrap();
            assert!(
                line.chars().nth(end - 1).unwrap().is_ascii_digit(),
                "{line}"
            );
            assert_eq!(line.chars().nth(end).unwrap_or(' '), ' ', "{line}");
        }
    }
}

#[test]
fn rules_with_which_nothing_is_and_those_that_were_not_tried_take_a_line_each() {
    let guest = Guest::new(Plan::new(Depth::Four, false));
    let discovery = guest.discover();
    let mut report = report(&discovery);
    let text = Rules::new(&report.check.rules, "exceptions", let_pass).to_string();
    let lines: Vec<&str> = text.lines().collect();
    let [header, rows @ .., hold, untried] = &lines[..] else {
        panic!("{text}")
    };
    assert!(header.contains("exceptions"), "{text}");
    assert!(rows.iter().all(|row| row.contains(" × ")), "{text}");
    let others = 16 - rows.len();
    assert_eq!(*hold, format!("{others} more rules hold; -v lists them"));
    assert_eq!(
        *untried,
        "not tried: user-root-minimal, user-half-nx, user-halves-mirrored, self-map-supervisor"
    );
    // With nothing to tell of any rule there is no table.
    report
        .check
        .rules
        .retain(|rule| rule.holds() && rule.exceptions.is_empty());
    let text = Rules::new(&report.check.rules, "exceptions", let_pass).to_string();
    assert_eq!(text, format!("{others} rules hold; -v lists them\n"));
}

#[test]
fn a_finding_says_where_what_was_expected_what_was_found_and_shows_the_walk() {
    let mut guest = Guest::new(Plan::new(Depth::Four, false));
    let va = guest.vmalloc();
    for page in [0, 1, 2, 5, 6, 0x200, 0x1234] {
        let va = va.wrapping_add(page * PAGE);
        guest.change(guest.init, va, Level::Pt, |entry| entry | Entry::USER);
    }
    let discovery = guest.discover();
    let text = shown(&report(&discovery));
    assert_tidy(&text);
    // Neighbours are one finding.
    let range = VirtRange::new(va, 3 * PAGE).unwrap();
    let table = guest.table(guest.init, va, Level::Pt);
    for words in [
        "\nkernel-not-user: no page of the kernel half is accessible to ring 3".to_owned(),
        format!(
            "\n  PT[0] in frame {table}, {range}, vmalloc, in all {} roots\n",
            discovery.spaces.len()
        ),
        "\n    expected  supervisor only\n".to_owned(),
        "\n    found     3 pages of 4 KiB, the first at ".to_owned(),
        format!(
            "\n    root {}: {va:#018x} from root {:#x}\n",
            guest.init, guest.init
        ),
        "\n  … and 1 more; --json has them all\n".to_owned(),
    ] {
        assert!(text.contains(&words), "{words}\n in\n{text}");
    }
    assert!(
        text.ends_with("BROKEN: 1 of 20 rules are broken: kernel-not-user."),
        "{text}"
    );
}

#[test]
fn a_translation_cuts_the_address_up() {
    for (depth, cut) in [
        (
            Depth::Four,
            "= PGD 170 · PDPT 341 · PD 170 · PT 344 · byte 0x123, user",
        ),
        (
            Depth::Five,
            "= PML5 0 · PML4 170 · PDPT 341 · PD 170 · PT 344 · byte 0x123, user",
        ),
    ] {
        let guest = Guest::new(Plan::new(depth, false));
        let discovery = guest.discover();
        let root = discovery.space_at(guest.processes[0]).unwrap().root;
        let va = USER_DATA.wrapping_add(0x123);
        let report = TranslateReport::new("raw:guest", &discovery, root, va);
        let text = shown(&report);
        assert_tidy(&text);
        assert!(text.contains(cut), "{text}");
        assert!(text.ends_with("4 KiB page, rw-u"), "{text}");
        // An address of neither half.
        let nowhere = VirtAddr::new(1 << 62);
        let text = shown(&TranslateReport::new(
            "raw:guest",
            &discovery,
            root,
            nowhere,
        ));
        assert!(text.contains("not canonical"), "{text}");
    }
}

#[test]
fn ranges_stand_under_their_headings() {
    let guest = Guest::new(Plan::new(Depth::Four, false));
    let discovery = guest.discover();
    let root = discovery.space_at(guest.processes[0]).unwrap().root;
    let lines: Vec<String> = discovery
        .snapshot
        .ranges(root, VirtRange::ALL)
        .map(|range| shown(&NamedRange::new(range, &discovery)))
        .collect();
    assert!(lines.len() > 20);
    for line in &lines {
        assert_tidy(line);
        for word in ["rights", "physical", "area", "pages"] {
            let column = column_of(HEADER, word).unwrap();
            let chars: Vec<char> = line.chars().collect();
            assert_eq!(chars[column - 1], ' ', "{word}: {line}");
            let is_unnamed = word == "area" && line.contains("             ");
            assert!(is_unnamed || chars[column] != ' ', "{word}: {line}");
        }
        let size = column_of(HEADER, "size").unwrap() + 3;
        assert_eq!(line.chars().nth(size), Some('K'), "{line}");
    }
    let jit = lines.iter().find(|line| line.contains("rwxu")).unwrap();
    assert!(
        jit.contains("user") && jit.ends_with("1 pages of 4 KiB"),
        "{jit}"
    );
}

#[test]
fn a_frame_is_told_with_what_it_is_and_who_reaches_it() {
    let guest = Guest::new(Plan::new(Depth::Four, false));
    let discovery = guest.discover();
    let told = |pa: PhysAddr| {
        let report = ReverseReport::new("raw:guest", &discovery, pa);
        let text = shown(&report);
        assert_tidy(&text);
        text
    };
    let text = told(guest.init);
    assert!(
        text.contains("0x1610000, frame 0x1610, a root, a PGD"),
        "{text}"
    );
    assert!(
        text.contains("rw--  2 MiB page  direct map      all 7 roots"),
        "{text}"
    );
    let text = told(IMAGE_TEXT.wrapping_add(0x42));
    assert!(
        text.contains("r-x-  2 MiB page  kernel image    all 7 roots"),
        "{text}"
    );
    let text = told(PhysAddr::new(1 << 39));
    assert!(
        text.contains("outside RAM") && text.contains("no virtual address reaches it"),
        "{text}"
    );
    // A page of a process alone.
    let space = discovery.space_at(guest.processes[1]).unwrap();
    let page = discovery.snapshot.translate(space.root, USER_DATA);
    let text = told(page.translation().unwrap().pa);
    assert!(
        text.contains(&format!("user            1 root: {}", guest.processes[1])),
        "{text}"
    );
}

#[test]
fn a_layout_is_a_table_without_blanks_at_the_ends() {
    let guest = Guest::new(Plan::new(Depth::Four, false));
    let text = shown(&LayoutReport::new("raw:guest", &guest.discover()));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        "raw:guest: 64 MiB of RAM, 4 levels of page tables"
    );
    let header = lines
        .iter()
        .position(|line| line.contains("evidence"))
        .unwrap();
    let column = lines[header].find("area").unwrap();
    for line in &lines {
        assert_eq!(line.trim_end(), *line);
    }
    let names = [
        "user",
        "direct map",
        "vmalloc",
        "vmemmap",
        "cpu entry area",
        "kernel image",
        "modules",
        "fixmap",
    ];
    for (line, name) in lines[header + 1..].iter().zip(names) {
        // The dash between addresses is three bytes and one column.
        assert!(line[column + 2..].starts_with(name), "{line}");
    }
    assert_eq!(lines.len(), header + 1 + names.len());
}
