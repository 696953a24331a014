//! What a client holds the guest for: steps, breakpoints, its end; and what becomes of a guest when its client goes.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Client, RIP, Waiting, at_socket, kernel, shown_text};
use crate::common::{SPIN, code};

#[test]
fn on_kvm_a_client_that_goes_away_leaves_a_guest_that_runs_to_its_end() {
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
fn on_kvm_a_guest_has_its_time_though_a_debugger_held_it_longer() {
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
fn on_kvm_a_kernel_that_boot_boots_is_stepped_changed_and_interrupted() {
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

/// Lets a guest run that is lost: why it is held once more, and where.
fn last_look(client: &mut Client) -> (String, u64) {
    client.send(b"vCont;c");
    let said = shown_text(&client.receive().unwrap());
    let why = said.strip_suffix("; this is its last state\n");
    let why = why.and_then(|why| why.strip_prefix("heirloom: "));
    let why = why.unwrap_or_else(|| panic!("{said}")).to_owned();
    assert_eq!(client.receive().as_deref(), Some("T06thread:01;"));
    let rip = client.register(RIP);
    // There is nothing that it could be let run to.
    client.send(b"vCont;c");
    assert_eq!(client.receive().as_deref(), Some("X09"));
    (why, rip)
}

#[test]
fn on_kvm_a_guest_that_crashes_is_held_once_more_where_it_did() {
    let (_folder, mut command) = at_socket(&["run", "--cmdline", "vmalloc-start=1"]);
    let guest = Waiting::start(&mut command);
    let mut client = Client::connect(&guest);
    let (why, rip) = last_look(&mut client);
    assert_eq!(why, "the guest kernel crashed");
    // In the kernel's image, which tells of it.
    assert!(rip >= 0xffff_ffff_8000_0000, "{rip:#x}");
    let ended = guest.end();
    assert_eq!(ended.code, Some(4), "{}", ended.said);
    assert!(
        ended.said.contains("the guest kernel panicked"),
        "{}",
        ended.said
    );

    // ud2 without an IDT.
    let (folder, mut command) = at_socket(&["boot"]);
    let kernel = kernel(folder.path(), &[0x90, 0x0f, 0x0b]);
    let guest = Waiting::start(command.arg(kernel));
    let mut client = Client::connect(&guest);
    let start = client.register(RIP);
    let (why, rip) = last_look(&mut client);
    assert_eq!(why, "the guest crashed (triple fault)");
    assert_eq!(rip, start + 1);
    let ended = guest.end();
    let all = format!("{}\n{}", ended.shown, ended.said);
    assert_eq!(ended.code, Some(4), "{all}");
}
