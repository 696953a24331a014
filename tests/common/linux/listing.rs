//! What a guest says of itself on its console: its processes, their memory, some symbols.

use std::collections::BTreeMap;

/// The guest's account.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Lines of the kernel's log.
    pub(crate) kernel: Vec<String>,
    /// Addresses of kernel symbols.
    pub(crate) symbols: BTreeMap<String, u64>,
    /// Lines of /proc/iomem.
    pub(crate) iomem: Vec<String>,
    /// Every process that was alive at the end, by its number; kernel threads, too.
    pub(crate) processes: BTreeMap<u32, Process>,
}

/// A process.
#[derive(Debug, Default)]
pub(crate) struct Process {
    pub(crate) name: String,
    /// Ascending; empty for a kernel thread.
    pub(crate) areas: Vec<Area>,
}

/// An area of virtual memory: a line of /proc/PID/maps.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Area {
    pub(crate) start: u64,
    /// The first address behind.
    pub(crate) end: u64,
    /// `rwxp`.
    pub(crate) rights: String,
    /// The file, `[heap]` and so on, or nothing.
    pub(crate) name: String,
}

impl Process {
    /// Kernel threads have none.
    pub(crate) fn has_memory(&self) -> bool {
        !self.areas.is_empty()
    }

    /// The area with this address.
    pub(crate) fn area_of(&self, va: u64) -> Option<&Area> {
        self.areas
            .iter()
            .find(|area| (area.start..area.end).contains(&va))
    }
}

impl Listing {
    /// # Panics
    /// If the console does not hold what `init.sh` prints.
    pub(crate) fn parse(console: &str) -> Listing {
        let mut listing = Listing::default();
        let mut section = "";
        let mut alive = Vec::new();
        for line in console.lines() {
            if let Some(name) = line.strip_prefix("== ") {
                section = name;
                continue;
            }
            match section {
                "kernel" => listing.kernel.push(line.to_owned()),
                "iomem" => listing.iomem.push(line.to_owned()),
                "symbols" => {
                    // ffffffff98a00000 T _text
                    let mut words = line.split_whitespace();
                    let address = hexadecimal(words.next().unwrap(), line);
                    let name = words.nth(1).unwrap();
                    listing.symbols.insert(name.to_owned(), address);
                }
                "comm" => {
                    let (pid, name) = of_process(line, "comm");
                    name.clone_into(&mut listing.processes.entry(pid).or_default().name);
                }
                "maps" => {
                    let (pid, area) = of_process(line, "maps");
                    let area = Area::parse(area);
                    listing.processes.entry(pid).or_default().areas.push(area);
                }
                "alive" => alive.extend(
                    line.split_whitespace()
                        .map(|path| path.trim_start_matches("/proc/").parse::<u32>().unwrap()),
                ),
                _ => {}
            }
        }
        assert!(!alive.is_empty(), "no section `alive` in: {console}");
        listing.processes.retain(|pid, _| alive.contains(pid));
        listing
    }

    /// The address of a symbol.
    ///
    /// # Panics
    /// If the guest printed none.
    pub(crate) fn symbol(&self, name: &str) -> u64 {
        *self
            .symbols
            .get(name)
            .unwrap_or_else(|| panic!("the guest printed no symbol `{name}`"))
    }

    /// Processes that have memory, by number.
    pub(crate) fn with_memory(&self) -> impl Iterator<Item = (u32, &Process)> {
        self.processes
            .iter()
            .filter(|(_, process)| process.has_memory())
            .map(|(pid, process)| (*pid, process))
    }
}

impl Area {
    /// `7ffca3fc5000-7ffca3fc9000 r--p 00000000 00:00 0   [vvar]`
    fn parse(line: &str) -> Area {
        let mut words = line.split_whitespace();
        let (start, end) = words.next().and_then(|word| word.split_once('-')).unwrap();
        Area {
            start: hexadecimal(start, line),
            end: hexadecimal(end, line),
            rights: words.next().unwrap().to_owned(),
            name: words.nth(3).unwrap_or_default().to_owned(),
        }
    }
}

fn hexadecimal(text: &str, line: &str) -> u64 {
    u64::from_str_radix(text, 16).unwrap_or_else(|error| panic!("{error}, in: {line}"))
}

/// `/proc/NUMBER/FILE:REST`: the number and the rest.
fn of_process<'l>(line: &'l str, file: &str) -> (u32, &'l str) {
    line.strip_prefix("/proc/")
        .and_then(|line| line.split_once(&format!("/{file}:")))
        .and_then(|(pid, rest)| Some((pid.parse().ok()?, rest)))
        .unwrap_or_else(|| panic!("no line of /proc/PID/{file}: {line}"))
}
