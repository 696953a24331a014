//! Guests and kernel files that would cost the host time.

use std::time::Duration;

use heirloom_abi::event::{Boot, Done, MAGIC, Payload, ProbePage, ProcessCreated, VERSION};
use zerocopy::{FromBytes, IntoBytes};

use crate::file;
use crate::running::Running;
use crate::tiny::{Elf, HALT, SPIN, code, print};

#[test]
fn on_kvm_a_guest_that_halts_with_interrupts_off_is_noticed_and_not_waited_for() {
    let (_folder, kernel) = file(
        "kernel",
        &Elf::new(&code(&[&print(b"bye\n"), HALT])).bytes(),
    );
    // The limit is longer than the test would wait.
    let arguments = [
        "run",
        "--timeout",
        "3600",
        "--kernel",
        kernel.to_str().unwrap(),
    ];
    let ended = Running::start(&arguments).ends_within(Duration::from_secs(5));
    assert_eq!(ended.code, Some(4), "{}", ended.said());
    let said = ended.said();
    assert!(said.contains("halted with interrupts off"), "{said}");
    assert_eq!(ended.stdout, b"bye\n");
}

/// Bytes that each segment has in the file, and all have the same.
const SEGMENT_BYTES: usize = 256 << 10;

/// A kernel of this many segments, each of which is loaded over the one before.
fn kernel_of_segments(segments: u16) -> Vec<u8> {
    let sound = Elf::new(SPIN).bytes();
    let mut file = sound[..64].to_vec();
    file[56..58].copy_from_slice(&(segments + 1).to_le_bytes());
    let headers = 64 + 56 * (usize::from(segments) + 1);
    let mut put = |first: [u32; 2], words: [u64; 6]| {
        file.extend(first.into_iter().flat_map(u32::to_le_bytes));
        file.extend(words.into_iter().flat_map(u64::to_le_bytes));
    };
    let (contents, bytes) = (headers as u64, SEGMENT_BYTES as u64);
    // PT_LOAD, R + X: offset, virtual and physical address, bytes in the file and in memory, alignment.
    for _ in 0..segments {
        put([1, 5], [contents, 0x10_0000, 0x10_0000, bytes, bytes, 1]);
    }
    // PT_NOTE, R: the PVH entry.
    put([4, 4], [contents + bytes, 0, 0, 20, 20, 4]);
    file.extend(SPIN);
    file.resize(headers + SEGMENT_BYTES, 0x90);
    // namesz, descsz, type, name, desc.
    file.extend([4_u32, 4, 18].into_iter().flat_map(u32::to_le_bytes));
    file.extend(b"Xen\0");
    file.extend(0x10_0000_u32.to_le_bytes());
    file
}

#[test]
fn on_kvm_an_elf_with_60000_segments_is_loaded_or_refused_within_the_time_limit() {
    let (_folder, kernel) = file("kernel", &kernel_of_segments(60_000));
    let arguments = [
        "run",
        "--memory",
        "512M",
        "--timeout",
        "1",
        "--kernel",
        kernel.to_str().unwrap(),
    ];
    let ended = Running::start(&arguments).ends_within(Duration::from_secs(2));
    assert!(
        matches!(ended.code, Some(2 | 4)),
        "{:?}: {}",
        ended.code,
        ended.said()
    );
    assert!(ended.said().contains("60000 segments"), "{}", ended.said());
}

#[test]
fn on_kvm_segments_that_lie_over_each_other_are_not_copied_for_ever() {
    // 1024 times 256 KiB, where there are 128 MiB.
    let (_folder, kernel) = file("kernel", &kernel_of_segments(1024));
    let ended = Running::start(&["run", "--kernel", kernel.to_str().unwrap()]);
    let ended = ended.ends_within(Duration::from_secs(1));
    assert_eq!(ended.code, Some(2), "{}", ended.said());
    assert!(ended.said().contains("over each other"), "{}", ended.said());
}

#[test]
fn on_kvm_a_kernel_of_many_segments_that_can_be_is_loaded() {
    let (_folder, kernel) = file("kernel", &kernel_of_segments(100));
    let arguments = [
        "run",
        "--timeout",
        "1",
        "--kernel",
        kernel.to_str().unwrap(),
    ];
    let ended = Running::start(&arguments).ends_within(Duration::from_secs(3));
    assert_eq!(ended.code, Some(4), "{}", ended.said());
    assert!(ended.said().contains("--timeout"), "{}", ended.said());
}

/// Where the tiny kernels are loaded.
const LOADED_AT: u64 = 0x10_0000;
/// P, R/W.
const POINTER: u64 = 3;

