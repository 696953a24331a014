//! `none`: a new kernel PGD entry stays with the process that made it.
//!
//! The bug that the lecture warns of ("process-2 in kernel mode should see it!") and that many hobby
//! kernels have: what hangs below the entries of boot is shared, so all seems well until a mapping
//! needs a new PGD entry. Later children of its maker inherit that one; everybody else never learns
//! of it. The checker must fail this strategy.

use super::{Propagation, Spaces};
use crate::mm::root::Root;

pub struct None;

impl Propagation for None {
    fn writable_root(&self, spaces: &Spaces<'_>) -> Root {
        spaces.current
    }
}
