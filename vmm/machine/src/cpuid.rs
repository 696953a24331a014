//! The CPU as the guest sees it through the CPUID instruction (Intel SDM vol. 2A, CPUID).

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

/// A table of CPUID: what KVM offers on this host, or what one vCPU shows its guest.
#[derive(Clone, Debug)]
pub struct Cpuid {
    table: CpuId,
}

/// The registers in which CPUID tells features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Register {
    Ebx,
    Ecx,
    Edx,
}

/// A feature of paging or protection that a guest kernel asks about, by the name that our own kernel's
/// `clearcpuid=` takes for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// The name.
    pub name: &'static str,
    leaf: u32,
    register: Register,
    bit: u32,
}

impl Feature {
    const fn new(name: &'static str, leaf: u32, register: Register, bit: u32) -> Self {
        Feature {
            name,
            leaf,
            register,
            bit,
        }
    }

    /// 1 GiB leaves in a PDPT.
    pub const GIGABYTE_PAGES: Feature =
        Feature::new("1gib-pages", EXTENDED_FEATURES, Register::Edx, 26);

    /// All that matter to page tables and their protection.
    pub const ALL: [Feature; 10] = [
        Feature::new("nx", EXTENDED_FEATURES, Register::Edx, 20),
        Feature::new("smep", 7, Register::Ebx, 7),
        Feature::new("smap", 7, Register::Ebx, 20),
        Feature::new("umip", 7, Register::Ecx, 2),
        Feature::new("pcid", 1, Register::Ecx, 17),
        Feature::new("invpcid", 7, Register::Ebx, 10),
        Feature::new("la57", 7, Register::Ecx, 16),
        Feature::GIGABYTE_PAGES,
        Feature::new("x2apic", 1, Register::Ecx, 21),
        Feature::new("tsc-deadline", 1, Register::Ecx, TSC_DEADLINE_BIT),
    ];
}

impl Feature {
    /// The name in Linux's /proc/cpuinfo, which Linux's `clearcpuid=` takes.
    pub fn linux_name(self) -> &'static str {
        match self.name {
            "1gib-pages" => "pdpe1gb",
            "tsc-deadline" => "tsc_deadline_timer",
            name => name,
        }
    }
}

const EXTENDED_FEATURES: u32 = 0x8000_0001;
const ADDRESS_SIZES: u32 = 0x8000_0008;
/// Leaf 1, ECX: the local APIC's timer can be armed with a TSC value.
const TSC_DEADLINE_BIT: u32 = 24;
/// Leaf 1, ECX: "this is a virtual machine", never set by real hardware.
const HYPERVISOR_BIT: u32 = 31;
/// What a CPU without leaf 0x80000008 has (Intel SDM vol. 3A, 4.1.4).
const DEFAULT_PHYSICAL_BITS: u8 = 36;

/// How a guest stands with a [`Feature`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is there.
    Usable,
    /// The guest's CPUID shows it, but KVM cannot run it. kvm_pvm does so: it shows host features, such as
    /// SMEP, that fault when a guest switches them on.
    Overstated,
    /// It is not there.
    Absent,
}

impl Cpuid {
    /// `deadline_timer`: KVM emulates the TSC deadline timer, which its table does not say by itself.
    pub(crate) fn new(mut table: CpuId, deadline_timer: bool) -> Self {
        for entry in table.as_mut_slice() {
            if entry.function == 1 {
                entry.ecx |= 1 << HYPERVISOR_BIT | u32::from(deadline_timer) << TSC_DEADLINE_BIT;
            }
        }
        Cpuid { table }
    }

    /// As KVM keeps it for a vCPU, which is not always what it was given.
    pub(crate) fn of_vcpu(table: CpuId) -> Self {
        Cpuid { table }
    }

    /// Whether the table shows `feature`.
    pub fn shows(&self, feature: Feature) -> bool {
        self.leaf(feature.leaf).is_some_and(|entry| {
            let word = match feature.register {
                Register::Ebx => entry.ebx,
                Register::Ecx => entry.ecx,
                Register::Edx => entry.edx,
            };
            word >> feature.bit & 1 == 1
        })
    }

