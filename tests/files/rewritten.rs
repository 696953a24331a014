//! The guest's memory in formats that other tools write, written here from their documentation.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use crate::answers::{Answers, named, notes, run};
use crate::guest::Stopped;
use crate::vmcore;

fn write(stopped: &Stopped, name: &str, parts: &[&[u8]]) -> PathBuf {
    let path = stopped.path(name);
    let mut file = File::create(&path).unwrap();
    for part in parts {
        file.write_all(part).unwrap();
    }
    path
}

/// LiME's header, which is AVML's as well.
fn header(magic: [u8; 4], version: u32, first: u64, bytes: u64) -> Vec<u8> {
    let words = [first, first + bytes - 1, 0];
    let words = words.into_iter().flat_map(u64::to_le_bytes);
    magic
        .into_iter()
        .chain(version.to_le_bytes())
        .chain(words)
        .collect()
}

/// What is asked of an image without registers: on the CR3 that the guest had.
fn answers(stopped: &Stopped, target: &str) -> Answers {
    Answers::of(&format!("{target},cr3={:#x}", stopped.cr3()))
}

#[test]
fn images_of_lime_avml_and_padded_ones_answer_as_each_other_and_hold() {
    let stopped = Stopped::get();
    let memory = stopped.memory();
    let raw = write(stopped, "raw", &[memory]);
    let of_raw = answers(stopped, &named(&raw));
    assert!(of_raw.count() >= 100);
    assert_eq!(of_raw.count(), stopped.answers.count());

    // LiME leaves out what is no RAM for the guest: 640 KiB to 1 MiB.
    let (low, high) = (&memory[..640 << 10], &memory[1 << 20..]);
    let lime = write(
        stopped,
        "lime",
        &[
            &header(*b"EMiL", 1, 0, low.len() as u64),
            low,
            &header(*b"EMiL", 1, 1 << 20, high.len() as u64),
            high,
        ],
    );
    let of_lime = answers(stopped, &named(&lime));
    assert_eq!(of_lime.spaces(), of_raw.spaces());
    assert_eq!(of_lime.translations(), of_raw.translations());

    std::fs::remove_file(raw).unwrap();
    std::fs::remove_file(lime).unwrap();

    // AVML writes blocks of 16 MiB.
    let mut parts: Vec<Vec<u8>> = Vec::new();
    for (number, block) in memory.chunks(16 << 20).enumerate() {
        parts.push(header(
            *b"AVML",
            2,
            (number as u64) << 24,
            block.len() as u64,
        ));
        let mut frame = snap::write::FrameEncoder::new(Vec::new());
        frame.write_all(block).unwrap();
        let frame = frame.into_inner().unwrap();
        let length = frame.len() as u64;
        parts.push(frame);
        parts.push(length.to_le_bytes().to_vec());
    }
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    let avml = write(stopped, "avml", &parts);
    let of_avml = answers(stopped, &named(&avml));
    assert_eq!(of_avml.spaces(), of_raw.spaces());
    assert_eq!(of_avml.translations(), of_raw.translations());
    assert!(
        notes(&named(&avml))
            .iter()
            .any(|note| note.contains("AVML image"))
    );
}

#[test]
fn an_image_of_what_the_kernel_lists_as_ram_holds_and_zeros_behind_it_are_none() {
    let stopped = Stopped::get();
    let memory = stopped.memory();
    // The first page and what firmware keeps below 640 KiB are in no image, and the kernel maps them.
    assert!(stopped.system_ram[0].start > 0, "{:?}", stopped.system_ram);
    let mut parts = Vec::new();
    for range in &stopped.system_ram {
        let (first, bytes) = (range.start as u64, range.len() as u64);
        parts.push(header(*b"EMiL", 1, first, bytes));
        parts.push(memory[range.clone()].to_vec());
    }
    parts.push(vec![0; 12_345]);
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    let lime = write(stopped, "lime-iomem", &[&parts.concat()]);
    let of_lime = answers(stopped, &named(&lime));
    assert_eq!(of_lime.count(), stopped.answers.count());
    let said = notes(&named(&lime)).join("\n");
    assert!(said.contains("12345 bytes of zeros"), "{said}");
    std::fs::remove_file(lime).unwrap();
}

