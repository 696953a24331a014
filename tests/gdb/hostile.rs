//! Clients that ask for what they should not, and such as speak another language.

use std::io::Write;

use crate::client::{Client, RIP, Waiting, at_socket, kernel, shown_text};

#[test]
fn on_kvm_whatever_a_client_asks_for_is_answered_and_the_guest_comes_to_its_end() {
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
fn on_kvm_a_client_that_does_not_keep_to_the_protocol_is_left_and_the_guest_comes_to_its_end() {
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
