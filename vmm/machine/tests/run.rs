//! What a running guest does, and how each run ends, on the real /dev/kvm.

mod common;

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    AMPLE, Console, HALT, LOAD_ADDRESS, RING_WITH_EBX, SPIN, code, config, cpu_time, machine, run,
    that_ends,
};
use heirloom_machine::{Config, GuestAddress, GuestVirtual, Machine, RunError, Stop};

const LIMIT: Duration = Duration::from_millis(100);
/// CPU time that a run may need beyond its limit, until the thread that watches has the CPU.
const LATE: Duration = Duration::from_millis(100);

/// `mov al, byte; mov dx, 0x3f8; out dx, al`
fn print(byte: u8) -> Vec<u8> {
    vec![0xb0, byte, 0x66, 0xba, 0xf8, 0x03, 0xee]
}

/// `mov eax, word; mov dx, 0xd00; out dx, eax`
fn ring(word: u32) -> Vec<u8> {
    let mut code = vec![0xb8];
    code.extend(word.to_le_bytes());
    code.extend([0x66, 0xba, 0x00, 0x0d, 0xef]);
    code
}

/// Runs to a limit: not less, and not for more CPU time than that.
fn run_to_its_limit(machine: &mut Machine, limit: Duration) {
    let (used, deadline) = (cpu_time(), Instant::now() + limit);
    assert_eq!(machine.run(deadline).unwrap(), Stop::TimeLimit);
    assert!(Instant::now() >= deadline, "it ended before its limit");
    let used = cpu_time().saturating_sub(used);
    assert!(used < limit + LATE, "a run of {limit:?} used {used:?}");
}

fn assert_ends_by_its_limit(guest: &'static [u8]) {
    that_ends(|| run_to_its_limit(&mut machine(config(guest)), LIMIT));
}

#[test]
fn on_kvm_what_the_guest_prints_reaches_the_console() {
    let console = Console::default();
    let text = b"two lines\nand a half";
    let guest: Vec<u8> = text
        .iter()
        .flat_map(|byte| print(*byte))
        .chain(ring(0))
        .collect();
    let mut machine = machine(Config {
        console: Box::new(console.clone()),
        ..config(&guest)
    });
    assert_eq!(run(&mut machine), Stop::Doorbell { value: 0 });
    assert_eq!(console.text().as_bytes(), text);
}

#[test]
fn on_kvm_the_doorbell_gives_its_word_and_the_guest_goes_on_behind_it() {
    let guest = code(&[&ring(0x1234_5678), &ring(u32::MAX), HALT]);
    let mut machine = machine(config(&guest));
    assert_eq!(run(&mut machine), Stop::Doorbell { value: 0x1234_5678 });
    assert_eq!(run(&mut machine), Stop::Doorbell { value: u32::MAX });
    assert_eq!(
        machine.run(Instant::now() + LIMIT).unwrap(),
        Stop::TimeLimit
    );
}

#[test]
fn on_kvm_a_write_to_the_doorbell_that_is_not_four_bytes_wide_is_no_ring() {
    // mov dx, 0xd00; out dx, al; out dx, ax
    let guest = code(&[&[0x66, 0xba, 0x00, 0x0d, 0xee, 0x66, 0xef], &ring(7)]);
    assert_eq!(
        run(&mut machine(config(&guest))),
        Stop::Doorbell { value: 7 }
    );
}

#[test]
fn on_kvm_without_a_doorbell_its_port_is_like_any_other() {
    let guest = code(&[&ring(7), SPIN]);
    let mut machine = machine(Config {
        doorbell: None,
        ..config(&guest)
    });
    assert_eq!(
        machine.run(Instant::now() + LIMIT).unwrap(),
        Stop::TimeLimit
    );
}

#[test]
fn on_kvm_a_loop_with_interrupts_off_ends_by_the_time_limit() {
    assert_ends_by_its_limit(SPIN);
}

#[test]
fn on_kvm_a_guest_that_halts_for_ever_ends_by_the_time_limit() {
    assert_ends_by_its_limit(HALT);
}

#[test]
fn on_kvm_a_guest_that_only_writes_ports_ends_by_the_time_limit() {
    // mov dx, 0x80; out dx, al; jmp -3
    assert_ends_by_its_limit(&[0x66, 0xba, 0x80, 0x00, 0xee, 0xeb, 0xfd]);
}

#[test]
fn on_kvm_a_guest_that_floods_a_stuck_console_ends_by_the_time_limit() {
    let (_reader, writer) = io::pipe().unwrap();
    // mov dx, 0x3f8; mov al, '\n'; out dx, al; jmp -3
    let guest = [0x66, 0xba, 0xf8, 0x03, 0xb0, 0x0a, 0xee, 0xeb, 0xfd];
    // Nobody reads, so the pipe fills up.
    let mut filler = writer.try_clone().unwrap();
    thread::spawn(move || filler.write_all(&vec![0; 16 << 20]));
    that_ends(move || {
        let mut machine = machine(Config {
            console: Box::new(writer),
            ..config(&guest)
        });
        run_to_its_limit(&mut machine, LIMIT);
    });
}

