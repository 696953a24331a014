//! Which kernel it is, and what is assumed of it for that.

use heirloom_inspect::check::{Check, Strictness};
use heirloom_inspect::discover::Search;
use heirloom_inspect::layout::Area;
use heirloom_inspect::profile::{AreaFile, MarkFile, PageFile, ProfileError, ProfileFile};
use heirloom_inspect::{Depth, Discovery, Entry, PageSize, PhysAddr, Profile, Target, VirtAddr};

use super::ram::{CODE, DATA, LARGE, PAGE, Ram, broken};

const CONSTANTS: Entry = Entry::new(1 << 63 | 0x21);
const IMAGE: u64 = 0xffff_ffff_8100_0000;
const MEMORY: u64 = 0xffff_9000_0000_0000;

/// A kernel with its image, of which the second 2 MiB are constants, and all memory in a line.
fn guest(depth: Depth, image: u64) -> (Ram, PhysAddr) {
    let mut ram = Ram::new(16, depth);
    let kernel = ram.root();
    for (page, flags) in [(2, CODE), (3, CONSTANTS), (4, DATA)] {
        let va = image + (page - 2) * LARGE;
        ram.map(kernel, va, page * LARGE, PageSize::Size2MiB, flags);
    }
    let memory = if depth == Depth::Four {
        MEMORY
    } else {
        0xff20_0000_0000_0000
    };
    for page in 0..8 {
        let flags = if page == 2 || page == 3 {
            CONSTANTS
        } else {
            DATA
        };
        let pa = page * LARGE;
        ram.map(kernel, memory + pa, pa, PageSize::Size2MiB, flags);
    }
    ram.run(kernel);
    (ram, kernel)
}

fn profile_of(ram: &Ram) -> (String, String) {
    let found = ram.discover().recognized;
    (found.name.to_string(), found.evidence)
}

#[test]
fn a_kernel_is_known_by_its_banner_where_the_banner_is() {
    for depth in [Depth::Four, Depth::Five] {
        for at in [3 * LARGE, 3 * LARGE + 0x12_3ff9, 4 * LARGE - 40] {
            let (mut ram, _) = guest(depth, IMAGE);
            ram.write(at, b"Linux version 6.9-mine (me@here)");
            let (name, evidence) = profile_of(&ram);
            assert_eq!(name, "linux", "{at:#x}");
            let va = format!("{:#x}", IMAGE + at - 2 * LARGE);
            assert!(
                evidence.contains("6.9-mine") && evidence.contains(&va),
                "{evidence}"
            );
        }
        let (mut ram, _) = guest(depth, IMAGE);
        ram.write(3 * LARGE, b"heirloom guest kernel 0.1.0");
        assert_eq!(profile_of(&ram).0, "heirloom");
    }
}

#[test]
fn what_a_dump_says_of_its_kernel_counts_where_memory_has_no_mark() {
    let (mut ram, _) = guest(Depth::Four, IMAGE);
    let says = format!(
        "{}6.9-mine; what it says of itself is used",
        Target::LINUX_SAYS
    );
    let recognized = |ram: &Ram| {
        let mut target = ram.target();
        target.notes.push(says.clone());
        let found = Discovery::of(&target).unwrap().recognized;
        (found.name.as_str(), found.evidence)
    };
    let by_dump = "Linux 6.9-mine by VMCOREINFO".to_owned();
    assert_eq!(recognized(&ram), ("linux", by_dump));
    ram.write(3 * LARGE, b"heirloom guest kernel 0.1.0");
    assert_eq!(recognized(&ram).0, "heirloom");
}

#[test]
fn what_is_no_banner_or_stands_elsewhere_tells_nothing() {
    let linux = b"Linux version 6.9";
    for (image, at, text) in [
        (IMAGE, 3 * LARGE, &b"Linux version %s"[..]),
        // Not in the kernel's image.
        (IMAGE, 6 * LARGE, linux),
        // No kernel is linked there by Linux.
        (0xffff_ffff_d000_0000, 3 * LARGE, linux),
        (IMAGE, 3 * LARGE, b""),
    ] {
        let (mut ram, _) = guest(Depth::Four, image);
        ram.write(at, text);
        let (name, evidence) = profile_of(&ram);
        assert_eq!(
            (name.as_str(), evidence.as_str()),
            ("generic", "no known kernel's marks")
        );
    }
}

