//! The host's KVM: whether it is there, which module drives it, what it can do.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use kvm_ioctls::{Cap, Kvm};

use crate::cpuid::Cpuid;

/// Where KVM's device is on every distribution.
pub const DEVICE: &str = "/dev/kvm";

/// The only version of the KVM API since Linux 2.6.22 (Documentation/virt/kvm/api.rst, 4.1).
const API_VERSION: i32 = 12;

/// Why this host's KVM cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "each variant's message says what it is and what its fields are"
)]
pub enum KvmError {
    #[error(
        "there is no {}: KVM is not on this host. Load its module (`sudo modprobe kvm_intel` or \
         `kvm_amd`), switch on VT-x or AMD-V in the firmware; inside a virtual machine ask for nested \
         virtualization, inside a container pass `--device /dev/kvm`",
        path.display()
    )]
    Missing { path: PathBuf },
    #[error(
        "no permission to open {}: join its group (`sudo usermod -aG kvm $USER`, then log in \
         again), or for this session `sudo setfacl -m u:$USER:rw {}`",
        path.display(),
        path.display()
    )]
    Permission { path: PathBuf },
    #[error(
        "{} is there but nothing answers behind it: load the module (`sudo modprobe kvm_intel` or \
         `kvm_amd`); if that fails, `sudo dmesg | grep -i kvm` says why",
        path.display()
    )]
    ModuleNotLoaded { path: PathBuf },
    #[error(
        "{what} is busy: another hypervisor holds this CPU's virtualization. End it (VirtualBox, \
         VMware; `lsmod | grep -e vbox -e vmmon`) and try again"
    )]
    Busy { what: String },
    #[error("{} is not KVM's device: point at the real one, usually {DEVICE}", path.display())]
    NotKvm { path: PathBuf },
    #[error("could not open {}: {source}; raise the limit (`ulimit -n`)", path.display())]
    OpenFiles {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "KVM speaks API version {found}, this program {API_VERSION}: the host kernel is too old; use Linux 4.14 or newer"
    )]
    ApiVersion { found: i32 },
    #[error(
        "this host's KVM lacks {names}: use a newer kernel, or a host whose hypervisor offers it"
    )]
    Capabilities { names: String },
    #[error("could not {what}: {source}; `sudo dmesg | tail` may say more")]
    Call {
        what: &'static str,
        source: std::io::Error,
    },
}

/// `Result::map_err` for a KVM call that failed: what was tried, and the errno.
pub(crate) fn call(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> KvmError {
    move |error| match error.errno() {
        libc::EBUSY => KvmError::Busy {
            what: format!("KVM, asked to {what},"),
        },
        errno => KvmError::Call {
            what,
            source: std::io::Error::from_raw_os_error(errno),
        },
    }
}

/// The kernel module behind `/dev/kvm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvmModule {
    /// VT-x.
    Intel,
    /// SVM.
    Amd,
    /// Software virtualization, for hosts without either: the guest kernel is emulated.
    Pvm,
}

impl KvmModule {
    /// All that are known.
    pub const ALL: [KvmModule; 3] = [KvmModule::Intel, KvmModule::Amd, KvmModule::Pvm];

    /// Its name under `/sys/module`.
    pub const fn name(self) -> &'static str {
        match self {
            KvmModule::Intel => "kvm_intel",
            KvmModule::Amd => "kvm_amd",
            KvmModule::Pvm => "kvm_pvm",
        }
    }

    /// Features that a guest sees in CPUID and may use in ring 3, but whose instructions this KVM cannot
    /// run in ring 0, by their names in Linux's /proc/cpuinfo. Linux does without them when it is told so.
    pub const fn unemulated(self) -> &'static [&'static str] {
        match self {
            KvmModule::Intel | KvmModule::Amd => &[],
            // `cmpxchg16b`, `popcnt`, `rdtscp`, `xsave` and `xrstor` are what a Linux kernel uses itself.
            KvmModule::Pvm => &["cx16", "popcnt", "rdtscp", "xsave"],
        }
    }

    /// The one that is loaded on this host.
    pub fn loaded() -> Option<KvmModule> {
        KvmModule::ALL
            .into_iter()
            .find(|module| Path::new("/sys/module").join(module.name()).exists())
    }
}

impl fmt::Display for KvmModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Something KVM can do, and what it is for here.
#[derive(Clone, Copy, Debug)]
pub struct Capability {
    /// Its name in Linux's `kvm.h`.
    pub name: &'static str,
    /// What it is for here.
    pub purpose: &'static str,
    /// Without it no machine can be made.
    pub required: bool,
    cap: Cap,
}

impl Capability {
    const fn required(cap: Cap, name: &'static str, purpose: &'static str) -> Self {
        Capability {
            name,
            purpose,
            required: true,
            cap,
        }
    }

    const fn optional(cap: Cap, name: &'static str, purpose: &'static str) -> Self {
        Capability {
            name,
            purpose,
            required: false,
            cap,
        }
    }

    /// Every capability that is used.
    pub const ALL: [Capability; 9] = [
        Capability::required(
            Cap::UserMemory,
            "KVM_CAP_USER_MEMORY",
            "guest memory from an mmap",
        ),
        Capability::required(
            Cap::Irqchip,
            "KVM_CAP_IRQCHIP",
            "interrupt controllers in the host kernel",
        ),
        Capability::required(Cap::Irqfd, "KVM_CAP_IRQFD", "the serial port's interrupt"),
        Capability::required(
            Cap::Pit2,
            "KVM_CAP_PIT2",
            "the timer that Linux measures others by",
        ),
        Capability::required(
            Cap::ExtCpuid,
            "KVM_CAP_EXT_CPUID",
            "telling the guest its CPU's features",
        ),
        Capability::required(
            Cap::SetTssAddr,
            "KVM_CAP_SET_TSS_ADDR",
            "real-mode emulation on older Intel CPUs",
        ),
        Capability::optional(
            Cap::TscDeadlineTimer,
            "KVM_CAP_TSC_DEADLINE_TIMER",
            "the guest's most precise timer",
        ),
        Capability::optional(Cap::X2ApicApi, "KVM_CAP_X2APIC_API", "more than 255 CPUs"),
        Capability::optional(
            Cap::InternalErrorData,
            "KVM_CAP_INTERNAL_ERROR_DATA",
            "naming an instruction KVM cannot emulate",
        ),
    ];
}

