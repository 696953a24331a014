//! What the program `trials` tries, in its order, and how the kernel answers on the console.

/// A promise of the kernel to its processes.
pub(crate) struct Promise {
    /// As the program reports it.
    name: &'static str,
    /// If a process is killed for it: how the kernel says what it did.
    killed: Option<&'static str>,
}

impl Promise {
    /// Whether a process dies of it.
    pub(crate) fn is_fatal(&self) -> bool {
        self.killed.is_some()
    }
}

const fn kept(name: &'static str) -> Promise {
    Promise { name, killed: None }
}

const fn fatal(name: &'static str, did: &'static str) -> Promise {
    Promise {
        name,
        killed: Some(did),
    }
}

/// Every trial of the program.
pub(crate) const PROMISES: [Promise; 34] = [
    kept("a program that ends with a code"),
    fatal("read the null page", "read its own address 0x0 "),
    fatal(
        "read where nothing is mapped",
        "read its own address 0x12345000 ",
    ),
    fatal("write to its own text", "wrote to its own address 0x4"),
    fatal("execute its own stack", "executed its own address 0x7fff"),
    fatal(
        "execute a mapping without PROT_EXEC",
        "executed its own address 0x7f0000000000 ",
    ),
    fatal(
        "write to a read-only mapping",
        "wrote to its own address 0x7f0000000000 ",
    ),
    fatal(
        "read an unmapped mapping",
        "read its own address 0x7f0000000000 ",
    ),
    fatal(
        "read the last address of the user half",
        "read its own address 0x7ffffffffff8 ",
    ),
    // The CPU tells no address with a general protection fault.
    fatal(
        "read a non-canonical address",
        "executed a privileged instruction or used a non-canonical address (#GP) at rip 0x4",
    ),
    fatal(
        "read the first address of the kernel half",
        "read kernel address 0xffff800000000000 ",
    ),
    fatal(
        "read the direct map",
        "read kernel address 0xffff888000200000 (direct map)",
    ),
    fatal(
        "write to the direct map",
        "wrote to kernel address 0xffff888000200000 (direct map)",
    ),
    fatal(
        "read kernel text",
        "read kernel address 0xffffffff80200000 (kernel image)",
    ),
    fatal(
        "write to kernel text",
        "wrote to kernel address 0xffffffff80200000 (kernel image)",
    ),
    fatal(
        "execute kernel text",
        "executed kernel address 0xffffffff80200000 (kernel image)",
    ),
    fatal("read vmalloc memory", "read kernel address 0xffffc9"),
    fatal(
        "read the cpu entry area",
        "read kernel address 0xfffffe0000000000 (cpu entry area)",
    ),
    fatal(
        "write to the cpu entry area",
        "wrote to kernel address 0xfffffe0000000000 (cpu entry area)",
    ),
    fatal(
        "execute the cpu entry area",
        "executed kernel address 0xfffffe0000007000 (cpu entry area)",
    ),
    fatal(
        "a privileged instruction",
        "executed a privileged instruction or used a non-canonical address (#GP) at rip 0x4",
    ),
    fatal(
        "an undefined instruction",
        "executed an undefined instruction (#UD) at rip 0x4",
    ),
    fatal("divide by zero", "divided by zero (#DE) at rip 0x4"),
    kept("copy on write keeps parent and child apart"),
    kept("new memory is zero, used memory keeps its bytes"),
    fatal(
        "unmapping the middle keeps both ends",
        "read its own address 0x7f00",
    ),
    kept("execute starts another program with its arguments"),
    kept("execute of what is not there leaves the program as it is"),
    kept("a process that never asks is preempted"),
    kept("orphans come to process 1"),
    kept("kernel memory is read and written, and gone when freed"),
    kept("system calls refuse bad addresses"),
    kept("floating point survives other processes"),
    kept("wait without children says so"),
];

/// Where five levels of page tables have what the promises name by its address with four.
const WITH_FIVE_LEVELS: [(&str, &str); 5] = [
    ("0x7ffffffffff8 ", "0xfffffffffffff8 "),
    // The stack.
    ("0x7fff", "0xffffffffff"),
    ("0xffff800000000000 ", "0xff00000000000000 "),
    ("0xffff888000200000 ", "0xff11000000200000 "),
    ("0xffffc9", "0xffa0"),
];

/// As [`assert_kept`], of a kernel with five levels of page tables.
pub(crate) fn assert_kept_with_five_levels(console: &str) {
    assert_kept_as(console, |did| {
        let places = WITH_FIVE_LEVELS.iter();
        places.fold(did.to_owned(), |did, (four, five)| did.replace(four, five))
    });
}

/// Holds what a kernel and `trials` printed against the promises: every one is kept, and every death
/// that belongs to one is a single line that says what the process did.
///
/// # Panics
/// If a line is not as it should be, or one is missing or too many.
pub(crate) fn assert_kept(console: &str) {
    assert_kept_as(console, str::to_owned);
}

fn assert_kept_as(console: &str, said: impl Fn(&str) -> String) {
    let mut lines = console
        .lines()
        .map(str::trim_end)
        .skip_while(|line| !line.contains("heirloom kernel:"))
        // What the kernel says of itself.
        .skip(2)
        // The command's own report begins there.
        .take_while(|line| !line.starts_with("family ("));
    for Promise { name, killed } in &PROMISES {
        if let Some(did) = killed.map(&said) {
            let line = lines.next().unwrap_or_default();
            let cause = line
                .strip_prefix("process ")
                .and_then(|rest| rest.split_once(" killed: "));
            assert!(
                cause.is_some_and(|(pid, what)| pid.parse::<u32>().is_ok()
                    && what.starts_with(&did)
                    && what.contains(" at rip 0x")),
                "{name}: `{line}` does not say `killed: {did}`, in:\n{console}"
            );
        }
        let line = lines.next().unwrap_or_default();
        assert_eq!(line, format!("kept: {name}"), "in:\n{console}");
    }
    assert_eq!(lines.next(), None, "in:\n{console}");
}
