//! What lies where.

use serde::Serialize;

use super::subject::Subject;
use crate::discover::Discovery;
use crate::layout::Layout;

/// What `heirloom layout` found.
#[derive(Clone, Debug, Serialize)]
pub struct LayoutReport {
    /// The version of this form, [`super::INSPECTION_VERSION`].
    pub version: u32,
    /// What was looked at.
    pub target: Subject,
    /// What lies where.
    #[serde(flatten)]
    pub layout: Layout,
}

impl LayoutReport {
    /// The layout of `discovery`, which is of the target called `name`, with the kernel's symbols where these are
    /// known.
    pub fn new(name: &str, discovery: &Discovery) -> LayoutReport {
        let mut layout = discovery.layout.clone();
        for region in &mut layout.regions {
            if let Some((symbols, first, last)) = discovery.symbols.within(region.range) {
                let these = match symbols {
                    1 => format!("; the symbol {first}"),
                    _ => format!("; {symbols} symbols, from {first} to {last}"),
                };
                region.evidence.push_str(&these);
            }
        }
        LayoutReport {
            version: super::INSPECTION_VERSION,
            target: Subject::new(name, discovery),
            layout,
        }
    }
}
