//! The first code that runs in ring 3: one system call, made by a program that the kernel wrote
//! itself, which shows how system calls arrive on this machine. The boot goes on from there.

use crate::arch::entry::TrapFrame;
use crate::arch::flush_log;
use crate::kernel::Kernel;
use crate::mm::VirtAddr;
use crate::mm::user_space::Access;
use crate::mm::vma::{Backing, Vma};
use crate::process::lifecycle::FIRST;
use crate::process::program::Arguments;
use crate::trap::{SyscallPath, syscall_path};
use crate::{println, self_check};
use heirloom_abi::event::{Boot, KERNEL_PID, machine};
use heirloom_abi::syscall::{Errno, PROT_EXEC, PROT_READ};

/// Only the self-test may make this system call.
pub const NUMBER: u64 = 0x7fff_ffff;

/// Where the program lies.
pub const PAGE: VirtAddr = VirtAddr::new(0x40_0000);

/// `mov eax, NUMBER; syscall; ud2; ret`
const PROGRAM: [u8; 10] = [0xb8, 0xff, 0xff, 0xff, 0x7f, 0x0f, 0x05, 0x0f, 0x0b, 0xc3];
/// Where in the page the `ret` is.
pub const RETURN_AT: u64 = PROGRAM.len() as u64 - 1;

impl Kernel {
    /// Makes the self-test's process and its registers. Its number is the kernel's own, because
    /// the host's view of the machine begins only after it has gone.
    pub fn prepare_self_test(&mut self) -> Result<TrapFrame, Errno> {
        self.new_process(KERNEL_PID, KERNEL_PID)?;
        let process = self
            .processes
            .get_mut(KERNEL_PID)
            .ok_or(Errno::NoSuchProcess)?;
        let area = Vma {
            start: PAGE,
            end: VirtAddr::new(PAGE.get() + heirloom_abi::PAGE_SIZE),
            protection: PROT_READ | PROT_EXEC,
            backing: Backing::Zero,
        };
        process
            .space
            .vmas
            .insert(area)
            .map_err(|_| Errno::NoMemory)?;
        process
            .space
            .resolve(PAGE, Access::Execute, &self.modules, &mut self.frames)
            .map_err(|_| Errno::NoMemory)?;
        let (page, _) = process
            .space
            .bytes(PAGE, Access::Read)
            .ok_or(Errno::NoMemory)?;
        // SAFETY: a page that only this process has, and it has not run yet.
        unsafe { page.copy_from_nonoverlapping(PROGRAM.as_ptr(), PROGRAM.len()) };
        self.use_current_space();
        Ok(TrapFrame::for_program(PAGE.get(), 0))
    }

    /// What can only be checked while the self-test's user page is mapped.
    pub fn finish_self_test(&mut self) {
        if self.options.self_check {
            self_check::run(self);
        }
    }

    /// Tells the host that the kernel is up, and starts the first process.
    ///
    /// # Panics
    /// If the command line names no program that there is, or it cannot be executed.
    pub fn boot_first_process(&mut self) -> TrapFrame {
        self.start_other_cpus(self.options.cpus);
        let usage = self.frames.usage();
        let strategy = self.space.strategy();
        println!(
            "heirloom kernel: {} MiB of RAM, {} frames free\npropagation={}, system calls {}",
            usage.total / 256,
            usage.free,
            strategy.name(),
            match syscall_path() {
                SyscallPath::ByPageFault => "by page fault",
                _ => "by syscall",
            },
        );
        self.emit(
            &Boot {
                root: self.space.root().frame().start().get(),
                vmalloc_start: self.space.first_address().get(),
                strategy: strategy as u64,
                machine: self.machine,
                flush_log: flush_log::physical(),
            },
            &[],
        );
        debug_assert!(self.machine & machine::NX != 0);
        let name = self.options.init;
        let Some(module) = self.modules.find(name.as_bytes()) else {
            for name in self.modules.names() {
                println!("boot module: {name}");
            }
            panic!("no boot module is called {name:?}, which init= names");
        };
        let mut arguments = Arguments::new();
        let words = core::iter::once(name).chain(self.command_line.arguments());
        for word in words {
            arguments
                .push(word.as_bytes())
                .expect("the program's arguments are too long");
        }
        match self.start_first_process(module, &arguments) {
            Ok(frame) => frame,
            Err(error) => {
                panic!("cannot start process {FIRST} from boot module {name:?}: {error:?}")
            }
        }
    }
}
