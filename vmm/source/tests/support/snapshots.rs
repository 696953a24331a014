//! Writers of snapshots and of Windows' dumps, from their documentation: independent of the readers.

use heirloom_inspect::{CpuState, Cr3, VirtAddr};

/// The registers of a CPU in long mode.
#[derive(Clone, Debug)]
pub(crate) struct Cpu {
    cr3: u64,
}

const CR0: u64 = 0x8005_0033;
const CR4: u64 = 0x0035_06e0;
const RIP: u64 = 0xffff_ffff_8123_4567;
const RSP: u64 = 0xffff_c900_0001_3e00;
const RBP: u64 = 0xffff_c900_0001_3f00;
const GDT: u64 = 0xffff_fe00_0000_1000;
const IDT: u64 = 0xffff_fe00_0000_0000;
const TSS: u64 = 0xffff_fe00_0000_3000;
const CR2: u64 = 0x7fff_0000_1000;

impl Cpu {
    pub(crate) fn new(cr3: u64) -> Cpu {
        Cpu { cr3 }
    }

    /// What a reader must find.
    pub(crate) fn state(&self) -> CpuState {
        CpuState {
            cr0: CR0,
            cr2: VirtAddr::new(CR2),
            cr3: Cr3::new(self.cr3),
            cr4: CR4,
            efer: 0xd01,
            cpl: 0,
            rip: VirtAddr::new(RIP),
            rsp: VirtAddr::new(RSP),
            rbp: VirtAddr::new(RBP),
            rflags: 0x246,
            idt: Some(VirtAddr::new(IDT)),
            gdt: Some(VirtAddr::new(GDT)),
            tss: Some(VirtAddr::new(TSS)),
        }
    }

    /// `struct kvm_regs`.
    fn kvm_regs() -> Vec<u8> {
        let words = [
            1, 2, 3, 4, 5, 6, RSP, RBP, 8, 9, 10, 11, 12, 13, 14, 15, RIP, 0x246,
        ];
        words.map(u64::to_le_bytes).concat()
    }

    /// `struct kvm_sregs`.
    fn kvm_sregs(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut segment = |base: u64, selector: u16, kind: u8, s: u8, l: u8| {
            bytes.extend(base.to_le_bytes());
            bytes.extend(0xffff_ffff_u32.to_le_bytes());
            bytes.extend(selector.to_le_bytes());
            // type, present, dpl, db, s, l, g, avl, unusable, padding.
            bytes.extend([kind, 1, 0, 0, s, l, 1, 0, 0, 0]);
        };
        segment(0, 0x10, 11, 1, 1);
        for _ in 0..5 {
            segment(0, 0x18, 3, 1, 0);
        }
        segment(TSS, 0x40, 11, 0, 0);
        segment(0, 0, 2, 0, 0);
        for (base, limit) in [(GDT, 0x7f_u16), (IDT, 0xfff)] {
            bytes.extend(base.to_le_bytes());
            bytes.extend(limit.to_le_bytes());
            bytes.extend([0; 6]);
        }
        for word in [CR0, CR2, self.cr3, CR4, 0, 0xd01, 0xfee0_0900, 0, 0, 0, 0] {
            bytes.extend(word.to_le_bytes());
        }
        assert_eq!(bytes.len(), 312);
        bytes
    }
}

/// A tag of VMware's, its value in place or as a block.
fn tag(out: &mut Vec<u8>, name: &str, indices: &[u32], value: &[u8], block: Option<bool>) {
    let size = match block {
        None => u8::try_from(value.len()).unwrap(),
        Some(true) => 62,
        Some(false) => 63,
    };
    out.push(size | u8::try_from(indices.len()).unwrap() << 6);
    out.push(u8::try_from(name.len()).unwrap());
    out.extend(name.as_bytes());
    out.extend(indices.iter().flat_map(|index| index.to_le_bytes()));
    if block.is_some() {
        let length = value.len() as u64;
        out.extend(length.to_le_bytes());
        out.extend(length.to_le_bytes());
        out.extend(5_u16.to_le_bytes());
        out.extend([0xcc; 5]);
    }
    out.extend(value);
}

/// A `.vmss`: CPUs, regions (page in the guest, page in the file, pages), memory and whether it is to be taken for
/// compressed; registers in blocks, as newer versions have them, or one by one.
pub(crate) fn vmware(
    cpus: &[Cpu],
    regions: &[(u32, u32, u32)],
    memory: Option<(&[u8], bool)>,
    in_blocks: bool,
) -> Vec<u8> {
    let groups = [
        ("Checkpoint", vec![0, 0]),
        ("cpu", vmware_cpus(cpus, in_blocks)),
        ("memory", vmware_memory(regions, memory)),
    ];
    let mut file = 0xbed2_bed2_u32.to_le_bytes().to_vec();
    file.extend(8_u32.to_le_bytes());
    file.extend(u32::try_from(groups.len()).unwrap().to_le_bytes());
    let mut at = 12 + 80 * groups.len();
    for (name, group) in &groups {
        let mut field = name.as_bytes().to_vec();
        field.resize(64, 0);
        file.extend(field);
        file.extend((at as u64).to_le_bytes());
        file.extend((group.len() as u64).to_le_bytes());
        at += group.len();
    }
    for (_, group) in groups {
        file.extend(group);
    }
    file
}