#[test]
fn an_elf_core_behind_raw_is_not_judged_as_garbage() {
    let stopped = Stopped::get();
    let run = crate::common::heirloom(&["check", &format!("raw:{}", named(&stopped.core))]);
    assert_eq!(run.code, Some(2), "{}", run.stdout);
    assert!(
        run.stderr.contains("is an ELF file, not an image of RAM"),
        "{}",
        run.stderr
    );
}

#[test]
fn a_cut_core_breaks_no_rule() {
    let stopped = Stopped::get();
    let copy = stopped.path("cut");
    std::fs::copy(&stopped.core, &copy).unwrap();
    let file = File::options().write(true).open(&copy).unwrap();
    let length = file.metadata().unwrap().len();
    // The kernel allocates from the top down: tables of many processes are gone.
    for eighths in [7, 6] {
        file.set_len(length / 8 * eighths).unwrap();
        let (code, report) = run(&["check", &named(&copy)]);
        // Where the table that the CPU ran on is gone, nothing can be concluded.
        assert!(matches!(code, Some(0 | 2)), "{eighths}: {code:?} {report}");
        assert_eq!(report["holds"], true);
        let text = report["notes"].to_string();
        assert!(text.contains("is cut off"), "{text}");
        let tables = report["rules"].as_array().unwrap().iter();
        let unknown: u64 = tables.filter_map(|rule| rule["unknown"].as_u64()).sum();
        assert!(
            unknown > 0 && text.contains("that the file does not have"),
            "{report}"
        );
    }
    std::fs::remove_file(copy).unwrap();
}

#[test]
fn an_image_that_ends_before_the_machines_ram_did_breaks_no_rule_as_the_kernel_lists_what_it_lacks()
{
    let stopped = Stopped::get();
    let memory = stopped.memory();
    let whole = memory.len();
    let lacks = 16 << 20;
    for (name, length, says) in [
        ("image", whole, "and the file has all of it"),
        ("short", whole - lacks, "of which the file lacks 16"),
    ] {
        let image = write(stopped, name, &[&memory[..length]]);
        let target = format!("{},cr3={:#x}", named(&image), stopped.cr3());
        let (code, report) = run(&["check", &target]);
        assert!(matches!(code, Some(0 | 2)), "{name}: {code:?} {report}");
        assert_eq!(report["holds"], true, "{name}");
        let text = report["notes"].to_string();
        let by = "by the guest kernel's own word (";
        assert!(text.contains(by) && text.contains(says), "{text}");
        std::fs::remove_file(image).unwrap();
    }
}

#[test]
fn a_vmcore_without_the_memory_of_the_kernel_that_dumped_it_holds() {
    let stopped = Stopped::get();
    let (hole, end) = (stopped.crash_kernel.clone(), stopped.memory().len());
    assert!(hole.len() == 64 << 20 && hole.end < end, "{hole:?}");
    let vmcore = vmcore::write(
        stopped,
        "dumped",
        false,
        &[0x1000..640 << 10, 1 << 20..hole.start, hole.end..end],
    );
    let target = named(&vmcore);
    let answers = Answers::of(&target);
    assert_eq!(answers.count(), stopped.answers.count());
    assert_eq!(answers.translations(), stopped.answers.translations());
    let said = notes(&target).join("\n");
    assert!(
        said.contains("crashkernel=") && said.contains("no CPU registers"),
        "{said}"
    );
    let listed =
        "own word (iomem_resource) it has 511 MiB of RAM, of which the file lacks 65536 KiB";
    assert!(said.contains(listed), "{said}");
    std::fs::remove_file(vmcore).unwrap();
}
