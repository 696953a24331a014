//! Why QEMU is of no use as a machine.

use std::io;

/// Why QEMU cannot run a guest, or cannot run it on.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "each variant's message says what it is and what its fields are"
)]
pub enum QemuError {
    #[error(
        "there is no `{binary}` on this host: install QEMU (Debian, Ubuntu: `sudo apt install \
         qemu-system-x86`; Fedora: `sudo dnf install qemu-system-x86`), or name its program"
    )]
    Missing { binary: String },
    #[error("could not start `{binary}`: {source}")]
    Start { binary: String, source: io::Error },
    #[error(
        "{name} is entered by Linux's boot protocol, which QEMU is not asked for here: use a kernel with a \
         PVH note or a Multiboot header, or KVM"
    )]
    Protocol { name: String },
    #[error("could not {what} for QEMU: {source}")]
    Host {
        what: &'static str,
        source: io::Error,
    },
    #[error("`{binary}` ended ({status}){said}")]
    Ended {
        binary: String,
        status: String,
        /// What it had written to standard error, behind a colon.
        said: String,
    },
    #[error("QEMU closed its monitor: it has crashed, or is no QEMU{said}")]
    Closed { said: String },
    #[error("QEMU did not answer `{question}` in time: it hangs, or is no QEMU{said}")]
    Silent { question: String, said: String },
    #[error("QEMU refuses `{question}`: {answer}")]
    Refused { question: String, answer: String },
    #[error(
        "QEMU answers `{question}` in a form that is not known ({problem}): this version of QEMU cannot be \
         used"
    )]
    Form { question: String, problem: String },
}
