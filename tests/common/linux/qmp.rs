//! QEMU's machine protocol (docs/interop/qmp-spec.rst), as much of it as the tests need.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// One connection to a QEMU.
pub(crate) struct Qmp {
    reader: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects to a QEMU that listens at `socket`.
    pub(crate) fn connect(socket: &Path) -> Qmp {
        let stream = UnixStream::connect(socket).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(300)))
            .unwrap();
        let mut qmp = Qmp {
            reader: BufReader::new(stream),
        };
        assert!(qmp.receive().get("QMP").is_some(), "no greeting");
        qmp.execute("qmp_capabilities", &json!({}));
        qmp
    }

    /// Executes a command: what it returns.
    ///
    /// # Panics
    /// If QEMU refuses.
    pub(crate) fn execute(&mut self, command: &str, arguments: &Value) -> Value {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.reader.get_mut(), "{request}").unwrap();
        loop {
            let mut answer = self.receive();
            if let Some(error) = answer.get("error") {
                panic!("{request}: {error}");
            }
            // Events come in between.
            if let Some(result) = answer.get_mut("return") {
                return result.take();
            }
        }
    }

    /// Executes a command of the human monitor: what it prints.
    pub(crate) fn monitor(&mut self, line: &str) -> String {
        let printed = self.execute("human-monitor-command", &json!({ "command-line": line }));
        printed.as_str().unwrap().replace('\r', "")
    }

    pub(crate) fn stop(&mut self) {
        self.execute("stop", &json!({}));
    }

    pub(crate) fn resume(&mut self) {
        self.execute("cont", &json!({}));
    }

    /// `running`, `paused` …
    pub(crate) fn status(&mut self) -> String {
        let status = self.execute("query-status", &json!({}));
        status["status"].as_str().unwrap().to_owned()
    }

    /// Writes the guest's memory and registers to an ELF core. With `paging`, segments are by virtual
    /// address, too.
    pub(crate) fn dump(&mut self, file: &Path, paging: bool) {
        let protocol = format!("file:{}", file.display());
        self.execute(
            "dump-guest-memory",
            &json!({ "paging": paging, "protocol": protocol }),
        );
    }

    fn receive(&mut self) -> Value {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("QEMU answers");
        assert!(!line.is_empty(), "QEMU closed its QMP connection");
        serde_json::from_str(&line).unwrap()
    }
}
