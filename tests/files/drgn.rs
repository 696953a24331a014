//! drgn walks a kernel's page tables by itself, with code that shares nothing with ours. It is a Python package: where
//! neither it nor PyPI is there, the test says so and tries nothing.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use heirloom_inspect::{Discovery, Mapping, VirtAddr, VirtRange};
use heirloom_source::Spec;

use crate::answers::named;
use crate::guest::Stopped;
use crate::{makedumpfile, vmcore};

/// Of each dump.
const TRANSLATIONS: usize = 1000;
/// Bytes that are read at each address.
const BYTES: usize = 32;
/// Reads what stands at each address of a list, or faults where a `-` stands.
const SCRIPT: &str = r"
import sys, drgn
program = drgn.Program()
program.set_core_dump(sys.argv[1])
lines = 0
for line in open(sys.argv[2]):
    address, expected = line.split()
    try:
        found = program.read(int(address, 16), int(sys.argv[3])).hex()
    except drgn.FaultError:
        found = '-'
    if found != expected:
        sys.exit(f'{address}: drgn reads {found}, and not {expected}')
    lines += 1
print(lines)
";

/// Where Python finds drgn: installed already, or from PyPI.
///
/// # Errors
/// Why there is none.
fn drgn() -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("drgn");
    let python = |arguments: &[&str]| {
        let ran = Command::new("timeout")
            .args(["120", "python3"])
            .args(arguments)
            .env("PYTHONPATH", &folder)
            .output();
        match ran {
            Ok(ran) if ran.status.success() => Ok(()),
            Ok(ran) => Err(String::from_utf8_lossy(&ran.stderr).into_owned()),
            Err(error) => Err(format!("python3: {error}")),
        }
    };
    if python(&["-c", "import drgn"]).is_err() {
        let place = named(&folder);
        python(&[
            "-m", "pip", "install", "--quiet", "--target", &place, "drgn",
        ])?;
        python(&["-c", "import drgn"])?;
    }
    Ok(folder)
}

/// Numbers by chance, the same on every run (xorshift, Marsaglia 2003).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % end
    }
}

/// As Python's `bytes.hex` has them.
fn digits(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut digits, byte| {
        // Writing to a string cannot fail.
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

/// Addresses of the kernel's half with what stands where we say that they lead, or `-`.
fn list(target: &str) -> String {
    let spec: Spec = target.parse().unwrap();
    let target = spec.open().unwrap();
    let discovery = Discovery::of(&target).unwrap();
    let root = discovery.reference.unwrap();
    let half = VirtRange::new(VirtAddr::new(1 << 63 | 0x7fff_8000_0000_0000), 1 << 47).unwrap();
    let leaves: Vec<Mapping> = discovery.snapshot.leaves(root, half).collect();
    let mut chance = Chance(12);
    let (mut list, mut contents) = (String::new(), HashSet::new());
    let mut count = 0;
    while count < TRANSLATIONS {
        let leaf = &leaves[usize::try_from(chance.below(leaves.len() as u64)).unwrap()];
        let offset = chance.below(leaf.size.bytes() / BYTES as u64) * BYTES as u64;
        let mut bytes = [0; BYTES];
        let at = leaf.pa.wrapping_add(offset);
        // What is no RAM, or was left out of the dump, is not read; and of zeros, which are nearly all that some dumps have, one in 32.
        let is_there = target.memory.read_bytes(at, &mut bytes).is_ok();
        if is_there && (bytes != [0; BYTES] || chance.below(32) == 0) {
            let digits = digits(&bytes);
            writeln!(list, "{:x} {digits}", leaf.va.wrapping_add(offset).get()).unwrap();
            contents.insert(digits);
            count += 1;
        }
    }
    // Else it would prove little.
    assert!(contents.len() > 200, "{} differ", contents.len());
    for _ in 0..100 {
        let va = half.first.wrapping_add(chance.below(1 << 47) & !0xfff);
        if discovery
            .snapshot
            .translate(root, va)
            .translation()
            .is_none()
        {
            writeln!(list, "{:x} -", va.get()).unwrap();
        }
    }
    list
}

#[test]
fn where_there_is_drgn_or_pypi_it_reads_what_1000_translations_of_each_dump_lead_to() {
    let folder = match drgn() {
        Ok(folder) => folder,
        Err(why) => return println!("not tried, as there is no drgn: {why}"),
    };
    let stopped = Stopped::get();
    let core = vmcore::whole(stopped);
    let mut files = vec![core.clone()];
    for options in ["-c -d 1", "-d 31", "-E -d 31"] {
        files.push(makedumpfile::dump(stopped, &core, options).0);
    }
    for file in files {
        let target = named(&file);
        let list = list(&target);
        let listed = stopped.path("translations");
        std::fs::write(&listed, &list).unwrap();
        let ran = Command::new("timeout")
            .args(["300", "python3", "-c", SCRIPT, &target, &named(&listed)])
            .arg(BYTES.to_string())
            .env("PYTHONPATH", &folder)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{target}: {said}");
        let read = String::from_utf8_lossy(&ran.stdout);
        assert_eq!(read.trim(), list.lines().count().to_string(), "{target}");
        println!("{target}: drgn reads the same at {} addresses", read.trim());
    }
}
