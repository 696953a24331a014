//! A QEMU with a guest, from its start to its end.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::linux::qmp::Qmp;

/// A QEMU, with a folder for its files that goes with it. It ends with this value, or with the test's process.
pub(crate) struct Machine {
    /// The shell that looks after both.
    watchdog: Option<Child>,
    folder: PathBuf,
}

/// Runs QEMU, the arguments behind the first, until standard input ends; then removes the first, a folder.
/// Whatever ends the test's process, its end of the pipe closes. Statics, as guests that tests share are,
/// are never dropped.
const WATCHDOG: &str = r#"
folder=$1
shift
"$@" < /dev/null &
read -r _
kill $! 2> /dev/null
wait $!
rm -rf "$folder"
"#;

impl Machine {
    /// Starts a QEMU with these arguments. The guest's console is to be written to the file `console`; two
    /// monitors are there already, one for the command under test and one for the test.
    pub(crate) fn start(arguments: impl FnOnce(&Machine) -> Vec<String>) -> Machine {
        let mut machine = Machine {
            watchdog: None,
            folder: tempfile::tempdir().unwrap().keep(),
        };
        let monitor = |name: &str| {
            let socket = machine.at(name);
            format!("unix:{},server=on,wait=off", socket.display())
        };
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "sh"])
            .arg(&machine.folder)
            .arg("qemu-system-x86_64")
            .args(arguments(&machine))
            .args(["-qmp", &monitor("qmp")])
            .args(["-qmp", &monitor("qmp-of-the-test")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(File::create(machine.at("errors")).unwrap())
            .spawn()
            .unwrap();
        machine.watchdog = Some(watchdog);
        machine
    }

    /// A folder that ends with the guest.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A file in it.
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Where QEMU listens for QMP; one client at a time, so this is for the command under test.
    pub(crate) fn socket(&self) -> PathBuf {
        self.at("qmp")
    }

    /// The test's own connection.
    pub(crate) fn qmp(&self) -> Qmp {
        Qmp::connect(&self.at("qmp-of-the-test"))
    }

    /// What the guest has printed.
    pub(crate) fn console(&self) -> String {
        self.read("console")
    }

    /// What stands in a file of the folder.
    pub(crate) fn read(&self, name: &str) -> String {
        let bytes = std::fs::read(self.at(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(mut watchdog) = self.watchdog.take() {
            drop(watchdog.stdin.take());
            let _ = watchdog.wait();
        }
    }
}