/// A kernel that tells of `processes` processes, whose tables are as no kernel has them: the kernel half of each
/// root is full, and so is each of `tables` tables, with all the others.
fn table_bomb(processes: u64, tables: u64) -> Vec<u8> {
    let strategies = heirloom_abi::options::Strategy::ALL;
    let strategy = strategies
        .iter()
        .position(|strategy| strategy.name() == "copy-all");
    // Pages: code; two tables that map the first GiB as it is; tables; roots; events.
    let page = |number: u64| LOADED_AT + number * 4096;
    let (first_table, first_root) = (3, 3 + tables);
    let first_event = first_root + 1 + processes;
    let root = |process: u64| page(first_root + process);
    let table_of = |entry: &dyn Fn(u64) -> u64| -> Vec<u8> {
        (0..512).map(entry).flat_map(u64::to_le_bytes).collect()
    };
    let mut events = vec![event(&Boot {
        root: root(0),
        vmalloc_start: 0xffff_c900_0000_0000,
        strategy: strategy.unwrap() as u64,
        machine: 0,
        // It keeps none.
        flush_log: 0,
    })];
    for pid in 1..=processes {
        events.push(event(&ProcessCreated {
            pid,
            parent: pid - 1,
            root: root(pid),
        }));
    }
    events.push(event(&Done { status: 0 }));
    // mov eax, CR4.PAE; mov cr4, eax; mov eax, ROOT; mov cr3, eax; mov ecx, EFER; xor edx, edx; mov eax, LME;
    // wrmsr; mov eax, CR0.PG + ET + PE; mov cr0, eax
    let mut code = vec![0xb8, 0x20, 0, 0, 0, 0x0f, 0x22, 0xe0, 0xb8];
    code.extend(u32::try_from(root(0)).unwrap().to_le_bytes());
    code.extend([0x0f, 0x22, 0xd8, 0xb9, 0x80, 0, 0, 0xc0, 0x31, 0xd2]);
    code.extend([0xb8, 0, 1, 0, 0, 0x0f, 0x30]);
    code.extend([0xb8, 0x11, 0, 0, 0x80, 0x0f, 0x22, 0xc0]);
    for number in 0..events.len() as u64 {
        // mov eax, FRAME; mov dx, DOORBELL; out dx, eax
        code.push(0xb8);
        let frame = page(first_event + number) / 4096;
        code.extend(u32::try_from(frame).unwrap().to_le_bytes());
        code.extend([0x66, 0xba]);
        code.extend(heirloom_abi::event::DOORBELL_PORT.to_le_bytes());
        code.push(0xef);
    }
    code.extend(HALT);
    code.resize(4096 * code.len().div_ceil(4096), 0x90);
    assert_eq!(code.len(), 4096, "the code is one page");
    code.extend(table_of(&|index| {
        if index == 0 { page(2) | POINTER } else { 0 }
    }));
    code.extend(table_of(&|index| (index << 21) | 0x83));
    for table in 0..tables {
        code.extend(table_of(&|index| {
            page(first_table + (table * 7 + index) % tables) | POINTER
        }));
    }
    for process in 0..=processes {
        code.extend(table_of(&|index| match index {
            0 => page(1) | POINTER,
            256.. => page(first_table + (process + index) % tables) | POINTER,
            _ => 0,
        }));
    }
    code.extend(events.into_iter().flatten());
    Elf::new(&code).bytes()
}

/// A probe page.
fn event<P: Payload>(payload: &P) -> Vec<u8> {
    let mut page = ProbePage::read_from_bytes(&[0; 4096]).unwrap();
    page.header.magic = MAGIC;
    page.header.version = VERSION;
    page.set(payload, 0);
    page.as_bytes().to_vec()
}

#[test]
fn on_kvm_tables_that_are_full_of_each_other_are_judged_and_shown_within_the_time_limit_and_a_second()
 {
    for (processes, tables) in [(1, 3), (12, 512), (300, 64)] {
        let (_folder, kernel) = file("kernel", &table_bomb(processes, tables));
        for more in [&[][..], &["--json"]] {
            let arguments = [
                &[
                    "run",
                    "--propagation",
                    "copy-all",
                    "--timeout",
                    "3",
                    "--kernel",
                ][..],
                &[kernel.to_str().unwrap()],
                more,
            ];
            let ended = Running::start(&arguments.concat()).ends_within(Duration::from_secs(4));
            let shown = String::from_utf8_lossy(&ended.stdout).into_owned();
            let what = format!("{processes}: {:?}: {}\n{shown}", ended.code, ended.said());
            assert!(matches!(ended.code, Some(1 | 4)), "{what}");
            assert!(!shown.contains("HOLDS:"), "{what}");
            assert!(
                shown.contains("not-tried") || shown.contains("not tried"),
                "{what}"
            );
        }
    }
}