fn vmware_cpus(cpus: &[Cpu], in_blocks: bool) -> Vec<u8> {
    let mut cpu_group = Vec::new();
    let count = u32::try_from(cpus.len()).unwrap();
    tag(
        &mut cpu_group,
        "cpu:numVCPUs",
        &[],
        &count.to_le_bytes(),
        None,
    );
    for (number, cpu) in (0_u32..).zip(cpus) {
        let crs = [CR0, 0, CR2, cpu.cr3, CR4];
        let mut idtr = 0xfff_u16.to_le_bytes().to_vec();
        idtr.extend(IDT.to_le_bytes());
        if in_blocks {
            // rax, rcx, rdx, rbx, rbp, rsp, rsi, rdi, r8 to r15.
            let mut general = [1_u64; 16];
            (general[4], general[5]) = (RBP, RSP);
            let general = general.map(u64::to_le_bytes).concat();
            tag(&mut cpu_group, "gpregs", &[number], &general, Some(false));
            let crs = crs.map(u64::to_le_bytes).concat();
            tag(&mut cpu_group, "CR64", &[number], &crs, Some(false));
            tag(&mut cpu_group, "IDTR", &[number], &idtr, Some(false));
        } else {
            for (index, value) in (0_u32..).zip(crs) {
                tag(
                    &mut cpu_group,
                    "CR64",
                    &[number, index],
                    &value.to_le_bytes(),
                    None,
                );
            }
            tag(&mut cpu_group, "rsp", &[number], &RSP.to_le_bytes(), None);
            tag(&mut cpu_group, "rbp", &[number], &RBP.to_le_bytes(), None);
            let [low, high] =
                [IDT & 0xffff_ffff, IDT >> 32].map(|half| u32::try_from(half).unwrap());
            tag(
                &mut cpu_group,
                "IDTR",
                &[number, 0],
                &0xfff_u32.to_le_bytes(),
                None,
            );
            tag(
                &mut cpu_group,
                "IDTR",
                &[number, 1],
                &low.to_le_bytes(),
                None,
            );
            tag(
                &mut cpu_group,
                "IDTR",
                &[number, 2],
                &high.to_le_bytes(),
                None,
            );
        }
        tag(&mut cpu_group, "rip", &[number], &RIP.to_le_bytes(), None);
        tag(
            &mut cpu_group,
            "eflags",
            &[number],
            &0x246_u32.to_le_bytes(),
            None,
        );
        tag(&mut cpu_group, "unknown", &[number, 1, 2], &[9; 7], None);
    }
    cpu_group.extend([0, 0]);
    cpu_group
}

fn vmware_memory(regions: &[(u32, u32, u32)], memory: Option<(&[u8], bool)>) -> Vec<u8> {
    let mut memory_group = Vec::new();
    tag(
        &mut memory_group,
        "align_mask",
        &[0],
        &0xffff_u32.to_le_bytes(),
        None,
    );
    let count = u32::try_from(regions.len()).unwrap();
    tag(
        &mut memory_group,
        "regionsCount",
        &[],
        &count.to_le_bytes(),
        None,
    );
    for (number, (page, in_file, pages)) in (0_u32..).zip(regions) {
        tag(
            &mut memory_group,
            "regionPageNum",
            &[number],
            &in_file.to_le_bytes(),
            None,
        );
        tag(
            &mut memory_group,
            "regionPPN",
            &[number],
            &page.to_le_bytes(),
            None,
        );
        tag(
            &mut memory_group,
            "regionSize",
            &[number],
            &pages.to_le_bytes(),
            None,
        );
    }
    if let Some((memory, compressed)) = memory {
        tag(
            &mut memory_group,
            "Memory",
            &[0, 0],
            memory,
            Some(compressed),
        );
    }
    memory_group.extend([0, 0]);
    memory_group
}

/// A state of Firecracker's by bincode: each structure of KVM's behind its length.
pub(crate) fn firecracker(cpus: &[Cpu]) -> Vec<u8> {
    let mut file = 0x0710_1984_8664_0000_u64.to_le_bytes().to_vec();
    file.extend([4_u64, 0, 0].map(u64::to_le_bytes).concat());
    file.extend((0..777_u32).flat_map(u32::to_le_bytes));
    for cpu in cpus {
        file.extend([7; 41]);
        for part in [Cpu::kvm_regs(), cpu.kvm_sregs(), vec![3; 64]] {
            file.extend((part.len() as u64).to_le_bytes());
            file.extend(part);
        }
    }
    file.extend([0x55; 8]);
    file
}

