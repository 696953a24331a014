//! A guest of each variant, booted once for all tests and held at one moment, with a core of it.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use heirloom_inspect::{
    Capturer, CpuState, Half, Mapping, Mode, PhysAddr, RootLabel, Snapshot, VirtRange,
};

use crate::command;
use crate::common::linux::core::Core;
use crate::common::linux::gdb::Gdb;
use crate::common::linux::kernel_data::KernelData;
use crate::common::linux::qmp::Qmp;
use crate::common::linux::{Guest, Listing, Variant, registers};

/// A guest that stands still.
pub(crate) struct Image {
    pub(crate) guest: Guest,
    pub(crate) moment: Moment,
    machine: Mutex<Machine>,
}

/// A guest's memory and registers at one moment.
pub(crate) struct Moment {
    /// All of the memory, as QEMU dumped it.
    pub(crate) core: PathBuf,
    pub(crate) cpus: Vec<CpuState>,
    variant: Variant,
}

/// QEMU, from the inside.
pub(crate) struct Machine {
    pub(crate) qmp: Qmp,
    gdb: Gdb,
}

impl Image {
    /// The image of a variant.
    pub(crate) fn of(variant: Variant) -> &'static Image {
        static IMAGES: [OnceLock<Image>; Variant::ALL.len()] =
            [const { OnceLock::new() }; Variant::ALL.len()];
        let number = Variant::ALL
            .iter()
            .position(|other| *other == variant)
            .unwrap();
        IMAGES[number].get_or_init(|| Image::take(variant))
    }

    fn take(variant: Variant) -> Image {
        let guest = Guest::boot(variant);
        eprintln!("{}: ready after {:?}", variant.name, guest.boot_time);
        let mut qmp = guest.qmp();
        let moment = Moment::stop_at(&guest, &mut qmp, "core");
        let socket = guest.folder().join("gdb");
        let listen = format!("gdbserver unix:{},server=on,wait=off", socket.display());
        qmp.monitor(&listen);
        let machine = Mutex::new(Machine {
            qmp,
            gdb: Gdb::connect(&socket),
        });
        Image {
            guest,
            moment,
            machine,
        }
    }

    /// What `heirloom` is told to look at.
    pub(crate) fn target(&self) -> String {
        self.moment.target()
    }

    /// What the guest says of itself.
    pub(crate) fn listing(&self) -> &Listing {
        &self.guest.listing
    }

    /// The tables of every address space that the kernel knows of.
    pub(crate) fn capture(&self) -> Snapshot {
        self.moment.capture(&self.guest.listing)
    }

    /// What the guest's kernel knows.
    pub(crate) fn kernel_data<'a>(&'a self, core: &'a Core) -> KernelData<'a, Core> {
        self.moment.kernel_data(core, &self.guest.listing)
    }

    /// QEMU for this test alone; every CPU has its own CR3.
    pub(crate) fn machine(&self) -> MutexGuard<'_, Machine> {
        // A test that failed has left the machine as it must be.
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Moment {
    /// Stops a guest, where a process spins while a CPU is in ring 3, and dumps it to the file `name`.
    pub(crate) fn stop_at(guest: &Guest, qmp: &mut Qmp, name: &str) -> Moment {
        let cpus = stop(qmp, guest.variant);
        let core = guest.folder().join(name);
        qmp.dump(&core, false);
        Moment {
            core,
            cpus,
            variant: guest.variant,
        }
    }

    pub(crate) fn target(&self) -> String {
        command::core(&self.core)
    }

    pub(crate) fn open_core(&self) -> Core {
        Core::open(&self.core)
    }

    pub(crate) fn mode(&self) -> Mode {
        registers::mode(&self.cpus[0])
    }

    /// What the guest's kernel knew.
    pub(crate) fn kernel_data<'a>(
        &self,
        core: &'a Core,
        listing: &'a Listing,
    ) -> KernelData<'a, Core> {
        // Any root with the kernel half will do.
        let root = self.cpus[0].cr3.root();
        let root = if self.variant.pti {
            partner_of(root, Partner::Kernel)
        } else {
            root
        };
        KernelData::new(core, self.mode(), root, listing)
    }

    /// The tables of every address space that the kernel knew of: its own, the processes', and the user
    /// roots of all of them.
    pub(crate) fn capture(&self, listing: &Listing) -> Snapshot {
        let core = self.open_core();
        let kernel_data = self.kernel_data(&core, listing);
        let mut roots = vec![kernel_data.init_top_pgt()];
        roots.extend(kernel_data.roots().into_keys());
        if self.variant.pti {
            let users: Vec<PhysAddr> = roots
                .iter()
                .map(|root| partner_of(*root, Partner::User))
                .collect();
            roots.extend(users);
        }
        let roots: Vec<(RootLabel, PhysAddr)> = roots
            .into_iter()
            .map(|root| (RootLabel::Found(root), root))
            .collect();
        Capturer::new().capture(&core, self.mode(), &roots)
    }
}

impl Machine {
    /// What `ask` asks while the first CPU has `root`.
    pub(crate) fn with_root<T>(&mut self, root: PhysAddr, ask: impl FnOnce(&mut Qmp) -> T) -> T {
        let own = PhysAddr::new(self.gdb.cr3());
        self.gdb.set_root(root);
        let answer = ask(&mut self.qmp);
        self.gdb.set_root(own);
        answer
    }
}

/// A process with a page that it may write to: its root, and the page.
pub(crate) fn some_user_page(snapshot: &Snapshot) -> (PhysAddr, Mapping) {
    let mut pages = snapshot.roots().iter().flat_map(|root| {
        let pages = snapshot.leaves(root.id, VirtRange::half(Half::User));
        pages.map(|page| (root.address, page))
    });
    let writable = pages.find(|(_, page)| page.rights.user && page.rights.write);
    writable.unwrap()
}

/// Which root of a KPTI pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Partner {
    Kernel,
    User,
}

/// One root of the pair that `root` belongs to: Linux tells them apart by bit 12.
pub(crate) fn partner_of(root: PhysAddr, which: Partner) -> PhysAddr {
    match which {
        Partner::Kernel => PhysAddr::new(root.get() & !0x1000),
        Partner::User => PhysAddr::new(root.get() | 0x1000),
    }
}

/// Stops a guest: every CPU's registers.
fn stop(qmp: &mut Qmp, variant: Variant) -> Vec<CpuState> {
    let started = Instant::now();
    loop {
        qmp.stop();
        let cpus = registers::parse(&qmp.monitor("info registers -a"));
        assert_eq!(cpus.len(), variant.cpus as usize);
        if !variant.words.contains("spin") || cpus.iter().any(|cpu| cpu.cpl == 3) {
            return cpus;
        }
        assert!(
            started.elapsed() < Duration::from_secs(300),
            "no CPU is ever in ring 3"
        );
        qmp.resume();
        std::thread::sleep(Duration::from_millis(10));
    }
}
