//! Bochs as a machine that runs our guest under judgement: GRUB boots the kernel from an ISO image, the doorbell is
//! Bochs's second serial port, and its debugger says what memory and registers hold while the guest waits.
//!
//! Bochs has what no other machine here has: PCIDs, INVPCID, and a TLB that keeps global pages when CR3 is loaded.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use heirloom_abi::PAGE_SIZE;
use heirloom_machine::{
    BootError, Config, Doorbell, GuestAddress, GuestMemoryMmap, GuestVirtual, Interrupter,
    KernelImage, Platform, RamRange, Registers, RunError, Stop, VirtualMachine,
};
use nix::sys::signal::{Signal, kill};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use tempfile::TempDir;
use vm_memory::Bytes;

/// RAM in MiB, and how the BIOS tells of it: what it has for itself is at the end of each part.
const MIB: u64 = 16;
const LOW: RamRange = RamRange {
    start: GuestAddress(0),
    bytes: 0x9_fc00,
};
const HIGH: RamRange = RamRange {
    start: GuestAddress(1 << 20),
    bytes: (MIB << 20) - (1 << 20) - (1 << 16),
};
/// Where the guest's direct map shows physical memory: Bochs reads by linear addresses.
const DIRECT_MAP: u64 = 0xffff_8880_0000_0000;
/// Far more than any answer of the debugger's takes on a busy machine.
const AMPLE: Duration = Duration::from_secs(600);
/// Between two looks at what Bochs does.
const NAP: Duration = Duration::from_millis(1);

/// A CPU that has PCIDs and INVPCID.
const CPU: &str = "corei7_skylake_x";
/// Few instructions to a second: the BIOS waits for times, not for instructions.
const INSTRUCTIONS: u32 = 1_000_000;

/// Words for the kernel's command line: where the doorbell is, and that RAM has been used by BIOS and GRUB.
pub(crate) const WORDS: &str = "probe=serial:0x2f8 fresh-memory=used";

/// Bochs, which boots this kernel file.
pub(crate) struct Bochs {
    pub(crate) kernel: PathBuf,
}

impl Platform for Bochs {
    fn machine(&self, config: Config, _: Instant) -> Result<Box<dyn VirtualMachine>, BootError> {
        Ok(Box::new(BochsMachine::start(&self.kernel, config)))
    }

    fn doorbell(&self) -> Doorbell {
        Doorbell::Serial
    }

    fn name(&self) -> &'static str {
        "Bochs"
    }

    fn translator(&self) -> &'static str {
        "nobody"
    }
}

struct BochsMachine {
    child: Child,
    debugger: Mutex<Debugger>,
    doorbell: TcpStream,
    /// The guest rang and waits.
    awaits_answer: bool,
    /// The CPU time that Bochs had used when the guest was let run last.
    resumed: Duration,
    kernel: KernelImage,
    memory: GuestMemoryMmap,
    ram: Vec<RamRange>,
    cpus: Vec<Registers>,
    console: Box<dyn Write + Send>,
    printed: usize,
    folder: TempDir,
}

/// The debugger's prompt: what is typed, and what it says.
struct Debugger {
    input: ChildStdin,
    output: Receiver<Vec<u8>>,
    said: String,
}

impl Debugger {
    /// What it has said, if it waits for a command now.
    fn take_prompt(&mut self) -> Option<String> {
        let last = self.said.lines().last()?;
        let waits = last.starts_with("<bochs:") && self.said.ends_with("> ");
        waits.then(|| std::mem::take(&mut self.said))
    }

    /// Listens for so long; whether it has said something.
    fn listen(&mut self, time: Duration) -> bool {
        match self.output.recv_timeout(time) {
            Ok(bytes) => {
                self.said.push_str(&String::from_utf8_lossy(&bytes));
                true
            }
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => panic!("Bochs ended; it said: {}", self.said),
        }
    }

    /// Waits for the prompt, and says what came before.
    fn prompt(&mut self) -> String {
        let begun = Instant::now();
        loop {
            if let Some(said) = self.take_prompt() {
                return said;
            }
            assert!(begun.elapsed() < AMPLE, "Bochs only said: {}", self.said);
            self.listen(AMPLE);
        }
    }

    fn type_in(&mut self, command: &str) {
        writeln!(self.input, "{command}").expect("Bochs reads commands");
    }

    fn ask(&mut self, command: &str) -> String {
        self.type_in(command);
        self.prompt()
    }
}

