//! What distributions' kdump has: a kernel crashes, another that it has loaded takes its place in memory that was set aside,
//! and reads the first one's memory as `/proc/vmcore`.

use std::fs::File;
use std::path::Path;

use serde_json::Value;

use crate::answers::{Answers, named, notes};
use crate::common::linux::{Guest, Variant, artifacts, initramfs};
use crate::makedumpfile::makedumpfile;

const GUEST: Variant = Variant {
    name: "kexec",
    words: "crashkernel=96M",
    ..Variant::PTI_ON
};
/// Nobody boots in less with so much set aside.
const MEMORY: &str = "320M";
/// Frames below this are not in `/proc/vmcore`: Linux gives them to the kernel that dumps.
const FIRST: u64 = 1 << 20;

/// The address spaces above the first MiB, without what only CPUs' registers tell.
fn spaces(answers: &Answers) -> Vec<Value> {
    let mut spaces = answers.spaces().as_array().unwrap().clone();
    spaces.retain(|space| {
        let address = space["address"].as_str().unwrap();
        u64::from_str_radix(address.trim_start_matches("0x"), 16).unwrap() >= FIRST
    });
    for space in &mut spaces {
        for field in ["cpus", "label", "evidence"] {
            space.as_object_mut().unwrap().remove(field);
        }
    }
    numbered(spaces)
}

/// The same with clusters numbered as they come: which of two is the larger, a single root may decide that has come or
/// gone.
fn numbered(mut spaces: Vec<Value>) -> Vec<Value> {
    let mut known: Vec<Value> = Vec::new();
    for space in &mut spaces {
        let cluster = &mut space["cluster"];
        if !known.contains(cluster) {
            known.push(cluster.clone());
        }
        let number = known.iter().position(|known| known == cluster);
        *cluster = number.unwrap().into();
    }
    spaces
}

/// Those that are not freed, which a dump without free pages does not have: no task has them, and they have no user half.
fn in_use(mut spaces: Vec<Value>) -> Vec<Value> {
    let idle: Vec<Value> = spaces
        .iter()
        .filter(|space| space["kind"] == "idle")
        .flat_map(|space| [space["address"].clone(), space["partner"].clone()])
        .collect();
    spaces.retain(|space| !idle.contains(&space["address"]));
    numbered(spaces)
}

/// Boots, and has the guest crash: what a core of just before answers, and how long `/proc/vmcore` is, which is on `disk`.
fn crash(folder: &Path, disk: &Path) -> (Answers, u64) {
    File::create(disk).unwrap().set_len(1 << 30).unwrap();
    let drive = format!("file={},if=none,id=disk,format=raw", named(disk));
    let options = [
        "-m",
        MEMORY,
        "-drive",
        &drive,
        "-device",
        "nvme,drive=disk,serial=1",
    ];
    let second = initramfs::small(include_bytes!("kexec.sh"));
    let kernel = std::fs::read(artifacts::kernel()).unwrap();
    let files = [("crash/vmlinuz", kernel), ("crash/initrd", second)];
    let files = files.map(|(name, bytes)| (name.to_owned(), bytes));
    let guest = Guest::boot_with_files(GUEST, &options, &files);
    guest.tell("ln -s workload /bin/crash-kernel; crash-kernel");
    let loaded = guest.answer("cat /sys/kernel/kexec_crash_loaded");
    assert!(loaded.lines().any(|line| line == "1"), "{loaded}");

    let core = folder.join("core");
    let mut qmp = guest.qmp();
    qmp.stop();
    qmp.dump(&core, false);
    qmp.resume();
    let said = guest.answer("echo c > /proc/sysrq-trigger");
    let (_, rest) = said
        .split_once("== vmcore of ")
        .unwrap_or_else(|| panic!("no second kernel came up: {said}"));
    let bytes = rest.split_whitespace().next().unwrap().parse().unwrap();
    (Answers::of(&named(&core)), bytes)
}

#[test]
fn the_vmcore_of_a_crashed_kernel_answers_as_the_guest_did_before_and_so_do_makedumpfiles_dumps_of_it()
 {
    let folder = tempfile::tempdir().unwrap();
    let vmcore = folder.path().join("vmcore");
    let (before, bytes) = crash(folder.path(), &vmcore);
    let disk = File::options().write(true).open(&vmcore).unwrap();
    disk.set_len(bytes).unwrap();

    let packed = folder.path().join("packed");
    makedumpfile(&["-c", "-d", "31", &named(&vmcore), &named(&packed)]);
    for (file, has_free_pages) in [(vmcore, true), (packed, false)] {
        let target = named(&file);
        let after = Answers::of(&target);
        if has_free_pages {
            assert_eq!(spaces(&after), spaces(&before), "{target}");
        } else {
            assert_eq!(in_use(spaces(&after)), in_use(spaces(&before)), "{target}");
        }
        assert!(in_use(spaces(&after)).len() > 100);
        assert_eq!(after.maps()["ranges"], before.maps()["ranges"], "{target}");
        assert_eq!(after.translations(), before.translations(), "{target}");
        let said = notes(&target).join("\n");
        for words in ["(crashkernel=)", "by VMCOREINFO the guest runs Linux"] {
            assert!(said.contains(words), "{said}");
        }
    }
}
