//! The kernel tries its own protections (`selfcheck` on the command line), each by the access that
//! must fault or must not. This is what can be known where no host looks at the tables.

use crate::arch::cpu::{self, Features};
use crate::arch::entry::TrapFrame;
use crate::boot::self_test::{PAGE, RETURN_AT};
use crate::kernel::Kernel;
use crate::mm::boot_map::image;
use crate::mm::{Pfn, VirtAddr, depth, direct_map, user_access};
use crate::println;
use core::arch::naked_asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use heirloom_abi::PAGE_SIZE;
use heirloom_abi::layout::Region;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags, Efer, EferFlags};

const RETURN_INSTRUCTION: u8 = 0xc3;
/// `ret`, where no code belongs.
static RETURN_IN_CONSTANTS: [u8; 16] = [RETURN_INSTRUCTION; 16];
/// The same in writable memory: an atomic is never a constant.
static RETURN_IN_DATA: AtomicU64 = AtomicU64::new(u64::from_ne_bytes([RETURN_INSTRUCTION; 8]));

/// The address that [`executes`] tries just now.
static TRIED: AtomicU64 = AtomicU64::new(0);

/// Runs every check and prints one line for each that fails, and a summary.
///
/// # Panics
/// If one fails.
pub fn run(kernel: &mut Kernel) {
    let mut checks = Checks {
        passed: 0,
        failed: 0,
    };
    control_registers(kernel.features, &mut checks);
    image_permissions(&mut checks);
    direct_map_covers_ram(kernel, &mut checks);
    // A kernel with its own address space never has user pages in it.
    if !kernel.space.isolates() {
        user_pages(kernel.features, &mut checks);
    }
    kernel_memory(kernel, &mut checks);
    let Checks { passed, failed } = checks;
    println!("self-check: {passed} passed, {failed} failed");
    assert!(failed == 0, "the kernel does not protect itself");
}

struct Checks {
    passed: u32,
    failed: u32,
}

impl Checks {
    fn check(&mut self, what: &str, holds: bool) {
        if holds {
            self.passed += 1;
        } else {
            self.failed += 1;
            println!("self-check failed: {what}");
        }
    }
}

fn control_registers(features: Features, checks: &mut Checks) {
    let cr4 = Cr4::read();
    checks.check(
        "CR0.WP is on",
        Cr0::read().contains(Cr0Flags::WRITE_PROTECT),
    );
    checks.check(
        "EFER.NXE is on",
        Efer::read().contains(EferFlags::NO_EXECUTE_ENABLE),
    );
    checks.check("CR4.PGE is on", cr4.contains(Cr4Flags::PAGE_GLOBAL));
    for (name, offered, flag) in [
        (
            "CR4.SMEP is on where CPUID offers it",
            features.smep,
            Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION,
        ),
        (
            "CR4.SMAP is on where CPUID offers it",
            features.smap,
            Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION,
        ),
        (
            "CR4.UMIP is on where CPUID offers it",
            features.umip,
            Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION,
        ),
        (
            "CR4.PCIDE is on where CPUID offers it",
            features.pcid,
            Cr4Flags::PCID,
        ),
    ] {
        checks.check(name, cr4.contains(flag) == offered);
    }
    println!(
        "self-check: smep {} smap {} umip {} pcid {}",
        features.smep, features.smap, features.umip, features.pcid
    );
}

fn image_permissions(checks: &mut Checks) {
    let image = image();
    let alias = |address| direct_map::address_of(direct_map::physical_in_image(address)).get();
    checks.check(
        "the boot's identity map is gone",
        !readable(image_physical(image.text.0)),
    );
    checks.check("text cannot be written", !writable(image.text.0.get()));
    checks.check(
        "constants cannot be written",
        !writable(image.rodata.0.get()),
    );
    checks.check(
        "text cannot be written through the direct map",
        !writable(alias(image.text.0)),
    );
    checks.check(
        "constants cannot be written through the direct map",
        !writable(alias(image.rodata.0)),
    );
    let constants = RETURN_IN_CONSTANTS.as_ptr() as u64;
    let data = &raw const RETURN_IN_DATA as u64;
    checks.check("data can be written", writable(data));
    checks.check("constants cannot be executed", !executes(constants));
    checks.check("data cannot be executed", !executes(data));
    checks.check(
        "the direct map cannot be executed",
        !executes(alias(VirtAddr::new(constants))),
    );
    checks.check(
        "image and direct map show the same memory",
        user_access::read(data) == user_access::read(alias(VirtAddr::new(data))),
    );
}

