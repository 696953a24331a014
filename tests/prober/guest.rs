//! The prober as a flat binary: `image.rs` has rustc build it.
#![no_std]
#![no_main]

core::arch::global_asm!(include_str!("prober.s"), options(att_syntax));

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