    /// MAXPHYADDR: bits of a guest-physical address. 36 to 52.
    pub fn max_phys_addr(&self) -> u8 {
        self.leaf(ADDRESS_SIZES)
            .and_then(|entry| u8::try_from(entry.eax & 0xff).ok())
            .filter(|bits| (32..=52).contains(bits))
            .unwrap_or(DEFAULT_PHYSICAL_BITS)
    }

    /// The vendor's 12 letters, from leaf 0.
    pub fn vendor(&self) -> String {
        let Some(leaf) = self.leaf(0) else {
            return String::new();
        };
        let letters: Vec<u8> = [leaf.ebx, leaf.edx, leaf.ecx]
            .into_iter()
            .flat_map(u32::to_le_bytes)
            .collect();
        String::from_utf8_lossy(&letters).into_owned()
    }

    /// The table for CPU `id` of `count` in one package without hyper-threads: KVM copies topology and APIC ids
    /// of whichever host CPU it happened to run on, which would tell the guest of CPUs it has not.
    #[must_use]
    pub(crate) fn for_vcpu(&self, id: u8, count: u8) -> CpuId {
        let mut table = self.table.clone();
        for entry in table.as_mut_slice() {
            match entry.function {
                1 => {
                    let identity = u32::from(count) << 16 | u32::from(id) << 24;
                    entry.ebx = entry.ebx & 0x0000_ffff | identity;
                }
                // Caches shared by 1 thread; so many cores in the package, less one (bits 25–14 and 31–26).
                4 => entry.eax = entry.eax & 0x3fff | u32::from(count - 1) << 26,
                0xb | 0x1f => entry.edx = u32::from(id),
                _ => {}
            }
        }
        table
    }

    fn leaf(&self, function: u32) -> Option<&kvm_cpuid_entry2> {
        self.table
            .as_slice()
            .iter()
            .find(|entry| entry.function == function && entry.index == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpuid(entries: &[kvm_cpuid_entry2]) -> Cpuid {
        Cpuid::new(CpuId::from_entries(entries).unwrap(), true)
    }

    #[test]
    fn address_bits_come_from_their_leaf_and_nonsense_falls_back() {
        let with = |eax| {
            cpuid(&[kvm_cpuid_entry2 {
                function: ADDRESS_SIZES,
                eax,
                ..Default::default()
            }])
            .max_phys_addr()
        };
        assert_eq!(with(0x3027), 39);
        assert_eq!(with(0x3034), 52);
        assert_eq!(with(0), DEFAULT_PHYSICAL_BITS);
        assert_eq!(with(0xff), DEFAULT_PHYSICAL_BITS);
        assert_eq!(cpuid(&[]).max_phys_addr(), DEFAULT_PHYSICAL_BITS);
    }

    #[test]
    fn a_feature_is_shown_only_when_its_bit_is_set() {
        let named = |name| Feature::ALL.into_iter().find(|f| f.name == name).unwrap();
        let cpu = cpuid(&[kvm_cpuid_entry2 {
            function: 7,
            ebx: 1 << 7,
            ..Default::default()
        }]);
        assert!(cpu.shows(named("smep")));
        assert!(!cpu.shows(named("smap")));
        assert!(!cpuid(&[]).shows(named("smep")));
    }

    #[test]
    fn a_vcpu_is_told_its_own_apic_id_and_that_it_is_virtual() {
        let host = cpuid(&[
            kvm_cpuid_entry2 {
                function: 1,
                ebx: 0x0710_0800,
                ..Default::default()
            },
            kvm_cpuid_entry2 {
                function: 0xb,
                edx: 7,
                ..Default::default()
            },
        ]);
        let table = host.for_vcpu(3, 4);
        assert_eq!(table.as_slice()[0].ebx, 0x0304_0800);
        assert_eq!(table.as_slice()[0].ecx >> HYPERVISOR_BIT, 1);
        assert_eq!(table.as_slice()[1].edx, 3);
    }
}
