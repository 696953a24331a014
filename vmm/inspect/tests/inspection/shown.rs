//! Reports, as people and as programs read them.

use heirloom_inspect::check::{Check, Strictness};
use heirloom_inspect::difference::Difference;
use heirloom_inspect::show::{
    CheckReport, DifferenceReport, LayoutReport, NamedRange, ReverseReport, Roots, TranslateReport,
};
use heirloom_inspect::{Depth, Discovery, Entry, Level, PhysAddr, VirtAddr, VirtRange};
use serde_json::Value;

use crate::scene::{Guest, IMAGE_TEXT, PAGE, Plan, USER_DATA, bits};

/// Columns as a terminal counts them: `–` and `×` are one.
fn column_of(line: &str, word: &str) -> Option<usize> {
    let at = line.find(word)?;
    Some(line[..at].chars().count())
}

fn isolated() -> Guest {
    Guest::new(Plan::new(Depth::Four, true))
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
    let text = Roots::new("raw:guest", &guest.discover()).to_string();
    assert_tidy(&text);
    let line = |root: PhysAddr| {
        let shown = root.to_string();
        let line = text
            .lines()
            .find(|line| line.trim_start().starts_with(&shown));
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
    for word in ["kind", "kernel half", "why"] {
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
    guest.cpus[0].cr3 = heirloom_inspect::Cr3::new(user.get());
    let text = Roots::new("raw:guest", &guest.discover()).to_string();
    let shown = guest.processes[2].to_string();
    let line = text
        .lines()
        .find(|line| line.trim_start().starts_with(&shown))
        .unwrap();
    assert!(line.contains("0 (user root)"), "{line}");
}

#[test]
fn a_sound_guests_check_ends_with_the_verdict() {
    for guest in Guest::all() {
        let discovery = guest.discover();
        let text = report(&discovery).to_string();
        assert_tidy(&text);
        let last = text.lines().last().unwrap();
        let roots = discovery.spaces.len();
        let (hold, why) = if guest.plan.kpti {
            (19, "; 1 not tried: no self-map.")
        } else {
            let why = "; 4 not tried: no user root: the kernel is not isolated, no pair of a \
                       kernel root and a user root, no self-map.";
            (16, why)
        };
        assert!(
            last.starts_with(&format!(
                "HOLDS: {hold} of 20 rules hold in all {roots} live roots ("
            )),
            "{last}"
        );
        assert!(last.ends_with(why), "{last}");
        assert_eq!(text.matches(" not tried ").count(), 20 - hold, "{text}");
        assert!(
            text.contains("3 × trampoline-identity-map")
                || text.contains("1 × trampoline-identity-map"),
            "{text}"
        );
        assert!(!text.contains("BROKEN"));
        // Names to the left, numbers to the right.
        let header = text
            .lines()
            .find(|line| line.contains("let pass by name"))
            .unwrap();
        let end = column_of(header, "checks").unwrap() + "checks".len();
        for rule in Check::rules().filter(|rule| rule.name != "user-write-xor-execute") {
            let start = format!(" {} ", rule.name);
            let line = text.lines().find(|line| line.starts_with(&start)).unwrap();
            assert!(
                line.chars().nth(end - 1).unwrap().is_ascii_digit(),
                "{line}"
            );
            assert_eq!(line.chars().nth(end).unwrap_or(' '), ' ', "{line}");
        }
    }
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
    let text = report(&discovery).to_string();
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
    let json = serde_json::to_value(report(&discovery)).unwrap();
    assert_eq!(json["holds"], false);
    let rules = json["rules"].as_array().unwrap();
    let rule = rules
        .iter()
        .find(|rule| rule["rule"]["name"] == "kernel-not-user")
        .unwrap();
    assert_eq!(rule["violations"], 7);
    assert_eq!(rule["verdict"], "broken");
    assert_eq!(rule["findings"].as_array().unwrap().len(), 4);
    let finding = &rule["findings"][0];
    assert_eq!(finding["place"], "PT[0]");
    assert_eq!(finding["entry"]["level"], "PT");
    assert_eq!(finding["entry"]["table"], table.to_string());
    assert_eq!(finding["range"]["first"], va.to_string());
    assert_eq!(finding["area"], "vmalloc");
    assert_eq!(finding["spaces"]["count"], discovery.spaces.len());
    let (_, walk) = (&finding["walks"][0][0], &finding["walks"][0][1]);
    assert_eq!(walk["steps"].as_array().unwrap().len(), 4);
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
        let text = report.to_string();
        assert_tidy(&text);
        assert!(text.contains(cut), "{text}");
        assert!(text.ends_with("4 KiB page, rw-u"), "{text}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["offset"], 0x123);
        assert_eq!(
            json["indices"].as_array().unwrap().len(),
            usize::try_from(depth.levels()).unwrap()
        );
        assert!(
            json["walk"]["translation"]["pa"]
                .as_str()
                .unwrap()
                .ends_with("123")
        );
        // An address of neither half.
        let nowhere = VirtAddr::new(1 << 62);
        let text = TranslateReport::new("raw:guest", &discovery, root, nowhere).to_string();
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
        .map(|range| NamedRange::new(range, &discovery).to_string())
        .collect();
    assert!(lines.len() > 20);
    for line in &lines {
        assert_tidy(line);
        for word in ["rights", "physical", "area", "pages"] {
            let column = column_of(NamedRange::HEADER, word).unwrap();
            let chars: Vec<char> = line.chars().collect();
            assert_eq!(chars[column - 1], ' ', "{word}: {line}");
            let is_unnamed = word == "area" && line.contains("             ");
            assert!(is_unnamed || chars[column] != ' ', "{word}: {line}");
        }
        let size = column_of(NamedRange::HEADER, "size").unwrap() + 3;
        assert_eq!(line.chars().nth(size), Some('K'), "{line}");
    }
    let jit = lines.iter().find(|line| line.contains("rwxu")).unwrap();
    assert!(
        jit.contains("user") && jit.ends_with("1 pages of 4 KiB"),
        "{jit}"
    );
    let range = discovery
        .snapshot
        .ranges(root, VirtRange::ALL)
        .next()
        .unwrap();
    let json = serde_json::to_value(NamedRange::new(range, &discovery)).unwrap();
    for field in ["range", "pa", "rights", "pages", "area"] {
        assert!(json.get(field).is_some(), "{json}");
    }
}

#[test]
fn a_frame_is_told_with_what_it_is_and_who_reaches_it() {
    let guest = Guest::new(Plan::new(Depth::Four, false));
    let discovery = guest.discover();
    let told = |pa: PhysAddr| {
        let report = ReverseReport::new("raw:guest", &discovery, pa);
        let text = report.to_string();
        assert_tidy(&text);
        (text, serde_json::to_value(&report).unwrap())
    };
    let (text, json) = told(guest.init);
    assert!(
        text.contains("0x1610000, frame 0x1610, a root, a PGD"),
        "{text}"
    );
    assert!(
        text.contains("rw--  2 MiB page  direct map      all 7 roots"),
        "{text}"
    );
    assert_eq!(json["is_root"], true);
    assert_eq!(json["tables"][0]["level"], "PML4");
    let (text, json) = told(IMAGE_TEXT.wrapping_add(0x42));
    assert!(
        text.contains("r-x-  2 MiB page  kernel image    all 7 roots"),
        "{text}"
    );
    assert_eq!(json["in_ram"], true);
    assert_eq!(json["reached"].as_array().unwrap().len(), 3);
    assert_eq!(json["is_cut"], false);
    let (text, json) = told(PhysAddr::new(1 << 39));
    assert!(
        text.contains("outside RAM") && text.contains("no virtual address reaches it"),
        "{text}"
    );
    assert_eq!(json["in_ram"], false);
    // A page of a process alone.
    let space = discovery.space_at(guest.processes[1]).unwrap();
    let page = discovery.snapshot.translate(space.root, USER_DATA);
    let (text, _) = told(page.translation().unwrap().pa);
    assert!(
        text.contains(&format!("user            1 root: {}", guest.processes[1])),
        "{text}"
    );
}

#[test]
fn json_has_the_same_head_everywhere() {
    let guest = isolated();
    let discovery = guest.discover();
    let root = discovery.reference.unwrap();
    let named = ("raw:guest", &discovery);
    let difference = Difference::between(&discovery, &discovery).unwrap();
    let reports: Vec<Value> = [
        serde_json::to_value(Roots::new("raw:guest", &discovery)),
        serde_json::to_value(report(&discovery)),
        serde_json::to_value(LayoutReport::new("raw:guest", &discovery)),
        serde_json::to_value(ReverseReport::new("raw:guest", &discovery, IMAGE_TEXT)),
        serde_json::to_value(TranslateReport::new(
            "raw:guest",
            &discovery,
            root,
            USER_DATA,
        )),
        serde_json::to_value(DifferenceReport::new(named, named, difference)),
    ]
    .into_iter()
    .map(Result::unwrap)
    .collect();
    for report in reports {
        assert_eq!(report["version"], 1);
        let target = report.get("target").or(report.get("before")).unwrap();
        assert_eq!(target["name"], "raw:guest");
        assert_eq!(target["mode"]["depth"], "four");
        assert_eq!(target["basis"], "cr3");
        // Numbers beyond 2^53 are strings, and come back as they were.
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), report);
    }
    let roots = serde_json::to_value(Roots::new("raw:guest", &discovery)).unwrap();
    assert_eq!(
        roots["roots"].as_array().unwrap().len(),
        discovery.spaces.len()
    );
    assert_eq!(roots["kinds"]["process"], 4);
    assert_eq!(roots["kinds"]["user-root"], 6);
    let process = roots["roots"]
        .as_array()
        .unwrap()
        .iter()
        .find(|root| root["kind"] == "process")
        .unwrap();
    for field in [
        "address",
        "label",
        "evidence",
        "partner",
        "cpus",
        "cluster",
        "user_pages",
        "differences",
    ] {
        assert!(process.get(field).is_some(), "{process}");
    }
}
