//! heirloom's guest kernel.
//!
//! A PVH or Multiboot 2 loader enters [`boot`]'s assembly in 32-bit mode; it turns paging on and calls
//! [`kernel_main`] in the upper half. From there everything is a reaction: [`trap`] is called for each
//! exception, interrupt and system call with the registers of whatever was interrupted, works on the
//! one [`kernel::Kernel`], and leaves with the registers of whoever runs next.
#![no_std]
#![no_main]
#![warn(clippy::undocumented_unsafe_blocks)]

mod arch;
mod boot;
mod counters;
mod crash;
mod fault_injection;
mod kernel;
mod mm;
mod probe;
mod process;
mod self_check;
mod smp;
mod syscall;
mod trap;
mod watch;

use arch::cpu::{self, Features};
use arch::entry::{TrapFrame, leave_with, syscall_entry};
use arch::entry_area::{Place, first_data};
use arch::pcid::Pcid;
use arch::serial::{self, COM1};
use arch::{apic, descriptors, flush_log};
use boot::multiboot;
use boot::options::Options;
use boot::start_info::{self, BootInfo};
use heirloom_abi::layout::Region;
use heirloom_abi::options::{self, CommandLine};
use kernel::{KERNEL, Kernel};
use mm::frame::{FrameAllocator, Use};
use mm::{PhysAddr, Root, VirtAddr, boot_map, depth, propagation};
use process::scheduler;

/// By this an inspector that reads memory from outside knows which kernel runs here.
#[used]
static MARK: &str = concat!("heirloom guest kernel ", env!("CARGO_PKG_VERSION"));

core::arch::global_asm!(include_str!("boot/pvh.s"), options(att_syntax));

unsafe extern "C" {
    static cpu_stack_top: u8;
}

/// The kernel's Rust entry, on the boot's stack and tables, in the upper half.
///
/// # Safety
/// 1. Called once, by the boot's assembly, with what the loader passed in EBX, and whether that is a Multiboot 2
///    loader (1) or a PVH loader (0).
#[unsafe(no_mangle)]
unsafe extern "C" fn kernel_main(start_info: u32, by_multiboot: u32) -> ! {
    // SAFETY: the first thing that the boot does here.
    unsafe { mm::set_depth(cpu::depth()) };
    let local = first_data().local();
    local.set_stacks(
        Place::Image.entry_stack_top(0),
        &raw const cpu_stack_top as u64,
    );
    local.set_identity(0, probe::first_page());
    // SAFETY: obligation 1: at boot; the image is mapped.
    unsafe { descriptors::load_first(Place::Image) };

    let image = boot_map::image().frames();
    // SAFETY: obligation 1; nothing but the boot's own stack has been written.
    let info = unsafe {
        let at = PhysAddr::new(start_info.into());
        if by_multiboot == 0 {
            start_info::read(at, image)
        } else {
            // GRUB may run on any PC, and leaves serial ports as the firmware has them.
            serial::set_up(COM1);
            multiboot::read(at, image)
        }
    };
    let info = match info {
        Ok(info) => info,
        Err(error) => panic!("what the boot loader says cannot be used: {error}"),
    };
    let frame = start(info);
    leave_with(&frame)
}

/// Sets up memory, CPU and the first process; the registers to leave the kernel with.
fn start(info: BootInfo) -> TrapFrame {
    let command_line = CommandLine::new(info.command_line);
    let options = Options::of(command_line);
    if let Some(port) = options.exit_port {
        crash::set_exit_port(port);
    }
    if let Some(way) = options.probe {
        probe::enable(way);
    }
    if options.probe_faults {
        probe::enable_faults();
    }
    if let Some(bug) = options.bug {
        fault_injection::choose(bug);
    }
    let first = vmalloc_start(options);
    assert!(
        Region::Vmalloc.contains(first, depth()) && first.is_multiple_of(heirloom_abi::PAGE_SIZE),
        "vmalloc-start={first:#x} is no page of the vmalloc area"
    );

    let mut features = Features::detect().without(options.clear_cpuid);
    if let Some(choice) = options.pcid {
        assert!(choice == "off", "pcid={choice}: there is only `off`");
        features = features.without("pcid");
    }
    // The boot's assembly has acted on it.
    if features.la57_refused
        && let Some(choice) = options.la57
    {
        assert!(choice == "off", "la57={choice}: there is only `off`");
    }
    let mut guard = KERNEL.lock();
    let kernel: &mut Kernel = &mut guard;
    let fresh_is_zero = options.fresh_memory_is_zero;
    // SAFETY: the boot loader's map of RAM, without what is used; `boot_map::build` maps the vmemmap.
    kernel.frames = unsafe { FrameAllocator::new(info.ram.frames(), info.free, fresh_is_zero) };
    kernel.modules = info.modules;
    kernel.command_line = command_line;
    kernel.options = options;
    kernel.machine = features.machine_bits();
    kernel.features = features;
    kernel.ram = info.ram;

    let (strategy, cpus) = (options.strategy, options.cpus);
    if features.pcid && probe::enabled() {
        let frames = flush_log::frames_for_pcids(cpus).next_power_of_two();
        let first = kernel.frames.allocate_at_boot(Use::Kernel, frames);
        let first =
            first.expect("too little memory for notes of what each CPU is asked of each PCID");
        // SAFETY: zeros, for nothing else, and enough.
        unsafe { flush_log::note_pcids(first, cpus) };
    }
    let propagation = propagation::of(strategy);
    let root = boot_map::build(&kernel.ram, features, propagation, cpus, &mut kernel.frames)
        .expect("too little memory for the kernel's page tables");
    // SAFETY: the new root maps the image where it runs, and the direct map.
    unsafe { cpu::load_root(root.root(), Pcid::KERNEL) };
    features.enable();
    kernel
        .space
        .start(root, strategy, VirtAddr::new(first), &mut kernel.frames)
        .expect("too little memory for the strategy's page tables");

    first_data().local().set_stacks(
        Place::Area.entry_stack_top(0),
        &raw const cpu_stack_top as u64,
    );
    // SAFETY: still the boot, and the kernel's root maps the area.
    unsafe { descriptors::load_first(Place::Area) };
    cpu::enable_syscall(Place::Area.text(syscall_entry), descriptors::KERNEL_CODE);
    // SAFETY: a new state.
    unsafe { scheduler::load_float(&process::FloatState::new()) };
    apic::silence_old_controllers();
    apic::start(features);
    kernel
        .prepare_self_test()
        .expect("too little memory for a process")
}

/// Where the vmalloc area begins to be used.
fn vmalloc_start(options: Options) -> u64 {
    let area = Region::Vmalloc.start(depth());
    let Some(text) = options.vmalloc_start else {
        return area;
    };
    let is_no = || panic!("{}={text} is no number", options::VMALLOC_START);
    match text.strip_prefix(options::BELOW_SECOND_ENTRY) {
        None => options::parse_number(text).unwrap_or_else(is_no),
        Some(pages) => {
            let second_entry = area + Root::level().entry_span();
            let pages = options::parse_number(pages).unwrap_or_else(is_no);
            // What is outside of the area is refused as any other address there.
            second_entry.wrapping_sub(pages.wrapping_mul(heirloom_abi::PAGE_SIZE))
        }
    }
}