#[test]
fn on_kvm_the_limit_is_kept_again_and_again() {
    const RUNS: u32 = 50;
    that_ends(|| {
        let mut machine = machine(config(SPIN));
        let limit = Duration::from_millis(3);
        let used = cpu_time();
        for _ in 0..RUNS {
            run_to_its_limit(&mut machine, limit);
        }
        // Most are not late at all.
        let used = cpu_time().saturating_sub(used);
        assert!(used < RUNS * (limit + LATE / 4), "{used:?}");
        assert_eq!(machine.run(Instant::now()).unwrap(), Stop::TimeLimit);
    });
}

#[test]
fn on_kvm_an_interruption_from_another_thread_ends_a_run_once() {
    let mut machine = machine(config(SPIN));
    let interrupter = machine.interrupter();
    let other = thread::spawn(move || {
        thread::sleep(LIMIT);
        interrupter.interrupt();
    });
    assert_eq!(
        machine.run(Instant::now() + AMPLE).unwrap(),
        Stop::Interrupted
    );
    other.join().unwrap();
    assert_eq!(
        machine.run(Instant::now() + LIMIT).unwrap(),
        Stop::TimeLimit
    );
}

#[test]
fn on_kvm_two_machines_at_once_keep_their_own_limits() {
    let mut long = machine(config(SPIN));
    let interrupter = long.interrupter();
    let long = thread::spawn(move || long.run(Instant::now() + AMPLE).unwrap());
    run_to_its_limit(&mut machine(config(SPIN)), LIMIT);
    // The other one runs on until it is told not to.
    assert!(!long.is_finished());
    interrupter.interrupt();
    assert_eq!(long.join().unwrap(), Stop::Interrupted);
}

#[test]
fn on_kvm_a_triple_fault_is_a_shutdown() {
    // PVH gives no IDT, so the page-less #UD of ud2 cannot be delivered.
    assert_eq!(run(&mut machine(config(&[0x0f, 0x0b]))), Stop::Shutdown);
}

#[test]
fn on_kvm_an_instruction_that_kvm_cannot_run_is_named_by_its_bytes_or_never_stops_the_guest() {
    // vzeroupper, without a CR4 that allows it. Hardware gives #UD, which is a triple fault
    // here; a KVM that emulates the guest kernel says that it cannot.
    let instruction = [0xc5, 0xf8, 0x77];
    match run(&mut machine(config(&instruction))) {
        Stop::Shutdown => {}
        Stop::InternalError {
            suberror: 1,
            instruction: bytes,
        } => {
            assert!(bytes.starts_with(&instruction[..1]), "{bytes:x?}");
        }
        stop => panic!("{stop:?}"),
    }
}

#[test]
fn on_kvm_unclaimed_ports_and_addresses_read_as_all_ones() {
    let guest = code(&[
        // mov dx, 0x1234; in eax, dx; mov esi, eax
        &[0x66, 0xba, 0x34, 0x12, 0xed, 0x89, 0xc6],
        // mov eax, [0xd0000000]; mov [0xd0000000], eax; and eax, esi
        &[0xa1, 0, 0, 0, 0xd0, 0xa3, 0, 0, 0, 0xd0, 0x21, 0xf0],
        // mov dx, 0xd00; out dx, eax
        &[0x66, 0xba, 0x00, 0x0d, 0xef],
    ]);
    assert_eq!(
        run(&mut machine(config(&guest))),
        Stop::Doorbell { value: u32::MAX }
    );
}

#[test]
fn on_kvm_the_serial_port_says_that_it_can_send() {
    // mov dx, 0x3fd; xor eax, eax; in al, dx; mov dx, 0xd00; out dx, eax
    let guest = [
        0x66, 0xba, 0xfd, 0x03, 0x31, 0xc0, 0xec, 0x66, 0xba, 0x00, 0x0d, 0xef,
    ];
    let stop = run(&mut machine(config(&guest)));
    // Line status register: transmitter empty, holding register empty.
    assert_eq!(stop, Stop::Doorbell { value: 0x60 });
}

#[test]
fn on_kvm_a_console_that_fails_is_an_error_and_not_a_stop() {
    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut machine = machine(Config {
        console: Box::new(Broken),
        ..config(&code(&[&print(b'\n'), SPIN]))
    });
    let error = machine.run(Instant::now() + AMPLE).unwrap_err();
    assert!(
        matches!(&error, RunError::Console(cause) if cause.kind() == io::ErrorKind::BrokenPipe),
        "{error}"
    );
}

#[test]
fn on_kvm_the_registers_at_the_first_stop_are_those_of_pvh_entry() {
    let mut machine = machine(config(&code(&[RING_WITH_EBX, SPIN])));
    let before = machine.registers().unwrap();
    assert_eq!(before.rip, LOAD_ADDRESS);
    assert_eq!(before.cr0, 0x11, "protected mode, no paging");
    assert_eq!((before.cr3, before.cr4, before.efer), (0, 0, 0));
    assert_eq!(before.cpl, 0);
    assert_eq!(before.rflags & 0x200, 0, "interrupts are off");
    run(&mut machine);
    let after = machine.registers().unwrap();
    let end = LOAD_ADDRESS + RING_WITH_EBX.len() as u64;
    assert!(
        (LOAD_ADDRESS..=end).contains(&after.rip),
        "{:#x}",
        after.rip
    );
    assert_eq!(after.cs, before.cs);
}

