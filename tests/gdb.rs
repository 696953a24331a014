//! `heirloom run --gdb`: a real gdb, and clients that are none.

#[path = "../vmm/machine/tests/common/mod.rs"]
mod common;

use common::{Elf, SPIN, code};

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// However busy the machine is.
const AMPLE: Duration = Duration::from_secs(300);

fn heirloom() -> Command {
    Command::new(env!("CARGO_BIN_EXE_heirloom"))
}

/// A guest that waits for gdb.
struct Waiting {
    child: Child,
    /// Where gdb connects.
    place: String,
    said: JoinHandle<String>,
    shown: JoinHandle<String>,
}

/// How a guest came to its end.
struct Ended {
    code: Option<i32>,
    said: String,
    shown: String,
}

impl Waiting {
    /// Starts the command, and returns when its guest waits.
    fn start(command: &mut Command) -> Waiting {
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        let place = line
            .trim()
            .strip_prefix("the guest waits for gdb: target remote ");
        let place = place.unwrap_or_else(|| panic!("{line}")).to_owned();
        let mut output = child.stdout.take().unwrap();
        Waiting {
            child,
            place,
            said: thread::spawn(move || {
                let mut said = String::new();
                lines.read_to_string(&mut said).unwrap();
                said
            }),
            shown: thread::spawn(move || {
                let mut shown = String::new();
                output.read_to_string(&mut shown).unwrap();
                shown
            }),
        }
    }

    /// Waits for its end.
    fn end(mut self) -> Ended {
        let status = self.child.wait().unwrap();
        Ended {
            code: status.code(),
            said: self.said.join().unwrap(),
            shown: self.shown.join().unwrap(),
        }
    }
}

/// A client of our own: packets, and what comes back.
struct Client {
    stream: UnixStream,
    received: Vec<u8>,
}

impl Client {
    fn connect(guest: &Waiting) -> Client {
        let stream = UnixStream::connect(&guest.place).unwrap();
        stream.set_read_timeout(Some(AMPLE)).unwrap();
        Client {
            stream,
            received: Vec::new(),
        }
    }

    fn send(&mut self, words: &[u8]) {
        let sum = words.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        let mut packet = vec![b'$'];
        packet.extend(words);
        packet.extend(format!("#{sum:02x}").bytes());
        // What is refused for good is not read any more.
        let _ = self.stream.write_all(&packet);
    }

    /// The words of the next packet; `None` at the end.
    fn receive(&mut self) -> Option<String> {
        loop {
            let begin = self.received.iter().position(|byte| *byte == b'$');
            let end = begin.and_then(|begin| {
                let words = self.received[begin..].iter();
                words
                    .clone()
                    .position(|byte| *byte == b'#')
                    .map(|end| begin + end)
            });
            if let (Some(begin), Some(end)) = (begin, end)
                && self.received.len() >= end + 3
            {
                let words = self.received[begin + 1..end].to_vec();
                self.received.drain(..end + 3);
                return Some(String::from_utf8(words).unwrap());
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) | Err(_) => return None,
                Ok(read) => self.received.extend(&bytes[..read]),
            }
        }
    }

    fn ask(&mut self, words: &str) -> String {
        self.send(words.as_bytes());
        self.receive().unwrap()
    }

    /// The register with this number, of eight bytes.
    fn register(&mut self, number: u32) -> u64 {
        let digits = self.ask(&format!("p{number:x}"));
        u64::from_str_radix(&digits, 16).unwrap().swap_bytes()
    }
}

/// What a packet has gdb show.
fn shown_text(words: &str) -> String {
    let digits = words.strip_prefix('O').unwrap().as_bytes().chunks(2);
    let pairs = digits.map(|pair| std::str::from_utf8(pair).unwrap());
    let bytes = pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap());
    String::from_utf8(bytes.collect()).unwrap()
}

/// A folder, and a command whose guest waits at a socket in it.
fn at_socket(words: &[&str]) -> (tempfile::TempDir, Command) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = heirloom();
    command
        .args(words)
        .arg("--gdb")
        .arg(folder.path().join("gdb"));
    (folder, command)
}

/// A kernel of a few instructions, as a file in `folder`.
fn kernel(folder: &Path, code: &[u8]) -> PathBuf {
    let path = folder.join("kernel");
    fs::write(&path, Elf::new(code).bytes()).unwrap();
    path
}

/// RIP among the registers.
const RIP: u32 = 16;