/// The limits of this host's KVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// vCPUs per machine that KVM recommends.
    pub recommended_vcpus: usize,
    /// vCPUs per machine at most.
    pub max_vcpus: usize,
    /// Separate pieces of guest memory at most.
    pub memory_slots: usize,
}

/// An open `/dev/kvm`.
#[derive(Debug)]
pub struct Host {
    kvm: Kvm,
    module: Option<KvmModule>,
}

impl Host {
    /// Opens [`DEVICE`].
    ///
    /// # Errors
    /// [`KvmError`]: no such device, no permission, nothing behind it, another API version.
    pub fn open() -> Result<Host, KvmError> {
        Host::open_at(Path::new(DEVICE))
    }

    /// Opens KVM's device at another path.
    ///
    /// # Errors
    /// As [`Host::open`]; [`KvmError::NotKvm`] for a file that is something else.
    pub fn open_at(path: &Path) -> Result<Host, KvmError> {
        let name = std::ffi::CString::new(path.as_os_str().as_bytes())
            .map_err(|_| KvmError::Missing { path: path.into() })?;
        let kvm = Kvm::new_with_path(name).map_err(|error| open_error(path, error.errno()))?;
        match kvm.get_api_version() {
            API_VERSION => Ok(Host {
                kvm,
                module: KvmModule::loaded(),
            }),
            found if found < 0 => Err(KvmError::NotKvm { path: path.into() }),
            found => Err(KvmError::ApiVersion { found }),
        }
    }

    /// The module behind it, if it is one that has a name here.
    pub fn module(&self) -> Option<KvmModule> {
        self.module
    }

    /// Whether this KVM has `capability`.
    pub fn has(&self, capability: &Capability) -> bool {
        self.kvm.check_extension(capability.cap)
    }

    /// Makes sure that every required capability is there.
    ///
    /// # Errors
    /// [`KvmError::Capabilities`] names all that are missing.
    pub fn require_capabilities(&self) -> Result<(), KvmError> {
        let missing: Vec<&str> = Capability::ALL
            .iter()
            .filter(|capability| capability.required && !self.has(capability))
            .map(|capability| capability.name)
            .collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(KvmError::Capabilities {
                names: missing.join(", "),
            })
        }
    }

    /// How much of everything a machine may have.
    pub fn limits(&self) -> Limits {
        Limits {
            recommended_vcpus: self.kvm.get_nr_vcpus(),
            max_vcpus: self.kvm.get_max_vcpus(),
            memory_slots: self.kvm.get_nr_memslots(),
        }
    }

    /// The CPU that this host can offer to a guest.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn cpuid(&self) -> Result<Cpuid, KvmError> {
        let timer = self.kvm.check_extension(Cap::TscDeadlineTimer);
        self.kvm
            .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
            .map(|table| Cpuid::new(table, timer))
            .map_err(call(
                "read the CPU features that KVM offers (KVM_GET_SUPPORTED_CPUID)",
            ))
    }

    /// The raw handle, to make a virtual machine with.
    pub(crate) fn kvm(&self) -> &Kvm {
        &self.kvm
    }
}

/// What an errno of `open` means to people.
fn open_error(path: &Path, errno: i32) -> KvmError {
    let path = path.to_path_buf();
    match errno {
        libc::ENOENT => KvmError::Missing { path },
        libc::EACCES | libc::EPERM => KvmError::Permission { path },
        libc::ENXIO | libc::ENODEV => KvmError::ModuleNotLoaded { path },
        libc::EBUSY => KvmError::Busy {
            what: path.display().to_string(),
        },
        // A folder, a socket, a link to itself.
        libc::EISDIR | libc::ELOOP | libc::ENOTDIR => KvmError::NotKvm { path },
        libc::EMFILE | libc::ENFILE => KvmError::OpenFiles {
            path,
            source: std::io::Error::from_raw_os_error(errno),
        },
        _ => KvmError::Call {
            what: "open /dev/kvm",
            source: std::io::Error::from_raw_os_error(errno),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_fail_to_open_names_its_remedy() {
        let message = |errno| open_error(Path::new(DEVICE), errno).to_string();
        assert!(message(libc::ENOENT).contains("modprobe"));
        assert!(message(libc::EACCES).contains("usermod -aG kvm"));
        assert!(message(libc::EPERM).contains("setfacl"));
        assert!(message(libc::ENODEV).contains("modprobe"));
        assert!(message(libc::ENXIO).contains("dmesg"));
        assert!(message(libc::EBUSY).contains("another hypervisor"));
        assert!(message(libc::EMFILE).contains("Too many open files"));
    }

    #[test]
    fn a_busy_cpu_is_told_apart_from_other_failures_of_a_call() {
        let busy = call("make a machine")(kvm_ioctls::Error::new(libc::EBUSY));
        assert!(matches!(busy, KvmError::Busy { .. }), "{busy}");
        let other = call("make a machine")(kvm_ioctls::Error::new(libc::ENOMEM));
        assert!(other.to_string().contains("make a machine"), "{other}");
    }
}