impl BochsMachine {
    fn start(kernel: &Path, config: Config) -> BochsMachine {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        make_image(at, kernel, &config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let count = config.cpus.count();
        let settings = format!(
            "megs: {MIB}\n\
             romimage: file=/usr/share/bochs/BIOS-bochs-latest\n\
             vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest\n\
             cpu: model={CPU}, count={count}, ips={INSTRUCTIONS}, quantum=16, reset_on_triple_fault=0\n\
             ata0-master: type=cdrom, path={image}, status=inserted\n\
             boot: cdrom\n\
             com1: enabled=1, mode=file, dev={console}\n\
             com2: enabled=1, mode=socket-client, dev=127.0.0.1:{port}\n\
             sound: waveoutdrv=dummy, waveindrv=dummy\n\
             log: {log}\n\
             display_library: rfb, options=\"timeout=0\"\n\
             clock: sync=none\n",
            image = at.join("image.iso").display(),
            console = at.join("console").display(),
            log = at.join("log").display(),
        );
        fs::write(at.join("settings"), settings).unwrap();
        // It ends with this test, however that ends.
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "bochs", "-q", "-f"])
            .arg(at.join("settings"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("this test needs Bochs: `make bochs` installs it");
        let mut output = child.stdout.take().unwrap();
        let (sender, receiver) = channel();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        let mut debugger = Debugger {
            input: child.stdin.take().unwrap(),
            output: receiver,
            said: String::new(),
        };
        debugger.prompt();
        let (doorbell, _) = listener.accept().unwrap();
        doorbell.set_nonblocking(true).unwrap();
        let bytes = usize::try_from(MIB << 20).unwrap();
        BochsMachine {
            child,
            debugger: Mutex::new(debugger),
            doorbell,
            awaits_answer: false,
            resumed: Duration::ZERO,
            kernel: config.kernel,
            memory: GuestMemoryMmap::from_ranges(&[(GuestAddress(0), bytes)]).unwrap(),
            ram: vec![LOW, HIGH],
            cpus: vec![Registers::default(); count.into()],
            console: config.console,
            printed: 0,
            folder,
        }
    }

    fn process(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    /// Runs until the guest has rung, the debugger wants something, or the time is over.
    fn follow(&mut self, deadline: Instant) -> Stop {
        let mut word = Vec::new();
        self.resumed = cpu_time(self.process());
        let debugger = self.debugger.get_mut().unwrap();
        debugger.type_in("c");
        loop {
            let mut bytes = [0; 4];
            match self.doorbell.read(&mut bytes[..4 - word.len()]) {
                Ok(count) => word.extend_from_slice(&bytes[..count]),
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
            if let Ok(word) = <[u8; 4]>::try_from(word.as_slice()) {
                self.awaits_answer = true;
                let value = u32::from_le_bytes(word);
                return Stop::Doorbell { value };
            }
            if debugger.listen(NAP) && debugger.take_prompt().is_some() {
                return Stop::Shutdown;
            }
            // Never within a word: where the rest is lost.
            if word.is_empty() && Instant::now() >= deadline {
                return Stop::TimeLimit;
            }
        }
    }

    /// All CPUs stand still from here on, and it is known how, and what memory holds.
    ///
    /// The guest must have run for a while: a signal that comes while Bochs still reads the command that lets it run is
    /// lost, and later ones were then seen to stop nothing either.
    fn look(&mut self) {
        /// Far more CPU time than the reading of a command takes.
        const A_WHILE: Duration = Duration::from_millis(10);
        let pid = self.process();
        let debugger = self.debugger.get_mut().unwrap();
        let begun = Instant::now();
        while cpu_time(pid) < self.resumed + A_WHILE {
            assert!(begun.elapsed() < AMPLE, "Bochs does not run");
            thread::sleep(NAP);
        }
        kill(pid, Signal::SIGINT).unwrap();
        debugger.prompt();
        for (number, cpu) in self.cpus.iter_mut().enumerate() {
            debugger.ask(&format!("set $cpu = {number}"));
            let said = ["creg", "r", "sreg"]
                .map(|command| debugger.ask(command))
                .concat();
            *cpu = registers(&said);
        }
        debugger.ask("set $cpu = 0");
    }

    /// Memory as the guest has it.
    fn read_memory(&mut self) {
        let debugger = self.debugger.get_mut().unwrap();
        let file = self.folder.path().join("memory");
        for range in &self.ram {
            let start = range.start.0;
            let bytes = range.bytes / PAGE_SIZE * PAGE_SIZE;
            let at = DIRECT_MAP + start;
            debugger.ask(&format!(
                "writemem \"{}\" {at:#x} {bytes:#x}",
                file.display()
            ));
            let content = fs::read(&file).unwrap();
            assert_eq!(content.len() as u64, bytes, "the direct map shows all RAM");
            self.memory.write_slice(&content, range.start).unwrap();
        }
    }

    fn print(&mut self) -> Result<(), RunError> {
        let content = fs::read(self.folder.path().join("console")).unwrap_or_default();
        let new = content.get(self.printed..).unwrap_or_default();
        self.printed += new.len();
        self.console.write_all(new).map_err(RunError::Console)
    }
}

impl Drop for BochsMachine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl VirtualMachine for BochsMachine {
    fn run(&mut self, deadline: Instant) -> Result<Stop, RunError> {
        if std::mem::take(&mut self.awaits_answer) {
            self.doorbell.write_all(&[1]).unwrap();
        }
        let stop = self.follow(deadline);
        if stop != Stop::Shutdown {
            self.look();
        }
        if matches!(stop, Stop::Doorbell { .. }) {
            self.read_memory();
        }
        self.print()?;
        Ok(stop)
    }

    fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    fn ram(&self) -> &[RamRange] {
        &self.ram
    }

    fn kernel(&self) -> &KernelImage {
        &self.kernel
    }

    fn cpus(&self) -> Result<Vec<Registers>, RunError> {
        Ok(self.cpus.clone())
    }

    fn registers(&self) -> Result<Registers, RunError> {
        Ok(self.cpus[0])
    }

    fn halted_for_good(&self) -> Result<bool, RunError> {
        Ok(false)
    }

    fn translate(&self, _: GuestVirtual) -> Result<Option<GuestAddress>, RunError> {
        Ok(None)
    }

    fn max_phys_addr(&self) -> u8 {
        40
    }

    fn gigabyte_pages(&self) -> bool {
        true
    }

    fn interrupter(&self) -> Interrupter {
        unreachable!("nobody interrupts a run on Bochs")
    }
}

/// An ISO image by which GRUB boots the kernel.
fn make_image(at: &Path, kernel: &Path, config: &Config) {
    let tree = at.join("tree");
    let boot = tree.join("boot");
    fs::create_dir_all(boot.join("grub")).unwrap();
    fs::copy(kernel, boot.join("kernel")).unwrap();
    let menu = format!(
        "set timeout=0\nmenuentry heirloom {{\nmultiboot2 /boot/kernel {}\n",
        config.command_line
    );
    for module in &config.modules {
        fs::write(boot.join(&module.name), &module.bytes).unwrap();
    }
    let modules = config.modules.iter();
    let modules = modules.map(|module| format!("module2 /boot/{0} {0}\n", module.name));
    let menu = [vec![menu], modules.collect(), vec!["}\n".into()]].concat();
    fs::write(boot.join("grub/grub.cfg"), menu.concat()).unwrap();
    let made = Command::new("grub-mkrescue")
        .args([
            "-d",
            "/usr/lib/grub/i386-pc",
            "--fonts=",
            "--themes=",
            "--locales=",
        ])
        .arg("--install-modules=multiboot2 normal iso9660 biosdisk")
        .arg("-o")
        .args([at.join("image.iso"), tree])
        .output()
        .expect("this test needs GRUB: `make bochs` installs it");
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{said}");
}

/// The CPU time that a process has used.
fn cpu_time(process: Pid) -> Duration {
    let clock = clock_getcpuclockid(process).unwrap();
    clock_gettime(clock).unwrap().into()
}

/// The registers in what the debugger says.
fn registers(said: &str) -> Registers {
    let number = |name: &str| {
        let at = said
            .find(name)
            .unwrap_or_else(|| panic!("no {name} in {said}"));
        let text = said[at + name.len()..].trim_start();
        let digits = text.trim_start_matches("0x").replace('_', "");
        let end = digits
            .find(|digit: char| !digit.is_ascii_hexdigit())
            .unwrap_or(digits.len());
        u64::from_str_radix(&digits[..end], 16).unwrap()
    };
    let cs = u16::try_from(number("cs:")).unwrap();
    Registers {
        rip: number("rip:"),
        rsp: number("rsp:"),
        rbp: number("rbp:"),
        rflags: number("eflags"),
        cr0: number("CR0="),
        cr2: number("CR2=page fault laddr="),
        cr3: number("CR3="),
        cr4: number("CR4="),
        efer: number("EFER="),
        cs,
        cpl: (cs & 3) as u8,
    }
}
