//! What differs between two images of one guest: address spaces, entries, translations.
//!
//! ```sh
//! cargo run -p heirloom-inspect --example compare_images -- BEFORE AFTER [CR3]
//! ```

mod raw_image;

use std::error::Error;

use heirloom_inspect::difference::Difference;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (before, after, cr3) = match arguments.as_slice() {
        [before, after] => (before, after, None),
        [before, after, cr3] => (before, after, Some(cr3.as_str())),
        _ => return Err("usage: compare_images BEFORE AFTER [CR3]".into()),
    };
    let before = raw_image::discover(before, cr3)?;
    let after = raw_image::discover(after, cr3)?;
    let difference = Difference::between(&before, &after)?;
    for space in &difference.born {
        println!("new address space: root {}", space.address);
    }
    for space in &difference.gone {
        println!("gone address space: root {}", space.address);
    }
    for entry in &difference.entries {
        let (table, index) = (entry.table, entry.index);
        println!(
            "frame {table}, entry {index}: {} → {}",
            entry.before, entry.after
        );
    }
    for change in &difference.ranges {
        let spaces = change.spaces.len();
        println!(
            "{}: {:?} → {:?}, in {spaces}",
            change.range, change.before, change.after
        );
    }
    Ok(())
}