#[test]
fn on_kvm_without_paging_an_address_translates_to_itself() {
    let machine = machine(config(SPIN));
    let translated = machine.translate(GuestVirtual(0x12_3456)).unwrap();
    assert_eq!(translated, Some(GuestAddress(0x12_3456)));
    assert!((32..=52).contains(&machine.max_phys_addr()));
}

#[test]
fn on_kvm_a_guest_that_resets_its_machine_stops_there_by_either_port() {
    // mov al, 0xfe; out 0x64, al
    assert_eq!(
        run(&mut machine(config(&[0xb0, 0xfe, 0xe6, 0x64]))),
        Stop::Reset
    );
    // mov dx, 0xcf9; mov al, 6; out dx, al
    assert_eq!(
        run(&mut machine(config(&[
            0x66, 0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee
        ]))),
        Stop::Reset
    );
    // Other commands do nothing: mov al, 0xad; out 0x64, al; mov dx, 0xcf9; mov al, 2; out dx, al; ring
    let other = code(&[
        &[
            0xb0, 0xad, 0xe6, 0x64, 0x66, 0xba, 0xf9, 0x0c, 0xb0, 0x02, 0xee,
        ],
        &ring(7),
    ]);
    assert_eq!(
        run(&mut machine(config(&other))),
        Stop::Doorbell { value: 7 }
    );
}

#[test]
fn on_kvm_a_cpu_that_halts_with_interrupts_off_is_told_from_one_that_runs() {
    /// Runs the guest to its ring and from there bit by bit: whether it has halted after each.
    fn slices(guest: &[u8]) -> impl Iterator<Item = bool> {
        let mut machine = machine(config(&code(&[&ring(7), guest])));
        assert_eq!(run(&mut machine), Stop::Doorbell { value: 7 });
        std::iter::repeat_with(move || {
            let stop = machine.run(Instant::now() + LIMIT / 4).unwrap();
            assert_eq!(stop, Stop::TimeLimit);
            machine.halted_for_good().unwrap()
        })
    }
    // However little of the CPU the guest gets, it comes to its `hlt`.
    assert!(that_ends(|| slices(HALT).any(|halted| halted)));
    // sti; hlt: an interrupt may come.
    for guest in [SPIN, &[0xfb, 0xf4]] {
        assert!(!slices(guest).take(8).any(|halted| halted));
    }
}

#[test]
fn on_kvm_the_interval_timer_counts_down() {
    // Counter 0, mode 2, from 65536 on: mov al, 0x34; out 0x43, al; xor al, al; out 0x40, al; out 0x40, al.
    // Then it is latched and read until it is another than before: mov al, 0; out 0x43, al; in al, 0x40;
    // mov bl, al; in al, 0x40; loop: the same into cl; cmp bl, cl; je loop; ring.
    let latch: &[u8] = &[0xb0, 0x00, 0xe6, 0x43, 0xe4, 0x40];
    let guest = code(&[
        &[0xb0, 0x34, 0xe6, 0x43, 0x30, 0xc0, 0xe6, 0x40, 0xe6, 0x40],
        latch,
        &[0x88, 0xc3, 0xe4, 0x40],
        latch,
        &[0x88, 0xc1, 0xe4, 0x40, 0x38, 0xcb, 0x74, 0xf2],
        &ring(7),
    ]);
    assert_eq!(
        run(&mut machine(config(&guest))),
        Stop::Doorbell { value: 7 }
    );
}

/// `mov [address], eax`
fn store(address: u32) -> Vec<u8> {
    let mut code = vec![0xa3];
    code.extend(address.to_le_bytes());
    code
}

#[test]
fn on_kvm_the_log_tells_the_frames_that_the_guest_wrote_since_it_was_last_asked() {
    let guest = code(&[
        &store(0x20_0000),
        &ring(0),
        &store(0x20_1ffc),
        &store(0x3f_f000),
        &store(0x20_1000),
        &ring(1),
        &ring(2),
        &store(0x20_1000),
        &ring(3),
        HALT,
    ]);
    let mut machine = machine(config(&guest));
    assert_eq!(machine.take_written_frames(), None, "there is no log");
    machine.log_writes();
    assert_eq!(run(&mut machine), Stop::Doorbell { value: 0 });
    assert_eq!(
        machine.take_written_frames(),
        None,
        "what was written before the log began is unknown"
    );
    let mut written = |value| {
        assert_eq!(run(&mut machine), Stop::Doorbell { value });
        let frames = machine.take_written_frames().unwrap();
        frames.iter().map(|frame| frame.get()).collect::<Vec<_>>()
    };
    assert_eq!(written(1), [0x201, 0x3ff]);
    assert_eq!(written(2), [0; 0]);
    assert_eq!(written(3), [0x201]);
}