/// The same of versions that keep lengths elsewhere.
pub(crate) fn firecracker_packed(cpus: &[Cpu]) -> Vec<u8> {
    let mut file = 0x0710_1984_8664_0000_u64.to_le_bytes().to_vec();
    file.extend([9; 1234]);
    for cpu in cpus {
        file.extend([Cpu::kvm_regs(), cpu.kvm_sregs(), vec![0; 1024]].concat());
    }
    file
}

/// A `state.json` of Cloud Hypervisor's: 0: KVM's structures as bytes; 1: by name; 2: as older versions, which have
/// the state of each part as a list of bytes.
pub(crate) fn cloud_hypervisor(cpus: &[Cpu], ranges: &[(u64, u64)], form: u32) -> Vec<u8> {
    use serde_json::{Value, json};
    let state = |value: &Value| match form {
        2 => json!({ "state": value.to_string().into_bytes() }),
        _ => json!({ "state": value.to_string() }),
    };
    let mut vcpus = serde_json::Map::new();
    for (number, cpu) in cpus.iter().enumerate() {
        let segment = |base: u64, selector: u16| json!({ "base": base, "selector": selector });
        let vcpu = match form {
            0 => json!({
                "msrs": [{ "index": 0x10, "data": 1 }],
                "regs": Cpu::kvm_regs(),
                "sregs": cpu.kvm_sregs(),
            }),
            _ => json!({
                "regs": { "rax": 1, "rsp": RSP, "rbp": RBP, "rip": RIP, "rflags": 0x246 },
                "sregs": {
                    "cs": segment(0, 0x10), "tr": segment(TSS, 0x40),
                    "gdt": { "base": GDT, "limit": 0x7f }, "idt": { "base": IDT, "limit": 0xfff },
                    "cr0": CR0, "cr2": CR2, "cr3": cpu.cr3, "cr4": CR4, "cr8": 0, "efer": 0xd01,
                },
            }),
        };
        let snapshot = json!({ "snapshots": {}, "snapshot_data": state(&vcpu) });
        vcpus.insert(number.to_string(), snapshot);
    }
    let ranges: Vec<Value> = ranges
        .iter()
        .map(|(gpa, length)| json!({ "gpa": gpa, "length": length }))
        .collect();
    let memory = json!({ "memory_ranges": { "data": ranges }, "start_of_device_area": 0 });
    let all = json!({
        "snapshots": {
            "cpu-manager": { "snapshots": vcpus },
            "memory-manager": { "snapshots": {}, "snapshot_data": state(&memory) },
        },
    });
    serde_json::to_vec_pretty(&all).unwrap()
}

/// The header of a dump of Windows: its runs of RAM as first page and number of pages.
fn windows_header(cr3: u64, runs: &[(u64, u64)], kind: u32) -> Vec<u8> {
    // What nobody has written reads PAGE PAGE PAGE.
    let mut file = b"PAGE".repeat(0x2000 / 4);
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(4, b"DU64");
    put(0x10, &cr3.to_le_bytes());
    put(0x30, &0x8664_u32.to_le_bytes());
    put(0x34, &2_u32.to_le_bytes());
    put(0xf98, &kind.to_le_bytes());
    if !runs.is_empty() {
        put(0x88, &u32::try_from(runs.len()).unwrap().to_le_bytes());
        let pages: u64 = runs.iter().map(|run| run.1).sum();
        put(0x90, &pages.to_le_bytes());
        for (number, (first, pages)) in runs.iter().enumerate() {
            put(
                0x98 + number * 16,
                &[*first, *pages].map(u64::to_le_bytes).concat(),
            );
        }
    }
    file
}

/// A complete dump.
pub(crate) fn windows(cr3: u64, runs: &[(u64, u64)], memory: &[u8]) -> Vec<u8> {
    [windows_header(cr3, runs, 1), memory.to_vec()].concat()
}

/// One with the pages of these numbers, whose words tell where they stand.
pub(crate) fn windows_with_bitmap(
    cr3: u64,
    runs: &[(u64, u64)],
    mark: [u8; 4],
    there: &[u64],
) -> Vec<u8> {
    let mut file = windows_header(cr3, runs, 5);
    let start = 0x4000_u64;
    file.extend(mark);
    file.extend(b"DUMP");
    file.resize(0x2020, 0);
    let bits = 40_u64;
    file.extend(
        [start, there.len() as u64, bits]
            .map(u64::to_le_bytes)
            .concat(),
    );
    let bitmap = there.iter().fold(0_u64, |bits, page| bits | 1 << page);
    file.extend(bitmap.to_le_bytes());
    file.resize(usize::try_from(start).unwrap(), 0);
    for page in there {
        let words = (0..512_u64).map(|word| page << 32 | word | 1 << 60);
        file.extend(words.flat_map(u64::to_le_bytes));
    }
    file
}
