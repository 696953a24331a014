//! The events of a run, as `heirloom -v run` tells them on standard error.

/// One event.
pub(crate) struct Event {
    pub(crate) number: u64,
    /// In whose address space the CPU was; 0 is the kernel itself.
    pub(crate) pid: u64,
    /// Its kind and its fields: `KernelUnmapped { address: VirtAddr(0x…), pages: 2 }`.
    text: String,
}

impl Event {
    pub(crate) fn is(&self, kind: &str) -> bool {
        self.text.starts_with(kind)
    }

    /// The number in field `name`.
    ///
    /// # Panics
    /// If the event has no such number.
    pub(crate) fn field(&self, name: &str) -> u64 {
        let text = &self.text;
        let behind = text.split_once(&format!("{name}: "));
        let (_, value) = behind.unwrap_or_else(|| panic!("no `{name}` in: {text}"));
        let value = value.strip_prefix("VirtAddr(").unwrap_or(value);
        let end = value.find([',', ' ', ')']).unwrap_or(value.len());
        let digits = &value[..end];
        let number = match digits.strip_prefix("0x") {
            Some(hexadecimal) => u64::from_str_radix(hexadecimal, 16),
            None => digits.parse(),
        };
        number.unwrap_or_else(|error| panic!("`{name}` is no number ({error}) in: {text}"))
    }

    /// Whether the kernel read, and the CPU let it.
    pub(crate) fn is_good_read(&self) -> bool {
        self.is("KernelAccess")
            && self.text.contains("write: false")
            && self.text.contains("fault: None")
    }
}

/// All events in what `heirloom -v run` said.
///
/// # Panics
/// If there is none: the log has another form.
pub(crate) fn events(said: &str) -> Vec<Event> {
    let events: Vec<Event> = said.lines().filter_map(event).collect();
    assert!(!events.is_empty(), "no event in: {said}");
    events
}

/// `[INFO ] event 8 pid 3: KernelMapped { … }`.
fn event(line: &str) -> Option<Event> {
    let (_, rest) = line.split_once("] event ")?;
    let (number, rest) = rest.split_once(" pid ")?;
    let (pid, text) = rest.split_once(": ")?;
    Some(Event {
        number: number.parse().ok()?,
        pid: pid.parse().ok()?,
        text: text.into(),
    })
}
