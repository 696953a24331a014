//! The CPUs beside the first, each with a thread of its own. The first runs on the thread that calls
//! [`Machine::run`](crate::Machine::run).
//!
//! Whoever has something to decide about stops all: it says so, and has every thread leave the guest by a signal
//! and KVM's `immediate_exit`, which together cannot be missed. When two have something at once, the second waits
//! until the first has been decided about; nobody runs on before.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use vmm_sys_util::signal::{SIGRTMIN, unblock_signal};

use crate::cpus::Places;
use crate::run::{Bus, RunError, Stop};
use crate::vcpu::{Kick, Vcpu};
use crate::watchdog::ArmedThread;

/// Time between two signals to threads that have not stopped yet.
const REPEAT: Duration = Duration::from_millis(2);

/// Why a CPU stopped all, and which.
pub(crate) type News = (usize, Result<Stop, RunError>);

/// All CPUs but the first. Without any it costs nothing.
pub(crate) struct VcpuThreads {
    shared: Arc<Shared>,
    threads: Vec<VcpuThread>,
    places: Option<Places>,
}

struct VcpuThread {
    vcpu: Arc<Mutex<Vcpu>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Everybody is to stop. Read without the lock after every exit.
    stop: AtomicBool,
    /// How each CPU is made to leave the guest, the first one first.
    kicks: Vec<Kick>,
}

#[derive(Default)]
struct State {
    /// Grows whenever the CPUs are to run.
    round: u64,
    /// Of them, how many run.
    running: usize,
    /// What has not been decided about yet.
    news: VecDeque<News>,
    /// The thread of the first CPU, while it runs.
    first: Option<ArmedThread>,
    /// Those of the others, which are there until all are dropped.
    others: Vec<ArmedThread>,
    quit: bool,
}

impl Shared {
    /// No code panics while it holds the lock, and `State` has no invariant that a panic could break.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that everybody is to stop.
    fn call_stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.kicks.iter().for_each(Kick::leave);
    }
}

impl VcpuThreads {
    /// Threads for `vcpus`, CPUs 1, 2 and so on, which do not run yet; `first` is how CPU 0 is made to leave the
    /// guest.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn new(
        first: Kick,
        vcpus: Vec<Vcpu>,
        bus: &Bus,
        places: Option<Places>,
    ) -> io::Result<VcpuThreads> {
        let mut kicks = vec![first];
        let mut threads = Vec::new();
        for mut vcpu in vcpus {
            kicks.push(vcpu.kick());
            threads.push(VcpuThread {
                vcpu: Arc::new(Mutex::new(vcpu)),
                thread: None,
            });
        }
        let mut all = VcpuThreads {
            shared: Arc::new(Shared {
                state: Mutex::default(),
                changed: Condvar::new(),
                stop: AtomicBool::new(false),
                kicks,
            }),
            threads,
            places,
        };
        for (number, other) in (1..).zip(&mut all.threads) {
            let (shared, vcpu) = (Arc::clone(&all.shared), Arc::clone(&other.vcpu));
            let (bus, places) = (bus.clone(), all.places.clone());
            let builder = thread::Builder::new().name(format!("vcpu {number}"));
            other.thread = Some(builder.spawn(move || {
                if let Some(places) = places {
                    places.pin(number);
                }
                serve(&shared, number, &vcpu, &bus);
            })?);
        }
        Ok(all)
    }

    /// Whether there are others than the first.
    pub(crate) fn is_empty(&self) -> bool {
        self.threads.is_empty()
    }

    /// Each of them, while they stand still.
    pub(crate) fn vcpus(&self) -> impl Iterator<Item = MutexGuard<'_, Vcpu>> {
        self.threads
            .iter()
            .map(|thread| thread.vcpu.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// CPU `number` can enter the guest from now on, on whatever thread.
    pub(crate) fn let_enter(&self, number: usize) {
        if let Some(kick) = self.shared.kicks.get(number) {
            kick.stay();
        }
    }

    /// No CPU can enter the guest from now on.
    pub(crate) fn let_none_enter(&self) {
        self.shared.kicks.iter().for_each(Kick::leave);
    }

    /// What has happened and was not decided about.
    pub(crate) fn take_news(&self) -> Option<News> {
        self.shared.lock().news.pop_front()
    }

    /// Lets them run, with the first CPU on the calling thread, until [`VcpuThreads::stop`].
    pub(crate) fn start(&self) {
        if let Some(places) = &self.places {
            places.pin(0);
        }
        // The order in which the flags are cleared and read is that of `serve`.
        self.shared.stop.store(false, Ordering::SeqCst);
        self.shared.kicks[0].stay();
        let mut state = self.shared.lock();
        state.first = Some(ArmedThread::own());
        state.running = self.threads.len();
        state.round += 1;
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Whether the first CPU is to stop, too.
    pub(crate) fn is_stopping(&self) -> bool {
        self.shared.stop.load(Ordering::SeqCst)
    }

    /// Stops them, and returns when they stand still. To be called by the thread that called [`VcpuThreads::start`].
    pub(crate) fn stop(&self) {
        self.shared.call_stop();
        let mut state = self.shared.lock();
        state.first = None;
        while state.running > 0 {
            state.others.iter().copied().for_each(ArmedThread::signal);
            let waited = self.shared.changed.wait_timeout(state, REPEAT);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        if let Some(places) = &self.places {
            places.unpin();
        }
    }
}

impl Drop for VcpuThreads {
    fn drop(&mut self) {
        self.shared.lock().quit = true;
        self.shared.changed.notify_all();
        for thread in &mut self.threads {
            if let Some(thread) = thread.thread.take() {
                // It stands still, and ends by `quit`; a panic in it would have nothing left to break.
                let _ = thread.join();
            }
        }
    }
}

/// What such a thread does until all are dropped.
fn serve(shared: &Shared, number: usize, vcpu: &Mutex<Vcpu>, bus: &Bus) {
    // A thread may have been born with all signals blocked. The call cannot fail: the signal exists.
    let _ = unblock_signal(SIGRTMIN());
    shared.lock().others.push(ArmedThread::own());
    let mut done = 0;
    loop {
        let mut state = shared.lock();
        while state.round == done && !state.quit {
            state = shared
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if state.quit {
            return;
        }
        done = state.round;
        drop(state);

        // Who stops all sets the flag and then kicks: either the flag is seen below, or the kick comes after
        // this and makes the CPU leave.
        shared.kicks[number].stay();
        let news = run(shared, number, vcpu, bus);
        let mut state = shared.lock();
        if let Some(news) = news {
            state.news.push_back((number, news));
            shared.call_stop();
            if let Some(first) = state.first {
                first.signal();
            }
        }
        state.running -= 1;
        drop(state);
        shared.changed.notify_all();
    }
}

/// Runs a CPU until everybody is to stop, or it has something to decide about.
fn run(
    shared: &Shared,
    number: usize,
    vcpu: &Mutex<Vcpu>,
    bus: &Bus,
) -> Option<Result<Stop, RunError>> {
    let mut vcpu = vcpu.lock().unwrap_or_else(PoisonError::into_inner);
    let mut refusals = 0;
    while !shared.stop.load(Ordering::SeqCst) {
        match bus.step(&mut vcpu, &mut refusals) {
            Ok(None) => {}
            Ok(Some(stop)) => return Some(Ok(stop)),
            Err(error) => return Some(Err(error)),
        }
    }
    log::trace!("CPU {number} stands still");
    None
}