#[test]
fn of_a_kernel_that_is_not_known_areas_have_neutral_names() {
    let (mut ram, kernel) = guest(Depth::Four, 0xffff_a000_0020_0000);
    ram.map(
        kernel,
        0xffff_fe00_0000_0000,
        0x60_0000,
        PageSize::Size4KiB,
        DATA,
    );
    for page in 0..4 {
        let pa = 0xfee0_0000 + page * PAGE;
        ram.map(
            kernel,
            0xffff_c000_0000_0000 + page * PAGE,
            pa,
            PageSize::Size4KiB,
            DATA,
        );
    }
    let discovery = ram.discover();
    let regions = discovery.layout.regions.iter();
    let found: Vec<(Area, &str)> = regions
        .map(|region| (region.area, region.name.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            (Area::User, "user"),
            (Area::DirectMap, "linear map of physical memory"),
            (Area::KernelImage, "kernel code"),
            (Area::Devices, "device window"),
            (Area::Kernel, "kernel memory"),
        ]
    );
    for region in &discovery.layout.regions {
        assert!(!region.evidence.contains("Linux"), "{region:?}");
    }
    assert_eq!(ram.broken(), []);
}

#[test]
fn what_linux_means_is_no_excuse_of_another_kernel() {
    let vsyscall = 0xffff_ffff_ff60_0000;
    let user = Entry::new(1 << 63 | 0x25);
    for (banner, expected) in [
        (&b"Linux version 6.9"[..], vec![]),
        (b"Another version 6.9", vec![("kernel-not-user", 1)]),
    ] {
        let (mut ram, kernel) = guest(Depth::Four, IMAGE);
        ram.write(3 * LARGE, banner);
        ram.map(kernel, vsyscall, 5 * LARGE, PageSize::Size4KiB, user);
        assert_eq!(ram.broken(), expected);
        let let_pass = ram.let_pass();
        assert_eq!(
            let_pass.contains(&("vsyscall-page", 1)),
            expected.is_empty()
        );
        // The condition: it is not writable.
        ram.map(
            kernel,
            vsyscall,
            5 * LARGE,
            PageSize::Size4KiB,
            DATA | Entry::USER,
        );
        assert_eq!(ram.broken(), [("kernel-not-user", 1)]);
    }
}

#[test]
fn the_users_word_counts_more_than_marks() {
    let (mut ram, _) = guest(Depth::Four, IMAGE);
    ram.write(3 * LARGE, b"Linux version 6.9");
    for name in ["generic", "xen", "heirloom", "linux"] {
        let search = Search {
            profile: Profile::named(name),
            ..Search::default()
        };
        let discovery = Discovery::by(&ram.target(), search).unwrap();
        assert_eq!(discovery.profile.name.as_str(), name);
        assert_eq!(discovery.recognized.evidence, "the user says so");
    }
    assert!(Profile::named("windows").is_none());
}

fn check_by(ram: &Ram, file: &ProfileFile) -> (Discovery, Check) {
    let search = Search {
        profile: Some(file.read().unwrap()),
        ..Search::default()
    };
    let discovery = Discovery::by(&ram.target(), search).unwrap();
    let check = Check::of(&discovery, Strictness::default());
    (discovery, check)
}

#[test]
fn a_file_names_areas_lets_pages_pass_and_says_what_is_private() {
    let (mut ram, kernel) = guest(Depth::Four, IMAGE);
    let shown = 0xffff_c100_0000_0000;
    let own = 0xffff_d000_0000_0000;
    let user = Entry::new(1 << 63 | 0x25);
    ram.map(kernel, shown, 5 * LARGE, PageSize::Size4KiB, user);
    let process = ram.root();
    ram.share(kernel, process, 256..512);
    ram.user(process, 0x40_0000, 6 * LARGE);
    ram.map(process, own, 7 * LARGE, PageSize::Size4KiB, DATA);
    assert_eq!(
        ram.broken(),
        [("kernel-mappings-equal", 1), ("kernel-not-user", 1)]
    );
    let area = |name: &str, range: &str| AreaFile {
        name: name.into(),
        range: range.into(),
        ..AreaFile::default()
    };
    let mut file = ProfileFile {
        name: "mine".into(),
        areas: vec![
            area("clock page", "0xffffc10000000000-0xffffc10000000fff"),
            AreaFile {
                private: true,
                ..area("stacks", "0xffffd00000000000-0xffffd07fffffffff")
            },
            AreaFile {
                is: Some("direct-map".into()),
                ..area("all memory", "0xffff900000000000-0xffff90ffffffffff")
            },
        ],
        pages: vec![PageFile {
            name: "clock".into(),
            rule: "kernel-not-user".into(),
            range: "0xffff_c100_0000_0000-0xffff_c100_0000_0fff".into(),
            rights: "r--u".into(),
            why: "ring 3 reads the time".into(),
        }],
        let_pass: vec!["private-area".into()],
        ..ProfileFile::default()
    };
    let (discovery, check) = check_by(&ram, &file);
    assert_eq!(broken(&check), []);
    let met: Vec<_> = check
        .rules
        .iter()
        .flat_map(|rule| &rule.exceptions)
        .collect();
    let clock = met
        .iter()
        .find(|met| met.exception.name == "clock")
        .unwrap();
    assert_eq!(
        (clock.count, &clock.addresses[..]),
        (1, &[VirtAddr::new(shown)][..])
    );
    let names: Vec<&str> = discovery
        .layout
        .regions
        .iter()
        .map(|region| region.name.as_str())
        .collect();
    assert!(
        names.contains(&"clock page") && names.contains(&"all memory"),
        "{names:?}"
    );
    // A page that allows more than is said is none of those.
    file.pages[0].rights = "r---".into();
    let (_, check) = check_by(&ram, &file);
    assert_eq!(broken(&check), [("kernel-not-user", 1)]);
}