#[test]
fn gdb_breaks_in_the_kernel_asks_heirloom_about_it_and_lets_it_run_to_its_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let extracted = heirloom().arg("extract").arg(folder.path()).output();
    assert!(extracted.unwrap().status.success());
    let commands = heirloom().arg("gdb").output().unwrap();
    let sourced = folder.path().join("heirloom.gdb");
    fs::write(&sourced, commands.stdout).unwrap();
    let script = format!(
        "set pagination off\n\
         set confirm off\n\
         source {}\n\
         target remote PLACE\n\
         break kernel_main\n\
         continue\n\
         backtrace\n\
         set language c\n\
         print/x ((unsigned long *)&boot_pgd)[511]\n\
         print/x $cr3\n\
         heirloom-translate &boot_pgd\n\
         stepi\n\
         hbreak system_call\n\
         continue\n\
         info threads\n\
         heirloom-check\n\
         heirloom-maps\n\
         hbreak *0xffffffff80000001\n\
         hbreak *0xffffffff80000002\n\
         hbreak *0xffffffff80000003\n\
         python\n\
         try: gdb.execute('continue')\n\
         except gdb.error as error: print('refused:', error)\n\
         end\n\
         delete\n\
         continue\n\
         print $_exitcode\n",
        sourced.display()
    );
    for cpus in ["1", "2"] {
        let guest = Waiting::start(heirloom().args(["run", "--gdb", ":0", "--cpus", cpus]));
        let script = script.replace("PLACE", &guest.place);
        let file = folder.path().join("script");
        fs::write(&file, script).unwrap();
        let gdb = Command::new("gdb")
            .args(["-nx", "-quiet", "-batch", "-x"])
            .arg(&file)
            .arg(folder.path().join("heirloom-kernel"))
            .output()
            .unwrap();
        let seen = String::from_utf8_lossy(&gdb.stdout).into_owned();
        let complained = String::from_utf8_lossy(&gdb.stderr).into_owned();
        let ended = guest.end();
        let all = format!("{seen}\n{complained}\n{}\n{}", ended.shown, ended.said);
        for words in [
            // A breakpoint of the CPU, and the line table of the kernel.
            "Breakpoint 1, ",
            "kernel_main () at kernel/src/main.rs",
            // The entry of the kernel image: present, writable, a table.
            "$1 = 0x22",
            "Breakpoint 2, system_call ",
            "exited normally]",
            "$3 = 0\n",
        ] {
            assert!(seen.contains(words), "{words}: {all}");
        }
        // gdb shows what it is told by `monitor` there.
        for words in [
            "byte 0x0, kernel image",
            "  PGD[511]  = 0x",
            "HOLDS: 16 of 20 rules hold",
            "  direct map      ",
        ] {
            assert!(complained.contains(words), "{words}: {all}");
        }
        // The four registers take the system call's and three that nobody comes to; the kernel's main has another.
        assert!(
            all.contains("You may have requested too many hardware breakpoints"),
            "{all}"
        );
        assert_eq!(seen.contains("CPU 1, "), cpus == "2", "{all}");
        assert_eq!(ended.code, Some(0), "{all}");
        assert!(ended.shown.contains("\nHOLDS: "), "{all}");
    }
}

