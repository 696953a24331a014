//! `heirloom doctor`: whether this host can run heirloom, and how to fix what is missing.

use std::io;
use std::path::{Path, PathBuf};

use heirloom_harness::guest;
use heirloom_machine::cpuid::{Feature, Standing};
use heirloom_machine::kvm::{Capability, DEVICE, KvmModule};
use heirloom_machine::qemu::{Accelerator, PROGRAM};
use heirloom_machine::{Config, Host, Machine, MemorySize, Qemu};
use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::sandbox;

/// Version of the JSON.
const SCHEMA: u32 = 1;

/// Options of `heirloom doctor`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    /// KVM's device, where it is not in its usual place.
    #[arg(long, value_name = "PATH", default_value = DEVICE)]
    device: PathBuf,
}

/// What was found. The JSON is this structure.
#[derive(Serialize)]
struct Report {
    schema: u32,
    /// Whether `heirloom run` can work here.
    usable: bool,
    device: String,
    /// The kernel module behind the device.
    module: Option<&'static str>,
    capabilities: Vec<CapabilityFound>,
    limits: Option<LimitsFound>,
    cpu: Option<CpuFound>,
    sandbox: SandboxFound,
    /// The machine of `--machine qemu`, if it is installed.
    qemu: Option<QemuFound>,
    /// What is wrong, each with its remedy.
    problems: Vec<String>,
}

#[derive(Serialize)]
struct CapabilityFound {
    name: &'static str,
    purpose: &'static str,
    required: bool,
    present: bool,
}

#[derive(Serialize)]
struct LimitsFound {
    recommended_vcpus: usize,
    max_vcpus: usize,
    memory_slots: usize,
}

/// What the host's kernel has for a sandbox.
#[derive(Serialize)]
struct SandboxFound {
    /// System calls can be filtered.
    seccomp: bool,
    /// The version of Landlock, which confines to files.
    landlock: Option<i32>,
}

impl SandboxFound {
    fn line(&self) -> String {
        let calls = if self.seccomp {
            "system calls are filtered (seccomp)"
        } else {
            "system calls are not filtered, as this kernel has no seccomp"
        };
        match self.landlock {
            Some(version) => format!("sandbox: {calls}, files are confined (Landlock {version})"),
            None => format!(
                "sandbox: {calls}; files are not confined, as this kernel has no Landlock: Linux \
                 has it since 5.13, and where it is built in, `lsm=landlock,…` among the \
                 kernel's words switches it on"
            ),
        }
    }
}

#[derive(Serialize)]
struct CpuFound {
    vendor: String,
    max_phys_addr: u8,
    features: Vec<FeatureFound>,
}

#[derive(Serialize)]
struct QemuFound {
    program: &'static str,
    /// `None` if it does not say.
    version: Option<String>,
}

#[derive(Serialize)]
struct FeatureFound {
    name: &'static str,
    standing: StandingFound,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum StandingFound {
    Usable,
    /// Shown by CPUID, but KVM cannot run it; the guest kernel is told to leave it.
    Overstated,
    Absent,
}

/// Examines the host and prints what was found.
pub(crate) fn run(options: &Options) -> Result<Exit, Failure> {
    let report = examine(&options.device);
    let mut output = Output::new()?;
    if options.json {
        let json = serde_json::to_string_pretty(&report)
            .map_err(|error| Failure::new(Exit::Host, format!("could not write JSON: {error}")))?;
        output.line(&json)?;
    } else {
        for line in report.lines() {
            output.line(&line)?;
        }
    }
    Ok(if report.usable {
        Exit::Good
    } else {
        Exit::Host
    })
}

fn examine(device: &Path) -> Report {
    let mut report = Report {
        schema: SCHEMA,
        usable: false,
        device: device.display().to_string(),
        module: KvmModule::loaded().map(KvmModule::name),
        capabilities: Vec::new(),
        limits: None,
        cpu: None,
        sandbox: SandboxFound {
            seccomp: sandbox::are_filtered_here(),
            landlock: sandbox::landlock_version(),
        },
        qemu: Qemu::new(PROGRAM, Accelerator::Tcg)
            .ok()
            .map(|qemu| QemuFound {
                program: PROGRAM,
                version: qemu.version(),
            }),
        problems: Vec::new(),
    };
    match Host::open_at(device) {
        Ok(host) => {
            let found = report.question(&host);
            match found.and_then(|()| try_machine(&host)) {
                Ok(machine) => report.cpu = Some(examine_cpu(&machine)),
                Err(problem) => report.problems.push(problem),
            }
        }
        Err(error) => report.problems.push(error.to_string()),
    }
    report.usable = report.problems.is_empty();
    report
}

/// Makes a machine with the embedded guest in it: some hindrances (another hypervisor that holds the
/// CPU) show only then.
fn try_machine(host: &Host) -> Result<Machine, String> {
    let kernel = guest::kernel().map_err(|error| error.to_string())?;
    let config = Config {
        memory: MemorySize::MINIMUM,
        kernel,
        command_line: String::new(),
        modules: guest::modules(),
        console: Box::new(io::sink()),
        cpus: heirloom_machine::Cpus::default(),
        doorbell: None,
    };
    Machine::on(host, config).map_err(|error| error.to_string())
}

fn examine_cpu(machine: &Machine) -> CpuFound {
    CpuFound {
        vendor: machine.cpu_vendor(),
        max_phys_addr: machine.max_phys_addr(),
        features: Feature::ALL
            .into_iter()
            .map(|feature| FeatureFound {
                name: feature.name,
                standing: match machine.standing(feature) {
                    Standing::Usable => StandingFound::Usable,
                    Standing::Overstated => StandingFound::Overstated,
                    Standing::Absent => StandingFound::Absent,
                },
            })
            .collect(),
    }
}

impl Report {
    /// Asks an open KVM for all that it can tell.
    fn question(&mut self, host: &Host) -> Result<(), String> {
        self.capabilities = Capability::ALL
            .iter()
            .map(|capability| CapabilityFound {
                name: capability.name,
                purpose: capability.purpose,
                required: capability.required,
                present: host.has(capability),
            })
            .collect();
        let limits = host.limits();
        self.limits = Some(LimitsFound {
            recommended_vcpus: limits.recommended_vcpus,
            max_vcpus: limits.max_vcpus,
            memory_slots: limits.memory_slots,
        });
        host.require_capabilities()
            .map_err(|error| error.to_string())
    }

