//! A cpio archive in the "newc" format (cpio(5)), which holds many programs where a loader passes
//! only one boot module.

/// Thirteen fields of eight hexadecimal digits follow the magic number.
const MAGIC: &str = "070701";
/// A regular file that everybody may read and execute.
const MODE: u32 = 0o100_755;
/// The name that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// A file that the format cannot hold.
#[derive(Debug, thiserror::Error)]
#[error("{name} does not fit a cpio archive, which holds files below 4 GiB")]
pub struct TooLarge {
    name: String,
}

/// An archive of `files`, names and contents.
///
/// # Errors
/// [`TooLarge`].
pub fn archive<'a>(
    files: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> Result<Vec<u8>, TooLarge> {
    let mut archive = Vec::new();
    for (number, (name, bytes)) in (1..).zip(files) {
        append(&mut archive, number, MODE, name, bytes)?;
    }
    append(&mut archive, 0, 0, TRAILER, &[])?;
    Ok(archive)
}

fn append(
    archive: &mut Vec<u8>,
    number: u32,
    mode: u32,
    name: &str,
    bytes: &[u8],
) -> Result<(), TooLarge> {
    let too_large = |_| TooLarge { name: name.into() };
    let file_size = u32::try_from(bytes.len()).map_err(too_large)?;
    let name_size = u32::try_from(name.len() + 1).map_err(too_large)?;
    // inode, mode, uid, gid, links, time, file size, device and rdevice (4), name size, checksum.
    let fields = [
        number, mode, 0, 0, 1, 0, file_size, 0, 0, 0, 0, name_size, 0,
    ];
    archive.extend(MAGIC.bytes());
    for field in fields {
        archive.extend(format!("{field:08x}").bytes());
    }
    archive.extend(name.bytes());
    archive.push(0);
    pad(archive);
    archive.extend(bytes);
    pad(archive);
    Ok(())
}

/// Names and contents end on a multiple of four.
fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_header_name_and_contents_each_padded_to_four_bytes() {
        let bytes = archive([("init", b"hello".as_slice())]).unwrap();
        let header = "070701\
            00000001000081ed00000000000000000000000100000000\
            0000000500000000000000000000000000000000\
            0000000500000000";
        assert_eq!(std::str::from_utf8(&bytes[..110]).unwrap(), header);
        assert_eq!(&bytes[110..116], b"init\0\0");
        assert_eq!(&bytes[116..124], b"hello\0\0\0");
        assert!(bytes[124..].starts_with(b"070701"));
        assert!(bytes.ends_with(b"TRAILER!!!\0\0\0\0"));
    }
}