#[test]
fn whatever_a_client_asks_for_is_answered_and_the_guest_comes_to_its_end() {
    let (_folder, mut command) = at_socket(&["run", "--processes", "8", "--cpus", "2"]);
    let guest = Waiting::start(&mut command);
    let mut client = Client::connect(&guest);
    let _ = client.stream.write_all(b"\x03\x03+++---");
    let all = format!("G{}", "00".repeat(600));
    let far = format!("M{:x},8:0000000000000000", u64::MAX - 3);
    let long = format!("m{},1", "0".repeat(9000));
    for (words, answer) in [
        // As far as there is something, and no further than a packet is long.
        ("m0,2000", Some(&*"00".repeat(8192))),
        ("m0,2001", Some("E79")),
        (&long, Some("00")),
        ("m0,ffffffffffffffff", Some("E79")),
        ("mffffffffffffffff,ffffffffffffffff", Some("E79")),
        (&far, Some("E79")),
        // What is written is what came, whatever is said of its length.
        ("M0,ffffffffffffffff:5a", Some("OK")),
        ("m0,2", Some("5a00")),
        ("X0,5:\0", Some("OK")),
        ("m0,2", Some("0000")),
        ("P10=00", Some("E79")),
        ("Pffffffffffffffff=0000000000000000", Some("")),
        ("pffffffffffffffff", Some("")),
        (&all, Some("E79")),
        ("G00", Some("E79")),
        // No CPU has this number: whatever is asked of it is refused.
        ("Hg99", Some("OK")),
        ("p10", Some("E79")),
        ("P10=0000000000000000", Some("E79")),
        ("g", Some("E79")),
        (&all, Some("E79")),
        ("m0,1", Some("E79")),
        ("M0,1:5a", Some("E79")),
        ("T99", Some("E01")),
        ("qThreadExtraInfo,99", Some("")),
        ("Hgffffffffffffffff", Some("OK")),
        ("p10", Some("E79")),
        ("Hg1", Some("OK")),
        ("p10", None),
        ("Z2,0,8", Some("")),
        ("z1,ffffffffffffffff,1", Some("OK")),
        (
            "qXfer:features:read:target.xml:ffffffffffffffff,ffffffffffffffff",
            Some("l"),
        ),
        ("qXfer:features:read:target.xml:0,ffffffffffffffff", None),
        ("qXfer:memory-map:read::0,ffffffffffffffff", None),
        ("qXfer:features:read:/etc/passwd:0,fff", Some("E79")),
        ("qXfer:::::", Some("")),
        ("vRun;2f62696e2f7368", Some("")),
        ("vFile:open:2f,0,0", Some("")),
        ("\u{7}", Some("")),
        ("", Some("")),
    ] {
        let is = client.ask(words);
        match answer {
            Some(answer) => assert_eq!(is, answer, "{words}"),
            None => assert!(is.len() > 8 && !is.starts_with('E'), "{words}: {is}"),
        }
        assert!(is.len() <= 16 << 10);
    }
    // What no CPU can do is refused in words, and nothing runs.
    let start = client.register(RIP);
    for (words, why) in [
        ("vCont", "either one CPU runs or all do"),
        ("vCont;s:7", "there is no such CPU"),
        ("vCont;c:7;c", "there is no such CPU"),
        ("vCont;c:7;s:2;c", "there is no such CPU"),
        ("vCont;s:2;c", "CPU 1 is not started yet"),
    ] {
        let said = client.ask(words);
        assert_eq!(shown_text(&said), format!("heirloom: {why}\n"));
        assert_eq!(client.receive().as_deref(), Some("T00thread:01;"));
        assert_eq!(client.register(RIP), start);
    }
    // A monitor command that is none, and one whose answer is long.
    for words in ["\u{1b}[2J", "maps"] {
        let digits = words.bytes().map(|byte| format!("{byte:02x}"));
        let command: Vec<String> = ["qRcmd,".into()].into_iter().chain(digits).collect();
        client.send(command.concat().as_bytes());
        while client.receive().unwrap() != "OK" {}
    }
    for number in 1..=4 {
        assert_eq!(client.ask(&format!("Z0,{number:x},1")), "OK");
    }
    assert_eq!(client.ask("Z1,5,1"), "E79");
    // A packet without an end, while the guest runs: it is there when the guest is let run.
    let mut endless = b"$vCont;c#a8".to_vec();
    endless.resize(32 << 10, b'$');
    let _ = client.stream.write_all(&endless);
    let ended = guest.end();
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    for words in [
        "all four breakpoints that a CPU has are set",
        "are not set by a debugger",
        "the guest runs on without",
    ] {
        assert_eq!(ended.said.matches(words).count(), 1, "{}", ended.said);
    }
    assert!(ended.shown.contains("\nHOLDS: "), "{}", ended.shown);
}

#[test]
fn a_client_that_does_not_keep_to_the_protocol_is_left_and_the_guest_comes_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let ends = kernel(folder.path(), &[0xfa, 0xf4]);
    let mut endless = b"$".to_vec();
    endless.resize(32 << 10, b'a');
    let packet = |words: &str| {
        let sum = words.bytes().fold(0_u8, u8::wrapping_add);
        format!("${words}#{sum:02x}").into_bytes()
    };
    for sent in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        // Checksums that are wrong, and are none.
        b"$g#00".to_vec(),
        b"$g#xy".to_vec(),
        endless,
        packet("m,"),
        packet("mfffffffffffffffff,1"),
        packet("Z1,1"),
        packet("vCont;"),
        packet("vCont;x"),
        packet("vCont;t"),
        packet("vCont;s:0:0:0;;;"),
        packet("Hg-1"),
        packet("T0"),
        packet("qThreadExtraInfo,0"),
        packet("qRcmd,zz"),
    ] {
        let (_folder, mut command) = at_socket(&["boot"]);
        let guest = Waiting::start(command.arg(&ends));
        let mut client = Client::connect(&guest);
        let _ = client.stream.write_all(&sent);
        let sent = String::from_utf8_lossy(&sent[..sent.len().min(80)]);
        assert_eq!(client.receive(), None, "{sent}");
        let ended = guest.end();
        let all = format!("{sent}: {}\n{}", ended.shown, ended.said);
        assert!(all.contains("the guest runs on without"), "{all}");
        assert!(all.contains("the CPU has paging off"), "{all}");
    }
}

