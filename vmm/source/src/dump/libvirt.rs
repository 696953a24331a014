//! What `virsh save` and `managedsave` write: a header, the guest's description, and QEMU's migration stream, which
//! may be packed.
//!
//! ```text
//! 0   "LibvirtQemudSave", version, length of the description, whether it ran, how it is packed (4 bytes each)
//! 92  the description; then the stream
//! ```

use super::{Contents, DumpError, migration};
use crate::input::Input;
use crate::packed::{Packing, Way};

const HEADER: u64 = 92;
const CORE: &str = "make a core with `virsh dump --memory-only DOMAIN FILE`";
const LZOP: &[u8] = b"\x89LZO";

/// Opens the saved guest.
///
/// # Errors
/// [`DumpError`].
pub(crate) fn open(name: &str, input: Input, way: Way<'_>) -> Result<Contents, DumpError> {
    let unread = |what: &str, remedy| {
        Err(DumpError::Unread {
            name: name.into(),
            what: format!("a saved guest of libvirt's {what}"),
            remedy,
        })
    };
    let length = input.bytes(20, 4).unwrap_or_default();
    let length = length
        .first_chunk()
        .map_or(0, |length| u32::from_le_bytes(*length));
    let start = HEADER + u64::from(length);
    let head = input.bytes(start, 8).unwrap_or_default();
    if head.starts_with(b"QEVM") {
        return migration::open(name, input, start);
    }
    if head.starts_with(LZOP) {
        return unread(
            "whose stream is packed by lzop",
            "set save_image_format in /etc/libvirt/qemu.conf to zstd and save it again, or make a core with \
             `virsh dump --memory-only DOMAIN FILE`",
        );
    }
    let Some(packing) = Packing::of(&head) else {
        return unread("without a stream of QEMU's in it", CORE);
    };
    let mut notes = Vec::new();
    let stream = way
        .unpack_from(name, &input, start, packing, &mut notes)
        .map_err(crate::FileError::from)?;
    if !stream.start().starts_with(b"QEVM") {
        return unread("without a stream of QEMU's in it", CORE);
    }
    let mut contents = migration::open(name, stream, 0)?;
    notes.append(&mut contents.notes);
    Ok(Contents { notes, ..contents })
}