    /// The report for people.
    fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("KVM: {}, {}", self.device, kind(self.module))];
        if !self.capabilities.is_empty() {
            lines.push("capabilities:".into());
        }
        for found in &self.capabilities {
            let state = match (found.present, found.required) {
                (true, _) => "ok",
                (false, true) => "MISSING",
                (false, false) => "absent",
            };
            lines.push(format!("  {state:<8} {:<28} {}", found.name, found.purpose));
        }
        if let Some(limits) = &self.limits {
            lines.push(format!(
                "limits: {} vCPUs ({} recommended), {} memory slots",
                limits.max_vcpus, limits.recommended_vcpus, limits.memory_slots
            ));
        }
        if let Some(cpu) = &self.cpu {
            lines.push(format!(
                "CPU offered to guests: {}, {}-bit physical addresses",
                cpu.vendor, cpu.max_phys_addr
            ));
            for (label, standing) in [
                ("has", StandingFound::Usable),
                ("has not", StandingFound::Absent),
                ("claims", StandingFound::Overstated),
            ] {
                let names: Vec<&str> = cpu
                    .features
                    .iter()
                    .filter(|feature| feature.standing == standing)
                    .map(|feature| feature.name)
                    .collect();
                let remark = match standing {
                    StandingFound::Overstated => {
                        " (but KVM cannot run them; the guest kernel is told)"
                    }
                    _ => "",
                };
                if !names.is_empty() {
                    lines.push(format!("  {label:<8} {}{remark}", names.join(", ")));
                }
            }
        }
        lines.push(self.sandbox.line());
        lines.extend(self.second_machine());
        for problem in &self.problems {
            lines.push(format!("problem: {problem}"));
        }
        lines.push(
            if self.usable {
                "This host can run heirloom."
            } else {
                "This host cannot run heirloom yet."
            }
            .into(),
        );
        lines
    }
}

impl Report {
    /// What there is beside KVM, and what it shows that a KVM may not.
    fn second_machine(&self) -> Vec<String> {
        let Some(qemu) = &self.qemu else {
            return vec![format!(
                "QEMU: no {PROGRAM} in PATH; with one, --machine qemu needs no KVM"
            )];
        };
        let version = qemu.version.as_deref().unwrap_or("of unknown version");
        vec![
            format!("QEMU: {} {version}, for --machine qemu", qemu.program),
            "  shows    smep, smap, la57 and 1gib-pages, whatever KVM has, and what a CPU".into(),
            "           reads by translations that were not flushed; needs no KVM".into(),
        ]
    }
}

/// What a module name means to people.
fn kind(module: Option<&'static str>) -> String {
    let module = KvmModule::ALL
        .into_iter()
        .find(|known| Some(known.name()) == module);
    match module {
        Some(module @ KvmModule::Intel) => format!("{module}: VT-x"),
        Some(module @ KvmModule::Amd) => format!("{module}: AMD-V"),
        Some(module @ KvmModule::Pvm) => {
            format!(
                "{module}: software virtualization; the guest kernel is emulated, so it is slow"
            )
        }
        None => "no module of kvm_intel, kvm_amd, kvm_pvm is loaded (or it is built in)".into(),
    }
}
