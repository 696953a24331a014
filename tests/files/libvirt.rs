//! What libvirt writes of a guest, which virsh runs without a daemon (`qemu:///embed`).

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::answers::{Answers, named, notes};
use crate::common::AMPLE;
use crate::common::linux::{artifacts, initramfs};

/// libvirt leaves the guest among the host's processes and files.
const SETTINGS: &str = r#"
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
"#;

/// Runs virsh on the commands of standard input, and not as root, whose libvirt would want a user for its guests. Whatever
/// ends the test's process, its end of the pipe closes; then the guest ends, too, and the folder goes.
const WATCHDOG: &str = r#"
if [ "$(id -u)" = 0 ]; then
    chown -R 65534:65534 "$1"
    plain="setpriv --reuid 65534 --regid 65534 --clear-groups"
fi
HOME=$1 $plain virsh -q -c "qemu:///embed?root=$1/libvirt" > "$1/said" 2>&1
kill "$(cat "$1/libvirt/run/qemu/guest.pid")" 2> /dev/null
rm -rf "$1"
"#;

/// A guest of libvirt's.
struct Domain {
    virsh: Child,
    folder: PathBuf,
}

impl Domain {
    /// Boots Linux, and waits until it stands still.
    fn boot() -> Domain {
        let folder = tempfile::tempdir().unwrap().keep();
        let at = |name: &str| folder.join(name);
        std::fs::create_dir_all(at("libvirt/etc")).unwrap();
        std::fs::write(at("libvirt/etc/qemu.conf"), SETTINGS).unwrap();
        std::fs::write(at("initrd"), initramfs::build()).unwrap();
        std::fs::copy(artifacts::kernel(), at("vmlinuz")).unwrap();
        std::fs::write(at("guest.xml"), description(&folder)).unwrap();
        let virsh = Command::new("sh")
            .args(["-c", WATCHDOG, "sh"])
            .arg(&folder)
            .current_dir(&folder)
            .stdin(Stdio::piped())
            .stderr(File::create(at("errors")).unwrap())
            .spawn()
            .unwrap();
        let mut domain = Domain { virsh, folder };
        domain.tell("create guest.xml");
        domain.wait_for("console", "== ready");
        domain
    }

    /// Has virsh do something, and waits until it is done.
    fn tell(&mut self, command: &str) {
        let stdin = self.virsh.stdin.as_mut().unwrap();
        // Options of `command` would be taken for `echo`'s.
        let done = format!("done: {}", command.replace("--", ""));
        writeln!(stdin, "{command}\necho {done}").unwrap();
        self.wait_for("said", &done);
    }

    /// Waits until a file has a line that begins so.
    fn wait_for(&self, file: &str, line: &str) {
        let started = Instant::now();
        loop {
            let text = self.read(file);
            if text.lines().any(|found| found.starts_with(line)) {
                return;
            }
            let said = self.read("said");
            let failed = said.lines().any(|line| line.starts_with("error: "));
            assert!(
                !failed && started.elapsed() < AMPLE,
                "no `{line}` in {text}; virsh: {said}{}",
                self.read("errors")
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn read(&self, file: &str) -> String {
        let bytes = std::fs::read(self.folder.join(file)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        drop(self.virsh.stdin.take());
        let _ = self.virsh.wait();
    }
}

/// The guest, as libvirt wants it described.
fn description(folder: &Path) -> String {
    format!(
        "<domain type='qemu'>
           <name>guest</name>
           <memory unit='MiB'>512</memory>
           <vcpu>1</vcpu>
           <os>
             <type arch='x86_64' machine='q35'>hvm</type>
             <kernel>{folder}/vmlinuz</kernel>
             <initrd>{folder}/initrd</initrd>
             <cmdline>console=ttyS0 quiet no_timer_check</cmdline>
           </os>
           <cpu mode='maximum'/>
           <devices>
             <serial type='file'><source path='{folder}/console'/></serial>
             <memballoon model='none'/>
           </devices>
         </domain>",
        folder = folder.display(),
    )
}

#[test]
fn what_virsh_dumps_and_saves_answers_alike_and_holds() {
    let mut domain = Domain::boot();
    domain.tell("suspend guest");
    domain.tell("dump guest core --memory-only --live");
    domain.tell("dump guest packed --memory-only --live --format kdump-zlib");
    domain.tell("save guest saved --paused");

    let file = |name| named(&domain.folder.join(name));
    let core = Answers::of(&file("core"));
    assert!(core.count() > 50, "{} roots", core.count());
    for (name, taken_for) in [
        ("core", "an ELF core"),
        ("packed", "kdump-compressed dump"),
        ("saved", "a migration stream"),
    ] {
        let said = notes(&file(name)).join("\n");
        assert!(said.contains(taken_for), "{name}: {said}");
        assert_eq!(Answers::of(&file(name)), core, "{name}");
    }
}
