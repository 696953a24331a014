//! Processes: what each owns, how they are found, scheduled, born and ended.

pub mod eventcount;
pub mod lifecycle;
pub mod program;
pub mod remote_memory;
pub mod scheduler;
pub mod table;

use crate::arch::entry::TrapFrame;
use crate::mm::user_space::UserSpace;
use heirloom_abi::PAGE_SIZE;

/// A process's number; 0 is the kernel itself.
pub type Pid = u32;

/// The registers of x87, MMX and SSE, as `fxsave` stores them (Intel SDM vol. 1, 10.5).
#[derive(Clone, Copy)]
#[repr(C, align(16))]
pub struct FloatState([u8; 512]);

impl FloatState {
    /// The state of a new program: all exceptions masked, as the System V ABI wants it.
    pub const fn new() -> FloatState {
        let mut state = [0; 512];
        let control_word = 0x037f_u16.to_le_bytes();
        let mxcsr = 0x1f80_u32.to_le_bytes();
        state[0] = control_word[0];
        state[1] = control_word[1];
        state[24] = mxcsr[0];
        state[25] = mxcsr[1];
        FloatState(state)
    }
}

/// What a process is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// On a CPU, or in the ready queue.
    Runnable,
    /// Until eventcount `number` is at least `at_least`.
    WaitsForEventcount { number: usize, at_least: u64 },
    /// Until a child ends.
    WaitsForChild,
    /// Ended; its parent has not asked yet.
    Zombie { status: u64 },
}

/// A process. It lives in a frame of its own, so that what it costs is exact.
pub struct Process {
    pub pid: Pid,
    pub parent: Pid,
    pub state: State,
    pub space: UserSpace,
    /// Its registers while it is on no CPU.
    pub frame: TrapFrame,
    pub float: FloatState,
    /// The base of FS in ring 3.
    pub fs_base: u64,
    /// The next in whichever queue it waits in.
    pub next_in_queue: Option<Pid>,
    pub first_child: Option<Pid>,
    pub first_zombie: Option<Pid>,
    pub next_sibling: Option<Pid>,
    pub previous_sibling: Option<Pid>,
}

const _: () = assert!(size_of::<Process>() as u64 <= PAGE_SIZE);

impl Process {
    /// A runnable process without relatives.
    pub fn new(pid: Pid, parent: Pid, space: UserSpace, frame: TrapFrame) -> Process {
        Process {
            pid,
            parent,
            state: State::Runnable,
            space,
            frame,
            float: FloatState::new(),
            fs_base: 0,
            next_in_queue: None,
            first_child: None,
            first_zombie: None,
            next_sibling: None,
            previous_sibling: None,
        }
    }
}