#[test]
fn a_file_that_cannot_be_right_is_refused_with_what_is_wrong() {
    let good = || ProfileFile {
        name: "mine".into(),
        ..ProfileFile::default()
    };
    assert!(good().read().is_ok());
    let refused = |change: fn(&mut ProfileFile)| {
        let mut file = good();
        change(&mut file);
        file.read().unwrap_err()
    };
    assert_eq!(refused(|file| file.name = " ".into()), ProfileError::NoName);
    let error = refused(|file| file.like = Some("minix".into()));
    assert!(error.to_string().contains("minix"));
    assert_eq!(
        refused(|file| file.self_map_slots = vec![512]),
        ProfileError::Slot(512)
    );
    assert_eq!(
        refused(|file| file.self_map_slots = vec![1; 300]),
        ProfileError::TooMuch
    );
    assert_eq!(
        refused(|file| file.marks = vec![MarkFile::default()]),
        ProfileError::EmptyMark
    );
    let error = refused(|file| file.let_pass = vec!["vsyscall-pages".into()]);
    assert!(
        error.to_string().contains("nearest is `vsyscall-page`"),
        "{error}"
    );
    for range in [
        "",
        "0x1000",
        "0x2000-0x1000",
        "4096-8192",
        "0x1-0xfffffffffffffffff",
    ] {
        let mut file = good();
        file.kernel_half = Some(range.into());
        let error = file.read().unwrap_err();
        assert!(matches!(error, ProfileError::Range { .. }), "{range}");
    }
    let page = |rule: &str, rights: &str| {
        let mut file = good();
        file.pages = vec![PageFile {
            rule: rule.into(),
            rights: rights.into(),
            range: "0x0-0xfff".into(),
            ..PageFile::default()
        }];
        file.read().unwrap_err().to_string()
    };
    assert!(page("kernel-not-usr", "r--u").contains("nearest is `kernel-not-user`"));
    assert!(page("kernel-not-user", "wxyz").contains("r--u"));
}

#[test]
fn a_file_to_begin_with_can_be_read_again_and_names_what_was_found() {
    let (ram, _) = guest(Depth::Four, IMAGE);
    let discovery = ram.discover();
    let check = ram.check();
    let file = ProfileFile::of(&discovery, &check);
    assert_eq!(file.like.as_deref(), Some("generic"));
    let (again, check) = check_by(&ram, &file);
    assert_eq!(broken(&check), []);
    let ranges = |discovery: &Discovery| {
        let regions = discovery.layout.regions.iter();
        regions
            .map(|region| (region.name.to_string(), region.range))
            .collect::<Vec<_>>()
    };
    assert_eq!(ranges(&again), ranges(&discovery));
}

#[test]
fn a_rule_that_must_be_tried_and_is_not_is_told() {
    let (ram, _) = guest(Depth::Four, IMAGE);
    let mut check = ram.check();
    let rules = [
        "write-xor-execute",
        "user-half-nx",
        "user-write-xor-execute",
    ];
    let rules: Vec<_> = rules
        .iter()
        .map(|name| Check::rule(name).unwrap())
        .collect();
    check.require(&rules);
    let missing: Vec<_> = check
        .required_not_tried
        .iter()
        .map(|rule| rule.rule)
        .collect();
    assert_eq!(missing, ["user-half-nx", "user-write-xor-execute"]);
    let error = Check::rule("user-half-xn").unwrap_err();
    assert_eq!(error.nearest, "user-half-nx");
}
