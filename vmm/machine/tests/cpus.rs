//! Machines with several CPUs, on the real /dev/kvm: they are started by the first one, run at the same time, and
//! all stand still when one of them has something to say.

mod common;

use std::time::{Duration, Instant};

use common::{HALT, SPIN, code, config, machine, run, that_ends};
use heirloom_machine::{Config, CpuCount, Cpus, Machine, Stop};

const LIMIT: Duration = Duration::from_millis(50);
/// Where started CPUs begin.
const START: u32 = 0x8000;
/// Registers of the local APIC, where it is after a reset (Intel SDM vol. 3A, 11.4.1).
const SPURIOUS: u32 = 0xfee0_00f0;
const COMMAND: u32 = 0xfee0_0300;
const DESTINATION: u32 = 0xfee0_0310;
/// Commands to one CPU.
const INIT: u32 = 0x4500;
const START_UP: u32 = 0x4600 | START >> 12;
const FIRST: u32 = 0x1111_1111;
const OTHER: u32 = 0x2222_2222;

/// `mov dword ptr [address], word`
fn put(address: u32, word: u32) -> Vec<u8> {
    let mut code = vec![0xc7, 0x05];
    code.extend(address.to_le_bytes());
    code.extend(word.to_le_bytes());
    code
}

/// Starts CPUs 1 to `others` with `their`, which is code of real mode, and goes on behind.
fn starting(others: u8, their: &[u8]) -> Vec<u8> {
    let mut guest = put(SPURIOUS, 0x1ff);
    for (at, word) in (START..).step_by(4).zip(their.chunks(4)) {
        let mut bytes = [0; 4];
        bytes[..word.len()].copy_from_slice(word);
        guest.extend(put(at, u32::from_le_bytes(bytes)));
    }
    for cpu in 1..=others {
        for command in [INIT, START_UP, START_UP] {
            guest.extend(put(DESTINATION, u32::from(cpu) << 24));
            guest.extend(put(COMMAND, command));
            // mov ecx, 1000; loop .
            guest.extend([0xb9, 0xe8, 0x03, 0, 0, 0xe2, 0xfe]);
        }
    }
    guest
}

/// Rings with `word` for ever: in protected mode, or, with a prefix for 32-bit operands, in real mode.
fn ringing(word: u32, real_mode: bool) -> Vec<u8> {
    let wide: &[u8] = if real_mode { &[0x66] } else { &[] };
    let narrow: &[u8] = if real_mode { &[] } else { &[0x66] };
    // mov dx, 0xd00; mov eax, word; out dx, eax; jmp to the last
    let out = [wide, &[0xef]].concat();
    let back = 0_u8.wrapping_sub(u8::try_from(out.len()).unwrap() + 2);
    code(&[
        narrow,
        &[0xba, 0x00, 0x0d],
        wide,
        &[0xb8],
        &word.to_le_bytes(),
        &out,
        &[0xeb, back],
    ])
}

fn with(cpus: u8, guest: &[u8]) -> Machine {
    machine(Config {
        cpus: Cpus::new(CpuCount::new(cpus).unwrap()),
        ..config(guest)
    })
}

#[test]
fn on_kvm_every_cpu_rings_and_none_is_lost_when_two_ring_at_once() {
    that_ends(|| {
        let guest = [starting(1, &ringing(OTHER, true)), ringing(FIRST, false)].concat();
        let mut machine = with(2, &guest);
        let mut rung = [0; 2];
        while rung.iter().any(|count| *count < 20) {
            let Stop::Doorbell { value } = run(&mut machine) else {
                panic!("not the doorbell");
            };
            let stopped_by = machine.stopped_by();
            assert_eq!(value, [FIRST, OTHER][stopped_by]);
            rung[stopped_by] += 1;
            let cpus = machine.cpus().unwrap();
            assert_eq!(cpus.len(), 2);
            // The registers that are asked for are those of the one that rang, and it stands in its `out`.
            assert_eq!(machine.registers().unwrap(), cpus[stopped_by]);
            if stopped_by == 1 {
                assert_eq!(cpus[1].cr0 & 1, 0, "it is in real mode");
                assert_eq!(u32::from(cpus[1].cs) << 4, START);
            }
        }
    });
}

#[test]
fn on_kvm_all_stop_at_the_time_limit_and_go_on_from_there() {
    that_ends(|| {
        // They count at 0x9000 and 0x9004: inc dword ptr [address]; jmp
        let other = [0x66, 0xff, 0x06, 0x04, 0x90, 0xeb, 0xf9];
        let first = [0xff, 0x05, 0x00, 0x90, 0x00, 0x00, 0xeb, 0xf8];
        let guest = [&starting(1, &other), &first[..]].concat();
        let mut machine = with(2, &guest);
        let counts = |machine: &Machine| {
            use vm_memory::{Bytes, GuestAddress};
            [0x9000, 0x9004].map(|at| {
                let read = machine.memory().read_obj::<u32>(GuestAddress(at));
                read.unwrap()
            })
        };
        let mut before = [0; 2];
        let mut grew = 0;
        while grew < 3 {
            let stop = machine.run(Instant::now() + LIMIT).unwrap();
            assert_eq!(stop, Stop::TimeLimit);
            let now = counts(&machine);
            // Nobody runs while they are looked at.
            std::thread::sleep(Duration::from_millis(5));
            assert_eq!(counts(&machine), now);
            grew += usize::from(now.iter().zip(before).all(|(now, before)| *now > before));
            before = now;
        }
    });
}

#[test]
fn on_kvm_a_machine_is_halted_for_good_when_every_cpu_is_or_was_never_started() {
    that_ends(|| {
        for (cpus, started) in [(4, 0), (3, 2)] {
            let mut machine = with(cpus, &code(&[&starting(started, HALT), HALT]));
            while !machine.halted_for_good().unwrap() {
                assert_eq!(
                    machine.run(Instant::now() + LIMIT).unwrap(),
                    Stop::TimeLimit
                );
            }
        }
        // One is not.
        let mut machine = with(2, &code(&[&starting(1, SPIN), HALT]));
        let mut is_on = 0;
        while is_on < 3 {
            assert_eq!(
                machine.run(Instant::now() + LIMIT).unwrap(),
                Stop::TimeLimit
            );
            // Until it is started, nothing goes on.
            is_on += usize::from(!machine.halted_for_good().unwrap());
        }
    });
}

#[test]
fn on_kvm_what_another_cpu_does_to_the_machine_ends_the_run() {
    that_ends(|| {
        // mov al, 0xfe; out 0x64, al
        let guest = code(&[&starting(1, &[0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfe]), SPIN]);
        let mut machine = with(2, &guest);
        assert_eq!(run(&mut machine), Stop::Reset);
        assert_eq!(machine.stopped_by(), 1);
    });
}

#[test]
fn on_kvm_a_machine_that_is_dropped_leaves_no_thread() {
    let threads = || {
        let all = std::fs::read_dir("/proc/self/task").unwrap();
        let name = |task: std::io::Result<std::fs::DirEntry>| {
            let comm = task.ok()?.path().join("comm");
            std::fs::read_to_string(comm).ok()
        };
        all.filter_map(name)
            .filter(|name| name.starts_with("vcpu 7"))
            .count()
    };
    // The only machine here with so many.
    let guest = code(&[&starting(7, SPIN), SPIN]);
    let mut machine = with(8, &guest);
    assert_eq!(
        machine.run(Instant::now() + LIMIT).unwrap(),
        Stop::TimeLimit
    );
    assert_eq!(threads(), 1);
    drop(machine);
    assert_eq!(threads(), 0);
}