#[test]
fn a_client_that_goes_away_leaves_a_guest_that_runs_to_its_end() {
    let (folder, mut command) = at_socket(&["run"]);
    let guest = Waiting::start(&mut command);
    let socket = folder.path().join("gdb");
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0);
    let mut client = Client::connect(&guest);
    assert_eq!(client.ask("?"), "T05thread:01;");
    // There is one at a time.
    assert!(!socket.exists());
    drop(client);
    let ended = guest.end();
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    assert!(ended.shown.contains("\nHOLDS: "), "{}", ended.shown);
    // And one that says so.
    let (_folder, mut command) = at_socket(&["run"]);
    let guest = Waiting::start(&mut command);
    let mut client = Client::connect(&guest);
    assert_eq!(client.ask("Z1,ffffffff80200000,1"), "OK");
    assert_eq!(client.ask("D"), "OK");
    let ended = guest.end();
    assert_eq!((ended.code, ended.said.as_str()), (Some(0), ""));
    // And one that ends the guest, too.
    let (_folder, mut command) = at_socket(&["run"]);
    let guest = Waiting::start(&mut command);
    let mut client = Client::connect(&guest);
    assert_eq!(client.ask("vKill;1"), "OK");
    let ended = guest.end();
    assert_eq!(ended.code, Some(4));
    assert!(ended.said.contains("gdb ended the guest"), "{}", ended.said);
}

/// Not that which a debugger holds it for.
#[test]
fn a_guest_has_its_time_though_a_debugger_held_it_longer() {
    let (folder, mut command) = at_socket(&["run", "--timeout", "2"]);
    let kernel = kernel(folder.path(), SPIN);
    let guest = Waiting::start(command.arg("--kernel").arg(kernel));
    let mut client = Client::connect(&guest);
    assert_eq!(client.ask("?"), "T05thread:01;");
    thread::sleep(Duration::from_secs(3));
    let released = Instant::now();
    client.send(b"vCont;c");
    assert_eq!(client.receive().as_deref(), Some("X09"));
    assert!(released.elapsed() >= Duration::from_secs(1));
    let ended = guest.end();
    assert_eq!(ended.code, Some(4));
    assert!(ended.said.contains("not done after 2 s"), "{}", ended.said);
}

/// Steps, memory without paging, registers that are set, and a guest that loops is interrupted.
#[test]
fn a_kernel_that_boot_boots_is_stepped_changed_and_interrupted() {
    let (folder, mut command) = at_socket(&["boot", "--timeout", "600"]);
    // nop; nop; cli; jmp to itself; then cli; hlt.
    let loops = code(&[&[0x90, 0x90], SPIN, &[0xfa, 0xf4]]);
    let kernel = kernel(folder.path(), &loops);
    let guest = Waiting::start(command.arg(kernel));
    let mut client = Client::connect(&guest);
    let start = client.register(RIP);
    for step in 1..=2 {
        assert_eq!(client.ask("vCont;s:1;c"), "T05thread:01;");
        assert_eq!(client.register(RIP), start + step);
    }
    assert_eq!(client.ask(&format!("m{start:x},2")), "9090");
    assert_eq!(client.ask(&format!("Z0,{:x},1", start + 2)), "OK");
    // Without the name of the feature: gdb says that it knows it.
    assert_eq!(client.ask("vCont;c"), "T05thread:01;swbreak:;");
    assert_eq!(client.ask(&format!("z0,{:x},1", start + 2)), "OK");
    // Onto the jump: it is there whether it has run or not.
    assert_eq!(client.ask("vCont;s:1;c"), "T05thread:01;");
    client.send(b"vCont;c");
    client.stream.write_all(&[3]).unwrap();
    assert_eq!(client.receive().as_deref(), Some("T02thread:01;"));
    assert_eq!(client.register(RIP), start + 3);
    // Behind the loop.
    let behind = (start + 2 + SPIN.len() as u64).swap_bytes();
    assert_eq!(client.ask(&format!("P{RIP:x}={behind:016x}")), "OK");
    client.send(b"c");
    assert_eq!(client.receive().as_deref(), Some("X09"));
    let ended = guest.end();
    let all = format!("{}\n{}", ended.shown, ended.said);
    // It has halted, and has no page tables to be judged.
    assert!(all.contains("the CPU has paging off"), "{all}");
}

#[test]
fn where_gdb_cannot_be_listened_for_is_said_before_anything_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("none/gdb");
    for (words, told) in [
        (&["--gdb", "0.0.0.0:1234"][..], "this host alone"),
        (
            &["--gdb", nowhere.to_str().unwrap()],
            "could not listen for gdb",
        ),
        (
            &["--gdb", ":0", "--machine", "qemu"],
            "--gdb is for guests on KVM",
        ),
    ] {
        let output = heirloom().arg("run").args(words).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(told), "{said}");
    }
}