fn image_physical(address: VirtAddr) -> u64 {
    direct_map::physical_in_image(address).get()
}

fn direct_map_covers_ram(kernel: &Kernel, checks: &mut Checks) {
    for range in kernel.ram.iter() {
        let last = direct_map::address_of(Pfn::new(range.end - 1).base()).get();
        checks.check(
            "the direct map shows the first frame of RAM",
            readable(direct_map::address_of(Pfn::new(range.start).base()).get()),
        );
        checks.check("the direct map shows the last frame of RAM", readable(last));
        checks.check(
            "the direct map ends where RAM ends",
            !readable(last + PAGE_SIZE),
        );
    }
}

fn user_pages(features: Features, checks: &mut Checks) {
    checks.check(
        "user memory can be read",
        cpu::with_user_access(|| readable(PAGE.get())),
    );
    if features.smap {
        checks.check(
            "SMAP stops the kernel at user memory",
            !readable(PAGE.get()),
        );
    }
    if features.smep {
        checks.check(
            "SMEP keeps the kernel from user code",
            !executes(PAGE.get() + RETURN_AT),
        );
    }
}

fn kernel_memory(kernel: &mut Kernel, checks: &mut Checks) {
    let current = kernel.current_process().space.root();
    let before = kernel.frames.usage();
    let Ok(mapped) = kernel.space.allocate(2, current, &mut kernel.frames) else {
        checks.check("two pages of kernel memory can be allocated", false);
        return;
    };
    let start = mapped.area.start();
    let shown = direct_map::address_of(Pfn::new(mapped.frames[1]).base()).get();
    checks.check(
        "kernel memory can be written",
        writable(start.get() + PAGE_SIZE),
    );
    // SAFETY: memory that was just allocated for this.
    let written = unsafe { user_access::write(start.get() + PAGE_SIZE, 0x4845_4952) };
    checks.check("what is written", written.is_ok());
    checks.check(
        "the direct map shows it",
        user_access::read(shown) == Ok(0x4845_4952),
    );
    checks.check(
        "kernel memory has a guard behind it",
        !readable(start.get() + 2 * PAGE_SIZE),
    );
    let protected = kernel
        .space
        .protect(start, false, current, &mut kernel.frames);
    checks.check(
        "kernel memory can be made read-only",
        protected.is_ok() && !writable(start.get()),
    );
    let freed = kernel.space.free(start, current, &mut kernel.frames);
    checks.check(
        "freed kernel memory cannot be read",
        freed.is_ok() && !readable(start.get()),
    );
    let after = kernel.frames.usage();
    checks.check("freed frames come back", after.kernel == before.kernel);
    checks.check(
        "vmalloc gives out vmalloc addresses",
        Region::Vmalloc.contains(start.get(), depth()),
    );
}

fn readable(address: u64) -> bool {
    user_access::read(address).is_ok()
}

/// Writes what is there already.
fn writable(address: u64) -> bool {
    let Ok(value) = user_access::read(address) else {
        return false;
    };
    // SAFETY: the value does not change, and no other CPU runs.
    unsafe { user_access::write(address, value) }.is_ok()
}

/// Whether the kernel can execute the `ret` at `address`.
fn executes(address: u64) -> bool {
    TRIED.store(address, Relaxed);
    // SAFETY: there is a `ret`, and if the CPU does not fetch it, `expected_fetch_fault` returns in
    // its place.
    let faulted = unsafe { call(address) } != 0;
    TRIED.store(0, Relaxed);
    !faulted
}

/// # Safety
/// 1. At `address` there is a `ret`, and it is in `TRIED`.
#[unsafe(naked)]
unsafe extern "C" fn call(address: u64) -> u64 {
    naked_asm!("xor eax, eax", "call rdi", "ret")
}

/// If this page fault is the one that [`executes`] provokes, returns to it.
pub fn expected_fetch_fault(frame: &mut TrapFrame, address: u64) -> bool {
    if address == 0 || frame.rip != address || TRIED.load(Relaxed) != address {
        return false;
    }
    let Ok(return_address) = user_access::read(frame.rsp) else {
        return false;
    };
    frame.rip = return_address;
    frame.rsp += 8;
    frame.rax = 1;
    true
}
