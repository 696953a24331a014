//! Every page of every address space that is writable and executable.
//!
//! ```sh
//! cargo run -p heirloom-inspect --example writable_code -- IMAGE [CR3]
//! ```

mod raw_image;

use std::error::Error;

use heirloom_inspect::VirtRange;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (file, cr3) = match arguments.as_slice() {
        [file] => (file, None),
        [file, cr3] => (file, Some(cr3.as_str())),
        _ => return Err("usage: writable_code IMAGE [CR3]".into()),
    };
    let discovery = raw_image::discover(file, cr3)?;
    let mut pages = 0;
    for space in &discovery.spaces {
        for page in discovery.snapshot.leaves(space.root, VirtRange::ALL) {
            if page.rights.write && page.rights.execute {
                println!("root {}: {} {}", space.address, page.range(), page.rights);
                pages += 1;
            }
        }
    }
    println!(
        "{pages} writable and executable in {} roots",
        discovery.spaces.len()
    );
    Ok(())
}
